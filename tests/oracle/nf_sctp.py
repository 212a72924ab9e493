"""SCTP as Linux's nf_conntrack follows it (6.18): one state table, two verification tags, a little about heartbeats.

Written from the behaviour of net/netfilter/nf_conntrack_proto_sctp.c. The names are the kernel's, so that a reader can
hold the two side by side.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

NAMES = (
    "NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED",
    "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT",
)  # fmt: skip
TIMEOUTS_S = dict(zip(NAMES[1:], (10, 3, 3, 210, 3, 3, 3, 30), strict=True))
DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK = (
    range(12)
)
SHUTDOWN_COMPLETE = 14
_COLUMNS = dict(zip(("NO", "CL", "CW", "CE", "ES", "SS", "SR", "SA", "HS"), NAMES, strict=True)) | {"IV": None}

# Columns in the order of NAMES.
_ROWS = {
    INIT: ("CL CL CW CE ES CL CL SA CW", "IV CL CW CE ES SS SR SA IV"),
    INIT_ACK: ("CL CL CW CE ES SS SR SA CL", "IV CW CW CE ES SS SR SA IV"),
    ABORT: ("CL CL CL CL CL CL CL CL CL", "IV CL CL CL CL CL CL CL IV"),
    SHUTDOWN: ("CL CL CW CE SS SS SR SA CL", "IV CL CW CE SR SS SR SA IV"),
    SHUTDOWN_ACK: ("SA CL CW CE ES SA SA SA SA", "IV CL CW CE ES SA SA SA IV"),
    ERROR: ("CL CL CW CE ES SS SR SA CL", "IV CL CW CL ES SS SR SA IV"),
    COOKIE_ECHO: ("CL CL CE CE ES SS SR SA CL", "IV CL CE CE ES SS SR SA IV"),
    COOKIE_ACK: ("CL CL CW ES ES SS SR SA CL", "IV CL CW ES ES SS SR SA IV"),
    SHUTDOWN_COMPLETE: ("CL CL CW CE ES SS SR CL CL", "IV CL CW CE ES SS SR CL IV"),
    HEARTBEAT: ("HS CL CW CE ES SS SR SA HS", "IV CL CW CE ES SS SR SA HS"),
    HEARTBEAT_ACK: ("CL CL CW CE ES SS SR SA HS", "IV CL CW CE ES SS SR SA ES"),
}
TABLE = {
    (d, chunk, old): _COLUMNS[new]
    for chunk, rows in _ROWS.items()
    for d in (0, 1)
    for old, new in zip(NAMES, rows[d].split(), strict=True)
}


@dataclass
class State:
    state: str = "NONE"
    vtag: list[int] = field(default_factory=lambda: [0, 0])
    init: list[bool] = field(default_factory=lambda: [False, False])
    heartbeat_failed: int | None = None  # direction of the heartbeat with the wrong tag
    assured: bool = False


@dataclass(frozen=True)
class Chunk:
    kind: int
    flags: int
    init_tag: int | None  # of what follows the chunk header, if that is long enough for an INIT


class InvalidError(Exception):
    """The packet is invalid."""


def chunks_of(l4: bytes) -> list[Chunk] | None:
    """None when the chunks are not in order."""
    chunks: list[Chunk] = []
    at, alone = 12, False
    while at + 4 <= len(l4):
        kind, flags, length = struct.unpack_from("!BBH", l4, at)
        alone |= kind in (INIT, INIT_ACK, SHUTDOWN_COMPLETE)
        if length == 0 or (chunks and (alone or kind in (COOKIE_ACK, COOKIE_ECHO))):
            return None
        tag = struct.unpack_from("!I", l4, at + 4)[0] if at + 20 <= len(l4) else None
        chunks.append(Chunk(kind, flags, tag))
        at += length + 3 & ~3
    return chunks or None


def start(l4: bytes) -> State | None:
    """The state after an association's first packet; None when it may not start one."""
    chunks, vtag = chunks_of(l4), struct.unpack_from("!I", l4, 4)[0]
    if chunks is None or {chunk.kind for chunk in chunks} & {ABORT, SHUTDOWN_COMPLETE, COOKIE_ACK}:
        return None
    state = State()
    for chunk in chunks:
        if TABLE.get((0, chunk.kind, "NONE")) is None:
            return None
        if chunk.kind == INIT:
            if vtag != 0 or chunk.init_tag is None:
                return None
            state.vtag[1] = chunk.init_tag
        else:
            state.vtag[0 if chunk.kind == HEARTBEAT else 1] = vtag
    return None if follow(state, 0, l4, new=True)[0] == "invalid" else state


def follow(s: State, d: int, l4: bytes, *, new: bool = False) -> tuple[str, int | None]:
    """("accept" or "invalid", seconds or None: the timer stays)."""
    chunks, vtag = chunks_of(l4), struct.unpack_from("!I", l4, 4)[0]
    if chunks is None:
        return "invalid", None
    kinds = {chunk.kind for chunk in chunks}
    special = {INIT, SHUTDOWN_COMPLETE, COOKIE_ECHO, ABORT, SHUTDOWN_ACK, HEARTBEAT, HEARTBEAT_ACK}
    if not kinds & special and vtag != s.vtag[d]:
        return "invalid", None
    ignore = False
    for chunk in chunks:
        try:
            ignore |= _take(s, d, chunk, vtag, strict=DATA in kinds or ignore, new=new)
        except InvalidError:
            return "invalid", None
    return "accept", None if ignore else TIMEOUTS_S[s.state]


def _take(s: State, d: int, chunk: Chunk, vtag: int, *, strict: bool, new: bool) -> bool:
    """Whether the timer stays as it is."""
    kind = chunk.kind
    if kind == INIT and vtag != 0:
        raise InvalidError
    if kind in (ABORT, SHUTDOWN_COMPLETE) and vtag != s.vtag[1 - d if chunk.flags & 1 else d]:
        raise InvalidError
    if kind == COOKIE_ECHO and vtag != s.vtag[d]:
        raise InvalidError
    if kind == COOKIE_ACK:
        s.init = [False, False]
    if kind in (HEARTBEAT, HEARTBEAT_ACK) and _heartbeat(s, d, kind, vtag, strict):
        return True
    old = s.state
    state = TABLE.get((d, kind, old), old)
    if state is None:
        raise InvalidError
    ignore = False
    if kind == INIT:
        if chunk.init_tag is None:
            raise InvalidError
        if all(s.init):
            s.init[1 - d] = False
        s.init[d] = True
        s.vtag[1 - d] = chunk.init_tag
        ignore = state == old == "CLOSED" and not new
    elif kind == INIT_ACK:
        if chunk.init_tag is None:
            raise InvalidError
        known = s.vtag[1 - d]
        if not s.init[1 - d] and known and known != chunk.init_tag:
            raise InvalidError
        if all(s.init) and known != chunk.init_tag:
            raise InvalidError
        s.vtag[1 - d] = chunk.init_tag
    s.state = state
    if old != state == "ESTABLISHED":
        s.assured = True
    return ignore


def _heartbeat(s: State, d: int, kind: int, vtag: int, strict: bool) -> bool:
    """Whether the chunk is to be passed over."""
    if s.vtag[d] == 0:
        s.vtag[d] = vtag
    elif vtag == s.vtag[d]:
        s.heartbeat_failed = None
    elif strict:
        raise InvalidError
    elif kind == HEARTBEAT:
        s.heartbeat_failed = d
        return True
    elif s.heartbeat_failed in (None, d):
        raise InvalidError
    else:
        s.heartbeat_failed = None
        s.vtag[d], s.vtag[1 - d] = vtag, 0
    return False

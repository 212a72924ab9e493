"""SCTP as Linux's nf_conntrack judges it (6.18, net/netfilter/nf_conntrack_proto_sctp.c): one state, two tags.

The state table is data (`conntrack.sctp_states`). Here is the walk over a packet's chunks and what a table cannot hold:
verification tags (RFC 9260, 8.5), and heartbeats, with which the paths of an association beyond its first begin.

SCTP uses fields of a connection that are named after TCP: `lo` holds the verification tag that a packet of each
direction must carry (0: not known), `peer` IF_* flags by direction, and `last_index` is 1 + the direction whose
heartbeat carried a wrong tag, 0 when there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import sctp_states as L
from flowshunt.conntrack import states as S
from flowshunt.conntrack.linux_states import INVALID
from flowshunt.conntrack.schema import C_SCTP_CHUNKS, C_SCTP_TAG, C_STATE
from flowshunt.jit import kernel, load_be16, load_be32

IF_INIT = 0x01
"""This side sent an INIT, and no COOKIE-ACK has ended the handshake yet."""

DATA, INIT, INIT_ACK, HEARTBEAT, HEARTBEAT_ACK, ABORT = 0, 1, 2, 4, 5, 6
SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE = 7, 8, 9, 10, 11, 14
"""Chunk types (RFC 9260, 3.2)."""

HEADER_SIZE = 12
CHUNK_SIZE = 4
INIT_SIZE = 16
"""What follows the chunk header of an INIT or INIT-ACK at least; its first word is the initiate tag."""
REFLECTED = 0x01
"""Flag T of ABORT and SHUTDOWN-COMPLETE: the tag is the one of the other direction."""

_N_TYPES = 16
"""Chunk types from this one on mean nothing to the tracker."""
_ALONE = 1 << INIT | 1 << INIT_ACK | 1 << SHUTDOWN_COMPLETE
"""Chunks that come alone in their packet."""
_FIRST = 1 << COOKIE_ACK | 1 << COOKIE_ECHO
"""Chunks that come first in their packet, if at all."""
_NEVER_NEW = 1 << ABORT | 1 << SHUTDOWN_COMPLETE | 1 << COOKIE_ACK
"""Chunks that begin nothing (RFC 9260, 8.4)."""
_OWN_RULE = (
    1 << INIT
    | 1 << SHUTDOWN_COMPLETE
    | 1 << COOKIE_ECHO
    | 1 << ABORT
    | 1 << SHUTDOWN_ACK
    | 1 << HEARTBEAT
    | 1 << HEARTBEAT_ACK
)
"""With one of these chunks, a packet's tag is judged by the chunk's own rule, or not at all (SHUTDOWN-ACK)."""

_GO_ON, _SKIP, _REFUSE = 0, 1, 2
_NO_ROW = 0xFF


def _kinds() -> np.ndarray:
    """Rows of the state table by chunk type; _NO_ROW for types that it does not know."""
    kinds = np.full(_N_TYPES, _NO_ROW, np.uint8)
    types = (
        INIT, INIT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE, HEARTBEAT,
        HEARTBEAT_ACK,
    )  # fmt: skip
    kinds[list(types)] = range(L.N_CHUNKS)
    return kinds


_KINDS = _kinds()
_TRANSITIONS = L.TRANSITIONS


@kernel
def _step(data: Any, at: Any) -> Any:
    """Bytes from the chunk at `at` to the next one, which starts at a multiple of four."""
    return (load_be16(data, at + 2) + 3) & ~3


@kernel(inline=False)
def chunk_types(data: Any, at: Any, end: Any) -> Any:
    """Set of the chunk types of the packet whose chunks are data[at:end], type n as bit n, all above 15 as none.

    -1 when there is no chunk, when one has no length, or when one is not in the place that it must have. Bytes too few
    for another chunk header are padding; a chunk that says it reaches beyond the packet is its last one.
    """
    types = np.int64(0)
    n = np.int64(0)
    while end - at >= CHUNK_SIZE:
        kind = np.int64(data[at])
        bit = np.int64(1) << kind if kind < _N_TYPES else np.int64(0)
        types |= bit
        misplaced = n > 0 and (types & _ALONE != 0 or bit & _FIRST != 0)
        if misplaced or load_be16(data, at + 2) == 0:
            return np.int64(-1)
        at += _step(data, at)
        n += 1
    return types if n > 0 else np.int64(-1)


@kernel
def next_state(d: Any, kind: Any, state: Any) -> Any:
    """State after a chunk of type `kind`; linux_states.INVALID when there is none."""
    row = np.int64(_KINDS[kind]) if kind < _N_TYPES else np.int64(_NO_ROW)
    if row == _NO_ROW:
        return state
    return np.int64(_TRANSITIONS[(d * L.N_CHUNKS + row) * L.N_STATES + state])


@kernel
def _has_init_header(at: Any, end: Any) -> Any:
    return end - at >= CHUNK_SIZE + INIT_SIZE


@kernel
def _take_first_tags(data: Any, at: Any, end: Any, tag: Any, conns: Any, row: Any) -> Any:
    """Learn what tags a new association will have from the packet that begins it; False when it may not begin one."""
    while end - at >= CHUNK_SIZE:
        kind = np.int64(data[at])
        if next_state(np.int64(0), kind, np.int64(L.NONE)) == L.NONE:
            return False
        if kind == INIT:
            if tag != 0 or not _has_init_header(at, end):
                return False
            conns["lo"][row, 1] = load_be32(data, at + CHUNK_SIZE)
        else:
            conns["lo"][row, 0 if kind == HEARTBEAT else 1] = tag
        at += _step(data, at)
    return True


@kernel
def _check_heartbeat(conns: Any, row: Any, d: Any, tag: Any, kind: Any, strict: Any) -> Any:
    """A heartbeat or its answer, whose tag may be unknown or have changed without the tracker seeing how.

    A wrong tag is let through once, without effect; an answer to it with a tag of its own makes both new. With
    `strict` a wrong tag is refused at once.
    """
    own = np.int64(conns["lo"][row, d])
    failed = np.int64(conns["last_index"][row])
    if own == 0:
        conns["lo"][row, d] = tag
    elif own == tag:
        conns["last_index"][row] = 0
    elif strict:
        return _REFUSE
    elif kind == HEARTBEAT:
        conns["last_index"][row] = 1 + d
        return _SKIP
    elif failed == 0 or failed == 1 + d:
        return _REFUSE
    else:
        conns["last_index"][row] = 0
        conns["lo"][row, d] = tag
        conns["lo"][row, 1 - d] = 0
    return _GO_ON


@kernel
def _check_tag(conns: Any, row: Any, d: Any, tag: Any, kind: Any, flags: Any, strict: Any) -> Any:
    """_GO_ON, _SKIP (the chunk has no effect) or _REFUSE (the packet is invalid), by the chunk's own rule.

    RFC 9260, 8.5.1.
    """
    if kind == INIT:
        return _GO_ON if tag == 0 else _REFUSE
    if kind == ABORT or kind == SHUTDOWN_COMPLETE:
        expected = np.int64(conns["lo"][row, 1 - d if flags & REFLECTED else d])
        return _GO_ON if tag == expected else _REFUSE
    if kind == COOKIE_ECHO:
        return _GO_ON if tag == np.int64(conns["lo"][row, d]) else _REFUSE
    if kind == HEARTBEAT or kind == HEARTBEAT_ACK:
        return _check_heartbeat(conns, row, d, tag, kind, strict)
    return _GO_ON


@kernel
def _take_init(conns: Any, row: Any, d: Any, initiate: Any) -> Any:
    """An INIT names the tag of the other direction; of two that crossed, the later counts when a third comes."""
    if conns["peer"][row, 0] & conns["peer"][row, 1] & IF_INIT:
        conns["peer"][row, 1 - d] = 0
    conns["peer"][row, d] = IF_INIT
    conns["lo"][row, 1 - d] = initiate


@kernel
def _take_init_ack(conns: Any, row: Any, d: Any, initiate: Any) -> Any:
    """So does an INIT-ACK; False when the tag is known and another, be it that nobody asked or that INITs crossed."""
    known = np.int64(conns["lo"][row, 1 - d])
    asked = conns["peer"][row, 1 - d] & IF_INIT != 0
    crossed = asked and conns["peer"][row, d] & IF_INIT != 0
    if known != initiate and ((not asked and known != 0) or crossed):
        return False
    conns["lo"][row, 1 - d] = initiate
    return True


@kernel
def _take_tags(data: Any, at: Any, end: Any, conns: Any, row: Any, d: Any, kind: Any) -> Any:
    """Remember what a chunk says of tags. Returns 0, or the counter of why the packet is invalid for it."""
    if kind == COOKIE_ACK:
        conns["peer"][row, 0] = 0
        conns["peer"][row, 1] = 0
    if kind != INIT and kind != INIT_ACK:
        return np.int64(0)
    if not _has_init_header(at, end):
        return np.int64(C_SCTP_CHUNKS)
    initiate = load_be32(data, at + CHUNK_SIZE)
    if kind == INIT_ACK:
        return np.int64(0 if _take_init_ack(conns, row, d, initiate) else C_SCTP_TAG)
    _take_init(conns, row, d, initiate)
    return np.int64(0)


@kernel
def _invalid(why: Any) -> Any:
    return np.int64(S.UPDATE_INVALID | S.KEEP_TIMER << 8) | why << S.WHY_SHIFT


@kernel
def _result(conns: Any, row: Any, d: Any, first: Any, renews: Any) -> Any:
    flags = np.int64(conns["flags"][row])
    state = np.int64(conns["state"][row])
    answered = d == 1 or flags & S.F_SEEN_REPLY != 0
    timeout = S.T_LINUX_SCTP + state if renews else np.int64(S.KEEP_TIMER)
    changed = S.STATE_CHANGED if state != first else 0
    return (S.UPDATE_VALID if answered else S.UPDATE_VALID_NEW) | timeout << 8 | changed


@kernel
def _walk(data: Any, at: Any, end: Any, tag: Any, types: Any, conns: Any, row: Any, d: Any) -> Any:
    """Take the chunks data[at:end] into the association, one by one. Returns what `update` returns."""
    if types & _OWN_RULE == 0 and tag != np.int64(conns["lo"][row, d]):
        return _invalid(np.int64(C_SCTP_TAG))
    first = np.int64(conns["state"][row])
    renews = True
    while end - at >= CHUNK_SIZE:
        kind = np.int64(data[at])
        strict = types & (1 << DATA) != 0 or not renews
        checked = _check_tag(conns, row, d, tag, kind, np.int64(data[at + 1]), strict)
        if checked == _REFUSE:
            return _invalid(np.int64(C_SCTP_TAG))
        if checked == _SKIP:
            renews = False
        else:
            old = np.int64(conns["state"][row])
            new = next_state(d, kind, old)
            wrong = np.int64(C_STATE) if new == INVALID else _take_tags(data, at, end, conns, row, d, kind)
            if wrong != 0:
                return _invalid(wrong)
            # The INIT again: ports used again must not keep what is over alive.
            if kind == INIT and new == L.CLOSED and old == L.CLOSED:
                renews = False
            conns["state"][row] = new
            if new == L.ESTABLISHED and old != new:
                conns["flags"][row] = np.int64(conns["flags"][row]) | S.F_ASSURED
        at += _step(data, at)
    return _result(conns, row, d, first, renews)


@kernel(inline=False)
def update(data: Any, packets: Any, i: Any, conns: Any, row: Any, d: Any) -> Any:
    """Judge packet i of an association and advance it.

    Returns what `protocols.update` does. Sets F_ASSURED.
    What the chunks before a wrong one did stays done, also when the packet is invalid. Reads F_SEEN_REPLY as it was
    before the packet.
    """
    frame = packets["data"][i]
    start = frame + np.int64(packets["l4"][i])
    end = frame + np.int64(packets["l3_end"][i])
    types = chunk_types(data, start + HEADER_SIZE, end)
    if types < 0:
        return _invalid(np.int64(C_SCTP_CHUNKS))
    return _walk(data, start + HEADER_SIZE, end, load_be32(data, start + 4), types, conns, row, d)


@kernel
def _clear(conns: Any, row: Any) -> Any:
    conns["state"][row] = L.NONE
    conns["flags"][row] = 0
    conns["last_index"][row] = 0
    for d in range(2):
        conns["lo"][row, d] = 0
        conns["peer"][row, d] = 0


@kernel(inline=False)
def valid_new(data: Any, packets: Any, i: Any, draft: Any) -> Any:
    """Whether packet i may begin an association. If so, draft[0] (CONNECTION) is how it then stands, for `create`."""
    _clear(draft, np.int64(0))
    frame = packets["data"][i]
    start = frame + np.int64(packets["l4"][i])
    end = frame + np.int64(packets["l3_end"][i])
    tag = load_be32(data, start + 4)
    at = start + HEADER_SIZE
    types = chunk_types(data, at, end)
    if types < 0 or types & _NEVER_NEW != 0 or not _take_first_tags(data, at, end, tag, draft, np.int64(0)):
        return False
    return _walk(data, at, end, tag, types, draft, np.int64(0), np.int64(0)) & S.RESULT_MASK != S.UPDATE_INVALID


@kernel(inline=False)
def has_chunks(data: Any, packets: Any, i: Any) -> Any:
    """Whether packet i has chunks, all where they may be."""
    frame = packets["data"][i]
    start = frame + np.int64(packets["l4"][i])
    return chunk_types(data, start + HEADER_SIZE, frame + np.int64(packets["l3_end"][i])) >= 0


@kernel
def create(conns: Any, row: Any, draft: Any) -> Any:
    """Fill the SCTP part of a new connection from the draft that `valid_new` made. Returns the timeout class."""
    conns["state"][row] = draft["state"][0]
    conns["last_index"][row] = draft["last_index"][0]
    for d in range(2):
        conns["lo"][row, d] = draft["lo"][0, d]
        conns["peer"][row, d] = draft["peer"][0, d]
    return S.T_LINUX_SCTP + np.int64(draft["state"][0])

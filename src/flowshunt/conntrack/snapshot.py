"""From a row of the table to an immutable `Connection`, and from a `Tuple` back to key words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import repeat
from typing import Any

import numpy as np

from flowshunt.conntrack import states as S
from flowshunt.conntrack.connection import Address, Connection, Tuple, combined_tcp_state
from flowshunt.conntrack.schema import NO_PARENT
from flowshunt.packet.schema import KEY_WORDS, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, W_NW_DST, W_NW_SRC

_KIND_IPV6 = 0x80
_KIND_ICMP = 0x7F
_MASK64 = (1 << 64) - 1
FLAGS = "flags"
KEPT_FLAGS = S.F_LIBERAL | S.F_SEQ_CHECK_OFF
"""Flags of a TCP connection that belong to its machine."""
_WSCALE_KNOWN, _WSCALE_UNKNOWN, _WSCALE_SHIFT = 0x80, 0x40, 0x0F
# ICMP type by the tuple word's kind: a query and its reply side by side.
_ICMP_TYPES = {2: 8, 3: 0, 4: 13, 5: 14, 6: 15, 7: 16, 8: 17, 9: 18}
_ICMPV6_TYPES = {2: 128, 3: 129}
NAT_NAMES = (None, "src", "dst")

_TCP_FIELDS = ("lo", "hi", "window", "wscale")
_LAST_FIELDS = ("last_seq", "last_ack", "last_end", "last_window", "last_index", "last_flags")
MACHINES: dict[tuple[bool, int], tuple[str, ...]] = {
    (False, PROTO_TCP): _TCP_FIELDS,
    (True, PROTO_TCP): (*_TCP_FIELDS, "peer", "max_ack", *_LAST_FIELDS),
    (True, PROTO_SCTP): ("lo", "peer", "last_index"),
}
"""Fields of CONNECTION that a protocol's machine needs to go on and that a snapshot does not show otherwise.

By profile (whether linux) and protocol; in profile default all other protocols need `state` alone.
"""


def machine_fields(linux: bool, protocol: int) -> tuple[str, ...]:
    """The fields in `Connection.machine`, in order."""
    return MACHINES.get((linux, protocol), () if linux else ("state",))


def _machine(record: Any, linux: bool, protocol: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    fields = [(name, record[name]) for name in machine_fields(linux, protocol)]
    if protocol == PROTO_TCP:
        fields.append((FLAGS, int(record["flags"]) & KEPT_FLAGS))
    return tuple((name, tuple(value.tolist()) if np.ndim(value) else (int(value),)) for name, value in fields)


def address_of(halves: Any, is_ipv6: bool) -> Address:
    """The address whose 128-bit form is a pair of int64."""
    high, low = int(halves[0]), int(halves[1])
    return IPv6Address((high & _MASK64) << 64 | low & _MASK64) if is_ipv6 else IPv4Address(low & 0xFFFFFFFF)


def tuples(source: Any, destination: Any, word: int) -> tuple[Tuple, Tuple]:
    """Original and reply tuple of a record's `source`, `destination` (pairs of int64) and tuple word."""
    is_ipv6 = bool(word & _KIND_IPV6)
    protocol, kind = (word >> 8) & 0xFF, word & _KIND_ICMP
    a = address_of(source, is_ipv6)
    b = address_of(destination, is_ipv6)
    if protocol in (PROTO_ICMP, PROTO_ICMPV6):
        types = _ICMP_TYPES if protocol == PROTO_ICMP else _ICMPV6_TYPES
        identifier = (word >> 48) & 0xFFFF
        return (
            Tuple(a, b, icmp_type=types.get(kind, 0), icmp_code=0, icmp_id=identifier),
            Tuple(b, a, icmp_type=types.get(kind ^ 1, 0), icmp_code=0, icmp_id=identifier),
        )
    ports = (word >> 48) & 0xFFFF, (word >> 32) & 0xFFFF
    return Tuple(a, b, *ports), Tuple(b, a, *reversed(ports))


def connection(
    record: Any, ext: Any, parent: Any, row: int, now_ms: int, linux: bool, offload: str | None = None
) -> Connection:
    """The snapshot of one CONNECTION record, `timeout_ms` counted from `now_ms`.

    `offload`: how listings mark who holds it, which is one more reference.

    `ext`: its EXT record, `parent`: the CONNECTION record at its parent's row; anything when it has none.
    """
    word = int(record["tuple"]) & _MASK64
    original, reply = tuples(record["source"], record["destination"], word)
    protocol, flags = (word >> 8) & 0xFF, int(record["flags"])
    if flags & S.F_NAT:
        reply, _ = tuples(ext["source"], ext["destination"], int(ext["tuple"]) & _MASK64)
    states: tuple[str, str] | None = None
    state: str | None = None
    wscale: tuple[int | None, int | None] = (None, None)
    liberal = (False, False)
    if protocol == PROTO_TCP and linux:
        state = S.LINUX_NAMES[int(record["state"])]
        states = state, state
    elif protocol == PROTO_SCTP and linux:
        state = S.SCTP_NAMES[int(record["state"])]
    elif protocol == PROTO_TCP:
        peers = [int(peer) for peer in record["peer"]]
        states = S.PEER_NAMES[peers[0]], S.PEER_NAMES[peers[1]]
        state = combined_tcp_state(*states)
        scales = [int(scale) for scale in record["wscale"]]
        wscale = tuple(scale & _WSCALE_SHIFT if scale & _WSCALE_KNOWN else None for scale in scales)  # type: ignore[assignment]
        liberal = tuple(bool(scale & _WSCALE_UNKNOWN) for scale in scales)  # type: ignore[assignment]
    if protocol == PROTO_TCP and flags & S.F_LIBERAL:
        liberal = (True, True)
    label = record["label"] if flags & S.F_HAS_LABEL else (0, 0)
    return Connection(
        id=row,
        generation=int(record["generation"]),
        family=6 if word & _KIND_IPV6 else 4,
        protocol=protocol,
        original=original,
        reply=reply,
        zone=(word >> 16) & 0xFFFF,
        mark=int(record["mark"]),
        label=(int(label[0]) & _MASK64) << 64 | int(label[1]) & _MASK64,
        profile="linux" if linux else "default",
        states=states,
        state=state,
        seen_reply=bool(flags & S.F_SEEN_REPLY),
        assured=bool(flags & S.F_ASSURED),
        timeout_ms=int(record["expires_ms"]) - now_ms,
        start_ms=int(record["start_ms"]),
        packets=(int(record["packets"][0]), int(record["packets"][1])),
        bytes=(int(record["bytes"][0]), int(record["bytes"][1])),
        in_port=int(record["in_port"]) & 0xFFFF,  # without the home of the datapath
        tcp_flags=(int(record["tcp_flags"][0]), int(record["tcp_flags"][1])),
        wscale=wscale,
        liberal=liberal,
        nat=NAT_NAMES[int(ext["nat"])] if record["ext"] else None,
        offload=offload,
        use=1 if offload is None else 2,
        helper=(S.HELPER_NAMES[int(ext["helper"])] or None) if record["ext"] else None,
        **_parent(record, ext, parent),
        machine=_machine(record, linux, protocol),
    )


def _parent(record: Any, ext: Any, parent: Any) -> dict[str, Any]:
    """What a snapshot says of the connection that announced it, while that lives."""
    row = int(ext["parent_row"])
    if not record["ext"] or row == NO_PARENT or int(parent["generation"]) != int(ext["parent_generation"]):
        return {}
    word = int(parent["tuple"]) & _MASK64
    original, _ = tuples(parent["source"], parent["destination"], word)
    return {"parent": row, "parent_tuple": original, "parent_protocol": (word >> 8) & 0xFF}


def connections(
    records: np.ndarray,
    exts: np.ndarray,
    parents: np.ndarray,
    rows: np.ndarray,
    now_ms: int,
    linux: bool,
    offloads: Sequence[str | None] | None = None,
) -> Iterator[Connection]:
    """Snapshots of CONNECTION records (n,) with EXT records and parents (n,), whose row numbers are `rows` (n,).

    `offloads`: how listings mark each; None: none is held.
    """
    marks = repeat(None, len(rows)) if offloads is None else offloads
    for record, ext, parent, row, offload in zip(records, exts, parents, rows, marks, strict=True):
        yield connection(record, ext, parent, int(row), now_ms, linux, offload)


def key_of(wanted: Tuple, protocol: int, zone: int) -> tuple[np.ndarray, int]:
    """Key words (1, KEY_WORDS) and tuple word that find the connection of a tuple, either direction.

    Raises ValueError for an ICMP type that is no query.
    """
    keys = np.zeros((1, KEY_WORDS), np.int64)
    is_ipv6 = wanted.source.version == 6
    for word, address in ((W_NW_SRC, wanted.source), (W_NW_DST, wanted.destination)):
        keys[0, word : word + 2] = np.array([int(address) >> 64, int(address) & _MASK64], np.uint64).view(np.int64)
    kind = _KIND_IPV6 if is_ipv6 else 0
    ports = wanted.source_port << 16 | wanted.destination_port
    if protocol in (PROTO_ICMP, PROTO_ICMPV6):
        types = _ICMP_TYPES if protocol == PROTO_ICMP else _ICMPV6_TYPES
        kinds = [kind for kind, icmp_type in types.items() if icmp_type == wanted.icmp_type]
        if not kinds:
            raise ValueError(f"ICMP type {wanted.icmp_type} is no query: use one of {sorted(types.values())}")
        kind |= kinds[0]
        ports = (wanted.icmp_id or 0) * 0x10001
    word = ports << 32 | zone << 16 | protocol << 8 | kind
    return keys, word - (1 << 64) if word >> 63 else word

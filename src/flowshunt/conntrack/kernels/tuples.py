"""Tuples in the form that the table compares and hashes."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.states import F_NAT
from flowshunt.jit import kernel, mix
from flowshunt.packet.schema import (
    NAT_HAS_ID,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    W_L4,
    W_NAT,
    W_NW_DST,
    W_NW_SRC,
)

KIND_IPV6 = 0x80
KIND_ICMP = 0x7F
"""Bits of the tuple word's kind that are set for ICMP queries only; the lowest of them says reply."""

_PORTS = 0xFFFFFFFF


@kernel
def has_ports(proto: Any) -> Any:
    """Whether the protocol's tuple has ports; UDP-Lite's has none, as in Open vSwitch."""
    return proto == PROTO_TCP or proto == PROTO_UDP or proto == PROTO_SCTP


@kernel
def icmp_kind(proto: Any, icmp_type: Any) -> Any:
    """2 * service + is_reply for a query or its reply, 0 for every other ICMP or ICMPv6 type."""
    if proto == PROTO_ICMPV6:
        return 2 if icmp_type == 128 else (3 if icmp_type == 129 else 0)
    if icmp_type == 8:
        return 2
    if icmp_type == 0:
        return 3
    if 13 <= icmp_type <= 18:
        return 4 + (icmp_type - 13)
    return 0


@kernel
def tuple_word(keys: Any, k: Any, family: Any, icmp_id: Any) -> Any:
    """The tuple word of the packet in keys[k], zone 0: ports << 32 | protocol << 8 | kind.

    `icmp_id`: the packet's own, which NAT may have changed in the key.
    """
    l4 = keys[k, W_L4]
    proto = (l4 >> 24) & 0xFF
    kind = np.int64(KIND_IPV6 if family == 6 else 0)
    ports = np.int64(0)
    if has_ports(proto):
        return l4 & ~_PORTS | proto << 8 | kind
    if proto == PROTO_ICMP or proto == PROTO_ICMPV6:
        kind |= icmp_kind(proto, (l4 >> 48) & 0xFFFF)
        if keys[k, W_NAT] & NAT_HAS_ID:
            icmp_id = keys[k, W_NAT] & 0xFFFF
        ports = icmp_id << 16 | icmp_id
    return ports << 32 | proto << 8 | kind


@kernel
def turn_word(word: Any) -> Any:
    """The tuple word of the other direction: ports exchanged, ICMP query and reply exchanged."""
    turned = ((word >> 48) & 0xFFFF) << 32 | ((word >> 32) & 0xFFFF) << 48 | (word & _PORTS)
    return turned ^ 1 if word & KIND_ICMP else turned


@kernel
def hash_tuple(state: Any, high_a: Any, low_a: Any, high_b: Any, low_b: Any, word: Any) -> Any:
    """Keyed hash of a tuple, equal for both directions and for all zones.

    Each endpoint is hashed by itself, together with the protocol; the product of the two is symmetric. Without the key
    neither half can be aimed. Only the last product waits for others.
    """
    key = state["key"]
    rest = (word & 0xFF00 | (word & 0xFF) >> 1) << 16 ^ key[0, 2]
    a = mix(low_a ^ key[0, 0], high_a ^ key[0, 1]) ^ mix((word >> 48) & 0xFFFF ^ rest, key[0, 3])
    b = mix(low_b ^ key[0, 0], high_b ^ key[0, 1]) ^ mix((word >> 32) & 0xFFFF ^ rest, key[0, 3])
    return mix(a, b)


@kernel
def hash_packet(state: Any, keys: Any, k: Any, word: Any) -> Any:
    """`hash_tuple` of the packet in keys[k]."""
    return hash_tuple(state, keys[k, W_NW_SRC], keys[k, W_NW_SRC + 1], keys[k, W_NW_DST], keys[k, W_NW_DST + 1], word)


@kernel(inline=False)
def _match_reply(t: Any, row: Any, keys: Any, k: Any, word: Any) -> Any:
    """1 when the packet is a reply on connection `row`, which has a reply tuple of its own; else -1."""
    e = t.exts
    ext = np.int64(t.conns["ext"][row]) - 1
    if (
        e["tuple"][ext] == word
        and e["source"][ext, 1] == keys[k, W_NW_SRC + 1]
        and e["destination"][ext, 1] == keys[k, W_NW_DST + 1]
        and e["source"][ext, 0] == keys[k, W_NW_SRC]
        and e["destination"][ext, 0] == keys[k, W_NW_DST]
    ):
        return np.int64(1)
    return np.int64(-1)


@kernel
def match_row(t: Any, row: Any, keys: Any, k: Any, word: Any) -> Any:
    """Direction of the packet in keys[k], whose tuple word is `word`, on connection `row` (0, 1); -1: not its own."""
    conns = t.conns
    source_high = keys[k, W_NW_SRC]
    source_low = keys[k, W_NW_SRC + 1]
    destination_high = keys[k, W_NW_DST]
    destination_low = keys[k, W_NW_DST + 1]
    own = conns["tuple"][row]
    if (
        own == word
        and conns["source"][row, 1] == source_low
        and conns["destination"][row, 1] == destination_low
        and conns["source"][row, 0] == source_high
        and conns["destination"][row, 0] == destination_high
    ):
        return np.int64(0)
    if conns["flags"][row] & F_NAT:
        return _match_reply(t, row, keys, k, word)
    if (
        own == turn_word(word)
        and conns["source"][row, 1] == destination_low
        and conns["destination"][row, 1] == source_low
        and conns["source"][row, 0] == destination_high
        and conns["destination"][row, 0] == source_high
    ):
        return np.int64(1)
    return np.int64(-1)

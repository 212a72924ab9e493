"""Instructions that change the flow key: set, move, VLAN tags, TTL."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.program import (
    GUARD_ARP,
    GUARD_ICMP,
    GUARD_ICMPV6,
    GUARD_IP,
    GUARD_IPV4,
    GUARD_IPV6,
    GUARD_NONE,
    GUARD_PORTS,
    GUARD_VLAN,
    OP_FIX_VLAN,
    OP_MOVE,
    OP_POP_VLAN,
    OP_PUSH_VLAN,
    OP_SET,
    SET_WORDS,
)
from flowshunt.jit import kernel
from flowshunt.packet.schema import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    ETH_RARP,
    ETH_VLAN,
    FRAG_LATER,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VLAN_PRESENT,
    W_ARP_SHA,
    W_ARP_THA,
    W_ETH_DST,
    W_ETH_SRC,
    W_FLAGS,
    W_L4,
)

_U16 = 0xFFFF
_TTL_SHIFT = 8


@kernel
def is_ip(keys: Any, k: Any) -> Any:
    """Whether keys[k] is of an IPv4 or IPv6 packet."""
    eth_type = keys[k, W_ETH_DST] & _U16
    return eth_type == ETH_IPV4 or eth_type == ETH_IPV6


@kernel
def _has_l4(keys: Any, k: Any, guard: Any) -> Any:
    l4 = keys[k, W_L4]
    proto = (l4 >> 24) & 0xFF
    if not is_ip(keys, k) or l4 & FRAG_LATER:
        return False
    if guard == GUARD_PORTS:
        return proto == PROTO_TCP or proto == PROTO_UDP or proto == PROTO_SCTP
    if guard == GUARD_ICMP:
        return proto == PROTO_ICMP
    icmp_type = (l4 >> 48) & _U16
    return proto == PROTO_ICMPV6 and (guard == GUARD_ICMPV6 or icmp_type == 135 or icmp_type == 136)


@kernel
def is_present(keys: Any, k: Any, guard: Any) -> Any:
    """Whether the packet of keys[k] has what `guard` (program.GUARD_*) asks for."""
    eth_type = keys[k, W_ETH_DST] & _U16
    if guard == GUARD_NONE:
        return True
    if guard == GUARD_IPV4:
        return eth_type == ETH_IPV4
    if guard == GUARD_IPV6:
        return eth_type == ETH_IPV6
    if guard == GUARD_IP:
        return is_ip(keys, k)
    if guard == GUARD_ARP:
        return eth_type == ETH_ARP or eth_type == ETH_RARP
    if guard == GUARD_VLAN:
        return keys[k, W_ETH_SRC] & VLAN_PRESENT != 0
    return _has_l4(keys, k, guard)


@kernel
def read_place(keys: Any, k: Any, place: Any) -> Any:
    """The bits of a packed `program.Place`."""
    value = keys[k, place & 0xFF] >> ((place >> 8) & 0xFF)
    width = (place >> 16) & 0xFF
    return value if width == 64 else value & ((np.int64(1) << width) - 1)


@kernel
def _move(keys: Any, k: Any, instruction: Any) -> Any:
    width = (instruction >> 40) & 0xFF
    value = read_place(keys, k, (instruction >> 8) & 0xFFFF | width << 16)
    shift = (instruction >> 32) & 0xFF
    mask = np.int64(-1) if width == 64 else ((np.int64(1) << width) - 1) << shift
    word = (instruction >> 24) & 0xFF
    keys[k, word] = keys[k, word] & ~mask | (value << shift) & mask


@kernel
def _fix_vlan(keys: Any, k: Any) -> Any:
    if keys[k, W_ETH_SRC] & VLAN_PRESENT:
        if keys[k, W_FLAGS] & _U16 == 0:
            keys[k, W_FLAGS] |= ETH_VLAN
        return
    keys[k, W_ETH_SRC] &= ~_U16
    keys[k, W_FLAGS] &= ~_U16
    _clear_inner(keys, k)


@kernel
def _clear_inner(keys: Any, k: Any) -> Any:
    keys[k, W_ARP_SHA] &= ~_U16
    keys[k, W_ARP_THA] &= ~_U16


@kernel
def push_vlan(keys: Any, k: Any, tpid: Any) -> Any:
    """The outer tag becomes the inner one; of two, the inner one is lost, as in Open vSwitch."""
    keys[k, W_ARP_SHA] = keys[k, W_ARP_SHA] & ~_U16 | keys[k, W_ETH_SRC] & _U16
    keys[k, W_ARP_THA] = keys[k, W_ARP_THA] & ~_U16 | keys[k, W_FLAGS] & _U16
    keys[k, W_ETH_SRC] = keys[k, W_ETH_SRC] & ~_U16 | VLAN_PRESENT
    keys[k, W_FLAGS] = keys[k, W_FLAGS] & ~_U16 | tpid


@kernel
def pop_vlan(keys: Any, k: Any) -> Any:
    """Take the outer tag away; an inner one takes its place."""
    keys[k, W_ETH_SRC] = keys[k, W_ETH_SRC] & ~_U16 | keys[k, W_ARP_SHA] & _U16
    keys[k, W_FLAGS] = keys[k, W_FLAGS] & ~_U16 | keys[k, W_ARP_THA] & _U16
    _clear_inner(keys, k)


@kernel(inline=False)
def change(pool: Any, pc: Any, keys: Any, k: Any) -> Any:
    """Run the instruction at `pc`, one from SET to POP_VLAN, on keys[k]; returns where the next one is."""
    instruction = pool[pc]
    op = instruction & 0xFF
    if op == OP_SET:
        if is_present(keys, k, (instruction >> 16) & 0xFF):
            word = (instruction >> 8) & 0xFF
            keys[k, word] = keys[k, word] & ~pool[pc + 1] | pool[pc + 2]
        return pc + SET_WORDS
    if op == OP_MOVE:
        if is_present(keys, k, (instruction >> 48) & 0xFF) and is_present(keys, k, (instruction >> 56) & 0xFF):
            _move(keys, k, instruction)
    elif op == OP_FIX_VLAN:
        _fix_vlan(keys, k)
    elif op == OP_PUSH_VLAN:
        push_vlan(keys, k, (instruction >> 8) & _U16)
    elif op == OP_POP_VLAN:
        pop_vlan(keys, k)
    return pc + 1


@kernel
def decrement_ttl(keys: Any, k: Any) -> Any:
    """Decrement TTL or hop limit; False, and nothing done, when it is 0 or 1. Packets that aren't IP have none."""
    if not is_ip(keys, k):
        return True
    if (keys[k, W_L4] >> _TTL_SHIFT) & 0xFF <= 1:
        return False
    keys[k, W_L4] -= 1 << _TTL_SHIFT
    return True

"""Multipath and bundle: which of several links a packet takes, by a hash of what its conversation has in common.

The choice depends on the packet's fields and, for members of a bundle, on which ports are up; nothing is remembered.
Hashes are our own, so that packets are spread as evenly as by Open vSwitch, and otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.fields import is_ip
from flowshunt.datapath.schema import FLAG_DOWN, PORT_NONE, PORT_NUMBERS
from flowshunt.jit import kernel, mix
from flowshunt.packet.schema import (
    FRAG_LATER,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    W_ETH_DST,
    W_ETH_SRC,
    W_L4,
    W_NW_DST,
    W_NW_SRC,
)

MODULO_N, HASH_THRESHOLD, HRW, ITER_HASH, ACTIVE_BACKUP, HRW_MEMBERS = range(6)
"""The algorithms of multipath, then those of bundle, in the order of their numbers on the wire."""
LINK_WORDS = 2
"""Words of the instruction before the hashed parts, two words each, and the members, one each."""

ALWAYS, IN_IP, IN_TCP_SCTP, IN_TCP_UDP_SCTP = range(4)
"""Which packets have a part of the hash."""
FOLD = 1 << 16
"""Flag of a part: the upper 16 bits are xored with the 16 below them."""
_UPPER = -1 << 16
_ALL = -1


def _part(word: int, mask: int, other: int | None = None, when: int = ALWAYS, flags: int = 0) -> tuple[int, int]:
    return word | (word if other is None else other) << 8 | flags | when << 24, mask


def _both_addresses(when: int = IN_IP) -> tuple[tuple[int, int], ...]:
    return _part(W_NW_SRC, _ALL, W_NW_DST, when), _part(W_NW_SRC + 1, _ALL, W_NW_DST + 1, when)


def _ports(when: int) -> tuple[int, int]:
    return _part(W_L4, 0xFFFF << 48, when=when, flags=FOLD)


_PROTOCOL = _part(W_L4, 0xFF << 24, when=IN_IP)
_LINK = (_part(W_ETH_SRC, _UPPER, W_ETH_DST), _part(W_ETH_DST, 0xFFFF), _part(W_ETH_SRC, 0x0FFF))

PARTS: tuple[tuple[tuple[int, int], ...], ...] = (
    (_part(W_ETH_SRC, _UPPER),),  # eth_src
    (*_LINK, _PROTOCOL, *_both_addresses(), _ports(IN_TCP_SCTP)),  # symmetric_l4
    (_PROTOCOL, *_both_addresses(), _ports(IN_TCP_SCTP)),  # symmetric_l3l4
    (_PROTOCOL, *_both_addresses(), _ports(IN_TCP_UDP_SCTP)),  # symmetric_l3l4+udp
    (_part(W_NW_SRC, _ALL, when=IN_IP), _part(W_NW_SRC + 1, _ALL, when=IN_IP)),  # nw_src
    (_part(W_NW_DST, _ALL, when=IN_IP), _part(W_NW_DST + 1, _ALL, when=IN_IP)),  # nw_dst
    _both_addresses(),  # symmetric_l3
)
"""What is hashed (ovs-actions(7), "The multipath action"), in the order of their numbers on the wire: parts of the key.

A part is a word; another one that is xored to it, maybe itself for none; whether both ports in it are xored; when
packets have it; and a mask.
"""

_ODD = np.int64(0x1E3779B97F4A7C15)
_U32 = 0xFFFFFFFF
_MAX_ROUNDS = 64


@kernel
def has_part(keys: Any, when: Any) -> Any:
    """Whether the packet of keys[0] has a part of the hash (ALWAYS, IN_*)."""
    if when == ALWAYS:
        return True
    if not is_ip(keys, 0):
        return False
    if when == IN_IP:
        return True
    proto = (keys[0, W_L4] >> 24) & 0xFF
    if keys[0, W_L4] & FRAG_LATER:
        return False
    return proto == PROTO_TCP or proto == PROTO_SCTP or (proto == PROTO_UDP and when == IN_TCP_UDP_SCTP)


@kernel(inline=False)
def _hash_parts(pool: Any, at: Any, n: Any, keys: Any, basis: Any) -> Any:
    """Hash, 32 bits, of keys[0] by n parts at pool[at]."""
    h = mix(basis ^ _ODD, _ODD)
    for _ in range(n):
        part = pool[at]
        if has_part(keys, part >> 24):
            value = keys[0, part & 0xFF]
            other = (part >> 8) & 0xFF
            if other != part & 0xFF:
                value ^= keys[0, other]
            if part & FOLD:
                value ^= value << 16
            h = mix(h ^ value & pool[at + 1], _ODD)
        at += 2
    return (h >> 20) & _U32


@kernel
def _weigh(h: Any, link: Any) -> Any:
    """What a link weighs for a hash: the heaviest wins, so that only its own packets move when it goes."""
    return (mix(h ^ mix(link + 1, _ODD), _ODD) >> 20) & _U32


@kernel
def _heaviest(h: Any, n: Any) -> Any:
    best = np.int64(0)
    most = np.int64(-1)
    for link in range(n):
        weight = _weigh(h, np.int64(link))
        if weight > most:
            most = weight
            best = np.int64(link)
    return best


@kernel
def _iterate(pool: Any, at: Any, n_parts: Any, keys: Any, basis: Any, n: Any, argument: Any) -> Any:
    """Hash anew until the remainder by `argument` is a link; the sensible ones are between n and 2 * n."""
    modulo = argument
    if modulo < n or modulo > 2 * n + 1:
        modulo = np.int64(1)
        while modulo < n:
            modulo *= 2
    link = n
    rounds = np.int64(0)
    while link >= n and rounds < _MAX_ROUNDS:
        link = _hash_parts(pool, at, n_parts, keys, basis + rounds) % modulo
        rounds += 1
    return link if link < n else np.int64(0)


@kernel
def _choose_member(p: Any, pool: Any, at: Any, n: Any, h: Any, algorithm: Any) -> Any:
    """Of n ports at pool[at], the first that is up, or the heaviest of those; PORT_NONE when none is."""
    best = np.int64(PORT_NONE)
    most = np.int64(-1)
    for member in range(n):
        number = pool[at + member]
        index = np.int64(p.index[number]) if number < PORT_NUMBERS else np.int64(-1)
        if index < 0 or np.int64(p.ports["flags"][index]) & FLAG_DOWN:
            continue
        if algorithm == ACTIVE_BACKUP:
            return number
        weight = _weigh(h, np.int64(member))
        if weight > most:
            most = weight
            best = number
    return best


@kernel(inline=False)
def choose_link(pool: Any, p: Any, keys: Any, pc: Any) -> Any:
    """What the link instruction at `pc` chooses for keys[0]: the number of a link, or of a port."""
    instruction = pool[pc]
    algorithm = (instruction >> 16) & 0xFF
    n_parts = (instruction >> 8) & 0xFF
    n = instruction >> 24
    basis = pool[pc + 1] & 0xFFFF
    at = pc + LINK_WORDS
    if algorithm == ITER_HASH:
        return _iterate(pool, at, n_parts, keys, basis, n, pool[pc + 1] >> 16)
    h = np.int64(0) if algorithm == ACTIVE_BACKUP else _hash_parts(pool, at, n_parts, keys, basis)
    if algorithm >= ACTIVE_BACKUP:
        return _choose_member(p, pool, at + 2 * n_parts, n, h, algorithm)
    if algorithm == HRW:
        return _heaviest(h, n)
    return h % n if algorithm == MODULO_N else h // (_U32 // n + 1)


@kernel
def after_link(pool: Any, pc: Any) -> Any:
    """Where the instruction behind the link instruction at `pc` is."""
    instruction = pool[pc]
    n_ports = instruction >> 24 if (instruction >> 16) & 0xFF >= ACTIVE_BACKUP else 0
    return pc + LINK_WORDS + 2 * ((instruction >> 8) & 0xFF) + n_ports

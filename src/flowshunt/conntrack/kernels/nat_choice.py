"""Choosing the reply tuple of a connection with NAT.

As in Open vSwitch (lib/conntrack.c, nat_get_unique_tuple), with what Linux has besides (nf_nat_core.c): ICMP ids are
translated like ports, and a crowded range is used up to its last port. An address of the range is chosen by hash. The
port is the packet's own as long as that is free; else one of the range that the action gives, or of the group that the
port belongs to, since receivers may trust low ports. Destination NAT keeps the destination port unless the action
gives others, and when all of these are taken for one client, its source port is changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.kernels.buckets import prefetch_bucket
from flowshunt.conntrack.kernels.pools import find_pool, make_pool, mark_taken, search_pool
from flowshunt.conntrack.kernels.rows import destroy, is_over
from flowshunt.conntrack.kernels.trial import SIDE_DESTINATION, SIDE_SOURCE, occupant, port_of, with_port
from flowshunt.conntrack.kernels.tuples import KIND_ICMP, KIND_IPV6, has_ports, hash_packet, turn_word
from flowshunt.jit import kernel, mix
from flowshunt.packet.schema import W_NW_DST, W_NW_SRC

EXHAUSTED = -1
UNCHANGED = 0
"""Null binding without a clash: the connection needs no NAT."""

MAX_ADDRESSES_TRIED = 64
"""Addresses of a range that are tried for one connection, from the chosen one on."""
_TRIES = 32
"""Ports tried one by one before a range gets a pool."""
_U32 = 0xFFFFFFFF
_FRACTION_BITS = 30
_CLIENT_KEY = 0x1C6ABF3F4D4B5A6D
"""Persistent addresses do not depend on the table's key: a client keeps its own when the switch starts anew."""
_OTHER_KEY = 0x2545F4914F6CDD1D


@kernel
def _pick(drawn: Any, n: Any) -> Any:
    """A number of `[0, n)`, n up to 2**32, as a random one of 64 bits has it; a division would take much longer."""
    return (((drawn >> 20) & ((1 << _FRACTION_BITS) - 1)) * n) >> _FRACTION_BITS


@kernel
def _is_free(t: Any, word: Any, now: Any) -> Any:
    """Whether a connection may have this reply tuple; an expired one that still has it is destroyed.

    At most one is: a packet may cause only so many events.
    """
    row = occupant(t, word)
    if row >= 0 and is_over(t, row, now) and t.state["nat_destroyed"][0] == 0:
        t.state["nat_destroyed"][0] = 1
        destroy(t, row, C.REASON_EXPIRED, now)
        row = occupant(t, word)
    return row < 0


@kernel
def turn_packet(t: Any, keys: Any, k: Any) -> Any:
    """Write the addresses of the packet in keys[k] to `nat_key`, exchanged."""
    for n in range(2):
        t.nat_key[0, W_NW_SRC + n] = keys[k, W_NW_DST + n]
        t.nat_key[0, W_NW_DST + n] = keys[k, W_NW_SRC + n]


@kernel(inline=False)
def is_reply_free(t: Any, keys: Any, k: Any, word: Any, now: Any) -> Any:
    """Whether the tuple of the packet in keys[k], turned round, is free: what a commit without NAT needs.

    Only next to connections with NAT may it not be: any other connection that has it would have found the packet. One
    that has expired is destroyed.
    """
    turn_packet(t, keys, k)
    t.state["nat_destroyed"][0] = 0
    return _is_free(t, turn_word(word), now)


@kernel(inline=False)
def _search(t: Any, word: Any, side: Any, first: Any, last: Any, start: Any, now: Any) -> Any:
    """A word like `word` with a free port out of `[first, last]`, from `start` on, or EXHAUSTED."""
    size = last - first + 1
    pool = find_pool(t, word, side)
    if pool < 0:
        for n in range(min(size, _TRIES)):
            port = start + n
            tried = with_port(word, side, port if port <= last else port - size)
            if _is_free(t, tried, now):
                return tried
        if size <= _TRIES:
            return np.int64(EXHAUSTED)
        pool = make_pool(t, word, side)
    while True:
        port = search_pool(t, pool, word, side, first, last, start, now)
        if port < 0:
            return np.int64(EXHAUSTED)
        tried = with_port(word, side, port)
        if _is_free(t, tried, now):
            return tried
        row = occupant(t, tried)
        if is_over(t, row, now):
            return np.int64(EXHAUSTED)  # two expired connections with one tuple, and one may be destroyed
        mark_taken(t, pool, port, max(t.conns["expires_ms"][row], now + 1))


@kernel
def _group(port: Any) -> Any:
    """First and last port of the group that a port belongs to."""
    if port < 512:
        return np.int64(1), np.int64(511)
    if port < 1024:
        return np.int64(600), np.int64(1023)
    return np.int64(1024), np.int64(65535)


@kernel(inline=False)
def _start(t: Any, first: Any, last: Any, drawn: Any) -> Any:
    """Where the search in a given range begins."""
    if t.nat_spec[0] & C.NAT_RANDOM:
        t.state["nat_draws"][0] += 1
        drawn = mix(t.state["nat_draws"][0] ^ t.state["key"][0, 2], t.state["key"][0, 3] ^ drawn)
    return first + _pick(drawn, last - first + 1)


@kernel
def _other_source_port(t: Any, word: Any, drawn: Any, now: Any) -> Any:
    """The client's port changed to another of its group; of ICMP ids, all one group, the next free one is taken."""
    own = port_of(word, SIDE_DESTINATION)
    first, last = _group(own)
    start = first + _pick(drawn, last - first + 1)
    if word & KIND_ICMP:
        first, last, start = np.int64(0), np.int64(0xFFFF), own
    return _search(t, word, np.int64(SIDE_DESTINATION), first, last, start, now)


@kernel
def _choose_port(t: Any, kind: Any, word: Any, drawn: Any, now: Any) -> Any:
    """A free word for the addresses in `nat_key`, or EXHAUSTED."""
    spec = t.nat_spec[0]
    first = (spec >> 16) & 0xFFFF
    last = (spec >> 32) & 0xFFFF
    ported = has_ports((word >> 8) & 0xFF) or word & KIND_ICMP != 0
    side = np.int64(SIDE_SOURCE if kind == C.NAT_DST else SIDE_DESTINATION)
    if ported and last != 0 and kind != 0:
        own = port_of(word, side)
        if spec & (C.NAT_RANDOM | C.NAT_HASH) == 0 and first <= own <= last and _is_free(t, word, now):
            return word
        start = _start(t, first, last, drawn)
        found = _search(t, word, side, first, last, start, now)
        if found != EXHAUSTED or side == SIDE_DESTINATION or word & KIND_ICMP:
            return found
        return _other_source_port(t, with_port(word, side, start), drawn, now)
    if _is_free(t, word, now):
        return word
    return _other_source_port(t, word, drawn, now) if ported else np.int64(EXHAUSTED)


@kernel
def _put_address(t: Any, place: Any, offset: Any) -> Any:
    """Write the address at `offset` of the range to `nat_key`; added in halves, since int64 must not overflow."""
    low = t.nat_spec[2]
    sum_low = (low & _U32) + (offset & _U32)
    sum_high = ((low >> 32) & _U32) + (sum_low >> 32)
    t.nat_key[0, place + 1] = (sum_high & _U32) << 32 | sum_low & _U32
    t.nat_key[0, place] = t.nat_spec[1] + (sum_high >> 32)


@kernel
def _kind(t: Any, word: Any) -> Any:
    """NAT_SRC or NAT_DST, or 0 for null binding, which is also for packets that are not of the range's family."""
    spec = t.nat_spec[0]
    family = (spec >> 8) & 0xFF
    if family != 0 and family != (6 if word & KIND_IPV6 else 4):
        return np.int64(0)
    return spec & C.NAT_KIND


@kernel
def _draw(t: Any, hashed: Any) -> Any:
    return mix(hashed ^ t.state["key"][0, 1], t.state["key"][0, 2])


@kernel
def _first_offset(t: Any, keys: Any, k: Any, drawn: Any) -> Any:
    """Place in the range of the address that is tried first."""
    if t.nat_spec[0] & C.NAT_PERSISTENT:
        drawn = mix(keys[k, W_NW_SRC + 1] ^ _CLIENT_KEY, keys[k, W_NW_SRC] ^ _OTHER_KEY)
    return _pick(drawn, t.nat_spec[3])


@kernel
def _address_place(kind: Any) -> Any:
    return np.int64(W_NW_SRC if kind == C.NAT_DST else W_NW_DST)


@kernel(inline=False)
def prefetch_reply(t: Any, keys: Any, k: Any, word: Any, hashed: Any) -> Any:
    """Ask for the bucket of the reply tuple that a new connection of the packet will probably be given.

    Goes by what the last action asked for; nothing depends on whether that is the one to come.
    """
    kind = _kind(t, word)
    if kind == 0 or t.nat_spec[0] >> 8 == 0:
        return  # the reply tuple is in the same bucket
    turn_packet(t, keys, k)
    _put_address(t, _address_place(kind), _first_offset(t, keys, k, _draw(t, hashed)))
    prefetch_bucket(t, hash_packet(t.state, t.nat_key, 0, turn_word(word)))


@kernel(inline=False)
def choose(t: Any, keys: Any, k: Any, word: Any, hashed: Any, now: Any) -> Any:
    """Choose the reply tuple of a new connection of the packet in keys[k], as `nat_spec` wants it.

    `word`: the packet's tuple word, zone included; `hashed`: its hash. Leaves the tuple in `nat_key` and
    `state["nat_word"]`. Returns NAT_SRC or NAT_DST, UNCHANGED, or EXHAUSTED, with the address that was tried first in
    `nat_key`.
    """
    t.state["nat_new"][0] = 1
    t.state["nat_destroyed"][0] = 0
    kind = _kind(t, word)
    turned = turn_word(word)
    drawn = _draw(t, hashed)
    place = _address_place(kind)
    has_address = kind != 0 and t.nat_spec[0] >> 8 != 0
    offset = _first_offset(t, keys, k, drawn) if has_address else np.int64(0)
    turn_packet(t, keys, k)
    n_addresses = t.nat_spec[3] if has_address else np.int64(1)
    for n in range(MAX_ADDRESSES_TRIED):
        if n >= n_addresses:
            break
        if has_address:
            at = offset + n
            _put_address(t, place, at if at < n_addresses else at - n_addresses)
        found = _choose_port(t, kind, turned, drawn, now)
        if found != EXHAUSTED:
            t.state["nat_word"][0] = found
            if kind == 0:
                return np.int64(UNCHANGED if found == turned else C.NAT_SRC)
            return kind
    if has_address:
        _put_address(t, place, offset)
    return np.int64(EXHAUSTED)


@kernel(inline=False)
def choose_like(t: Any, wanted: Any, hashed: Any, now: Any) -> Any:
    """A free reply tuple with the addresses in `nat_key` and the ports of `wanted`, but for the client's if need be.

    Returns its tuple word, or EXHAUSTED.
    """
    t.state["nat_destroyed"][0] = 0
    if _is_free(t, wanted, now):
        return wanted
    return _other_source_port(t, wanted, _draw(t, hashed), now)

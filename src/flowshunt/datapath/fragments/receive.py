"""What to do with one fragment: keep it, take it as the last that was missing, or refuse it.

The rules and whose they are: lengths RFC 791 section 3.2 and RFC 8200 section 4.5; an overlap refuses the whole
datagram and what comes of it later (RFC 5722 section 3, Linux in both families), an exact or contained repetition is
refused alone (Linux); least sizes, and invalid for what is refused, Open vSwitch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.fragments.rows import (
    add_fragment,
    blocks_for,
    count_units,
    empty,
    expire_due,
    find,
    hash_datagram,
    make_room,
    set_units,
    take_datagram,
)
from flowshunt.datapath.fragments.schema import (
    MAX_IP_SIZE,
    MAX_PER_DATAGRAM,
    N_ACCEPTED,
    N_DROPPED,
    N_DUPLICATE,
    N_EMPTY,
    N_INCONSISTENT,
    N_MALFORMED,
    N_MISALIGNED,
    N_NO_ROOM,
    N_OF_REFUSED,
    N_OVERLAPPING,
    N_TOO_LONG,
    N_TOO_MANY,
    N_TOO_SMALL,
    N_WRONG_CHECKSUM,
    UNIT,
)
from flowshunt.jit import kernel, load_be16, load_be32
from flowshunt.packet.checksum import ip_checksum_ok
from flowshunt.packet.emit import is_changed, rewrite
from flowshunt.packet.network import IPV6_SIZE, MAX_EXTENSION_HEADERS, is_extension
from flowshunt.packet.schema import PROTO_AH, PROTO_FRAGMENT, VERDICT_OK, W_L4

HELD = 0
"""The fragment is kept; above 0: its datagram is complete, row + 1; below: minus the counter of why it was refused."""

SWITCHED_OFF = -1000
"""Fragments of this family are not put together; nothing was counted."""

FRAGMENT_HEADER_SIZE = 8
_MORE_IPV4 = 0x2000
_DONT_FRAGMENT = 0x4000
_CONGESTED = 3  # RFC 3168 section 5: both ECN bits
_FRAGMENT_BITS = 0xFFF9


@kernel(inline=False)
def find_fragment_header(data: Any, l3: Any, end: Any) -> Any:
    """In the IPv6 packet data[l3:end]: where the fragment header is, and the byte that names it; -1 for none.

    One that says "whole" (RFC 6946) is passed over, as any other extension header.
    """
    protocol = np.int64(data[l3 + 6])
    named = l3 + 6
    at = l3 + IPV6_SIZE
    for _ in range(MAX_EXTENSION_HEADERS):
        if not is_extension(protocol) or end - at < 8:
            break
        size = np.int64(FRAGMENT_HEADER_SIZE)
        if protocol == PROTO_FRAGMENT:
            if load_be16(data, at + 2) & _FRAGMENT_BITS:
                return at, named
        elif protocol == PROTO_AH:
            size = (np.int64(data[at + 1]) + 2) * 4
        else:
            size = (np.int64(data[at + 1]) + 1) * 8
        protocol = np.int64(data[at])
        named = at
        at += size
    return np.int64(-1), np.int64(-1)


@kernel
def _place(data: Any, packets: Any, i: Any) -> Any:
    """Of a parsed fragment: `(key without zone, start, more, where its payload begins in the frame)`; payload 0: none.

    IPv4's protocol is part of the key (RFC 791), IPv6's is not.
    """
    frame = packets["data"][i]
    l3 = np.int64(packets["l3"][i])
    at = frame + l3
    if packets["family"][i] == 4:
        first = load_be32(data, at + 4)
        key = np.int64(data[at + 9]) << 32 | first >> 16
        size = (np.int64(data[at]) & 0xF) * 4
        return key, (first & 0x1FFF) * UNIT, first & _MORE_IPV4 != 0, l3 + size
    header, _ = find_fragment_header(data, at, frame + np.int64(packets["l3_end"][i]))
    if header < 0:
        return np.int64(0), np.int64(0), False, np.int64(0)
    key = np.int64(1) << 40 | load_be32(data, header + 4)
    place = load_be16(data, header + 2)
    return key, place & ~7, place & 1 != 0, header - frame + FRAGMENT_HEADER_SIZE


@kernel
def _check(f: Any, data: Any, packets: Any, i: Any, family: Any, start: Any, size: Any, more: Any, checks: Any) -> Any:
    """The counter of what is wrong with a fragment by itself, or 0."""
    if checks and not ip_checksum_ok(data, packets, i):
        return np.int64(N_WRONG_CHECKSUM)
    if more and np.int64(packets["l3_end"][i]) - np.int64(packets["l3"][i]) < f.state["min_size"][0, family]:
        return np.int64(N_TOO_SMALL)
    if size <= 0:
        return np.int64(N_EMPTY)
    if start + size > MAX_IP_SIZE:
        return np.int64(N_TOO_LONG)
    return np.int64(N_MISALIGNED if more and size % UNIT else 0)


@kernel
def _check_against(f: Any, row: Any, start: Any, end: Any, more: Any) -> Any:
    """The counter of how a fragment contradicts the rest of its datagram, or 0."""
    d = f.datagrams
    total = np.int64(d["total"][row])
    if not more and ((total != 0 and end != total) or end < d["end"][row]):
        return np.int64(N_INCONSISTENT)
    if more and total != 0 and end > total:
        return np.int64(N_INCONSISTENT)
    there = count_units(f, row, start, end)
    if there != 0:
        return np.int64(N_DUPLICATE if there > 0 else N_OVERLAPPING)
    return np.int64(N_TOO_MANY if d["n_fragments"][row] >= MAX_PER_DATAGRAM else 0)


@kernel
def _refuse(f: Any, family: Any, counter: Any) -> Any:
    f.counters[family, counter] += 1
    return -counter


@kernel(inline=False)
def _refuse_datagram(f: Any, row: Any) -> Any:
    """Forget what is there of a datagram, and refuse what comes of it until its time is over."""
    empty(f, row, np.int64(N_DROPPED))
    f.datagrams["refused"][row] = 1


@kernel
def _is_complete(f: Any, row: Any) -> Any:
    total = np.int64(f.datagrams["total"][row])
    return total != 0 and f.datagrams["units"][row] == (total + UNIT - 1) // UNIT


@kernel
def _is_too_long(f: Any, row: Any) -> Any:
    """Whether a complete datagram with its headers is longer than a packet, or a frame, can be."""
    fragment = np.int64(f.datagrams["first"][row]) - 1
    if np.int64(f.fragments["header"][fragment]) + np.int64(f.datagrams["total"][row]) > f.state["max_frame"][0]:
        return True
    size = np.int64(f.fragments["header"][fragment]) - np.int64(f.fragments["l3"][fragment])
    if (f.datagrams["key"][row] >> 40) & 1:
        size -= IPV6_SIZE + FRAGMENT_HEADER_SIZE
    return size + np.int64(f.datagrams["total"][row]) > MAX_IP_SIZE


@kernel(inline=False)
def _keep(f: Any, row: Any, b: Any, i: Any, keys: Any, k: Any, start: Any, size: Any, payload: Any, packet: Any) -> Any:
    """Store a fragment; the first one with its headers, which say what keys[k] says."""
    header = l3 = np.int64(0)
    if start != 0:
        fragment = add_fragment(f, row, b.data, b.packets["data"][i] + payload, size)
    else:
        header = payload
        l3 = np.int64(b.packets["l3"][i])
        if is_changed(keys, k, b.original, i):
            shift = rewrite(b.data, b.packets, i, keys, k, b.original, f.scratch, 0) - np.int64(b.packets["length"][i])
            header += shift
            l3 += shift
            fragment = add_fragment(f, row, f.scratch, np.int64(0), header + size)
        else:
            fragment = add_fragment(f, row, b.data, b.packets["data"][i], header + size)
        f.datagrams["first"][row] = fragment + 1
    f.fragments["packet"][fragment] = packet
    f.fragments["start"][fragment] = start
    f.fragments["size"][fragment] = size
    f.fragments["header"][fragment] = header
    f.fragments["l3"][fragment] = l3
    set_units(f, row, start, start + size)


@kernel
def _note(f: Any, row: Any, b: Any, i: Any, keys: Any, k: Any, end: Any, more: Any) -> Any:
    """What a datagram remembers of a fragment besides its bytes."""
    d = f.datagrams
    l3 = np.int64(b.packets["l3"][i])
    l3_size = np.int64(b.packets["l3_end"][i]) - l3
    if not more:
        d["total"][row] = end
    d["end"][row] = max(np.int64(d["end"][row]), end)
    d["mru"][row] = max(np.int64(d["mru"][row]), l3_size)
    if b.packets["family"][i] == 4 and load_be16(b.data, b.packets["data"][i] + l3 + 6) & _DONT_FRAGMENT:
        d["mru_df"][row] = max(np.int64(d["mru_df"][row]), l3_size)
    if (keys[k, W_L4] >> 16) & _CONGESTED == _CONGESTED:
        d["congested"][row] = 1


@kernel(inline=False)
def receive(f: Any, b: Any, i: Any, keys: Any, k: Any, zone: Any, checks: Any, now: Any, packet: Any) -> Any:
    """Take fragment i of `b`, whose key, perhaps changed, is keys[k], at `now` (ms) as one of `zone`.

    `checks`: whether IPv4 header checksums are verified. `packet`: its number among all packets. The frame is no longer
    than `f.scratch` less 64. Returns HELD, SWITCHED_OFF, row + 1 of a datagram that is complete with it (the caller
    takes it out), or minus the counter of why it was refused; it has been counted.
    """
    family = np.int64(0 if b.packets["family"][i] == 4 else 1)
    if f.state["on"][0, family] == 0:
        return np.int64(SWITCHED_OFF)
    key, start, more, payload = _place(b.data, b.packets, i)
    if b.packets["verdict"][i] != VERDICT_OK or payload == 0:
        return _refuse(f, family, np.int64(N_MALFORMED))
    size = np.int64(b.packets["l3_end"][i]) - payload
    if np.int64(b.packets["length"][i]) + 64 > len(f.scratch):
        return _refuse(f, family, np.int64(N_TOO_LONG))
    counter = _check(f, b.data, b.packets, i, family, start, size, more, checks)
    if counter != 0:
        return _refuse(f, family, counter)
    expire_due(f, now)
    key |= zone << 48
    hashed = hash_datagram(f, keys, k, key)
    row = find(f, keys, k, key, hashed)
    if row >= 0:
        if f.datagrams["refused"][row]:
            return _refuse(f, family, np.int64(N_OF_REFUSED))
        counter = _check_against(f, row, start, start + size, more)
        if counter != 0:
            if counter != N_DUPLICATE:
                _refuse_datagram(f, row)
            return _refuse(f, family, counter)
    if not make_room(f, zone, blocks_for(size if start else size + payload + 8), row):
        return _refuse(f, family, np.int64(N_NO_ROOM))
    if row < 0:
        row = take_datagram(f, keys, k, key, hashed, now, packet)
    _keep(f, row, b, i, keys, k, start, size, payload, packet)
    _note(f, row, b, i, keys, k, start + size, more)
    f.counters[family, N_ACCEPTED] += 1
    if not _is_complete(f, row):
        return np.int64(HELD)
    if _is_too_long(f, row):
        _refuse_datagram(f, row)
        return _refuse(f, family, np.int64(N_TOO_LONG))
    return row + 1

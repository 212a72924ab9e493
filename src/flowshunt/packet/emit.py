"""Emit: the bytes of a packet whose key has changed.

The frame is copied and only what differs between the key as parsed and the key as it is now is written; checksums are
corrected by the difference, so a packet that came with a wrong checksum leaves with one just as wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import kernel, load_be16, load_be32, load_be64, store_be16, store_be32, store_be64
from flowshunt.packet.checksum import fold, sctp_update
from flowshunt.packet.network import ARP_ETHERNET_IPV4, ARP_SIZE, IPV6_SIZE, is_extension
from flowshunt.packet.parse import ETHERNET_SIZE
from flowshunt.packet.schema import (
    CHECKSUM_PARTIAL,
    ETH_ARP,
    ETH_RARP,
    ETH_VLAN,
    FRAG_ANY,
    HEADER_WORDS,
    KEY_WORDS,
    NAT_HAS_ID,
    PACKET,
    PROTO_AH,
    PROTO_FRAGMENT,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_ROUTING,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    PROTO_UDPLITE,
    VLAN_PRESENT,
    W_ARP_SHA,
    W_ARP_THA,
    W_ETH_DST,
    W_ETH_SRC,
    W_FLAGS,
    W_L4,
    W_NAT,
    W_ND_TARGET,
    W_NW_DST,
    W_NW_SRC,
)
from flowshunt.packet.transport import ICMP_SIZE, ND_ADVERTISE, ND_SOLICIT, ND_SOURCE_ADDRESS, ND_TARGET_ADDRESS

_LOW32 = 0xFFFFFFFF
_HIGH48 = ~0xFFFF
_LOW48 = 0xFFFFFFFFFFFF


@kernel
def is_changed(keys: Any, k: Any, original: Any, i: Any) -> Any:
    """Whether keys[k] says something else of the packet than original[i]: whether it has to be written anew."""
    difference = keys[k, W_NAT]
    for word in range(HEADER_WORDS):
        difference |= keys[k, word] ^ original[i, word]
    return difference != 0


@kernel(inline=False)
def rewrite(data: Any, packets: Any, i: Any, keys: Any, k: Any, original: Any, out: Any, at: Any) -> Any:
    """Write the frame of parsed packet i to out[at:] so that its headers say what keys[k] says; returns the new length.

    `original`: int64[n, KEY_WORDS], row i the key as parsed. `out`: uint8[m], not overlapping `data`; -1 when the
    frame does not fit, and `out` is unchanged then. Written are MAC addresses, VLAN tags (a tag without a type gets
    0x8100, a tag as it came keeps its drop-eligible bit), ARP fields, IP addresses, TOS or traffic class, TTL or hop
    limit, IPv6 label, ports, ICMP type, code and id, neighbour discovery target and options, and the checksums. (The
    quote of an ICMP error is `requote`'s.)
    Everything else in the key, and fields of headers that the packet doesn't have whole, are ignored. A UDP checksum
    of zero stays, a partial one stays partial. The SCTP checksum of a fragment can't be corrected, and is left.
    """
    source = packets["data"][i]
    length = np.int64(packets["length"][i])
    if length < ETHERNET_SIZE:
        return _copy_short(data, source, length, out, at)
    before = _n_tags(original, i)
    shift = 4 * (_n_tags(keys, k) - before)
    if at + length + shift > out.shape[0]:
        return np.int64(-1)
    _emit_link(data, source, keys, k, original, i, out, at)
    done = 12 + 4 * before
    copy_bytes(data, source + done, out, at + done + shift, length - done)
    family = packets["family"][i]
    if family != 0:
        l3 = at + shift + np.int64(packets["l3"][i])
        if family == 4:
            difference = _emit_ipv4(keys, k, original, i, out, l3)
        else:
            difference = _emit_ipv6(packets, i, keys, k, original, out, l3)
        if packets["l4"][i] != 0:
            _emit_transport(packets, i, keys, k, original, out, at + shift, difference)
    else:
        _emit_arp(packets, i, keys, k, original, out, at + shift)
    return length + shift


@kernel
def copy_bytes(data: Any, start: Any, out: Any, to: Any, size: Any) -> Any:
    """Copy data[start:start + size] to out[to:], eight bytes at a time; the arrays don't overlap."""
    n = np.int64(0)
    while n + 8 <= size:
        store_be64(out, to + n, load_be64(data, start + n))
        n += 8
    while n < size:
        out[to + n] = data[start + n]
        n += 1


@kernel
def _copy_short(data: Any, source: Any, length: Any, out: Any, at: Any) -> Any:
    if at + length > out.shape[0]:
        return np.int64(-1)
    copy_bytes(data, source, out, at, length)
    return length


# --- link layer ------------------------------------------------------------------------------------------------------


@kernel
def _n_tags(keys: Any, k: Any) -> Any:
    """The tags that a key holds; an inner one counts only below an outer one."""
    if (keys[k, W_ETH_SRC] & VLAN_PRESENT) == 0:
        return np.int64(0)
    return np.int64(2) if (keys[k, W_ARP_SHA] & VLAN_PRESENT) != 0 else np.int64(1)


@kernel
def _tag(keys: Any, k: Any, n: Any) -> Any:
    """Tag n, from the outside, as it is in the key: type and TCI in 32 bits."""
    if n == 0:
        return ((keys[k, W_FLAGS] & 0xFFFF) << 16) | (keys[k, W_ETH_SRC] & 0xFFFF)
    return ((keys[k, W_ARP_THA] & 0xFFFF) << 16) | (keys[k, W_ARP_SHA] & 0xFFFF)


@kernel
def _emit_link(data: Any, source: Any, keys: Any, k: Any, original: Any, i: Any, out: Any, at: Any) -> Any:
    """Write MAC addresses and tags; tags are compared with the original's from the inside, as push and pop work."""
    store_be32(out, at, keys[k, W_ETH_DST] >> 32)
    store_be16(out, at + 4, keys[k, W_ETH_DST] >> 16)
    store_be32(out, at + 6, keys[k, W_ETH_SRC] >> 32)
    store_be16(out, at + 10, keys[k, W_ETH_SRC] >> 16)
    after = _n_tags(keys, k)
    before = _n_tags(original, i)
    for n in range(after):
        tag = _tag(keys, k, n)
        was = n + before - after
        if was >= 0 and _tag(original, i, was) == tag:
            tag = load_be32(data, source + 12 + 4 * was)
        else:
            tag &= ~VLAN_PRESENT
            if (tag >> 16) == 0:
                tag |= ETH_VLAN << 16
        store_be32(out, at + 12 + 4 * n, tag)


@kernel
def _emit_arp(packets: Any, i: Any, keys: Any, k: Any, original: Any, out: Any, base: Any) -> Any:
    eth_type = original[i, W_ETH_DST] & 0xFFFF
    l3 = np.int64(packets["l3"][i])
    if (eth_type != ETH_ARP and eth_type != ETH_RARP) or np.int64(packets["l3_end"][i]) - l3 < ARP_SIZE:
        return
    at = base + l3
    if ((load_be64(out, at) >> 16) & _LOW48) != ARP_ETHERNET_IPV4:
        return
    if ((keys[k, W_L4] ^ original[i, W_L4]) & 0xFF000000) != 0:
        store_be16(out, at + 6, (keys[k, W_L4] >> 24) & 0xFF)
    store_be32(out, at + 8, keys[k, W_ARP_SHA] >> 32)
    store_be16(out, at + 12, keys[k, W_ARP_SHA] >> 16)
    store_be32(out, at + 14, keys[k, W_NW_SRC + 1])
    store_be32(out, at + 18, keys[k, W_ARP_THA] >> 32)
    store_be16(out, at + 22, keys[k, W_ARP_THA] >> 16)
    store_be32(out, at + 24, keys[k, W_NW_DST + 1])


# --- network layer ---------------------------------------------------------------------------------------------------


@kernel
def sum_change(old: Any, new: Any) -> Any:
    """What replacing `old` by `new` (64-bit words at even places) adds to a one's complement sum, not folded.

    Zero when nothing changes: the other zero of this arithmetic would turn a checksum of 0xffff into 0.
    """
    if old == new:
        return np.int64(0)
    inverse = old ^ -1
    return (inverse & _LOW32) + ((inverse >> 32) & _LOW32) + (new & _LOW32) + ((new >> 32) & _LOW32)


@kernel
def replace_word(out: Any, at: Any, new: Any) -> Any:
    """Write a 64-bit word; returns its `sum_change`."""
    old = load_be64(out, at)
    store_be64(out, at, new)
    return sum_change(old, new)


@kernel
def correct_checksum(out: Any, at: Any, difference: Any) -> Any:
    """Correct the checksum at byte `at` (RFC 1624 equation 3); returns it."""
    value = load_be16(out, at)
    if difference != 0:
        value = fold((value ^ 0xFFFF) + difference) ^ 0xFFFF
        store_be16(out, at, value)
    return value


@kernel
def _emit_ipv4(keys: Any, k: Any, original: Any, i: Any, out: Any, l3: Any) -> Any:
    """Write the IPv4 header's fields; returns the difference that the pseudo header feels."""
    addresses = replace_word(out, l3 + 12, (keys[k, W_NW_SRC + 1] << 32) | (keys[k, W_NW_DST + 1] & _LOW32))
    old = load_be64(out, l3)
    difference = sum_change(old, (old & ~(0xFF << 48)) | (((keys[k, W_L4] >> 16) & 0xFF) << 48))
    out[l3 + 1] = (keys[k, W_L4] >> 16) & 0xFF
    old = load_be16(out, l3 + 8)
    difference += sum_change(old, (old & 0xFF) | (keys[k, W_L4] & 0xFF00))
    out[l3 + 8] = (keys[k, W_L4] >> 8) & 0xFF
    correct_checksum(out, l3 + 10, addresses + difference)
    return addresses


@kernel
def _emit_ipv6(packets: Any, i: Any, keys: Any, k: Any, original: Any, out: Any, l3: Any) -> Any:
    """Write the IPv6 header's fields; returns the difference that the pseudo header feels."""
    version = load_be32(out, l3) & 0xF0000000
    store_be32(out, l3, version | (((keys[k, W_L4] >> 16) & 0xFF) << 20) | ((keys[k, W_FLAGS] >> 16) & 0xFFFFF))
    out[l3 + 7] = (keys[k, W_L4] >> 8) & 0xFF
    difference = replace_word(out, l3 + 8, keys[k, W_NW_SRC])
    difference += replace_word(out, l3 + 16, keys[k, W_NW_SRC + 1])
    destination = replace_word(out, l3 + 24, keys[k, W_NW_DST])
    destination += replace_word(out, l3 + 32, keys[k, W_NW_DST + 1])
    if packets["options"][i] != 0 and destination != 0:
        size = np.int64(packets["l4"][i]) - np.int64(packets["l3"][i])
        if packets["l4"][i] != 0 and is_routed(out, l3, l3 + size):
            destination = np.int64(0)
    return difference + destination


@kernel(inline=False)
def is_routed(out: Any, l3: Any, l4: Any) -> Any:
    """Whether the final destination is in a routing header and not in the IP header (RFC 8200 section 8.1).

    The extension headers `[l3 + IPV6_SIZE, l4)` have been parsed and are whole.
    """
    protocol = np.int64(out[l3 + 6])
    at = l3 + IPV6_SIZE
    while at < l4 and is_extension(protocol):
        following = np.int64(out[at])
        if protocol == PROTO_ROUTING and out[at + 3] != 0:
            return True
        if protocol == PROTO_FRAGMENT:
            at += 8
        elif protocol == PROTO_AH:
            at += (np.int64(out[at + 1]) + 2) * 4
        else:
            at += (np.int64(out[at + 1]) + 1) * 8
        protocol = following
    return False


# --- transport layer -------------------------------------------------------------------------------------------------


@kernel
def _emit_transport(packets: Any, i: Any, keys: Any, k: Any, original: Any, out: Any, base: Any, pseudo: Any) -> Any:
    """Write ports or ICMP fields, and correct the checksum by that and by `pseudo`, the pseudo header's difference."""
    protocol = (original[i, W_L4] >> 24) & 0xFF
    family = packets["family"][i]
    l4 = base + np.int64(packets["l4"][i])
    end = base + np.int64(packets["l3_end"][i])
    old = (original[i, W_L4] >> 32) & _LOW32
    new = (keys[k, W_L4] >> 32) & _LOW32
    if protocol == PROTO_TCP or protocol == PROTO_UDP:
        store_be32(out, l4, new)
        place = l4 + 16 if protocol == PROTO_TCP else l4 + 6
        _correct_partial_or_whole(packets, i, out, place, pseudo, sum_change(old, new), protocol == PROTO_UDP)
    elif protocol == PROTO_SCTP:
        store_be32(out, l4, new)
        if old != new and (original[i, W_L4] & FRAG_ANY) == 0 and packets["checksum"][i] != CHECKSUM_PARTIAL:
            value = sctp_update(load_be32(out, l4 + 8), old, new, end - l4)
            store_be32(out, l4 + 8, value)
    elif protocol == PROTO_ICMP and family == 4:
        body = _emit_icmp(out, l4, old, new) + _emit_icmp_id(keys, k, out, l4)
        _correct_partial_or_whole(packets, i, out, l4 + 2, np.int64(0), body, False)
    elif protocol == PROTO_ICMPV6 and family == 6:
        body = _emit_icmp(out, l4, old, new) + _emit_icmp_id(keys, k, out, l4)
        body += _emit_neighbour(keys, k, original, i, out, l4, end)
        _correct_partial_or_whole(packets, i, out, l4 + 2, pseudo, body, False)
    elif protocol == PROTO_UDPLITE and end - l4 >= 8:
        _correct_partial_or_whole(packets, i, out, l4 + 6, pseudo, np.int64(0), True)


@kernel(inline=False)
def _correct_partial_or_whole(
    packets: Any, i: Any, out: Any, place: Any, pseudo: Any, body: Any, zero_is_none: Any
) -> Any:
    """Correct the checksum at `place` by the differences of the pseudo header and of what it covers besides.

    A partial checksum is the sum of the pseudo header alone, not inverted. `zero_is_none`: in UDP zero means that
    there is none (left so), and a checksum that comes out as zero is sent as 0xffff.
    """
    if packets["checksum"][i] == CHECKSUM_PARTIAL:
        if pseudo != 0:
            store_be16(out, place, fold(load_be16(out, place) + pseudo))
        return
    if zero_is_none and load_be16(out, place) == 0:
        return
    if correct_checksum(out, place, pseudo + body) == 0 and zero_is_none:
        store_be16(out, place, 0xFFFF)


@kernel
def _emit_icmp(out: Any, l4: Any, old: Any, new: Any) -> Any:
    """Write type and code, 16 bits apart in `new`; returns the difference."""
    old_word = ((old >> 8) & 0xFF00) | (old & 0xFF)
    new_word = ((new >> 8) & 0xFF00) | (new & 0xFF)
    store_be16(out, l4, new_word)
    return sum_change(old_word, new_word)


@kernel
def _emit_icmp_id(keys: Any, k: Any, out: Any, l4: Any) -> Any:
    """Write the id that NAT has given a query; returns the difference."""
    if keys[k, W_NAT] & NAT_HAS_ID == 0:
        return np.int64(0)
    old = load_be16(out, l4 + 4)
    store_be16(out, l4 + 4, keys[k, W_NAT] & 0xFFFF)
    return sum_change(old, keys[k, W_NAT] & 0xFFFF)


@kernel
def _emit_neighbour(keys: Any, k: Any, original: Any, i: Any, out: Any, l4: Any, end: Any) -> Any:
    """Write target and link-layer address options of a neighbour message; returns the difference."""
    kind = (original[i, W_L4] >> 48) & 0xFFFF
    code = (original[i, W_L4] >> 32) & 0xFFFF
    at = l4 + ICMP_SIZE
    if (kind != ND_SOLICIT and kind != ND_ADVERTISE) or code != 0 or end - at < 16:
        return np.int64(0)
    difference = np.int64(0)
    for n in range(2):
        if keys[k, W_ND_TARGET + n] != original[i, W_ND_TARGET + n]:
            difference += replace_word(out, at + 8 * n, keys[k, W_ND_TARGET + n])
    for option, word in ((ND_SOURCE_ADDRESS, W_ARP_SHA), (ND_TARGET_ADDRESS, W_ARP_THA)):
        if ((keys[k, word] ^ original[i, word]) & _HIGH48) != 0:
            place = _find_option(out, at + 16, end, option)
            if place >= 0:
                address = (keys[k, word] >> 16) & _LOW48
                difference += replace_word(out, place, (load_be64(out, place) & ~_LOW48) | address)
    return difference


@kernel(inline=False)
def _find_option(out: Any, at: Any, end: Any, option: Any) -> Any:
    """Where the first option of this kind and of 8 bytes is; -1: nowhere."""
    while end - at >= 8:
        size = np.int64(out[at + 1]) * 8
        if size == 0 or size > end - at:
            break
        if size == 8 and np.int64(out[at]) == option:
            return at
        at += size
    return np.int64(-1)


def _example() -> tuple[Any, ...]:
    keys = np.zeros((1, KEY_WORDS), np.int64)
    return np.zeros(64, np.uint8), np.zeros(1, PACKET), 0, keys, 0, keys, np.zeros(64, np.uint8), 0


@kernel(example=_example)
def rewrite_one(data: Any, packets: Any, i: Any, keys: Any, k: Any, original: Any, out: Any, at: Any) -> Any:
    """`rewrite` as an entry point, for tests and the slow path."""
    return rewrite(data, packets, i, keys, k, original, out, at)

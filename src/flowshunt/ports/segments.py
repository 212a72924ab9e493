"""What devices leave undone: GSO packets are cut into segments, partial checksums completed.

As Linux does it: each segment has the headers of the packet, its own length, the next IPv4 identification and sequence
number; FIN and PSH stay with the last segment and CWR with the first (RFC 3168 section 6.1.2). TCP and UDP (GSO type 5)
over IPv4 and IPv6, behind any number of tags.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import kernel, load_be16, load_be32, store_be16, store_be32
from flowshunt.packet.checksum import checksum, fold, pseudo_header, sctp_checksum
from flowshunt.packet.emit import copy_bytes
from flowshunt.packet.network import IPV4_SIZE, IPV6_SIZE, MAX_EXTENSION_HEADERS, is_extension
from flowshunt.packet.schema import (
    ETH_IPV4,
    ETH_IPV6,
    ETH_QINQ,
    ETH_QINQ_OLD,
    ETH_VLAN,
    PROTO_AH,
    PROTO_FRAGMENT,
    PROTO_TCP,
    PROTO_UDP,
)

GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP = 0, 1, 4, 5
"""GSO types (virtio 1.2 section 5.1.6; the fifth cuts UDP payload into datagrams)."""
GSO_ECN = 0x80
"""Bit of a GSO type: CWR is set, which belongs into the first segment in any case."""

UDP_CHECKSUM, SCTP_CHECKSUM, TCP_CHECKSUM, ICMP_CHECKSUM = 6, 8, 16, 2
"""Where a transport header has its checksum."""

_TCP_SIZE, _UDP_SIZE = 20, 8
_FIN_PSH, _CWR = 0x09, 0x80
_FRAGMENT = 0x3FFF
_U32 = 0xFFFFFFFF


@kernel
def link_size(data: Any, at: Any) -> Any:
    """Bytes of the frame's Ethernet header and tags; the frame at data[at:] has at least 14."""
    size = np.int64(14)
    while at + size <= len(data):
        kind = load_be16(data, at + size - 2)
        if kind != ETH_VLAN and kind != ETH_QINQ and kind != ETH_QINQ_OLD:
            break
        size += 4
    return size


@kernel(inline=False)
def _find_transport(data: Any, l3: Any, end: Any, wanted: Any) -> Any:
    """Where the header of protocol `wanted` begins in the IP packet data[l3:end]; -1: it is not the outermost one."""
    kind = load_be16(data, l3 - 2)
    if kind == ETH_IPV4 and end - l3 >= IPV4_SIZE:
        if np.int64(data[l3 + 9]) != wanted or load_be16(data, l3 + 6) & _FRAGMENT:
            return np.int64(-1)
        return l3 + max((np.int64(data[l3]) & 0xF) * 4, IPV4_SIZE)
    if kind != ETH_IPV6 or end - l3 < IPV6_SIZE:
        return np.int64(-1)
    protocol = np.int64(data[l3 + 6])
    at = l3 + IPV6_SIZE
    for _ in range(MAX_EXTENSION_HEADERS):
        if protocol == wanted:
            return at
        if not is_extension(protocol) or protocol == PROTO_FRAGMENT or end - at < 8:
            break
        words = np.int64(data[at + 1])
        protocol = np.int64(data[at])
        at += (words + 2) * 4 if protocol == PROTO_AH else (words + 1) * 8
    return np.int64(-1)


@kernel(inline=False)
def find_payload(data: Any, at: Any, end: Any, kind: Any, start: Any) -> Any:
    """Of the GSO packet data[at:end], of GSO type `kind`: `(l4, payload)`, where transport header and payload begin.

    `start`: where its partial checksum begins, 0 when that is whole. Both are 0 for what cannot be cut: other types,
    tunnels, and packets that are not what their type says.
    """
    kind &= ~GSO_ECN
    if end - at < 14 or end > len(data) or (kind != GSO_TCPV4 and kind != GSO_TCPV6 and kind != GSO_UDP):
        return np.int64(0), np.int64(0)
    l3 = at + link_size(data, at)
    if l3 > end:
        return np.int64(0), np.int64(0)
    l4 = _find_transport(data, l3, end, np.int64(PROTO_UDP if kind == GSO_UDP else PROTO_TCP))
    least = np.int64(_UDP_SIZE if kind == GSO_UDP else _TCP_SIZE)
    if l4 < 0 or end - l4 < least or (start != 0 and start != l4):
        return np.int64(0), np.int64(0)
    payload = l4 + (np.int64(_UDP_SIZE) if kind == GSO_UDP else (np.int64(data[l4 + 12]) >> 4) * 4)
    if payload < l4 + least or payload > end:
        return np.int64(0), np.int64(0)
    return l4, payload


@kernel(inline=False)
def write_segment(
    data: Any, at: Any, l4: Any, payload: Any, end: Any, size: Any, number: Any, out: Any, to: Any
) -> Any:
    """Write segment `number` of the GSO packet data[at:end] to out[to:]; returns its length.

    `l4`, `payload`: as `find_payload` says. `size`: payload of a segment. There is room for headers and payload.
    """
    first = payload + number * size
    length = min(size, end - first)
    headers = payload - at
    copy_bytes(data, at, out, to, headers)
    copy_bytes(data, first, out, to + headers, length)
    stop = to + headers + length
    l3 = to + link_size(data, at)
    l4 += to - at
    family = np.int64(4 if load_be16(out, l3 - 2) == ETH_IPV4 else 6)
    if family == 4:
        store_be16(out, l3 + 2, stop - l3)
        store_be16(out, l3 + 4, load_be16(out, l3 + 4) + number)
        store_be16(out, l3 + 10, np.int64(0))
        store_be16(out, l3 + 10, checksum(out, l3, l3 + (np.int64(out[l3]) & 0xF) * 4, np.int64(0)))
    else:
        store_be16(out, l3 + 4, stop - l3 - IPV6_SIZE)
    if payload - at - (l4 - to) == _UDP_SIZE:
        _finish_udp(out, l3, l4, stop, family)
    else:
        _finish_tcp(out, l3, l4, stop, family, number * size, number != 0, first + length < end)
    return headers + length


@kernel
def _finish_tcp(out: Any, l3: Any, l4: Any, stop: Any, family: Any, passed: Any, follows: Any, goes_on: Any) -> Any:
    store_be32(out, l4 + 4, (load_be32(out, l4 + 4) + passed) & _U32)
    flags = np.int64(out[l4 + 13])
    if goes_on:
        flags &= ~_FIN_PSH
    if follows:
        flags &= ~_CWR
    out[l4 + 13] = flags
    store_be16(out, l4 + TCP_CHECKSUM, np.int64(0))
    pseudo = pseudo_header(out, l3, family, np.int64(PROTO_TCP), stop - l4)
    store_be16(out, l4 + TCP_CHECKSUM, checksum(out, l4, stop, pseudo))


@kernel
def _finish_udp(out: Any, l3: Any, l4: Any, stop: Any, family: Any) -> Any:
    store_be16(out, l4 + 4, stop - l4)
    if load_be16(out, l4 + UDP_CHECKSUM) == 0:
        return
    store_be16(out, l4 + UDP_CHECKSUM, np.int64(0))
    pseudo = pseudo_header(out, l3, family, np.int64(PROTO_UDP), stop - l4)
    value = checksum(out, l4, stop, pseudo)
    store_be16(out, l4 + UDP_CHECKSUM, value if value != 0 else np.int64(0xFFFF))


@kernel(inline=False)
def complete_checksum(out: Any, start: Any, end: Any, offset: Any) -> Any:
    """Complete the partial checksum of the frame that ends at out[end]: it covers all from `start` on.

    It lies `offset` bytes behind there; at 8 it is SCTP's. What does not fit into the frame is left alone.
    """
    if start < 0 or offset < 0 or start + offset + (4 if offset == SCTP_CHECKSUM else 2) > end:
        return
    if offset == SCTP_CHECKSUM:
        store_be32(out, start + offset, sctp_checksum(out, start, end))
        return
    value = checksum(out, start, end, np.int64(0))
    if value == 0 and offset == UDP_CHECKSUM:
        value = np.int64(0xFFFF)
    store_be16(out, start + offset, value)


@kernel(inline=False)
def find_partial(data: Any, at: Any, end: Any) -> Any:
    """`(start, offset)` of a checksum of the frame data[at:end] that is likely partial, from its first byte; else 0, 0.

    For frames that lost the mark on their way: what stands where the checksum belongs is the sum of the pseudo header
    alone. A whole checksum that happens to be that number stays what it is when it is completed.
    """
    l3 = at + link_size(data, at)
    if l3 > end or l3 + IPV4_SIZE > end:
        return np.int64(0), np.int64(0)
    kind = load_be16(data, l3 - 2)
    family = np.int64(4 if kind == ETH_IPV4 else 6)
    for protocol, offset, size in ((PROTO_TCP, TCP_CHECKSUM, _TCP_SIZE), (PROTO_UDP, UDP_CHECKSUM, _UDP_SIZE)):
        l4 = _find_transport(data, l3, end, np.int64(protocol))
        if l4 < 0 or end - l4 < size:
            continue
        stop = l3 + load_be16(data, l3 + 2) if family == 4 else l3 + IPV6_SIZE + load_be16(data, l3 + 4)
        value = load_be16(data, l4 + offset)
        if stop > end or stop < l4 + size or (value == 0 and protocol == PROTO_UDP):
            break
        if fold(pseudo_header(data, l3, family, np.int64(protocol), stop - l4)) == value:
            return l4 - at, np.int64(offset)
        break
    return np.int64(0), np.int64(0)

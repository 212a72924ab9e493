"""Network headers: IPv4, IPv6 with its extension headers, ARP.

Offsets are from the frame's first byte. The IP kernels return `(l4, l3_end, word, verdict)`: `word` is the key's L4
word without ports, l4 is 0 when the transport header can't be found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import kernel, load_be16, load_be32, load_be64
from flowshunt.packet.schema import (
    FRAG_ANY,
    FRAG_LATER,
    PROTO_AH,
    PROTO_DESTINATION,
    PROTO_FRAGMENT,
    PROTO_HOP_BY_HOP,
    PROTO_ROUTING,
    VERDICT_BAD_EXTENSION,
    VERDICT_BAD_IPV4,
    VERDICT_BAD_IPV6,
    VERDICT_OK,
    VERDICT_SHORT_ARP,
    VERDICT_SHORT_IPV4,
    VERDICT_SHORT_IPV6,
    W_ARP_SHA,
    W_ARP_THA,
    W_FLAGS,
    W_L4,
    W_NW_DST,
    W_NW_SRC,
)

IPV4_SIZE = 20
IPV6_SIZE = 40
ARP_SIZE = 28
MAX_EXTENSION_HEADERS = 256
"""More headers than this in one packet are refused. Open vSwitch sets no limit; real chains have up to four."""

ARP_ETHERNET_IPV4 = (1 << 32) | (0x0800 << 16) | (6 << 8) | 4
_LOW32 = 0xFFFFFFFF
_HIGH48 = ~0xFFFF


@kernel
def ipv4(data: Any, packets: Any, i: Any, keys: Any, k: Any, l3: Any, end: Any) -> Any:
    """Read the IPv4 header at l3 of a frame whose bytes end at `end`.

    The version nibble is not looked at (Open vSwitch goes by the Ethernet type). A total length beyond `end` is
    VERDICT_BAD_IPV4, yet the transport header is read as far as it is there; with a wrong header length, or a total
    length below it, it isn't.
    """
    if end - l3 < IPV4_SIZE:
        return np.int64(0), end, np.int64(0), VERDICT_SHORT_IPV4
    at = packets["data"][i] + l3
    first = load_be64(data, at)
    second = load_be64(data, at + 8)
    destination = load_be32(data, at + 16)
    packets["family"][i] = 4
    keys[k, W_NW_SRC + 1] = second & _LOW32
    keys[k, W_NW_DST + 1] = destination
    fragment = np.int64(0)
    if (first & 0x3FFF) != 0:
        fragment = np.int64(FRAG_ANY)
        if (first & 0x1FFF) != 0:
            fragment = np.int64(FRAG_ANY | FRAG_LATER)
    word = (((second >> 48) & 0xFF) << 24) | (((first >> 48) & 0xFF) << 16) | (((second >> 56) & 0xFF) << 8) | fragment
    header = (first >> 54) & 0x3C
    l4 = l3 + header
    l3_end = l3 + ((first >> 32) & 0xFFFF)
    if header != IPV4_SIZE:
        packets["options"][i] = 1
        if header < IPV4_SIZE or l4 > end:
            return np.int64(0), min(l3_end, end), word, VERDICT_BAD_IPV4
    if l3_end > end:
        return l4, end, word, VERDICT_BAD_IPV4
    if l3_end < l4:
        return np.int64(0), l3_end, word, VERDICT_BAD_IPV4
    return l4, l3_end, word, VERDICT_OK


@kernel
def ipv6(data: Any, packets: Any, i: Any, keys: Any, k: Any, l3: Any, end: Any) -> Any:
    """Read the IPv6 header at l3 and its extension headers; a payload length beyond `end` is VERDICT_BAD_IPV6."""
    if end - l3 < IPV6_SIZE:
        return np.int64(0), end, np.int64(0), VERDICT_SHORT_IPV6
    at = packets["data"][i] + l3
    first = load_be64(data, at)
    packets["family"][i] = 6
    keys[k, W_NW_SRC] = load_be64(data, at + 8)
    keys[k, W_NW_SRC + 1] = load_be64(data, at + 16)
    keys[k, W_NW_DST] = load_be64(data, at + 24)
    keys[k, W_NW_DST + 1] = load_be64(data, at + 32)
    keys[k, W_FLAGS] = keys[k, W_FLAGS] | (((first >> 32) & 0xFFFFF) << 16)
    word = (((first >> 52) & 0xFF) << 16) | ((first & 0xFF) << 8)
    protocol = (first >> 8) & 0xFF
    l4 = l3 + IPV6_SIZE
    l3_end = l4 + ((first >> 16) & 0xFFFF)
    verdict = VERDICT_OK
    if l3_end > end:
        l3_end = end
        verdict = VERDICT_BAD_IPV6
    if is_extension(protocol):
        packets["options"][i] = 1
        frame = packets["data"][i]
        at, protocol, fragment = extension_headers(data, frame + l4, frame + l3_end, protocol)
        word |= fragment
        l4 = at - frame
        if at < 0:
            l4 = np.int64(0)
            verdict = VERDICT_BAD_EXTENSION if verdict == VERDICT_OK else verdict
    return l4, l3_end, word | (protocol << 24), verdict


@kernel
def is_extension(protocol: Any) -> Any:
    """Whether a header of this number says which one follows it.

    ESP hides it, no-next-header and mobility (RFC 6275 section 6.1.1) have none: they end the chain, and count as the
    protocol.
    """
    return (
        protocol == PROTO_HOP_BY_HOP
        or protocol == PROTO_ROUTING
        or protocol == PROTO_FRAGMENT
        or protocol == PROTO_AH
        or protocol == PROTO_DESTINATION
    )


@kernel(inline=False)
def extension_headers(data: Any, at: Any, end: Any, protocol: Any) -> Any:
    """Walk the chain that starts at byte `at` of `data`: returns `(at, protocol, fragment)` of what it leads to.

    `at` is -1 when a header reaches beyond `end` or there are too many; `protocol` is then that header's number. A
    later fragment ends the walk with PROTO_FRAGMENT, as in Open vSwitch; a fragment header that says "whole" is
    passed over.
    """
    fragment = np.int64(0)
    for _ in range(MAX_EXTENSION_HEADERS):
        if not is_extension(protocol):
            return at, protocol, fragment
        if end - at < 8:
            return np.int64(-1), protocol, fragment
        following = np.int64(data[at])
        size = np.int64(8)
        if protocol == PROTO_FRAGMENT:
            place = load_be16(data, at + 2)
            if place != 0:
                fragment = np.int64(FRAG_ANY)
            if (place & 0xFFF8) != 0:
                return at + 8, np.int64(PROTO_FRAGMENT), np.int64(FRAG_ANY | FRAG_LATER)
        elif protocol == PROTO_AH:
            size = (np.int64(data[at + 1]) + 2) * 4
        else:
            size = (np.int64(data[at + 1]) + 1) * 8
        if end - at < size:
            return np.int64(-1), protocol, fragment
        at += size
        protocol = following
    if not is_extension(protocol):
        return at, protocol, fragment
    return np.int64(-1), protocol, fragment


@kernel(inline=False)
def arp(data: Any, packets: Any, i: Any, keys: Any, k: Any, l3: Any, end: Any) -> Any:
    """Read ARP or RARP; returns a verdict. Only Ethernet with IPv4 has fields; an operation above 255 reads as 0."""
    if end - l3 < ARP_SIZE:
        return VERDICT_SHORT_ARP
    at = packets["data"][i] + l3
    first = load_be64(data, at)
    if ((first >> 16) & 0xFFFFFFFFFFFF) != ARP_ETHERNET_IPV4:
        return VERDICT_OK
    operation = first & 0xFFFF
    if operation <= 0xFF:
        keys[k, W_L4] = operation << 24
    keys[k, W_NW_SRC + 1] = load_be32(data, at + 14)
    keys[k, W_NW_DST + 1] = load_be32(data, at + 24)
    keys[k, W_ARP_SHA] = keys[k, W_ARP_SHA] | (load_be64(data, at + 8) & _HIGH48)
    keys[k, W_ARP_THA] = keys[k, W_ARP_THA] | (load_be64(data, at + 18) & _HIGH48)
    return VERDICT_OK

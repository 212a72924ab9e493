"""Transport headers: TCP with options, UDP, SCTP, ICMP, ICMPv6 with neighbour discovery.

Each reads its header at `[l4, l3_end)` of the frame, completes the key's L4 word and returns
`(l4, payload, verdict)`: l4 is 0 when the fixed header isn't whole, payload 0 when there is none. The ports of a
header that is cut off stay in the key as far as its bytes are there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import kernel, load_be16, load_be32, load_be64
from flowshunt.packet.icmp import ICMP_QUERY, classify
from flowshunt.packet.schema import (
    FRAG_ANY,
    FRAG_LATER,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VERDICT_BAD_TCP,
    VERDICT_BAD_UDP,
    VERDICT_OK,
    VERDICT_SHORT_L4,
    W_ARP_SHA,
    W_ARP_THA,
    W_FLAGS,
    W_L4,
    W_ND_TARGET,
)

TCP_SIZE = 20
UDP_SIZE = 8
ICMP_SIZE = 8
SCTP_SIZE = 12

TCP_SYN = 0x02
MAX_WINDOW_SCALE = 14
"""RFC 7323 section 2.3: a larger shift counts as this one."""

_OPTION_END = 0
_OPTION_NOP = 1
_OPTION_WINDOW_SCALE = 3
ND_SOLICIT = 135
ND_ADVERTISE = 136
ND_SOURCE_ADDRESS = 1
ND_TARGET_ADDRESS = 2
_HIGH48 = ~0xFFFF


@kernel
def transport(data: Any, packets: Any, i: Any, keys: Any, k: Any, l4: Any, l3_end: Any, word: Any) -> Any:
    """Read the header after the IP header into keys[k] and packets[i].

    `word` is the key's L4 word without ports; it is stored with them. Other protocols, also UDP-Lite and IGMP, have
    no ports (Open vSwitch tracks them by address), and an L4 even when it is empty. A fragment is judged when it is
    put together.
    """
    protocol = (word >> 24) & 0xFF
    keys[k, W_L4] = word
    if (word & FRAG_LATER) != 0:
        return np.int64(0), np.int64(0), VERDICT_OK
    size = l3_end - l4
    at = packets["data"][i] + l4
    payload = np.int64(0)
    verdict = VERDICT_OK
    least = np.int64(0)
    if protocol == PROTO_UDP:
        least = UDP_SIZE
        if size >= UDP_SIZE:
            header = load_be64(data, at)
            keys[k, W_L4] = (header & ~0xFFFFFFFF) | word
            payload = l4 + UDP_SIZE
            length = (header >> 16) & 0xFFFF
            if length < UDP_SIZE or length > size:
                verdict = VERDICT_BAD_UDP
    elif protocol == PROTO_TCP:
        least = TCP_SIZE
        if size >= TCP_SIZE:
            payload = _tcp(data, packets, i, keys, k, l4, size, word)
            if payload == 0:
                verdict = VERDICT_BAD_TCP
    elif protocol == PROTO_SCTP:
        least = SCTP_SIZE
        if size >= SCTP_SIZE:
            keys[k, W_L4] = (load_be32(data, at) << 32) | word
            payload = l4 + SCTP_SIZE
    elif _is_icmp(packets, i, protocol):
        least = ICMP_SIZE
        if size >= ICMP_SIZE:
            _icmp(data, packets, i, keys, k, l4, l3_end, word)
            payload = l4 + ICMP_SIZE
    if size < least:
        keys[k, W_L4] = _cut_off(data, at, size, protocol, word)
        l4 = np.int64(0)
        verdict = VERDICT_SHORT_L4
    if (word & FRAG_ANY) != 0:
        verdict = VERDICT_OK
    return l4, payload, verdict


@kernel
def _is_icmp(packets: Any, i: Any, protocol: Any) -> Any:
    """Each of the two counts only in its own family."""
    family = packets["family"][i]
    return (protocol == PROTO_ICMP and family == 4) or (protocol == PROTO_ICMPV6 and family == 6)


@kernel(inline=False)
def _cut_off(data: Any, at: Any, size: Any, protocol: Any, word: Any) -> Any:
    """The L4 word of a header that isn't whole: with ports, or ICMP type and code, when those are there."""
    if protocol == PROTO_ICMP or protocol == PROTO_ICMPV6:
        if size < 2:
            return word
        return (np.int64(data[at]) << 48) | (np.int64(data[at + 1]) << 32) | word
    return (load_be32(data, at) << 32) | word if size >= 4 else word


@kernel
def _tcp(data: Any, packets: Any, i: Any, keys: Any, k: Any, l4: Any, size: Any, word: Any) -> Any:
    """Read a TCP header of at least TCP_SIZE bytes; returns where its payload starts, 0 when its length is wrong."""
    at = packets["data"][i] + l4
    first = load_be64(data, at)
    second = load_be64(data, at + 8)
    flags = (second >> 16) & 0xFFF
    length = (second >> 26) & 0x3C
    keys[k, W_L4] = (first & ~0xFFFFFFFF) | word
    keys[k, W_FLAGS] = keys[k, W_FLAGS] | (flags << 48)
    packets["seq"][i] = first & 0xFFFFFFFF
    packets["ack"][i] = (second >> 32) & 0xFFFFFFFF
    packets["window"][i] = second & 0xFFFF
    if length < TCP_SIZE or length > size:
        return np.int64(0)
    if (flags & TCP_SYN) != 0 and length > TCP_SIZE:
        _window_scale(data, packets, i, at + TCP_SIZE, at + length)
    return l4 + length


@kernel(inline=False)
def _window_scale(data: Any, packets: Any, i: Any, at: Any, end: Any) -> Any:
    """Find the window scale among the options `[at, end)` of a SYN; a damaged option ends the search."""
    while end - at >= 3:
        kind = np.int64(data[at])
        if kind == _OPTION_END:
            return
        if kind == _OPTION_NOP:
            at += 1
            continue
        if kind == _OPTION_WINDOW_SCALE:
            packets["wscale"][i] = min(np.int64(data[at + 2]), MAX_WINDOW_SCALE)
        at += max(np.int64(data[at + 1]), 2)


@kernel(inline=False)
def _icmp(data: Any, packets: Any, i: Any, keys: Any, k: Any, l4: Any, l3_end: Any, word: Any) -> Any:
    """Read an ICMP or ICMPv6 header of at least ICMP_SIZE bytes."""
    frame = packets["data"][i]
    header = load_be64(data, frame + l4)
    icmp_type = (header >> 56) & 0xFF
    code = (header >> 48) & 0xFF
    protocol = (word >> 24) & 0xFF
    keys[k, W_L4] = (icmp_type << 48) | (code << 32) | word
    if classify(protocol, icmp_type) == ICMP_QUERY or (protocol == PROTO_ICMP and 17 <= icmp_type <= 18):
        # Address mask queries, which only Linux tracks, have an id too.
        packets["icmp_id"][i] = (header >> 16) & 0xFFFF
    if protocol == PROTO_ICMPV6 and code == 0 and (icmp_type == ND_SOLICIT or icmp_type == ND_ADVERTISE):
        _neighbour(data, keys, k, frame + l4 + ICMP_SIZE, frame + l3_end)


@kernel
def _neighbour(data: Any, keys: Any, k: Any, at: Any, end: Any) -> Any:
    """Read target and link-layer address options of a neighbour message whose body is `[at, end)`.

    The same option twice makes all three fields zero, and an option of a wrong length ends the search, as in Open
    vSwitch.
    """
    if end - at < 16:
        return
    keys[k, W_ND_TARGET] = load_be64(data, at)
    keys[k, W_ND_TARGET + 1] = load_be64(data, at + 8)
    at += 16
    while end - at >= 8:
        size = np.int64(data[at + 1]) * 8
        if size == 0 or size > end - at:
            return
        kind = np.int64(data[at])
        if size == 8 and (kind == ND_SOURCE_ADDRESS or kind == ND_TARGET_ADDRESS):
            word = W_ARP_SHA if kind == ND_SOURCE_ADDRESS else W_ARP_THA
            if (keys[k, word] & _HIGH48) != 0:
                _forget_neighbour(keys, k)
                return
            address = (load_be16(data, at + 2) << 48) | (load_be32(data, at + 4) << 16)
            keys[k, word] = keys[k, word] | address
        at += size


@kernel
def _forget_neighbour(keys: Any, k: Any) -> Any:
    keys[k, W_ND_TARGET] = 0
    keys[k, W_ND_TARGET + 1] = 0
    keys[k, W_ARP_SHA] = keys[k, W_ARP_SHA] & 0xFFFF
    keys[k, W_ARP_THA] = keys[k, W_ARP_THA] & 0xFFFF

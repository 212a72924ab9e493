"""Requote: the packet that an ICMP error quotes, translated in the frame that leaves.

What is quoted may be cut short, so checksums of the quoted transport header are corrected where they are there; the
quoted IPv4 header's always, and the error's own by the sum of all that. Nothing is computed anew: what came wrong
leaves as wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import kernel, load_be16, load_be32, store_be16, store_be32
from flowshunt.packet.checksum import sctp_update
from flowshunt.packet.emit import correct_checksum, is_routed, replace_word, sum_change
from flowshunt.packet.network import IPV4_SIZE, IPV6_SIZE, extension_headers
from flowshunt.packet.schema import (
    CHECKSUM_PARTIAL,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    PROTO_UDPLITE,
)
from flowshunt.packet.transport import ICMP_SIZE, SCTP_SIZE

_LOW32 = 0xFFFFFFFF
_QUOTED_L4_SIZE = 8


@kernel(inline=False)
def requote(packets: Any, i: Any, quotes: Any, n: Any, out: Any, base: Any) -> Any:
    """Make the quote of ICMP error i, whose rewritten frame is out[base:] less the growth by tags, say quotes[n].

    `quotes`: int64 (n, at least 5): source and destination (high, low), and a word with the ports (or the ICMP id
    twice) in its upper half and the protocol at bit 8. `base`: offsets of packets[i] count from here. The packet has
    been parsed, and `parse_quoted` has found the quote good; a quote that is not leaves the frame as it is.
    """
    l4 = base + np.int64(packets["l4"][i])
    end = base + np.int64(packets["l3_end"][i])
    l3 = l4 + ICMP_SIZE
    if packets["family"][i] == 4:
        if end - l3 < IPV4_SIZE:
            return
        at = l3 + ((np.int64(out[l3]) & 0xF) << 2)
        pseudo, change = _requote_ipv4(quotes, n, out, l3)
        size = load_be16(out, l3 + 2) - (at - l3)
    else:
        if end - l3 < IPV6_SIZE:
            return
        at, _, _ = extension_headers(out, l3 + IPV6_SIZE, end, np.int64(out[l3 + 6]))
        if at < 0:
            return
        pseudo, change = _requote_ipv6(quotes, n, out, l3, at)
        size = load_be16(out, l3 + 4) - (at - l3 - IPV6_SIZE)
    if end - at >= _QUOTED_L4_SIZE:
        change += _requote_transport(quotes[n, 4], out, at, end, size, pseudo)
    if packets["checksum"][i] != CHECKSUM_PARTIAL:
        correct_checksum(out, l4 + 2, change)


@kernel
def _requote_ipv4(quotes: Any, n: Any, out: Any, l3: Any) -> Any:
    """Write addresses and checksum of a header: what the pseudo header feels, and what the error's checksum feels."""
    pseudo = replace_word(out, l3 + 12, quotes[n, 1] << 32 | quotes[n, 3] & _LOW32)
    return pseudo, pseudo + _corrected(out, l3 + 10, pseudo)


@kernel
def _requote_ipv6(quotes: Any, n: Any, out: Any, l3: Any, at: Any) -> Any:
    """Write addresses: the same two; the pseudo header has another destination where there is a routing header."""
    source = replace_word(out, l3 + 8, quotes[n, 0]) + replace_word(out, l3 + 16, quotes[n, 1])
    destination = replace_word(out, l3 + 24, quotes[n, 2]) + replace_word(out, l3 + 32, quotes[n, 3])
    return source if is_routed(out, l3, at) else source + destination, source + destination


@kernel
def _corrected(out: Any, at: Any, change: Any) -> Any:
    """Correct the checksum at byte `at`; returns what that changes in a sum over it."""
    old = load_be16(out, at)
    return sum_change(old, correct_checksum(out, at, change))


@kernel
def _requote_transport(word: Any, out: Any, at: Any, end: Any, size: Any, pseudo: Any) -> Any:
    """Write ports or id, and correct the checksum if it is there; returns what the error's checksum feels.

    `size`: bytes of the transport packet when it was whole.
    """
    protocol = (word >> 8) & 0xFF
    if protocol == PROTO_ICMP or protocol == PROTO_ICMPV6:
        old = load_be16(out, at + 4)
        store_be16(out, at + 4, (word >> 32) & 0xFFFF)
        change = sum_change(old, (word >> 32) & 0xFFFF)
        return change + _corrected(out, at + 2, change if protocol == PROTO_ICMP else change + pseudo)
    if protocol == PROTO_UDPLITE:
        return _correct_udp(out, at + 6, pseudo)
    if protocol != PROTO_TCP and protocol != PROTO_UDP and protocol != PROTO_SCTP:
        return np.int64(0)
    old, new = load_be32(out, at), (word >> 32) & _LOW32
    store_be32(out, at, new)
    change = sum_change(old, new)
    if protocol == PROTO_UDP:
        return change + _correct_udp(out, at + 6, change + pseudo)
    if protocol == PROTO_TCP and end - at >= 18:
        return change + _corrected(out, at + 16, change + pseudo)
    if protocol == PROTO_SCTP and end - at >= SCTP_SIZE and size >= SCTP_SIZE and old != new:
        before = load_be32(out, at + 8)
        store_be32(out, at + 8, sctp_update(before, old, new, size))
        change += sum_change(before, load_be32(out, at + 8))
    return change


@kernel
def _correct_udp(out: Any, at: Any, change: Any) -> Any:
    """As `_corrected`; zero means that there is no checksum."""
    old = load_be16(out, at)
    if old == 0:
        return np.int64(0)
    if correct_checksum(out, at, change) == 0:
        store_be16(out, at, 0xFFFF)
    return sum_change(old, load_be16(out, at))

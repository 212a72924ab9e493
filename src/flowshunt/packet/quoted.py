"""The packet that an ICMP or ICMPv6 error quotes."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import kernel, load_be16, load_be32, load_be64
from flowshunt.packet.icmp import ICMP_ERROR, ICMP_QUERY, classify
from flowshunt.packet.network import IPV4_SIZE, IPV6_SIZE, extension_headers
from flowshunt.packet.schema import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VERDICT_OK,
    W_L4,
    W_NW_DST,
    W_NW_SRC,
)
from flowshunt.packet.transport import ICMP_SIZE

QUOTED_L4_SIZE = 8
"""What an error has to quote of the transport header (RFC 792)."""


@kernel(inline=False)
def parse_quoted(data: Any, packets: Any, i: Any, keys: Any, k: Any, j: Any) -> Any:
    """Parse the packet quoted in ICMP or ICMPv6 error i into keys[k], words W_NW_SRC to W_L4, its id into packets[j].

    keys[k] holds the quoted packet as it was sent: its source is the destination of the error. Of packets[j] only
    `icmp_id` is written (0 unless a query is quoted); j may be i. Returns False, with those places undefined, when
    the quote can't name a connection. The rules are Open vSwitch's: packet i is whole and an error type, the quoted
    IPv4 header is whole with a length of at least 20, the quote is no fragment, its source is the destination of
    packet i, at least 8 bytes of TCP, UDP, SCTP or ICMP are there, quoted ICMP is a query of code 0. Lengths inside
    the quote are not believed, nor missed: quotes are cut.
    """
    if packets["verdict"][i] != VERDICT_OK or packets["l4"][i] == 0:
        return False
    frame = packets["data"][i]
    l4 = frame + np.int64(packets["l4"][i])
    end = frame + np.int64(packets["l3_end"][i])
    if end - l4 < ICMP_SIZE or not _is_error(data, packets, i, l4):
        return False
    l3 = l4 + ICMP_SIZE
    if packets["family"][i] == 4:
        at, word = _ipv4(data, keys, k, l3, end)
        outer = frame + np.int64(packets["l3"][i]) + 16
        if at < 0 or keys[k, W_NW_SRC + 1] != load_be32(data, outer):
            return False
    else:
        at, word = _ipv6(data, keys, k, l3, end)
        outer = frame + np.int64(packets["l3"][i]) + 24
        if at < 0 or keys[k, W_NW_SRC] != load_be64(data, outer):
            return False
        if keys[k, W_NW_SRC + 1] != load_be64(data, outer + 8):
            return False
    return _transport(data, packets, i, j, keys, k, at, end, word)


@kernel
def _is_error(data: Any, packets: Any, i: Any, l4: Any) -> Any:
    """Asks the packet and not the key, which actions may have changed."""
    l3 = packets["data"][i] + np.int64(packets["l3"][i])
    if packets["family"][i] == 4:
        if (load_be16(data, l3 + 6) & 0x3FFF) != 0:
            return False
        return data[l3 + 9] == PROTO_ICMP and classify(PROTO_ICMP, np.int64(data[l4])) == ICMP_ERROR
    _, protocol, fragment = extension_headers(data, l3 + IPV6_SIZE, l4, np.int64(data[l3 + 6]))
    return protocol == PROTO_ICMPV6 and fragment == 0 and classify(PROTO_ICMPV6, np.int64(data[l4])) == ICMP_ERROR


@kernel
def _ipv4(data: Any, keys: Any, k: Any, l3: Any, end: Any) -> Any:
    """Returns `(l4, word)`; l4 is -1 when the header is of no use."""
    if end - l3 < IPV4_SIZE:
        return np.int64(-1), np.int64(0)
    first = load_be64(data, l3)
    second = load_be64(data, l3 + 8)
    header = (first >> 54) & 0x3C
    if header < IPV4_SIZE or header > end - l3 or (first & 0x3FFF) != 0:
        return np.int64(-1), np.int64(0)
    keys[k, W_NW_SRC] = 0
    keys[k, W_NW_SRC + 1] = second & 0xFFFFFFFF
    keys[k, W_NW_DST] = 0
    keys[k, W_NW_DST + 1] = load_be32(data, l3 + 16)
    word = (((second >> 48) & 0xFF) << 24) | (((first >> 48) & 0xFF) << 16) | (((second >> 56) & 0xFF) << 8)
    return l3 + header, word


@kernel
def _ipv6(data: Any, keys: Any, k: Any, l3: Any, end: Any) -> Any:
    """Returns `(l4, word)`; l4 is -1 when the headers are of no use."""
    if end - l3 < IPV6_SIZE:
        return np.int64(-1), np.int64(0)
    first = load_be64(data, l3)
    for n in range(4):
        keys[k, W_NW_SRC + n] = load_be64(data, l3 + 8 + 8 * n)
    at, protocol, fragment = extension_headers(data, l3 + IPV6_SIZE, end, (first >> 8) & 0xFF)
    if fragment != 0:
        return np.int64(-1), np.int64(0)
    return at, (protocol << 24) | (((first >> 52) & 0xFF) << 16) | ((first & 0xFF) << 8)


@kernel
def _transport(data: Any, packets: Any, i: Any, j: Any, keys: Any, k: Any, at: Any, end: Any, word: Any) -> Any:
    protocol = (word >> 24) & 0xFF
    is_icmp = protocol == PROTO_ICMP or protocol == PROTO_ICMPV6
    has_ports = protocol == PROTO_TCP or protocol == PROTO_UDP or protocol == PROTO_SCTP
    keys[k, W_L4] = word
    if not is_icmp and not has_ports:
        packets["icmp_id"][j] = 0
        return True
    if end - at < QUOTED_L4_SIZE:
        return False
    header = load_be64(data, at)
    if has_ports:
        keys[k, W_L4] = (header & ~0xFFFFFFFF) | word
        packets["icmp_id"][j] = 0
        return True
    icmp_type = (header >> 56) & 0xFF
    expected = PROTO_ICMP if packets["family"][i] == 4 else PROTO_ICMPV6
    if protocol != expected or classify(protocol, icmp_type) != ICMP_QUERY or ((header >> 48) & 0xFF) != 0:
        return False
    keys[k, W_L4] = (icmp_type << 48) | word
    packets["icmp_id"][j] = (header >> 16) & 0xFFFF
    return True

"""Link types: which ones can be read, and how their packets become Ethernet frames.

The switch knows Ethernet only. Packets of other link types get a synthesised Ethernet header, written in place over the
last bytes of their own link header or, where that is shorter than 14 bytes, over the record header before it, which the
scan has read by then: nothing is copied. MAC addresses are zero, except for the sender's where a Linux cooked
header tells a 6-byte one. Numbers and layouts: https://www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

from typing import Any

from flowshunt.jit import kernel, load_be16, load_be64, store_be16, store_be32, store_be64
from flowshunt.packet.schema import ETH_IPV4, ETH_IPV6
from flowshunt.ports.capture.scan import load32

LINK_NULL = 0
LINK_ETHERNET = 1
LINK_RAW_OLD = (12, 14)
LINK_RAW = 101
LINK_LOOP = 108
LINK_SLL = 113
LINK_IPV4 = 228
LINK_IPV6 = 229
LINK_SLL2 = 276

KIND_UNKNOWN = 0
KIND_ETHERNET = 1
KIND_RAW = 2
KIND_IPV4 = 3
KIND_IPV6 = 4
KIND_SLL = 5
KIND_SLL2 = 6
KIND_NULL = 7

KINDS = {
    LINK_NULL: KIND_NULL,
    LINK_ETHERNET: KIND_ETHERNET,
    **dict.fromkeys(LINK_RAW_OLD, KIND_RAW),
    LINK_RAW: KIND_RAW,
    LINK_LOOP: KIND_NULL,
    LINK_SLL: KIND_SLL,
    LINK_IPV4: KIND_IPV4,
    LINK_IPV6: KIND_IPV6,
    LINK_SLL2: KIND_SLL2,
}
"""Kind of every link type that can be read; others are KIND_UNKNOWN."""

READABLE = "Ethernet (1), raw IP (12, 14, 101, 228, 229), Linux cooked (113, 276) or null/loopback (0, 108)"

_NAMES = {
    0: "null/loopback",
    1: "Ethernet",
    6: "token ring",
    8: "SLIP",
    9: "PPP",
    10: "FDDI",
    12: "raw IP",
    14: "raw IP",
    50: "PPP in HDLC framing",
    51: "PPPoE",
    101: "raw IP",
    104: "Cisco HDLC",
    105: "802.11",
    107: "frame relay",
    108: "OpenBSD loopback",
    113: "Linux cooked v1",
    117: "OpenBSD pflog",
    119: "802.11 with Prism header",
    122: "IP over Fibre Channel",
    127: "802.11 with radiotap header",
    147: "private use 0",
    163: "802.11 with AVS header",
    187: "Bluetooth HCI H4",
    189: "Linux USB",
    192: "PPI",
    195: "802.15.4",
    201: "Bluetooth HCI H4 with direction",
    220: "Linux USB, mapped",
    227: "SocketCAN",
    228: "raw IPv4",
    229: "raw IPv6",
    230: "802.15.4 without FCS",
    239: "nflog",
    249: "USBPcap",
    253: "Linux netlink",
    276: "Linux cooked v2",
}

ETHERNET_HEADER = 14
_SLL_HEADER = 16
_SLL2_HEADER = 20
_NULL_HEADER = 4
_ETHERTYPE_NONE = 0xFFFF  # reserved by IEEE: what is neither IPv4 nor IPv6 stays untouched
# Protocols of the Linux cooked headers for 802.3 frames, whose Ethernet header has the length in the type's place.
_SLL_NOVELL = 1
_SLL_LLC = 4
_LARGEST_8023 = 1500
_AF_INET = 2
_AF_INET6 = (10, 23, 24, 28, 30)  # Linux, Windows, and the BSDs and macOS


def link_type_name(link_type: int) -> str:
    """For messages: "802.11 (105)", or "link type 300" for one without a name here."""
    name = _NAMES.get(link_type)
    return f"{name} ({link_type})" if name else f"link type {link_type}"


@kernel
def link_header(kind: Any) -> Any:
    """Bytes of the link header that an Ethernet header replaces."""
    if kind == KIND_SLL:
        return _SLL_HEADER
    if kind == KIND_SLL2:
        return _SLL2_HEADER
    if kind == KIND_NULL:
        return _NULL_HEADER
    return 0


@kernel
def place(data: Any, packets: Any, i: Any, at: Any, length: Any, wire_length: Any, kind: Any) -> None:
    """Make packet `i` of the `length` captured bytes at data[at:] an Ethernet frame: fills its `data`, `length`,
    `wire_length`.

    For kinds other than Ethernet this writes the new header; at least 14 bytes before `at` must be the window's and
    read. A packet shorter than its link header becomes an empty frame.
    """
    wire_length = max(wire_length, length)
    if kind != KIND_ETHERNET:
        header = link_header(kind)
        if length < header:
            length = length * 0
        else:
            at, length = _synthesise(data, at, length, kind, header)
        wire_length = min(max(wire_length - header + ETHERNET_HEADER, length), 0xFFFFFFFF)
    packets["data"][i] = at
    packets["length"][i] = length
    packets["wire_length"][i] = wire_length


@kernel
def _synthesise(data: Any, at: Any, length: Any, kind: Any, header: Any) -> Any:
    """Write the Ethernet header; returns offset and length of the frame."""
    source = at * 0
    if kind in (KIND_SLL, KIND_SLL2):
        base = at + 4 if kind == KIND_SLL else at + 10  # SLL: 16-bit address length; SLL2: 8 bits at 11
        address_length = load_be16(data, base) if kind == KIND_SLL else load_be16(data, base) & 0xFF
        ethertype = load_be16(data, at + 14) if kind == KIND_SLL else load_be16(data, at)
        if ethertype in (_SLL_NOVELL, _SLL_LLC):
            ethertype = min(length - header, _LARGEST_8023)
        if address_length == 6:
            source = load_be64(data, base + 2) >> 16 & 0xFFFFFFFFFFFF
    elif kind == KIND_NULL:
        ethertype = _ethertype_of_family(load32(data, at, False))
    else:
        ethertype = _ethertype_of_version(data, at, length, kind)
    start = at + header - ETHERNET_HEADER
    store_be64(data, start, source >> 32)
    store_be32(data, start + 8, source & 0xFFFFFFFF)
    store_be16(data, start + 12, ethertype)
    return start, length - header + ETHERNET_HEADER


@kernel
def _ethertype_of_family(family: Any) -> Any:
    """The family is in the byte order of the machine that captured (for link type 108, always big-endian)."""
    if family > 0xFFFF:
        family = family >> 24 | (family >> 8 & 0xFF00)
    if family == _AF_INET:
        return ETH_IPV4
    return ETH_IPV6 if family in _AF_INET6 else _ETHERTYPE_NONE


@kernel
def _ethertype_of_version(data: Any, at: Any, length: Any, kind: Any) -> Any:
    if kind == KIND_IPV4:
        return ETH_IPV4
    if kind == KIND_IPV6:
        return ETH_IPV6
    version = data[at] >> 4 if length > 0 else 0
    if version == 4:
        return ETH_IPV4
    return ETH_IPV6 if version == 6 else _ETHERTYPE_NONE

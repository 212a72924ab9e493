"""What the naive tracker sees of a frame: `dissect` turns bytes into a `Datagram`, or into None when there is none.

Own parsing with struct, byte by byte, so that a mistake in the packet kernels does not repeat itself here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

TCP, UDP, ICMP, ICMPV6, SCTP, UDPLITE = 6, 17, 1, 58, 132, 136
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32

VLAN_TYPES = (0x8100, 0x88A8)
EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options
AUTHENTICATION, FRAGMENT = 51, 44


@dataclass(frozen=True)
class Datagram:
    """An IP packet: `l4` is its payload without padding, `fragment` says that it is one of several pieces.

    `size` counts its bytes from the IP header on, `tags` the VLAN tags before it. The IP header lies `at` bytes into
    the frame, the payload `l4_at` bytes after it. `offset` and `more` are the fragment's, `id` tells its datagram.
    """

    family: int
    protocol: int
    source: bytes
    destination: bytes
    l4: bytes
    fragment: bool = False
    header: bytes = b""
    tags: int = 0
    size: int = 0
    at: int = 0
    l4_at: int = 0
    offset: int = 0
    more: bool = False
    id: int = 0


@dataclass(frozen=True)
class Tcp:
    """A TCP header; `scale` is None without the option, `length` counts payload bytes, SYN and FIN left out."""

    source_port: int
    destination_port: int
    seq: int
    ack: int
    flags: int
    window: int
    scale: int | None
    sack_permitted: bool
    sack: tuple[int, ...]
    length: int


def dissect(frame: bytes, most_tags: int = 2) -> Datagram | None:
    """The IP packet in an Ethernet frame; None when it is not IP or its headers do not hold together."""
    if len(frame) < 14:
        return None
    ethertype, at, tags = struct.unpack_from("!H", frame, 12)[0], 14, 0
    while ethertype in VLAN_TYPES and tags < most_tags and len(frame) >= at + 4:
        ethertype = struct.unpack_from("!H", frame, at + 2)[0]
        at, tags = at + 4, tags + 1
    if ethertype < 0x600 and frame[at : at + 6] == b"\xaa\xaa\x03\0\0\0" and len(frame) >= at + 8:
        ethertype = struct.unpack_from("!H", frame, at + 6)[0]
        at += 8
    if ethertype == 0x0800:
        return dissect_ipv4(frame[at:], tags, at)
    if ethertype == 0x86DD:
        return dissect_ipv6(frame[at:], tags, at)
    return None


def dissect_ipv4(packet: bytes, tags: int = 0, at: int = 0, *, quoted: bool = False) -> Datagram | None:
    """`quoted`: the packet is cut off, so its total length says nothing."""
    if len(packet) < 20:
        return None
    header_size = (packet[0] & 15) * 4
    total = struct.unpack_from("!H", packet, 2)[0]
    if header_size < 20 or len(packet) < header_size:
        return None
    if quoted:
        total = len(packet)
    elif total > len(packet) or total < header_size:
        return None
    identification, place = struct.unpack_from("!HH", packet, 4)
    l4, header = packet[header_size:total], packet[:header_size]
    return Datagram(
        4, packet[9], packet[12:16], packet[16:20], l4, place & 0x3FFF != 0, header, tags, total, at, header_size,
        (place & 0x1FFF) * 8, place & 0x2000 != 0, identification,
    )  # fmt: skip


def dissect_ipv6(packet: bytes, tags: int = 0, at: int = 0, *, quoted: bool = False) -> Datagram | None:
    """Follows the extension headers; an atomic fragment (offset 0, no more) is not one of several pieces."""
    if len(packet) < 40:
        return None
    size = struct.unpack_from("!H", packet, 4)[0]
    if quoted:
        size = len(packet) - 40
    elif 40 + size > len(packet):
        return None
    protocol, rest, fragment = packet[6], packet[40 : 40 + size], False
    offset, more, identification = 0, False, 0
    while protocol in EXTENSIONS or protocol in (AUTHENTICATION, FRAGMENT):
        if len(rest) < 8:
            return None
        if protocol == FRAGMENT:
            offset_and_more, identification = struct.unpack_from("!HI", rest, 2)
            offset, more = offset_and_more & 0xFFF8, bool(offset_and_more & 1)
            step = 8
            if offset_and_more:
                fragment = True
                if offset:
                    break
        else:
            step = (rest[1] + 2) * 4 if protocol == AUTHENTICATION else (rest[1] + 1) * 8
        if len(rest) < step:
            return None
        protocol, rest = rest[0], rest[step:]
    return Datagram(
        6, protocol, packet[8:24], packet[24:40], rest, fragment, packet[:40], tags, 40 + size, at,
        40 + size - len(rest), offset, more, identification,
    )  # fmt: skip


def parse_tcp(l4: bytes) -> Tcp | None:
    """None when the header is short or its length field is wrong."""
    if len(l4) < 20:
        return None
    source_port, destination_port, seq, ack, offset, flags, window = struct.unpack_from("!HHIIBBH", l4)
    header_size = (offset >> 4) * 4
    if header_size < 20 or header_size > len(l4):
        return None
    scale, sack_permitted, sack = parse_tcp_options(l4[20:header_size])
    length = len(l4) - header_size
    return Tcp(source_port, destination_port, seq, ack, flags, window, scale, sack_permitted, sack, length)


def parse_tcp_options(options: bytes) -> tuple[int | None, bool, tuple[int, ...]]:
    """Window scale (at most 14), SACK permitted, right edges of the SACK blocks."""
    scale: int | None = None
    permitted = False
    sack: tuple[int, ...] = ()
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            break
        if options[at] == 3 and size == 3:
            scale = min(options[at + 2], 14)
        elif options[at] == 4 and size == 2:
            permitted = True
        elif options[at] == 5 and size >= 10 and (size - 2) % 8 == 0:
            sack = tuple(struct.unpack_from("!I", options, at + 6 + 8 * i)[0] for i in range((size - 2) // 8))
        at += size
    return scale, permitted, sack


def ones_complement(data: bytes) -> int:
    """The Internet checksum of RFC 1071; 0 over data whose checksum is right."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


_CRC32C = []
for _byte in range(256):
    _crc = _byte
    for _ in range(8):
        _crc = (_crc >> 1) ^ (0x82F63B78 if _crc & 1 else 0)
    _CRC32C.append(_crc)


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260 appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def l4_checksum_is_right(datagram: Datagram) -> bool:
    """TCP, UDP (0 over IPv4: none), ICMP, ICMPv6, SCTP; others have none that we know of."""
    protocol, l4 = datagram.protocol, datagram.l4
    if protocol == SCTP:
        stored = struct.unpack_from("<I", l4, 8)[0]
        return crc32c(l4[:8] + bytes(4) + l4[12:]) == stored
    if protocol == ICMP and datagram.family == 4:
        return ones_complement(l4) == 0
    if protocol == UDP and l4[6:8] == b"\0\0" and datagram.family == 4:
        return True
    if protocol in (TCP, UDP) or (protocol == ICMPV6 and datagram.family == 6):
        pseudo = datagram.source + datagram.destination + struct.pack("!IHBB", len(l4), 0, 0, protocol)
        return ones_complement(pseudo + l4) == 0
    return True

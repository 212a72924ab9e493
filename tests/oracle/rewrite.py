"""Packets with other addresses and ports, as a naive translator makes them: patch the bytes, compute checksums anew.

Checksums are computed from scratch over the result. Only what is cut off (the quote in an ICMP error) has them
corrected by the difference (RFC 1624), since the rest of it is not there to be summed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from tests.oracle.frames import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Datagram,
    crc32c,
    dissect_ipv4,
    dissect_ipv6,
    ones_complement,
)

if TYPE_CHECKING:
    from tests.oracle.records import Key

CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2, SCTP: 8, UDPLITE: 6}
QUOTED = {TCP: 18, UDP: 8, ICMP: 8, ICMPV6: 8, SCTP: 12, UDPLITE: 8}
"""Bytes of a quoted payload that reach to the end of its checksum."""


def rewrite(frame: bytes, datagram: Datagram, target: Key) -> bytes:
    """The frame with the addresses and ports (or the query's identifier) of `target`."""
    packet = bytearray(frame)
    put_addresses(packet, datagram.at, datagram.family, target.source, target.destination)
    put_ports(packet, datagram.at + datagram.l4_at, target)
    finish(packet, datagram, target.source, target.destination)
    return bytes(packet)


def rewrite_error(frame: bytes, datagram: Datagram, source: bytes, destination: bytes, inner: Key) -> bytes:
    """An ICMP error with other outer addresses, the packet that it quotes turned into one of the tuple `inner`."""
    packet = bytearray(frame)
    put_addresses(packet, datagram.at, datagram.family, source, destination)
    at = datagram.at + datagram.l4_at + 8
    rewrite_quoted(packet, at, datagram, inner)
    finish(packet, datagram, source, destination)
    return bytes(packet)


def rewrite_quoted(packet: bytearray, at: int, datagram: Datagram, inner: Key) -> None:
    quote = datagram.l4[8:]
    quoted = dissect_ipv4(quote, quoted=True) if datagram.family == 4 else dissect_ipv6(quote, quoted=True)
    assert quoted is not None
    before = quoted.source + quoted.destination
    after = inner.source + inner.destination
    put_addresses(packet, at, quoted.family, inner.source, inner.destination)
    if quoted.family == 4:
        correct(packet, at + 10, before, after)
    start, ports = at + quoted.l4_at, ports_of(quoted)
    put_ports(packet, start, inner)
    place = start + (4 if quoted.protocol in (ICMP, ICMPV6) else 0)
    now = bytes(packet[place : place + len(ports)])
    if quoted.protocol == ICMP:
        before = after = b""
    adjust(packet, start, quoted, before + ports, after + now)


def ports_of(datagram: Datagram) -> bytes:
    """The bytes of the payload that are part of the tuple."""
    if datagram.protocol in (TCP, UDP, SCTP):
        return datagram.l4[:4]
    return datagram.l4[4:6] if datagram.protocol in (ICMP, ICMPV6) else b""


def put_addresses(packet: bytearray, at: int, family: int, source: bytes, destination: bytes) -> None:
    first, size = (12, 4) if family == 4 else (8, 16)
    packet[at + first : at + first + 2 * size] = source + destination


def put_ports(packet: bytearray, at: int, target: Key) -> None:
    if target.icmp is not None:
        packet[at + 4 : at + 6] = struct.pack("!H", target.source_port)
    elif target.protocol in (TCP, UDP, SCTP):
        packet[at : at + 4] = struct.pack("!HH", target.source_port, target.destination_port)


def fill_ipv4_checksum(packet: bytearray, at: int, datagram: Datagram) -> None:
    packet[at + 10 : at + 12] = b"\0\0"
    checksum = ones_complement(bytes(packet[at : at + len(datagram.header)]))
    packet[at + 10 : at + 12] = struct.pack("!H", checksum)


def finish(packet: bytearray, datagram: Datagram, source: bytes, destination: bytes) -> None:
    """Checksums of a whole packet; a UDP checksum of 0 over IPv4 means none and stays."""
    at, size = datagram.at, len(datagram.l4)
    if datagram.family == 4:
        fill_ipv4_checksum(packet, at, datagram)
    start = at + datagram.l4_at
    protocol = datagram.protocol
    if protocol == UDPLITE and size >= 8 and datagram.l4[6:8] != b"\0\0":  # of which nobody knows how much it covers
        correct(packet, start + 6, datagram.source + datagram.destination, source + destination)
    place = CHECKSUM_AT.get(protocol)
    if (
        place is None
        or protocol == UDPLITE
        or (protocol == UDP and datagram.family == 4 and datagram.l4[6:8] == b"\0\0")
    ):
        return
    if protocol == SCTP:
        packet[start + 8 : start + 12] = bytes(4)
        packet[start + 8 : start + 12] = struct.pack("<I", crc32c(bytes(packet[start : start + size])))
        return
    packet[start + place : start + place + 2] = b"\0\0"
    pseudo = source + destination + struct.pack("!IHBB", size, 0, 0, protocol) if protocol != ICMP else b""
    checksum = ones_complement(pseudo + bytes(packet[start : start + size]))
    if protocol == UDP and checksum == 0:
        checksum = 0xFFFF
    packet[start + place : start + place + 2] = struct.pack("!H", checksum)


def adjust(packet: bytearray, start: int, quoted: Datagram, before: bytes, after: bytes) -> None:
    """The quoted checksum, corrected by the difference, where the quote reaches that far."""
    protocol = quoted.protocol
    if len(quoted.l4) < QUOTED.get(protocol, 1 << 16):
        return
    place = start + CHECKSUM_AT[protocol]
    if protocol == SCTP:
        adjust_crc(packet, place, quoted, before[-4:], after[-4:])
        return
    if protocol in (UDP, UDPLITE) and packet[place : place + 2] == b"\0\0":
        return
    correct(packet, place, before, after)
    if protocol in (UDP, UDPLITE) and packet[place : place + 2] == b"\0\0":
        packet[place : place + 2] = b"\xff\xff"


def correct(packet: bytearray, place: int, before: bytes, after: bytes) -> None:
    """A checksum of what said `before` and now says `after` (RFC 1624, equation 3)."""
    if before == after:
        return
    total = ~struct.unpack_from("!H", packet, place)[0] & 0xFFFF
    total += sum(~word & 0xFFFF for word in words(before)) + sum(words(after))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    packet[place : place + 2] = struct.pack("!H", ~total & 0xFFFF)


def adjust_crc(packet: bytearray, place: int, quoted: Datagram, before: bytes, after: bytes) -> None:
    """The CRC of the whole packet with other ports; CRC is affine, so it changes as one of zeroes does."""
    whole = struct.unpack_from("!H", quoted.header, 2 if quoted.family == 4 else 4)[0]
    rest = bytes(whole - (quoted.l4_at if quoted.family == 4 else quoted.l4_at - 40) - 4)
    old = struct.unpack_from("<I", packet, place)[0]
    packet[place : place + 4] = struct.pack("<I", old ^ crc32c(before + rest) ^ crc32c(after + rest))


def words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"!{len(data) // 2}H", data)

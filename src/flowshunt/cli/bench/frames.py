"""The frames that are sent: 60 bytes with a UDP datagram, of flows by number. Stays clear of numpy."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

SIZE = 60
FIRST_PORT, SECOND_PORT = 1000, 2000
PORTS = 50_000
"""Flows that differ in the first port alone; each further round has another second port."""
PAYLOAD_AT = 42


def frame(source_mac: str, target_mac: str, source: str, target: str, ports: tuple[int, int]) -> bytes:
    """An Ethernet frame of SIZE bytes with a UDP datagram without a checksum."""
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    header = struct.pack(">BBHHHBBH", 0x45, 0, SIZE - 14, 0, 0x4000, 64, 17, 0) + addresses
    total = sum(struct.unpack(">10H", header)) % 0xFFFF
    header = header[:10] + struct.pack(">H", 0xFFFF - total) + header[12:]
    payload = bytes(SIZE - PAYLOAD_AT)
    return _macs(target_mac, source_mac) + b"\x08\x00" + header + struct.pack(">HHHH", *ports, SIZE - 34, 0) + payload


def probe(source_mac: str) -> bytes:
    """An ARP probe (RFC 5227): bridges learn where the station is, and no host's table of neighbours changes."""
    words = struct.pack(">HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
    asked = _macs(source_mac) + bytes(4) + bytes(6) + IPv4Address("192.0.2.1").packed
    return (_macs("ff:ff:ff:ff:ff:ff", source_mac) + words + asked).ljust(SIZE, b"\0")


def ports_of(flow: int) -> tuple[int, int]:
    """Source and destination port of a flow, as the client sends it."""
    return FIRST_PORT + flow % PORTS, SECOND_PORT + flow // PORTS


def _macs(*addresses: str) -> bytes:
    return bytes.fromhex("".join(addresses).replace(":", ""))

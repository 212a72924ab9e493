"""Quoted packets translated in the frame of an ICMP error: what changes, what is too short to, what must stay."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np
import pytest

from flowshunt.packet.schema import CHECKSUM_PARTIAL
from tests.builders import Packet
from tests.packet.kernels import checksums_ok, parsed, requoted

V4 = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").icmp(3, 1)
V6 = Packet().eth().ipv6("2001:db8::1", "2001:db8::2").icmpv6(1, 1)
MASK64 = (1 << 64) - 1


def requote(frame: Packet, source: str, destination: str, ports: int, protocol: int, **port: int) -> bytes:
    """The frame with the quoted packet's tuple replaced."""
    packet = parsed(frame, **port)
    words = []
    for address in (source, destination):
        number = int(ip_address(address))
        words += [number >> 64, number & MASK64]
    words.append(ports << 32 | protocol << 8)
    quotes = np.array([words], np.uint64).view(np.int64)
    requoted(packet.packets, 0, quotes, 0, packet.data, 0)
    return packet.data.tobytes()


def v4(source: str, port: int, protocol: str = "udp", **rest: int) -> Packet:
    return getattr(Packet().ipv4(source, "10.9.9.9", total=60, options=b"\1\1\1\0"), protocol)(port, 53, **rest)


@pytest.mark.parametrize(("protocol", "number"), [("udp", 17), ("tcp", 6)])
def test_a_quote_with_options_and_a_length_that_is_not_there(protocol: str, number: int) -> None:
    before, after = v4("192.0.2.1", 4000, protocol), v4("10.0.0.77", 5000, protocol)
    wanted = V4.quote(after).bytes()
    assert requote(V4.quote(before), "10.0.0.77", "10.9.9.9", 5000 << 16 | 53, number) == wanted
    assert checksums_ok(parsed(wanted)) == (True, True)


@pytest.mark.parametrize("size", [n for n in range(8, 24) if n != 17])
def test_quotes_of_every_length(size: int) -> None:
    """Of 17 bytes of TCP, half a checksum is there, which cannot be corrected."""

    def quote(source: str, port: int) -> bytes:
        return Packet().ipv4(source, "10.9.9.9").tcp(port, 53).payload(9).bytes()[: 20 + size]

    wanted = V4.quote(quote("10.0.0.77", 5000)).bytes()
    assert requote(V4.quote(quote("192.0.2.1", 4000)), "10.0.0.77", "10.9.9.9", 5000 << 16 | 53, 6) == wanted


def test_no_checksum_stays_none() -> None:
    before, after = v4("192.0.2.1", 4000, checksum=0), v4("10.0.0.77", 5000, checksum=0)
    wanted = V4.quote(after).bytes()
    assert requote(V4.quote(before), "10.0.0.77", "10.9.9.9", 5000 << 16 | 53, 17) == wanted


def test_an_unfinished_checksum_of_the_error_is_left_to_the_device() -> None:
    frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").icmp(3, 1, checksum=0x1234)
    before, after = frame.quote(v4("192.0.2.1", 4000)), frame.quote(v4("10.0.0.77", 5000))
    changed = requote(before, "10.0.0.77", "10.9.9.9", 5000 << 16 | 53, 17, checksum=CHECKSUM_PARTIAL)
    assert changed == after.bytes()


def test_destination_in_a_routing_header_of_the_quote() -> None:
    def quote(destination: str) -> Packet:
        packet = Packet().ipv6("2001:db8::2", destination)
        return packet.routing(1, final="2001:db8::99").udp(4000, 53)

    changed = requote(V6.quote(quote("2001:db8::5")), "2001:db8::2", "2001:db8::6", 4000 << 16 | 53, 17)
    assert changed == V6.quote(quote("2001:db8::6")).bytes()


def test_protocols_without_ports_have_their_addresses_changed() -> None:
    def quote(source: str, checksum: int) -> bytes:
        lite = (4000).to_bytes(2, "big") + (53).to_bytes(2, "big") + (8).to_bytes(2, "big")
        return Packet().ipv4(source, "10.9.9.9").protocol(136, lite + checksum.to_bytes(2, "big")).bytes()

    changed = requote(V4.quote(quote("192.0.2.1", 0x1000)), "192.0.2.2", "10.9.9.9", 0, 136)
    assert changed == V4.quote(quote("192.0.2.2", 0x0FFF)).bytes()
    gre = [Packet().ipv4(source, "10.9.9.9").protocol(47, bytes(12)).bytes() for source in ("192.0.2.1", "10.0.0.7")]
    assert requote(V4.quote(gre[0]), "10.0.0.7", "10.9.9.9", 0, 47) == V4.quote(gre[1]).bytes()


@pytest.mark.parametrize("frame", [V4.quote(b"\x45" + bytes(18)), V6.quote(bytes(39)), V6.quote(b"\x60" + bytes(39))])
def test_what_is_no_quote_does_no_harm(frame: Packet) -> None:
    changed = requote(frame, "10.0.0.77", "10.9.9.9", 1, 17)
    assert len(changed) == len(frame.bytes())

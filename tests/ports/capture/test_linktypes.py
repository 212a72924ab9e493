"""Packets of other link types become Ethernet frames."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from flowshunt.ports.capture import link_type_name
from tests.ports.capture.files import (
    BIG,
    LITTLE,
    enhanced,
    interface,
    pcap,
    pcap_header,
    pcap_record,
    read_all,
    section,
    simple,
    written,
)

V4 = b"\x45" + bytes(19)
V6 = b"\x60" + bytes(39)
ODD = b"\x50 neither four nor six"
IPV4, IPV6, NEITHER = b"\x08\x00", b"\x86\xdd", b"\xff\xff"
MAC = bytes.fromhex("0200c0ffee01")


def sll(protocol: int, address: bytes = MAC, length: int = 6, body: bytes = V4) -> bytes:
    return struct.pack(">HHH8sH", 4, 1, length, address, protocol) + body


def sll2(protocol: int, address: bytes = MAC, length: int = 6, body: bytes = V4) -> bytes:
    return struct.pack(">HHIHBB8s", protocol, 0, 3, 1, 4, length, address) + body


def ethernet(ethertype: bytes, body: bytes, source: bytes = bytes(6)) -> bytes:
    return bytes(6) + source + ethertype + body


def null(family: int, order: str, body: bytes) -> bytes:
    return struct.pack(order + "I", family) + body


CASES = [
    *[(link_type, V4, ethernet(IPV4, V4)) for link_type in (12, 14, 101, 228)],
    *[(link_type, V6, ethernet(IPV6, V6)) for link_type in (12, 14, 101, 229)],
    (101, ODD, ethernet(NEITHER, ODD)),
    (101, b"", ethernet(NEITHER, b"")),
    (113, sll(0x0800), ethernet(IPV4, V4, MAC)),
    (113, sll(0x86DD, body=V6), ethernet(IPV6, V6, MAC)),
    (113, sll(0x8100, body=b"\0\7\x08\0" + V4), ethernet(b"\x81\0", b"\0\7\x08\0" + V4, MAC)),
    (113, sll(0x0800, b"\xff" * 8, 8), ethernet(IPV4, V4)),
    (113, sll(0x0800, b"\xff" * 8, 0), ethernet(IPV4, V4)),
    (113, sll(4, body=b"\x42\x42\x03" + bytes(35)), ethernet(b"\0\x26", b"\x42\x42\x03" + bytes(35), MAC)),
    (276, sll2(0x0800), ethernet(IPV4, V4, MAC)),
    (276, sll2(0x86DD, b"\xff" * 8, 8, V6), ethernet(IPV6, V6)),
    (276, sll2(1, body=bytes(50)), ethernet(b"\0\x32", bytes(50), MAC)),
    (0, null(2, LITTLE, V4), ethernet(IPV4, V4)),
    (0, null(2, BIG, V4), ethernet(IPV4, V4)),
    *[(0, null(family, LITTLE, V6), ethernet(IPV6, V6)) for family in (10, 23, 24, 28, 30)],
    (0, null(30, BIG, V6), ethernet(IPV6, V6)),
    (0, null(7, LITTLE, V6), ethernet(NEITHER, V6)),
    (108, null(24, BIG, V6), ethernet(IPV6, V6)),
    (113, sll(0x0800)[:15], b""),
    (276, sll2(0x0800)[:19], b""),
    (0, b"\2\0\0", b""),
]


@pytest.mark.parametrize(("link_type", "packet", "frame"), CASES)
def test_pcap_packets_get_an_ethernet_header(tmp_path: Path, link_type: int, packet: bytes, frame: bytes) -> None:
    path = written(tmp_path, pcap([packet] * 3, link_type))
    packets = read_all(path)
    assert [read.frame for read in packets] == [frame] * 3
    assert all(read.wire_length >= len(frame) for read in packets)


@pytest.mark.parametrize(("link_type", "packet", "frame"), CASES)
def test_pcapng_packets_get_an_ethernet_header_also_over_the_block_before(
    tmp_path: Path, link_type: int, packet: bytes, frame: bytes
) -> None:
    content = section() + interface(link_type) + (enhanced(packet) + simple(packet) * 2) * 2
    assert [read.frame for read in read_all(written(tmp_path, content))] == [frame] * 6


@pytest.mark.parametrize(("link_type", "packet", "frame"), [case for case in CASES if case[2]])
def test_the_wire_length_is_that_of_the_new_frame(tmp_path: Path, link_type: int, packet: bytes, frame: bytes) -> None:
    content = pcap_header(link_type=link_type) + pcap_record(packet, wire=len(packet) + 100)
    assert read_all(written(tmp_path, content))[0].wire_length == len(frame) + 100


def test_synthesised_headers_do_not_disturb_packets_across_the_windows_edge(tmp_path: Path) -> None:
    bodies = [bytes([0x45]) + n.to_bytes(4, "big") * 300 for n in range(3000)]
    content = section() + interface(101) + b"".join(simple(body) for body in bodies)
    assert [read.frame[14:] for read in read_all(written(tmp_path, content))] == bodies


def test_original_captures_give_the_packets_of_their_conversions(captures: Path) -> None:
    originals = sorted((captures / "formats").iterdir())
    compared = 0
    for original in originals:
        ours, theirs = read_all(original), read_all(captures / f"{original.stem}.pcap")
        if original.stem == "gopacket-be-test202":
            continue  # see the test below
        # The conversions have microseconds, and made-up MAC addresses for packets that had none.
        assert [packet.time_ns // 1000 for packet in ours] == [packet.time_ns // 1000 for packet in theirs], (
            original.name
        )
        assert [_payload(packet.frame) for packet in ours] == [_payload(packet.frame) for packet in theirs], (
            original.name
        )
        compared += len(ours)
    assert len(originals) == 11
    assert compared == 845


def test_interfaces_of_several_link_types_give_the_packets_of_their_conversion(captures: Path) -> None:
    ours = read_all(captures / "formats" / "gopacket-be-test202.pcapng")
    theirs = read_all(captures / "gopacket-be-test202.pcap")
    # Simple packet blocks have no time: the conversion says 0, the reader the time of the packet before.
    times = [0 if b.time_ns == 0 else a.time_ns // 1000 for a, b in zip(ours, theirs, strict=True)]
    assert times == [packet.time_ns // 1000 for packet in theirs]
    assert all(a.time_ns >= ours[0].time_ns for a in ours)
    assert [_payload(packet.frame)[2:] for packet in ours] == [_payload(packet.frame)[2:] for packet in theirs]


def test_link_types_have_names_in_messages() -> None:
    assert link_type_name(105) == "802.11 (105)"
    assert link_type_name(999) == "link type 999"


def _payload(frame: bytes) -> bytes:
    return frame[12:]

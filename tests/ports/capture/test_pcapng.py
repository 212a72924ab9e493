"""pcapng: sections, interfaces, the three kinds of packet blocks, clocks, and what is passed over."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from flowshunt.ports import CaptureError
from flowshunt.ports.capture import open_capture
from flowshunt.ports.capture.scan import LAST_TIME_NS
from tests.ports.capture.files import (
    BIG,
    LITTLE,
    block,
    enhanced,
    frames,
    interface,
    old_packet,
    option,
    read_all,
    section,
    simple,
    written,
)

SECOND = 10**9
A, B, C = b"frame a of fourteen", b"frame b of sixteen bytes", b"frame c"


@pytest.mark.parametrize("order", [LITTLE, BIG])
def test_all_packet_blocks_in_both_byte_orders(tmp_path: Path, order: str) -> None:
    content = section(order) + interface(order=order)
    content += (
        enhanced(A, 5_000_001, wire=99, order=order) + old_packet(B, 6_000_000, order=order) + simple(C, order=order)
    )
    packets = read_all(written(tmp_path, content))
    assert frames(packets) == [A, B, C]
    assert [packet.time_ns for packet in packets] == [5 * SECOND + 1000, 6 * SECOND, 6 * SECOND]
    assert [packet.wire_length for packet in packets] == [99, len(B), len(C)]


def test_sections_of_different_byte_order_follow_each_other(tmp_path: Path) -> None:
    content = section() + interface() + enhanced(A) + section(BIG) + interface(order=BIG) + enhanced(B, order=BIG)
    assert frames(read_all(written(tmp_path, content))) == [A, B]


def test_interfaces_belong_to_their_section(tmp_path: Path) -> None:
    content = (
        section() + interface() + interface() + enhanced(A, number=1) + section() + interface() + enhanced(B, number=1)
    )
    with open_capture(written(tmp_path, content)) as reader:
        assert reader.receive(10) is not None
        with pytest.raises(CaptureError, match="packet of interface 1 at byte"):
            reader.receive(10)


@pytest.mark.parametrize(
    ("resolution", "ticks", "time_ns"),
    [
        (0, 7, 7 * SECOND),
        (3, 7_001, 7 * SECOND + 1_000_000),
        (6, 7_000_001, 7 * SECOND + 1000),
        (9, 7_000_000_001, 7_000_000_001),
        (12, 7_000_000_001_999, 7_000_000_001),
        (27, (1 << 62), 4),
        (0x80 | 0, 7, 7 * SECOND),
        (0x80 | 10, 7 * 1024 + 512, 7 * SECOND + SECOND // 2),
        (0x80 | 32, (7 << 32) + (1 << 31), 7 * SECOND + SECOND // 2),
        (0x80 | 40, (7 << 40) + (1 << 38), 7 * SECOND + SECOND // 4),
        (0x80 | 62, 1 << 61, SECOND // 2),
        (0x80 | 63, 1 << 62, SECOND // 2),
        (0x80 | 127, 1 << 62, 0),
        (0, 1 << 63, LAST_TIME_NS),
        (6, (1 << 64) - 1, LAST_TIME_NS),
    ],
)
def test_times_follow_the_resolution_of_the_interface(
    tmp_path: Path, resolution: int, ticks: int, time_ns: int
) -> None:
    content = section() + interface(options=option(9, bytes([resolution]))) + enhanced(A, ticks)
    assert read_all(written(tmp_path, content))[0].time_ns == time_ns


@pytest.mark.parametrize(
    ("offset_s", "time_ns"),
    [(1000, 1005 * SECOND), (-3, 2 * SECOND), (-100, 0), ((1 << 63) - 1, LAST_TIME_NS), (-(1 << 63), 0)],
)
@pytest.mark.parametrize("order", [LITTLE, BIG])
def test_times_are_moved_by_the_offset_of_the_interface(
    tmp_path: Path, offset_s: int, time_ns: int, order: str
) -> None:
    options = option(14, struct.pack(order + "q", offset_s), order)
    content = section(order) + interface(options=options, order=order) + enhanced(A, 5_000_000, order=order)
    assert read_all(written(tmp_path, content))[0].time_ns == time_ns


def test_each_interface_has_its_clock_name_and_count(tmp_path: Path) -> None:
    options = option(2, b"eth0") + option(9, b"\x09") + option(0, b"")
    content = section() + interface(snap_length=96) + interface(options=options)
    content += enhanced(A, 1) + enhanced(B, 1, number=1) + enhanced(C, 2, number=1)
    with open_capture(written(tmp_path, content)) as reader:
        assert [interface.name for interface in reader.interfaces] == ["", "eth0"]
        batch = reader.receive(10)
        assert batch is not None
        assert batch.packets["time_ns"].tolist() == [1000, 1, 2]
        assert [(i.link_type, i.readable, i.snap_length, i.n_packets) for i in reader.interfaces] == [
            (1, True, 96, 1),
            (1, True, 0, 2),
        ]


def test_unknown_blocks_and_options_are_passed_over(tmp_path: Path) -> None:
    noise = block(5, bytes(100)) + block(0x0BAD, b"custom")
    content = section(options=option(4, b"program")) + noise + interface(options=option(0x7777, b"what")) + noise
    content += enhanced(A, options=option(1, b"a comment")) + noise + enhanced(B)
    assert frames(read_all(written(tmp_path, content))) == [A, B]


def test_an_unknown_block_may_be_larger_than_the_window(tmp_path: Path) -> None:
    content = section() + interface() + enhanced(A) + block(0x0BAD, bytes(3 << 20)) + enhanced(B)
    assert frames(read_all(written(tmp_path, content))) == [A, B]


def test_packets_of_unknown_link_types_are_counted_and_skipped(tmp_path: Path) -> None:
    content = section() + interface() + interface(105) + interface(105) + interface(195)
    for number in (1, 0, 2, 3, 0, 1):
        content += enhanced(A, number=number)
    content += section() + interface(105) + enhanced(A)
    with open_capture(written(tmp_path, content)) as reader:
        assert sum(len(batch.packets) for batch in reader.batches(1)) == 2
        assert reader.n_packets == 2
        assert reader.n_skipped == 5
        assert reader.skipped == {105: 4, 195: 1}
        assert reader.link_types == (1, 105, 195)


def test_simple_blocks_are_cut_by_the_snap_length(tmp_path: Path) -> None:
    content = section() + interface(snap_length=16) + simple(bytes(range(16)), wire=1000) + simple(b"ab")
    packets = read_all(written(tmp_path, content))
    assert [(packet.frame, packet.wire_length) for packet in packets] == [(bytes(range(16)), 1000), (b"ab", 2)]


def test_a_section_without_packets_is_an_empty_capture(tmp_path: Path) -> None:
    assert read_all(written(tmp_path, section())) == []


def test_more_interfaces_than_the_bound_are_damage(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="interface 4096 of a section"):
        read_all(written(tmp_path, section() + interface() * 4097))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (struct.pack("<II", 6, 30) + bytes(40), "block length 30"),
        (struct.pack("<II", 6, 8) + bytes(40), "block length 8"),
        (struct.pack("<II", 0x99, 0xFFFFFFFF) + bytes(40), "block length 4294967295"),
        (struct.pack("<II", 6, 0x7FFFFFFC) + bytes(40), "packet, section or interface block of 2147483644 bytes"),
        (struct.pack("<II", 0x99, 0x7FFFFFFC) + bytes(40), "file ends within a block"),
        (enhanced(A)[:-4] + b"\1\0\0\0", "block that ends with another length (1)"),
        (enhanced(A, number=1), "packet of interface 1"),
        (enhanced(A)[:20] + struct.pack("<I", 21) + enhanced(A)[24:], "captured length 21 in a packet block"),
        (enhanced(A)[:20] + b"\xff\xff\xff\xff" + enhanced(A)[24:], "captured length 4294967295 in a packet block"),
        (block(6, bytes(12)), "block too short for its type (24 bytes)"),
        (block(1, bytes(4)), "block too short for its type (16 bytes)"),
        (block(3, b""), "block too short for its type (12 bytes)"),
        (section()[:8] + bytes(4) + section()[12:], "byte-order magic 0x00000000"),
        (section(version=2), "pcapng version 2.0"),
        (interface(options=option(9, b"12")), "option if_tsresol of 2 bytes"),
        (interface(options=option(14, b"12")), "option if_tsoffset of 2 bytes"),
        (interface(options=struct.pack("<HHI", 2, 5, 0)), "option 2 of 5 bytes in the 4 that are left"),
        (enhanced(A)[:-1], "file ends after 51 bytes of a block"),
        (b"\1\2\3", "file ends after 3 bytes of a block"),
    ],
)
def test_damage_is_named_with_its_offset_after_the_packets_before_it(
    tmp_path: Path, damage: bytes, problem: str
) -> None:
    good = section() + interface() + enhanced(A) + enhanced(B)
    with open_capture(written(tmp_path, good + damage)) as reader:
        batch = reader.receive(10)
        assert batch is not None
        assert len(batch.packets) == 2
        with pytest.raises(CaptureError) as caught:
            reader.receive(10)
        assert caught.value.problem == problem
        if problem != "file ends within a block":
            assert caught.value.offset == len(good)
        assert reader.receive(10) is None

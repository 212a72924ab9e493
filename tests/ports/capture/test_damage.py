"""No file, however damaged, does more than give packets and a CaptureError."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowshunt.ports import CaptureError
from flowshunt.ports.capture import open_capture
from flowshunt.ports.capture.scan import LARGEST_PACKET
from tests.ports.capture.files import (
    BIG,
    Read,
    block,
    enhanced,
    interface,
    old_packet,
    option,
    packets_of,
    pcap,
    pcap_header,
    pcap_record,
    section,
    simple,
    written,
)

V4 = b"\x45" + bytes(range(30))
SMALL = {
    "pcap": pcap([V4, b"", V4[:7]]),
    "pcap, big-endian, cooked": pcap([bytes(16) + V4, V4], 113, BIG),
    "pcap, loopback": pcap([b"\2\0\0\0" + V4, b"\2"], 0),
    "pcapng": section() + interface(options=option(9, b"\x09") + option(14, bytes(8))) + enhanced(V4) + simple(V4),
    "pcapng, big-endian, raw": section(BIG)
    + interface(101, order=BIG)
    + old_packet(V4, order=BIG)
    + block(77, b"unknown", BIG)
    + simple(V4, order=BIG),
    "gzip": gzip.compress(pcap([V4, V4[:9]]), mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress(pcap([V4, V4[:9]])),
}


def read_to_damage(path: Path, limit: int = 3) -> tuple[list[Read], CaptureError | None]:
    """All packets, and the error behind them. Any other exception is the test's failure."""
    got: list[Read] = []
    try:
        with open_capture(path) as reader:
            try:
                for batch in reader.batches(limit):
                    got += packets_of(batch)
            except CaptureError as error:
                assert reader.receive(1) is None
                return got, error
    except CaptureError as error:
        return got, error
    return got, None


@pytest.mark.parametrize("name", SMALL)
def test_truncated_at_each_length(tmp_path: Path, name: str) -> None:
    content = SMALL[name]
    whole, error = read_to_damage(written(tmp_path, content))
    assert error is None
    n_clean = 0
    for size in range(len(content)):
        got, error = read_to_damage(written(tmp_path, content[:size]))
        assert got == whole[: len(got)]
        n_clean += error is None
        if error is not None:
            assert 0 <= error.offset <= max(size, 200)
            assert error.problem
    # Plain files have clean ends between records, compressed ones none.
    assert (n_clean == 0) == (name in ("gzip", "zstd"))


@pytest.mark.parametrize("name", SMALL)
def test_each_byte_flipped(tmp_path: Path, name: str) -> None:
    content = SMALL[name]
    for at in range(len(content)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[at] ^= flip
            got, _ = read_to_damage(written(tmp_path, bytes(damaged)))
            assert all(len(packet.frame) <= packet.wire_length and packet.time_ns >= 0 for packet in got)


def test_a_record_beyond_the_limit_is_damage_at_its_header(tmp_path: Path) -> None:
    good = pcap([V4, V4])
    for length in (LARGEST_PACKET + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        bad = struct.pack("<IIII", 1, 1, length, length)
        got, error = read_to_damage(written(tmp_path, good + bad + bytes(400_000)))
        assert len(got) == 2
        assert error is not None
        assert (error.offset, error.problem) == (len(good), f"packet record of {length} bytes")


def test_a_record_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    got, error = read_to_damage(written(tmp_path, pcap([bytes(LARGEST_PACKET)])))
    assert error is None
    assert len(got[0].frame) == LARGEST_PACKET


def test_a_cut_last_record_tells_where_it_began_and_what_is_there(tmp_path: Path) -> None:
    content = pcap_header() + pcap_record(V4) + pcap_record(V4)
    path = written(tmp_path, content[:-1])
    got, error = read_to_damage(path)
    assert len(got) == 1
    assert error is not None
    assert error.offset == 24 + 16 + len(V4)
    assert str(error) == f"{path}: file ends after 46 bytes of a packet record at byte 71; expected the rest of it"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["pcap", "pcapng", "pcapng, big-endian, raw"]),
    edits=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=6),
    tail=st.binary(max_size=200),
)
def test_overwritten_pieces(tmp_path: Path, name: str, edits: list[tuple[int, bytes]], tail: bytes) -> None:
    damaged = bytearray(SMALL[name] + tail)
    for at, piece in edits:
        at %= len(damaged)
        damaged[at : at + len(piece)] = piece
    got, _ = read_to_damage(written(tmp_path, bytes(damaged)))
    assert all(len(packet.frame) <= packet.wire_length for packet in got)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    magic=st.sampled_from([b"\xd4\xc3\xb2\xa1", b"\n\r\r\n", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd"]),
    rest=st.binary(max_size=300),
)
def test_random_bytes_behind_a_magic_number(tmp_path: Path, magic: bytes, rest: bytes) -> None:
    got, error = read_to_damage(written(tmp_path, magic + rest))
    assert got or error is not None or len(rest) == 20

"""Compressed captures: read as if they were plain, up to the damage."""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from flowshunt.ports import CaptureError
from flowshunt.ports.capture import open_capture
from tests.ports.capture.files import Read, frames, packets_of, pcap, read_all, written

_RANDOM = random.Random(3)
FRAMES = [_RANDOM.randbytes(40 + n % 100) for n in range(5000)]
PLAIN = pcap(FRAMES)


def compress_zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


COMPRESS = {"gzip": gzip.compress, "zstd": compress_zstd}


def read_to_damage(path: Path) -> tuple[list[Read], CaptureError | None]:
    got: list[Read] = []
    try:
        with open_capture(path) as reader:
            for batch in reader.batches(64):
                got += packets_of(batch)
    except CaptureError as error:
        return got, error
    return got, None


@pytest.mark.parametrize("name", COMPRESS)
def test_compressed_captures_are_read_whatever_their_name(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, COMPRESS[name](PLAIN), "capture.pcap")
    with open_capture(path) as reader:
        assert reader.compression == name
        assert reader.size == path.stat().st_size
        got = [frame for batch in reader.batches(64) for frame in frames(packets_of(batch))]
        assert reader.offset == reader.size
    assert got == FRAMES


@pytest.mark.parametrize("name", COMPRESS)
def test_members_follow_each_other(tmp_path: Path, name: str) -> None:
    half = len(PLAIN) // 2
    content = COMPRESS[name](PLAIN[:half]) + COMPRESS[name](b"") + COMPRESS[name](PLAIN[half:])
    assert frames(read_all(written(tmp_path, content))) == FRAMES


def test_padding_behind_gzip_and_skippable_frames_of_zstd_are_passed_over(tmp_path: Path) -> None:
    assert frames(read_all(written(tmp_path, gzip.compress(PLAIN) + bytes(1001)))) == FRAMES
    skippable = struct.pack("<II", 0x184D2A53, 100_000) + bytes(100_000)
    assert frames(read_all(written(tmp_path, skippable + compress_zstd(PLAIN) + skippable))) == FRAMES


@pytest.mark.parametrize("name", COMPRESS)
def test_truncated_data_are_damage_after_all_that_could_be_read(tmp_path: Path, name: str) -> None:
    content = COMPRESS[name](PLAIN)
    for size in [len(content) - 1, len(content) - 5, len(content) // 2, len(content) // 3]:
        got, error = read_to_damage(written(tmp_path, content[:size]))
        assert error is not None
        assert error.problem == f"{name} data end early"
        assert got == read_all(written(tmp_path, PLAIN))[: len(got)]
        # Compressed random bytes are about as long as plain ones, and zstd decodes whole blocks.
        assert error.offset > min(size, len(PLAIN) - 1) - (1 << 17) - 1000
        ends = _ends()
        assert len(got) == sum(end <= error.offset for end in ends)


@pytest.mark.parametrize("name", COMPRESS)
def test_garbage_behind_the_data_is_damage_at_their_end(tmp_path: Path, name: str) -> None:
    got, error = read_to_damage(written(tmp_path, COMPRESS[name](PLAIN) + b"garbage"))
    assert len(got) == len(FRAMES)
    assert error is not None
    assert error.offset == len(PLAIN)
    assert error.problem == f"bytes that are not {name} after the {name} data"


def test_a_wrong_checksum_is_damage_after_all_packets(tmp_path: Path) -> None:
    for name, at in (("gzip", -8), ("zstd", -1)):
        content = bytearray(COMPRESS[name](PLAIN))
        content[at] ^= 1
        got, error = read_to_damage(written(tmp_path, bytes(content)))
        assert len(got) == len(FRAMES)
        assert error is not None
        assert error.problem.startswith(f"damaged {name} data")
        assert error.offset == len(PLAIN)


@pytest.mark.parametrize("name", COMPRESS)
def test_a_flipped_byte_never_loses_what_came_before(tmp_path: Path, name: str) -> None:
    content = COMPRESS[name](PLAIN)
    want = frames(read_all(written(tmp_path, PLAIN)))
    for at in range(1, len(content), len(content) // 12):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        got, error = read_to_damage(written(tmp_path, bytes(damaged)))
        assert error is not None or got == [] or frames(got) == want
        # Behind the damage anything may be read; the packets well before it are there.
        safe = sum(end < at - (1 << 17) for end in _ends())
        assert frames(got)[:safe] == want[:safe]


def test_a_bomb_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    plain = pcap([bytes(1 << 18)] * 300)  # 79 MB of zeros
    for compress in COMPRESS.values():
        content = compress(plain)
        assert len(content) < 200_000
        path = written(tmp_path, content)
        with open_capture(path) as reader:
            assert sum(len(batch.packets) for batch in reader.batches(64)) == 300


@pytest.mark.parametrize("compress", COMPRESS.values())
def test_an_empty_compressed_file_is_an_empty_capture_file(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CaptureError, match="empty file"):
        open_capture(written(tmp_path, compress(b"")))


def _ends() -> list[int]:
    ends, at = [], 24
    for frame in FRAMES:
        at += 16 + len(frame)
        ends.append(at)
    return ends

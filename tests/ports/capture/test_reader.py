"""Reading classic pcap, and what holds for every capture."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from flowshunt.ports import CaptureError, Port
from flowshunt.ports.capture import CapturePort, open_capture
from tests.ports.capture.files import BIG, LITTLE, frames, packets_of, pcap, pcap_header, pcap_record, read_all, written

FRAMES = [bytes([n]) * (14 + n) for n in range(50)]


def test_every_reference_capture_has_the_packets_of_the_index(captures: Path) -> None:
    wrong = {}
    rows = list(csv.DictReader(io.StringIO((captures / "INDEX.tsv").read_text()), delimiter="\t"))
    for row in rows:
        with open_capture(captures / f"{row['name']}.pcap") as reader:
            for _ in reader.batches(32):
                pass
            if reader.n_packets != int(row["packets"]):
                wrong[row["name"]] = reader.n_packets
    assert len(rows) == 89
    assert wrong == {}


@pytest.mark.parametrize("order", [LITTLE, BIG])
@pytest.mark.parametrize(("magic", "tick_ns"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_byte_order_and_resolution_are_honoured(tmp_path: Path, order: str, magic: int, tick_ns: int) -> None:
    content = pcap_header(order, magic) + pcap_record(b"frame of bytes", 0xFFFFFFFF, 999_999, 1514, order)
    [packet] = read_all(written(tmp_path, content), in_port=9)
    assert packet == (b"frame of bytes", 0xFFFFFFFF * 10**9 + 999_999 * tick_ns, 1514, 9)


def test_a_wire_length_below_the_captured_one_is_raised_to_it(tmp_path: Path) -> None:
    [packet] = read_all(written(tmp_path, pcap_header() + pcap_record(bytes(60), wire=10)))
    assert packet.wire_length == 60


@pytest.mark.parametrize("limit", [1, 7, 50, 1000])
def test_batches_hold_at_most_the_limit_and_are_never_empty(tmp_path: Path, limit: int) -> None:
    with open_capture(written(tmp_path, pcap(FRAMES))) as reader:
        sizes, got = [], []
        for batch in reader.batches(limit):
            sizes.append(len(batch.packets))
            got += frames(packets_of(batch))
    assert got == FRAMES
    assert sizes == [limit] * (50 // limit) + [50 % limit] * (50 % limit > 0)


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    with open_capture(written(tmp_path, pcap(FRAMES))) as reader, pytest.raises(ValueError, match="limit is 0"):
        reader.receive(0)


def test_what_the_parser_fills_is_left_alone_and_the_port_part_is_set(tmp_path: Path) -> None:
    with open_capture(written(tmp_path, pcap(FRAMES * 2))) as reader:
        batch = reader.receive(10)
        assert batch is not None
        batch.packets["gso_size"], batch.packets["gso_type"], batch.packets["checksum"] = 9, 9, 9
        batch = reader.receive(10)
        assert batch is not None
        for name in ("gso_size", "gso_type", "checksum"):
            assert not batch.packets[name].any()


def test_attributes_tell_what_is_read_and_how_far(tmp_path: Path) -> None:
    path = written(tmp_path, pcap_header() + b"".join(pcap_record(bytes(60), 100 + n) for n in range(10)))
    with open_capture(path) as reader:
        assert (reader.format, reader.compression, reader.link_types) == ("pcap", "", (1,))
        assert (reader.n_packets, reader.offset, reader.size) == (0, 24, path.stat().st_size)
        assert reader.first_time_ns is None
        reader.receive(4)
        assert (reader.n_packets, reader.offset) == (4, 24 + 4 * 76)
        assert reader.first_time_ns == 100 * 10**9
        assert reader.receive(100) is not None
        assert reader.receive(100) is None
        assert reader.offset == reader.size
        assert reader.interfaces[0].n_packets == 10
        assert (reader.n_skipped, reader.skipped) == (0, {})


def test_a_capture_far_larger_than_the_window_is_read_whole(tmp_path: Path) -> None:
    sizes = np.random.default_rng(1).integers(0, 60_000, 200).tolist()
    sent = [bytes([n & 0xFF]) * size for n, size in enumerate(sizes)] + [bytes(1 << 18)]
    assert frames(read_all(written(tmp_path, pcap(sent)), limit=5)) == sent


def test_memory_does_not_grow_with_the_capture(tmp_path: Path) -> None:
    record = pcap_record(bytes(1000))
    path = tmp_path / "large.pcap"
    with path.open("wb") as file:
        file.write(pcap_header())
        for _ in range(60):
            file.write(record * 1000)
    program = (
        "import resource, sys\n"
        "from flowshunt.ports.capture import open_capture\n"
        "with open_capture(sys.argv[1]) as reader:\n"
        "    reader.receive(1)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    while reader.receive(2048): pass\n"
        "    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(reader.n_packets, after - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], env=_environment(), capture_output=True, text=True)
    assert done.stderr == ""
    n, growth_kb = map(int, done.stdout.split())
    assert n == 60_000
    assert growth_kb < 8_000


def test_standard_input_is_read_as_dash() -> None:
    program = (
        "from flowshunt.ports.capture import open_capture\n"
        "with open_capture('-') as reader:\n"
        "    print(sum(len(batch.packets) for batch in reader.batches(16)), reader.size)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=pcap(FRAMES), env=_environment(), capture_output=True)
    assert done.stderr == b""
    assert done.stdout == b"50 None\n"


def test_packets_of_a_live_pipe_are_delivered_before_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(pcap(FRAMES[:2]) + b"\0\0\0")
            assert received.wait(30)
            pipe.write(pcap(FRAMES[:3])[24 + 16 + 14 + 16 + 15 + 3 :])

    writer = threading.Thread(target=write)
    writer.start()
    with open_capture(path) as reader:
        first = reader.receive(10)
        assert first is not None
        assert frames(packets_of(first)) == FRAMES[:2]
        received.set()
        second = reader.receive(10)
        assert second is not None
        assert frames(packets_of(second)) == FRAMES[2:3]
        assert reader.receive(10) is None
    writer.join()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty file"),
        (b"tcpdump: listening on eth0\n", "a text file ('tcpdump: listeni')"),
        (b"\x7fELF\2\1\1\0" + bytes(40), "not a capture (first bytes 7f 45 4c 46)"),
        (b"\xfd7zXZ\0" + bytes(40), "xz-compressed data"),
        (pcap_header()[:20], "file ends after 20 bytes of the header"),
        (pcap_header(magic=0xA1B2CD34), "a modified pcap (24-byte record headers)"),
        (pcap_header(link_type=105), "packets of 802.11 (105)"),
        (pcap_header(link_type=4000), "packets of link type 4000"),
        (pcap_header()[:4] + b"\3\0\4\0" + pcap_header()[8:], "pcap version 3.4"),
    ],
)
def test_what_is_no_readable_capture_says_so(tmp_path: Path, content: bytes, problem: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(CaptureError) as caught:
        open_capture(path)
    assert (caught.value.path, caught.value.offset, caught.value.problem) == (str(path), 0, problem)
    assert caught.value.expected in str(caught.value)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_capture(tmp_path / "missing.pcap")


def test_the_length_of_a_frame_check_sequence_is_not_taken_for_a_link_type(tmp_path: Path) -> None:
    path = written(tmp_path, pcap_header(link_type=1 | 0x4400_0000) + pcap_record(bytes(64)))
    assert len(read_all(path)) == 1


def test_a_header_with_a_senseless_snap_length_reads_like_any_other(tmp_path: Path) -> None:
    for snap_length in (0, 14, 0x7FFFFFFF, 0xFFFFFFFF):
        path = written(tmp_path, pcap_header(snap_length=snap_length) + pcap_record(bytes(64)))
        assert len(read_all(path)) == 1


def test_a_capture_port_stamps_its_number_and_ends(tmp_path: Path) -> None:
    port = CapturePort(open_capture(written(tmp_path, pcap(FRAMES[:2]))))
    assert isinstance(port, Port)
    port.in_port = 3
    batch = port.receive(10)
    assert batch is not None
    assert batch.packets["in_port"].tolist() == [3, 3]
    assert port.receive(10) is None
    assert port.transmit(batch.data, batch.packets) == 2
    port.close()
    port.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "src")}

"""Captures written: read back the same, byte for byte the same each time, and by other tools."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowshunt.packet.schema import PACKET
from flowshunt.ports.capture import CapturePort, PcapngWriter, PcapWriter, open_capture
from tests.ports.capture.files import Read, frames, read_all

Writer = PcapWriter | PcapngWriter
TSHARK = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed (package tshark)")

packets_strategy = st.lists(
    st.tuples(st.binary(max_size=200), st.integers(0, (1 << 32) * 10**9 - 1), st.integers(0, 70_000)), max_size=40
)


def batch_of(packets: list[tuple[bytes, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    records = np.zeros(len(packets), PACKET)
    at = 3
    for record, (frame, time_ns, wire) in zip(records, packets, strict=True):
        record["data"], record["length"], record["time_ns"], record["wire_length"] = at, len(frame), time_ns, wire
        at += len(frame)
    data = np.frombuffer(b"\xaa" * 3 + b"".join(frame for frame, _, _ in packets), np.uint8)
    return data.copy(), records


def expected(packets: list[tuple[bytes, int, int]], tick_ns: int = 1) -> list[Read]:
    return [Read(frame, time // tick_ns * tick_ns, max(wire, len(frame)), 0) for frame, time, wire in packets]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packets=packets_strategy, nanoseconds=st.booleans(), suffix=st.sampled_from(["", ".gz", ".zst"]))
def test_pcap_round_trip(tmp_path: Path, packets: list[tuple[bytes, int, int]], nanoseconds: bool, suffix: str) -> None:
    path = tmp_path / f"capture.pcap{suffix}"
    with PcapWriter(path, nanoseconds) as writer:
        writer.write(*batch_of(packets))
        assert writer.n_packets == len(packets)
    assert read_all(path) == expected(packets, 1 if nanoseconds else 1000)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packets=packets_strategy, suffix=st.sampled_from(["", ".gz", ".zst"]))
def test_pcapng_round_trip(tmp_path: Path, packets: list[tuple[bytes, int, int]], suffix: str) -> None:
    path = tmp_path / f"capture.pcapng{suffix}"
    with PcapngWriter(path, ["p0", "p1", ""]) as writer:
        data, records = batch_of(packets)
        writer.write(data, records, interface=np.arange(len(packets)) % 3)
        writer.write(data, records, interface=2)
    assert read_all(path) == expected(packets) * 2
    with open_capture(path) as reader:
        for _ in reader.batches(100):
            pass
        n = len(packets)
        assert [interface.name for interface in reader.interfaces] == ["p0", "p1", ""]
        assert [interface.n_packets for interface in reader.interfaces] == [(n + 2) // 3, (n + 1) // 3, n // 3 + n]


def test_offsets_and_lengths_can_be_given_instead_of_records(tmp_path: Path) -> None:
    data = np.arange(100, dtype=np.uint8)
    offsets, lengths = np.array([10, 0, 100]), np.array([4, 100, 0])
    with PcapWriter(tmp_path / "a") as writer:
        writer.write(data, (offsets, lengths), time_ns=np.array([7, 8, 9]), wire_length=np.array([0, 1500, 60]))
    assert read_all(tmp_path / "a") == [
        Read(bytes([10, 11, 12, 13]), 7, 4, 0),
        Read(data.tobytes(), 8, 1500, 0),
        Read(b"", 9, 60, 0),
    ]
    with PcapWriter(tmp_path / "b") as writer, pytest.raises(ValueError, match="need time_ns"):
        writer.write(data, (offsets, lengths))


def test_records_without_a_wire_length_are_written_whole(tmp_path: Path) -> None:
    sent = np.zeros(2, [("data", np.int64), ("length", np.uint32), ("time_ns", np.int64)])
    sent["length"] = 60
    with PcapWriter(tmp_path / "a") as writer:
        writer.write(np.zeros(60, np.uint8), sent)
    assert [packet.wire_length for packet in read_all(tmp_path / "a")] == [60, 60]


def test_more_than_the_output_buffer_is_written_in_one_call(tmp_path: Path) -> None:
    packets = [(bytes([n]) * (1 << 18), n, 0) for n in range(11)]
    with PcapWriter(tmp_path / "a") as pcap, PcapngWriter(tmp_path / "b") as pcapng:
        pcap.write(*batch_of(packets))
        pcapng.write(*batch_of(packets))
    assert read_all(tmp_path / "a") == read_all(tmp_path / "b") == expected(packets)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("data", -1, "does not lie within the buffer"),
        ("data", 1000, "does not lie within the buffer"),
        ("length", 100, "does not lie within the buffer"),
        ("time_ns", -1, "has a time that the format can't say"),
        ("time_ns", (1 << 32) * 10**9, "has a time that the format can't say"),
    ],
)
def test_a_packet_that_cannot_be_written_is_refused_and_nothing_is(
    tmp_path: Path, field: str, value: int, problem: str
) -> None:
    data, records = batch_of([(bytes(60), 0, 60)] * 3)
    records[field][1] = value
    if field == "length":
        records["data"][1] = len(data) - 99
    with PcapWriter(tmp_path / "a") as writer:
        with pytest.raises(ValueError, match=f"packet 1 {problem}"):
            writer.write(data, records)
        assert writer.n_packets == 0
    assert read_all(tmp_path / "a") == []


def test_a_packet_longer_than_readers_take_is_refused(tmp_path: Path) -> None:
    with PcapWriter(tmp_path / "a") as writer, pytest.raises(ValueError, match="packet 0 is longer than 262144 bytes"):
        writer.write(*batch_of([(bytes((1 << 18) + 1), 0, 0)]))


def test_an_interface_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with PcapngWriter(tmp_path / "a", ["p0"]) as writer, pytest.raises(ValueError, match="it has 1"):
        writer.write(*batch_of([(b"x", 0, 0)]), interface=1)
    with pytest.raises(ValueError, match="0 interfaces"):
        PcapngWriter(tmp_path / "b", [])


def test_a_closed_writer_takes_nothing(tmp_path: Path) -> None:
    writer = PcapWriter(tmp_path / "a")
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="writer is closed"):
        writer.write(*batch_of([(b"x", 0, 0)]))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("make", [PcapWriter, PcapngWriter])
def test_the_same_packets_give_the_same_bytes(tmp_path: Path, make: Callable[[Path], Writer], suffix: str) -> None:
    contents = []
    for name in ("one", "another"):
        path = tmp_path / (name + suffix)
        with make(path) as writer:
            writer.write(*batch_of([(bytes(60), n, 60) for n in range(1000)]))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    if suffix == ".gz":
        assert contents[0][3:8] == bytes(5)  # no name, no time
        assert len(gzip.decompress(contents[0])) > 60_000


def test_a_capture_written_again_is_the_same_file(captures: Path, tmp_path: Path) -> None:
    source = captures / "zeek-http-methods.pcap"
    with open_capture(source) as reader, PcapWriter(tmp_path / "copy", nanoseconds=False) as writer:
        port = CapturePort(reader, writer)
        while (batch := port.receive(50)) is not None:
            port.transmit(batch.data, batch.packets)
    assert (tmp_path / "copy").read_bytes()[24:] == source.read_bytes()[24:]


def test_standard_output_is_written_as_dash() -> None:
    program = (
        "import numpy as np\n"
        "from flowshunt.ports.capture import PcapWriter\n"
        "with PcapWriter('-') as writer:\n"
        "    writer.write(np.zeros(60, np.uint8), (np.array([0]), np.array([60])), time_ns=5)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert len(done.stdout) == 24 + 16 + 60


@TSHARK
@pytest.mark.parametrize("make", [PcapWriter, PcapngWriter])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_wireshark_reads_the_same(tmp_path: Path, captures: Path, make: Callable[[Path], Writer], suffix: str) -> None:
    path = tmp_path / f"capture{suffix}"
    with open_capture(captures / "zeek-http-methods.pcap") as reader, make(path) as writer:
        for batch in reader.batches(100):
            writer.write(*batch)
    ours = [
        f"{packet.time_ns / 1e9:.6f} {len(packet.frame)} {packet.wire_length} {packet.frame[:6].hex(':')}"
        for packet in read_all(path)
    ]
    fields = ("frame.time_epoch", "frame.cap_len", "frame.len", "eth.dst")
    command = ["tshark", "-r", str(path), "-T", "fields", "-E", "separator= ", *(f"-e{name}" for name in fields)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    theirs = [f"{float(time):.6f} {rest}" for time, _, rest in (line.partition(" ") for line in lines)]
    assert theirs == ours


def test_blocks_stay_aligned_whatever_the_name_and_the_frames(tmp_path: Path) -> None:
    with PcapngWriter(tmp_path / "a", ["a name with ünicode"]) as writer:
        writer.write(*batch_of([(b"abc", 1, 3), (b"", 2, 0)]))
    content = (tmp_path / "a").read_bytes()
    assert len(content) % 4 == 0
    assert frames(read_all(tmp_path / "a")) == [b"abc", b""]

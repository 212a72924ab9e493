"""Captures of ports, which do not grow without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowshunt.ports.api import PortError
from flowshunt.ports.capture import open_capture
from flowshunt.ports.live import plain
from flowshunt.ports.recorder import PcapFile, Recorder, Recording
from flowshunt.ports.segments import GSO_TCPV4
from tests.builders import Packet, batch_of
from tests.ports.test_segments import PAYLOAD, TCPV4, finish, frames_of

PING = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").icmp().payload(b"x" * 20)
RECORD = 16 + len(PING.bytes())


def read(path: Path) -> list[bytes]:
    found = []
    with open_capture(path) as reader:
        for batch in reader.batches(64):
            for packet in batch.packets:
                start = int(packet["data"])
                found.append(batch.data[start : start + int(packet["length"])].tobytes())
    return found


def test_both_directions_go_to_one_file_or_to_two(tmp_path: Path) -> None:
    one, other = tmp_path / "one.pcap", tmp_path / "other.pcap"
    answer = Packet().eth().ipv4("10.0.0.2", "10.0.0.1").icmp().bytes()
    for recording in (Recording(str(one), str(one)), Recording(str(one), str(other)), Recording(None, str(other))):
        recorder = Recorder(recording)
        recorder.received(plain(batch_of([PING])))
        recorder.sent(frames_of(answer), 1)
        recorder.sent(frames_of(answer), 2)
        assert recorder.n_left_out == 0
        recorder.close()
    assert read(one) == [PING.bytes(), answer, PING.bytes()], "what is there is appended to"
    assert read(other) == [answer, answer]


def test_what_is_written_can_be_read_at_once(tmp_path: Path) -> None:
    recorder = Recorder(Recording(sent=str(tmp_path / "sent.pcap")))
    for n in range(3):
        recorder.sent(frames_of(PING.bytes()), 1)
        assert len(read(tmp_path / "sent.pcap")) == n + 1
    recorder.close()
    recorder.close()


def test_gso_packets_are_recorded_as_their_segments(tmp_path: Path) -> None:
    whole = TCPV4.tcp(1000, 80, ack=True).payload(PAYLOAD).bytes()
    frames = frames_of(whole, GSO_TCPV4, 1000, 34, 16)
    path = tmp_path / "both.pcap"
    recorder = Recorder(Recording(str(path), str(path)))
    recorder.sent(frames, 1)
    recorder.received(frames.received)
    recorder.close()
    assert read(path) == finish(frames) * 2
    assert len(read(path)) == 8


def test_a_full_file_takes_nothing_more_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "small.pcap"
    limit = 24 + 5 * RECORD + 1
    for n_left_out in (3, 8):  # the second time it is full from the start
        recorder = Recorder(Recording(sent=str(path), size=limit))
        recorder.sent(frames_of(PING.bytes(), copies=4), 1)
        recorder.sent(frames_of(PING.bytes(), copies=4), 1)
        assert (len(read(path)), recorder.n_left_out) == (5, n_left_out)
        assert path.stat().st_size <= limit
        recorder.close()


def test_once_something_was_left_out_nothing_follows(tmp_path: Path) -> None:
    recorder = Recorder(Recording(sent=str(tmp_path / "a.pcap"), size=24 + 2 * RECORD))
    for frame in (PING.bytes(), PING.payload(bytes(100)).bytes(), PING.bytes()):
        recorder.sent(frames_of(frame), 1)
    recorder.close()
    assert (read(tmp_path / "a.pcap"), recorder.n_left_out) == ([PING.bytes()], 2)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(PortError, match=r"cannot be written .No such file or directory"):
        PcapFile(str(tmp_path / "no" / "p.pcap"), 1000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_recording_and_is_told_once() -> None:
    with pytest.raises(PortError, match="No space left"):
        PcapFile("/dev/full", 1 << 20)

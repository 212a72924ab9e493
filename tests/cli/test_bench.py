"""`flowshunt bench`: what it refuses, and the parts that need no root."""

from __future__ import annotations

import socket

import pytest

from flowshunt.base.errors import UsageError
from flowshunt.cli.bench import live
from flowshunt.cli.bench.command import execute
from flowshunt.cli.bench.figures import Record
from flowshunt.cli.bench.frames import PAYLOAD_AT, frame, ports_of, probe
from flowshunt.cli.bench.introduction import _MAGIC, _NUMBER, _answer, send_all
from tests.builders import Packet


def test_without_root_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="needs root"):
        live.check_machine()


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: None if name in ("nft", "iperf3") else name)
    with pytest.raises(UsageError, match="not installed: iperf3, nft"):
        live.check_machine()


def test_an_unknown_row_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no row 'fast'") as caught:
        execute(("slow", "fast"), rounds=1, seconds=1, n_flows=10, json_file=None, quiet=True)
    assert "route_ct_nat" in str(caught.value.hint)


def test_quotients_are_taken_within_a_round() -> None:
    record = Record()
    live._compare(record, {"bridge": dict.fromkeys(live.RATIOS, 2.0), "slow": dict.fromkeys(live.RATIOS, 1.0)})
    assert record.figures["live.slow.to_bridge.tcp"].values == [0.5]
    assert "live.bridge.to_bridge.tcp" not in record.figures
    assert "live.slow.to_bridge.udp64_100k" in record.table()


def test_where_nothing_arrived_there_is_no_quotient() -> None:
    record = Record()
    none = dict.fromkeys(live.RATIOS, 2.0) | {"udp64": 0.0}
    live._compare(record, {"bridge": none, "slow": dict.fromkeys(live.RATIOS, 1.0)})
    assert "live.slow.to_bridge.udp64" not in record.figures
    assert record.figures["live.slow.to_bridge.ping"].values == [0.5]


def test_generated_frames_are_what_they_should_be() -> None:
    made = frame("02:00:00:00:00:01", "02:00:00:00:00:02", "10.0.0.1", "10.0.0.2", ports_of(50_003))
    base = Packet().eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv4("10.0.0.1", "10.0.0.2", id=0, df=True)
    assert made == base.udp(1003, 2001, checksum=0).payload(bytes(18)).bytes()
    assert len({ports_of(flow) for flow in range(120_000)}) == 120_000


def test_a_probe_is_what_arping_would_send() -> None:
    made = probe("02:00:00:00:00:01")
    assert made[:22].hex() == "ffffffffffff02000000000108060001080006040001"
    assert made[22:32].hex() == "02000000000100000000" and len(made) == 60


def test_an_answer_goes_back_where_the_frame_came_from() -> None:
    came = frame("02:00:00:00:00:01", "02:00:00:00:00:02", "10.0.0.1", "10.0.0.2", (7, 8))
    back = frame("02:00:00:00:00:03", "02:00:00:00:00:04", "10.0.0.2", "10.0.0.1", (8, 7))
    assert _answer(came, "02:00:00:00:00:03", "02:00:00:00:00:04") == back


class Lossy:
    """A way on which some frames get lost, and some flows entirely."""

    def __init__(self, way: socket.socket, lost_flows: set[int]) -> None:
        self._way = way
        self._lost_flows = lost_flows
        self.n = 0

    def send(self, content: bytes) -> None:
        self.n += 1
        if self.n % 7 and _NUMBER.unpack_from(content, PAYLOAD_AT)[1] not in self._lost_flows:
            self._way.send(content)


def test_what_is_lost_is_sent_again_until_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowshunt.cli.bench.introduction.PATIENCE_S", 0.01)
    frames = {}
    for flow in range(400):
        content = bytearray(frame("02:00:00:00:00:01", "02:00:00:00:00:02", "10.0.0.1", "10.0.0.2", ports_of(flow)))
        _NUMBER.pack_into(content, PAYLOAD_AT, _MAGIC, flow)
        frames[flow] = bytes(content)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    monkeypatch.setattr("flowshunt.cli.bench.introduction.FIRST_WINDOW", 8)
    monkeypatch.setattr("flowshunt.cli.bench.introduction.MOST_WINDOW", 8)
    with near, far:
        near.send(bytes(20))  # somebody else's
        arrived = send_all(frames, Lossy(near, {3, 50}), far)  # type: ignore[arg-type]
    assert set(frames) - set(arrived) == {3, 50}
    assert arrived[7] == frames[7]

"""`flowshunt bench`: what it refuses, and the parts that need no root."""

from __future__ import annotations

import pytest

from flowshunt.base.errors import UsageError
from flowshunt.cli.bench import live
from flowshunt.cli.bench.command import execute
from flowshunt.cli.bench.figures import Record
from flowshunt.cli.bench.generator import frame, ports_of
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

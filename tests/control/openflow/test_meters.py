"""Meters by the real ovs-ofctl, with packets through them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowshunt.datapath.schema import FATES
from tests.builders import batch_of
from tests.control.openflow.test_server import Running, needs_ofctl
from tests.datapath.switches import udp

pytestmark = needs_ofctl
BASE = 1_900_000_000_000


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "run")
    try:
        yield running
    finally:
        running.close()


def passed(running: Running, n: int, at_ms: int) -> int:
    """How many of n packets of a moment pass."""
    batch = batch_of([udp()] * n, in_port=0xFFFE, time_ns=(BASE + at_ms) * 1_000_000)
    result = running.switch.datapath.process(batch)
    assert {FATES[fate] for fate in result.fate} <= {"output", "drop.meter"}
    return len(result.tx)


@pytest.mark.parametrize("options", ["-OOpenFlow13", "-OOpenFlow15"])
def test_a_meter_limits_packets_and_counts(running: Running, options: str) -> None:
    running.ofctl(options, "add-meter", "meter=1,pktps,burst,stats,band=type=drop,rate=10,burst_size=5")
    running.ofctl(options, "add-flow", "actions=meter:1,output:1")
    assert passed(running, 20, 0) == 5
    assert passed(running, 20, 99) == 0
    assert passed(running, 20, 100) == 1
    assert passed(running, 20, 300) == 2
    assert passed(running, 20, 100_000) == 5
    said = running.ofctl(options, "meter-stats")
    assert "meter:1 flow_count:1 packet_in_count:100 byte_in_count:4700" in said
    assert "0: packet_count:87 byte_count:4089" in said
    assert "meter=1 pktps burst stats bands=\ntype=drop rate=10 burst_size=5" in running.ofctl(options, "dump-meters")
    assert "meter:1" in running.flows(options)[0]
    running.ofctl(options, "mod-meter", "meter=1,pktps,band=type=drop,rate=1000")
    assert passed(running, 20, 100_001) == 20
    running.ofctl(options, "del-meters")
    assert running.flows(options) == []
    assert running.switch.datapath.rules.linker.meters._cells == {}


def test_a_meter_of_kilobits_counts_bits_and_the_strictest_band_is_blamed_last(running: Running) -> None:
    bands = "type=drop,rate=1,burst_size=1,type=drop,rate=2,burst_size=4"
    running.ofctl("-OOpenFlow13", "add-meter", f"meter=7,kbps,stats,burst,band={bands}")
    running.ofctl("-OOpenFlow13", "add-flow", "actions=meter:7,output:1")
    assert passed(running, 20, 0) == 2  # 47 bytes are 376 bits, of 1000
    stats = running.ofctl("-OOpenFlow13", "meter-stats", "meter=7")
    assert "packet_in_count:20" in stats
    assert "0: packet_count:8" in stats and "1: packet_count:10" in stats


def test_what_is_wrong_with_a_meter_is_said(running: Running) -> None:
    running.ofctl("-OOpenFlow13", "add-meter", "meter=1,kbps,band=type=drop,rate=1")
    for arguments, error in (
        (("add-meter", "meter=1,kbps,band=type=drop,rate=1"), "OFPMMFC_METER_EXISTS"),
        (("mod-meter", "meter=2,kbps,band=type=drop,rate=1"), "OFPMMFC_UNKNOWN_METER"),
        (("add-meter", "meter=2,kbps,band=type=dscp_remark,rate=1,prec_level=1"), "OFPMMFC_BAD_BAND"),
        (("add-flow", "actions=meter:2,1"), "OFPMMFC_INVALID_METER"),
        (("dump-meter", "meter=2"), "OFPMMFC_UNKNOWN_METER"),
    ):
        assert error in running.ofctl("-OOpenFlow13", *arguments, check=False)
    assert "max_meter:65536 max_bands:8" in running.ofctl("-OOpenFlow13", "meter-features")

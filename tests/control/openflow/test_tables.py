"""What controllers configure of tables, by the real ovs-ofctl."""

from __future__ import annotations

import pytest

from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.tables import TableMod, Vacancy, decode_table_mod
from flowshunt.datapath.schema import PORT_LOCAL
from tests.builders import Packet
from tests.control.openflow.test_packets import Bench, bench
from tests.control.openflow.test_server import Running, needs_ofctl, running
from tests.datapath.switches import fate, ports_of, send, udp

__all__ = ["bench", "running"]


def table(said: str, number: int) -> list[str]:
    """What is said of one table."""
    lines = said.split(f"table {number}:\n")[1].splitlines()
    return [line.strip() for line in lines[: next((n for n, line in enumerate(lines) if not line), None)]]


@needs_ofctl
@pytest.mark.parametrize("version", ["-OOpenFlow11", "-OOpenFlow12"])
def test_misses_go_on_or_are_dropped(running: Running, version: str) -> None:
    datapath = running.switch.datapath
    running.ofctl(version, "add-flow", "table=2,udp,actions=output:2")
    assert fate(datapath, udp()) == "drop.no-match"
    running.ofctl(version, "mod-table", "0", "continue")
    assert fate(datapath, udp()) == "drop.no-match"
    running.ofctl(version, "mod-table", "1", "continue")
    assert ports_of(send(datapath, udp())) == [2]
    assert "config=continue" in table(running.ofctl(version, "dump-tables"), 0)
    running.ofctl(version, "mod-table", "0", "drop")
    assert fate(datapath, udp()) == "drop.no-match"
    assert "config=drop" in table(running.ofctl(version, "dump-tables"), 0)
    running.ofctl(version, "add-flow", "udp,actions=goto_table:1")
    assert ports_of(send(datapath, udp())) == [2]


@needs_ofctl
def test_misses_go_to_controllers(bench: Bench) -> None:
    bench.running.ofctl("-OOpenFlow11", "add-flow", "udp,actions=goto_table:5")
    bench.running.ofctl("-OOpenFlow11", "mod-table", "5", "controller")
    monitor = bench.monitor("65534", "-OOpenFlow13")
    bench.receive(udp())
    assert "table_id=5" in (said := monitor.next()) and "(via no_match)" in said
    bench.running.ofctl("-OOpenFlow11", "mod-table", "all", "continue")
    bench.receive(Packet().eth().arp("10.0.0.1", "10.0.0.2"))
    assert "table_id=253" in (said := monitor.next()) and "(via no_match)" in said


@needs_ofctl
@pytest.mark.parametrize("version", ["-OOpenFlow14", "-OOpenFlow15"])
def test_eviction_and_vacancy_are_remembered(running: Running, version: str) -> None:
    flags = "eviction_flags=OTHER|IMPORTANCE|LIFETIME"

    def told(number: int) -> list[str]:
        return table(running.ofctl(version, "dump-table-desc"), number)

    assert told(3) == [f"eviction=off {flags}", "vacancy=off"]
    running.ofctl(version, "mod-table", "3", "evict")
    assert told(3) == [f"eviction=on {flags}", "vacancy=off"]
    assert told(4) == [f"eviction=off {flags}", "vacancy=off"]
    running.ofctl(version, "mod-table", "3", "vacancy:20,80")
    assert told(3)[1] == "vacancy=on vacancy_down=20% vacancy_up=80% vacancy=100%"
    running.ofctl(version, "add-flow", "table=3,actions=drop")
    assert told(3)[1].endswith("vacancy=99%")
    running.ofctl(version, "mod-table", "3", "noevict")
    running.ofctl(version, "mod-table", "3", "novacancy")
    assert told(3) == [f"eviction=off {flags}", "vacancy=off"]
    assert "OFPTMFC_EPERM" in running.ofctl(version, "mod-table", "254", "evict", check=False)
    assert send(running.switch.datapath, udp(), in_port=PORT_LOCAL) == []


@pytest.mark.parametrize(
    ("body", "version", "error"),
    [
        (b"\0\0\0\0\0\0\0\3", 2, "OFPTMFC_BAD_CONFIG"),
        (b"\0\0\0\0\0\0\0\4", 4, "OFPTMFC_BAD_CONFIG"),
        (b"\0\0\0\0\0\0\0", 5, "OFPBRC_BAD_LEN"),
        (b"\0\0\0\0\0\0\0\0" + b"\0\3\0\x0c", 5, "OFPBPC_BAD_LEN"),
        (b"\0\0\0\0\0\0\0\0" + b"\0\3\0\4", 5, "OFPBPC_BAD_LEN"),
        (b"\0\0\0\0\0\0\0\0" + b"\0\3\0\x08\x50\x20\0\0", 5, "OFPBPC_BAD_VALUE"),
        (b"\0\0\0\0\0\0\0\0" + b"\0\3\0\x08\x10\x65\0\0", 5, "OFPBPC_BAD_VALUE"),
        (b"\0\0\0\0\0\0\0\0" + b"\0\2\0\x08\0\0\0\1", 5, "OFPTMFC_BAD_CONFIG"),
        (b"\0\0\0\0\0\0\0\0" + b"\0\7\0\x08\0\0\0\1", 5, "OFPBRC_BAD_TYPE"),
    ],
)
def test_wrong_requests_are_refused(body: bytes, version: int, error: str) -> None:
    with pytest.raises(OpenFlowError) as caught:
        decode_table_mod(body, version)
    assert caught.value.name == error


def test_what_a_version_does_not_say_stays() -> None:
    assert decode_table_mod(b"\7\0\0\0\0\0\0\3", 4) == TableMod(7)
    said = decode_table_mod(b"\7\0\0\0\0\0\0\x0c" + b"\0\3\0\x08\x14\x50\0\0", 5)
    assert said == TableMod(7, None, True, True, Vacancy(20, 80))

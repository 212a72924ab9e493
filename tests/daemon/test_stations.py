"""Stations that are written down, and put back into another switch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowshunt.app import Switch
from flowshunt.base.clock import Moment
from flowshunt.base.errors import InputError
from flowshunt.daemon import stations
from tests.builders import Packet, batch_of

NOW_MS = 1_700_000_000_000
NOW = Moment(NOW_MS, "this boot", 90_000)


class Lab:
    """A bridge `br0`, as far as stations need one, with ports of these names."""

    def __init__(self, *names: str) -> None:
        self.switch = Switch()
        for name in names:
            self.switch.add_port(name)
        self.switch.add_flows("actions=normal")
        ports = {name: SimpleNamespace(name=name, ofport=n) for n, name in enumerate(names, 1)}
        self.bridges: Any = {"br0": SimpleNamespace(ports=ports, switch=self.switch)}

    def hear(self, port: int, mac: str, now_ms: int) -> list[int]:
        """A frame comes in; the ports that it leaves by."""
        frame = Packet().eth(mac, "02:00:00:00:00:01").ipv4("10.0.0.1", "10.0.0.2").udp(1000, 53)
        result = self.switch.process(batch_of([frame], in_port=port, time_ns=now_ms * 1_000_000))
        return sorted(result.tx["port"].tolist())

    def known(self, now_ms: int) -> list[tuple[int, str, int]]:
        return [(one.port, one.mac, one.age_ms) for one in self.switch.datapath.ports.stations(now_ms)]


def written(lab: Lab, path: Path) -> Path:
    stations.write(path, stations.learned(lab.bridges)(NOW_MS), NOW)
    return path


def test_the_next_switch_knows_where_they_are_by_the_names_of_ports(tmp_path: Path) -> None:
    before, after = Lab("p1", "p2", "p3"), Lab("p3", "p2", "p1")
    before.hear(1, "02:00:00:00:00:01", NOW_MS - 5000)
    before.hear(2, "02:00:00:00:00:02", NOW_MS + 7)  # while the others were being listed
    path = written(before, tmp_path / "stations")
    assert path.stat().st_mode & 0o777 == 0o600
    said = stations.read(path, lambda: Moment(NOW_MS, NOW.boot, NOW.uptime_ms + 2000))
    assert stations.put_back(after.bridges, said, NOW_MS + 2000) == 2
    assert after.known(NOW_MS + 2000) == [(2, "02:00:00:00:00:02", 2000), (3, "02:00:00:00:00:01", 7000)]
    assert after.hear(1, "02:00:00:00:00:03", NOW_MS + 2001) == [3]


def test_what_is_old_gone_or_known_better_is_left_out(tmp_path: Path) -> None:
    before, after = Lab("p1", "p2", "p3"), Lab("p1", "p2")
    for port, mac, age_ms in ((1, "01", 299_000), (2, "02", 0), (3, "03", 0), (1, "04", 0)):
        before.hear(port, f"02:00:00:00:00:{mac}", NOW_MS - age_ms)
    before.switch.datapath.ports.add_station(5, 0, 1)
    after.hear(1, "02:00:00:00:00:02", NOW_MS)
    said = stations.read(written(before, tmp_path / "stations"), lambda: NOW._replace(uptime_ms=NOW.uptime_ms + 2000))
    assert stations.put_back(after.bridges, said | {"br7": said["br0"]}, NOW_MS + 2000) == 1
    assert after.known(NOW_MS + 2000) == [(1, "02:00:00:00:00:02", 2000), (1, "02:00:00:00:00:04", 2000)]


def test_a_full_table_takes_no_more(tmp_path: Path) -> None:
    lab = Lab("p1")
    room = len(lab.switch.datapath.ports.arrays.stations)
    said = {"br0": [stations.Kept("p1", 0, f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", 0) for n in range(room + 10)]}
    assert stations.put_back(lab.bridges, said, NOW_MS) == room
    assert stations.put_back(lab.bridges, said, NOW_MS) == 0


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("flowshunt-stations", "stations"), ('"version":1', '"version":2'), ("02:00:00:00:00:01", "02:00:00:00:00"),
        ("90000", "-1"), ('"p1",0', '"p1",4096'), ('"p1",0', "7,0"), ('"p1",0', "0"), ("90000}", "90000"),
        ('{"br0"', '[{"br0"'),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_as_a_whole(tmp_path: Path, was: str, becomes: str) -> None:
    lab = Lab("p1")
    lab.hear(1, "02:00:00:00:00:01", NOW_MS)
    path = written(lab, tmp_path / "stations")
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, becomes, 1))
    with pytest.raises(InputError, match="stations: "):
        stations.read(path, lambda: NOW)

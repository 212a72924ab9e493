"""Connections that are written down, and put back into another tracker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowshunt.app import Switch
from flowshunt.base.clock import Moment
from flowshunt.daemon import snapshot
from tests.builders import Packet, batch_of

RULES = "table=0,ip,actions=ct(commit,nat(src=192.0.2.7),table=1)\ntable=1,in_port=1,actions=2\ntable=1,actions=1"
NOW_MS = 1_700_000_000_000
NOW = Moment(NOW_MS, "this boot", 90_000)


def later(by_ms: int, *, stepped_ms: int = 0, boot: str = NOW.boot) -> Moment:
    """Some time after NOW, while somebody has set the machine's clock."""
    return Moment(NOW_MS + by_ms + stepped_ms, boot, NOW.uptime_ms + by_ms)


def read(path: Path, now: Moment = NOW) -> snapshot.Snapshot:
    return snapshot.read(path, "default", lambda: now)


def switch_with_connections() -> Switch:
    switch = Switch()
    for name in ("p1", "p2"):
        switch.add_port(name)
    switch.add_flows(RULES)
    there = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1000, 53).payload(b"q")
    back = Packet().eth().ipv4("10.0.0.2", "192.0.2.7").udp(53, 1000).payload(b"a")
    for packet, port in ((there, 1), (back, 2), (there, 1)):
        switch.process(batch_of([packet], in_port=port, time_ns=NOW_MS * 1_000_000))
    return switch


def written(path: Path, switch: Switch) -> Path:
    snapshot.write(path, "default", list(snapshot.documents(switch.tracker, NOW_MS)), NOW)
    return path


def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    before = switch_with_connections()
    path = written(tmp_path / "connections", before)
    assert path.stat().st_mode & 0o777 == 0o600
    after = Switch()
    found = read(path, later(5000))
    assert (found.age_ms, found.n_expired) == (5000, 0)
    assert snapshot.put_back(after.tracker, found.entries, NOW_MS + 5000) == []
    (was,), (now,) = before.tracker.connections(NOW_MS), after.tracker.connections(NOW_MS + 5000)
    assert (now.original, now.reply, now.nat, now.state, now.mark) == (
        was.original, was.reply, was.nat, was.state, was.mark,
    )  # fmt: skip
    assert now.timeout_ms == was.timeout_ms - 5000


def test_what_has_expired_since_is_left_out(tmp_path: Path) -> None:
    switch = switch_with_connections()
    (was,) = switch.tracker.connections(NOW_MS)
    path = written(tmp_path / "connections", switch)
    assert len(read(path, later(was.timeout_ms - 1)).entries) == 1
    found = read(path, later(was.timeout_ms))
    assert (found.entries, found.n_expired) == ([], 1)


@pytest.mark.parametrize(
    ("now", "age_ms"),
    [
        (later(3000, stepped_ms=7_200_000), 3000),
        (later(3000, stepped_ms=-7_200_000), 3000),
        (later(3000, boot="another boot"), 3000),
        (later(3000, stepped_ms=-7_200_000, boot="another boot"), 0),
        (later(-1000), 0),
    ],
)
def test_a_clock_that_was_set_ages_nothing(tmp_path: Path, now: Moment, age_ms: int) -> None:
    found = read(written(tmp_path / "connections", switch_with_connections()), now)
    assert (found.age_ms, len(found.entries)) == (age_ms, 1)


def test_a_file_that_says_nothing_of_the_boot_ages_by_the_clock(tmp_path: Path) -> None:
    path = written(tmp_path / "connections", switch_with_connections())
    path.write_text(path.read_text().replace(',"boot":"this boot","uptime_ms":90000', "", 1))
    assert read(path, later(3000, stepped_ms=1000)).age_ms == 4000


def test_a_connection_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    switch = switch_with_connections()
    entries = read(written(tmp_path / "connections", switch)).entries
    (was,) = switch.tracker.connections(NOW_MS)
    switch.tracker.set_mark(was.id, was.generation, 7)
    assert snapshot.put_back(switch.tracker, entries, NOW_MS) == []
    assert [one.mark for one in switch.tracker.connections(NOW_MS)] == [7]


def test_an_offloaded_connection_has_the_time_that_it_would_get_with_a_packet(tmp_path: Path) -> None:
    switch = switch_with_connections()
    switch.configure_offload({"hw-offload": "true"})
    frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1000, 53).payload(b"q")
    reply = Packet().eth().ipv4("10.0.0.2", "192.0.2.7").udp(53, 1000).payload(b"a")
    for n, (packet, port) in enumerate(((frame, 1), (reply, 2)) * 3):
        switch.process(batch_of([packet], in_port=port, time_ns=(NOW_MS + n) * 1_000_000))
    (found,) = snapshot.documents(switch.tracker, NOW_MS + 10)
    assert [one.offload for one in switch.tracker.connections(NOW_MS + 10)] != [None]
    assert found["offload"] is None
    assert found["timeout_ms"] > 1000
    snapshot.write(tmp_path / "connections", "default", [found], NOW)
    entries = read(tmp_path / "connections").entries
    assert snapshot.put_back(Switch().tracker, entries, NOW_MS) == []


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda text: "", "no line of a snapshot"),
        (lambda text: text[:-20], "no line of a snapshot"),
        (lambda text: "\n".join(text.splitlines()[:-1]) + "\n", "no line of a snapshot"),
        (lambda text: text.replace('"version":1', '"version":9', 1), "is not flowshunt-connections"),
        (lambda text: text.replace("default", "linux", 1), "is not flowshunt-connections"),
        (lambda text: text.replace(str(NOW_MS), '"today"', 1), "does not say when it was written"),
        (lambda text: text.replace('"this boot"', "7", 1), "does not say when it was written"),
        (lambda text: text.replace(":90000", ":-90000", 1), "does not say when it was written"),
        (lambda text: text.replace('{"end":1}', '{"end":2}'), "1 connections, but 2 were written"),
        (lambda text: "[" * 100_000, "no line of a snapshot"),
        (lambda text: "[]\n" + text, "no line of a snapshot"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_with_its_reason(tmp_path: Path, damage, what: str) -> None:
    path = written(tmp_path / "connections", switch_with_connections())
    path.write_text(damage(path.read_text()))
    with pytest.raises(snapshot.SnapshotError, match=what):
        read(path)


def test_a_damaged_connection_is_refused_by_itself(tmp_path: Path) -> None:
    path = written(tmp_path / "connections", switch_with_connections())
    lines = path.read_text().splitlines()
    other = json.loads(lines[1]) | {"zone": 7}
    lines[1:] = [json.dumps(json.loads(lines[1]) | {"protocol": 999}), json.dumps(other), '{"end":2}']
    path.write_text("\n".join(lines) + "\n")
    tracker = Switch().tracker
    (refused,) = snapshot.put_back(tracker, read(path).entries, NOW_MS)
    assert refused.startswith("line 2: protocol: ")
    assert [one.zone for one in tracker.connections(NOW_MS)] == [7]


def test_nothing_is_a_snapshot_too(tmp_path: Path) -> None:
    snapshot.write(tmp_path / "none", "default", [], NOW)
    assert read(tmp_path / "none") == ([], 0, 0)

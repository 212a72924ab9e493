"""What was forwarded reaches counters and timers (rows E6, A8), through the framework and in the tracker's kernels."""

from __future__ import annotations

import numpy as np
import pytest

from flowshunt.offload import accounting
from flowshunt.offload.batch import ConnectionId
from tests.offload.forwarders import Forwarding, PathBench
from tests.offload.traffic import CLIENT_PORT, SECOND, SERVER_PORT, START_MS, tcp


def counters(bench: PathBench, way: ConnectionId) -> tuple[tuple[int, int], tuple[int, int]]:
    (found,) = (c for c in bench.tracker.connections() if c.id == way.row)
    return found.packets, found.bytes


def test_a_listing_counts_what_was_forwarded_until_now() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    before, size = counters(bench, way)
    bench.show([way])
    forwarder.forwarded(way.row, (10, 20), START_MS)
    assert counters(bench, way) == ((before[0] + 10, before[1] + 20), (size[0] + 1000, size[1] + 2000))
    assert counters(bench, way)[0] == (before[0] + 10, before[1] + 20)
    (found,) = bench.tracker.connections()
    assert bench.tracker.find(found.original, 17) == found


def test_rules_and_stations_get_what_was_forwarded_by_direction() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    one, two = bench.established(1, 2)
    bench.show([one], [two])
    forwarder.forwarded(one.row, (10, 20), START_MS)
    forwarder.forwarded(two.row, (1, 0), START_MS)
    bench.offload.synchronise()
    assert sorted(bench.paths.accounted) == [
        (7, CLIENT_PORT, 1, 114, START_MS),
        (7, CLIENT_PORT, 10, 1140, START_MS),
        (8, SERVER_PORT, 20, 2280, START_MS),
    ]
    assert bench.counters("forwarding")["forwarded-packets"] == 31
    assert bench.counters("forwarding")["forwarded-bytes"] == 31 * 114


def test_what_other_rules_forwarded_is_counted_for_them() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    bench.show([way])
    forwarder.forwarded(way.row, (5, 6), START_MS)
    bench.paths.epoch = 2
    bench.show([way], chain=99)
    forwarder.forwarded(way.row, (1, 2), START_MS)
    bench.offload.synchronise()
    assert [entry[::2][:2] for entry in bench.paths.accounted] == [(7, 5), (8, 6), (99, 1), (99, 2)]


def test_every_connection_on_the_way_is_counted_in_its_own_direction() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    outer, inner = bench.established(1, 2)
    before = [counters(bench, way)[0] for way in (outer, inner)]
    records = [bench.record([outer, inner], d) for d in range(2)]
    records[0]["turned"], records[1]["turned"] = 0b10, 0b01  # the inner one was begun from the other side
    bench.paths.tell(np.concatenate(records))
    forwarder.forwarded(outer.row, (10, 20), START_MS)
    assert counters(bench, outer)[0] == (before[0][0] + 10, before[0][1] + 20)
    assert counters(bench, inner)[0] == (before[1][0] + 20, before[1][1] + 10)


def test_a_withdrawn_flow_leaves_its_last_counters() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    bench.handshake()
    (way,) = bench.identities()
    bench.show([way])
    forwarder.forwarded(way.row, (3, 4), START_MS)
    bench.send(tcp("FA", 101, 501))
    assert forwarder.used == {}
    assert counters(bench, way)[0] == (2 + 3 + 1, 1 + 4)


def test_a_connection_lives_as_long_as_its_last_forwarded_packet_allows() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    bench.show([way])
    for _ in range(5):
        last = bench.now_ms + 20 * SECOND
        forwarder.forwarded(way.row, (1, 1), last)
        bench.pass_time(32 * SECOND)
        assert bench.identities() == [way]
    (found,) = bench.tracker.connections()
    assert found.timeout_ms == last + 30 * SECOND - bench.now_ms
    bench.pass_time(19 * SECOND)
    assert bench.identities() == []
    assert forwarder.flows == {}


def test_without_a_packet_it_expires_as_it_would_have() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    bench.show([way])
    bench.pass_time(29 * SECOND)
    assert bench.identities() == [way]
    bench.pass_time(3 * SECOND)
    assert bench.identities() == []
    assert forwarder.flows == {}


def test_a_forwarded_stream_gets_the_long_timeout_of_linux() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder, profile="linux")
    (way,) = bench.established(1)
    bench.show([way])
    forwarder.forwarded(way.row, (1, 0), START_MS + 1999)
    bench.offload.synchronise()
    assert [c.assured for c in bench.tracker.connections()] == [False]
    bench.now_ms += 5 * SECOND
    bench.ask(77)
    forwarder.forwarded(way.row, (1, 0), START_MS + 2001)
    bench.offload.synchronise()
    (found,) = (c for c in bench.tracker.connections() if c.id == way.row)
    assert found.assured
    assert found.timeout_ms == 120 * SECOND + 2001 - 5000


def test_last_uses_ahead_of_the_clock_count_as_now() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    bench.show([way])
    forwarder.forwarded(way.row, (1, 1), START_MS + 999 * SECOND)
    bench.offload.synchronise()
    (found,) = bench.tracker.connections()
    assert found.timeout_ms == 30 * SECOND


def test_all_counters_are_read_within_a_few_seconds_a_slice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "SLICE_ROWS", 64)
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    ways = bench.established(*range(1, 301))
    bench.show(*([way] for way in ways))
    forwarder.calls.clear()
    asked = []
    for _ in range(60):
        bench.now_ms += 400
        bench.offload.poll(bench.now_ms)
        asked.append(forwarder.n_calls_of("statistics"))
    assert asked[-1] >= 5
    assert max(np.diff(asked)) <= 1
    assert bench.now_ms - 44 * SECOND <= bench.offload.synchronised_ms < bench.now_ms
    assert bench.offload._installer is not None
    assert bench.offload._installer.accounting.n_synchronised >= 300


@pytest.mark.parametrize("packets", [(-5, -6), (1 << 62, 0)])
def test_counters_that_cannot_be_are_cut(packets: tuple[int, int]) -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    before, _ = counters(bench, way)
    bench.show([way])
    forwarder.forwarded(way.row, packets, START_MS, size=1, frame=1)
    found, _ = counters(bench, way)
    assert found == (before[0] + max(packets[0], 0), before[1] + max(packets[1], 0))

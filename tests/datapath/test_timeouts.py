"""Flows that go by themselves."""

from __future__ import annotations

import pytest

from flowshunt.app import Switch
from flowshunt.base.errors import UsageError
from flowshunt.datapath.listing import ExpiredRule
from flowshunt.datapath.tables import Datapath
from flowshunt.datapath.timers import Timers
from flowshunt.rules.openflow import flow as F
from tests.datapath.switches import flow, send, switch, udp

BASE = 1_700_000_000_000


def timed(idle: int = 0, hard: int = 0, priority: int = 5) -> F.Flow:
    return F.Flow((), (F.Output(2),), 0, priority, idle_timeout=idle, hard_timeout=hard)


def expiries(datapath: Datapath) -> list[tuple[int, str, int]]:
    """Priority, reason and time of what expires from now on."""
    seen: list[tuple[int, str, int]] = []

    def note(rule: ExpiredRule, now_ms: int) -> None:
        seen.append((rule.statistics.flow.priority, rule.reason, now_ms - BASE))

    datapath.on_expired = note
    return seen


def test_a_flow_goes_when_its_hard_timeout_ran_out_whoever_uses_it() -> None:
    datapath = switch()
    datapath.add_flow(timed(hard=10), BASE)
    seen = expiries(datapath)
    for seconds in (3, 6, 9):
        send(datapath, udp(), time_ms=BASE + 1000 * seconds)
        assert datapath.expire_flows(BASE + 1000 * seconds) == 0
    assert datapath.expire_flows(BASE + 9_999) == 0
    assert datapath.expire_flows(BASE + 10_000) == 1
    assert seen == [(5, "hard", 10_000)]
    assert datapath.flows() == []


def test_an_idle_flow_goes_and_each_packet_puts_that_off() -> None:
    datapath = switch()
    datapath.add_flow(timed(idle=10), BASE)
    seen = expiries(datapath)
    send(datapath, udp(), time_ms=BASE + 8_000)
    assert datapath.expire_flows(BASE + 17_999) == 0
    assert datapath.expire_flows(BASE + 18_000) == 1
    assert seen == [(5, "idle", 18_000)]


def test_packets_that_are_counted_elsewhere_are_asked_for_when_a_flow_is_due() -> None:
    datapath = switch()
    datapath.add_flow(timed(idle=10), BASE)
    asked: list[bool] = []

    def synchronise() -> None:
        asked.append(True)
        datapath.rules.arrays.rules["used_ms"][0] = BASE + 9_000

    datapath.before_expiry = synchronise
    assert datapath.expire_flows(BASE + 9_000) == 0
    assert not asked
    assert datapath.expire_flows(BASE + 10_000) == 0
    assert asked == [True]
    assert datapath.expire_flows(BASE + 19_000) == 1


def test_a_change_restarts_the_hard_timeout_and_keeps_the_idle_one() -> None:
    datapath = switch()
    datapath.add_flows([timed(hard=10), timed(idle=10, priority=6)], BASE)
    datapath.modify_flows(F.Flow(actions=(F.Output(3),)), now_ms=BASE + 8_000)
    assert [line.modified_ms - BASE for line in datapath.flows()] == [8_000, 8_000]
    assert [line.created_ms - BASE for line in datapath.flows()] == [0, 0]
    seen = expiries(datapath)
    for now in (10_000, 18_000):
        datapath.expire_flows(BASE + now)
    assert seen == [(6, "idle", 10_000), (5, "hard", 18_000)]


def test_a_flow_without_timeouts_in_place_of_one_with_some_stays() -> None:
    datapath = switch()
    datapath.add_flow(timed(idle=1, hard=2), BASE)
    datapath.add_flow(timed(), BASE)
    assert datapath.expire_flows(BASE + 100_000) == 0
    datapath.add_flow(timed(hard=5), BASE + 100_000)
    assert datapath.expire_flows(BASE + 104_000) == 0
    assert datapath.expire_flows(BASE + 105_000) == 1


def test_a_deleted_flow_leaves_nothing_behind_that_could_expire() -> None:
    datapath = switch()
    datapath.add_flow(timed(hard=1), BASE)
    datapath.delete_flows(F.Flow(table=F.ALL_TABLES))
    datapath.add_flow(flow(F.Output(3)), BASE)
    assert datapath.expire_flows(BASE + 5_000) == 0
    assert len(datapath.flows()) == 1


def test_a_call_looks_at_a_bounded_number_of_flows_and_the_next_goes_on() -> None:
    datapath = switch()
    datapath.add_flows([timed(hard=1 + n % 3, priority=n) for n in range(100)], BASE)
    counts = []
    while datapath.flows():
        counts.append(datapath.expire_flows(BASE + 3_000, most=30))
    assert counts == [30, 30, 30, 10]


def test_flows_of_a_time_without_a_clock_count_from_the_first_packet_on() -> None:
    bridge = Switch(max_connections=10)
    bridge.add_port("p0")
    bridge.add_flows("idle_timeout=10,actions=1")
    assert bridge.expire_flows(BASE) == 0
    assert bridge.expire_flows(BASE + 9_999) == 0
    assert bridge.expire_flows(BASE + 10_000) == 1


def test_every_change_of_rules_has_a_version_of_its_own() -> None:
    datapath = switch()
    versions = [datapath.rules.version]
    datapath.add_flow(timed(hard=1), BASE)
    versions.append(datapath.rules.version)
    datapath.modify_flows(F.Flow(actions=(F.Output(3),)))
    versions.append(datapath.rules.version)
    datapath.expire_flows(BASE + 100_000)
    versions.append(datapath.rules.version)
    assert versions == sorted(set(versions))
    datapath.expire_flows(BASE + 200_000)
    assert datapath.rules.version == versions[-1]


def test_overlapping_flows_are_refused_where_the_text_asks_for_it() -> None:
    bridge = Switch(max_connections=10)
    bridge.add_port("p0")
    bridge.add_flows("priority=5,tcp,actions=1\npriority=6,udp,actions=1")
    with pytest.raises(UsageError, match="overlaps"):
        bridge.add_flows("check_overlap,priority=5,ip,actions=drop")
    bridge.add_flows("check_overlap,priority=6,tcp,actions=drop\ncheck_overlap,priority=5,tcp,actions=drop")
    assert len(bridge.flows()) == 3


def test_timers_keep_the_earliest_time_and_stay_small() -> None:
    timers = Timers()
    for due in range(1000, 0, -1):
        timers.watch(1, due)
    timers.watch(2, 5)
    assert len(timers._heap) < 100
    assert timers.next_ms() == 1
    assert timers.take_due(4, 10) == [1]
    timers.forget(2)
    assert timers.take_due(1_000_000, 10) == []
    assert timers.next_ms() is None
    assert len(timers) == 0

"""The e-switch on a naive table: limits, changing them, the pace of insertion, ageing, counters (rows C5 to C8)."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.base.errors import UsageError
from flowshunt.offload.batch import Batch
from flowshunt.offload.eswitch.provider import Eswitch
from flowshunt.offload.reasons import reason
from tests.offload.eswitch.fake import ICMP, TCP, UDP, Nic, flows_of

SECOND = 1000


def codes(flows) -> list[str]:
    return [reason(int(number)).code for number in flows["reason"]]


def test_a_connection_takes_an_entry_in_each_direction():
    nic = Nic()
    assert nic.install([7]) == [0]
    assert (nic.count("connections"), nic.count("entries"), nic.count("groups")) == (1, 2, 1)
    assert nic.share.flows == {7: (1, 1)}
    nic.withdraw([7])
    assert (nic.count("connections"), nic.count("entries"), nic.count("groups")) == (0, 0, 0)
    assert nic.share.flows == {}


def test_more_patterns_than_groups_are_refused_with_no_group():
    nic = Nic(num_of_groups=2, table_entries=30)
    assert nic.install([1], protocol=TCP) == [0]
    assert nic.install([2], protocol=UDP) == [0]
    refused = nic.offer([3, 4], protocol=TCP, ipv6=True)
    assert codes(refused) == ["no-group", "no-group"]
    assert refused["error"].tolist() == [errno.ENOSPC] * 2
    assert nic.install([5], protocol=UDP) == [0]
    nic.withdraw([1])
    assert nic.install([3], protocol=TCP, ipv6=True) == [0]


def test_a_full_group_takes_the_next_and_then_the_table_is_full():
    nic = Nic(num_of_groups=2, table_entries=30)
    flows = nic.offer(range(12))
    assert codes(flows) == ["none"] * 10 + ["table-full"] * 2
    assert len(nic.share.flows) == 10
    nic.withdraw([3])
    assert nic.install([11]) == [0]


@pytest.mark.parametrize("protocol", [ICMP, 132, 47, 0, 255])
def test_other_protocols_than_tcp_and_udp_are_refused(protocol):
    nic = Nic()
    flows = nic.offer([1], protocol=protocol)
    assert codes(flows) == ["protocol"]
    assert flows["error"].tolist() == [errno.EOPNOTSUPP]
    assert not nic.share.flows


def test_what_cannot_be_forwarded_is_refused_when_it_begins_with_its_reason():
    eswitch = Eswitch()
    batch = Batch(np.zeros(2, Batch.of([]).records.dtype))
    batch.records["tuple"] = np.array([ICMP, TCP]) << 8
    eswitch.batch_submit(batch)
    assert batch.records["error"].tolist() == [errno.EOPNOTSUPP, 0]
    assert reason(int(batch.records["reason"][0])).code == "protocol"


def test_the_maximum_of_offloaded_connections_changes_at_once_and_turns_nobody_out():
    nic = Nic(ct_max_offloaded_conns=3)
    assert codes(nic.offer(range(5))) == ["none"] * 3 + ["table-full"] * 2
    nic.eswitch.configure(nic.eswitch.settings.with_values({"ct_max_offloaded_conns": 1}))
    assert len(nic.share.flows) == 3
    assert codes(nic.offer([9])) == ["table-full"]
    nic.eswitch.configure(nic.eswitch.settings.with_values({"ct_max_offloaded_conns": 4}))
    assert nic.install([9]) == [0]


def test_groups_change_at_once_when_the_table_is_empty():
    nic = Nic(num_of_groups=1, table_entries=40)
    nic.eswitch.configure(nic.eswitch.settings.with_values({"num_of_groups": 3}))
    assert not nic.eswitch.model.is_changing
    assert nic.eswitch.model.groups.size == 10
    assert [nic.install([1], protocol=p, ipv6=v)[0] for p, v in ((TCP, False), (UDP, False), (TCP, True))] == [0] * 3


def test_groups_change_when_the_residual_flows_have_aged_out():
    nic = Nic(num_of_groups=1, table_entries=40, ageing_s=30)
    nic.install([1])
    nic.eswitch.configure(nic.eswitch.settings.with_values({"num_of_groups": 3}))
    assert nic.eswitch.model.is_changing
    assert codes(nic.offer([2], protocol=UDP)) == ["no-group"]
    assert nic.pass_time(30 * SECOND - 10) == ([], [])
    assert nic.eswitch.model.is_changing
    rows, reasons = nic.pass_time(10)
    assert (rows, [reason(number).code for number in reasons]) == ([1], ["idle"])
    assert not nic.eswitch.model.is_changing
    assert nic.install([2], protocol=UDP) == [0]
    assert nic.install([1]) == [0]


def test_groups_change_when_all_is_flushed():
    nic = Nic(num_of_groups=1, table_entries=40)
    nic.install([1])
    nic.eswitch.configure(nic.eswitch.settings.with_values({"num_of_groups": 3}))
    nic.eswitch.flush()
    assert not nic.eswitch.model.is_changing
    assert not nic.share.flows
    assert nic.eswitch.model.groups.size == 10


def test_traffic_in_one_direction_keeps_both_from_ageing():
    nic = Nic(ageing_s=10)
    nic.install([1, 2])
    for _ in range(4):
        nic.share.hit(1, nic.now_ms + 5 * SECOND, direction=1)
        nic.pass_time(5 * SECOND)
    assert nic.share.flows.keys() == {1}
    assert nic.count("aged") == 1


def test_what_was_forwarded_is_handed_back_with_the_connection():
    nic = Nic(ageing_s=10, statistics_delay_ms=60 * SECOND)
    nic.install([1])
    nic.share.hit(1, nic.now_ms + 1)
    nic.now_ms += 1
    assert nic.told([1])["packets"].tolist() == [[0, 0]]
    nic.now_ms += 20 * SECOND
    rows, _, _, usage = nic.eswitch.handed_back(nic.now_ms)
    assert rows.tolist() == [1]
    assert usage["packets"].tolist() == [[1, 0]]
    assert usage["bytes"].tolist() == [[100, 0]]
    assert nic.withdraw([1])["packets"].sum() == 0


def test_counters_rest_for_the_statistics_delay_and_last_uses_do_not():
    nic = Nic(statistics_delay_ms=SECOND)
    nic.install([1])
    seen = []
    for _ in range(8):
        nic.now_ms += 300
        nic.share.hit(1, nic.now_ms)
        told = nic.told([1])
        assert told["last_used_ms"][0, 0] == nic.now_ms
        assert nic.now_ms - told["counted_ms"][0] < SECOND
        seen.append(int(told["packets"][0, 0]))
    assert seen == [0, 0, 0, 4, 0, 0, 0, 4]
    nic.share.hit(1, nic.now_ms)
    assert nic.withdraw([1])["packets"].tolist() == [[1, 0]]


def test_without_delay_each_question_tells_what_is_new():
    nic = Nic()
    nic.install([1])
    nic.share.hit(1, nic.now_ms)
    assert nic.told([1])["packets"].tolist() == [[1, 0]]
    assert nic.told([1])["packets"].tolist() == [[0, 0]]


def test_an_insertion_rate_lets_so_many_in_per_second():
    nic = Nic(table_entries=8000, insertion_rate=1000, insertion_queue=10_000)
    assert nic.install(range(500)) == [0] * 500
    assert len(nic.share.flows) == 1
    for _ in range(100):
        nic.pass_time(1)
    assert len(nic.share.flows) == 101
    nic.pass_time(SECOND)
    assert len(nic.share.flows) == 500
    assert nic.count("insertions") == 500


def test_a_high_rate_lets_a_milliseconds_worth_in_at_once():
    nic = Nic(table_entries=8000, insertion_rate=50_000, insertion_queue=10)
    assert codes(nic.offer(range(70))) == ["none"] * 60 + ["queue-full"] * 10
    assert len(nic.share.flows) == 50
    nic.pass_time(1)
    assert len(nic.share.flows) == 60


def test_a_full_queue_refuses_with_its_reason_until_turns_have_passed():
    nic = Nic(insertion_rate=10, insertion_queue=3)
    flows = nic.offer(range(6))
    assert codes(flows) == ["none"] * 4 + ["queue-full"] * 2
    assert flows["error"].tolist() == [0] * 4 + [errno.ENOBUFS] * 2
    nic.withdraw([3])
    assert codes(nic.offer([4])) == ["queue-full"]
    nic.pass_time(300)
    assert nic.share.flows.keys() == {0, 1, 2}
    assert nic.install([4]) == [0]


def test_insertion_takes_its_latency():
    nic = Nic(insertion_latency_ms=20)
    nic.install([1])
    nic.pass_time(19)
    assert not nic.share.flows
    nic.pass_time(1)
    assert nic.share.flows.keys() == {1}


def test_who_waits_may_be_renewed_replaced_and_withdrawn():
    nic = Nic(insertion_latency_ms=20)
    nic.install([1, 2, 3])
    nic.eswitch.renew(np.array([1], np.uint32), np.array([1], np.uint32), 8)
    again = flows_of([2])
    again["epoch"] = 9
    nic.eswitch.install(again)
    nic.withdraw([3])
    nic.pass_time(20)
    assert nic.share.flows == {1: (1, 8), 2: (1, 9)}
    assert nic.count("insertions") == 2


def test_the_latency_may_shrink_while_connections_wait():
    nic = Nic(insertion_latency_ms=100)
    nic.install([1])
    nic.eswitch.configure(nic.eswitch.settings.with_values({"insertion_latency_ms": 0}))
    nic.install([2])
    assert not nic.share.flows
    nic.pass_time(100)
    assert nic.share.flows.keys() == {1, 2}


def test_a_place_taken_by_another_owner_is_refused_with_its_errno():
    nic = Nic()
    nic.share.taken_elsewhere.add(2)
    flows = nic.offer([1, 2, 3])
    assert codes(flows) == ["none", "provider-refused:EEXIST", "none"]
    assert nic.count("connections") == 2


def test_a_full_shared_table_hands_those_back_that_had_waited():
    nic = Nic(insertion_latency_ms=5)
    nic.share.capacity = 1
    nic.install([1, 2])
    rows, reasons = nic.pass_time(5)
    assert (rows, [reason(number).code for number in reasons]) == ([2], ["table-full"])
    assert nic.count("connections") == 1


def test_a_row_that_is_used_again_belongs_to_the_new_connection():
    nic = Nic()
    nic.install([1], generation=4)
    assert nic.install([1], generation=5) == [0]
    assert nic.share.flows == {1: (5, 1)}
    nic.withdraw([1], generation=4)
    assert nic.share.flows == {1: (5, 1)}
    assert nic.count("connections") == 1


def test_a_connection_that_comes_into_another_pattern_moves_and_keeps_its_counters():
    nic = Nic()
    nic.install([1])
    nic.share.hit(1, nic.now_ms)
    assert nic.install([1], vlan=(True, True)) == [0]
    assert nic.count("entries.VLAN IPv4 TCP") == 2
    assert nic.count("groups") == 1
    assert nic.withdraw([1])["packets"].tolist() == [[1, 0]]


def test_a_connection_twice_in_a_call_counts_once():
    nic = Nic()
    assert nic.install([1, 1, 2]) == [0, 0, 0]
    assert nic.count("entries") == 4
    usage = nic.withdraw([1, 1, 2, 9])
    assert len(usage) == 4
    assert nic.count("entries") == 0


def test_without_a_table_it_only_listens():
    eswitch = Eswitch()
    flows = flows_of([1])
    eswitch.install(flows)
    assert codes(flows) == ["provider-refused:ENODEV"]
    assert eswitch.handed_back(5)[0].tolist() == []
    assert eswitch.withdraw(np.array([1], np.uint32), np.array([1], np.uint32))["packets"].sum() == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("install"), st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(0, 3)),
        st.tuples(st.just("withdraw"), st.lists(st.integers(0, 30), min_size=1, max_size=12)),
        st.tuples(st.just("time"), st.integers(0, 4000)),
        st.tuples(st.just("hit"), st.integers(0, 30), st.integers(0, 1)),
        st.tuples(st.just("configure"), st.integers(1, 4), st.integers(0, 20), st.sampled_from([None, 5, 1000])),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(steps, st.sampled_from([{}, {"insertion_rate": 4}, {"insertion_latency_ms": 700}, {"statistics_delay_ms": 900}]))
def test_whatever_happens_the_table_holds_what_the_model_says_and_no_packet_is_lost(history, options):
    nic = Nic(ageing_s=5, insertion_queue=6, **options)
    told: dict[int, int] = {}
    n_hits = 0
    for step in history:
        match step:
            case ("install", rows, kind):
                nic.offer(rows, protocol=(TCP, UDP)[kind & 1], ipv6=bool(kind & 2))
            case ("withdraw", rows):
                usage = nic.withdraw(rows)
                told[-1] = told.get(-1, 0) + int(usage["packets"].sum())
            case ("time", ms):
                nic.now_ms += ms
                *_, usage = nic.eswitch.handed_back(nic.now_ms)
                told[-1] = told.get(-1, 0) + int(usage["packets"].sum())
                told[-1] += int(nic.told(list(range(31)))["packets"].sum())
            case ("hit", row, direction):
                n_hits += nic.share.hit(row, nic.now_ms, direction)
            case ("configure", n_groups, maximum, rate):
                values = {"num_of_groups": n_groups, "ct_max_offloaded_conns": maximum, "insertion_rate": rate}
                nic.eswitch.configure(nic.eswitch.settings.with_values(values))
        model = nic.eswitch.model
        states = model.states(np.arange(31, dtype=np.uint32), np.ones(31, np.uint32))
        assert nic.share.flows.keys() == set(np.flatnonzero(states == 2).tolist())
        assert model.n_connections == int((states > 0).sum())
        assert model.groups.n_entries == 2 * model.n_connections
        assert model.groups.used.max() <= model.groups.size
        assert int((states == 1).sum()) <= model.n_queued <= 6
    usage = nic.withdraw(list(range(31)))
    assert told.get(-1, 0) + int(usage["packets"].sum()) == n_hits


def test_settings_out_of_range_change_nothing():
    nic = Nic()
    before = nic.eswitch.settings
    with pytest.raises(UsageError, match="num_of_groups"):
        nic.eswitch.configure(before.with_values({"num_of_groups": 0}))
    assert nic.eswitch.settings is before

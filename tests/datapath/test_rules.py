from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.base.errors import UsageError
from flowshunt.datapath.changes import find_match
from flowshunt.datapath.feed import feeds_of
from flowshunt.datapath.program import CompiledRule, as_int64
from flowshunt.datapath.tables import Datapath
from flowshunt.packet.schema import FIELDS, KEY_WORDS
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.compile import compile_flow, compile_match
from tests.builders import Packet
from tests.datapath.switches import ARP, IP, TCP, UDP, Sent, fate, field, flow, ports_of, send, set_field, switch, udp

ALL_BITS = 0xFFFFFFFF
WORD = (1 << 64) - 1
TO_2 = flow(F.Output(2), match=[IP, UDP, ("nw_dst", 0x0A000002, ALL_BITS)], priority=7)


def test_flows_are_listed_by_table_and_priority_with_what_they_saw() -> None:
    later, low = flow(table=3, priority=9), flow(F.Output(3), priority=1)
    datapath = switch(later, low, TO_2)
    send(datapath, udp(), time_ms=5_000)
    send(datapath, udp(destination="10.0.0.9"), time_ms=6_000)
    size = len(udp().bytes())
    assert datapath.flows() == [(TO_2, 1, size, 5_000, 0, 0), (low, 1, size, 6_000, 0, 0), (later, 0, 0, 0, 0, 0)]
    assert datapath.tables() == {0: (2, 2, 2, 2), 3: (1, 1, 0, 0)}


def test_adding_the_same_match_and_priority_replaces_actions_and_counters() -> None:
    datapath = switch(TO_2)
    send(datapath, udp())
    other = flow(F.Output(3), match=TO_2.match, priority=7)
    datapath.add_flow(other, now_ms=77)
    assert datapath.flows() == [(other, 0, 0, 77, 77, 77)]
    assert ports_of(send(datapath, udp())) == [3]
    datapath.add_flow(flow(F.Output(1), match=TO_2.match, priority=6))
    assert len(datapath.flows()) == 2
    assert ports_of(send(datapath, udp())) == [3]


def test_the_order_of_the_fields_of_a_match_does_not_matter() -> None:
    datapath = switch(TO_2, flow(F.Output(3), match=TO_2.match[::-1], priority=7))
    assert len(datapath.flows()) == 1


def test_deleting_by_a_wider_match() -> None:
    tcp = flow(match=[IP, TCP], priority=7)
    datapath = switch(TO_2, tcp, flow(table=1), flow(match=[IP], table=1))
    assert datapath.delete_flows(flow(match=[IP, UDP], priority=1)) == [TO_2]
    assert fate(datapath, udp()) == "drop.no-match"
    assert datapath.delete_flows(flow(match=[IP], table=255)) == [tcp, flow(match=[IP], table=1)]
    assert datapath.delete_flows(flow(table=255)) == [flow(table=1)]
    assert datapath.tables() == {0: (0, 0, 1, 0)}


def test_deleting_strictly() -> None:
    datapath = switch(TO_2)
    assert datapath.delete_flows(flow(match=TO_2.match, priority=8), strict=True) == []
    assert datapath.delete_flows(flow(match=[IP], priority=7), strict=True) == []
    assert datapath.delete_flows(flow(match=TO_2.match, priority=7), strict=True) == [TO_2]


def test_cookies_and_output_ports_restrict_a_selection() -> None:
    first = F.Flow((IP,), (F.Output(3), F.Normal()), cookie=0x11)
    second = F.Flow((ARP,), (F.Output(2),), cookie=0x12)
    datapath = switch(first, second)
    for nothing in (
        F.Flow(cookie=0x13, cookie_mask=0xFF),
        F.Flow(out_port=4),
        F.Flow(out_group=1),
        F.Flow((IP,), out_port=2),
        F.Flow(out_port=0xFFFFFFFB),
    ):
        assert datapath.delete_flows(nothing) == []
    assert datapath.modify_flows(F.Flow((), (F.Flood(),), cookie=0x10, cookie_mask=0xF0, out_port=2, new_cookie=5)) == 1
    assert datapath.delete_flows(F.Flow(cookie=5, cookie_mask=0xFF)) == [F.Flow((ARP,), (F.Flood(),), cookie=5)]
    assert datapath.delete_flows(F.Flow(out_port=0xFFFFFFFA)) == [first]


def test_a_modification_is_compiled_for_each_flow_by_itself() -> None:
    datapath = switch(F.Flow((ARP,)), F.Flow((IP,)))
    assert datapath.modify_flows(F.Flow((), (set_field("nw_src", 0x01020304, 32), F.Output(2)))) == 2
    assert send(datapath, udp()) == [Sent(2, udp(source="1.2.3.4").bytes())]
    arp = Packet().eth().arp("10.0.0.1", "10.0.0.2")
    assert send(datapath, arp) == [Sent(2, Packet().eth().arp("1.2.3.4", "10.0.0.2").bytes())]


def test_modifying_keeps_counters_and_adds_when_nothing_matches() -> None:
    datapath = switch(TO_2)
    send(datapath, udp(), time_ms=5)
    assert datapath.modify_flows(flow(F.Output(3), match=[IP])) == 1
    assert ports_of(send(datapath, udp(), time_ms=6)) == [3]
    (statistics,) = datapath.flows()
    assert statistics.packets == 2
    assert datapath.modify_flows(flow(F.Output(3), match=[IP], table=1), add=False) == 0
    assert datapath.modify_flows(flow(F.Output(3), match=[IP], table=1), strict=True, now_ms=9) == 1
    assert len(datapath.flows()) == 2


def test_a_listed_flow_that_was_modified_shows_match_and_priority_of_its_own() -> None:
    datapath = switch(TO_2)
    datapath.modify_flows(flow(F.Output(3), match=[IP]))
    (statistics,) = datapath.flows()
    assert (statistics.flow.match, statistics.flow.priority) == (TO_2.match, 7)
    assert statistics.flow.actions == (F.Output(3),)


def test_ten_thousand_flows_of_many_masks() -> None:
    flows = [
        flow(
            F.Output(2),
            match=[IP, ("nw_dst", n << 8 & ~((1 << n % 8) - 1), ALL_BITS & ~((1 << n % 8) - 1))],
            priority=n % 5,
        )
        for n in range(2_000)
    ]
    datapath = switch(*flows)
    assert len(datapath.flows()) == 2_000
    assert datapath.tables()[0].masks == 8
    assert ports_of(send(datapath, udp(destination="0.0.7.128"))) == []
    assert ports_of(send(datapath, udp(destination="0.0.15.127"))) == [2]


def test_a_datapath_without_a_compiler_takes_compiled_rules_only() -> None:
    datapath = Datapath()
    datapath.add_flow(CompiledRule(0, 1, (), (0,)))
    assert datapath.modify_flows(CompiledRule(0, 1, (), (13, 0))) == 1
    assert datapath.delete_flows(CompiledRule(0, 1, (), (0,)), strict=True) == [CompiledRule(0, 1, (), (13, 0))]
    with pytest.raises(TypeError, match="CompiledRule"):
        datapath.add_flow(flow())


def test_a_batch_size_out_of_range_is_refused() -> None:
    for size in (0, 257):
        with pytest.raises(UsageError, match="batch size"):
            Datapath(batch_size=size)


# --- the compiler ----------------------------------------------------------------------------------------------------


def test_a_match_becomes_masked_words() -> None:
    match = [
        ("nw_src", 0x0A000000, 0xFF000000),
        IP,
        ("ipv6_dst", 1 << 127 | 1, 1 << 127 | 0xF),
        ("eth_src", 5, (1 << 48) - 1),
    ]
    assert compile_match(match) == (
        (0, 0xFFFF, 0x0800),
        (1, -0x10000, 5 << 16),
        (3, 0xFF000000, 0x0A000000),
        (4, -(1 << 63), -(1 << 63)),
        (5, 0xF, 1),
    )
    assert compile_match([("in_port", 0xFFFFFFFE, ALL_BITS)]) == ((12, -(1 << 32), 0xFFFE << 32),)
    assert compile_match([("tp_src", 0, 0)]) == ()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (flow(table=255), "table 255"),
        (flow(match=[("nonsense", 1, 1)]), "nonsense"),
        (flow(match=[("nw_tos", 2, 1)]), "outside its mask"),
        (flow(match=[("nw_tos", 0x100, 0x100)]), "outside its mask"),
        (flow(match=[IP, ("eth_type", 0x806, 0xFFFF)]), "contradicts"),
        (flow(set_field("nonsense", 1, 1)), "nonsense"),
        (flow(set_field("reg0", 1, 2, start=31)), "outside the field"),
        (flow(set_field("reg0", 4, 2)), "does not fit"),
        (flow(F.Move(field("reg0", 0, 8), field("reg1", 0, 9))), "8 bits to 9"),
        (flow(F.GotoTable(0)), "later table"),
        (flow(F.GotoTable(255)), "later table"),
        (flow(F.Output(0x10000)), "port 65536"),
        (flow(F.Output(field("xxreg0", 0, 65))), "too many"),
        (flow(F.Ct(zone=0x10000)), "zone 65536"),
        (flow(F.Ct(table=255)), "ct table 255"),
        (flow(F.Ct(commit=True, exec=(set_field("reg0", 1, 32),))), "exec cannot write reg0"),
        (flow(F.Resubmit(table=255)), "table 255"),
    ],
)
def test_what_cannot_be_compiled_is_refused_and_nothing_is_added(wrong: F.Flow, says: str) -> None:
    datapath = switch()
    with pytest.raises(UsageError, match=says):
        datapath.add_flows([TO_2, wrong])
    assert datapath.flows() == []


def test_compiling_keeps_the_flow() -> None:
    assert compile_flow(TO_2).source is TO_2


def _key_of_a_match() -> Any:
    """A key that TO_2's match covers."""
    keys = np.zeros((1, KEY_WORDS), np.int64)
    for word, mask, value in compile_match(TO_2.match):
        keys[0, word] |= mask & value
    return keys


ORDERS = st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=80)


@given(ORDERS)
def test_priorities_of_one_match_come_and_go_in_any_order(steps: list[tuple[int, bool]]) -> None:
    datapath = switch()
    there: set[int] = set()
    for priority, comes in steps:
        one = flow(F.Output(priority), match=TO_2.match, priority=priority)
        if comes:
            datapath.add_flow(one)
            there.add(priority)
        else:
            assert len(datapath.delete_flows(one, strict=True)) == (priority in there)
            there.discard(priority)
        assert [line.flow.priority for line in datapath.flows()] == sorted(there, reverse=True)
        compiled = [compile_flow(flow(match=TO_2.match, priority=number)) for number in range(1, 41)]
        found = datapath.rules.find_all(next(feeds_of(compiled)))
        assert {number for number, place in zip(range(1, 41), found, strict=True) if place is not None} == there
        assert [datapath.rules.find(rule) for rule in compiled] == found
        best = find_match(datapath.rules.arrays, 0, _key_of_a_match(), 0)
        assert best == (found[max(there) - 1] if there else -1)


def test_rules_that_were_made_ready_go_to_the_masks_there_are_then() -> None:
    datapath = switch(flow(match=[IP, TCP], priority=3))
    feed = next(feeds_of([compile_flow(flow(match=[IP, UDP], priority=7)), compile_flow(flow(table=2, priority=1))]))
    datapath.delete_flows(flow())
    datapath.add_flow(flow(match=[ARP], priority=3))
    assert datapath.rules.find_all(feed) == [None, None]
    assert datapath.rules.add_feed(feed) == 2
    assert None not in datapath.rules.find_all(feed)
    assert {number: table.rules for number, table in datapath.tables().items()} == {0: 2, 2: 1}
    datapath.rules.take_back(feed.rules)
    assert datapath.rules.find_all(feed) == [None, None]
    assert len(datapath.rules) == 1


FIELDS_AND_MASKS = st.lists(
    st.sampled_from(sorted(FIELDS)).flatmap(
        lambda name: st.tuples(
            st.just(name), st.integers(0, (1 << FIELDS[name].width) - 1), st.integers(0, (1 << FIELDS[name].width) - 1)
        )
    ),
    max_size=6,
)


@given(FIELDS_AND_MASKS)
def test_a_match_is_compiled_to_the_bits_that_it_names(match: list[tuple[str, int, int]]) -> None:
    wanted: dict[int, tuple[int, int]] = {}
    contradicts = False
    for name, value, mask in match:
        if value & ~mask:
            contradicts = True
            continue
        if name == "in_port" and value >= 0xFFFFFF00:
            value &= 0xFFFF
        place = FIELDS[name]
        for word, right in ((place.word, 64), (place.word + 1, 0)) if place.width > 64 else ((place.word, 0),):
            part_mask = (mask >> right & WORD) << place.shift
            part = (value >> right & WORD) << place.shift
            old_mask, old = wanted.get(word, (0, 0))
            contradicts |= bool((old ^ part) & old_mask & part_mask)
            if part_mask:
                wanted[word] = old_mask | part_mask, old | part
    if contradicts:
        with pytest.raises(UsageError):
            compile_match(tuple(match))
    else:
        assert compile_match(tuple(match)) == tuple(
            (word, as_int64(mask), as_int64(value)) for word, (mask, value) in sorted(wanted.items())
        )

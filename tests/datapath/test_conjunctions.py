"""Conjunctions: matches that several flows make together, compared with trying all of them."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.base.errors import UsageError
from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.parse import parse_flow
from tests.datapath.switches import send, switch, udp

SOURCES, DESTINATIONS = ("10.0.0.1", "10.0.0.2", "10.0.1.1"), ("10.1.0.1", "10.1.0.2", "10.1.1.1")
TWO_CLAUSES = (
    "priority=10,ip,nw_src=10.0.0.1,actions=conjunction(7,1/2)",
    "priority=10,ip,nw_src=10.0.1.0/24,actions=conjunction(7,1/2)",
    "priority=10,ip,nw_dst=10.1.0.1,actions=conjunction(7,2/2)",
    "priority=10,udp,tp_dst=2000,actions=conjunction(9,2/2),note:01",
    "conj_id=7,ip,actions=2",
    "priority=1,actions=3",
)


def with_flows(*texts: str) -> Datapath:
    return switch(*map(parse_flow, texts))


def out(
    datapath: Datapath, *, source: str = SOURCES[0], destination: str = DESTINATIONS[0], dport: int = 5
) -> list[int]:
    return [frame.port for frame in send(datapath, udp(source, destination, dport=dport))]


def listed(datapath: Datapath) -> list[tuple[F.Flow, int]]:
    return [(line.flow, line.packets) for line in datapath.flows()]


def test_a_packet_meets_a_conjunction_by_one_flow_for_each_clause() -> None:
    datapath = with_flows(*TWO_CLAUSES)
    assert out(datapath) == [2]
    assert out(datapath, source="10.0.1.9") == [2]
    assert out(datapath, source="10.0.0.2") == [3]
    assert out(datapath, destination="10.1.0.2") == [3]
    assert out(datapath, destination="10.1.0.2", dport=2000) == [3]
    counted = {flow.match[0][0] if flow.match else "": packets for flow, packets in listed(datapath)}
    assert counted[""] == 3
    assert counted["conj_id"] == 2


def test_clauses_of_other_priorities_do_not_make_one_conjunction() -> None:
    datapath = with_flows(*TWO_CLAUSES[3:])
    for number, clause in (
        (10, "nw_src=10.0.0.1,actions=conjunction(7,1/2)"),
        (11, "nw_dst=10.1.0.1,actions=conjunction(7,2/2)"),
    ):
        datapath.add_flow(parse_flow(f"priority={number},ip,{clause}"))
    assert out(datapath) == [3]


def test_a_flow_of_higher_or_equal_priority_comes_before_clauses() -> None:
    datapath = with_flows(*TWO_CLAUSES, "priority=10,ip,nw_src=10.0.0.1,in_port=1,actions=1,in_port")
    assert out(datapath) == [1]
    assert out(datapath, source="10.0.1.9") == [2]


def test_the_second_lookup_takes_the_flow_with_the_id_whatever_its_priority() -> None:
    datapath = with_flows(*TWO_CLAUSES[:4], "priority=3,conj_id=7,ip,actions=2", "priority=5,actions=3")
    assert out(datapath) == [3]
    datapath.delete_flows(parse_flow("priority=5", command="del_strict"), strict=True)
    assert out(datapath) == [2]


def test_without_a_flow_for_the_id_lower_priorities_are_tried() -> None:
    datapath = with_flows(
        *TWO_CLAUSES[:3],
        "priority=4,udp,actions=conjunction(5,1/2)",
        "priority=4,in_port=1,actions=conjunction(5,2/2)",
        "conj_id=5,actions=2",
    )
    assert out(datapath) == [2]


def test_sixty_four_clauses_and_several_conjunctions_of_one_flow() -> None:
    clauses = [
        f"priority=9,reg{n // 4}=0/{1 << n % 4:#x},actions=conjunction(1,{n + 1}/64),conjunction(2,{n // 2 + 1}/33)"
        for n in range(64)
    ]
    datapath = with_flows(*clauses, "conj_id=1,actions=2", "conj_id=2,actions=3")
    assert out(datapath) == [2]
    datapath.delete_flows(parse_flow(clauses[63].partition(",actions")[0], command="del_strict"), strict=True)
    assert out(datapath) == []
    datapath.add_flow(parse_flow("priority=9,udp,actions=conjunction(2,33/33)"))
    assert out(datapath) == [3]


def test_a_flow_becomes_a_clause_and_back_with_its_counters() -> None:
    datapath = with_flows("priority=10,ip,nw_src=10.0.0.1,actions=2", *TWO_CLAUSES[2:])
    assert out(datapath) == [2]
    request = parse_flow("ip,nw_src=10.0.0.1,actions=conjunction(7,1/2)", command="mod")
    assert datapath.modify_flows(request, now_ms=5) == 1
    assert out(datapath) == [2]
    assert (
        len(datapath.flows()),
        dict(listed(datapath))[parse_flow("priority=10,ip,nw_src=10.0.0.1,actions=conjunction(7,1/2)")],
    ) == (5, 1)
    datapath.modify_flows(parse_flow("ip,nw_src=10.0.0.1,actions=3", command="mod"), now_ms=9)
    assert out(datapath) == [3]
    assert dict(listed(datapath))[parse_flow("priority=10,ip,nw_src=10.0.0.1,actions=3")] == 2
    datapath.add_flow(parse_flow(TWO_CLAUSES[0]))
    assert dict(listed(datapath))[parse_flow(TWO_CLAUSES[0])] == 0
    assert len(datapath.flows()) == 5


def test_deleting_the_last_clause_leaves_nothing_behind() -> None:
    datapath = with_flows(*TWO_CLAUSES)
    words = int(datapath.rules.arrays.state["pool_used"][0])
    for _ in range(50):
        datapath.delete_flows(parse_flow("ip", command="del"))
        datapath.delete_flows(parse_flow("udp", command="del"))
        assert not datapath.rules.arrays.tables["has_clauses"].any()
        datapath.add_flows(map(parse_flow, TWO_CLAUSES))
    assert int(datapath.rules.arrays.state["pool_used"][0]) <= words + 256
    assert datapath.tables()[0].rules == 6
    assert out(datapath) == [2]


def test_conjunction_goes_with_notes_only() -> None:
    flow = F.Flow(actions=(F.Conjunction(1, 1, 2), F.Output(1)))
    with pytest.raises(UsageError, match="no other action"):
        switch(flow)


# --- against trying all -----------------------------------------------------------------------------------------------

matches = st.dictionaries(st.sampled_from(("nw_src", "nw_dst", "tp_dst")), st.integers(0, 2), max_size=2).map(
    lambda found: tuple(sorted(found.items()))
)
clauses = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2), st.sampled_from((2, 2, 3))), min_size=1, max_size=3)
rules = st.lists(
    st.tuples(st.integers(1, 4), matches, st.integers(0, 2), st.one_of(st.integers(1, 60), clauses)), max_size=14
)  # fmt: skip


def _values(field: str) -> tuple[object, ...]:
    return {"nw_src": SOURCES, "nw_dst": DESTINATIONS, "tp_dst": (1, 2, 3)}[field]


def _text(priority: int, match: tuple[tuple[str, int], ...], number: int, actions: object) -> str:
    said = "".join(f",{field}={_values(field)[value]}" for field, value in match)
    if isinstance(actions, int):
        wanted = f",conj_id={number}" if number else ""
        return f"priority={priority}{wanted},udp{said},actions=mod_tp_src:{actions},output:2"
    return f"priority={priority},udp{said},actions=" + ",".join(f"conjunction({i},{k}/{n})" for i, k, n in actions)  # type: ignore[attr-defined]


def _oracle(table: dict, packet: dict[str, int]) -> set[object]:
    """The answers that are allowed: of several conjunctions, or rules, of one priority any may win."""

    def hard(number: int) -> list[tuple[int, object]]:
        found = [
            (priority, actions)
            for (priority, match, wanted), actions in table.items()
            if isinstance(actions, int) and wanted in (0, number) and all(packet[f] == v for f, v in match)
        ]
        best = max((priority for priority, _ in found), default=-1)
        return [(priority, actions) for priority, actions in found if priority == best]

    first = hard(0)
    floor = first[0][0] if first else -1
    met = sorted(
        (
            (priority, conjunction)
            for (priority, match, _), actions in table.items()
            if not isinstance(actions, int) and priority > floor and all(packet[f] == v for f, v in match)
            for conjunction in actions
        ),
        reverse=True,
    )
    allowed: set[object] = set()
    for _, group in groupby(met, key=lambda pair: pair[0]):
        members = [conjunction for _, conjunction in group]
        answers = [
            {actions for _, actions in hard(number)}
            for number, _, n in members
            if {k for i, k, _ in members if i == number} == set(range(1, n + 1))
        ]
        allowed.update(*answers)
        if answers and all(answers):
            return allowed
    return allowed | {actions for _, actions in first} or {None}


@settings(max_examples=60, deadline=None)
@given(rules, st.lists(st.integers(0, 13), max_size=4))
def test_lookups_equal_trying_all(found: list, removed: list[int]) -> None:
    table: dict = {}
    datapath = switch()
    sizes: dict[int, int] = {}
    for priority, match, number, actions in found:
        if not isinstance(actions, int):
            actions = tuple((i, min(k, sizes.setdefault(i, n)), sizes[i]) for i, k, n in actions)
            number = 0
        datapath.add_flow(parse_flow(_text(priority, match, number, actions)))
        table[priority, match, number] = actions
    for place in removed:
        if place < len(table):
            priority, match, number = key = list(table)[place]
            text = _text(*key, table[key]).partition(",actions")[0]
            assert len(datapath.delete_flows(parse_flow(text, command="del_strict"), strict=True)) == 1
            del table[key]
    assert len(datapath.flows()) == len(table)
    for n in range(27):
        packet = {"nw_src": n % 3, "nw_dst": n // 3 % 3, "tp_dst": n // 9}
        frames = send(datapath, udp(SOURCES[n % 3], DESTINATIONS[n // 3 % 3], dport=n // 9 + 1))
        answer = int.from_bytes(frames[0].frame[34:36], "big") if frames else None
        assert answer in _oracle(table, packet), (table, packet)

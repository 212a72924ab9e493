"""What a switch without live ports answers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.app import Switch
from flowshunt.control.openflow.connection import Commit, Request
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.events import MAX_PACKET_INS, Event, Events
from flowshunt.control.openflow.service import Service
from flowshunt.datapath.feed import Feed, feeds_of
from flowshunt.datapath.program import CompiledRule
from flowshunt.datapath.rules import MAX_PRIORITY, TablesFullError
from flowshunt.rules.openflow import Flow, format_flow, parse_flow
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.flow import ALL_TABLES
from tests.builders import Packet, batch_of
from tests.control.openflow.test_connection import add, control, error_codes, replies
from tests.control.openflow.wires import VERSIONS, connected, flow_mod, message

NOW = 1_000_000_000_000_000_000


class Talk:
    """A connection to a service, and what it answers."""

    def __init__(self, service: Service, version: int = 4) -> None:
        self.service = service
        self.connection = connected(version)
        self.version = version
        self.prepares = True
        service.attach(self.connection)
        if version == 1:
            self.say(message(1, 4, struct.pack("!IIQ", 0x2320, 15, 1 << 56)))

    def say(self, data: bytes, now_ns: int = NOW) -> None:
        self.connection.receive_data(data)
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, Request):
                self.service.handle(self.connection, event, now_ns)
            elif isinstance(event, Commit):
                if self.prepares:
                    assert all(step is None for step in self.service.prepare(event))
                self.service.commit(self.connection, event, now_ns)

    def errors(self) -> list[tuple[int, int, int]]:
        return error_codes(self.connection)

    def flow(self, text: str, command: Any = "add", **more: Any) -> None:
        self.say(flow_mod(parse_flow(text, command=command), self.version, command, **more))


@pytest.fixture
def switch() -> Switch:
    switch = Switch(max_connections=1000)
    switch.add_port("p0")
    switch.add_port("p1")
    return switch


@pytest.fixture
def service(switch: Switch) -> Iterator[Service]:
    yield Service(switch, started_ns=NOW)


def texts(switch: Switch) -> list[str]:
    return [format_flow(line.flow) for line in switch.flows()]


def test_flows_are_added_changed_and_deleted(service: Service, switch: Switch) -> None:
    talk = Talk(service)
    talk.flow("table=1,priority=5,tcp,actions=1")
    talk.flow("table=1,priority=6,tcp,tp_dst=80,actions=1")
    talk.flow("table=2,udp,actions=1")
    talk.flow("table=1,tcp,actions=2", "mod")
    assert texts(switch) == [
        "table=1, priority=6,tcp,tp_dst=80 actions=output:2",
        "table=1, priority=5,tcp actions=output:2",
        "table=2, udp actions=output:1",
    ]
    talk.flow("table=1,priority=5,tcp", "del_strict")
    talk.flow("table=2,tcp", "del")
    talk.flow("out_port=2", "del")
    assert texts(switch) == ["table=2, udp actions=output:1"]
    talk.flow("", "del")
    assert texts(switch) == []
    assert talk.errors() == []


def test_a_modification_that_fails_on_its_way_is_undone(
    service: Service, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(service)
    for n in range(4):
        talk.flow(f"priority={n},actions=1")
    before = texts(switch)
    change = switch.datapath.rules.change

    def full(number: int, rule: CompiledRule, *rest: Any, **more: Any) -> None:
        if rule.priority == 2:
            raise TablesFullError("the flow tables are full")
        change(number, rule, *rest, **more)

    monkeypatch.setattr(switch.datapath.rules, "change", full)
    talk.flow("table=0,actions=2", "mod")
    assert [code[1:] for code in talk.errors()] == [(5, 1)]
    assert texts(switch) == before


def test_a_modification_adds_what_it_does_not_find_in_the_old_versions_only(service: Service, switch: Switch) -> None:
    for version in (3, 4, 6):
        Talk(service, version).flow("table=1,ip,actions=1", "mod")
    assert texts(switch) == []
    Talk(service, 1).flow("table=1,ip,actions=1", "mod")
    Talk(service, 2).flow("table=2,ip,actions=1", "mod_strict")
    assert texts(switch) == [f"table={n}, reset_counts ip actions=output:1" for n in (1, 2)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("text", "reason"), [("idle_timeout=5", 0), ("hard_timeout=5", 1)])
def test_expired_flows_are_told_of_where_they_ask_for_it(
    service: Service, switch: Switch, version: int, text: str, reason: int
) -> None:
    talk = Talk(service, version)
    talk.flow(f"{text},send_flow_rem,cookie=5,actions=1")
    talk.flow(f"{text},priority=6,actions=1")
    now_ms = NOW // 1_000_000
    assert switch.expire_flows(now_ms + 4_999) == 0
    assert switch.expire_flows(now_ms + 5_000) == 2
    assert texts(switch) == []
    assert talk.connection.data_to_send() == b""
    assert service.deliver_events() == 1
    data = talk.connection.data_to_send()
    assert data[1] == 11
    at = {1: 8 + 40 + 10, 6: 9}.get(version, 8 + 10)
    assert data[at] == reason
    assert service.deliver_events() == 0


def test_news_beyond_what_the_queue_holds_are_dropped_and_counted() -> None:
    woken: list[bool] = []

    def wake() -> bool:
        woken.append(True)
        return len(woken) > 1

    events = Events(wake)
    for n in range(MAX_PACKET_INS + 5):
        events.put(Event("packet_in", 0, n))
    events.put(Event("flow_removed", 0, "gone"))
    assert events.dropped == {"packet_in": 5, "flow_removed": 0}
    assert len(woken) == 2  # the first time, nobody came
    assert [event.message for event in events.take()] == [*range(MAX_PACKET_INS), "gone"]
    assert events.take() == []


def test_who_takes_news_while_it_is_woken_is_woken_for_the_next_ones() -> None:
    taken: list[object] = []

    def wake() -> bool:
        taken.extend(event.message for event in events.take())
        return True

    events = Events(wake)
    for n in range(3):
        events.put(Event("packet_in", 0, n))
    assert taken == [0, 1, 2]


@pytest.mark.parametrize("is_bundle", [False, True])
def test_nothing_is_kept_of_changes_that_are_refused_before_they_are_applied(
    service: Service, switch: Switch, is_bundle: bool
) -> None:
    talk = Talk(service, 5)
    lines = (("add", "actions=1"), ("add", "tcp,actions=1"))
    data = bundle(5, *lines) if is_bundle else flow_mod(parse_flow("actions=1"), 5, "add")
    for role in ("secondary", "equal"):
        talk.connection.role = role
        talk.connection.receive_data(data)
        while (event := talk.connection.next_event()) is not None:
            if isinstance(event, Request | Commit):
                service.prepare(event)
                service.carry_out(talk.connection, event, NOW)
        assert [code for _, *code in talk.errors()] == ([[1, 10]] if role == "secondary" else [])
    assert len(texts(switch)) == (2 if is_bundle else 1)
    assert service._changes._prepared == {}


def test_a_fault_of_ours_is_answered_and_costs_no_other_request(
    service: Service, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a fault")

    talk = Talk(service)
    requests = []
    talk.connection.receive_data(flow_mod(parse_flow("actions=1"), 4, "add", xid=5))
    talk.connection.receive_data(message(4, 20, b""))
    while (event := talk.connection.next_event()) is not None:
        assert isinstance(event, Request)
        requests.append(event)
    monkeypatch.setattr(service._changes, "apply", broken)
    for request in requests:
        service.carry_out(talk.connection, request, NOW)
    assert [(xid, kind) for _, kind, xid, _ in replies(talk.connection)] == [(5, 1), (1, 21)]


def test_counters_of_a_flow_that_is_added_again_stay_from_openflow_1_2_on(service: Service, switch: Switch) -> None:
    packets = [Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2)]
    old, new = Talk(service, 1), Talk(service, 4)
    seen = []
    for talk, text in ((old, ""), (new, ""), (old, ""), (new, ""), (new, "reset_counts,")):
        talk.flow(f"{text}actions=1")
        seen.append(switch.flows()[0].packets)
        switch.process(batch_of(packets, in_port=2, time_ns=NOW))
    seen.append(switch.flows()[0].packets)
    assert seen == [0, 1, 0, 1, 0, 1]
    new.flow("table=0,actions=2", "mod")
    assert switch.flows()[0].packets == 1
    new.flow("table=0,reset_counts,actions=1", "mod")
    assert new.errors() == []
    assert switch.flows()[0].packets == 0


def test_groups_and_meters_that_are_not_there_have_an_error_each(service: Service, switch: Switch) -> None:
    talk = Talk(service)
    for kind, name in (("Group", "OFPBAC_BAD_OUT_GROUP"), ("Meter", "OFPMMFC_INVALID_METER")):
        talk.say(flow_mod(Flow(actions=(getattr(F, kind)(1),)), 4))
        ((_, group, number),) = talk.errors()
        expected = OpenFlowError(name).number(4)
        assert (group, number) == (expected.type, expected.code)
    assert texts(switch) == []


def test_an_overlap_is_refused_where_the_flow_asks_for_it(service: Service, switch: Switch) -> None:
    talk = Talk(service)
    talk.flow("priority=5,tcp,actions=1")
    talk.flow("check_overlap,priority=5,ip,nw_src=10.0.0.0/8,actions=1")
    assert talk.errors() == [(1, 5, 3)]
    talk.flow("check_overlap,priority=6,ip,nw_src=10.0.0.0/8,actions=1")
    talk.flow("check_overlap,priority=5,udp,actions=1")
    talk.flow("check_overlap,priority=5,tcp,actions=2")
    assert talk.errors() == []
    assert len(texts(switch)) == 3


def test_buffers_are_unknown(service: Service) -> None:
    talk = Talk(service)
    talk.flow("actions=1", buffer_id=3)
    assert talk.errors() == [(1, 1, 8)]


def bundle(version: int, *changes: tuple[str, str]) -> bytes:
    """A bundle with flow-mods, numbered from 10 on, committed as 9."""
    inner = [
        add(version, flow_mod(parse_flow(text, command=command), version, command, xid=n), xid=n)
        for n, (command, text) in enumerate(changes, 10)
    ]
    return control(version, 0) + b"".join(inner) + control(version, 4, xid=9)


def test_a_bundle_is_carried_out_in_order(service: Service, switch: Switch) -> None:
    talk = Talk(service, 5)
    talk.flow("priority=1,actions=1")
    talk.say(
        bundle(
            5,
            ("del", ""),
            ("add", "priority=2,actions=1"),
            ("add", "priority=3,actions=1"),
            ("mod", "table=0,actions=2"),
        )
    )
    assert talk.errors() == []
    assert texts(switch) == ["priority=3 actions=output:2", "priority=2 actions=output:2"]


def test_a_bundle_with_something_that_is_refused_changes_nothing(service: Service, switch: Switch) -> None:
    talk = Talk(service, 5)
    talk.flow("priority=1,actions=1")
    talk.say(bundle(5, ("del", ""), ("add", "priority=2,actions=1"), ("add", "check_overlap,priority=2,ip,actions=1")))
    assert talk.errors() == [(12, 5, 3), (9, 17, 13)]
    assert texts(switch) == ["priority=1 actions=output:1"]


@pytest.mark.parametrize("prepares", [False, True])
def test_a_bundle_that_fails_on_its_way_is_undone(
    service: Service, switch: Switch, monkeypatch: pytest.MonkeyPatch, prepares: bool
) -> None:
    talk = Talk(service, 5)
    talk.prepares = prepares
    for text in ("priority=1,actions=1", "priority=2,ip,actions=1", "priority=4,udp,actions=1"):
        talk.flow(text)
    before = texts(switch)
    insert = switch.datapath.rules.add_feed

    def full(feed: Feed, *rest: Any) -> int:
        if any(rule.priority == 9 for rule in feed.rules):
            for those_before in feeds_of(feed.rules[:-1]):
                insert(those_before, *rest)
            raise TablesFullError("the flow tables are full")
        return insert(feed, *rest)

    monkeypatch.setattr(switch.datapath.rules, "add_feed", full)
    talk.say(
        bundle(
            5,
            ("add", "priority=1,actions=2"),
            ("mod", "table=0,ip,actions=2"),
            ("del_strict", "priority=4,udp"),
            ("add", "priority=2,ip,actions=3"),
            ("add", "priority=7,actions=1"),
            ("add", "priority=9,actions=1"),
        )
    )
    assert talk.errors() == [(15, 5, 1), (9, 17, 13)]
    assert texts(switch) == before


@pytest.mark.parametrize("prepares", [False, True])
def test_the_message_that_a_bundle_fails_for_is_named(service: Service, switch: Switch, prepares: bool) -> None:
    talk = Talk(service, 5)
    talk.prepares = prepares
    talk.flow("priority=1,actions=1")
    good = [("add", f"priority={n},actions=2") for n in range(1, 9)]
    talk.say(bundle(5, *good, ("add", "priority=9,actions=group:7"), *good))
    assert [code[0] for code in talk.errors()] == [18, 9]
    assert texts(switch) == ["priority=1 actions=output:1"]


def test_what_is_refused_beforehand_is_not_looked_at_again(
    service: Service, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(service, 5)
    mods = [("add", f"priority={n},actions=2") for n in range(1, 5)]
    talk.connection.receive_data(bundle(5, *mods, ("add", "table=254,actions=1"), *mods))
    commit = talk.connection.next_event()
    assert isinstance(commit, Commit)
    assert not list(service.prepare(commit))
    monkeypatch.setattr(switch.datapath, "compile", None)
    service.carry_out(talk.connection, commit, NOW)
    assert talk.errors() == [(14, 1, 5), (9, 17, 13)]
    assert not texts(switch)


def test_flows_of_the_switch_itself_are_its_own(service: Service, switch: Switch) -> None:
    hidden = F.Flow((), (F.Normal(),), 0, MAX_PRIORITY + 1)
    switch.datapath.add_flow(hidden)
    service.hides_flows = True
    talk = Talk(service, 5)
    talk.flow("table=0,actions=drop", "mod")
    talk.flow("table=0", "del")
    talk.flow("", "del")
    talk.say(bundle(5, ("mod", "table=0,actions=drop"), ("del", "")))
    assert not talk.errors()
    assert [line.flow for line in switch.flows()] == [hidden]
    switch.datapath.delete_flows(hidden, strict=True)
    assert not switch.flows()


def test_what_cannot_be_prepared_is_answered_when_it_is_carried_out(
    service: Service, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(switch.datapath, "compile", fail)
    talk = Talk(service, 5)
    talk.connection.receive_data(
        flow_mod(parse_flow("actions=1"), 5, xid=4) + bundle(5, ("add", "actions=1"), ("add", "tcp,actions=1"))
    )
    while (event := talk.connection.next_event()) is not None:
        assert isinstance(event, Request | Commit)
        assert not list(service.prepare(event))
        service.carry_out(talk.connection, event, NOW)
    assert [code[0] for code in talk.errors()] == [4, 9]


@pytest.mark.parametrize(
    "changes",
    [
        (("add", "priority=5,actions=2"), ("mod_strict", "table=0,priority=5,actions=3")),
        (("add", "priority=5,actions=2"), ("del_strict", "priority=5")),
        (("add", "priority=5,actions=2"), ("add", "priority=5,actions=3")),
    ],
)
def test_what_a_failing_bundle_changed_twice_is_undone_too(
    service: Service, switch: Switch, changes: tuple[tuple[str, str], ...]
) -> None:
    talk = Talk(service, 5)
    last = ("add", "priority=6,actions=1"), ("add", "check_overlap,priority=6,in_port=1,actions=1")
    talk.say(bundle(5, *changes, *last))
    assert talk.errors()
    assert texts(switch) == []


def test_a_flow_too_long_for_a_listing_does_not_spoil_it(service: Service) -> None:
    talk = Talk(service, 4)
    talk.flow("priority=1,actions=1")
    talk.flow(f"priority=2,actions={','.join(['output:1'] * 4090)}")
    for priority in range(3, 9):
        talk.flow(f"priority={priority},actions={','.join(['output:1'] * (4080 + priority))}")
    assert not talk.errors()
    talk.connection.data_to_send()
    everything = struct.pack("!B3xII4xQQHH4x", 255, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 1, 4)
    talk.say(message(4, 18, struct.pack("!HH4x", 1, 0) + everything))
    answer = talk.connection.data_to_send()
    assert answer[:2] == bytes([4, 19])
    assert len(answer) > 6 * 60_000


def test_overlaps_are_found_within_a_bundle(service: Service, switch: Switch) -> None:
    talk = Talk(service, 5)
    talk.say(bundle(5, ("add", "ip,actions=1"), ("add", "check_overlap,tcp,actions=1")))
    assert talk.errors() == [(11, 5, 3), (9, 17, 13)]
    assert texts(switch) == []


def test_listings_count_what_packets_did(service: Service, switch: Switch) -> None:
    talk = Talk(service)
    talk.flow("in_port=1,actions=2")
    frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()
    switch.process(batch_of([frame]))
    switch.datapath.add_flow(replace(parse_flow("in_port=9,actions=2"), priority=MAX_PRIORITY + 1))
    service.hides_flows = True
    talk.say(
        message(
            4,
            18,
            struct.pack("!HH4xB3xII4xQQ", 2, 0, ALL_TABLES, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0) + b"\0\1\0\4" + bytes(4),
        )
    )
    ((*_, body),) = replies(talk.connection)
    assert struct.unpack("!QQI4x", body[8:]) == (1, len(frame), 1)
    talk.say(message(4, 18, struct.pack("!HH4xI4x", 4, 0, 2)))
    ((*_, body),) = replies(talk.connection)
    assert struct.unpack_from("!I4xQQQQ", body, 8) == (2, 0, 1, 0, len(frame))


def test_roles_leave_one_primary_and_secondaries_change_nothing(service: Service, switch: Switch) -> None:
    one, other = Talk(service), Talk(service)
    one.say(message(4, 24, struct.pack("!I4xQ", 2, 5)))
    other.say(message(4, 24, struct.pack("!I4xQ", 2, 6)))
    assert (one.connection.role, other.connection.role) == ("secondary", "primary")
    one.connection.data_to_send()
    one.flow("actions=1")
    assert one.errors() == [(1, 1, 10)]
    one.say(message(4, 24, struct.pack("!I4xQ", 2, 4)))
    assert one.errors() == [(1, 11, 0)]
    one.say(message(4, 24, struct.pack("!I4xQ", 0, 0)))
    ((_, kind, _, body),) = replies(one.connection)
    assert (kind, struct.unpack("!I4xQ", body)) == (25, (3, 6))
    bundled = Talk(service, 5)
    bundled.connection.role = "secondary"
    bundled.say(bundle(5, ("add", "actions=1")))
    assert bundled.errors() == [(9, 1, 10)]
    assert texts(switch) == []


def test_a_deleted_flow_is_reported_to_those_that_want_it(service: Service) -> None:
    talk, other, quiet = Talk(service), Talk(service, 1), Talk(service)
    service.attach(quiet.connection, quiet=True)
    talk.flow("send_flow_rem,tcp,actions=1")
    talk.flow("udp,actions=1")
    talk.flow("", "del")
    assert [kind for _, kind, _, _ in replies(talk.connection)] == [11]
    assert [kind for _, kind, _, _ in replies(other.connection)] == [11]
    assert replies(quiet.connection) == []
    quiet.say(message(4, 9, struct.pack("!HH", 0, 128)))
    service.tell_port(2, "p0", 1)
    assert [kind for _, kind, _, _ in replies(quiet.connection)] == [12]
    service.detach(quiet.connection)
    service.tell_port(2, "p0", 1)
    assert replies(quiet.connection) == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (message(4, 13, struct.pack("!IIH6x", 0xFFFFFFFF, 1, 0) + bytes(6)), (2, 5)),
        (message(4, 13, struct.pack("!IIH6x", 7, 1, 0) + bytes(60)), (1, 8)),
        (message(4, 13, struct.pack("!IIH6x", 0xFFFFFFFF, 0xFFFFFFF8, 0) + bytes(60)), (1, 11)),
        (message(4, 18, struct.pack("!HH4xI4x", 4, 0, 77)), (1, 11)),
        (message(4, 18, struct.pack("!HH4xII", 5, 0, 1, 3)), (9, 1)),
        (message(4, 18, struct.pack("!HH4xII", 5, 0, 77, 3)), (9, 0)),
        (message(4, 18, struct.pack("!HH4xI4x", 9, 0, 5)), (12, 3)),
        (message(4, 18, struct.pack("!HH4x", 12, 0) + bytes(64)), (13, 5)),
        (message(4, 15, struct.pack("!HBxI", 0, 3, 1) + struct.pack("!HHII4x", 16, 0, 0xFFFFFFFF, 0xFFFFFFFF)), (6, 1)),
        (message(4, 15, struct.pack("!HBxI", 1, 0, 1)), (6, 8)),
        (message(4, 29, struct.pack("!HHI", 1, 1, 1)), (12, 3)),
        (message(4, 16, struct.pack("!I4x6s2xIII4x", 1, bytes(6), 0, 0, 0)), (7, 1)),
        (message(4, 16, struct.pack("!I4x6s2xIII4x", 1, b"\2\0\0\0\0\1", 1, 1, 0)), (7, 2)),
        (message(4, 17, struct.pack("!B3xI", 255, 4)), (8, 1)),
        (message(4, 17, struct.pack("!B3xI", 254, 0)), (8, 2)),
        (message(4, 9, struct.pack("!HH", 1, 0)), (10, 0)),
        (message(4, 22, struct.pack("!I4x", 1)), (1, 1)),
        (message(4, 4, struct.pack("!II", 0x2320, 28)), (0xFFFF, 35)),
    ],
)
def test_nothing_is_met_with_silence(service: Service, data: bytes, code: tuple[int, int]) -> None:
    talk = Talk(service)
    talk.say(data)
    assert [found[1:] for found in talk.errors()] == [code]


@pytest.mark.parametrize("version", range(1, 7))
def test_what_is_not_there_is_empty_and_deleting_it_no_error(service: Service, version: int) -> None:
    talk = Talk(service, version)
    kind = 16 if version == 1 else 18
    head = "!HH" if version == 1 else "!HH4x"
    asked = [struct.pack(head, 3, 0), struct.pack(head, 0, 0)]
    if version > 1:
        asked += [struct.pack(head + "I4x", 6, 0, 0xFFFFFFFC)]
        talk.say(
            message(
                version,
                15,
                struct.pack("!HBxI", 2, 0, 0xFFFFFFFC) + (struct.pack("!H2xI", 0, 0) if version == 6 else b""),
            )
        )
    if version > 3:
        asked += [struct.pack(head + "I4x", n, 0, 0xFFFFFFFF) for n in (9, 10)] + [struct.pack(head, 11, 0)]
        talk.say(message(version, 29, struct.pack("!HHI", 2, 0, 0xFFFFFFFF)))
    for body in asked:
        talk.say(message(version, kind, body))
    assert [found[1] for found in replies(talk.connection)] == [kind + 1] * len(asked)


def test_connections_are_flushed_by_zone_and_by_tuple(service: Service, switch: Switch) -> None:
    switch.add_flows("ip,actions=ct(commit,zone=1),2\n")
    for port in (80, 81):
        frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1000, port).bytes()
        switch.process(batch_of([frame]))
    talk = Talk(service)
    inner = struct.pack("!HHH2x", 3, 8, 80)
    head = struct.pack("!IIB7x", 0x2320, 32, 17)
    talk.say(message(4, 4, head + struct.pack("!HH4x", 0, 8 + len(inner)) + inner))
    assert [c.original.destination_port for c in switch.tracker.connections()] == [81]
    source = bytes(10) + b"\xff\xff\x0a\0\0\x09"
    other = struct.pack("!HH16s4x", 0, 20, source)
    talk.say(message(4, 4, head + struct.pack("!HH4x", 0, 8 + len(other)) + other))
    talk.say(message(4, 4, struct.pack("!IIQ", 0x2320, 29, 2)))
    assert len(switch.tracker) == 1
    talk.say(message(4, 4, struct.pack("!IIQ", 0x2320, 29, 1)))
    assert len(switch.tracker) == 0
    assert talk.errors() == []


def tuple_of(*fields: tuple[int, bytes]) -> bytes:
    """The original tuple of a flush on the wire."""
    inner = b"".join(
        struct.pack("!HH", kind, 4 + len(value)) + value + bytes(-(4 + len(value)) % 8) for kind, value in fields
    )
    return struct.pack("!HH4x", 0, 8 + len(inner)) + inner


def test_a_whole_tuple_names_its_connection_from_either_side(service: Service, switch: Switch) -> None:
    switch.add_flows("udp,tp_dst=81,actions=ct(commit,zone=3),2\nip,actions=ct(commit),2\n")
    for port in (80, 81):
        switch.process(batch_of([Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1000, port).bytes()]))
    talk = Talk(service)
    mapped = bytes(10) + b"\xff\xff"

    def flush(source: bytes, destination: bytes, sport: int, dport: int, zone: bytes = b"") -> list[int]:
        ports = struct.pack("!H", sport), struct.pack("!H", dport)
        fields = ((0, mapped + source), (1, mapped + destination), (2, ports[0]), (3, ports[1]))
        talk.say(message(4, 4, struct.pack("!IIB7x", 0x2320, 32, 17) + tuple_of(*fields) + zone))
        return [one.original.destination_port for one in switch.tracker.connections()]

    client, server = b"\x0a\0\0\1", b"\x0a\0\0\2"
    assert sorted(flush(server, client, 81, 1000)) == [80, 81]  # without a zone, zone 0 is meant
    assert flush(server, client, 80, 1000) == [81]
    assert flush(client, server, 1000, 81, struct.pack("!HHH2x", 2, 6, 3)) == []
    assert talk.errors() == []


def test_a_ping_is_flushed_as_the_tool_says_it(service: Service, switch: Switch) -> None:
    """It writes zeros into the reply tuple, too, of which nothing is said."""
    switch.add_flows("icmp,actions=ct(commit),2\n")
    for number in (7, 8):
        switch.process(batch_of([Packet().eth().ipv4("10.0.0.1", "10.0.0.2").icmp(id=number).bytes()]))
    talk = Talk(service)

    def icmp(number: int, kind: int) -> tuple[tuple[int, bytes], ...]:
        return (4, struct.pack("!H", number)), (5, bytes((kind,))), (6, b"\0")

    mapped = bytes(10) + b"\xff\xff\x0a\0\0"
    original = tuple_of((0, mapped + b"\1"), (1, mapped + b"\2"), *icmp(7, 8))
    reply = b"\0\1" + tuple_of(*icmp(0, 0))[2:]
    talk.say(message(4, 4, struct.pack("!IIB7x", 0x2320, 32, 1) + original + reply))
    assert [one.original.icmp_id for one in switch.tracker.connections()] == [8]
    assert talk.errors() == []


@pytest.mark.parametrize(
    ("properties", "left"),
    [
        (struct.pack("!HHI", 3, 8, 0xAA), {81}),
        (struct.pack("!HHIHHI", 3, 8, 2, 4, 8, 2), {81}),
        (struct.pack("!HH16s4x", 5, 20, (0xAA << 32).to_bytes(16, "big")), {80}),
        (struct.pack("!HH16s4x", 5, 20, (2 << 32).to_bytes(16, "big"))
         + struct.pack("!HH16s4x", 6, 20, (2 << 32).to_bytes(16, "big")), {80}),
        (struct.pack("!HHI", 3, 8, 0xAB), {80, 81}),
    ],
)  # fmt: skip
def test_connections_are_flushed_by_mark_and_label(
    service: Service, switch: Switch, properties: bytes, left: set[int]
) -> None:
    switch.add_flows(
        "udp,tp_dst=80,actions=ct(commit,exec(set_field:0xaa->ct_mark)),2\n"
        "udp,tp_dst=81,actions=ct(commit,exec(set_field:0xaa00000000->ct_label)),2\n"
    )
    for port in (80, 81):
        switch.process(batch_of([Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1000, port).bytes()]))
    talk = Talk(service)
    talk.say(message(4, 4, struct.pack("!IIB7x", 0x2320, 32, 0) + properties))
    assert {one.original.destination_port for one in switch.tracker.connections()} == left
    assert talk.errors() == []


def test_a_packet_whose_ttl_runs_out_goes_to_those_that_want_it(service: Service, switch: Switch) -> None:
    """By a flag of the configuration before OpenFlow 1.3, by the reasons that a controller wants from then on."""
    switch.add_flows("table=0,ip,actions=resubmit(,4)\ntable=4,ip,actions=dec_ttl,2\n")
    frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", ttl=1).udp(1000, 80).bytes()
    old, new = Talk(service, 1), Talk(service, 4)

    def told() -> tuple[list[int], list[int]]:
        switch.process(batch_of([frame], in_port=1))
        service.deliver_events()
        heard = [[kind for _, kind, _, _ in replies(talk.connection)] for talk in (old, new)]
        return heard[0], heard[1]

    assert told() == ([], [])
    assert switch.statistics()["punted"] == 0
    old.say(message(1, 9, struct.pack("!HH", 4, 128)) + message(1, 7))
    ((_, kind, _, body),) = replies(old.connection)
    assert (kind, body) == (8, struct.pack("!HH", 4, 128))
    new.say(message(4, 9, struct.pack("!HH", 4, 128)))
    assert [found[1:] for found in new.errors()] == [(10, 0)]
    assert told() == ([10], [])
    old.say(message(1, 9, struct.pack("!HH", 0, 128)))
    new.say(message(4, 28, struct.pack("!6I", 7, 0, 7, 7, 7, 7)))
    switch.process(batch_of([frame], in_port=1))
    (event,) = service.events.take()
    assert (event.reason, event.message.table) == (2, 4)
    new.say(message(4, 28, struct.pack("!6I", 3, 0, 7, 7, 7, 7)))
    assert told() == ([], [])


def test_an_invalid_packet_tells_its_type_with_its_state(service: Service, switch: Switch) -> None:
    switch.add_flows("table=0,ip,actions=ct(table=1)\ntable=1,ct_state=+inv,actions=controller\n")
    talk = Talk(service, 1)
    talk.say(message(1, 4, struct.pack("!III", 0x2320, 16, 2)))
    error = Packet().eth().ipv4("10.0.0.3", "10.0.0.1").icmp(3, 3).payload(bytes(28)).bytes()
    switch.process(batch_of([error], in_port=1))
    (event,) = service.events.take()
    said = {name: value for name, value, _ in event.message.metadata}
    assert said == {"ct_state": 0x30, "eth_type": 0x0800, "in_port": 1}


def test_the_map_of_tunnel_options_is_kept(service: Service) -> None:
    talk = Talk(service)

    def change(command: int, *maps: tuple[int, int, int, int]) -> None:
        entries = b"".join(struct.pack("!HBBH2x", *entry) for entry in maps)
        talk.say(message(4, 4, struct.pack("!IIH6x", 0x2320, 24, command) + entries))

    def listed() -> bytes:
        talk.say(message(4, 4, struct.pack("!II", 0x2320, 25)))
        ((*_, body),) = replies(talk.connection)
        return body[24:]

    change(0, (0x102, 1, 4, 0), (0x102, 2, 8, 1))
    assert listed() == struct.pack("!HBBH2xHBBH2x", 0x102, 1, 4, 0, 0x102, 2, 8, 1)
    change(0, (0x102, 3, 4, 1))
    change(0, (0x102, 1, 4, 5))
    change(0, *((0x103, n, 124, n) for n in (10, 11, 12)))
    assert [found[1:] for found in talk.errors()] == [(0xFFFF, 20), (0xFFFF, 21), (0xFFFF, 19)]
    change(1, (0x102, 1, 4, 0))
    assert listed() == struct.pack("!HBBH2x", 0x102, 2, 8, 1)
    change(2)
    assert listed() == b""


def test_a_listing_tells_how_things_were_when_it_was_asked_for(service: Service, switch: Switch) -> None:
    talk = Talk(service, 4)
    talk.flow("priority=1,actions=1")
    talk.flow("priority=2,cookie=5,actions=2")
    everything = switch.datapath.listing()
    some = switch.datapath.listing(parse_flow("cookie=5/-1", command="del"))
    before = [line.flow.priority for line in switch.flows()]
    talk.flow("", "del")
    talk.flow("priority=9,actions=1")
    assert [line.flow.priority for line in everything.lines()] == before == [2, 1]
    assert [line.flow.priority for line in some.lines()] == [2]
    assert [line.flow.priority for line in switch.flows()] == [9]


def test_a_bundle_deletes_and_adds_in_long_runs_and_tells_what_went(service: Service, switch: Switch) -> None:
    talk = Talk(service, 5)
    talk.say(bundle(5, *(("add", f"send_flow_rem,priority={n},ip,actions=1") for n in range(1, 301))))
    talk.connection.data_to_send()
    going = [("del_strict", f"priority={n},ip") for n in (7, 300, 7, 999)]
    talk.say(bundle(5, *going, ("add", "priority=7,ip,actions=2"), ("del_strict", "priority=8,ip")))
    assert len(switch.flows()) == 298
    assert [kind for kind in _types(talk.connection.data_to_send()) if kind == 11] == [11] * 3


def _types(data: bytes) -> Iterator[int]:
    while data:
        yield data[1]
        data = data[int.from_bytes(data[2:4], "big") :]


# --- bundles do what their messages do --------------------------------------------------------------------------------

mods = st.one_of(
    st.tuples(
        st.just("add"),
        st.builds(
            "table={},{},actions={}".format,
            st.integers(1, 2),
            st.sampled_from(("tcp", "udp", "ip,priority=9", "idle_timeout=5,reg0=1", "check_overlap,ip")),
            st.sampled_from(("1", "2", "controller", "conjunction(1,1/2)", "conjunction(2,2/2),conjunction(3,1/2)")),
        ),
    ),
    st.tuples(
        st.sampled_from(("mod", "mod_strict")),
        st.builds(
            "table={},{},actions={}".format,
            st.integers(1, 2),
            st.sampled_from(("tcp", "ip", "reg0=1")),
            st.sampled_from(("3", "conjunction(1,2/2)")),
        ),
    ),
    st.tuples(
        st.sampled_from(("del", "del_strict")),
        st.sampled_from(("table=1", "table=2,tcp", "table=1,tcp", "table=1,reg0=1", "table=2,udp")),
    ),
    st.tuples(st.just("del_strict"), st.sampled_from(("table=1,ip,priority=9", "table=2,ip,priority=9", "tcp"))),
)


def _kept(switch: Switch) -> object:
    """What a switch holds for its flows, whatever it was called there."""
    rules = switch.datapath.rules
    assert rules._n_clauses == sum(rule.is_clause for rule in rules._rules.values())
    assert int(rules.arrays.state["live_rules"][0]) == len(rules._rules)
    in_tables = {number: rules.find(rule) for number, rule in rules._rules.items()}
    assert in_tables == {number: number for number in rules._rules}
    tallies = sorted((conjunction, n) for conjunction, n in rules.linker.tallies._users.values())
    handled = sum(1 for _ in rules.linker.handled_actions())
    return sorted(texts(switch)), tallies, handled, len(rules._timers), sorted(rules._subtables), rules._per_table


@settings(max_examples=60, deadline=None)
@given(st.lists(mods, max_size=6), st.lists(mods, min_size=1, max_size=12), st.booleans(), st.booleans())
def test_a_bundle_does_what_its_messages_do_one_by_one_or_nothing(
    before: list[tuple[str, str]], changes: list[tuple[str, str]], fails: bool, prepares: bool
) -> None:
    bundled, single = (Talk(Service(Switch(max_connections=10), started_ns=NOW), 5) for _ in range(2))
    switches = [talk.service._bridge for talk in (bundled, single)]
    bundled.prepares = prepares
    for talk in (bundled, single):
        for command, text in before:
            talk.flow(text, command)
        talk.errors()
    was = _kept(switches[0])  # type: ignore[arg-type]
    if fails:
        changes = [*changes, ("add", "table=5,actions=group:9")]
    bundled.say(bundle(5, *changes))
    is_refused = bool(bundled.errors())
    for command, text in changes:
        single.flow(text, command)
    assert is_refused == bool(single.errors())
    assert _kept(switches[0]) == (was if is_refused else _kept(switches[1]))  # type: ignore[arg-type]


# --- after large changes ----------------------------------------------------------------------------------------------


def test_what_a_large_change_leaves_is_let_go_in_slices(service: Service, switch: Switch) -> None:
    talk = Talk(service, 5)
    talk.say(bundle(5, *(("add", f"priority={n},ip,actions=1") for n in range(1, 601))))
    list(service.tidy())
    assert not service.has_waste
    talk.say(bundle(5, ("del", ""), ("add", "priority=1,ip,actions=2")))
    assert service.has_waste
    n_slices = len(list(service.tidy()))
    assert n_slices == 3 and not service.has_waste  # of 600 rules
    assert len(texts(switch)) == 1

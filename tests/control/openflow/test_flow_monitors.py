"""Monitors of flow tables, by themselves and with the real tool."""

from __future__ import annotations

import re
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.app import Switch
from flowshunt.control.openflow import flow_monitors, monitor
from flowshunt.control.openflow.service import Service
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow import parse_flow
from tests.control.openflow.test_connection import add, control
from tests.control.openflow.test_server import OVS_OFCTL, Running, needs_ofctl
from tests.control.openflow.test_service import NOW, Talk
from tests.control.openflow.wires import flow_mod, message

ALL = 0x5F
OWN = 0x40
MODIFY, DELETE = 1, 2
EVERYTHING = frozenset(("initial", "add", "delete", "modify", "actions", "own"))
EVENTS = ("initial", "added", "removed", "modified", "abbreviated", "paused", "resumed")


class Watch(Talk):
    """A connection of OpenFlow 1.4 that monitors flows."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, 5)

    def carry_out(self, data: bytes) -> None:
        self.connection.receive_data(data)
        while (event := self.connection.next_event()) is not None:
            self.service.carry_out(self.connection, event, NOW)  # type: ignore[arg-type]

    def watch(
        self, number: int = 0, flags: int = ALL, *, table: int = 0xFF, command: int = 0, port: int = 0xFFFFFFFF
    ) -> None:
        body = struct.pack("!IIIHBB", number, port, 0xFFFFFFFF, flags, table, command) + bytes((0, 1, 0, 4, 0, 0, 0, 0))
        self.carry_out(message(5, 18, struct.pack("!HHI", 16, 0, 0) + body, 7))

    def flow(self, text: str, command: str = "add", **more: object) -> None:
        self.carry_out(flow_mod(parse_flow(text, command=command), 5, command))  # type: ignore[arg-type]

    def told(self) -> list[str]:
        """Events since the last time, with the table of the flow."""
        found = []
        data = self.connection.data_to_send()
        at = 0
        while at < len(data):
            _, kind, size, _ = struct.unpack_from("!BBHI", data, at)
            if kind == 19:
                found += self._updates(data[at + 16 : at + size])
            else:
                assert kind == 1, kind
                kind, code = struct.unpack_from("!HH", data, at + 8)
                found.append(f"error {kind},{code}")
            at += size
        return found

    def _updates(self, data: bytes) -> Iterator[str]:
        at = 0
        while at < len(data):
            size, event = struct.unpack_from("!HH", data, at)
            if event < 4:
                table, reason = data[at + 4], data[at + 5]
                yield f"{EVENTS[event]} {table}" + (f" {reason}" if event == 2 else "")
            else:
                yield EVENTS[event] + (f" {struct.unpack_from('!I', data, at + 4)[0]}" if event == 4 else "")
            at += size


@pytest.fixture
def switch() -> Switch:
    switch = Switch(max_connections=1000)
    switch.add_port("p0")
    switch.add_port("p1")
    return switch


@pytest.fixture
def service(switch: Switch) -> Service:
    return Service(switch, started_ns=NOW)


def test_a_monitor_is_told_what_there_is_and_what_others_change(service: Service) -> None:
    other, watch = Watch(service), Watch(service)
    other.flow("table=1,tcp,actions=1")
    watch.watch()
    other.flow("table=2,udp,actions=1")
    other.flow("table=2,udp,actions=2")
    other.flow("table=1,tcp,actions=2", "mod")
    other.flow("table=1,tcp,actions=conjunction(1,1/2)", "mod")
    other.flow("table=1,tcp,actions=conjunction(2,1/2)")
    other.flow("table=1", "del")
    assert watch.told() == [
        "initial 1", "added 2", "added 2", "modified 1", "modified 1", "added 1", "removed 1 2",
    ]  # fmt: skip
    assert other.told() == []


def test_own_changes_are_abbreviated_unless_asked_for(service: Service) -> None:
    watch, owner = Watch(service), Watch(service)
    watch.watch(flags=ALL & ~OWN)
    owner.watch()
    watch.told(), owner.told()
    watch.flow("table=3,actions=1")
    owner.flow("table=4,actions=1")
    assert watch.told() == ["abbreviated 1", "added 4"]
    assert owner.told() == ["added 3", "added 4"]


def test_monitors_select_by_table_port_and_event(service: Service) -> None:
    other, tables, ports, deletions = (Watch(service) for _ in range(4))
    tables.watch(table=2)
    ports.watch(port=1)
    deletions.watch(flags=4)
    for watch in (tables, ports, deletions):
        assert watch.told() == []
    other.flow("table=2,actions=2")
    other.flow("table=1,actions=1")
    other.flow("table=1,actions=2", "mod")
    other.flow("table=1", "del")
    assert tables.told() == ["added 2"]
    assert ports.told() == ["added 1", "modified 1"]
    assert deletions.told() == ["removed 1 2"]


def test_monitors_are_changed_and_deleted_by_their_number(service: Service) -> None:
    other, watch = Watch(service), Watch(service)
    watch.watch(5)
    watch.watch(5)
    watch.watch(6, command=DELETE)
    watch.watch(6, command=MODIFY)
    assert watch.told() == ["error 16,1", "error 16,3", "error 16,3"]
    watch.watch(5, table=9, command=MODIFY)
    other.flow("table=1,actions=1")
    other.flow("table=9,actions=1")
    assert watch.told() == ["added 9"]
    watch.watch(5, command=DELETE)
    other.flow("table=9,actions=2")
    assert watch.told() == []
    assert service._bridge.datapath.rules.on_change is None


def test_what_a_failed_bundle_did_is_not_told(service: Service) -> None:
    other, watch = Watch(service), Watch(service)
    watch.watch()
    watch.told()
    mods = [flow_mod(parse_flow(text), 5) for text in ("table=1,actions=1", "table=2,actions=group:7")]
    for data in (control(5, 0), *(add(5, mod) for mod in mods), control(5, 4)):
        other.carry_out(data)
    assert watch.told() == []


def test_flows_that_time_out_are_told_with_the_reason(service: Service, switch: Switch) -> None:
    other, watch = Watch(service), Watch(service)
    woken: list[bool] = []
    service.events.wake = lambda: not woken.append(True)
    watch.watch()
    other.flow("table=1,idle_timeout=5,actions=1")
    other.flow("table=2,hard_timeout=7,actions=1")
    watch.told()
    switch.datapath.expire_flows(NOW // 1_000_000 + 60_000)
    assert sorted(watch.told()) == ["removed 1 0", "removed 2 1"]
    assert woken


def test_a_connection_that_does_not_read_is_paused_and_told_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, watch = Watch(service), Watch(service)
    other.flow("table=1,actions=1")
    other.flow("table=2,actions=1")
    watch.watch()
    assert watch.told() == ["initial 1", "initial 2"]
    watch.connection.congested = True
    other.flow("table=3,actions=1")
    assert watch.told() == ["added 3", "paused"]
    assert watch.connection.paused
    other.flow("table=4,actions=1")
    other.flow("table=4,actions=2", "mod")
    other.flow("table=5,actions=1")
    other.flow("table=5", "del")
    other.flow("table=1", "del")
    other.flow("table=2,actions=2", "mod")
    assert watch.told() == ["removed 1 2"]
    service.resume_monitors(watch.connection)
    assert watch.told() == []
    other.flow("table=2,actions=1")
    other.flow("table=2", "del")
    assert watch.told() == ["removed 2 2"]
    watch.connection.congested = False
    service.resume_monitors(watch.connection)
    assert watch.told() == ["added 4", "resumed"]
    other.flow("table=6,actions=1")
    assert watch.told() == ["added 6"]
    monkeypatch.setattr(flow_monitors, "MAX_UNREAD", 100)
    for table in range(20):
        other.flow(f"table={table},reg0=7,actions=1")
    told = watch.told()
    assert told[-1] == "paused" and len(told) < 10


def test_a_paused_connection_hears_nothing_of_a_failed_bundle(service: Service) -> None:
    other, watch = Watch(service), Watch(service)
    other.flow("table=1,actions=1")
    watch.watch()
    watch.connection.congested = True
    other.flow("table=3,actions=1")
    assert watch.told() == ["initial 1", "added 3", "paused"]
    mods = [
        flow_mod(parse_flow("table=1,actions=2"), 5),
        flow_mod(parse_flow("table=9", command="del"), 5, "del"),
        flow_mod(parse_flow("table=2,actions=group:7"), 5),
    ]
    for data in (control(5, 0), *(add(5, mod) for mod in mods), control(5, 4)):
        other.carry_out(data)
    assert watch.told() == []
    other.flow("table=1", "del")
    assert watch.told() == ["removed 1 2"]


def test_what_no_update_can_say_is_left_out(service: Service, switch: Switch) -> None:
    other, watch = Watch(service), Watch(service)
    watch.watch()
    long = F.Flow(actions=(F.Output(1),) * 5000, idle_timeout=5)
    switch.datapath.add_flow(long, NOW // 1_000_000)
    other.flow("table=2,actions=1")
    assert watch.told() == ["added 2"]
    switch.datapath.expire_flows(NOW // 1_000_000 + 60_000)
    assert len(switch.flows()) == 1


def test_a_connection_that_goes_takes_its_monitors_along(service: Service) -> None:
    other, watch = Watch(service), Watch(service)
    watch.watch()
    service.detach(watch.connection)
    other.flow("table=1,actions=1")
    assert service._bridge.datapath.rules.on_change is None


def test_there_is_a_limit(service: Service) -> None:
    watch = Watch(service)
    for number in range(flow_monitors.MAX_MONITORS + 1):
        watch.watch(number)
    assert watch.told() == ["error 1,5"]


# --- what is told adds up ---------------------------------------------------------------------------------------------

flows = st.builds(
    lambda table, match, actions: f"table={table},{match},actions={actions}",
    st.integers(1, 2),
    st.sampled_from(("tcp", "udp", "ip,priority=9", "reg0=1")),
    st.sampled_from(("1", "2", "drop", "conjunction(1,1/2)")),
)
changes = st.one_of(
    st.tuples(st.just("add"), flows),
    st.tuples(st.sampled_from(("mod", "mod_strict")), flows),
    st.tuples(st.just("del"), st.sampled_from(("table=1", "table=2,tcp", "ip", "udp", "table=1,reg0=1"))),
    st.tuples(st.sampled_from(("congest", "read")), st.just("")),
    st.tuples(st.sampled_from(("bundle", "failing bundle")), st.lists(flows, max_size=4).map("\n".join)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, max_size=25), st.booleans())
def test_what_a_monitor_is_told_adds_up_to_the_table(steps: list[tuple[str, str]], alone: bool) -> None:
    switch = Switch(max_connections=100)
    service = Service(switch, started_ns=NOW)
    other, watch = Watch(service), Watch(service)
    told: list[object] = []
    watch.connection.notify = told.append  # type: ignore[method-assign]
    seen: dict[tuple[object, ...], F.Flow] = {}
    other.flow("table=1,tcp,actions=1")
    reply = service._monitors.change(watch.connection, (monitor.Monitor(1, F.Flow(table=0xFF), EVERYTHING),))
    told.append(reply)
    for what, text in steps:
        if what == "congest":
            watch.connection.congested = True
        elif what == "read":
            watch.connection.congested = False
            service.resume_monitors(watch.connection)
        elif what.endswith("bundle"):
            mods = [flow_mod(parse_flow(each), 5) for each in text.splitlines()]
            mods.append(flow_mod(parse_flow("table=1,tcp", command="del_strict"), 5, "del_strict"))
            if what.startswith("failing"):
                mods.append(flow_mod(parse_flow("table=2,actions=group:7"), 5))
            for data in (control(5, 0), *(add(5, mod) for mod in mods), control(5, 4)):
                (watch if alone else other).carry_out(data)
        else:
            (watch if alone else other).flow(text, what)
    watch.connection.congested = False
    service.resume_monitors(watch.connection)
    for message_ in told:
        if not isinstance(message_, monitor.MonitorReply):
            continue
        for update in message_.updates:
            flow = update.flow
            assert flow is not None
            key = flow.table, flow.priority, flow.match
            assert (key in seen) >= (update.event in ("modified", "deleted")), update
            if update.event == "deleted":
                del seen[key]
            else:
                seen[key] = flow
    assert {key: flow.actions for key, flow in seen.items()} == {
        (line.flow.table, line.flow.priority, line.flow.match): line.flow.actions for line in switch.flows()
    }
    assert not watch.connection.paused


# --- with the tool ----------------------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "run")
    try:
        yield running
    finally:
        running.close()


SAID = """\
event=WORD table=0 cookie=0x5 in_port=1 actions=output:2
event=WORD table=1 cookie=0 tcp
event=ADDED table=0 idle_timeout=9 hard_timeout=11 cookie=0x1 in_port=2 actions=output:1
event=ADDED table=0 cookie=0x6 in_port=1 actions=output:1
event=MODIFIED table=0 idle_timeout=9 hard_timeout=11 cookie=COOKIE in_port=2 actions=output:2
event=ADDED table=0 cookie=0 in_port=3 actions=output:1
event=DELETED reason=delete table=0 cookie=0x6 in_port=1 actions=output:1
event=DELETED reason=delete table=0 idle_timeout=9 hard_timeout=11 cookie=COOKIE in_port=2 actions=output:2
event=DELETED reason=delete table=1 cookie=0 tcp
"""
"""As a real Open vSwitch 3.1 has it said for the changes below."""


@needs_ofctl
@pytest.mark.parametrize("version", ["10", "13", "14", "15"])
def test_the_tool_says_what_it_says_for_a_real_switch(running: Running, version: str) -> None:
    assert OVS_OFCTL is not None
    of = f"-OOpenFlow{version}"
    running.ofctl(of, "add-flow", "in_port=1,cookie=5,actions=2")
    running.ofctl(of, "add-flow", "table=1,priority=7,tcp,actions=drop")
    process = subprocess.Popen(
        [OVS_OFCTL, of, "monitor", f"unix:{running.path}", "watch:"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
    )  # fmt: skip
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        said: list[str] = []

        def read_until(n_lines: int) -> None:
            while len(said) < n_lines:
                line = process.stdout.readline()  # type: ignore[union-attr]
                assert line, said
                if "event=" in line:
                    said.append(line.strip())

        read_until(2)
        running.ofctl(of, "add-flow", "in_port=2,cookie=1,idle_timeout=9,hard_timeout=11,actions=1")
        running.ofctl(of, "add-flow", "in_port=1,cookie=6,actions=1")
        running.ofctl(of, "mod-flows", "in_port=2,cookie=77,actions=2")
        running.ofctl(of, "--bundle", "add-flows", "-", text="in_port=3,actions=1\ndelete in_port=1\n")
        running.ofctl(of, "del-flows", "in_port=2")
        running.ofctl(of, "del-flows", "table=1,tcp")
        read_until(9)
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait(10)
        process.stdout.close()
    word = "INITIAL" if version in ("14", "15") else "ADDED"
    cookie = "0x4d" if version == "10" else "0x1"
    assert said == SAID.replace("WORD", word).replace("COOKIE", cookie).splitlines()
    assert not re.search("MonitorReply", "".join(said))

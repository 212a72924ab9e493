"""Flows that one process leaves in the kernel, and another one takes over: without devices, in one process."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from flowshunt.app import Switch
from flowshunt.base import bpf
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.holding import Holding
from flowshunt.daemon import snapshot
from flowshunt.daemon.adoption import Adoption
from flowshunt.daemon.kernel import KernelPorts
from flowshunt.daemon.node import Node
from flowshunt.daemon.ports import open_dummy
from flowshunt.offload.providers.kernel.pinned import LeftBehind
from flowshunt.offload.providers.kernel.ports import EveryPort
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.offload.registry import Settings
from tests.builders import Packet, batch_of
from tests.offload.kernel.rights import needs_bpf

pytestmark = needs_bpf

NOW_MS = 1_700_000_000_000
TRANSLATED = "192.0.2.7"
ONE_ZONE = f"""\
table=0,ip,actions=ct(zone=5,nat,table=1)
table=1,in_port=1,ct_state=+new,ip,actions=ct(commit,zone=5,nat(src={TRANSLATED}),exec(set_field:7->ct_mark,\
set_field:0x1234->ct_label)),output:2
table=1,in_port=1,ct_state=+est,actions=output:2
table=1,in_port=2,ct_state=+est,actions=output:1
"""
TWO_ZONES = f"""\
table=0,in_port=1,ip,actions=ct(zone=5,nat,table=1)
table=0,in_port=2,ip,actions=ct(zone=6,table=2)
table=1,in_port=1,ct_state=+new,ip,actions=ct(commit,zone=5,nat(src={TRANSLATED})),ct(zone=6,table=2)
table=1,in_port=1,ct_state=+est,actions=ct(zone=6,table=2)
table=1,in_port=2,actions=output:1
table=2,in_port=1,ct_state=+new,ip,actions=ct(commit,zone=6),output:2
table=2,in_port=1,ct_state=+est,actions=output:2
table=2,in_port=2,ct_state=+est,ip,actions=ct(zone=5,nat,table=1)
"""


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "bpf"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "bpf", "bpf", str(folder)], check=False).returncode:
        pytest.skip("needs to mount a BPF file system")
    yield str(folder)
    subprocess.run(["umount", str(folder)], check=True)


class Process:
    """A switch with the provider, whose flows outlive it."""

    def __init__(self, rules: str, pins: str, profile: str = "default") -> None:
        self.switch = Switch(profile)
        for name in ("p1", "p2"):
            self.switch.add_port(name)
        self.switch.add_flows(rules)
        self.kernel = Kernel(EveryPort(), limit=64)
        self.switch.offload.register(self.kernel)
        self.kernel.set_options({"hitless": "true", "pins": pins})
        self.kernel.flows.describe = partial(self.switch.offload.describe, Holding(self.switch.tracker))
        self.switch.offload.configure(Settings(True, ("kernel",)))
        self.pins = pins

    def talk(self, times: int = 1) -> None:
        """A TCP connection from port 1 to port 2; with the last packet of the first round it is offloaded."""
        ends = ("10.0.0.1", "10.0.0.2", 1000, 80), ("10.0.0.2", TRANSLATED, 80, 1000)
        segments = [(0, {"syn": True, "seq": 100}), (1, {"syn": True, "ack": 101, "seq": 500})]
        segments += [(0, {"ack": 501, "seq": 101}), (1, {"ack": 101, "seq": 501})] * times
        for n, (d, flags) in enumerate(segments):
            source, destination, *ports = ends[d]
            packet = Packet().eth().ipv4(source, destination).tcp(*ports, **flags)
            batch = batch_of([packet], in_port=1 + d, time_ns=(NOW_MS + n) * 1_000_000)
            assert len(self.switch.process(batch).tx) == 1

    def connections(self) -> list[Connection]:
        found = self.switch.tracker.connections(NOW_MS + 100)
        return sorted(found, key=lambda connection: connection.zone)

    def end(self) -> None:
        """As if killed."""
        self.kernel.forget_others()
        self.kernel.close(keep=True)

    def take_over(
        self,
        now_ms: int = NOW_MS + 100,
        entries: list[snapshot.Entry] | None = None,
        left: LeftBehind | None = None,
    ) -> Adoption:
        tracker, offload = self.switch.tracker, self.switch.offload
        adoption = Adoption(left or LeftBehind(self.pins), tracker, offload, self.kernel, now_ms)
        adoption.rebuild(announced=False)
        if entries is not None:
            assert snapshot.put_back(tracker, entries, now_ms) == []
        adoption.rebuild(announced=True)
        snapshot.look_anew(tracker)
        adoption.install()
        adoption.settle()
        return adoption


def same(connection: Connection) -> tuple[object, ...]:
    """What must not change by a restart."""
    return (
        connection.original, connection.reply, connection.zone, connection.mark, connection.label, connection.nat,
        connection.states, connection.start_ms, connection.wscale, connection.offload, connection.packets,
        connection.bytes, connection.in_port, connection.seen_reply,
    )  # fmt: skip


@pytest.mark.parametrize(("rules", "n"), [(ONE_ZONE, 1), (TWO_ZONES, 2)])
@pytest.mark.parametrize("profile", ["default", "linux"])
def test_connections_are_rebuilt_from_flows_and_go_on(rules: str, n: int, profile: str, pins: str) -> None:
    before = Process(rules, pins, profile)
    before.talk()
    was = before.connections()
    assert [connection.offload for connection in was] == ["OFFLOAD"] * n
    before.end()
    after = Process(rules, pins, profile)
    assert after.take_over().n_rebuilt == n
    now = after.connections()
    assert [same(one) for one in now] == [same(one) for one in was]
    rows = np.array([min(connection.id for connection in now)])
    generations = np.array([connection.generation for connection in now if connection.id == rows[0]])
    epoch = after.switch.datapath.paths.epoch
    assert after.kernel.is_forwarding(rows, generations, epoch).all()
    after.kernel.handed_back(NOW_MS + 200)
    assert not after.kernel.is_forwarding(rows, generations, epoch).any(), "it should be looked at again"
    after.talk(2)
    assert after.kernel.is_forwarding(rows, generations, epoch).all()
    (overview,) = (one for one in after.switch.offload.overview() if one.name == "kernel")
    assert overview.counters["renewed"] > 0
    assert overview.counters["withdrawn"] == 0
    after.kernel.close()


def test_what_passed_meanwhile_is_counted_and_keeps_a_connection_alive(pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    before.talk()
    (was,) = before.connections()
    assert before.kernel.objects is not None
    states = before.kernel.objects.states
    states["packets"][states["epoch"] != 0] += 5
    states["bytes"][states["epoch"] != 0] += 500
    before.end()
    after = Process(ONE_ZONE, pins)
    after.take_over()
    (now,) = after.connections()
    assert [b - a for a, b in zip(was.packets, now.packets, strict=True)] == [5, 5]
    assert [b - a for a, b in zip(was.bytes, now.bytes, strict=True)] == [500, 500]
    after.kernel.close()


def test_silence_goes_on_and_ends_what_has_expired(pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    before.talk()
    (was,) = before.connections()
    assert before.kernel.objects is not None
    before.kernel.objects.states["last_used_ns"] -= np.uint64(60_000_000_000)
    before.end()
    after = Process(ONE_ZONE, pins)
    after.take_over()
    (now,) = after.connections()
    limit_ms = int(Holding(after.switch.tracker).idle_limits(*Holding(after.switch.tracker).everyone())[0])
    assert limit_ms - 70_000 < now.timeout_ms < limit_ms - 55_000 < was.timeout_ms
    after.kernel.forget_others()
    assert after.kernel.objects is not None
    after.kernel.objects.states["last_used_ns"] -= np.uint64(1_000_000 * limit_ms)
    after.end()
    last = Process(ONE_ZONE, pins)
    assert last.take_over().n_rebuilt == 0
    assert last.connections() == []
    last.kernel.close()


@pytest.mark.parametrize("is_written", [True, False])
def test_what_a_helper_announced_comes_from_what_was_written_if_it_can(is_written: bool, pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    describe = before.kernel.flows.describe
    assert describe is not None

    def announced(flows: np.ndarray):
        described = describe(flows)
        described.connections[0]["ext"]["parent_row"] = 3
        return described

    before.kernel.flows.describe = announced
    before.talk()
    (was,) = before.connections()
    entries = list(enumerate(before.switch.tracker.connections(NOW_MS + 100))) if is_written else None
    before.end()
    after = Process(ONE_ZONE, pins)
    assert after.take_over(entries=entries).n_rebuilt == 1
    (now,) = after.connections()
    assert now.parent is None
    assert (now.original, now.reply, now.offload) == (was.original, was.reply, "OFFLOAD")
    after.kernel.close()


@pytest.mark.parametrize(("field", "value"), [("peer", 99), ("state", 200), ("tuple", 1 << 8)])
def test_nonsense_is_left_out(field: str, value: int, pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    describe = before.kernel.flows.describe
    assert describe is not None

    def spoilt(flows: np.ndarray):
        described = describe(flows)
        described.connections[0]["connection"][field] = value
        return described

    before.kernel.flows.describe = spoilt
    before.talk()
    before.end()
    after = Process(ONE_ZONE, pins)
    assert after.take_over().n_rebuilt == 0
    after.kernel.close()


def test_a_flow_of_more_zones_than_there_can_be_is_left_out(pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    before.talk()
    before.end()
    left = LeftBehind(pins)
    left.notes["flow"]["n_zones"] = 200
    after = Process(ONE_ZONE, pins)
    assert after.take_over(left=left).n_rebuilt == 0
    assert after.connections() == []
    after.kernel.close()


def test_another_profile_or_version_is_refused(pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    before.talk()
    before.end()
    other = Process(ONE_ZONE, pins, "linux")
    assert other.take_over().n_rebuilt == 0
    assert other.connections() == []
    other.kernel.close()
    (link,) = (path for path in Path(pins).iterdir() if path.is_symlink())
    for flows in link.glob("flows-*"):
        flows.rename(flows.with_name("flows-9-and-so-on"))
    with pytest.raises(OSError, match="flows-9-and-so-on, of another version"):
        LeftBehind(pins)


def test_maps_of_other_sizes_are_refused(pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    before.talk()
    before.end()
    (link,) = (path for path in Path(pins).iterdir() if path.is_symlink())
    (leaders,) = link.glob("leaders-*")
    leaders.unlink()
    os.rename(link / "states", leaders)
    with pytest.raises(OSError, match="is another map"):
        LeftBehind(pins)


def test_nothing_is_left_by_a_process_that_forgets(pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    before.talk()
    before.kernel.forget_others()
    before.kernel.close()
    assert [path.name for path in Path(pins).iterdir() if path.name.startswith("maps-")] == []
    with pytest.raises(FileNotFoundError):
        LeftBehind(pins)


def test_a_flow_whose_place_is_taken_is_not_left_behind(pins: str) -> None:
    process = Process(ONE_ZONE, pins)
    seen: list[np.ndarray] = []
    install = process.kernel.install
    process.kernel.install = lambda flows: (install(flows), seen.append(flows.copy()))[0]  # type: ignore[method-assign]
    process.talk()
    (first,) = seen
    second = first.copy()
    second["rows"] += 1
    second["paths"]["tuple"] ^= 1 << 48 | 1 << 32
    install(second)
    assert second["error"].tolist() == [0]
    taken = first.copy()
    taken["paths"] = second["paths"]
    install(taken)
    assert taken["error"].tolist() == [errno.EEXIST]
    process.kernel.forget_others()
    left = LeftBehind(pins)
    assert left.notes["flow"]["paths"]["tuple"].tolist() == second["paths"]["tuple"].tolist()
    process.kernel.close()


def test_flows_are_looked_at_again_a_few_at_a_time_from_the_first_on(pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    before.talk()
    before.end()
    after = Process(ONE_ZONE, pins)
    after.take_over()
    waiting = after.kernel.flows._unchecked = np.zeros(1000, np.int64)
    now_ms = NOW_MS + 100
    after.kernel.handed_back(now_ms)
    assert 0 < len(waiting) - len(after.kernel.flows._unchecked) <= 40
    after.kernel.close()


def test_what_is_missing_is_told(pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    before.talk()
    before.end()
    (link,) = (path for path in Path(pins).iterdir() if path.is_symlink())
    (link / "states").unlink()
    with pytest.raises(OSError, match="states is missing"):
        before.kernel.left_behind()


def test_options_that_the_kernel_refuses_change_nothing(pins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(EveryPort(), limit=64)
    kernel.set_options({"limit": "64"})
    kernel.init()
    with monkeypatch.context() as patch:

        def refuse(*arguments: object, **more: object) -> int:
            raise OSError(errno.ENOMEM, "no memory")

        patch.setattr(bpf, "create_map", refuse)
        with pytest.raises(OSError, match="no memory"):
            kernel.set_options({"limit": "64", "timeout": "5", "hitless": "true", "pins": pins})
    assert (kernel.options.is_hitless, kernel.options.timeout_ms) == (False, 30_000)
    kernel.set_options({"limit": "64", "hitless": "true", "pins": pins})
    kernel.forget_others()
    assert len(LeftBehind(pins)) == 0
    kernel.close()


class Waiting:
    """A receiver that waits for rules."""

    is_holding = True

    def soon(self, function: Callable[[], None]) -> None:
        """Never."""


@pytest.mark.parametrize("ending", ["off", "leaving nothing", "leaving"])
def test_what_waits_to_be_taken_over_goes_when_nothing_is_to_go_on(ending: str, pins: str) -> None:
    before = Process(ONE_ZONE, pins)
    before.talk()
    before.end()
    switch = Switch()
    ports = KernelPorts(switch.offload, Holding(switch.tracker), {}, Waiting())  # type: ignore[arg-type]
    on = {"hw-offload": "true", "hw-offload-priority": "kernel", "kernel-limit": "64"}
    on |= {"kernel-hitless": "true", "kernel-pins": pins}
    switch.configure_offload(on)
    ports.follow()
    assert len(LeftBehind(pins)) == 1
    if ending == "off":
        switch.configure_offload(on | {"hw-offload": "false"})
        ports.follow()
    else:
        ports.leave(keep=ending == "leaving")
    is_left = [path for path in Path(pins).iterdir() if path.is_symlink() and path.name.startswith("maps-")] != []
    assert is_left == (ending == "leaving")
    switch.offload.close()


@pytest.mark.parametrize("hitless", ["true", "false"])
def test_a_start_without_offload_ends_what_its_own_options_name(hitless: str, pins: str, tmp_path: Path) -> None:
    before = Process(ONE_ZONE, pins)
    before.talk()
    before.end()
    node = Node(tmp_path, open_port=open_dummy)
    node.configure_offload({"hw-offload": "false", "kernel-hitless": hitless, "kernel-pins": pins})
    is_left = any(path.is_symlink() and path.name.startswith("maps-") for path in Path(pins).iterdir())
    assert is_left == (hitless == "false")
    node.core.offload.close()

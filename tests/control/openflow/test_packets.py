"""Packets to and from real controllers: ovs-ofctl monitor and packet-out."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowshunt.control.openflow.connection import Connection
from flowshunt.control.openflow.packets import FORM_STANDARD
from flowshunt.datapath.schema import SOURCE_BATCH
from flowshunt.datapath.tables import Result
from flowshunt.packet.schema import Batch
from flowshunt.rules.openflow.executor import MAX_PAUSE_MS, MAX_PAUSED
from tests.builders import Packet, batch_of
from tests.control.openflow.test_server import OVS_OFCTL, Running, needs_ofctl
from tests.datapath.switches import Sent, udp


def is_listening(connection: Connection) -> bool:
    """Whether a monitor has said all that it has to say: the form of packets comes last."""
    return bool(connection.miss_send_len) and connection.packet_in_form != FORM_STANDARD


class Monitor:
    """A running `ovs-ofctl monitor`."""

    def __init__(self, running: Running, *arguments: str) -> None:
        assert OVS_OFCTL is not None
        options = [argument for argument in arguments if argument.startswith("-")]
        rest = [argument for argument in arguments if argument not in options]
        self._running = running
        before = set(running.service.connections)
        self._process = subprocess.Popen(
            [OVS_OFCTL, *options, "monitor", f"unix:{running.path}", *rest],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
            env=os.environ | {"OVS_RUNDIR": str(running.path.parent)},
        )  # fmt: skip
        until = time.monotonic() + 10
        while not any(is_listening(c) for c in set(running.service.connections) - before):
            assert time.monotonic() < until, "the monitor does not ask for packets"
            time.sleep(0.01)

    def next(self) -> str:
        """The next packet-in, header and packet."""
        lines: list[str] = []
        while len(lines) < 2:
            line = self._read_line()
            assert line, "the monitor has ended"
            if lines or "PACKET_IN" in line:
                lines.append(line.strip())
        return "\n".join(lines)

    def _read_line(self) -> str:
        """A line of what it says; ends the monitor when it says nothing for long."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(30, self._process.kill)
        watchdog.start()
        try:
            return self._process.stdout.readline()
        finally:
            watchdog.cancel()

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)


class Bench:
    """A running switch, and what leaves it by packet-outs."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.sent: list[Sent] = []
        running.switch.on_output = self._keep
        self.monitors: list[Monitor] = []

    def _keep(self, result: Result, batch: Batch) -> None:
        for frame in result.tx:
            source = batch.data if frame["source"] == SOURCE_BATCH else result.tx_data
            at = int(frame["data"])
            self.sent.append(Sent(int(frame["port"]), source[at : at + int(frame["length"])].tobytes()))

    def monitor(self, *arguments: str) -> Monitor:
        self.monitors.append(Monitor(self.running, *arguments))
        return self.monitors[-1]

    def receive(self, packet: Packet, in_port: int = 1) -> None:
        def work() -> None:
            now = self.running.server.clock.now_ns()
            self.running.switch.process(batch_of([packet], in_port=in_port, time_ns=now))
            self.running.server.flush_events()

        self.running.do(work)


@pytest.fixture
def bench(running: Running) -> Iterator[Bench]:
    bench = Bench(running)
    try:
        yield bench
    finally:
        for monitor in bench.monitors:
            monitor.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "run")
    try:
        yield running
    finally:
        running.close()


@needs_ofctl
def test_a_packet_whose_ttl_is_used_up_goes_to_those_that_ask_for_it(bench: Bench) -> None:
    bench.running.ofctl("add-flow", "cookie=7,ip,actions=dec_ttl(0,9),output:2")
    monitor = bench.monitor("65534", "invalid_ttl")
    for ttl in (9, 1):
        bench.receive(Packet().eth().ipv4("10.0.0.1", "10.0.0.2", ttl=ttl).udp(1, 2).payload(b"hello"))
    said = monitor.next()
    assert "cookie=0x7" in said and "(via invalid_ttl)" in said and "nw_ttl=1" in said
    assert [line for line in bench.running.flows() if "dec_ttl(0,9),output:2" in line]


@needs_ofctl
def test_a_monitor_sees_packets_with_their_tracking_state_and_registers(bench: Bench) -> None:
    bench.running.ofctl("add-flows", "-", text=(
        "udp,in_port=1,actions=ct(commit),controller\n"
        "udp,in_port=2,actions=ct(table=1)\n"
        "table=1,cookie=0x7,ct_state=+trk,udp,actions=set_field:5->reg3,controller\n"
    ))  # fmt: skip
    monitor = bench.monitor("65534", "-Pnxt_packet_in")
    bench.receive(udp())
    assert re.search(r"cookie=0x0 total_len=47 in_port=1 \(via action\) data_len=47 \(unbuffered\)", monitor.next())
    bench.receive(udp("10.0.0.2", "10.0.0.1", 2000, 1000), in_port=2)
    said = monitor.next()
    assert (
        "table_id=1 cookie=0x7 total_len=47 ct_state=est|rpl|trk,ct_nw_src=10.0.0.1,ct_nw_dst=10.0.0.2,"
        "ct_nw_proto=17,ct_tp_src=1000,ct_tp_dst=2000,ip,reg3=0x5,in_port=2 (via action) data_len=47" in said
    )
    assert "nw_src=10.0.0.2,nw_dst=10.0.0.1" in said


@needs_ofctl
@pytest.mark.parametrize(
    "options", [(), ("-OOpenFlow13",), ("-OOpenFlow14",), ("-OOpenFlow15",), ("-Pnxt_packet_in2",)]
)
def test_every_form_of_packet_in_is_understood(bench: Bench, options: tuple[str, ...]) -> None:
    bench.running.ofctl("add-flow", "priority=0,actions=CONTROLLER:65535,mod_dl_dst:00:00:00:00:00:09,controller(id=0)")
    monitor = bench.monitor("65534", *options)
    bench.receive(udp())
    reason = "no_match" if options and "-O" in options[0] else "action"
    first = monitor.next()
    assert f"in_port=1 (via {reason}) data_len=47 (unbuffered)" in first
    assert "dl_dst=00:00:00:00:00:09" in monitor.next()


@needs_ofctl
def test_userdata_and_controller_numbers_choose_who_hears_what(bench: Bench) -> None:
    bench.running.ofctl("add-flow", "actions=controller(userdata=01.02.03,reason=no_match),controller(id=7)")
    monitor = bench.monitor("65534", "-Pnxt_packet_in2")
    for _ in range(2):
        bench.receive(udp())
        assert "userdata=01.02.03" in monitor.next()


@needs_ofctl
@pytest.mark.parametrize("options", [(), ("-OOpenFlow13",), ("-OOpenFlow15",)])
def test_packet_outs_run_any_actions(bench: Bench, options: tuple[str, ...]) -> None:
    bench.running.ofctl("add-flows", "-", text=(
        "ip,ct_state=-trk,actions=ct(commit,table=1)\n"
        "table=1,ip,ct_state=+new,actions=IN_PORT\n"
        "table=1,ip,ct_state=+est,actions=2\n"
    ))  # fmt: skip
    frame = udp().bytes()
    out = f"packet={frame.hex()} actions=%s"
    bench.running.ofctl(*options, "packet-out", f"in_port=1 {out % 'output:2,mod_dl_src:00:00:00:00:00:05,LOCAL'}")
    changed = frame[:6] + bytes(5) + b"\x05" + frame[12:]
    assert bench.sent == [Sent(2, frame), Sent(0xFFFE, changed)]
    bench.sent.clear()
    bench.running.ofctl(*options, "packet-out", f"in_port=1 {out % 'resubmit(,0)'}")
    reply = udp("10.0.0.2", "10.0.0.1", 2000, 1000).bytes()
    bench.running.ofctl(*options, "packet-out", f"in_port=2 packet={reply.hex()} actions=ct(table=1)")
    bench.running.ofctl(*options, "packet-out", f"in_port=1 packet={reply.hex()} actions=table")
    assert [sent.port for sent in bench.sent] == [1, 2]
    assert bench.running.switch.datapath.statistics()["resubmits"] >= 0
    assert len(bench.running.switch.tracker) == 1


@needs_ofctl
@pytest.mark.parametrize("in_port", ["controller", "none"])
def test_packet_outs_from_no_port_are_forwarded_as_any_switch_does(bench: Bench, in_port: str) -> None:
    frame = udp().bytes().hex()
    bench.running.ofctl("packet-out", f"in_port={in_port} packet={frame} actions=normal")
    assert sorted(sent.port for sent in bench.sent) == [1, 2, 0xFFFE]


@needs_ofctl
def test_packet_outs_from_the_controller_can_come_back_to_it(bench: Bench) -> None:
    monitor = bench.monitor("65534", "-Pnxt_packet_in2")
    frame = udp().bytes().hex()
    bench.running.ofctl("packet-out", f"in_port=controller packet={frame} actions=controller")
    said = monitor.next()
    assert "total_len=47 in_port=CONTROLLER (via action) data_len=47" in said


def test_what_no_controller_hears_costs_nothing_but_the_punt(bench: Bench) -> None:
    bench.running.switch.add_flows("actions=controller,2")
    bench.receive(udp())
    assert bench.running.switch.statistics()["punted"] == 1
    assert bench.running.switch.statistics()["handler-errors"] == 0


@needs_ofctl
def test_what_no_flow_matches_goes_to_a_controller_of_an_old_version(bench: Bench) -> None:
    bench.running.ofctl("add-flow", "table=1,arp,actions=drop")
    bench.receive(udp())
    monitor = bench.monitor("65534")
    bench.receive(udp("10.0.0.7"))
    said = monitor.next()
    assert "cookie=0x0" in said or "cookie" not in said
    assert "in_port=1 (via no_match) data_len=47" in said and "nw_src=10.0.0.7" in said
    new = bench.monitor("65534", "-OOpenFlow13")
    bench.receive(udp("10.0.0.8"))
    assert "(via no_match)" in new.next()  # the old one asks for it


@needs_ofctl
def test_a_paused_packet_goes_on_where_it_stopped(bench: Bench) -> None:
    bench.running.ofctl("add-flows", "-", text=(
        "udp,actions=set_field:5->reg3,push:NXM_NX_REG3[],clone(resubmit(,1),output:2),LOCAL\n"
        "table=1,actions=mod_dl_src:00:00:00:00:00:07,controller(pause,userdata=01),pop:NXM_NX_REG4[],resubmit(,2)\n"
        "table=2,reg3=5,reg4=5,actions=1\n"
    ))  # fmt: skip
    monitor = bench.monitor("65534", "resume", "-Pnxt_packet_in2")
    bench.receive(udp(), in_port=9)
    assert "userdata=01" in monitor.next()
    until = time.monotonic() + 10
    while len(bench.sent) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    frame = udp().bytes()
    changed = frame[:6] + bytes(5) + b"\x07" + frame[12:]
    assert bench.sent == [Sent(1, changed), Sent(2, changed), Sent(0xFFFE, frame)]
    assert bench.running.switch.datapath.rules.linker._pins == 0


def test_a_packet_that_nobody_lets_go_on_is_given_up_and_keeps_nothing(bench: Bench) -> None:
    switch = bench.running.switch
    switch.add_flows("actions=controller(pause),2")
    seen: list[bytes] = []
    switch.executor.to_controllers = lambda packet: seen.append(packet.continuation)
    bench.receive(udp())
    now_ns = bench.running.server.clock.now_ns()
    switch.expire_flows(now_ns // 1_000_000)
    linker = switch.datapath.rules.linker
    switch.del_flows("")
    assert (linker._pins, len(linker._limbo), len(list(linker.handled_actions()))) == (1, 1, 1)
    switch.expire_flows(now_ns // 1_000_000 + MAX_PAUSE_MS)
    assert (linker._pins, len(linker._limbo), len(list(linker.handled_actions()))) == (0, 0, 0)
    assert switch.executor.n_given_up == 1
    assert not switch.resume(seen[0], udp().bytes(), now_ns)


def test_too_many_paused_packets_are_given_up_oldest_first(bench: Bench) -> None:
    switch = bench.running.switch
    switch.add_flows("actions=controller(pause),2")
    seen: list[bytes] = []
    switch.executor.to_controllers = lambda packet: seen.append(packet.continuation)
    for _ in range(MAX_PAUSED + 3):
        bench.receive(udp())
    assert len(set(seen)) == MAX_PAUSED + 3
    assert switch.executor.n_given_up == 3
    now = bench.running.server.clock.now_ns()
    frame = udp().bytes()
    tokens = (seen[0], seen[3], seen[3], b"")
    assert [switch.resume(token, frame, now) for token in tokens] == [False, True, False, False]
    switch.del_flows("")
    assert switch.resume(seen[-1], frame, now)
    assert bench.sent == [Sent(2, frame)] * 2

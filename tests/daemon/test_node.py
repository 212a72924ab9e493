"""A node with ports in memory, and the real ovs-ofctl beside it."""

from __future__ import annotations

import asyncio
import shutil
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowshunt.base.errors import UsageError
from flowshunt.daemon import Bridge, Node, PortInfo
from flowshunt.daemon import ports as daemon_ports
from flowshunt.daemon.node import MAX_DELIVERIES
from flowshunt.daemon.ports import open_dummy
from flowshunt.ports.api import PortError
from flowshunt.ports.live import plain
from flowshunt.ports.recorder import Recording
from tests.builders import Packet, batch_of
from tests.builders.packets import CLIENT_MAC, SERVER_MAC

OVS_OFCTL = shutil.which("ovs-ofctl")
needs_ofctl = pytest.mark.skipif(OVS_OFCTL is None, reason="needs ovs-ofctl (Debian: openvswitch-common)")
PING = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1000, 2000).payload(b"hello").bytes()


def run(work: Callable[[Node], Any], directory: Path) -> Any:
    """Run a coroutine function with a node that is ended afterwards."""

    async def whole() -> Any:
        directory.chmod(0o700)
        node = Node(directory, open_port=open_dummy)
        await node.start()
        try:
            return await work(node)
        finally:
            await node.stop()

    return asyncio.run(whole())


async def add_bridge(node: Node, name: str, *ports: str) -> Bridge:
    bridge = await node.call(lambda: node.add_bridge(name))
    for port in ports:
        await node.call(lambda port=port: bridge.add_port(port, "dummy"))
    await node.settled()
    return bridge


async def ofctl(bridge: Bridge, command: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    assert OVS_OFCTL is not None
    target = f"unix:{bridge.management_path}"
    process = await asyncio.create_subprocess_exec(
        OVS_OFCTL, *options, command, target, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_a_ports_mtu_is_followed_for_paths(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        bridge = await add_bridge(node, "br0", "p0")

        def mtu() -> int:
            ports = bridge.switch.datapath.ports.arrays
            return int(ports.ports["mtu"][ports.index[1]])

        assert await node.call(mtu) == 1500
        bridge.ports["p0"].mtu = 9000
        await node.call(lambda: bridge.port_changed("p0"))
        assert await node.call(mtu) == 9000

    run(work, tmp_path)


def test_a_port_is_recorded_as_long_as_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "p1.pcap"

    async def work(node: Node) -> None:
        bridge = await add_bridge(node, "br0", "p0", "p1")
        await node.call(lambda: bridge.switch.add_flows("actions=normal"))
        await node.call(lambda: bridge.record("p1", Recording(str(file), str(file), 24 + 2 * (16 + len(PING)))))
        for port in ("p0", "p1", "p0"):
            await node.call(lambda port=port: bridge.inject(port, PING))
        info = await node.call(lambda: bridge.port_info("p1"))
        assert info.statistics["pcap_left_out"] == 1
        assert file.stat().st_size == 24 + 2 * (16 + len(PING))
        with pytest.raises(PortError, match="cannot be written"):
            await node.call(lambda: bridge.record("p0", Recording(str(tmp_path))))
        await node.call(lambda: bridge.del_port("p1"))
        await node.call(lambda: bridge.add_port("p1", "dummy"))
        info = await node.call(lambda: bridge.port_info("p1"))
        assert "pcap_left_out" not in info.statistics

    run(work, tmp_path)


@needs_ofctl
def test_of_packets_that_come_together_each_is_treated_as_its_port_is(tmp_path: Path) -> None:
    file = tmp_path / "p1.pcap"

    async def work(node: Node) -> None:
        bridge = await add_bridge(node, "br0", "p0", "p1", "p2")
        await node.call(lambda: bridge.switch.add_flows("in_port=p0,actions=p2\nin_port=p1,actions=p2"))
        await node.call(lambda: bridge.record("p1", Recording(str(file))))
        batch = batch_of([PING, ANSWER, ANSWER])
        batch.packets["in_port"] = 1, 2, 1
        await node.call(lambda: node.forward(bridge, plain(batch)))
        sent = await node.call(lambda: bridge.transmitted("p2"))
        assert [each.frame for each in sent] == [PING, ANSWER, ANSWER]
        assert file.stat().st_size == 24 + 16 + len(ANSWER)
        await ofctl(bridge, "mod-port", "p0", "no-receive")
        await node.call(lambda: node.forward(bridge, plain(batch)))
        sent = await node.call(lambda: bridge.transmitted("p2"))
        assert [each.frame for each in sent] == [ANSWER]

    run(work, tmp_path)


def test_a_frame_goes_from_one_dummy_port_to_the_others(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        bridge = await add_bridge(node, "br0", "p0", "p1")
        await node.call(lambda: bridge.switch.add_flows("actions=normal"))
        await node.call(lambda: bridge.inject("p0", PING))
        sent = await node.call(lambda: [bridge.transmitted(name) for name in ("br0", "p0", "p1")])
        assert [[each.frame for each in frames] for frames in sent] == [[PING], [], [PING]]
        info = await node.call(lambda: bridge.port_info("p0"))
        assert (info.ofport, info.error, info.statistics["rx_packets"]) == (1, None, 1)

    run(work, tmp_path)


def test_a_patch_port_leads_into_the_other_bridge_with_its_own_tables(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        one, two = await add_bridge(node, "br0", "p0"), await add_bridge(node, "br1", "p1")
        await node.call(lambda: one.add_port("to1", "patch", options={"peer": "to0"}))
        await node.call(lambda: one.switch.add_flows("in_port=p0,ip,actions=ct(commit),output:to1"))
        await node.call(lambda: two.switch.add_flows("ip,ct_state=-trk,actions=mod_nw_dst:10.0.0.9,p1"))
        await node.call(lambda: one.inject("p0", PING))
        info = await node.call(lambda: one.port_info("to1"))
        assert info.statistics["tx_dropped"] == 1
        await node.call(lambda: two.add_port("to0", "patch", options={"peer": "to1"}))
        await node.call(lambda: one.inject("p0", PING))
        (sent,) = await node.call(lambda: two.transmitted("p1"))
        assert sent.frame[30:34] == bytes([10, 0, 0, 9])

    run(work, tmp_path)


ANSWER = Packet().eth(SERVER_MAC, CLIENT_MAC).ipv4("10.0.0.2", "10.0.0.1").udp(2000, 1000).bytes()
OFFLOADED = {"hw-offload": "true", "hw-offload-priority": "flowtable"}


def tracked(zone: int) -> str:
    """The rules of a bridge that tracks all in a zone."""
    return textwrap.dedent(f"""
        table=0,ip,ct_state=-trk,actions=ct(table=1,zone={zone})
        table=1,ip,ct_state=+trk+new,actions=ct(commit,zone={zone}),normal
        table=1,ip,ct_state=+trk+est,actions=normal
    """)


async def hits(node: Node) -> int:
    await node.call(node.offload.synchronise)
    return await node.call(lambda: node.offload.statistics()["flowtable.forwarded-packets"])


def test_established_connections_of_every_bridge_are_offloaded(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.call(lambda: node.configure_offload(OFFLOADED))
        bridges = [await add_bridge(node, f"br{n}", f"a{n}", f"b{n}") for n in range(3)]
        await node.call(lambda: node.del_bridge("br0"))
        for zone, bridge in enumerate(bridges[1:], 1):
            before = await hits(node)
            await node.call(lambda bridge=bridge, zone=zone: bridge.switch.add_flows(tracked(zone)))
            for _ in range(4):
                await node.call(lambda bridge=bridge, zone=zone: bridge.inject(f"a{zone}", PING))
                await node.call(lambda bridge=bridge, zone=zone: bridge.inject(f"b{zone}", ANSWER))
            sent = await node.call(lambda bridge=bridge, zone=zone: bridge.transmitted(f"b{zone}"))
            assert [each.frame for each in sent] == [PING] * 4
            assert await hits(node) - before >= 4
        connections = await node.call(lambda: list(node.tracker.connections()))
        assert [connection.offload for connection in connections] == ["OFFLOAD", "OFFLOAD"]
        await node.call(lambda: node.del_bridge("br1"))
        again = await add_bridge(node, "br0", "a0", "b0")
        await node.call(lambda: again.switch.add_flows(tracked(1)))
        before = await hits(node)
        await node.call(lambda: again.inject("a0", PING))
        assert len(await node.call(lambda: again.transmitted("b0"))) == 1, "another bridge, another way"
        assert await hits(node) == before
        assert again.switch.tracker is node.tracker

    run(work, tmp_path)


@pytest.mark.parametrize("zones", [(1, 2), (1, None), (1, 1)])
def test_a_connection_through_two_bridges(tmp_path: Path, zones: tuple[int, int | None]) -> None:
    async def work(node: Node) -> None:
        await node.call(lambda: node.configure_offload(OFFLOADED))
        one, two = await add_bridge(node, "br0", "p0"), await add_bridge(node, "br1", "p1")
        for bridge, name, peer in ((one, "to1", "to0"), (two, "to0", "to1")):
            await node.call(lambda b=bridge, n=name, p=peer: b.add_port(n, "patch", options={"peer": p}))
        for bridge, zone in zip((one, two), zones, strict=True):
            text = "actions=normal" if zone is None else tracked(zone)
            await node.call(lambda bridge=bridge, text=text: bridge.switch.add_flows(text))
        for _ in range(6):
            await node.call(lambda: one.inject("p0", PING))
            await node.call(lambda: two.inject("p1", ANSWER))
        assert [each.frame for each in await node.call(lambda: two.transmitted("p1"))] == [PING] * 6
        assert [each.frame for each in await node.call(lambda: one.transmitted("p0"))] == [ANSWER] * 6
        connections = await node.call(lambda: list(node.tracker.connections()))
        reasons = {node.offload.reason(each.id, each.generation, "flowtable").code for each in connections}
        assert len(connections) == len(set(zones) - {None})
        if zones == (1, 1):
            assert reasons == {"several-bridges"} and await hits(node) == 0
        else:
            assert reasons == {"none"} and await hits(node) >= 6 * len(connections)
            stories = await node.call(lambda: list(node.history.tell(connections)))
            paths = [[step.path for step in story.steps if step.path is not None] for story in stories]
            ways = {frozenset((path.in_port, path.out_port) for path in of_one) for of_one in paths}
            assert ways <= {frozenset({("p0", "to1"), ("to1", "p0")}), frozenset({("to0", "p1"), ("p1", "to0")})}
            assert len(ways) == len(connections) and all(path.rules for of_one in paths for path in of_one)

    run(work, tmp_path)


def test_a_patch_port_may_have_a_sign_in_its_name(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        bridge = await add_bridge(node, "br0", "patch+")
        assert bridge.ports["patch+"].ofport == 1
        with pytest.raises(UsageError, match="cannot be a port's name"):
            await node.call(lambda: bridge.add_port("patch*", "dummy"))

    run(work, tmp_path)


def test_two_bridges_that_send_everything_to_each_other_come_to_an_end(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        one, two = await add_bridge(node, "br0", "p0"), await add_bridge(node, "br1")
        for bridge, name, peer in ((one, "to1", "to0"), (two, "to0", "to1")):
            await node.call(lambda b=bridge, n=name, p=peer: b.add_port(n, "patch", options={"peer": p}))
        await node.call(lambda: one.switch.add_flows("in_port=p0,actions=to1\nin_port=to1,actions=in_port"))
        await node.call(lambda: two.switch.add_flows("actions=in_port"))
        await node.call(lambda: one.inject("p0", PING))
        assert (await node.call(node.statistics))["patch-depth"] == 1

    run(work, tmp_path)


def test_bridges_that_flood_to_each_other_over_many_patches_come_to_an_end(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        one, two = await add_bridge(node, "br0", "p0"), await add_bridge(node, "br1")
        for n in range(4):
            for bridge, name, peer in ((one, f"a{n}", f"b{n}"), (two, f"b{n}", f"a{n}")):
                await node.call(lambda b=bridge, n=name, p=peer: b.add_port(n, "patch", options={"peer": p}))
        for bridge in (one, two):
            await node.call(lambda b=bridge: b.switch.add_flows("actions=flood"))
        await node.call(lambda: one.inject("p0", PING))
        assert (await node.call(node.statistics))["patch-depth"] > 0
        assert len(await node.call(lambda: one.transmitted("p0"))) < MAX_DELIVERIES
        await node.call(lambda: one.switch.add_flows("priority=40000,actions=a0"))
        await node.call(lambda: two.switch.add_flows("priority=40000,actions=br1"))
        await node.call(lambda: two.transmitted("br1"))
        await node.call(lambda: one.inject("p0", PING))
        assert len(await node.call(lambda: two.transmitted("br1"))) == 1  # the next packet has all of its own

    run(work, tmp_path)


def test_a_bridge_that_takes_the_name_of_one_that_goes_has_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(node: Node) -> None:
        going = await add_bridge(node, "br0")
        close = going.server.close

        async def close_late() -> None:
            await asyncio.sleep(0.1)
            await close()

        monkeypatch.setattr(going.server, "close", close_late)
        bridge = await node.call(lambda: node.del_bridge("br0") or node.add_bridge("br0"))
        await node.settled()
        _, writer = await asyncio.open_unix_connection(str(bridge.management_path))
        writer.close()
        await node.call(lambda: node.del_bridge("br0"))
        await node.settled()
        assert not bridge.management_path.exists()

    run(work, tmp_path)


def test_port_numbers_are_those_asked_for_when_they_are_free(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        bridge = await add_bridge(node, "br0")
        for name, request, expected in (("a", 7, 7), ("b", 7, 1), ("c", None, 2), ("d", 0xFFF0, 3)):
            info = await node.call(lambda n=name, r=request: bridge.add_port(n, "dummy", ofport_request=r))
            assert info.ofport == expected
        await node.call(lambda: bridge.del_port("a"))
        info = await node.call(lambda: bridge.add_port("e", "dummy", ofport_request=7))
        assert info.ofport == 7
        with pytest.raises(UsageError, match="already"):
            await node.call(lambda: bridge.add_port("e", "dummy"))
        with pytest.raises(UsageError, match="already"):
            await node.call(lambda: node.add_bridge("br0"))

    run(work, tmp_path)


def test_observers_hear_of_ports_on_the_thread_of_control(tmp_path: Path) -> None:
    heard: list[tuple[str, str, int, bool]] = []

    async def work(node: Node) -> None:
        here = threading.current_thread()

        def observe(bridge: str, info: PortInfo, reason: int) -> None:
            heard.append((bridge, info.name, reason, threading.current_thread() is here))

        node.on_port_change(observe)
        bridge = await add_bridge(node, "br0", "p0")
        await node.call(lambda: bridge.set_admin_state("p0", False))
        with pytest.raises(UsageError, match="down"):
            await node.call(lambda: bridge.inject("p0", PING))
        await node.call(lambda: bridge.switch.add_flows("actions=p0"))
        await node.call(lambda: bridge.inject("br0", PING))
        assert await node.call(lambda: bridge.transmitted("p0")) == []
        await node.call(lambda: bridge.del_port("p0"))
        await node.settled()

    run(work, tmp_path)
    assert all(in_place for *_, in_place in heard)
    told = [(bridge, name, reason) for bridge, name, reason, _ in heard]
    assert told[:4] == [("br0", "br0", 0), ("br0", "p0", 0), ("br0", "p0", 2), ("br0", "p0", 1)]


def test_a_port_that_cannot_be_opened_says_why_and_the_others_work(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        bridge = await add_bridge(node, "br0", "p0")
        info = await node.call(lambda: bridge.add_port("nobody", "patch"))
        assert (info.ofport, info.error) == (-1, "nobody: patch type requires valid 'peer' argument")
        await node.call(lambda: bridge.inject("p0", PING))

    run(work, tmp_path)


def test_commands_bring_back_exceptions_and_the_thread_goes_on(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with pytest.raises(ZeroDivisionError):
            await node.call(lambda: 1 // 0)
        assert await node.call(lambda: 6 * 7) == 42
        assert await asyncio.to_thread(node.call_blocking, lambda: node.call_blocking(lambda: 43)) == 43

    run(work, tmp_path)


@needs_ofctl
def test_ovs_ofctl_adds_dumps_and_shows_while_packets_run(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        bridge = await add_bridge(node, "br0", "p0", "p1")
        flows = tmp_path / "flows"
        lines = [f"table=1,priority={n},ip,nw_dst=10.1.{n >> 8}.{n & 255},actions=drop" for n in range(300)]
        flows.write_text("\n".join(lines))
        await ofctl(bridge, "add-flows", str(flows))
        await ofctl(bridge, "add-flow", "in_port=p0,actions=p1")
        await node.call(lambda: bridge.inject("p0", PING))
        listing = await ofctl(bridge, "dump-flows", options=("--no-stats",))
        assert len(listing.splitlines()) == 301
        assert "n_packets=1" in await ofctl(bridge, "dump-flows", "table=0")
        shown = await ofctl(bridge, "show")
        assert "LOCAL(br0)" in shown and "1(p0)" in shown
        await ofctl(bridge, "add-flows", str(flows), options=("--bundle",))
        assert "flow_count=301" in await ofctl(bridge, "dump-aggregate")
        path = bridge.management_path
        await node.call(lambda: node.del_bridge("br0"))
        await node.settled()
        assert not path.exists()

    run(work, tmp_path)


@needs_ofctl
def test_a_controller_that_leaves_is_forgotten_where_packets_are(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        bridge = await add_bridge(node, "br0")
        threads: list[bool] = []
        detach = bridge.service.detach

        def observed(connection: Any) -> None:
            detach(connection)
            threads.append(node.is_packet_thread())

        bridge.service.detach = observed  # type: ignore[method-assign]
        await ofctl(bridge, "show")
        while not threads:
            await asyncio.sleep(0.01)
        assert all(threads)
        assert not bridge.service.connections

    run(work, tmp_path)


def test_a_device_that_cannot_be_described_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Opened:
        def __init__(self, name: str, *_: object) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    monkeypatch.setattr(daemon_ports, "TapPort", Opened)
    with pytest.raises(PortError, match="No such device"):
        daemon_ports.open_device(PortInfo("nowhere-at-all", "internal", 1))
    assert closed == ["nowhere-at-all"]

"""The switch as ovs-vsctl sees it: what it asks for comes about, and what came about is read back."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from flowshunt.base.errors import InputError, UsageError
from flowshunt.control.ovsdb import service as service_module
from flowshunt.control.ovsdb import writer
from flowshunt.control.ovsdb.idl import Replica
from flowshunt.control.ovsdb.schema import fetch
from flowshunt.control.ovsdb.service import Service
from flowshunt.daemon import Node
from flowshunt.daemon.ports import open_dummy
from tests.builders import Packet
from tests.control.ovsdb.lab import Lab, needs_ovsdb, run, until

pytestmark = needs_ovsdb


def test_bridges_and_ports_come_and_go(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.vsctl(
            "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=secure",
            "other-config:hwaddr=aa:55:aa:55:00:00", "protocols=OpenFlow10,OpenFlow13",
            "--", "add-port", "br0", "p1", "--", "set", "interface", "p1", "type=dummy", "ofport_request=7",
            "external-ids:iface-id=x", "--", "add-port", "br0", "p2", "--", "set", "interface", "p2", "type=dummy",
        )  # fmt: skip
        bridge = lab.node.bridges["br0"]
        assert {name: info.ofport for name, info in bridge.ports.items()} == {"br0": 65534, "p1": 7, "p2": 1}
        assert await lab.get("interface", "p1", "ofport") == "7"
        assert await lab.get("interface", "br0", "ofport") == "65534"
        assert await lab.get("interface", "br0", "mac_in_use") == '"aa:55:aa:55:00:00"'
        assert await lab.get("bridge", "br0", "datapath_id") == '"0000aa55aa550000"'
        assert await lab.get("bridge", "br0", "datapath_version") == '"<built-in>"'
        for column, value in (("admin_state", "up"), ("link_state", "up"), ("mtu", "1500"), ("error", "[]")):
            assert await lab.get("interface", "p1", column) == value
        assert "dummy" in await lab.get("open_vswitch", ".", "iface_types")
        assert bridge.server.versions == {1, 4}
        assert bridge.switch.flows() == []
        assert (lab.directory / "br0.mgmt").exists()
        await lab.vsctl("del-port", "p1", "--", "add-br", "br1")
        assert set(bridge.ports) == {"br0", "p2"}
        assert [flow.flow.priority for flow in lab.node.bridges["br1"].switch.flows()] == [0]
        await lab.vsctl("del-br", "br0")
        assert set(lab.node.bridges) == {"br1"}
        assert not (lab.directory / "br0.mgmt").exists()

    run(tmp_path, work)


def test_numbers_stay_when_ports_are_made_anew(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        ports = [word for n in range(1, 5) for word in ("--", "add-port", "br0", f"p{n}")]
        await lab.vsctl("add-br", "br0", *ports, "--", "set", "interface", "p4", "ofport_request=2")
        numbers = {name: info.ofport for name, info in lab.node.bridges["br0"].ports.items()}
        assert numbers["p4"] == 2
        assert sorted(numbers.values()) == [1, 2, 3, 4, 65534]
        await lab.vsctl("set", "interface", "p3", "type=dummy")
        assert {name: info.ofport for name, info in lab.node.bridges["br0"].ports.items()} == numbers

    run(tmp_path, work)


def test_what_is_not_supported_has_an_error_where_users_look(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.vsctl("add-br", "br0", "--", "add-port", "br0", "v0", "--", "set", "interface", "v0", "type=vxlan")
        assert await lab.get("interface", "v0", "ofport") == "-1"
        assert "ports of type vxlan are not supported" in await lab.get("interface", "v0", "error")
        await lab.vsctl("add-bond", "br0", "b0", "p1", "p2")
        assert await lab.get("interface", "p1", "error") == '"port b0: bonds are not supported"'
        await lab.vsctl("add-port", "br0", "p3", "--", "set", "interface", "p3", "ingress_policing_rate=100")
        assert "policing" in await lab.get("interface", "p3", "error")
        await lab.vsctl("set", "interface", "p3", "ingress_policing_rate=0")
        assert await lab.get("interface", "p3", "error") == "[]"
        assert int(await lab.get("interface", "p3", "ofport")) > 0

    run(tmp_path, work)


def test_names_that_cannot_be_are_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        long = "a-bridge-with-a-long-name"
        await lab.vsctl("add-br", long, "--", "add-port", long, "p0", "--", "set", "interface", "p0", "type=dummy")
        assert await lab.get("interface", "p0", "error") == f'"there is no bridge {long}"'
        assert "(File name too long)" in await lab.get("interface", long, "error")
        await lab.vsctl("set", "bridge", long, "fail-mode=secure", "--", "set", "port", "p0", "tag=3")
        await lab.vsctl("del-port", "p0", "--", "add-br", "br0", "--", "add-port", "br0", "drop")
        bridge = lab.node.bridges["br0"]
        assert await lab.get("interface", "drop", "ofport") == "-1"
        assert "cannot be a port's name" in await lab.get("interface", "drop", "error")
        assert (set(bridge.ports), set(bridge.switch.ports)) == ({"br0"}, {"br0"})
        await lab.vsctl("del-br", long, "--", "del-port", "drop")
        assert set(lab.node.bridges) == {"br0"}

    run(tmp_path, work)


def test_ports_treat_vlans_as_the_database_says(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.vsctl("add-br", "br0", "--", "add-port", "br0", "p1", "tag=5", "--", "add-port", "br0", "p2")
        bridge = lab.node.bridges["br0"]
        frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()
        tagged = Packet().eth().vlan(5).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()

        async def passed() -> list[bytes]:
            await lab.node.call(lambda: bridge.inject("p1", frame))
            return [one.frame for one in await lab.node.call(lambda: bridge.transmitted("p2"))]

        assert await passed() == [tagged]
        await lab.vsctl("set", "port", "p2", "trunks=6,7")
        assert await passed() == []
        await lab.vsctl("clear", "port", "p1", "tag", "--", "clear", "port", "p2", "trunks")
        assert await passed() == [frame]
        await lab.vsctl("set", "port", "p2", "vlan_mode=native-untagged", "tag=6", "--", "set", "port", "p1", "tag=6")
        assert await passed() == [frame]
        await lab.vsctl("set", "port", "p1", "tag=5")
        assert await passed() == [tagged]
        await lab.vsctl("clear", "port", "p2", "vlan_mode")
        assert await passed() == []  # the tag makes it an access port of VLAN 6

    run(tmp_path, work)


def test_patch_ports_lead_from_bridge_to_bridge_and_counters_are_written(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.vsctl("add-br", "br0", "--", "add-br", "br1")
        await lab.vsctl(
            "add-port", "br0", "p0", "--", "add-port", "br1", "p1",
            "--", "add-port", "br0", "to1", "--", "set", "interface", "to1", "type=patch", "options:peer=to0",
            "--", "add-port", "br1", "to0", "--", "set", "interface", "to0", "type=patch", "options:peer=to1",
        )  # fmt: skip
        frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()
        await lab.node.call(lambda: lab.node.bridges["br0"].inject("p0", frame))
        assert len(await lab.node.call(lambda: lab.node.bridges["br1"].transmitted("p1"))) == 1

        async def counted() -> bool:
            return "rx_packets=1" in await lab.get("interface", "p0", "statistics")

        await until(counted)

    run(tmp_path, work)


def test_zones_get_their_timeouts(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.vsctl(
            "--", "--id=@m", "create", "Datapath", "datapath_version=0", "ct_zones={}",
            "--", "set", "Open_vSwitch", ".", 'datapaths:"netdev"=@m',
        )  # fmt: skip
        await lab.vsctl("add-zone-tp", "netdev", "zone=5", "udp_first=2", "icmp_reply=3")
        tracker = lab.node.tracker
        assert tracker.timeout_policies()[5] == {"udp_first": 2, "icmp_reply": 3}
        await lab.vsctl(
            *(
                word
                for n in range(256)
                for word in ("--", "add-zone-tp", "netdev", f"zone={1000 + n}", f"udp_first={n + 1}")
            )
        )
        assert tracker.timeout_policies()[1255] == {"udp_first": 256}
        await lab.vsctl("del-zone-tp", "netdev", "zone=5")
        assert 5 not in tracker.timeout_policies()
        capabilities = await lab.vsctl("list-dp-cap", "netdev")
        assert "ct_zero_snat=true" in capabilities

    run(tmp_path, work)


def test_flow_restore_wait_holds_packets(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.vsctl("set", "open", ".", "other_config:flow-restore-wait=true", "--", "add-br", "br0")
        assert lab.node.is_holding
        assert lab.node.bridges["br0"].switch.flows() == []
        await lab.vsctl("remove", "open", ".", "other_config", "flow-restore-wait")
        assert not lab.node.is_holding
        assert len(lab.node.bridges["br0"].switch.flows()) == 1

    run(tmp_path, work)


def test_offloading_is_switched_by_other_config(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.vsctl("set", "open", ".", "other_config:hw-offload=true")
        assert lab.node.offload.settings.enabled
        await lab.vsctl("set", "open", ".", "other_config:hw-offload=false")
        assert not lab.node.offload.settings.enabled

    run(tmp_path, work)


def test_a_restarted_database_finds_the_switch_as_it_was(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.vsctl("add-br", "br0", "--", "add-port", "br0", "p1")
        bridge = lab.node.bridges["br0"]
        device = bridge.device("p1")
        await lab.stop_database()
        frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()
        await lab.node.call(lambda: bridge.inject("p1", frame))
        assert len(await lab.node.call(lambda: bridge.transmitted("br0"))) == 1
        await lab.start_database()
        await lab.vsctl("add-port", "br0", "p2")
        assert lab.node.bridges["br0"] is bridge
        assert bridge.device("p1") is device
        assert set(bridge.ports) == {"br0", "p1", "p2"}

    run(tmp_path, work)


def test_a_database_that_hangs_or_refuses_is_not_asked_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    step, write = Replica.step, writer.write

    def counted(replica: Replica) -> None:
        turns.append("turn")
        step(replica)

    def refused(*arguments: Any) -> None:
        turns.append("write")
        arguments[-1](False)

    async def work(lab: Lab) -> None:
        await lab.vsctl("add-br", "br0")
        lab.signal_database(signal.SIGSTOP)
        try:
            await lab.node.call(lambda: lab.node.bridges["br0"].set_mac("br0", b"\2\0\0\0\0\7"))
            await asyncio.sleep(0.3)  # a transaction waits for its answer
            turns.clear()
            await asyncio.sleep(0.5)
        finally:
            lab.signal_database(signal.SIGCONT)
        assert len(turns) < 10
        monkeypatch.setattr(writer, "write", refused)
        await asyncio.sleep(0.3)
        turns.clear()
        await asyncio.sleep(1.5)
        assert 1 <= turns.count("write") <= 2
        monkeypatch.setattr(writer, "write", write)
        await lab.vsctl("add-br", "br1")

    monkeypatch.setattr(Replica, "step", counted)
    monkeypatch.setattr(service_module, "STATISTICS_S", 0.1)
    run(tmp_path, work)


def test_a_second_switch_waits_for_the_lock(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        directory = tmp_path / "other"
        other = Node(directory, open_port=open_dummy)
        await other.start()
        service = Service(other, lab.remote)
        task = asyncio.create_task(service.run())
        try:
            await asyncio.wait_for(service.heard(), 10)
            await lab.vsctl("add-br", "br0")
            assert "br0" in lab.node.bridges
            assert not other.bridges
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await other.stop()

    run(tmp_path, work)


def test_two_hundred_ports_come_in_one_transaction(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.vsctl("add-br", "br0")
        words = [word for n in range(200) for word in ("--", "add-port", "br0", f"p{n}")]
        start = time.monotonic()
        await lab.vsctl(*words)
        took = time.monotonic() - start
        assert len(lab.node.bridges["br0"].ports) == 201
        assert took < 10.0, took  # it takes less than half a second on a machine that does nothing else
        listed = json.loads(await lab.vsctl("--format=json", "--columns=ofport", "list", "interface"))
        assert len({row[0] for row in listed["data"]}) == 201

    run(tmp_path, work)


def test_a_server_without_the_tables_that_matter_is_waited_for(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(json.dumps({"id": 0, "error": None, "result": {"tables": {"Bridge": {}}}}).encode())
        writer.close()
        await writer.wait_closed()

    async def whole() -> None:
        remote = f"unix:{tmp_path}/db.sock"
        server = await asyncio.start_unix_server(answer, tmp_path / "db.sock")
        async with server:
            with pytest.raises(InputError, match="without its tables"):
                await fetch(remote)
            with pytest.raises(UsageError, match="tcp:HOST:PORT"):
                await fetch("tcp:127.0.0.1:http")
            await asyncio.sleep(0.1)  # both ends are closed

    asyncio.run(whole())

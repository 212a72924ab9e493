"""What users set with the real ovs-vsctl: what is had, what is not and where that is said, and what makes no sense."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flowshunt.control.ovsdb import schema
from tests.builders import Packet
from tests.control.ovsdb.lab import SCHEMA, Lab, needs_ovsdb, run

pytestmark = needs_ovsdb


@pytest.fixture(autouse=True)
def every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing left out of the log, however much there was before."""
    for limit in logging.getLogger("flowshunt.control.ovsdb.apply").filters:
        monkeypatch.setattr(limit, "is_on", False)


FRAME = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()


def tagged(*vlans: tuple[int, int]) -> bytes:
    packet = Packet().eth()
    for vlan, tpid in vlans:
        packet = packet.vlan(vlan, tpid=tpid)
    return packet.ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()


CUSTOMER = tagged((7, 0x8100))


async def passed(lab: Lab, frame: bytes, port: str = "p1", to: str = "p2") -> list[bytes]:
    bridge = lab.node.bridges["br0"]
    await lab.node.call(lambda: bridge.inject(port, frame))
    return [one.frame for one in await lab.node.call(lambda: bridge.transmitted(to))]


async def bridge(lab: Lab, *more: str) -> None:
    await lab.vsctl(
        "add-br", "br0", "--", "add-port", "br0", "p1", "--", "add-port", "br0", "p2",
        "--", "set", "interface", "p1", "type=dummy", "--", "set", "interface", "p2", "type=dummy", *more,
    )  # fmt: skip


# --- VLANs -----------------------------------------------------------------------------------------------------------


def test_tunnel_ports_and_their_customers(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await bridge(lab)
        await lab.vsctl("set", "port", "p1", "vlan_mode=dot1q-tunnel", "tag=100")
        assert await passed(lab, CUSTOMER) == [tagged((100, 0x88A8), (7, 0x8100))]
        assert await passed(lab, FRAME) == [tagged((100, 0x88A8))]
        await lab.vsctl("set", "port", "p1", "cvlans=7,8", "other_config:qinq-ethtype=802.1q")
        assert await passed(lab, CUSTOMER) == [tagged((100, 0x8100), (7, 0x8100))]
        assert await passed(lab, FRAME) == []
        await lab.vsctl("set", "port", "p1", "other_config:qinq-ethtype=nonsense")
        assert await passed(lab, CUSTOMER) == [tagged((100, 0x88A8), (7, 0x8100))]
        assert await lab.get("interface", "p1", "error") == "[]"

    run(tmp_path, work)


def test_the_limit_of_tags_is_one_unless_it_is_lifted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(lab: Lab) -> None:
        await bridge(lab)
        double = tagged((5, 0x88A8), (6, 0x8100))
        switch = lab.node.bridges["br0"].switch
        await lab.node.call(lambda: switch.add_flows("priority=9,ip,actions=drop"))
        for limit, is_read in ((None, False), ("0", True), ("1", False), ("2", True), ("99999", True), ("x", False)):
            if limit is not None:
                await lab.vsctl("set", "open", ".", f"other_config:vlan-limit={limit}")
            assert await passed(lab, double) == ([] if is_read else [double]), limit
        await lab.vsctl("set", "open", ".", "other_config:vlan-limit=0", "--", "add-br", "br1")
        state = lab.node.bridges["br1"].switch.datapath.ports.arrays.state
        assert state["vlan_limit"] == 2

    run(tmp_path, work)
    assert "vlan-limit x is no number" in caplog.text


def test_nothing_is_learned_in_flood_vlans(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await bridge(lab)
        await lab.vsctl("set", "bridge", "br0", "flood_vlans=5")
        await passed(lab, tagged((5, 0x8100)))
        await passed(lab, tagged((6, 0x8100)))
        ports = lab.node.bridges["br0"].switch.datapath.ports
        known = await lab.node.call(lambda: ports.stations(lab.node.now_ms()))
        assert [(one.port, one.vlan) for one in known] == [(1, 6)]
        await lab.vsctl("clear", "bridge", "br0", "flood_vlans")
        await passed(lab, tagged((5, 0x8100)))
        known = await lab.node.call(lambda: ports.stations(lab.node.now_ms()))
        assert (1, 5) in [(one.port, one.vlan) for one in known]

    run(tmp_path, work)


# --- what there is not -----------------------------------------------------------------------------------------------

ASKED = {
    "STP": ("bridge br0 stp_enable", "true"),
    "RSTP": ("bridge br0 rstp_enable", "true"),
    "multicast snooping": ("bridge br0 mcast_snooping_enable", "true"),
    "mirrors": ("bridge br0 mirrors", "create mirror name=m"),
    "NetFlow": ("bridge br0 netflow", 'create netflow targets="127.0.0.1:9"'),
    "sFlow": ("bridge br0 sflow", 'create sflow targets="127.0.0.1:9"'),
    "IPFIX": ("bridge br0 ipfix", 'create ipfix targets="127.0.0.1:9"'),
    "QoS": ("port p1 qos", "create qos type=linux-htb"),
    "LACP": ("port p1 lacp", "active"),
    "protected ports": ("port p1 protected", "true"),
    "priority tags": ("port p1 other_config", "priority-tags=always"),
    "BFD": ("interface p1 bfd", "enable=true"),
    "CFM": ("interface p1 cfm_mpid", "5"),
    "LLDP": ("interface p1 lldp", "enable=true"),
}
"""Which column asks for it, with which value or by which row."""


@pytest.mark.parametrize("what", ASKED)
def test_what_is_not_had_is_said_and_the_rest_works(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (table, place, column), value = ASKED[what][0].split(), ASKED[what][1]
    words = ["set", table, place, f"{column}={value}"]
    if value.startswith("create"):
        words = ["--", "--id=@row", *value.split(), "--", "set", table, place, f"{column}=@row"]

    async def work(lab: Lab) -> None:
        await bridge(lab)
        assert await lab.get("interface", place, "error") == "[]"
        await lab.vsctl(*words)
        assert await lab.get("interface", place, "error") == f'"{what}: not supported"'
        assert int(await lab.get("interface", place, "ofport")) > 0
        assert what in await lab.vsctl("show")
        assert await passed(lab, FRAME) == [FRAME]
        undone = ["set", table, place, f"{column}=false"] if value == "true" else ["clear", table, place, column]
        await lab.vsctl(*undone)
        assert await lab.get("interface", place, "error") == "[]"

    run(tmp_path, work)
    warned = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert warned == [f"bridge br0: {place}: {what}: not supported"]


def test_what_controllers_do_not_have_is_said(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await bridge(lab, "--", "set-controller", "br0", f"unix:{tmp_path}/nobody")
        assert await lab.get("interface", "br0", "error") == "[]"
        settings = ("connection_mode=in-band", "controller_rate_limit=100", "enable_async_messages=false")
        await lab.vsctl("set", "controller", "br0", *settings)
        said = await lab.get("interface", "br0", "error")
        assert said == '"in-band control, rate limits of controllers: not supported"'

    run(tmp_path, work)


@pytest.mark.parametrize("kind", ["vxlan", "geneve", "gre", "erspan", "gtpu", "lisp", "stt", "bareudp", "nonsense"])
def test_tunnels_have_an_error_and_no_number(kind: str, tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await bridge(lab)
        lab.node._opener._open_port = open_device
        said = await lab.vsctl(
            "add-port", "br0", "t1", "--", "set", "interface", "t1", f"type={kind}", "options:remote_ip=127.0.0.9",
            check=False,
        )  # fmt: skip
        assert kind in said and "t1" in said
        assert await lab.get("interface", "t1", "ofport") == "-1"
        assert kind in await lab.get("interface", "t1", "error")
        assert await passed(lab, FRAME) == [FRAME]

    from flowshunt.daemon.ports import open_device

    run(tmp_path, work)


@pytest.mark.parametrize("column", ["ingress_policing_rate", "ingress_policing_kpkts_rate"])
def test_policing_has_an_error_and_no_number(column: str, tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await bridge(lab)
        await lab.vsctl("set", "interface", "p1", f"{column}=1000")
        assert await lab.get("interface", "p1", "ofport") == "-1"
        assert "policing" in await lab.get("interface", "p1", "error")

    run(tmp_path, work)


# --- what makes no sense ---------------------------------------------------------------------------------------------


def test_nonsense_in_columns_is_said_and_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = (
        ("interface", "p1", "mtu_request=2000000000"), ("interface", "p1", "mac=nonsense"),
        ("interface", "p1", "options:peer=" + "x" * 5000), ("bridge", "br0", "other_config:hwaddr=zz"),
        ("bridge", "br0", "other_config:datapath-id=xyz"), ("bridge", "br0", "other_config:mac-aging-time=-5"),
        ("bridge", "br0", "other_config:mac-aging-time=99999999999999999999"),
        ("bridge", "br0", "other_config:mac-table-size=99999999999999999999"),
        ("open", ".", "other_config:stats-update-interval=-1"),
        ("open", ".", "other_config:hw-offload-priority=nope,,"),
        ("open", ".", "other_config:hw-offload=maybe"), ("open", ".", "other_config:flow-restore-wait=perhaps"),
        ("bridge", "br0", "datapath_type=unheard-of"), ("interface", "p2", "ofport_request=65279"),
    )  # fmt: skip

    async def work(lab: Lab) -> None:
        await bridge(lab)
        for table, record, setting in settings:
            await lab.vsctl("set", table, record, setting)
        assert await passed(lab, FRAME) == [FRAME]
        assert await lab.get("interface", "p2", "ofport") == "65279"
        zone = (
            "--",
            "--id=@z",
            "create",
            "CT_Zone",
            "limit=4294967295",
            "--",
            "--id=@t",
            "create",
            "CT_Timeout_Policy",
        )
        await lab.vsctl(
            *zone, "timeouts:udp_first=4294967295", "--", "set", "CT_Zone", "@z", "timeout_policy=@t",
            "--", "--id=@d", "create", "Datapath", "datapath_version=0", "ct_zones:5=@z",
            "--", "set", "open", ".", "datapaths:netdev=@d", check=False,
        )  # fmt: skip
        assert await passed(lab, FRAME) == [FRAME]

    run(tmp_path, work)
    for text in (
        "mtu_request 2000000000 is out of range",
        "nonsense is no MAC address",
        "hwaddr zz",
        "datapath-id xyz",
    ):
        assert text in caplog.text
    assert "could not be carried out" not in caplog.text


def test_a_number_that_two_ports_want_goes_to_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def work(lab: Lab) -> None:
        await bridge(lab, "--", "set", "interface", "p1", "ofport_request=9")
        await lab.vsctl("set", "interface", "p2", "ofport_request=9")
        numbers = [await lab.get("interface", name, "ofport") for name in ("p1", "p2")]
        assert numbers[0] == "9" and numbers[1] not in ("9", "-1")
        await lab.vsctl(
            "set", "interface", "p1", "ofport_request=8", "--", "set", "interface", "p2", "ofport_request=7"
        )
        assert [await lab.get("interface", name, "ofport") for name in ("p1", "p2")] == ["8", "7"]

    run(tmp_path, work)
    assert "interface p2 cannot have port 9, which is taken" in caplog.text


def test_a_fault_of_ours_costs_one_port_and_not_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowshunt.daemon.bridge import Bridge

    add_port = Bridge.add_port

    def broken(self: Bridge, name: str, *arguments: Any, **named: Any) -> Any:
        if name == "p2":
            raise OverflowError("too large")
        return add_port(self, name, *arguments, **named)

    monkeypatch.setattr(Bridge, "add_port", broken)

    async def work(lab: Lab) -> None:
        await bridge(lab)
        assert await lab.get("interface", "p2", "error") == '"p2: too large"'
        assert await lab.get("interface", "p1", "error") == "[]"

    run(tmp_path, work)


def test_the_emergency_reset_leaves_a_switch_that_works(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await bridge(lab, "--", "set-fail-mode", "br0", "secure", "--", "set", "bridge", "br0", "stp_enable=true")
        await lab.vsctl("set-controller", "br0", f"unix:{tmp_path}/nobody")
        await lab.vsctl("--no-wait", "set", "open", ".", "other_config:vlan-limit=0")
        assert await passed(lab, FRAME) == []
        await lab.vsctl("emer-reset")
        assert await passed(lab, FRAME) == [FRAME]
        assert lab.node.bridges["br0"].controllers.statuses == {}

    run(tmp_path, work)


# --- old databases ---------------------------------------------------------------------------------------------------


def older(directory: Path) -> Path:
    """A schema as it was years ago: fewer tables, fewer columns."""
    found = json.loads(SCHEMA.read_text())
    for table in ("Datapath", "CT_Zone", "CT_Timeout_Policy", "Flow_Table", "AutoAttach"):
        found["tables"].pop(table, None)
    gone = {
        "Open_vSwitch": (
            "datapaths", "dpdk_version", "dpdk_initialized", "iface_types", "datapath_types", "other_config",
        ),
        "Bridge": (
            "rstp_enable", "rstp_status", "mcast_snooping_enable", "protocols", "flow_tables", "auto_attach", "ipfix",
            "datapath_version", "flood_vlans",
        ),
        "Port": ("cvlans", "vlan_mode", "protected"),
        "Interface": (
            "ofport_request", "mtu_request", "error", "ifindex", "lldp", "bfd", "bfd_status", "link_resets",
            "ingress_policing_kpkts_rate", "mac_in_use",
        ),
        "Controller": ("role", "controller_queue_size", "type", "other_config"),
    }  # fmt: skip
    for table, columns in gone.items():
        for column in columns:
            found["tables"][table]["columns"].pop(column, None)
    found["version"] = "1.0.6"
    found.pop("cksum", None)
    path = directory / "old.ovsschema"
    path.write_text(json.dumps(found))
    return path


def test_an_old_database_has_a_switch_with_less(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(lab: Lab) -> None:
        await bridge(lab, "--", "set", "port", "p1", "tag=5", "--", "set-controller", "br0", f"unix:{tmp_path}/nobody")
        assert await lab.get("interface", "p1", "ofport") == "1"
        await lab.vsctl("del-controller", "br0")
        assert await passed(lab, FRAME) == [tagged((5, 0x8100))]

    caplog.set_level(logging.INFO)
    run(tmp_path, work, older(tmp_path))
    (line,) = [each.getMessage() for each in caplog.records if "older schema" in each.getMessage()]
    assert "1.0.6" in line and "Bridge.rstp_enable, " in line and ", Datapath, " in line
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_the_schema_of_today_lacks_nothing() -> None:
    assert schema.lacking(json.loads(SCHEMA.read_text())) in ([], ["CT_Zone.limit", "Datapath.ct_zone_default_limit"])


def test_a_fake_bridge_is_a_vlan_of_its_parent(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await bridge(lab)
        await lab.vsctl(
            "add-br", "br5", "br0", "5", "--", "add-port", "br5", "p5", "--", "set", "interface", "p5", "type=dummy"
        )
        assert set(lab.node.bridges) == {"br0"}
        assert await passed(lab, FRAME, "p5", "p2") == [tagged((5, 0x8100))]
        assert await passed(lab, tagged((5, 0x8100)), "p1", "br5") == [FRAME] * 2  # the one before was flooded, too

    run(tmp_path, work)

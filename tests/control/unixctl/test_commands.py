"""The commands, against texts recorded from ovs-vswitchd 3.1."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowshunt.control.ovsdb.apply import Applier
from flowshunt.control.ovsdb.model import Zone
from flowshunt.control.ovsdb.reconcile import SetDefaultLimit, SetZone
from flowshunt.rules.odp import OdpError, frame
from tests.builders import Packet
from tests.control.unixctl.appctl import START_MS, Lab, needs_appctl, run

pytestmark = needs_appctl

FLOWS = "ip,priority=5,actions=ct(commit,zone=5,exec(set_field:7->ct_mark),table=1)\ntable=1,actions=normal"
ETH = "in_port(1),eth(src=50:54:00:00:00:09,dst=50:54:00:00:00:0a),eth_type(0x0800),"
IPV4 = ETH + "ipv4(src=10.1.1.1,dst=10.1.1.2,proto={},tos=0,ttl=64,frag=no),"
UDP = IPV4.format(17) + "udp(src=1,dst=2)"
TCP = IPV4.format(6) + "tcp(src=1,dst=2),tcp_flags(syn)"
TUPLES = "orig=(src=10.1.1.1,dst=10.1.1.2,sport=1,dport=2),reply=(src=10.1.1.2,dst=10.1.1.1,sport=2,dport=1)"
UDP_LINE = f"udp,{TUPLES},zone=5,mark=7\n"
TCP_LINE = f"tcp,{TUPLES},zone=5,mark=7,protoinfo=(state=SYN_SENT)\n"
INVALID = " (Invalid argument)"


async def with_two_connections(lab: Lab) -> None:
    bridge = await lab.add_bridge("br0", "p1", "p2")
    await lab.node.call(lambda: bridge.switch.add_flows(FLOWS, now_ms=START_MS))
    for text in (UDP, TCP):
        assert await lab.says("netdev-dummy/receive", "p1", text) == ""


def test_connections_are_listed_counted_and_forgotten(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await with_two_connections(lab)
        assert await lab.says("dpctl/dump-conntrack") == UDP_LINE + TCP_LINE
        assert await lab.says("dpctl/dump-conntrack", "netdev@ovs-netdev", "zone=5") == UDP_LINE + TCP_LINE
        assert await lab.says("dpctl/dump-conntrack", "zone=6") == ""
        assert "timeout=" in await lab.says("dpctl/dump-conntrack", "-m", "-s")
        assert await lab.says("dpctl/ct-get-nconns") == "2\n"
        stats = "Connections Stats:\n    Total: 2\n  TCP: 1\n{}  UDP: 1\n"
        assert await lab.says("dpctl/ct-stats-show") == stats.format("")
        verbose = stats.format("    Conn per TCP states:\n\t  [SYN_SENT]=1\n")
        assert await lab.says("dpctl/ct-stats-show", "-m") == verbose
        assert await lab.says("dpctl/ct-stats-show", "zone=5", "verbose") == verbose
        assert await lab.says("dpctl/ct-stats-show", "zone=7") == "Connections Stats:\n    Total: 0\n"
        assert "Current Connections: 2\n" in await lab.says("dpctl/ct-bkts")
        for wrong in ("zone=x", "nope", "netdev@nope"):
            assert await lab.refuses("dpctl/dump-conntrack", wrong) == f"ovs-vswitchd: datapath not found{INVALID}"
        assert await lab.refuses("dpctl/dump-conntrack", "-x") == "Unrecognized option -x"
        assert await lab.says("dpctl/flush-conntrack", "zone=9") == ""
        assert await lab.says("dpctl/ct-get-nconns") == "2\n"
        assert await lab.says("dpctl/flush-conntrack", "netdev@ovs-netdev") == ""
        assert await lab.says("dpctl/dump-conntrack") == ""
        assert await lab.says("dpctl/dump-conntrack-exp") == ""

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (("zone=5",), ""),
        (("ct_nw_proto=17",), TCP_LINE),
        (("zone=5", "ct_nw_src=10.1.1.1,ct_nw_proto=6,ct_tp_dst=2"), UDP_LINE),
        (("zone=4", "ct_nw_src=10.1.1.1"), UDP_LINE + TCP_LINE),
        (("", "ct_nw_src=10.1.1.2,ct_nw_proto=6"), UDP_LINE),
        (("mark=7",), ""),
        (("zone=5", "mark=0x8/0x8"), UDP_LINE + TCP_LINE),
        (("mark=0x3/0x3", "ct_nw_proto=6"), UDP_LINE),
        (("labels=0x1",), UDP_LINE + TCP_LINE),
        (("netdev@ovs-netdev", "zone=5", "ct_ipv6_src=::1"), UDP_LINE + TCP_LINE),
    ],
)
def test_a_flush_takes_what_its_keys_say(tmp_path: Path, arguments: tuple[str, ...], left: str) -> None:
    async def work(lab: Lab) -> None:
        await with_two_connections(lab)
        assert await lab.says("dpctl/flush-conntrack", *arguments) == ""
        assert await lab.says("dpctl/dump-conntrack") == left

    run(tmp_path, work)


def test_a_flush_of_nonsense_says_what_is_wrong(tmp_path: Path) -> None:
    wrong = {
        ("nope",): "field nope missing value",
        ("zone=x",): "failed to parse zone",
        ("ct_nw_src=1.1.1",): "failed to parse field ct_nw_src",
        ("ct_tp_src=1",): "port is set without protocol",
        ("ct_nw_proto=300",): "failed to parse field ct_nw_proto",
        ("foo=1",): "invalid conntrack tuple field: foo",
        ("ct_nw_src=1.1.1.1,ct_ipv6_dst=::1",): "the L3 protocol does not match ::1",
        ("ct_nw_proto=17,icmp_id=3",): "invalid L4 fields",
        ("ct_nw_src=10.1.1.1", "zone=5"): "invalid conntrack tuple field: zone",
        ("ct_nw_proto=6,ct_tp_src=x",): "failed to parse field ct_tp_src",
        ("mark=x",): "failed to parse mark",
        ("zone=5", "labels=1/"): "failed to parse labels",
    }

    async def work(lab: Lab) -> None:
        for arguments, text in wrong.items():
            assert await lab.refuses("dpctl/flush-conntrack", *arguments) == f"ovs-vswitchd: {text}{INVALID}"
        whole = "ct_nw_src=10.1.1.1,ct_nw_dst=10.1.1.2,ct_nw_proto=17,ct_tp_src=1,ct_tp_dst=2"
        gone = "ovs-vswitchd: failed to flush conntrack (No such file or directory)"
        assert await lab.refuses("dpctl/flush-conntrack", whole) == gone

    run(tmp_path, work)


def test_limits_are_set_and_shown(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await with_two_connections(lab)
        assert await lab.says("dpctl/ct-get-maxconns") == "3000000\n"
        assert await lab.says("dpctl/ct-set-maxconns", "10") == "setting maxconns successful\n"
        assert await lab.says("dpctl/ct-set-maxconns", "netdev@ovs-netdev", "11") == "setting maxconns successful\n"
        assert await lab.says("dpctl/ct-get-maxconns") == "11\n"
        malformed = f"ovs-vswitchd: maxconns missing or malformed{INVALID}"
        assert await lab.refuses("dpctl/ct-set-maxconns", "x") == malformed
        assert await lab.says("dpctl/ct-get-limits") == "default limit=0\n"
        assert await lab.says("dpctl/ct-set-limits", "default=20", "zone=5,limit=10", "zone=6,limit=7") == ""
        shown = "default limit=20\nzone=5,limit=10,count=2\nzone=6,limit=7,count=0\n"
        assert await lab.says("dpctl/ct-get-limits") == shown
        some = "default limit=20\nzone=5,limit=10,count=2\nzone=9,limit=20,count=0\n"
        assert await lab.says("dpctl/ct-get-limits", "zone=5,9") == some
        assert await lab.says("dpctl/ct-del-limits", "netdev@ovs-netdev", "zone=6,5") == ""
        assert await lab.says("dpctl/ct-set-limits", "zone=5,limit=0") == ""
        await lab.says("netdev-dummy/receive", "p1", UDP.replace("src=1,", "src=77,"))
        assert await lab.says("dpctl/ct-get-limits") == "default limit=20\nzone=5,limit=0,count=2\n"
        assert await lab.says("dpctl/ct-del-limits", "zone=5") == ""
        assert await lab.says("dpctl/ct-set-limits", "default=0") == ""
        assert await lab.says("dpctl/ct-get-limits") == "default limit=0\n"
        wrong = {
            ("ct-get-limits", "zone=x"): "invalid zone",
            ("ct-get-limits", "zone="): "invalid zone",
            ("ct-get-limits", "foo"): "invalid argument foo",
            ("ct-set-limits", "zone=5"): "failed to parse zone limit",
            ("ct-set-limits", "zone=5,limit"): "field limit missing value",
            ("ct-set-limits", "zone=70000,limit=1"): "failed to parse field zone",
            ("ct-set-limits", "default=x"): "invalid default limit",
            ("ct-set-limits", "foo"): "field foo missing value",
            ("ct-set-limits", "zone=5,foo=6"): "invalid zone limit field: foo",
            ("ct-del-limits", "zone=x"): "invalid zone",
        }
        for (name, argument), text in wrong.items():
            assert await lab.refuses(f"dpctl/{name}", argument) == f"ovs-vswitchd: {text}{INVALID}"
        assert await lab.says("dpctl/ct-get-limits") == "default limit=0\n"

    run(tmp_path, work)


def test_limits_that_the_database_has_are_left_to_it(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        applier = Applier(lab.node)
        limited, free = Zone(limit=3), Zone()
        refused = "ovs-vswitchd: the zone limits are set via database, use 'ovs-vsctl {}-zone-limit <...>' instead."
        for given, taken, shown in (
            (SetZone(7, free, limited), SetZone(7, limited, free), "default limit=0\nzone=7,limit=3,count=0\n"),
            (SetDefaultLimit(0), SetDefaultLimit(None), "default limit=0\n"),
        ):
            await applier.carry_out((given,))
            for verb, argument in (("set", "zone=7,limit=5"), ("set", "default=5"), ("del", "zone=7")):
                answer = await lab.refuses(f"dpctl/ct-{verb}-limits", argument)
                assert answer == f"{refused.format(verb)} (Operation not permitted)"
            assert await lab.says("dpctl/ct-get-limits") == shown
            await applier.carry_out((taken,))
            assert await lab.says("dpctl/ct-set-limits", "zone=7,limit=5") == ""
            assert await lab.says("dpctl/ct-del-limits", "zone=7") == ""

    run(tmp_path, work)


def test_settings_of_the_tracker(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        state = "TCP sequence checking: {}\n"
        assert await lab.says("dpctl/ct-get-tcp-seq-chk") == state.format("enabled")
        off = "disabling TCP sequence checking successful\n"
        assert await lab.says("dpctl/ct-disable-tcp-seq-chk") == off
        assert await lab.says("dpctl/ct-get-tcp-seq-chk") == state.format("disabled")
        assert await lab.says("dpctl/ct-enable-tcp-seq-chk") == "enabling TCP sequence checking successful\n"
        assert lab.node.tracker.check_sequence
        assert await lab.says("dpctl/ct-set-sweep-interval", "5000") == "setting sweep interval successful\n"
        assert await lab.says("dpctl/ct-get-sweep-interval") == "5000\n"

    run(tmp_path, work)


def test_fragments_are_configured_and_shown(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.add_bridge("br0", "p1")
        size, count = "setting minimum fragment size successful\n", "setting maximum fragments successful\n"
        assert await lab.says("dpctl/ipf-set-min-frag", "v4", "500") == size
        assert await lab.says("dpctl/ipf-set-min-frag", "netdev@ovs-netdev", "v6", "1000") == size
        assert await lab.says("dpctl/ipf-set-max-nfrags", "500") == count
        assert await lab.says("dpctl/ipf-set-disabled", "v6") == "disabling fragmentation reassembly successful\n"
        counters = ("accepted", "completed", "expired", "too small", "overlapped", "purged")
        lines = ["Fragmentation Module Status", "---------------------------", "v4 enabled: 1", "v6 enabled: 0"]
        lines += ["max num frags (v4/v6): 500", "num frag: 0"]
        for family, least in (("v4", 500), ("v6", 1000)):
            lines += [f"min {family} frag size: {least}", *(f"{family} frags {name}: 0" for name in counters)]
        shown = "".join(f"        {line}\n" for line in lines)
        assert await lab.says("dpctl/ipf-get-status") == shown
        assert await lab.says("dpctl/ipf-get-status", "-m") == shown + "\n        Fragment Lists:\n\n"
        small = "requested minimum fragment size too small; see documentation (Operation not permitted)"
        assert await lab.refuses("dpctl/ipf-set-min-frag", "v4", "399") == f"ovs-vswitchd: {small}"
        many = "setting maximum fragments failed (Operation not permitted)"
        assert await lab.refuses("dpctl/ipf-set-max-nfrags", "5000000") == f"ovs-vswitchd: {many}"
        family = f"parameter missing: 'v4' for IPv4 or 'v6' for IPv6{INVALID}"
        assert await lab.refuses("dpctl/ipf-set-enabled", "v5") == f"ovs-vswitchd: {family}"
        first = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", id=9, mf=True).udp(1, 2).payload(bytes(1472)).bytes()
        bridge = lab.node.bridges["br0"]
        await lab.node.call(lambda: bridge.switch.add_flows("ip,actions=ct(zone=9,table=1)"))
        await lab.says("netdev-dummy/receive", "p1", first.hex())
        waiting = (await lab.says("dpctl/ipf-get-status", "-m")).splitlines()[-1]
        assert waiting == (
            "(src=10.0.0.1,dst=10.0.0.2,recirc_id=0,ip_id=9,dl_type=0x800,zone=9,nw_proto=17,num_fragments=1,"
            "state=first frag)"
        )

    run(tmp_path, work)


def test_the_datapath_and_its_bridges_are_shown(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        assert await lab.says("dpctl/dump-dps") == ""
        await with_two_connections(lab)
        assert await lab.says("dpctl/dump-dps") == "netdev@ovs-netdev\n"
        text = await lab.says("dpctl/show")
        assert text.startswith("netdev@ovs-netdev:\n  lookups: hit:2 missed:0 lost:0\n  flows: 2\n  port 0: ovs-netdev")
        assert "\n  port 1: p1 (dummy)\n  port 2: p2 (dummy)\n" in text
        assert "    RX packets:2 errors:? dropped:? overruns:? frame:?\n" in await lab.says("dpctl/show", "-s")
        assert await lab.says("dpif/show") == (
            "netdev@ovs-netdev: hit:2 missed:0\n"
            "  br0:\n    br0 65534/3: (tap)\n    p1 1/1: (dummy)\n    p2 2/2: (dummy)\n"
        )
        assert await lab.says("dpif/dump-dps") == "netdev@br0\n"
        assert await lab.says("ofproto/list") == "br0\n"
        assert await lab.refuses("dpctl/dump-flows", "type=foo") == f"ovs-vswitchd: Failed to parse type (foo){INVALID}"
        assert await lab.refuses("dpif/dump-flows", "nope") == "no such bridge"
        assert "CT zone: Yes\n" in await lab.says("dpif/show-dp-features", "br0")
        lines = (await lab.says("bridge/dump-flows", "br0")).splitlines()
        assert lines[0].startswith("duration=0s, n_packets=2, n_bytes=160, priority=5,ip,actions=ct(commit")
        assert lines[1].startswith("table_id=1, duration=0s, n_packets=2, n_bytes=160, ")
        assert await lab.refuses("bridge/dump-flows", "nope") == "Unknown bridge"
        assert "  packets received: 2\n" in await lab.says("dpif-netdev/pmd-stats-show")

    run(tmp_path, work)


def test_rules_that_packets_met_are_the_flows_of_the_datapath(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        bridge = await lab.add_bridge("br0", "p1", "p2")
        rules = (
            "in_port=1,udp,nw_dst=10.1.1.0/24,tp_dst=2,actions=ct(commit,zone=5,table=1)\n"
            "in_port=2,udp,actions=drop\n"
            "table=1,ct_state=+new+trk-rpl,ct_zone=5,udp,actions=output:2"
        )
        await lab.node.call(lambda: bridge.switch.add_flows(rules, now_ms=START_MS))
        lab.clock.advance_to((START_MS + 100) * 1_000_000)
        head = "flow-dump from the main thread:\n"
        assert await lab.says("dpctl/dump-flows") == head
        await lab.says("netdev-dummy/receive", "p1", UDP)
        lab.clock.advance_to((START_MS + 350) * 1_000_000)
        counters = "packets:1, bytes:106, used:0.250s"
        first = "recirc_id(0),in_port(p1),eth_type(0x0800),ipv4(dst=10.1.1.0/24,proto=17,frag=no),udp(dst=2)"
        second = "recirc_id(0x1),ct_state(+new-rpl+trk),ct_zone(0x5),eth_type(0x0800),ipv4(proto=17,frag=no)"
        listed = f"{first}, {counters}, actions:ct(commit,table=1,zone=5)\n{second}, {counters}, actions:output:p2\n"
        assert await lab.says("dpctl/dump-flows", "--names", "filter=in_port=p1") == head + listed
        assert await lab.says("dpif/dump-flows", "--names", "br0") == listed
        assert ", dp:ovs, actions:" in await lab.says("dpctl/dump-flows", "-m", "netdev@ovs-netdev")
        assert await lab.says("dpctl/dump-flows", "type=offloaded") == head
        assert "in_port(1)" in await lab.says("dpctl/dump-flows", "type=ovs")
        wrong = await lab.refuses("dpctl/dump-flows", "filter=zzz")
        assert wrong == "ovs-vswitchd: Failed to parse filter (zzz: unknown field zzz)"
        assert await lab.says("revalidator/purge") == ""
        assert await lab.says("dpctl/dump-flows") == head
        lab.clock.advance_to((START_MS + 400) * 1_000_000)
        await lab.says("netdev-dummy/receive", "p1", UDP)
        assert "packets:2" in await lab.says("dpctl/dump-flows")
        lab.clock.advance_to((START_MS + 20_000) * 1_000_000)
        assert await lab.says("dpctl/dump-flows") == head

    run(tmp_path, work)


def test_a_zone_that_a_field_says_is_part_of_what_a_flow_of_the_datapath_matches(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        bridge = await lab.add_bridge("br0", "p1", "p2")
        rules = (
            "in_port=1,udp,ct_state=-trk,actions=ct(commit,zone=5,table=0,exec(load:0xffff0007->NXM_NX_CT_LABEL[0..31]))\n"
            "udp,ct_state=+trk,actions=ct(commit,zone=NXM_NX_CT_ZONE[]),ct(commit,zone=NXM_NX_CT_LABEL[0..15]),"
            "ct(commit,zone=NXM_NX_REG3[0..15]),output:2\n"
        )
        await lab.node.call(lambda: bridge.switch.add_flows(rules, now_ms=START_MS))
        lab.clock.advance_to((START_MS + 100) * 1_000_000)
        await lab.says("netdev-dummy/receive", "p1", UDP)
        tracked = (await lab.says("dpctl/dump-flows")).splitlines()[-1]
        # a ct action leaves an untracked packet, whose fields the next one reads
        assert ",ct_zone(0x5),ct_label(0x0/0xffff)," in tracked
        assert "reg" not in tracked.partition("packets")[0]
        other = "in_port=1,udp,ct_state=-trk,actions=ct(zone=15,table=0)"
        await lab.node.call(lambda: bridge.switch.add_flows(other, now_ms=START_MS))
        await lab.says("netdev-dummy/receive", "p1", UDP)
        assert ",ct_zone(0xf)," in await lab.says("dpif/dump-flows", "br0")

    run(tmp_path, work)


def test_stations_are_shown_added_and_forgotten(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await with_two_connections(lab)
        head = " port  VLAN  MAC                Age\n"
        learned = "    1     0  50:54:00:00:00:09    3\n"
        lab.clock.advance_to((START_MS + 3000) * 1_000_000)
        assert await lab.says("fdb/show", "br0") == head + learned
        assert await lab.says("fdb/show") == head.replace("port", "Port") + learned
        await lab.add_bridge("longname", "p9")
        several = " Bridge    Port  VLAN  MAC                Age\n br0      " + learned + " longname\n"
        assert await lab.says("fdb/show") == await lab.says("fdb/show", "br0", "longname") == several
        assert await lab.says("fdb/add", "br0", "p2", "0", "50:54:00:00:00:44") == ""
        assert "    2     0  50:54:00:00:00:44  static\n" in await lab.says("fdb/show", "br0")
        stats = await lab.says("fdb/stats-show", "br0")
        assert stats.startswith('Statistics for bridge "br0":\n  Current/maximum MAC entries in the table: 2/8192\n')
        assert "  Current static MAC entries in the table : 1\n  Total number of learned MAC entries     : 1\n" in stats
        assert await lab.says("fdb/stats-clear", "br0") == "statistics successfully cleared\n"
        assert "learned MAC entries     : 0\n" in await lab.says("fdb/stats-show", "br0")
        moved = UDP.replace("50:54:00:00:00:09", "50:54:00:00:00:44")
        await lab.says("netdev-dummy/receive", "p1", moved)
        assert "    2     0  50:54:00:00:00:44  static\n" in await lab.says("fdb/show", "br0")
        assert await lab.says("fdb/del", "br0", "0", "50:54:00:00:00:44") == ""
        missing = await lab.refuses("fdb/del", "br0", "0", "50:54:00:00:00:44")
        assert missing == "could not find static mac entry"
        assert await lab.refuses("fdb/add", "br0", "p1", "0", "50:54") == "bad MAC address"
        assert await lab.refuses("fdb/show", "nope") == "no such bridge"
        assert await lab.says("fdb/flush") == "table successfully flushed\n"
        assert await lab.says("fdb/show", "br0") == head

    run(tmp_path, work)


def test_dummy_ports_receive_and_go_down(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        bridge = await lab.add_bridge("br0", "p1", "p2")
        await lab.node.call(lambda: bridge.switch.add_flows("actions=p2"))
        whole = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).payload(b"x").bytes()
        assert await lab.says("netdev-dummy/receive", "p1", whole.hex(), UDP, "--len", "200") == ""
        sent = await lab.node.call(lambda: [one.frame for one in bridge.transmitted("p2")])
        assert sent == [whole, frame(UDP, 200)]
        assert await lab.says("netdev-dummy/set-admin-state", "p1", "down") == "OK\n"
        assert await lab.says("netdev-dummy/receive", "p1", whole.hex()) == ""
        assert await lab.node.call(lambda: bridge.transmitted("p2")) == []
        assert await lab.says("netdev-dummy/set-admin-state", "up") == "OK\n"
        assert bridge.ports["p1"].admin_up
        assert await lab.refuses("netdev-dummy/receive", "nope", "00") == "no such dummy netdev"
        assert await lab.refuses("netdev-dummy/receive", "p1", "xyz") == "syntax error at xyz"
        assert await lab.refuses("netdev-dummy/receive", "p1", "5054") == "syntax error at 5054"
        assert await lab.refuses("netdev-dummy/receive", "p1", "--qid", "1", "5054") == "bad rx queue id."
        assert await lab.refuses("netdev-dummy/receive", "p1", UDP, "--len") == "bad packet length"
        assert await lab.refuses("netdev-dummy/set-admin-state", "sideways") == "Invalid Admin State"
        assert await lab.refuses("netdev-dummy/set-admin-state", "nope", "up") == "Unknown Dummy Interface"

    run(tmp_path, work)


def test_what_is_not_here_answers_as_a_switch_with_nothing_to_do(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.add_bridge("br0")
        for name in ("revalidator/purge", "revalidator/wait", "bond/show", "stp/show", "lacp/show"):
            assert await lab.says(name) == ""
        assert "(current 0)" in await lab.says("upcall/show")
        assert await lab.says("coverage/read-counter", "dp_packet_batch_grow") == "0\n"
        assert await lab.refuses("coverage/read-counter", "nope") == "No such counter"
        assert "ports:1" in await lab.says("memory/show")
        assert (await lab.says("coverage/show")).endswith(" events never hit\n")
        assert await lab.says("dpctl/offload-stats-show")
        assert await lab.refuses("exit", "now") == '"exit" command has no argument "now"'
        assert await lab.says("exit", "--cleanup") == ""
        assert lab.left == [True]

    run(tmp_path, work)


def test_offload_statistics_have_the_lines_that_scripts_pick_figures_from(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.add_bridge("br0")
        rows = (await lab.says("dpctl/offload-stats-show")).splitlines()
        assert rows[0] == "HW Offload stats:"
        assert rows[1] == "     Total                 Enqueued offloads:      0"
        (row,) = [row for row in rows if "Total  CT bi-dir Connections:" in row]
        assert row.split()[4] == "0"

    run(tmp_path, work)


def test_log_levels_are_set_and_listed(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        assert await lab.says("vlog/set", "ANY:file:dbg", "dpif_netdev:file:warn", "bridge:off") == ""
        lines = (await lab.says("vlog/list")).splitlines()
        assert lines[:2] == [
            "                 console    syslog    file",
            "                 -------    ------    ------",
        ]
        assert "dpif_netdev       INFO       INFO       WARN" in lines
        assert "bridge             OFF        OFF        OFF" in lines
        assert "vswitchd          INFO       INFO        DBG" in lines
        assert await lab.refuses("vlog/set", "foo:file:dbg") == 'no destination, level, or module "foo"'
        assert await lab.refuses("vlog/set", "ANY:bogus:dbg") == 'no destination, level, or module "bogus"'
        assert await lab.says("vlog/set", "PATTERN:file:%m") == ""
        assert "FILE     none                              %m" in await lab.says("vlog/list-pattern")
        assert await lab.refuses("vlog/disable-rate-limit", "foo") == "unknown module"

    run(tmp_path, work)


def test_flow_texts_become_frames() -> None:
    built = Packet().eth("50:54:00:00:00:09", "50:54:00:00:00:0a").ipv4("10.1.1.1", "10.1.1.2", id=0)
    assert frame(TCP) == built.tcp(1, 2, syn=True, seq=0, window=0).bytes()
    payload = bytes(range(64))
    assert frame(UDP) == built.udp(1, 2).payload(payload).bytes()
    tagged = (
        "eth(src=50:54:00:00:00:09,dst=50:54:00:00:00:0a),eth_type(0x8100),vlan(vid=5,pcp=3),encap("
        + UDP.removeprefix(ETH.rpartition("eth_type")[0])
        + ")"
    )
    assert frame(tagged)[12:16] == bytes.fromhex("81006005") and frame(tagged)[16:] == frame(UDP)[12:]
    assert len(frame(UDP, 300)) == 300
    arp = "eth(src=50:54:00:00:00:09,dst=ff:ff:ff:ff:ff:ff),eth_type(0x0806),"
    arp += "arp(sip=1.1.1.1,tip=1.1.1.2,op=1,sha=50:54:00:00:00:09,tha=00:00:00:00:00:00)"
    built = Packet().eth("50:54:00:00:00:09", "ff:ff:ff:ff:ff:ff").arp("1.1.1.1", "1.1.1.2", sha="50:54:00:00:00:09")
    assert frame(arp) == built.bytes()
    assert frame(arp.replace("50:54:00:00:00:09", "50:54:0:0:0:9")) == built.bytes()
    unsaid = "eth(),eth_type(0x0800),ipv4(src=1.1.1.1,dst=1.1.1.2,proto=6,tos=0,ttl=64,frag=no)"
    assert len(frame(unsaid)) == len(frame(unsaid + ",tcp(src=0,dst=0)")) == 118
    assert frame("in_port(1)") == bytes(12) + b"\x05\xff"
    unsaid = frame("recirc_id(0),in_port(1),packet_type(ns=0,id=0),eth_type(0x0800),ipv4(proto=17,frag=no),udp(dst=5)")
    assert unsaid[:14] == bytes(12) + b"\x08\0" and unsaid[23] == 17 and unsaid[26:34] == bytes(8)
    for wrong in ("", "eth(", "eth(src=1,dst=2)", "in_port=1,icmp", "ipv4(src=1.1.1)", UDP.replace("10.1.1.1", "x")):
        with pytest.raises(OdpError):
            frame(wrong)

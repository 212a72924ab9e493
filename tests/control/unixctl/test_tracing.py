"""`ofproto/trace` on a node, asked by the real ovs-appctl; texts as ovs-vswitchd 3.1 prints them."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from pathlib import Path

from flowshunt.daemon import Node
from tests.builders import Packet
from tests.control.unixctl.appctl import START_MS, Lab, needs_appctl, run

pytestmark = needs_appctl

FLOWS = """
table=0,priority=10,in_port=1,tcp actions=ct(table=1),resubmit(,2)
table=0,priority=9,in_port=2,ip actions=dec_ttl,resubmit(,1),output:3
table=0,priority=5,arp actions=normal
table=0,priority=5,in_port=1,udp,tp_dst=53 actions=controller,output:3
table=0,priority=5,in_port=1,udp,tp_dst=54 actions=ct(commit,zone=5,nat(src=9.9.9.9:1000-2000),table=1)
table=0,priority=5,in_port=3,icmp actions=output:10,output:1
table=0,priority=5,in_port=1,udp,tp_dst=59 actions=resubmit(,0)
table=1,cookie=0xdead,priority=7,ct_state=+trk+new,tcp actions=ct(commit),output:2
table=1,priority=7,ct_state=+trk+est,tcp actions=output:2
table=1,priority=3,ip actions=output:1
table=2,priority=3,ip,nw_src=10.0.0.0/8 actions=output:3
"""
ZEROS = "dl_src=00:00:00:00:00:00,dl_dst=00:00:00:00:00:00"
TAIL = "nw_tos=0,nw_ecn=0,nw_ttl=64,nw_frag=no,tp_src=1,tp_dst=80,tcp_flags=0"
HEAD = f"in_port=1,vlan_tci=0x0000,{ZEROS},nw_src=10.0.0.1,nw_dst=10.0.0.2,{TAIL}"
RULER = "=" * 79
TCP = f"""Flow: tcp,{HEAD}

bridge("br0")
-------------
 0. tcp,in_port=1, priority 10
    ct(table=1)
    drop
     -> A clone of the packet is forked to recirculate. The forked pipeline will be resumed at table 1.
     -> Sets the packet to an untracked state, and clears all the conntrack fields.
    resubmit(,2)
 2. ip,nw_src=10.0.0.0/8, priority 3
    output:3

Final flow: unchanged
Megaflow: recirc_id=0,eth,tcp,in_port=1,nw_src=10.0.0.0/8,nw_frag=no
Datapath actions: ct,recirc(0x1),3

{RULER}
recirc(0x1) - resume conntrack with default ct_state=trk|new (use --ct-next to customize)
{RULER}

Flow: recirc_id=0x1,ct_state=new|trk,eth,tcp,{HEAD}

bridge("br0")
-------------
    thaw
        Resuming from table 1
 1. ct_state=+new+trk,tcp, priority 7, cookie 0xdead
    ct(commit)
    drop
     -> Sets the packet to an untracked state, and clears all the conntrack fields.
    output:2

Final flow: recirc_id=0x1,eth,tcp,{HEAD}
Megaflow: recirc_id=0x1,ct_state=+new+trk,eth,tcp,in_port=1,nw_frag=no
Datapath actions: ct(commit),2"""
SETS = """
table=0,icmp actions=output:3,write_actions(dec_ttl,output:2),goto_table:4
table=4,icmp actions=write_actions(output:1),goto_table:5
table=5,icmp,icmp_code=1 actions=clear_actions
"""
SET_EXECUTED = """
bridge("br0")
-------------
 0. icmp, priority 32768
    output:3
    write_actions(dec_ttl,output:2)
     -> action set is: dec_ttl,output:2
    goto_table:4
     4. icmp, priority 32768
            write_actions(output:1)
             -> action set is: dec_ttl,output:1
            goto_table:5
         5. No match.
            drop
--. Executing action set:
    dec_ttl
    output:1

"""
SET_CLEARED = """
 5. icmp,icmp_code=1, priority 32768
    clear_actions
     -> action set was: dec_ttl,output:1

Final flow: unchanged
"""
ASKED = "in_port=1,tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tcp_src=1,tcp_dst=80,nw_ttl=64"


async def make(lab: Lab) -> None:
    bridge = await lab.add_bridge("br0", "p1", "p2", "p3")
    await lab.node.call(lambda: bridge.add_port("pa", "patch", ofport_request=10, options={"peer": "pb"}))
    other = await lab.add_bridge("br1", "p4")
    await lab.node.call(lambda: other.add_port("pb", "patch", ofport_request=11, options={"peer": "pa"}))
    await lab.node.call(lambda: bridge.switch.add_flows(FLOWS, now_ms=START_MS))
    await lab.node.call(lambda: other.switch.add_flows("actions=output:1", now_ms=START_MS))


def memory(node: Node) -> list[str]:
    """What packets could change, as digests: counters, stations, groups, connections."""
    found = []
    for bridge in node.bridges.values():
        datapath = bridge.switch.datapath
        n_rules = int(datapath.rules.arrays.state["n_rules"][0])
        used = int(datapath.rules.arrays.state["pool_used"][0])
        parts = (
            datapath.rules.arrays.rules[:n_rules],
            datapath.rules.arrays.pool[:used],
            datapath.rules.arrays.tables,
            *datapath.ports.arrays,
            datapath._work.keys,
            datapath._output.counters,
        )
        found += [hashlib.sha256(part.tobytes()).hexdigest() for part in parts]
    tracker = node.tracker.arrays
    found += [hashlib.sha256(part.tobytes()).hexdigest() for part in (tracker.state, tracker.conns[:64], tracker.wheel)]
    return found


def test_a_trace_reads_as_open_vswitchs(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await make(lab)
        assert await lab.says("ofproto/trace", "br0", ASKED) == TCP + "\n"
        named = await lab.says("ofproto/trace", "br0", "in_port=p1,tcp", "--names", "--ct-next", "trk,est,rpl")
        assert "resume conntrack with ct_state=est|rpl|trk\n" in named
        assert " 0. tcp,in_port=p1, priority 10\n" in named and named.endswith("Datapath actions: p2\n")
        odp = "in_port(1),eth(src=00:00:00:00:00:01,dst=00:00:00:00:00:02),eth_type(0x0800),"
        odp += "ipv4(src=10.0.0.1,dst=10.0.0.2,proto=6,tos=0,ttl=64,frag=no),tcp(src=1,dst=2),tcp_flags(0x2)"
        for words in ((odp,), ("netdev@ovs-netdev", odp)):
            said = await lab.says("ofproto/trace", *words)
            assert said.startswith("Flow: tcp,in_port=1,") and "tcp_flags=syn" in said
        assert (await lab.says("ofproto/trace", "in_port(p1)")).startswith("Flow: in_port=1,")
        unsaid = await lab.says("ofproto/trace", "br0", "arp,dl_src=50:54:00:00:00:05")
        assert unsaid.startswith("Flow: arp,in_port=ANY,") and "     -> no learned MAC" in unsaid
        assert sorted(unsaid.splitlines()[-1].rpartition(" ")[2].split(",")) == ["1", "2", "3", "4", "5"]

    run(tmp_path, work)


def test_patch_ports_lead_into_the_other_bridges_story(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await make(lab)
        said = await lab.says("ofproto/trace", "br0", "in_port=3,icmp,icmp_type=8")
        assert (
            ' 0. icmp,in_port=3, priority 5\n    output:10\n\n    bridge("br1")\n    -------------\n'
            "         0. priority 32768\n            output:1\n    output:1\n"
        ) in said
        assert said.endswith("Datapath actions: 4,1\n")
        shown = await lab.says("dpif/show")
        assert "    pa 10/none: (patch: peer=pb)\n" in shown and "    pb 11/none: (patch: peer=pa)\n" in shown
        assert "(patch" not in await lab.says("dpctl/show")

    run(tmp_path, work)


def test_tags_beyond_the_limit_are_payload(tmp_path: Path) -> None:
    tagged = "in_port(1),eth(src=00:00:00:00:00:01,dst=00:00:00:00:00:02),eth_type(0x8100),vlan(vid=16,pcp=0),"
    tagged += "encap(eth_type(0x8100),vlan(vid=17,pcp=0),encap(eth_type(0xabcd)))"

    async def work(lab: Lab) -> None:
        await make(lab)
        ports = lab.node.bridges["br0"].switch.datapath.ports
        for limit, kind in ((1, "dl_type=0x8100"), (2, "dl_type=0xabcd")):
            await lab.node.call(partial(ports.configure, vlan_limit=limit))
            assert f",{kind}\n\n" in await lab.says("ofproto/trace", tagged)

    run(tmp_path, work)


def test_nat_is_simulated_and_limits_are_told(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await make(lab)
        said = await lab.says("ofproto/trace", "br0", "in_port=1,udp,udp_dst=54,nw_src=1.2.3.4")
        assert (
            "Replacing src/dst IP/ports to simulate NAT:\n"
            " Initial flow: nw_src=1.2.3.4,tp_src=0,nw_dst=0.0.0.0,tp_dst=54\n"
            " Modified flow: nw_src=9.9.9.9,tp_src=1000,nw_dst=0.0.0.0,tp_dst=54\n"
        ) in said
        assert " >> skipping output to input port\n" in said
        deep = await lab.says("ofproto/trace", "br0", "in_port=1,udp,udp_dst=59")
        assert " >>>> over max translation depth 64 <<<<\n" in deep
        assert "\nTranslation failed (Recursion too deep), packet is dropped.\n" in deep
        ttl = await lab.says("ofproto/trace", "br0", "in_port=2,ip,nw_ttl=1")
        assert "     >> IPv4 decrement TTL exception\n" in ttl and ttl.endswith("Datapath actions: drop\n")

    run(tmp_path, work)


def test_a_packet_is_judged_by_the_tracker_and_leaves_no_trace(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await make(lab)
        packet = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(1, 80, syn=True).bytes()
        outside = ("ofproto/trace-packet-out", "br0", "in_port=1,tcp", "ct(commit),resubmit(,0),output:2")
        await lab.says(*outside)  # its actions lie where nothing lay before
        before = await lab.node.call(lambda: memory(lab.node))
        new = await lab.says("ofproto/trace", "br0", "in_port=1", packet.hex())
        await lab.says("ofproto/trace", "br0", "in_port=3,arp,dl_src=00:00:00:00:00:05,dl_dst=ff:ff:ff:ff:ff:ff")
        await lab.says("ofproto/trace", "br0", "in_port=3,icmp,icmp_type=8")
        await lab.says("ofproto/trace", "br0", "in_port=1,udp,udp_dst=54")
        await lab.says(*outside)
        assert await lab.node.call(lambda: memory(lab.node)) == before
        assert "resume conntrack with ct_state=new|trk (as the tracker says)\n" in new
        assert await lab.says("dpctl/dump-conntrack") == ""
        assert await lab.says("fdb/show", "br0") == " port  VLAN  MAC                Age\n"

        await lab.says("netdev-dummy/receive", "p1", packet.hex())
        again = await lab.says("ofproto/trace", "br0", "in_port=1", packet.hex())
        assert "ct_state=new|trk (as the tracker says)" in again
        reply = Packet().eth().ipv4("10.0.0.2", "10.0.0.1").tcp(80, 1, syn=True, ack=True).bytes()
        answered = await lab.says("ofproto/trace", "br0", "in_port=1", reply.hex())
        assert "ct_state=est|rpl|trk (as the tracker says)" in answered and "output:2" in answered

    run(tmp_path, work)


def test_generate_does_it_but_sends_nothing(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await make(lab)
        await lab.says("ofproto/trace", "br0", ASKED.replace("nw_ttl=64", "nw_ttl=64,tcp_flags=syn"), "-generate")
        assert "sport=1,dport=80" in await lab.says("dpctl/dump-conntrack")
        arp = "in_port=3,arp,dl_src=00:00:00:00:00:05,dl_dst=ff:ff:ff:ff:ff:ff"
        await lab.says("ofproto/trace", "br0", arp, "-generate")
        assert "00:00:00:00:00:05" in await lab.says("fdb/show", "br0")
        sent = [await lab.node.call(partial(lab.node.bridges["br0"].transmitted, name)) for name in ("p1", "p2", "p3")]
        assert sent == [[], [], []]

    run(tmp_path, work)


def test_a_packet_out_begins_with_its_actions(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await make(lab)
        said = await lab.says("ofproto/trace-packet-out", "br0", "in_port=1,tcp", "resubmit(,2),output:2")
        assert "-------------\n    resubmit(,2)\n     2. No match.\n            drop\n    output:2\n" in said
        assert said.endswith(
            "Megaflow: recirc_id=0,eth,ip,in_port=1,nw_src=0.0.0.0/8,nw_frag=no\nDatapath actions: 2\n"
        )

    run(tmp_path, work)


def test_nonsense_is_refused_in_open_vswitchs_words(tmp_path: Path) -> None:
    wrong = {
        ("brx", "in_port=1"): "brx: unknown bridge",
        ("br0",): "syntax error at br0 (or the bridge name was omitted)",
        ("br0", "in_port=1", "--foo"): "--foo: unknown option",
        ("br0", "in_port=1", "--ct-next", "bla"): "bla: unknown connection tracking state flag",
        ("br0", "in_port=1", "--ct-next"): "Missing argument for option --ct-next",
        ("br0", "in_port=1", "zz"): "Trailing garbage in packet data",
        ("br0", "in_port=1", "00", "00"): "too many arguments",
        ("br0", "bogus=1"): 'Bad openflow flow syntax: bogus=1: unknown field "bogus"',
    }

    async def work(lab: Lab) -> None:
        await make(lab)
        for words, text in wrong.items():
            assert (await lab.refuses("ofproto/trace", *words)).startswith(text), words
        assert "wildcards not allowed here" in await lab.refuses("ofproto/trace", "br0", "ip,nw_src=10.0.0.0/8")

    run(tmp_path, work)


def test_groups_tell_which_bucket(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await make(lab)
        path = lab.node.bridges["br0"].management_path
        for words in (
            ("add-group", "group_id=7,type=select,bucket=output:2,bucket=output:3"),
            ("add-group", "group_id=8,type=all,bucket=output:2,bucket=set_field:1.1.1.1->ip_src,output:3"),
            ("add-flow", "priority=20,udp,in_port=1,actions=group:7"),
            ("add-flow", "priority=20,tcp,in_port=1,actions=group:8,output:2"),
        ):
            arguments = ("-O", "OpenFlow13", words[0], f"unix:{path}", words[1])
            process = await asyncio.create_subprocess_exec("ovs-ofctl", *arguments)
            assert await process.wait() == 0
        chosen = await lab.says("ofproto/trace", "br0", "in_port=1,udp")
        assert " -> using bucket " in chosen and "    bucket " in chosen
        every = await lab.says("ofproto/trace", "br0", "in_port=1,tcp")
        assert ("    group:8\n    bucket 0\n            output:2\n    bucket 1\n") in every and every.endswith(
            "Datapath actions: 2,set(ipv4(src=1.1.1.1)),3,set(ipv4(src=0.0.0.0)),2\n"
        )

    run(tmp_path, work)


def test_a_trace_tells_what_becomes_of_the_action_set(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        bridge = await lab.add_bridge("br0", "p1", "p2", "p3")
        await lab.node.call(lambda: bridge.switch.add_flows(SETS, now_ms=START_MS))
        said = await lab.says("ofproto/trace", "br0", "in_port=2,icmp,nw_ttl=64")
        assert SET_EXECUTED in said
        assert said.endswith("Datapath actions: 3,set(ipv4(ttl=63)),1\n")
        said = await lab.says("ofproto/trace", "br0", "in_port=2,icmp,nw_ttl=64,icmp_code=1")
        assert SET_CLEARED in said
        assert said.endswith("Datapath actions: 3\n")

    run(tmp_path, work)

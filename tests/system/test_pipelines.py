"""What stands around ct: controllers, groups, resubmits, more than one bridge."""

from __future__ import annotations

import re
import socket

import pytest

from flowshunt.ports.devices import link_of
from tests.builders.packets import Packet
from tests.system.lab import TOOLS, Lab, exchange, mac
from tests.system.network import needs, poll

pytestmark = needs(*TOOLS)
UDP = "udp,orig=(src=10.1.1.1,dst=10.1.1.2,sport=1,dport=2),reply=(src=10.1.1.2,dst=10.1.1.1,sport=2,dport=1)"
DATAGRAM = Packet().eth(mac(1), mac(2)).ipv4("10.1.1.1", "10.1.1.2").udp(1, 2).payload(b"hello").bytes().hex()


def ends(lab: Lab) -> tuple[socket.socket, socket.socket]:
    """Port 1 of host 1 and port 2 of host 2."""
    return lab.listen(1, 1, socket.SOCK_DGRAM), lab.listen(2, 2, socket.SOCK_DGRAM)


def there_and_back(lab: Lab) -> None:
    """A datagram from host 1 to host 2, and its answer."""
    a, b = ends(lab)
    a.sendto(b"there", ("10.1.1.2", 2))
    assert b.recv(9) == b"there"
    b.sendto(b"back", ("10.1.1.1", 1))
    assert a.recv(9) == b"back"


def test_controllers_see_what_the_tracker_said(lab: Lab) -> None:
    lab.rules(
        "in_port=1,udp,actions=ct(commit,zone=4,exec(set_field:0x17->ct_mark,set_field:0x5->ct_label)),2\n"
        "in_port=2,udp,actions=ct(zone=4,table=1)\n"
        "table=1,ct_state=+est+rpl+trk,udp,actions=1,controller(max_len=50)"
    )
    log = lab.directory / "monitor.log"
    lab.monitor(log)
    there_and_back(lab)
    poll(lambda: "udp," in log.read_text())
    said = log.read_text()
    assert "NXT_PACKET_IN2 (xid=0x0): table_id=1 cookie=0x0 total_len=60" in said or "total_len=46" in said
    assert re.search(
        r"ct_state=est\|rpl\|trk,ct_zone=4,ct_mark=0x17,ct_label=0x5,ct_nw_src=10.1.1.1,ct_nw_dst=10.1.1.2,ct_nw_proto=17,"
        r"ct_tp_src=1,ct_tp_dst=2,ip,in_port=2 \(via action\) data_len=\d+", said,
    )  # fmt: skip
    assert (
        "udp,vlan_tci=0x0000,dl_src=02:00:00:00:00:02,dl_dst=02:00:00:00:00:01,nw_src=10.1.1.2,nw_dst=10.1.1.1" in said
    )


@pytest.mark.parametrize("version", ["OpenFlow10", "OpenFlow13", "OpenFlow15"])
def test_controllers_send_packets_into_the_tracker(lab: Lab, version: str) -> None:
    lab.rules("in_port=2,udp,actions=ct(table=1)\ntable=1,ct_state=+est+rpl+trk,udp,actions=1")
    a, b = ends(lab)
    if version == "OpenFlow10":
        words = ("packet-out", "br0", "1", "ct(commit),2", DATAGRAM)
    else:
        words = ("packet-out", "br0", f"in_port=1 packet={DATAGRAM} actions=ct(commit),2")
    lab.ofctl("-O", version, *words)
    assert b.recv(9) == b"hello"
    lab.expect(UDP)
    b.sendto(b"back", ("10.1.1.1", 1))
    assert a.recv(9) == b"back"


def test_packets_that_controllers_send_may_pass_the_tables(lab: Lab) -> None:
    lab.rules("in_port=controller,udp,actions=ct(commit,table=1)\ntable=1,ct_state=+new+trk,udp,actions=2")
    b = ends(lab)[1]
    lab.ofctl("-O", "OpenFlow13", "packet-out", "br0", f"in_port=controller packet={DATAGRAM} actions=table")
    assert b.recv(9) == b"hello"
    lab.expect(UDP)


def test_a_packet_is_looked_for_again_after_ct(lab: Lab) -> None:
    lab.rules(
        "in_port=1,udp,actions=ct(commit,table=1),set_field:10.1.1.9->ip_dst,resubmit(,3)\n"
        "table=1,ct_state=+new+trk,udp,actions=load:7->NXM_NX_REG1[],resubmit(,2)\n"
        "table=2,reg1=7,ct_state=+new+trk,udp,actions=2\n"
        "table=3,ct_state=-trk,nw_dst=10.1.1.9,udp,actions=drop\n"
        "in_port=2,udp,actions=ct(table=4)\n"
        "table=4,ct_state=+est+rpl+trk,udp,actions=resubmit(1,5)\n"
        "table=5,in_port=1,udp,actions=output:1,in_port"
    )
    there_and_back(lab)
    assert [lab.packets(f"table={table}") for table in (1, 2, 3, 4, 5)] == [1, 1, 1, 1, 1]


def test_a_resubmit_may_look_for_the_original_tuple(lab: Lab) -> None:
    """resubmit(,T,ct): the rules of table T see who began, for packets of both directions."""
    lab.rules(
        "in_port=1,udp,actions=ct(commit,table=1)\nin_port=2,udp,actions=ct(table=1)\n"
        "table=1,ct_state=-inv+trk,udp,actions=resubmit(,2,ct)\n"
        "table=2,nw_src=10.1.1.1,nw_dst=10.1.1.2,udp,tp_src=1,tp_dst=2,actions=normal"
    )
    there_and_back(lab)
    assert lab.packets("table=2") == 2


@pytest.mark.parametrize(
    "group",
    [
        "type=all,bucket=ct(commit,table=3,zone=7,exec(set_field:1->ct_mark))",
        "type=indirect,bucket=ct(commit,table=3,zone=7,exec(set_field:1->ct_mark))",
        "type=select,selection_method=hash,fields(ip_src),bucket=ct(commit,table=3,zone=7,exec(set_field:1->ct_mark))",
        "type=ff,bucket=watch_port:2,ct(commit,table=3,zone=7,exec(set_field:1->ct_mark)),bucket=watch_port:3,actions=3",
    ],
)  # fmt: skip
def test_groups_may_track(lab: Lab, group: str) -> None:
    lab.rules("actions=drop")
    lab.ofctl("-O", "OpenFlow15", "del-groups", "br0")
    lab.ofctl("-O", "OpenFlow15", "add-group", "br0", f"group_id=5,{group}")
    lab.rules(
        "in_port=1,udp,actions=ct(zone=7,table=1)\ntable=1,ct_state=+trk,udp,actions=group:5\ntable=3,udp,actions=2\n"
        "in_port=2,udp,actions=ct(zone=7,table=2)\ntable=2,ct_state=+est+rpl+trk,ct_mark=1,udp,actions=1"
    )
    there_and_back(lab)
    lab.expect(UDP + ",zone=7,mark=1")
    said = lab.ofctl("-O", "OpenFlow15", "dump-group-stats", "br0")
    assert re.search(
        r"group_id=5,duration=[\d.]+s,ref_count=1,packet_count=1,byte_count=47,bucket0:packet_count=1,", said
    )


def test_what_comes_after_ct_goes_to_all_of_a_group(lab: Lab) -> None:
    lab.ofctl("-O", "OpenFlow13", "del-groups", "br0")
    lab.ofctl(
        "-O", "OpenFlow13", "add-group", "br0", "group_id=6,type=all,bucket=2,bucket=set_field:10.1.1.3->ip_dst,3"
    )
    lab.rules(
        "in_port=1,udp,actions=ct(commit,table=1)\ntable=1,ct_state=+new+trk,udp,actions=set_field:ff:ff:ff:ff:ff:ff->eth_dst,group:6"
    )
    a, b = ends(lab)
    c = lab.listen(3, 2, socket.SOCK_DGRAM)
    a.sendto(b"both", ("10.1.1.2", 2))
    assert (b.recv(9), c.recv(9)) == (b"both", b"both")
    lab.expect(UDP)


def test_bridges_track_one_after_the_other(lab: Lab) -> None:
    """The tracker is that of the datapath, so that bridges keep apart by zones."""
    lab.vsctl(
        *("add-br", "br1", "--", "set", "bridge", "br1", "fail-mode=secure", "datapath_type=netdev"),
        *("--", "add-port", "br0", "to1", "--", "set", "interface", "to1", "type=patch", "options:peer=to0"),
        *("--", "add-port", "br1", "to0", "--", "set", "interface", "to0", "type=patch", "options:peer=to1"),
        *("--", "del-port", "br0", "p2", "--", "add-port", "br1", "p2"),
    )
    try:
        for bridge, inner, outer, zone in (("br0", "p1", "to1", 1), ("br1", "to0", "p2", 2)):
            lab.rules(
                f"in_port={inner},ip,ct_state=-trk,actions=ct(commit,zone={zone}),{outer}\n"
                f"in_port={outer},ip,ct_state=-trk,actions=ct(zone={zone},table=1)\n"
                f"table=1,ct_state=+est+rpl+trk,ct_zone={zone},ip,actions={inner}",
                bridge,
            )
        server = lab.listen(2, 80)
        exchange(lab.call(1, "10.1.1.2", 80, 5000), lab.accept(server))
        lab.ping(1, "10.1.1.2")
        line = UDP.replace("udp", "tcp").replace("port=1,", "port=5000,").replace("port=1)", "port=5000)")
        line = line.replace("port=2", "port=80")
        for zone in (1, 2):
            assert f"{line},zone={zone},protoinfo=(state=ESTABLISHED)" in lab.connections(f"zone={zone}")
            assert len(lab.connections(f"zone={zone}")) == 2
    finally:
        lab.vsctl(
            *("del-br", "br1", "--", "del-port", "br0", "to1", "--", "add-port", "br0", "p2"),
            *("--", "set", "interface", "p2", "ofport_request=2"),
        )


def test_rules_answer_arp(lab: Lab) -> None:
    """A responder of loads and moves, for an address that nobody has."""
    answer = (
        "load:2->NXM_OF_ARP_OP[],move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:02:00:00:00:00:77->eth_src,"
        "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:02:00:00:00:00:77->arp_sha,"
        "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],load:0x0a01014d->NXM_OF_ARP_SPA[],in_port"
    )
    lab.rules(f"arp,arp_op=1,arp_tpa=10.1.1.77,actions={answer}")
    lab.open(1, socket.SOCK_DGRAM).sendto(b"who?", ("10.1.1.77", 9))
    poll(lambda: "02:00:00:00:00:77" in lab.network.run("h1", "ip", "neigh", "show", "10.1.1.77"))


def test_rules_count_packets_and_bytes_exactly(lab: Lab) -> None:
    lab.rules(
        "table=0,arp,action=normal\ntable=0,ip,ct_state=-trk,action=ct(table=1)\n"
        "table=1,priority=1,ip,ct_state=+trk+new,action=ct(commit),normal\n"
        "table=1,priority=1,ip,ct_state=+trk+est,action=normal"
    )
    lab.ping(1, "10.1.1.2")
    said = lab.ofctl("dump-flows", "br0")
    counted = re.findall(r"table=\d, n_packets=(\d+, n_bytes=\d+).*?[, ](ct_state=[-+a-z]+)", said)
    assert {state: figures for figures, state in counted} == {
        "ct_state=-trk": "6, n_bytes=588", "ct_state=+new+trk": "1, n_bytes=98", "ct_state=+est+trk": "5, n_bytes=490",
    }  # fmt: skip


def test_rules_learn_the_way_back(lab: Lab) -> None:
    lab.rules(
        "in_port=1,udp,actions=learn(table=5,eth_type=0x800,NXM_OF_IP_DST[]=NXM_OF_IP_SRC[],"
        "output:NXM_OF_IN_PORT[]),ct(commit,zone=3),2\n"
        "in_port=2,udp,actions=ct(zone=3,table=4)\ntable=4,ct_state=+est+rpl+trk,udp,actions=resubmit(,5)"
    )
    there_and_back(lab)
    assert "nw_dst=10.1.1.1 actions=output:" in lab.ofctl("--no-names", "dump-flows", "br0", "table=5")


def test_a_switch_goes_on_while_its_database_is_away(lab: Lab) -> None:
    lab.rules(
        "in_port=1,ip,actions=ct(commit),2\nin_port=2,ip,actions=ct(table=1)\ntable=1,ct_state=+est+trk,ip,actions=1"
    )
    lab.ping(1, "10.1.1.2")
    lab.stop_database()
    lab.ping(1, "10.1.1.2")
    assert lab.packets("in_port=1") == 6
    lab.start_database()
    lab.vsctl("--timeout=60", "set", "bridge", "br0", "external_ids:seen=true")  # waits for the switch
    lab.ping(1, "10.1.1.2")
    assert all("db.sock" in line for line in lab.complaints())


def test_the_database_knows_how_fast_devices_are(lab: Lab) -> None:
    """veth devices say what they are, whatever they do; one that is not there says nothing."""
    fast = ["10000000000", "full"]
    poll(lambda: lab.vsctl("get", "interface", "p1", "link_speed", "duplex").split() == fast)
    lab.vsctl("--timeout=60", "add-port", "br0", "gone0")
    try:
        assert lab.vsctl("get", "interface", "gone0", "link_speed", "duplex").split() == ["[]", "[]"]
        assert lab.complaints_but("gone0") == []
    finally:
        lab.vsctl("--timeout=60", "del-port", "br0", "gone0")
    assert link_of("lo") is None

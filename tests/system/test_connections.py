"""Connections as rules see them: states, zones, marks, labels, and what ends them."""

from __future__ import annotations

import socket

import pytest

from tests.builders.packets import Packet
from tests.system.lab import TOOLS, Lab, exchange, mac
from tests.system.network import needs, poll

pytestmark = needs(*TOOLS)
TCP = "tcp,orig=(src=10.1.1.1,dst=10.1.1.2,sport={a},dport={b}),reply=(src=10.1.1.2,dst=10.1.1.1,sport={b},dport={a})"
UDP = TCP.replace("tcp", "udp")
ICMP = (
    "icmp,orig=(src=10.1.1.1,dst=10.1.1.2,id=<ID>,type=8,code=0),"
    "reply=(src=10.1.1.2,dst=10.1.1.1,id=<ID>,type=0,code=0)"
)
FIREWALL = """\
in_port=1,ip,actions=ct(commit),2
in_port=1,ipv6,actions=ct(commit),2
in_port=2,ip,ct_state=-trk,actions=ct(table=0)
in_port=2,ipv6,ct_state=-trk,actions=ct(table=0)
in_port=2,ct_state=+trk+est,ip,actions=1
in_port=2,ct_state=+trk+est,ipv6,actions=1
in_port=2,ct_state=+trk+rel,ip,actions=1
in_port=2,ct_state=+trk+rel,ipv6,actions=1
in_port=2,ct_state=+trk+new,ip,actions=drop
in_port=2,ct_state=+trk+new,ipv6,actions=drop
"""


def tcp(a: int, b: int, more: str = "") -> str:
    return TCP.format(a=a, b=b) + f"{more},protoinfo=(state=ESTABLISHED)"


def say(lab: Lab, own_port: int, port: int, text: bytes = b"hello", *, number: int = 1, target: int = 2) -> None:
    """A datagram, with no one to answer."""
    made = lab.open(number, socket.SOCK_DGRAM)
    made.bind(("", own_port))
    made.sendto(text, (f"10.1.1.{target}", port))


def test_calls_from_inside_pass_and_others_do_not(lab: Lab) -> None:
    lab.rules(FIREWALL)
    server = lab.listen(2, 80)
    client = lab.call(1, "10.1.1.2", 80, 5000)
    exchange(client, lab.accept(server))
    lab.expect(tcp(5000, 80))
    lab.listen(1, 80)
    stranger = lab.call(2, "10.1.1.1", 80, 5000, waits=False)
    lab.wait_for_packets("in_port=2,ct_state=+trk+new,ip")
    assert stranger.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    with pytest.raises(OSError, match="not connected"):
        stranger.getpeername()
    lab.expect(tcp(5000, 80))


def test_ping_and_tcp_of_ipv6(lab: Lab) -> None:
    lab.rules(FIREWALL)
    lab.ping(1, "fc00::2")
    server = lab.listen(2, 80, address="fc00::2")
    exchange(lab.call(1, "fc00::2", 80, 5000), lab.accept(server))
    lab.expect(
        "icmpv6,orig=(src=fc00::1,dst=fc00::2,id=<ID>,type=128,code=0),"
        "reply=(src=fc00::2,dst=fc00::1,id=<ID>,type=129,code=0)",
        "tcp,orig=(src=fc00::1,dst=fc00::2,sport=5000,dport=80),reply=(src=fc00::2,dst=fc00::1,sport=80,dport=5000),"
        "protoinfo=(state=ESTABLISHED)",
    )


def test_the_end_of_a_connection_is_seen(lab: Lab) -> None:
    lab.rules(FIREWALL)
    server = lab.listen(2, 80)
    client = lab.call(1, "10.1.1.2", 80, 5000)
    accepted = lab.accept(server)
    exchange(client, accepted)
    client.shutdown(socket.SHUT_WR)
    poll(lambda: "state_orig=FIN_WAIT_2,state_reply=ESTABLISHED" in lab.connections("-m")[0])
    lab.expect(TCP.format(a=5000, b=80) + ",protoinfo=(state=TIME_WAIT)")
    accepted.close()
    poll(lambda: "state_orig=FIN_WAIT_2,state_reply=FIN_WAIT_2" in lab.connections("-m")[0])


def test_without_commit_nothing_is_kept(lab: Lab) -> None:
    lab.rules("ip,ct_state=-trk,actions=ct(table=1)\ntable=1,ct_state=+new+trk,ip,actions=normal")
    a, b = lab.listen(1, 1, socket.SOCK_DGRAM), lab.listen(2, 2, socket.SOCK_DGRAM)
    a.sendto(b"there", ("10.1.1.2", 2))
    assert b.recv(9) == b"there"
    b.sendto(b"back", ("10.1.1.1", 1))
    assert a.recv(9) == b"back"
    assert lab.packets("table=1,ct_state=+new+trk,ip") == 2
    lab.expect()


def test_force_turns_a_connection_round(lab: Lab) -> None:
    """What is committed in the reply direction with force counts as opened from there."""
    lab.rules(
        "table=0,in_port=1,udp,actions=ct(commit),2\n"
        "table=0,in_port=2,udp,tp_src=7,actions=ct(commit,force),1\n"
        "table=0,priority=1,in_port=2,udp,actions=ct(commit),1"
    )
    a, b = lab.listen(1, 1000, socket.SOCK_DGRAM), lab.listen(2, 7, socket.SOCK_DGRAM)
    a.sendto(b"there", ("10.1.1.2", 7))
    assert b.recvfrom(9)[1] == ("10.1.1.1", 1000)
    lab.expect(UDP.format(a=1000, b=7))
    b.sendto(b"back", ("10.1.1.1", 1000))
    assert a.recv(9) == b"back"
    lab.expect(
        "udp,orig=(src=10.1.1.2,dst=10.1.1.1,sport=7,dport=1000),reply=(src=10.1.1.1,dst=10.1.1.2,sport=1000,dport=7)"
    )


def test_a_packet_that_makes_no_sense_is_invalid(lab: Lab) -> None:
    lab.rules(
        "ip,ct_state=-trk,actions=ct(table=1)\ntable=1,ct_state=+inv+trk,ip,actions=drop\ntable=1,priority=1,ip,actions=ct(commit),2"
    )
    raw = lab.raw(1)
    good = Packet().eth(mac(1), mac(2)).ipv4("10.1.1.1", "10.1.1.2").udp(1, 2).payload(b"x" * 20).bytes()
    raw.send(good[:-1] + b"y")  # the checksum is wrong now
    raw.send(Packet().eth(mac(1), mac(2)).ipv4("10.1.1.1", "10.1.1.2").tcp(1, 2, syn=True, fin=True).bytes())
    raw.send(Packet().eth(mac(1), mac(2)).ipv4("10.1.1.1", "10.1.1.2").tcp(1, 0, syn=True).bytes())
    lab.wait_for_packets("table=1,ct_state=+inv+trk", 3)
    raw.send(good)
    lab.wait_for_packets("table=1,ip")
    lab.expect(UDP.format(a=1, b=2))


@pytest.mark.parametrize(
    ("zone", "listed"),
    [
        ("zone=7", "zone=7"),
        ("zone=NXM_NX_REG0[0..15]", "zone=18"),
        ("zone=NXM_NX_REG0[16..31]", "zone=52"),
        ("zone=OXM_OF_METADATA[0..15]", "zone=9"),
        ("zone=NXM_NX_CT_LABEL[0..15]", "zone=0"),
    ],
)
def test_a_zone_may_come_from_a_field(lab: Lab, zone: str, listed: str) -> None:
    before = "load:0x340012->NXM_NX_REG0[],load:9->OXM_OF_METADATA[]"
    lab.rules(
        f"in_port=1,ip,actions={before},ct(commit,{zone}),2\nin_port=2,ip,actions={before},ct({zone},table=1)\ntable=1,ct_state=+est+rpl+trk,ip,actions=1"
    )
    lab.ping(1, "10.1.1.2")
    lab.expect(ICMP + (f",{listed}" if listed != "zone=0" else ""))
    if listed != "zone=0":
        assert len(lab.connections(listed)) == 1
        assert lab.connections("zone=1234") == []


def test_zones_in_a_row_track_the_same_addresses_apart(lab: Lab) -> None:
    lab.rules(
        "in_port=1,ip,actions=ct(commit,zone=1),ct(commit,zone=2,exec(set_field:5->ct_mark)),2\n"
        "table=0,in_port=2,ip,actions=ct(table=1,zone=2)\n"
        "table=1,ct_state=+est+trk,ct_zone=2,ct_mark=5,ip,actions=ct(table=2,zone=1)\n"
        "table=2,ct_state=+est+trk,ct_zone=1,ct_mark=0,ip,actions=1"
    )
    lab.ping(1, "10.1.1.2")
    server = lab.listen(2, 80)
    exchange(lab.call(1, "10.1.1.2", 80, 5000), lab.accept(server))
    lab.expect(ICMP + ",zone=1", ICMP + ",zone=2,mark=5", tcp(5000, 80, ",zone=1"), tcp(5000, 80, ",zone=2,mark=5"))
    lab.flush("zone=1")
    lab.expect(ICMP + ",zone=2,mark=5", tcp(5000, 80, ",zone=2,mark=5"))


@pytest.mark.parametrize(
    ("execute", "match", "listed"),
    [
        ("set_field:0x17->ct_mark", "ct_mark=23", "mark=23"),
        ("load:0x17->NXM_NX_CT_MARK[]", "ct_mark=0x17", "mark=23"),
        ("move:NXM_NX_REG0[]->NXM_NX_CT_MARK[]", "ct_mark=0xabcd", "mark=43981"),
        ("set_field:0x2/0x6->ct_mark", "ct_mark=0x2/0x6", "mark=2"),
        ("set_field:0x5->ct_label", "ct_label=5", "labels=0x5"),
        ("set_field:0x000d00000000000000000001->ct_label", "ct_label=0x1/0xff", "labels=0xd00000000000000000001"),
        ("load:3->NXM_NX_CT_LABEL[64..95]", "ct_label=0x30000000000000000", "labels=0x30000000000000000"),
        ("move:NXM_NX_REG0[]->NXM_NX_CT_LABEL[32..63]", "ct_label=0xcd00000000/0xff00000000", "labels=0xabcd00000000"),
    ],
)  # fmt: skip
def test_marks_and_labels_are_kept_and_matched(lab: Lab, execute: str, match: str, listed: str) -> None:
    lab.rules(
        f"in_port=1,ip,actions=load:0xabcd->NXM_NX_REG0[],ct(commit,exec({execute})),2\n"
        "in_port=2,ip,actions=ct(table=1)\n"
        f"table=1,{match},ip,actions=1"
    )
    lab.ping(1, "10.1.1.2")
    lab.expect(f"{ICMP},{listed}")


def test_a_mark_is_changed_by_a_later_packet(lab: Lab) -> None:
    lab.rules(
        "in_port=1,udp,tp_src=1,actions=ct(commit,exec(set_field:1->ct_mark)),2\n"
        "in_port=2,udp,actions=ct(commit,exec(set_field:2->ct_mark)),1"
    )
    a, b = lab.listen(1, 1, socket.SOCK_DGRAM), lab.listen(2, 2, socket.SOCK_DGRAM)
    a.sendto(b"x", ("10.1.1.2", 2))
    b.recv(9)
    lab.expect(UDP.format(a=1, b=2) + ",mark=1")
    b.sendto(b"x", ("10.1.1.1", 1))
    a.recv(9)
    lab.expect(UDP.format(a=1, b=2) + ",mark=2")


def test_the_original_tuple_is_matched_in_both_directions(lab: Lab) -> None:
    lab.rules(
        "in_port=1,udp,actions=ct(commit,table=1)\nin_port=2,udp,actions=ct(table=1)\n"
        "table=1,ct_nw_src=10.1.1.1,ct_nw_dst=10.1.1.2,ct_nw_proto=17,ct_tp_src=1,ct_tp_dst=2,ct_state=+trk-inv,udp,actions=normal"
    )
    a, b = lab.listen(1, 1, socket.SOCK_DGRAM), lab.listen(2, 2, socket.SOCK_DGRAM)
    a.sendto(b"x", ("10.1.1.2", 2))
    b.recv(9)
    b.sendto(b"y", ("10.1.1.1", 1))
    assert a.recv(9) == b"y"
    assert lab.packets("table=1") == 2


def test_ct_clear_makes_a_packet_untracked(lab: Lab) -> None:
    lab.rules(
        "in_port=1,ip,actions=ct(commit,zone=3,exec(set_field:1->ct_mark),table=1)\n"
        "table=1,ct_state=+trk,ct_zone=3,ip,actions=ct_clear,resubmit(,2)\n"
        "table=2,ct_state=-trk,ct_zone=0,ct_mark=0,ip,actions=2\n"
        "in_port=2,ip,actions=1"
    )
    lab.ping(1, "10.1.1.2")
    assert lab.packets("table=2") == 3


@pytest.mark.parametrize("address", ["10.1.1.2", "fc00::2"])
def test_icmp_errors_are_related_to_what_they_quote(lab: Lab, address: str) -> None:
    lab.rules(FIREWALL)
    caller = lab.open(1, socket.SOCK_DGRAM, socket.AF_INET6 if ":" in address else socket.AF_INET)
    caller.connect((address, 9))
    caller.send(b"anyone there?")
    with pytest.raises(ConnectionRefusedError):
        caller.recv(10)
    assert lab.packets("ct_state=+rel+trk") == 1
    assert lab.packets("ct_state=+est+trk") == 0


def test_icmp_errors_about_nothing_are_invalid(lab: Lab) -> None:
    lab.rules(
        "in_port=1,udp,actions=2\nin_port=2,icmp,ct_state=-trk,actions=ct(table=1)\ntable=1,ct_state=+inv+trk,icmp,actions=drop\ntable=1,priority=1,actions=1"
    )
    say(lab, 1, 9)
    lab.wait_for_packets("table=1,ct_state=+inv+trk,icmp")


HOSTS = "ct_nw_src=10.1.1.1,ct_nw_dst=10.1.1.2"
FLUSHES = {
    "zone": (["zone=5"], {"2"}),
    "zone that has none": (["zone=6"], {"1", "2", "3"}),
    "mark": (["mark=3"], {"1", "2"}),
    "mark with a mask": (["mark=0x1/0x1"], {"2"}),
    "label": (["labels=0x2"], {"1", "3"}),
    "original tuple": (["zone=5", f"{HOSTS},ct_nw_proto=17,ct_tp_src=1,ct_tp_dst=7"], {"2", "3"}),
    "part of the original tuple": (["ct_nw_src=10.1.1.1,ct_nw_proto=17,ct_tp_src=3"], {"1", "2"}),
    "protocol": (["ct_nw_proto=17"], set()),
    "reply tuple": (["", "ct_nw_src=10.1.1.2,ct_nw_proto=17,ct_tp_dst=2"], {"1", "3"}),
    "zone and tuple": (["zone=5", "ct_nw_src=10.1.1.1,ct_nw_proto=17,ct_tp_src=1"], {"2", "3"}),
    "all": ([], set()),
}  # fmt: skip


@pytest.mark.parametrize("case", FLUSHES)
def test_flush_takes_what_is_named(lab: Lab, case: str) -> None:
    """Connections from ports 1 (zone 5, mark 1), 2 (zone 0, label 2) and 3 (zone 5, mark 3)."""
    arguments, left = FLUSHES[case]
    lab.rules(
        "udp,tp_src=1,actions=ct(commit,zone=5,exec(set_field:1->ct_mark))\n"
        "udp,tp_src=2,actions=ct(commit,exec(set_field:2->ct_label))\n"
        "udp,tp_src=3,actions=ct(commit,zone=5,exec(set_field:3->ct_mark))"
    )
    for port in (1, 2, 3):
        say(lab, port, 7)
    poll(lambda: len(lab.connections()) == 3)
    lab.flush(*arguments)
    assert {line.split("sport=")[1].split(",")[0] for line in lab.connections()} == left


def test_controllers_flush_by_zone_and_tuple(lab: Lab) -> None:
    lab.rules("udp,tp_src=1,actions=ct(commit,zone=5)\nudp,actions=ct(commit)")
    for port in (1, 2, 3):
        say(lab, port, 7)
    poll(lambda: len(lab.connections()) == 3)
    lab.ofctl("ct-flush-zone", "br0", "5")
    lab.expect(UDP.format(a=2, b=7), UDP.format(a=3, b=7))
    lab.ofctl("ct-flush", "br0", "ct_nw_src=10.1.1.1,ct_nw_proto=17,ct_tp_src=2")
    lab.expect(UDP.format(a=3, b=7))
    lab.ofctl("ct-flush", "br0")
    lab.expect()


def test_nonsense_is_not_flushed(lab: Lab) -> None:
    said = lab.appctl("dpctl/flush-conntrack", "zone=5", "ct_nw_src=10.1.1.1,ct_nw_src=fc00::1", status=2)
    assert "ovs-appctl: ovs-vswitchd: server returned an error" in said


def test_limits_of_zones_hold(lab: Lab) -> None:
    lab.appctl("dpctl/ct-set-limits", "default=10", "zone=5,limit=2")
    assert (
        lab.appctl("dpctl/ct-get-limits", "zone=5,6")
        == "default limit=10\nzone=5,limit=2,count=0\nzone=6,limit=10,count=0\n"
    )
    lab.rules("udp,actions=ct(commit,zone=5),ct(commit,zone=6)")
    for port in range(1, 6):
        say(lab, port, 7)
    lab.wait_for_packets("udp", 5)
    lab.expect(
        *(UDP.format(a=port, b=7) + ",zone=5" for port in (1, 2)),
        *(UDP.format(a=port, b=7) + ",zone=6" for port in range(1, 6)),
    )
    assert "zone=5,limit=2,count=2" in lab.appctl("dpctl/ct-get-limits", "zone=5")
    lab.appctl("dpctl/ct-del-limits", "zone=5")
    lab.appctl("dpctl/ct-set-limits", "default=0")
    say(lab, 9, 7)
    poll(lambda: len(lab.connections("zone=5")) == 3)


def test_limits_come_from_the_database_too(lab: Lab) -> None:
    if "set-zone-limit" not in lab.vsctl("--help"):
        pytest.skip("this ovs-vsctl has no set-zone-limit: Open vSwitch 3.3 and later do")
    lab.vsctl("set-zone-limit", "netdev", "7", "1")
    try:
        lab.rules("udp,actions=ct(commit,zone=7)")
        poll(lambda: "zone=7,limit=1," in lab.appctl("dpctl/ct-get-limits", "zone=7"))
        for port in (1, 2):
            say(lab, port, 7)
        lab.wait_for_packets("udp", 2)
        lab.expect(UDP.format(a=1, b=7) + ",zone=7")
    finally:
        lab.vsctl("del-zone-limit", "netdev", "7")


def test_the_table_has_a_maximum(lab: Lab) -> None:
    before = lab.appctl("dpctl/ct-get-maxconns").strip()
    lab.rules("udp,actions=ct(commit)")
    try:
        assert lab.appctl("dpctl/ct-set-maxconns", "3") == "setting maxconns successful\n"
        for port in range(1, 7):
            say(lab, port, 7)
        lab.wait_for_packets("udp", 6)
        assert (len(lab.connections()), lab.appctl("dpctl/ct-get-nconns")) == (3, "3\n")
    finally:
        lab.appctl("dpctl/ct-set-maxconns", before)


def test_a_zones_timeout_policy_ends_its_connections(lab: Lab) -> None:
    lab.vsctl(
        "--",
        "--id=@it",
        "create",
        "Datapath",
        "datapath_version=0",
        "--",
        "set",
        "Open_vSwitch",
        ".",
        "datapaths:netdev=@it",
    )
    lab.vsctl("add-zone-tp", "netdev", "zone=8", "udp_single=1", "udp_first=1", "icmp_first=1", "icmp_reply=1")
    try:
        lab.rules("udp,actions=ct(commit,zone=8),ct(commit,zone=9)\nicmp,actions=ct(commit,zone=8),normal")
        lab.ping(1, "10.1.1.2")
        say(lab, 1, 7)
        lab.wait_for_packets("udp")
        lab.expect(UDP.format(a=1, b=7) + ",zone=9")
    finally:
        lab.vsctl("del-zone-tp", "netdev", "zone=8")


def test_counters_of_a_connection_are_those_of_its_packets(lab: Lab) -> None:
    lab.rules(FIREWALL)
    lab.ping(1, "10.1.1.2", "-s", "100")
    line = lab.connections("-s")[0]
    assert "id=<ID>,type=8,code=0,packets=3,bytes=384)" in line
    assert "id=<ID>,type=0,code=0,packets=3,bytes=384)" in line
    assert lab.appctl("dpctl/ct-stats-show").splitlines()[1:] == ["    Total: 1", "  ICMP: 1"]


def test_a_raw_sctp_association_is_tracked(lab: Lab) -> None:
    """From frames: not every kernel has SCTP."""
    lab.rules(
        "in_port=1,sctp,actions=ct(commit,zone=1),2\nin_port=2,sctp,actions=ct(zone=1,table=1)\ntable=1,ct_state=+est+rpl+trk,ct_zone=1,sctp,tp_src=80,actions=1"
    )
    there, back = lab.raw(1), lab.raw(2)
    one = Packet().eth(mac(1), mac(2)).ipv4("10.1.1.1", "10.1.1.2").sctp(5000, 80).bytes()
    other = Packet().eth(mac(2), mac(1)).ipv4("10.1.1.2", "10.1.1.1").sctp(80, 5000).bytes()
    there.send(one)
    lab.wait_for_packets("in_port=1,sctp")
    back.send(other)
    lab.wait_for_packets("table=1,sctp")
    lines = lab.connections()
    assert len(lines) == 1 and lines[0].startswith("sctp,orig=(src=10.1.1.1,dst=10.1.1.2,sport=5000,dport=80),reply=(")

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from flowshunt.conntrack.connection import Connection, Tuple, address_text, combined_tcp_state
from flowshunt.conntrack.listing import conntrack8, dpctl, proc
from flowshunt.conntrack.listing import json as listing_json
from tests.cli.tlines import CAPTURES, read_conntrack, read_dpctl, table_lines

needs_captures = pytest.mark.skipif(not CAPTURES.is_dir(), reason="needs the real captures in ../shared/captures")


def established(**changes: Any) -> Connection:
    """A TCP connection in mid-life, as conntrack.md and ovs-appctl.md show one."""
    connection = Connection(
        id=7,
        generation=1,
        family=4,
        protocol=6,
        original=Tuple(ip_address("10.1.1.1"), ip_address("10.1.1.2"), 40000, 80),
        reply=Tuple(ip_address("10.1.1.2"), ip_address("10.1.1.1"), 80, 40000),
        zone=0,
        mark=0,
        label=0,
        profile="default",
        states=("ESTABLISHED", "ESTABLISHED"),
        state="ESTABLISHED",
        seen_reply=True,
        assured=True,
        timeout_ms=86_399_001,
        start_ms=1_795_175_105_358,
        packets=(4, 3),
        bytes=(217, 166),
        in_port=1,
        wscale=(7, 0),
    )
    return replace(connection, **changes)


def ping(**changes: Any) -> Connection:
    """An ICMP echo that was answered."""
    hosts = ip_address("10.1.1.1"), ip_address("10.1.1.2")
    return established(
        protocol=1,
        original=Tuple(*hosts, icmp_type=8, icmp_code=0, icmp_id=4660),
        reply=Tuple(*reversed(hosts), icmp_type=0, icmp_code=0, icmp_id=4660),
        states=None,
        state=None,
        assured=False,
        timeout_ms=29_000,
        wscale=(None, None),
        **changes,
    )


@needs_captures
def test_every_table_line_of_open_vswitch_is_printed_again() -> None:
    lines = table_lines("*.ovs") + table_lines("*.ovs-nocsum") + table_lines("*.ovs-helpers")
    assert len(lines) > 1000
    for text in lines:
        assert dpctl.line(read_dpctl(text), more=True, statistics=True) == text


@needs_captures
def test_every_table_line_of_conntrack_is_printed_again() -> None:
    lines = table_lines("*.kernel") + table_lines("*.kernel-helpers")
    assert len(lines) > 500
    for text in lines:
        assert conntrack8.line(read_conntrack(text), extended=True, counters=False) == text


def test_conntrack_line_has_counters_and_no_family_by_default() -> None:
    assert conntrack8.line(established()) == (
        "tcp      6 86399 ESTABLISHED src=10.1.1.1 dst=10.1.1.2 sport=40000 dport=80 packets=4 bytes=217 "
        "src=10.1.1.2 dst=10.1.1.1 sport=80 dport=40000 packets=3 bytes=166 [ASSURED] mark=0 use=1"
    )


def test_conntrack_line_with_all_output_options() -> None:
    connection = established(zone=5, mark=17, label=0xBEEF, helper="ftp", seen_reply=False, assured=False)
    text = conntrack8.line(
        connection, extended=True, now_ms=connection.start_ms + 2500, timestamps=True, ids=True, labels=True
    )
    assert text == (
        "ipv4     2 tcp      6 86399 ESTABLISHED src=10.1.1.1 dst=10.1.1.2 sport=40000 dport=80 packets=4 bytes=217 "
        "[UNREPLIED] src=10.1.1.2 dst=10.1.1.1 sport=80 dport=40000 packets=3 bytes=166 mark=17 zone=5 delta-time=2 "
        "[start=Fri Nov 20 11:45:05 2026] helper=ftp use=1 id=7 labels=0xbeef"
    )


def test_icmp_is_listed_by_type_code_and_id() -> None:
    assert conntrack8.line(ping(), counters=False) == (
        "icmp     1 29 src=10.1.1.1 dst=10.1.1.2 type=8 code=0 id=4660 "
        "src=10.1.1.2 dst=10.1.1.1 type=0 code=0 id=4660 mark=0 use=1"
    )
    assert dpctl.line(ping(mark=1)) == (
        "icmp,orig=(src=10.1.1.1,dst=10.1.1.2,id=4660,type=8,code=0),"
        "reply=(src=10.1.1.2,dst=10.1.1.1,id=4660,type=0,code=0),mark=1"
    )


def test_proc_line_of_an_offloaded_connection_has_no_timeout_and_no_state() -> None:
    text = proc.line(established(offload="HW_OFFLOAD", use=2), counters=False)
    assert text == (
        "ipv4     2 tcp      6 src=10.1.1.1 dst=10.1.1.2 sport=40000 dport=80 "
        "src=10.1.1.2 dst=10.1.1.1 sport=80 dport=40000 [HW_OFFLOAD] mark=0 zone=0 use=3"
    )


def test_proc_line_writes_ipv6_in_full_and_always_the_zone() -> None:
    hosts = ip_address("2001:db8::1"), ip_address("fe80::2")
    connection = established(
        family=6, protocol=17, states=None, state=None, original=Tuple(*hosts, 5353, 53), zone=9,
        reply=Tuple(*reversed(hosts), 53, 5353), seen_reply=False, assured=False, timeout_ms=29_999,
    )  # fmt: skip
    assert proc.line(connection) == (
        "ipv6     10 udp      17 29 src=2001:0db8:0000:0000:0000:0000:0000:0001 "
        "dst=fe80:0000:0000:0000:0000:0000:0000:0002 sport=5353 dport=53 packets=4 bytes=217 [UNREPLIED] "
        "src=fe80:0000:0000:0000:0000:0000:0000:0002 dst=2001:0db8:0000:0000:0000:0000:0000:0001 sport=53 dport=5353 "
        "packets=3 bytes=166 mark=0 zone=9 use=2"
    )


def test_dpctl_line_without_options_shows_one_state() -> None:
    assert dpctl.line(established(mark=1)) == (
        "tcp,orig=(src=10.1.1.1,dst=10.1.1.2,sport=40000,dport=80),"
        "reply=(src=10.1.1.2,dst=10.1.1.1,sport=80,dport=40000),mark=1,protoinfo=(state=ESTABLISHED)"
    )


def test_dpctl_line_with_more_and_statistics() -> None:
    connection = established(zone=5, mark=7, label=0x123456789ABCDEF0, packets=(4, 0), bytes=(217, 0))
    assert dpctl.line(connection, more=True, statistics=True) == (
        "tcp,orig=(src=10.1.1.1,dst=10.1.1.2,sport=40000,dport=80,packets=4,bytes=217),"
        "reply=(src=10.1.1.2,dst=10.1.1.1,sport=80,dport=40000),start=2026-11-20T11:45:05.358,id=7,zone=5,"
        "status=SEEN_REPLY|ASSURED|CONFIRMED,timeout=86399,mark=7,labels=0x123456789abcdef0,"
        "protoinfo=(state_orig=ESTABLISHED,state_reply=ESTABLISHED,wscale_orig=7,wscale_reply=0,"
        "flags_orig=WINDOW_SCALE,flags_reply=WINDOW_SCALE)"
    )


@pytest.mark.parametrize(("linux", "ovs"), [("FIN_WAIT", "FIN_WAIT_1"), ("CLOSE", "CLOSED"), ("SYN_SENT2", "SYN_SENT")])
def test_linux_states_are_translated_for_dpctl(linux: str, ovs: str) -> None:
    connection = established(profile="linux", state=linux, states=(linux, linux))
    assert f"protoinfo=(state={ovs})" in dpctl.line(connection)
    assert f"state_orig={ovs},state_reply={ovs}," in dpctl.line(connection, more=True)


@pytest.mark.parametrize(
    ("ovs", "linux"),
    [("FIN_WAIT_1", "FIN_WAIT"), ("CLOSED", "CLOSE"), ("CLOSING", "FIN_WAIT"), ("FIN_WAIT_2", "TIME_WAIT")],
)
def test_states_of_open_vswitch_are_translated_for_conntrack(ovs: str, linux: str) -> None:
    assert f" 86399 {linux} src=" in conntrack8.line(established(state=ovs))


def test_dpctl_line_merges_the_states_that_open_vswitch_merges() -> None:
    connection = established(state="FIN_WAIT_2", states=("FIN_WAIT_2", "FIN_WAIT_2"))
    assert dpctl.line(connection).endswith("protoinfo=(state=TIME_WAIT)")
    assert "state_orig=FIN_WAIT_2,state_reply=FIN_WAIT_2" in dpctl.line(connection, more=True)


PARENT = Tuple(ip_address("10.1.1.1"), ip_address("10.1.1.2"), 40000, 21)
RICH = {
    "zone": 5, "mark": 17, "label": 0xBEEF, "helper": "ftp", "parent": 3, "parent_tuple": PARENT, "parent_protocol": 6,
    "nat": "src", "reply": Tuple(ip_address("10.1.1.2"), ip_address("192.0.2.1"), 80, 5000),
}  # fmt: skip


def test_every_format_shows_nat_zone_mark_label_helper_and_parent() -> None:
    connection = established(**RICH)
    assert conntrack8.line(connection, counters=False, labels=True) == (
        "tcp      6 86399 ESTABLISHED src=10.1.1.1 dst=10.1.1.2 sport=40000 dport=80 "
        "src=10.1.1.2 dst=192.0.2.1 sport=80 dport=5000 [ASSURED] mark=17 zone=5 helper=ftp use=1 labels=0xbeef "
        "master-src=10.1.1.1 master-dst=10.1.1.2 master-sport=40000 master-dport=21"
    )
    assert proc.line(connection, counters=False) == (
        "ipv4     2 tcp      6 86399 ESTABLISHED src=10.1.1.1 dst=10.1.1.2 sport=40000 dport=80 "
        "src=10.1.1.2 dst=192.0.2.1 sport=80 dport=5000 [ASSURED] mark=17 zone=5 use=2 helper=ftp labels=0xbeef "
        "master-src=10.1.1.1 master-dst=10.1.1.2 master-sport=40000 master-dport=21"
    )
    assert dpctl.line(connection, more=True) == (
        "tcp,orig=(src=10.1.1.1,dst=10.1.1.2,sport=40000,dport=80),"
        "reply=(src=10.1.1.2,dst=192.0.2.1,sport=80,dport=5000),id=7,zone=5,status=SEEN_REPLY|ASSURED|CONFIRMED,mark=17,"
        "labels=0xbeef,protoinfo=(state_orig=ESTABLISHED,state_reply=ESTABLISHED,wscale_orig=7,wscale_reply=0,"
        "flags_orig=WINDOW_SCALE,flags_reply=WINDOW_SCALE),helper=ftp,"
        "parent=(src=10.1.1.1,dst=10.1.1.2,sport=40000,dport=21)"
    )
    document = listing_json.document(connection)
    shown = {key: document[key] for key in ("nat", "zone", "mark", "label", "helper", "parent")}
    assert shown == {"nat": "src", "zone": 5, "mark": 17, "label": "0xbeef", "helper": "ftp", "parent": 3}
    assert document["reply"]["destination"] == "192.0.2.1"


def test_dpctl_shows_the_tags_of_an_association_of_the_linux_profile() -> None:
    connection = established(
        protocol=132, profile="linux", states=None, state="COOKIE_WAIT", wscale=(None, None),
        machine=(("lo", (7, 9)), ("peer", (0, 0)), ("last_index", (0,))),
    )  # fmt: skip
    assert dpctl.line(connection).endswith(",protoinfo=(state=COOKIE_WAIT,vtag_orig=7,vtag_reply=9)")
    assert "protoinfo" not in dpctl.line(established(protocol=132, states=None, state=None, wscale=(None, None)))


def test_sctp_states_are_printed_as_they_are() -> None:
    connection = established(protocol=132, profile="linux", state="CLOSED", states=None)
    assert conntrack8.line(connection).startswith("sctp     132 86399 CLOSED src=")
    assert "protoinfo" not in dpctl.line(connection)


def test_two_peer_states_combine_to_the_one_further_on() -> None:
    assert combined_tcp_state("SYN_SENT", "CLOSED") == "SYN_SENT"
    assert combined_tcp_state("SYN_SENT", "SYN_RECV") == "ESTABLISHED"
    assert combined_tcp_state("ESTABLISHED", "FIN_WAIT_2") == "TIME_WAIT"
    assert combined_tcp_state("CLOSING", "ESTABLISHED") == "CLOSING"
    with pytest.raises(ValueError, match="LOST"):
        combined_tcp_state("LOST", "CLOSED")


def test_ipv6_addresses_that_hold_an_ipv4_one_are_written_as_other_tools_do() -> None:
    assert address_text(ip_address("::ffff:10.0.0.1")) == "::ffff:10.0.0.1"
    assert address_text(ip_address("2001:db8:0:0:1:0:0:1")) == "2001:db8::1:0:0:1"


def test_expired_timeouts_are_printed_as_zero() -> None:
    assert conntrack8.line(established(timeout_ms=-1500)).startswith("tcp      6 0 ESTABLISHED")
    assert listing_json.document(established(timeout_ms=-1500))["timeout_ms"] == 0


def test_json_has_every_field_in_every_connection() -> None:
    documents = [
        listing_json.document(c) for c in (established(), ping(), established(offload="OFFLOAD", helper="ftp"))
    ]
    assert documents[0].keys() == documents[1].keys() == documents[2].keys()
    assert documents[0]["original"].keys() == documents[1]["reply"].keys()
    assert documents[0]["original"]["icmp_id"] is None
    assert documents[1]["original"]["icmp_id"] == 4660
    assert documents[1]["original"]["source_port"] is None
    assert documents[1]["original"]["wscale"] is None
    assert documents[2]["timeout_ms"] is None
    assert documents[2]["status"] == ["SEEN_REPLY", "ASSURED", "CONFIRMED", "OFFLOAD"]
    assert json.loads(json.dumps(documents)) == documents


def test_listings_are_ordered_by_start_then_protocol_then_tuple() -> None:
    late, tcp, udp = established(start_ms=2), established(start_ms=1), established(start_ms=1, protocol=17)
    other_port = replace(tcp, original=replace(tcp.original, source_port=40001))
    assert sorted([late, udp, other_port, tcp], key=lambda c: c.sort_key) == [tcp, other_port, udp, late]

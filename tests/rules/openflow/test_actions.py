"""Actions and the values they are read to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from flowshunt.conntrack.nat import Nat
from flowshunt.packet.schema import VLAN_PRESENT
from flowshunt.rules.openflow import FlowSyntaxError, format_flow, parse_flow
from flowshunt.rules.openflow.flow import (
    Action,
    All,
    Clone,
    Ct,
    CtClear,
    DecTtl,
    Flood,
    GotoTable,
    InPort,
    Local,
    Move,
    Normal,
    Note,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    Subfield,
)

PORTS = {"p0": 1, "pf0hpf": 2, "NORMAL-ish": 3}


def actions_of(text: str, match: str = "") -> tuple[Action, ...]:
    return parse_flow(f"{match} actions={text}", ports=PORTS).actions


def whole(field: str, start: int, width: int, value: int) -> SetField:
    return SetField(Subfield(field, start, width), value, (1 << width) - 1)


REG0, REG1 = Subfield("reg0", 0, 32), Subfield("reg1", 0, 32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("drop", ()),
        ("", ()),
        ("3", (Output(3),)),
        ("output:3,output(4)", (Output(3), Output(4))),
        ("p0,output:pf0hpf,\"NORMAL-ish\"", (Output(1), Output(2), Output(3))),
        ("output:NXM_NX_REG0[]", (Output(REG0),)),
        ("output:reg0[0..15]", (Output(Subfield("reg0", 0, 16)),)),
        ("NORMAL,flood,All,in_port,LOCAL", (Normal(), Flood(), All(), InPort(), Local())),
        ("output:65534,65528", (Local(), InPort())),
        ("resubmit:1", (Resubmit(1, None),)),
        ("resubmit(1,2),resubmit(,2)", (Resubmit(1, 2), Resubmit(None, 2))),
        ("resubmit(p0,2),resubmit(IN_PORT,2)", (Resubmit(1, 2), Resubmit(None, 2))),
        ("resubmit(1,2,ct),resubmit(,2,ct)", (Resubmit(1, 2, True), Resubmit(None, 2, True))),
        ("resubmit(1,255)", (Resubmit(1, None),)),
        ("1,goto_table:5", (Output(1), GotoTable(5))),
        ("set_field:5->reg0", (whole("reg0", 0, 32, 5),)),
        ("set_field:5/3->reg0", (whole("reg0", 0, 2, 1),)),
        ("set_field:0x1234/0xf0f0->reg0", (whole("reg0", 4, 4, 3), whole("reg0", 12, 4, 1))),
        ("set_field:5/0->reg0", ()),
        ("set_field:5->reg0[4..7]", (whole("reg0", 4, 4, 5),)),
        ("set_field:00:11:22:33:44:55->eth_src", (whole("eth_src", 0, 48, 0x001122334455),)),
        ("load:5->NXM_NX_REG0[0..15]", (whole("reg0", 0, 16, 5),)),
        ("load:0x1ffffffffffffffff->xxreg0[]", (whole("xxreg0", 0, 128, 0x1FFFFFFFFFFFFFFFF),)),
        ("load:1->OXM_OF_METADATA[63]", (whole("metadata", 63, 1, 1),)),
        ("move:reg0->NXM_NX_REG1[]", (Move(REG0, REG1),)),
        ("move:reg0[0..15]->reg1[16..31]", (Move(Subfield("reg0", 0, 16), Subfield("reg1", 16, 16)),)),
        ("mod_dl_dst:1:2:3:4:5:6", (whole("eth_dst", 0, 48, 0x010203040506),)),
        ("mod_nw_src:1.2.3.4", (whole("nw_src", 0, 32, 0x01020304),)),
        ("mod_nw_tos:16", (whole("nw_tos", 2, 6, 4),)),
        ("mod_tp_dst:80", (whole("tp_dst", 0, 16, 80),)),
        ("push_vlan:0x88a8,pop_vlan,strip_vlan", (PushVlan(0x88A8), PopVlan(), PopVlan())),
        ("dec_ttl,dec_ttl()", (DecTtl(), DecTtl())),
        ("ct_clear", (CtClear(),)),
        ("write_metadata:5", (whole("metadata", 0, 64, 5),)),
        ("write_metadata:0x50/0xf0,goto_table:3", (whole("metadata", 4, 4, 5), GotoTable(3))),
        ("clone(1,clone(2)),3", (Clone((Output(1), Clone((Output(2),)))), Output(3))),
        ("clone()", (Clone(()),)),
        ("note:00.11.22,note:0011", (Note(b"\x00\x11\x22"), Note(b"\x00\x11"))),
        ("ct(commit,table=1)", (Ct(commit=True, table=1),)),
    ],
)  # fmt: skip
def test_actions_of_any_packet(text: str, expected: tuple[Action, ...]) -> None:
    assert actions_of(text) == expected


@pytest.mark.parametrize(
    ("match", "text", "expected"),
    [
        ("ip", "set_field:1.2.3.4->nw_src", whole("nw_src", 0, 32, 0x01020304)),
        ("arp", "set_field:1.2.3.4->arp_spa", whole("nw_src", 0, 32, 0x01020304)),
        ("arp", "load:2->NXM_OF_ARP_OP[]", whole("nw_proto", 0, 8, 2)),
        ("ipv6", "set_field:::1->ipv6_dst", whole("ipv6_dst", 0, 128, 1)),
        ("ip", "set_field:4->ip_dscp", whole("nw_tos", 2, 6, 4)),
        ("ip", "set_field:16->nw_tos", whole("nw_tos", 2, 6, 4)),
        ("ip", "load:1->NXM_NX_IP_ECN[]", whole("nw_tos", 0, 2, 1)),
        ("udp", "set_field:53->udp_dst", whole("tp_dst", 0, 16, 53)),
        ("icmp", "set_field:3->icmp_type", whole("tp_src", 0, 8, 3)),
        ("icmp6,icmp_type=136", "set_field:0:0:0:0:0:1->nd_tll", whole("arp_tha", 0, 48, 1)),
        ("dl_vlan=1", "set_field:4101->vlan_vid", whole("vlan_tci", 0, 12, 5)),
        ("dl_vlan=1", "set_field:3->vlan_pcp", whole("vlan_tci", 13, 3, 3)),
    ],
)
def test_fields_that_the_match_makes_sure_of(match: str, text: str, expected: SetField) -> None:
    assert actions_of(text, match) == (expected,)
    with pytest.raises(FlowSyntaxError, match="need not have"):
        actions_of(text)


def test_mod_vlan_adds_a_tag_and_what_follows_may_use_it() -> None:
    vid, pcp = actions_of("mod_vlan_vid:5,set_field:3->vlan_pcp")
    assert vid == whole("vlan_tci", 0, 13, 5 | VLAN_PRESENT)
    assert pcp == whole("vlan_tci", 13, 3, 3)
    assert actions_of("mod_vlan_pcp:3") == (whole("vlan_tci", 12, 4, 3 << 1 | 1),)
    with pytest.raises(FlowSyntaxError, match="need not have"):
        actions_of("strip_vlan,set_field:3->vlan_pcp", "dl_vlan=1")


def test_bits_that_a_field_has_not_are_moved_as_zeros() -> None:
    state, rest = actions_of("move:ct_state->reg0")
    assert state == Move(Subfield("ct_state", 0, 16), Subfield("reg0", 0, 16))
    assert rest == whole("reg0", 16, 16, 0)
    tos, ecn = actions_of("move:NXM_OF_IP_TOS[]->reg0[8..15]", "ip")
    assert tos == Move(Subfield("nw_tos", 2, 6), Subfield("reg0", 10, 6))
    assert ecn == whole("reg0", 8, 2, 0)


@pytest.mark.parametrize(
    ("match", "text"), [("arp", "mod_nw_src:1.2.3.4"), ("icmp", "mod_tp_src:5"), ("arp", "mod_nw_tos:4")]
)
def test_a_mod_action_that_changes_no_packet_of_the_flow_is_left_out_with_a_warning(match: str, text: str) -> None:
    told: list[object] = []
    flow = parse_flow(f"{match} actions={text},1", warn=told.append)
    assert flow.actions == (Output(1),)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ct", Ct()),
        ("ct()", Ct()),
        ("ct(commit)", Ct(commit=True)),
        ("ct(commit,force)", Ct(commit=True, force=True)),
        ("ct(zone=5,table=0)", Ct(zone=5, table=0)),
        ("ct(zone=0x10)", Ct(zone=16)),
        ("ct(zone=NXM_NX_REG0[0..15])", Ct(zone=Subfield("reg0", 0, 16))),
        ("ct(commit,exec(set_field:5->ct_mark, load:1->NXM_NX_CT_LABEL[0]))",
         Ct(commit=True, exec=(whole("ct_mark", 0, 32, 5), whole("ct_label", 0, 1, 1)))),
        ("ct(commit,exec(move:reg0->ct_mark))", Ct(commit=True, exec=(Move(REG0, Subfield("ct_mark", 0, 32)),))),
    ],
)  # fmt: skip
def test_ct_and_its_arguments(text: str, expected: Ct) -> None:
    assert actions_of(text, "ip") == (expected,)


def test_the_commands_of_the_smart_nic_page() -> None:
    assert parse_flow("table=0,arp,action=normal").actions == (Normal(),)
    assert parse_flow("table=0,ip,ct_state=-trk,action=ct(table=1)").actions == (Ct(table=1),)
    commit = parse_flow("table=1,priority=1,ip,ct_state=+trk+new,action=ct(commit),normal")
    assert (commit.table, commit.priority, commit.actions) == (1, 1, (Ct(commit=True), Normal()))
    assert parse_flow("table=1,priority=1,ip,ct_state=+trk+est,action=normal").actions == (Normal(),)
    roce = parse_flow("table=0,udp,tp_dst=4791,action=normal")
    assert ("tp_dst", 4791, 0xFFFF) in roce.match


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nat", Nat()),
        ("nat()", Nat()),
        ("nat(src)", Nat("src")),
        ("nat(src=0.0.0.0)", Nat("src")),
        ("nat(src=1.1.1.16)", Nat("src", IPv4Address("1.1.1.16"))),
        ("nat(src=1.1.1.1-1.1.1.9:5-7,random,persistent)",
         Nat("src", IPv4Address("1.1.1.1"), IPv4Address("1.1.1.9"), (5, 7), random=True, persistent=True)),
        ("nat(dst=1.1.1.1:80 hash)", Nat("dst", IPv4Address("1.1.1.1"), None, (80, 80), hash=True)),
        ("nat(dst=1.1.1.1-1.1.1.1:0)", Nat("dst", IPv4Address("1.1.1.1"))),
    ],
)  # fmt: skip
def test_nat_and_its_arguments(text: str, expected: Nat) -> None:
    assert actions_of(f"ct(commit,{text})", "ip") == (Ct(commit=True, nat=expected),)


def test_nat_with_ipv6_addresses() -> None:
    first, last = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::9")
    for text in ("[2001:db8::1]-[2001:db8::9]", "2001:db8::1-2001:db8::9", "[2001:db8::1]-2001:db8::9"):
        assert actions_of(f"ct(commit,nat(src={text}))", "ipv6") == (Ct(commit=True, nat=Nat("src", first, last)),)
    (action,) = actions_of("ct(commit,nat(dst=[2001:db8::1]:80-81))", "ipv6")
    assert action == Ct(commit=True, nat=Nat("dst", first, None, (80, 81)))
    assert actions_of("ct(commit,nat(src=[::]))", "ipv6") == (Ct(commit=True, nat=Nat("src")),)


@pytest.mark.parametrize(
    ("text", "word", "message"),
    [
        ("ip actions=ct(nat(src=1.1.1.1))", "nat(src=1.1.1.1)", "nat needs commit"),
        ("ip actions=ct(commit,nat(src=1.1.1.1,dst=2.2.2.2))", "dst", "src and dst exclude each other"),
        ("ip actions=ct(commit,nat(random))", "random", "random needs src or dst"),
        ("ip actions=ct(commit,nat(src=1.1.1.1,random,hash))", "random", "random and hash exclude each other"),
        ("ip actions=ct(commit,nat(src=1.1.1.9-1.1.1.1))", "1.1.1.9-1.1.1.1", "before it begins"),
        ("ip actions=ct(commit,nat(src=1.1.1.1:9-5))", "1.1.1.1:9-5", "no range of ports"),
        ("ip actions=ct(commit,nat(src=1.1.1.1:65536))", "65536", "no range of ports"),
        ("ip actions=ct(commit,nat(src=1.1.1.1:0-5))", "1.1.1.1:0-5", "no range of ports"),
        ("ip actions=ct(commit,nat(src=1.1.1))", "src=1.1.1", "is not an IPv4 address"),
        ("ip actions=ct(commit,nat(src=0.0.0.0:5))", "src=0.0.0.0:5", "stands alone"),
        ("ip actions=ct(commit,nat(source=1.1.1.1))", "source", "unknown argument"),
        ("ip actions=ct(commit,nat(src=[1::1]))", "src=[1::1]", "match ipv6"),
        ("ipv6 actions=ct(commit,nat(src=1.1.1.1))", "src=1.1.1.1", "match ip"),
        ("ipv6 actions=ct(commit,nat(src=[1::1]-[1::5))", "[1::1]-[1::5", "no range of addresses"),
        ("actions=nat(src=1.1.1.1)", "nat", "nat stands inside ct"),
    ],
)
def test_mistakes_in_nat(text: str, word: str, message: str) -> None:
    with pytest.raises(FlowSyntaxError) as caught:
        parse_flow(text)
    assert message in str(caught.value)
    assert caught.value.word == word


def test_names_of_tables() -> None:
    flow = parse_flow('table=a,actions=resubmit(,"b"),goto_table:b', tables={"a": 3, "b": 7})
    assert (flow.table, flow.actions) == (3, (Resubmit(None, 7), GotoTable(7)))


def test_a_helper_is_named_where_its_protocol_is_matched() -> None:
    ftp = parse_flow("tcp6,actions=ct(alg=ftp,commit,zone=9,exec(set_field:5->ct_mark))")
    assert ftp.actions == (
        Ct(True, False, 9, None, (SetField(Subfield("ct_mark", 0, 32), 5, 0xFFFFFFFF),), None, "ftp"),
    )
    assert format_flow(ftp).endswith("actions=ct(commit,zone=9,exec(load:0x5->NXM_NX_CT_MARK[]),alg=ftp)")
    assert parse_flow("udp,actions=ct(alg=tftp)").actions == (Ct(alg="tftp"),)

"""What is printed is read back to the same flow, and reads as ovs-ofctl prints it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.rules.openflow import Flow, format_flow, parse_flow
from flowshunt.rules.openflow import flow as flows
from flowshunt.rules.openflow.flow import SetField, Subfield
from tests.rules.openflow.flow_strategies import whole_flows


@settings(max_examples=200, deadline=None)
@given(whole_flows())
def test_a_printed_flow_reads_back_to_itself(flow: Flow) -> None:
    assert parse_flow(format_flow(flow)) == flow


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ("p0", "pf0hpf", "eth-1", "LOCAL", "drop", "5", "normal", "vlan 5", 'a"b', "reg0", "é", "action0")
        ),
        st.integers(0, 9),
        max_size=6,
    ),
    st.integers(0, 9),
)
def test_port_names_read_back_whatever_they_are(ports: dict[str, int], number: int) -> None:
    flow = Flow((("in_port", number, 0xFFFFFFFF),), (flows.Output(number), flows.Resubmit(number, 1)))
    assert parse_flow(format_flow(flow, ports), ports=ports) == flow


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("actions=drop", "actions=drop"),
        ("table=1,priority=1,ip,ct_state=+trk+new,action=ct(commit),normal",
         "table=1, priority=1,ct_state=+new+trk,ip actions=ct(commit),NORMAL"),
        ("cookie=5,idle_timeout=3,send_flow_rem,importance=4,tcp,tp_dst=80/0xfff0,actions=1",
         "cookie=0x5, idle_timeout=3, send_flow_rem importance=4, tcp,tp_dst=0x50/0xfff0 actions=output:1"),
        ("dl_vlan=5,dl_vlan_pcp=3,actions=1", "dl_vlan=5,dl_vlan_pcp=3 actions=output:1"),
        ("dl_vlan=0xffff,actions=1", "vlan_tci=0x0000 actions=output:1"),
        ("tcp6,ipv6_src=fe80::/10,actions=strip_vlan", "tcp6,ipv6_src=fe80::/10 actions=strip_vlan"),
        ("arp,nw_src=10.0.0.0/8,nw_proto=2,actions=1", "arp,arp_spa=10.0.0.0/8,arp_op=2 actions=output:1"),
        ("udp,actions=set_field:53->udp_dst,set_field:5->reg0,set_field:5/12->reg1",
         "udp actions=mod_tp_dst:53,load:0x5->NXM_NX_REG0[],load:0x1->NXM_NX_REG1[2..3]"),
        ("ip,actions=set_field:10.0.0.1->nw_src,set_field:8->nw_tos,set_field:1->nw_ecn",
         "ip actions=mod_nw_src:10.0.0.1,mod_nw_tos:8,load:0x1->NXM_NX_IP_ECN[]"),
        ("actions=mod_vlan_vid:5,mod_vlan_pcp:2", "actions=mod_vlan_vid:5,mod_vlan_pcp:2"),
        ("ip,actions=ct(zone=NXM_NX_REG0[0..15],commit,exec(set_field:1->ct_label))",
         "ip actions=ct(commit,zone=NXM_NX_REG0[0..15],exec(set_field:0x1->ct_label))"),
        ("actions=resubmit(,2),resubmit:1,resubmit(1,2),clone(drop),note:0011",
         "actions=resubmit(,2),resubmit:1,resubmit(1,2),clone(drop),note:00.11"),
    ],
)  # fmt: skip
def test_printed_in_the_form_of_dump_flows(text: str, printed: str) -> None:
    assert format_flow(parse_flow(text)) == printed


def test_ports_are_printed_by_name_and_quoted_where_they_would_be_read_otherwise() -> None:
    ports = {"p0": 1, "local": 2, "3": 3}
    flow = parse_flow('in_port=p0,actions=output:"local",output:"3",4', ports=ports)
    assert format_flow(flow, ports) == 'in_port=p0 actions=output:"local",output:"3",output:4'


def test_a_masked_set_field_from_elsewhere_is_printed_as_set_field() -> None:
    flow = Flow(actions=(SetField(Subfield("reg0", 4, 12), 0xA05, 0xF0F),))
    assert format_flow(flow) == "actions=set_field:0xa050/0xf0f0->reg0"


def test_tos_and_ecn_in_one_have_no_text() -> None:
    with pytest.raises(ValueError, match="nw_ecn"):
        format_flow(Flow((("eth_type", 0x800, 0xFFFF),), (SetField(Subfield("nw_tos", 0, 8), 1, 0xFF),)))


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("cookie=0x5/0xff, table=3, out_port=LOCAL, tcp,tp_dst=80", "del"),
        ("out_port=7, out_group=3, priority=5,in_port=2", "del_strict"),
        ("cookie=0x1/0x3, cookie=0x7, ip actions=output:1", "mod"),
    ],
)
def test_what_selects_flows_reads_back_too(text: str, command: str) -> None:
    flow = parse_flow(text, command=command)  # type: ignore[arg-type]
    assert format_flow(flow, command=command) == text  # type: ignore[arg-type]

"""What is left of a list of actions as a set, as Open vSwitch 4.0.0's ofproto/trace tells it of buckets."""

from __future__ import annotations

import pytest

from flowshunt.rules.openflow.action_set import action_set
from flowshunt.rules.openflow.parse import parse_flow


@pytest.mark.parametrize(
    ("bucket", "as_if"),
    [
        ("output:1,set_field:1.1.1.1->ip_src", "set_field:1.1.1.1->ip_src,output:1"),
        ("set_field:1.1.1.1->ip_src,output:1,set_field:2.2.2.2->ip_src",
         "set_field:1.1.1.1->ip_src,set_field:2.2.2.2->ip_src,output:1"),
        ("output:1,output:2", "output:2"),
        ("output:1,controller(max_len=20)", "controller(max_len=20)"),
        ("output:1,controller(userdata=01)", "output:1"),
        ("set_field:1.1.1.1->ip_src", "drop"),
        ("output:2,dec_ttl,push_vlan:0x8100,pop_vlan", "pop_vlan,push_vlan:0x8100,dec_ttl,output:2"),
        ("push_vlan:0x88a8,push_vlan:0x8100,output:2", "push_vlan:0x8100,output:2"),
        ("load:2->NXM_NX_REG0[],output:NXM_NX_REG0[]", "drop"),
        ("resubmit(,1),output:1", "output:1"),
        ("ct(commit,zone=7),output:2", "output:2"),
        ("ct(commit,table=1),resubmit(,1)", "resubmit(,1)"),
        ("ct(commit,table=1),ct(table=2)", "ct(table=2)"),
        ("group:9,output:2", "group:9"),
        ("normal,clone(output:1),exit", "normal"),
    ],
)  # fmt: skip
def test_a_set_has_its_own_order_and_one_end(bucket: str, as_if: str) -> None:
    ip = "ip,actions="
    assert action_set(parse_flow(ip + bucket).actions) == parse_flow(ip + as_if).actions

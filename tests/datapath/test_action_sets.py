"""Action sets that packets carry, on a switch: what is carried out, when, and for which copy."""

from __future__ import annotations

import pytest

from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow.parse import parse_flow
from tests.builders import Packet
from tests.datapath.switches import Sent, fate, send, switch, udp


def tables(*texts: str) -> Datapath:
    return switch(*map(parse_flow, texts))


def ports(datapath: Datapath, packet: Packet | None = None) -> list[int]:
    return [sent.port for sent in send(datapath, packet or udp())]


def to(mac: int) -> bytes:
    return bytes(5) + bytes([mac]) + udp().bytes()[6:]


@pytest.mark.parametrize(
    ("flows", "expected"),
    [
        (["actions=write_actions(output:2)"], [2]),
        (["actions=write_actions(output:2),goto_table:1", "table=1,actions=output:3"], [3, 2]),
        (["actions=write_actions(output:2),goto_table:1", "table=1,tcp,actions=output:3"], [2]),
        (["actions=write_actions(output:2),goto_table:1", "table=1,actions=write_actions(output:3)"], [3]),
        (["actions=write_actions(output:2),goto_table:1", "table=1,actions=clear_actions"], []),
        (["actions=write_actions(output:2),goto_table:1",
          "table=1,actions=clear_actions,write_actions(output:3)"], [3]),
        (["actions=write_actions(output:2),goto_table:1", "table=1,actions=write_actions(drop)"], [2]),
        (["actions=write_actions(set_field:00:00:00:00:00:09->eth_dst)"], []),
        (["actions=resubmit(,1),output:1,output:2", "table=1,actions=write_actions(output:3)"], [2, 3]),
        (["actions=resubmit(,1),resubmit(,2),output:2", "table=1,actions=write_actions(output:3)",
          "table=2,actions=clear_actions"], [2]),
        (["actions=write_actions(resubmit(,1))", "table=1,actions=output:2,write_actions(output:3)"], [2]),
        (["actions=resubmit(,1),output:2", "table=1,actions=resubmit(,2),output:3,exit",
          "table=2,actions=write_actions(output:2)"], [3]),
    ],
)  # fmt: skip
def test_a_set_is_carried_out_at_the_end(flows: list[str], expected: list[int]) -> None:
    assert ports(tables(*flows)) == expected


def test_a_set_without_an_end_is_a_drop() -> None:
    assert fate(tables("actions=write_actions(set_field:1->reg0),goto_table:1", "table=1,actions="), udp()) == (
        "drop.action"
    )


def test_the_order_is_that_of_sets_and_the_last_of_each_kind_counts() -> None:
    datapath = tables(
        "ip,actions=write_actions(output:2,push_vlan:0x88a8,set_field:00:00:00:00:00:01->eth_dst),goto_table:1",
        "table=1,ip,actions=write_actions(push_vlan:0x8100,set_field:00:00:00:00:00:09->eth_dst,dec_ttl),goto_table:2",
        "table=2,ip,actions=write_actions(dec_ttl)",
    )
    assert send(datapath, udp()) == [Sent(2, _tagged(_with_ttl(to(9), 63)))]


def _with_ttl(frame: bytes, ttl: int) -> bytes:
    before, checksum = frame[22] << 8, int.from_bytes(frame[24:26], "big")
    checksum += before - (ttl << 8)
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
    return frame[:22] + bytes([ttl]) + frame[23:24] + checksum.to_bytes(2, "big") + frame[26:]


def _tagged(frame: bytes) -> bytes:
    return frame[:12] + b"\x81\x00\x00\x00" + frame[12:]


def test_what_is_applied_sees_the_packet_before_the_set() -> None:
    datapath = tables(
        "actions=write_actions(set_field:00:00:00:00:00:09->eth_dst,output:2),goto_table:1",
        "table=1,actions=output:3",
    )
    assert send(datapath, udp()) == [Sent(3, udp().bytes()), Sent(2, to(9))]


def test_a_ttl_that_is_used_up_ends_the_set() -> None:
    datapath = tables("ip,actions=write_actions(dec_ttl,output:2)")
    assert fate(datapath, Packet().eth().ipv4("10.0.0.1", "10.0.0.2", ttl=1).udp(1, 2)) == "drop.ttl"
    assert ports(datapath) == [2]


def test_a_clone_carries_out_what_was_written_so_far_and_the_packet_too() -> None:
    first = "actions=write_actions(output:3),goto_table:1"
    clone = "table=1,actions=clone(set_field:00:00:00:00:00:09->eth_dst,resubmit(,2)),output:2"
    assert send(tables(first, clone), udp()) == [Sent(3, to(9)), Sent(2, udp().bytes()), Sent(3, udp().bytes())]
    more = "table=2,actions=clear_actions,write_actions(output:2)"
    assert ports(tables(first, clone, more)) == [2, 2, 3]
    assert ports(tables("actions=clone(resubmit(,2)),output:3", more)) == [2, 3]


def test_what_comes_from_the_tracker_carries_the_set_too() -> None:
    first = "ip,actions=write_actions(output:3),goto_table:1"
    assert ports(tables(first, "table=1,ip,actions=ct(table=2)", "table=2,actions=output:2")) == [2, 3, 3]
    written = "table=2,ct_state=+trk,actions=write_actions(output:2)"
    assert ports(tables(first, "table=1,ip,actions=ct(table=2)", written)) == [2, 3]
    assert ports(tables("ip,actions=ct(table=2)", written)) == [2]
    assert ports(tables("ip,actions=ct(table=2),output:3", written)) == [2, 3]


def test_packets_after_one_with_a_set_have_none() -> None:
    datapath = tables("in_port=1,actions=write_actions(output:2)", "in_port=2,actions=resubmit(,1)")
    for _ in range(3):
        assert ports(datapath) == [2]
        assert send(datapath, udp(), in_port=2) == []


def test_a_set_lasts_through_many_tables() -> None:
    flows = [f"table={n},actions=write_actions(set_field:{n}->reg{n % 8}),goto_table:{n + 1}" for n in range(200)]
    datapath = tables(*flows, "table=200,actions=write_actions(output:2)")
    assert ports(datapath) == [2]


def test_endless_writing_ends() -> None:
    datapath = tables("actions=resubmit(,0),write_actions(output:2)")
    assert fate(datapath, udp()) == "drop.resubmit-depth"
    datapath = tables(
        *(f"table={n},actions=resubmit(,{n + 1}),resubmit(,{n + 1}),write_actions(output:2)" for n in range(20)),
    )
    assert fate(datapath, udp()) == "drop.resubmit-limit"

"""Matches: names, values, masks, and what is put together or left out."""

from __future__ import annotations

import pytest

from flowshunt.packet.schema import FIELDS
from flowshunt.rules.openflow import FlowWarning, parse_flow
from flowshunt.rules.openflow.fields import USER_FIELDS


def match_of(text: str, **options: object) -> dict[str, tuple[int, int]]:
    flow = parse_flow(f"{text} actions=drop", **options)  # type: ignore[arg-type]
    assert flow.match == tuple(sorted(flow.match))
    return {name: (value, mask) for name, value, mask in flow.match}


def warnings_of(text: str) -> list[str]:
    told: list[FlowWarning] = []
    parse_flow(f"{text} actions=drop", warn=told.append)
    return [warning.message for warning in told]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in_port=3", {"in_port": (3, 0xFFFFFFFF)}),
        ("in_port=LOCAL", {"in_port": (0xFFFE, 0xFFFFFFFF)}),
        ("dl_src=00:11:22:33:44:55", {"eth_src": (0x001122334455, 0xFFFFFFFFFFFF)}),
        ("eth_dst=01:00:00:00:00:00/01:00:00:00:00:00", {"eth_dst": (1 << 40, 1 << 40)}),
        ("dl_type=0x88cc", {"eth_type": (0x88CC, 0xFFFF)}),
        ("dl_vlan=5", {"vlan_tci": (0x1005, 0x1FFF)}),
        ("vlan_vid=0x1005", {"vlan_tci": (0x1005, 0x1FFF)}),
        ("vlan_vid=0x1000/0x1000", {"vlan_tci": (0x1000, 0x1000)}),
        ("vlan_pcp=3", {"vlan_tci": (0x7000, 0xF000)}),
        ("dl_vlan_pcp=3,dl_vlan=5", {"vlan_tci": (0x7005, 0xFFFF)}),
        ("dl_vlan=0xffff", {"vlan_tci": (0, 0xFFFF)}),
        ("vlan_tci=0x1123/0xfff", {"vlan_tci": (0x123, 0xFFF)}),
        ("reg0=5/0xff", {"reg0": (5, 0xFF)}),
        ("reg0[0..3]=5,NXM_NX_REG0[8..11]=6", {"reg0": (0x605, 0xF0F)}),
        ("xreg1=0x100000002", {"reg2": (1, 0xFFFFFFFF), "reg3": (2, 0xFFFFFFFF)}),
        ("xxreg0=0x1/0x1", {"reg3": (1, 1)}),
        ("metadata=-1", {"metadata": ((1 << 64) - 1, (1 << 64) - 1)}),
        ("ct_state=+trk-new", {"ct_state": (0x20, 0x21)}),
        ("ct_state=new|trk", {"ct_state": (0x21, 0xFF)}),
        ("ct_state=0x21/0x23", {"ct_state": (0x21, 0x23)}),
        ("ct_zone=5,ct_mark=5/0xf", {"ct_zone": (5, 0xFFFF), "ct_mark": (5, 15)}),
        ("ct_label=0x10000000000000000/0x10000000000000000", {"ct_label": (1 << 64, 1 << 64)}),
    ],
)
def test_fields_without_protocol(text: str, expected: dict[str, tuple[int, int]]) -> None:
    assert match_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ip,nw_src=10.1.2.3/8", {"nw_src": (0x0A000000, 0xFF000000)}),
        ("ip,ip_dst=10.1.2.3/255.0.255.0", {"nw_dst": (0x0A000200, 0xFF00FF00)}),
        ("ip,nw_tos=0x10,nw_ecn=1", {"nw_tos": (0x11, 0xFF)}),
        ("ipv6,ip_dscp=4", {"nw_tos": (16, 0xFC)}),
        ("ip,nw_ttl=64", {"nw_ttl": (64, 0xFF)}),
        ("ip,ip_frag=later", {"nw_frag": (2, 2)}),
        ("ip,ip_frag=not_later", {"nw_frag": (0, 2)}),
        ("ipv6,ipv6_src=2001:db8::1/32,ipv6_label=0x12345", {"ipv6_src": (0x20010DB8 << 96, 0xFFFFFFFF << 96),
                                                          "ipv6_label": (0x12345, 0xFFFFF)}),
        ("tcp,tcp_src=80/0xfff0", {"tp_src": (80, 0xFFF0)}),
        ("tcp6,tcp_flags=+syn-ack", {"tcp_flags": (2, 0x12)}),
        ("sctp,sctp_dst=5", {"tp_dst": (5, 0xFFFF)}),
        ("icmp,icmp_type=8,icmp_code=0", {"tp_src": (8, 0xFFFF), "tp_dst": (0, 0xFFFF)}),
        ("icmp6,icmpv6_type=135,nd_target=::1,nd_sll=0:0:0:0:0:1",
         {"tp_src": (135, 0xFFFF), "nd_target": (1, (1 << 128) - 1), "arp_sha": (1, (1 << 48) - 1)}),
        ("arp,arp_op=1,arp_spa=1.2.3.4,arp_tha=0:0:0:0:0:2",
         {"nw_proto": (1, 0xFF), "nw_src": (0x01020304, 0xFFFFFFFF), "arp_tha": (2, (1 << 48) - 1)}),
        ("ip,ct_state=+trk+est,ct_nw_src=1.2.3.4,ct_nw_proto=6,ct_tp_dst=80",
         {"ct_state": (0x22, 0x22), "ct_nw_src": (0x01020304, 0xFFFFFFFF), "ct_nw_proto": (6, 0xFF),
          "ct_tp_dst": (80, 0xFFFF)}),
    ],
)  # fmt: skip
def test_fields_of_protocols(text: str, expected: dict[str, tuple[int, int]]) -> None:
    found = match_of(text)
    assert found.pop("eth_type")[1] == 0xFFFF
    if text.startswith(("tcp", "sctp", "icmp")):
        assert found.pop("nw_proto")[1] == 0xFF
    assert found == expected


@pytest.mark.parametrize(
    ("word", "eth_type", "protocol"),
    [("ip", 0x800, None), ("tcp", 0x800, 6), ("udp6", 0x86DD, 17), ("icmp6", 0x86DD, 58), ("sctp", 0x800, 132),
     ("arp", 0x806, None), ("rarp", 0x8035, None), ("mpls", 0x8847, None), ("ipv6", 0x86DD, None)],
)  # fmt: skip
def test_protocol_words(word: str, eth_type: int, protocol: int | None) -> None:
    expected = {"eth_type": (eth_type, 0xFFFF)} | ({} if protocol is None else {"nw_proto": (protocol, 0xFF)})
    assert match_of(word) == expected


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("tp_dst=80", {}),
        ("nw_src=10.0.0.1", {}),
        ("nw_proto=6", {}),
        ("arp,nw_tos=4", {"eth_type"}),
        ("ip,tcp_flags=+syn", {"eth_type"}),
        ("ip,nw_proto=2,tp_src=3", {"eth_type", "nw_proto"}),
        ("icmp6,nd_target=::1", {"eth_type", "nw_proto"}),
        ("ip,ct_state=+trk+est,ct_tp_src=5", {"eth_type", "ct_state"}),
    ],
)
def test_fields_without_their_protocol_are_left_out_with_a_warning(text: str, left: set[str]) -> None:
    assert match_of(text).keys() == set(left)
    (warning,) = warnings_of(text)
    assert "is left out" in warning


def test_the_order_of_protocol_and_field_does_not_matter() -> None:
    assert match_of("tp_dst=80,nw_src=10.0.0.1,tcp") == match_of("tcp,nw_src=10.0.0.1,tp_dst=80")
    assert not warnings_of("tp_dst=80,nw_src=10.0.0.1,tcp")


@pytest.mark.parametrize(
    ("text", "same"),
    [("ip,nw_src=1.1.1.1,nw_src=2.2.2.2", "ip,nw_src=2.2.2.2"), ("tcp,udp", "udp"), ("reg0=1/3,reg0=4/4", "reg0=4/4")],
)
def test_the_last_word_counts_and_the_earlier_one_is_warned_about(text: str, same: str) -> None:
    assert match_of(text) == match_of(same)
    assert any("the last one counts" in warning for warning in warnings_of(text))
    assert not warnings_of(same)


def test_the_same_word_twice_is_no_warning() -> None:
    assert not warnings_of("ip,tcp,ip,dl_vlan=5,dl_vlan_pcp=3,in_port=1,in_port=1")


def test_a_vid_that_no_packet_has_is_warned_about() -> None:
    (warning,) = warnings_of("vlan_vid=5")
    assert "dl_vlan=5" in warning


def test_names_of_ports_with_and_without_quotes() -> None:
    ports = {"p0": 1, "pf0hpf": 2, "a-b.c": 3}
    assert match_of("in_port=pf0hpf", ports=ports) == match_of("in_port=2")
    assert match_of('in_port="a-b.c"', ports=ports) == match_of("in_port=3")


def test_every_name_of_a_field_has_a_place_of_its_size() -> None:
    for name, field in USER_FIELDS.items():
        assert field.place in FIELDS, name
        assert field.high + field.shift <= FIELDS[field.place].width, name
        assert field.exact >> FIELDS[field.place].width == 0, name


def test_masks_of_zero_and_stars_match_anything() -> None:
    assert match_of("reg0=5/0,dl_src=*,ip,nw_src=1.2.3.4/0,tcp_flags=0/0").keys() == {"eth_type"}

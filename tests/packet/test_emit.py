"""Rewritten frames: what changes, what stays, and checksums that remain right (or as wrong as they came)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from flowshunt.packet.schema import CHECKSUM_PARTIAL
from flowshunt.packet.text import field, set_field
from tests.builders import Packet, internet_checksum
from tests.packet.kernels import changed, checksums_ok, keys_of, parsed, rewritten
from tests.packet.samples import SAMPLES, V4, V6

NEW4 = int(IPv4Address("203.0.113.77"))
NEW6 = int(IPv6Address("2001:db8:ffff::77"))


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_nothing_changed_nothing_written(name: str) -> None:
    assert rewritten(parsed(SAMPLES[name])) == SAMPLES[name].bytes()


def test_frames_too_short_for_a_header_are_copied() -> None:
    for size in range(14):
        assert rewritten(parsed(bytes(range(size)))) == bytes(range(size))


def test_nat_of_tcp_gives_the_packet_that_would_have_been_built() -> None:
    packet = parsed(V4.tcp(1000, 80, seq=7, ack=True).payload(9))
    wanted = Packet().eth().ipv4("203.0.113.77", "10.0.0.2").tcp(40000, 80, seq=7, ack=True).payload(9)
    assert rewritten(packet, nw_src=NEW4, tp_src=40000) == wanted.bytes()


def test_every_header_field_at_once() -> None:
    packet = parsed(V4.udp(1000, 53).payload(9))
    wanted = (
        Packet().eth("02:00:00:00:00:0a", "02:00:00:00:00:0b").ipv4("203.0.113.77", "203.0.113.78", ttl=9, tos=0xFF)
    )
    fields = {"eth_src": 0x02000000000A, "eth_dst": 0x02000000000B, "nw_src": NEW4, "nw_dst": NEW4 + 1}
    result = rewritten(packet, **fields, nw_ttl=9, nw_tos=0xFF, tp_src=1, tp_dst=2)
    assert result == wanted.udp(1, 2).payload(9).bytes()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (V6.tcp(1000, 80, syn=True).payload(5), lambda ip: ip.tcp(4, 5, syn=True).payload(5)),
        (V6.udp(1000, 80).payload(5), lambda ip: ip.udp(4, 5).payload(5)),
        (V6.sctp(1000, 80).payload(5), lambda ip: ip.sctp(4, 5).payload(5)),
        (V6.hop_by_hop().fragment().udp(1000, 80), lambda ip: ip.hop_by_hop().fragment().udp(4, 5)),
    ],
)
def test_ipv6(before: Packet, after: object) -> None:
    wanted = Packet().eth().ipv6(str(IPv6Address(NEW6)), "2001:db8::2", label=0x54321, traffic_class=0x11, hop_limit=3)
    fields = {"ipv6_src": NEW6, "ipv6_label": 0x54321, "nw_tos": 0x11, "nw_ttl": 3, "tp_src": 4, "tp_dst": 5}
    assert rewritten(parsed(before), **fields) == after(wanted).bytes()  # type: ignore[operator]


def test_icmp_type_and_code() -> None:
    assert rewritten(parsed(V4.icmp(8, id=5)), tp_src=0, tp_dst=3) == V4.icmp(0, 3, id=5).bytes()
    assert rewritten(parsed(V6.icmpv6(128, id=5)), tp_src=129) == V6.icmpv6(129, id=5).bytes()


def test_neighbour_fields() -> None:
    wanted = V6.neighbour_solicit("2001:db8:ffff::77", "02:00:00:00:00:99").bytes()
    assert rewritten(parsed(SAMPLES["solicit"]), nd_target=NEW6, arp_sha=0x020000000099) == wanted
    wanted = V6.neighbour_advertise("fe80::7", "02:00:00:00:00:99").bytes()
    assert rewritten(parsed(SAMPLES["advertise"]), arp_tha=0x020000000099) == wanted
    without = V6.neighbour_solicit("fe80::7")
    assert rewritten(parsed(without), arp_sha=0x020000000099) == without.bytes()


def test_arp_fields() -> None:
    wanted = Packet().eth().arp("203.0.113.77", "10.9.9.9", 2, "02:00:00:00:00:11", "02:00:00:00:00:22")
    fields = {"nw_src": NEW4, "nw_dst": 0x0A090909, "nw_proto": 2, "arp_sha": 0x020000000011, "arp_tha": 0x020000000022}
    assert rewritten(parsed(SAMPLES["arp"]), **fields) == wanted.bytes()


def test_arp_operation_that_is_no_number_is_kept() -> None:
    frame = Packet().eth().arp("10.1.1.1", "10.1.1.2", 0x101)
    result = rewritten(parsed(frame), arp_sha=0x020000000011)
    assert result == Packet().eth().arp("10.1.1.1", "10.1.1.2", 0x101, "02:00:00:00:00:11").bytes()


TAGGED = Packet().eth().vlan(5, pcp=3, dei=1).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2)


def body(packet: Packet) -> Packet:
    return packet.ipv4("10.0.0.1", "10.0.0.2").udp(1, 2)


def test_push_vlan() -> None:
    frame = body(Packet().eth())
    assert rewritten(parsed(frame), vlan_tci=0x7009, vlan_tpid=0x8100) == body(Packet().eth().vlan(9, pcp=3)).bytes()
    assert rewritten(parsed(frame), vlan_tci=0x1009) == body(Packet().eth().vlan(9)).bytes(), "0x8100 by default"


def test_push_onto_a_tag_keeps_that_tag_as_it_came() -> None:
    result = rewritten(parsed(TAGGED), vlan_tci=0x1009, vlan_tpid=0x88A8, vlan2_tci=0x7005, vlan2_tpid=0x8100)
    assert result == body(Packet().eth().vlan(9, tpid=0x88A8).vlan(5, pcp=3, dei=1)).bytes()


def test_pop_vlan() -> None:
    assert rewritten(parsed(TAGGED), vlan_tci=0, vlan_tpid=0) == body(Packet().eth()).bytes()
    double = body(Packet().eth().vlan(9, tpid=0x88A8).vlan(5, pcp=3, dei=1))
    result = rewritten(parsed(double), vlan_tci=0x7005, vlan_tpid=0x8100, vlan2_tci=0, vlan2_tpid=0)
    assert result == TAGGED.bytes()
    assert rewritten(parsed(double), vlan_tci=0, vlan_tpid=0, vlan2_tci=0, vlan2_tpid=0) == body(Packet().eth()).bytes()


def test_changed_tag_loses_its_drop_eligible_bit_and_an_unchanged_one_keeps_it() -> None:
    assert rewritten(parsed(TAGGED), vlan_tci=0x7006) == body(Packet().eth().vlan(6, pcp=3)).bytes()
    result = rewritten(parsed(TAGGED), eth_dst=0x02000000000B)
    assert result is not None and result[14:16] == b"\x70\x05"


def test_tags_and_addresses_together() -> None:
    result = rewritten(parsed(TAGGED), vlan_tci=0, vlan_tpid=0, nw_dst=NEW4)
    assert result == Packet().eth().ipv4("10.0.0.1", "203.0.113.77").udp(1, 2).bytes()


def test_tag_on_a_frame_without_a_type() -> None:
    frame = Packet().eth().llc().payload(20)
    assert rewritten(parsed(frame), vlan_tci=0x1007) == Packet().eth().vlan(7).llc().payload(20).bytes()


def test_udp_checksum_of_zero_stays_zero() -> None:
    result = rewritten(parsed(SAMPLES["udp without checksum"]), nw_src=NEW4, tp_dst=99)
    assert result == Packet().eth().ipv4("203.0.113.77", "10.0.0.2").udp(1000, 99, checksum=0).payload(11).bytes()


def test_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() -> None:
    base = V4.udp(1000, 0).bytes()
    total = internet_checksum(base[26:34] + b"\0\x11\0\x08" + base[34:40]) ^ 0xFFFF
    port = 0xFFFF - total
    result = rewritten(parsed(base), tp_dst=port)
    assert result == V4.udp(1000, port).bytes()
    assert result[40:42] == b"\xff\xff"


def test_wrong_checksums_stay_wrong() -> None:
    for frame in (V4.udp(1, 2, checksum=0x1111), V4.tcp(1, 2, checksum=0x1111), V4.sctp(1, 2, checksum=0x1111)):
        result = rewritten(parsed(frame), nw_src=NEW4, tp_src=4000)
        assert result is not None and checksums_ok(parsed(result)) == (True, False)
    result = rewritten(parsed(Packet().eth().ipv4("10.0.0.1", "10.0.0.2", checksum=7).udp(1, 2)), nw_src=NEW4, nw_ttl=3)
    assert result is not None and checksums_ok(parsed(result)) == (False, True)


def test_partial_checksum_follows_the_addresses_only() -> None:
    def pseudo(source: str) -> int:
        return internet_checksum(IPv4Address(source).packed + IPv4Address("10.0.0.2").packed + b"\0\6\0\x19") ^ 0xFFFF

    frame = V4.tcp(1, 2, checksum=pseudo("10.0.0.1")).payload(5)
    result = rewritten(parsed(frame, checksum=CHECKSUM_PARTIAL), nw_src=NEW4, tp_src=999)
    wanted = Packet().eth().ipv4("203.0.113.77", "10.0.0.2").tcp(999, 2, checksum=pseudo("203.0.113.77")).payload(5)
    assert result == wanted.bytes()


def test_fragments() -> None:
    first = parsed(SAMPLES["first fragment"])
    result = rewritten(first, nw_dst=NEW4, tp_dst=99)
    assert result is not None
    again = parsed(result)
    assert again["nw_dst"] == NEW4 and again["tp_dst"] == 99 and checksums_ok(again)[0]
    whole = Packet().eth().ipv4("10.0.0.1", "203.0.113.77").udp(5, 99, length=2000).payload(24).bytes()
    assert again.data[40:42].tobytes() == whole[40:42], "as the checksum of the datagram changes"
    later = SAMPLES["later fragment"].bytes()
    result = rewritten(parsed(later), nw_dst=NEW4, tp_dst=99)
    assert result is not None and result[34:] == later[34:]


def test_destination_in_a_routing_header_counts_for_the_checksum() -> None:
    packet = parsed(SAMPLES["routed"])
    result = rewritten(packet, ipv6_dst=NEW6, ipv6_src=NEW6)
    wanted = Packet().eth().ipv6(str(IPv6Address(NEW6)), str(IPv6Address(NEW6)), label=0x12345, traffic_class=0x2E)
    assert result == wanted.routing(1, final="2001:db8::77").udp(1, 2).payload(5).bytes()


def test_udp_lite_follows_its_addresses() -> None:
    frame = SAMPLES["udp-lite"].bytes()
    result = rewritten(parsed(frame), nw_src=NEW4)
    assert result is not None
    delta = internet_checksum(frame[26:34] + frame[34:]) == internet_checksum(result[26:34] + result[34:])
    assert delta and result[40:42] != frame[40:42]


def test_cut_off_packets_are_rewritten_as_far_as_they_go() -> None:
    frame = V4.tcp(1000, 80).payload(40).cut(50)
    result = rewritten(parsed(frame), nw_src=NEW4, tp_src=9)
    assert result is not None and len(result) == 50
    again = parsed(result)
    assert again["nw_src"] == NEW4 and again["tp_src"] == 1000, "ports of half a header are left"


def test_a_frame_that_does_not_fit() -> None:
    packet = parsed(body(Packet().eth()))
    assert rewritten(packet, room=42) is not None
    assert rewritten(packet, room=41) is None
    assert rewritten(packet, room=45, vlan_tci=0x1005) is None
    assert rewritten(packet, room=46, vlan_tci=0x1005) is not None
    assert rewritten(parsed(b"123"), room=2) is None


def test_is_changed_looks_at_header_words_only() -> None:
    original = parsed(SAMPLES["qinq"]).keys
    for name in (
        "eth_dst",
        "vlan_tci",
        "ipv6_src",
        "nw_ttl",
        "tp_dst",
        "ipv6_label",
        "nd_target",
        "vlan2_tci",
        "arp_tha",
    ):
        keys = original.copy()
        assert not changed(keys, 0, original, 0)
        set_field(keys, 0, name, field(keys, 0, name) ^ 1)
        assert changed(keys, 0, original, 0), name
    keys = original.copy()
    for name in ("in_port", "ct_state", "metadata", "reg0", "ct_label", "ct_tp_src"):
        set_field(keys, 0, name, 1)
    assert not changed(keys, 0, original, 0)
    assert keys_of(1).shape == original.shape

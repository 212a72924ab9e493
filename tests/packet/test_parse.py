"""What the parser reads from each kind of packet, and what it makes of broken ones."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from flowshunt.packet.network import MAX_EXTENSION_HEADERS
from flowshunt.packet.schema import FRAG_ANY, FRAG_LATER, HEADER_WORDS, WSCALE_ABSENT
from tests.builders import Packet
from tests.packet.kernels import keys_of, parse_batch, parsed, parsed_all
from tests.packet.samples import SAMPLES, V4, V6


def address(text: str) -> int:
    return int(IPv6Address(text) if ":" in text else IPv4Address(text))


def mac_number(text: str) -> int:
    return int(text.replace(":", ""), 16)


def test_tcp_syn_fills_every_field_of_the_key_and_the_record() -> None:
    packet = parsed(
        Packet()
        .eth("02:00:00:00:00:0a", "02:00:00:00:00:0b")
        .ipv4("192.0.2.1", "198.51.100.200", ttl=17, tos=0xB9)
        .tcp(
            65000, 443, seq=0xFFFFFFF0, ack_number=0x80000000, window=4321, syn=True, ece=True, cwr=True, window_scale=9
        )
        .payload(5)
    )
    assert packet["eth_src"] == 0x02000000000A and packet["eth_dst"] == 0x02000000000B
    assert packet["eth_type"] == 0x0800 and packet["vlan_tci"] == 0
    assert packet["nw_src"] == address("192.0.2.1") and packet["nw_dst"] == address("198.51.100.200")
    assert (packet["nw_proto"], packet["nw_ttl"], packet["nw_tos"], packet["nw_frag"]) == (6, 17, 0xB9, 0)
    assert (packet["tp_src"], packet["tp_dst"], packet["tcp_flags"]) == (65000, 443, 0xC2)
    assert (packet.record("seq"), packet.record("ack"), packet.record("window")) == (0xFFFFFFF0, 0x80000000, 4321)
    assert packet.record("wscale") == 9
    offsets = [packet.record(name) for name in ("l3", "l4", "payload", "l3_end")]
    assert offsets == [14, 34, 58, 63]
    assert (packet.record("family"), packet.record("options"), packet.verdict) == (4, 0, "ok")


def test_ipv6_addresses_label_and_traffic_class() -> None:
    packet = parsed(
        Packet().eth().ipv6("2001:db8::1", "ff02::fb", hop_limit=255, traffic_class=0xE1, label=0xFEDCB).udp(5353, 5353)
    )
    assert packet["ipv6_src"] == address("2001:db8::1") and packet["ipv6_dst"] == address("ff02::fb")
    assert (packet["ipv6_label"], packet["nw_tos"], packet["nw_ttl"]) == (0xFEDCB, 0xE1, 255)
    assert (packet["nw_proto"], packet["tp_src"], packet["tp_dst"]) == (17, 5353, 5353)
    assert (packet.record("family"), packet.record("l4"), packet.record("payload")) == (6, 54, 62)


def test_padding_is_not_part_of_the_packet() -> None:
    packet = parsed(V4.udp(1, 2).payload(2).pad(16))
    assert packet.record("l3_end") == 44
    assert packet.record("length") == 60


@pytest.mark.parametrize("tpid", [0x8100, 0x88A8, 0x9100])
def test_one_tag(tpid: int) -> None:
    packet = parsed(Packet().eth().vlan(0xABC, pcp=5, tpid=tpid).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2))
    assert packet["vlan_tci"] == 0xBABC and packet["vlan_tpid"] == tpid
    assert packet["vlan2_tci"] == 0 and packet["vlan2_tpid"] == 0
    assert packet["eth_type"] == 0x0800 and packet.record("l3") == 18 and packet["tp_dst"] == 2


def test_two_tags_are_read_and_a_third_is_the_type() -> None:
    packet = parsed(SAMPLES["qinq"])
    assert (packet["vlan_tci"], packet["vlan_tpid"]) == (0x1005, 0x88A8)
    assert (packet["vlan2_tci"], packet["vlan2_tpid"]) == (0x1006, 0x8100)
    assert packet["eth_type"] == 0x86DD and packet["tp_src"] == 1
    packet = parsed(SAMPLES["three tags"])
    assert packet["eth_type"] == 0x8100 and packet["vlan2_tci"] == 0x1006
    assert packet.record("family") == 0 and packet.verdict == "ok"


def test_tag_of_zero_differs_from_no_tag() -> None:
    assert parsed(Packet().eth().vlan(0).arp("1.1.1.1", "1.1.1.2"))["vlan_tci"] == 0x1000


def test_frames_without_a_type() -> None:
    assert parsed(Packet().eth().llc().payload(30))["eth_type"] == 0x05FF
    assert parsed(Packet().eth().llc(b"", 3).payload(3))["eth_type"] == 0x05FF
    assert parsed(Packet().eth().snap(b"\0\0\1").payload(30))["eth_type"] == 0x05FF
    assert parsed(Packet().eth().snap(eth_type=0x05DC).payload(30))["eth_type"] == 0x05FF


def test_snap_names_the_type() -> None:
    packet = parsed(Packet().eth().vlan(7).snap().ipv4("10.0.0.1", "10.0.0.2").udp(7, 8))
    assert packet["eth_type"] == 0x0800 and packet["vlan_tci"] == 0x1007
    assert packet.record("l3") == 26 and packet["tp_dst"] == 8


def test_arp_uses_the_ipv4_places() -> None:
    packet = parsed(Packet().eth().arp("10.1.1.1", "10.1.1.2", 2, "02:00:00:00:00:77", "02:00:00:00:00:88"))
    assert packet["nw_src"] == address("10.1.1.1") and packet["nw_dst"] == address("10.1.1.2")
    assert packet["nw_proto"] == 2
    assert packet["arp_sha"] == 0x020000000077 and packet["arp_tha"] == 0x020000000088
    assert packet.record("family") == 0


def test_arp_of_another_kind_has_no_fields() -> None:
    frame = bytearray(Packet().eth().arp("10.1.1.1", "10.1.1.2").bytes())
    frame[18] = 8
    packet = parsed(bytes(frame))
    assert (packet["nw_src"], packet["nw_proto"], packet["arp_sha"], packet.verdict) == (0, 0, 0, "ok")


def test_arp_operation_beyond_a_byte_is_no_number() -> None:
    packet = parsed(Packet().eth().arp("10.1.1.1", "10.1.1.2", 0x101))
    assert packet["nw_proto"] == 0 and packet["nw_src"] == address("10.1.1.1")


@pytest.mark.parametrize(
    ("kind", "is_query"),
    [(8, True), (0, True), (13, True), (14, True), (15, True), (16, True), (17, True), (3, False), (9, False)],
)
def test_icmp_id_is_read_from_queries_only(kind: int, is_query: bool) -> None:
    packet = parsed(V4.icmp(kind, 2, id=0xBEEF).payload(28))
    assert (packet["tp_src"], packet["tp_dst"]) == (kind, 2)
    assert packet.record("icmp_id") == (0xBEEF if is_query else 0)


@pytest.mark.parametrize(("kind", "is_query"), [(128, True), (129, True), (1, False), (135, False), (8, False)])
def test_icmpv6_id_is_read_from_echo_only(kind: int, is_query: bool) -> None:
    assert parsed(V6.icmpv6(kind, id=0xBEEF)).record("icmp_id") == (0xBEEF if is_query else 0)


def test_icmp_counts_only_in_its_own_family() -> None:
    assert parsed(V6.icmp(8, id=5))["tp_src"] == 0
    packet = parsed(V4.icmpv6(128, id=5))
    assert packet["tp_src"] == 0 and packet["nw_proto"] == 58 and packet.verdict == "ok" and packet.record("l4") == 34


def test_neighbour_messages() -> None:
    solicit = parsed(V6.neighbour_solicit("fe80::7", "02:00:00:00:00:07"))
    assert solicit["nd_target"] == address("fe80::7")
    assert (solicit["arp_sha"], solicit["arp_tha"]) == (0x020000000007, 0)
    advertise = parsed(V6.neighbour_advertise("fe80::8", "02:00:00:00:00:08"))
    assert advertise["nd_target"] == address("fe80::8")
    assert (advertise["arp_sha"], advertise["arp_tha"]) == (0, 0x020000000008)


def test_neighbour_option_given_twice_makes_all_zero() -> None:
    option = bytes([1, 1, 2, 0, 0, 0, 0, 7])
    packet = parsed(V6.neighbour_solicit("fe80::7").payload(option + option))
    assert (packet["nd_target"], packet["arp_sha"], packet.verdict) == (0, 0, "ok")


def test_neighbour_option_of_no_length_ends_the_search() -> None:
    packet = parsed(V6.neighbour_solicit("fe80::7").payload(bytes([9, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 7])))
    assert packet["nd_target"] == address("fe80::7") and packet["arp_sha"] == 0


def test_unknown_neighbour_options_are_passed_over() -> None:
    packet = parsed(
        V6.neighbour_solicit("fe80::7").payload(bytes([14, 2]) + bytes(14) + bytes([1, 1, 2, 0, 0, 0, 0, 7]))
    )
    assert packet["arp_sha"] == 0x020000000007


def test_neighbour_message_with_a_code_is_not_looked_into() -> None:
    assert parsed(V6.neighbour_solicit("fe80::7", code=1))["nd_target"] == 0


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        (b"", WSCALE_ABSENT),
        (b"\3\3\0", 0),
        (b"\1\1\1\3\3\7", 7),
        (b"\3\3\x0f", 14),
        (b"\2\4\5\xb4\4\2\x08\x0a" + bytes(8) + b"\1\3\3\5", 5),
        (b"\0\3\3\7", WSCALE_ABSENT),
        (b"\2\xff\3\3\7\1\1\1", WSCALE_ABSENT),
        (b"\2\0\3\3\7\1\1\1", 7),  # a length below 2 counts as 2
        (b"\1\1\3\3", WSCALE_ABSENT),
    ],
)
def test_window_scale(options: bytes, scale: int) -> None:
    packet = parsed(V4.tcp(1, 2, syn=True, options=options))
    assert packet.record("wscale") == scale and packet.verdict == "ok"


def test_window_scale_counts_in_a_syn_only() -> None:
    assert parsed(V4.tcp(1, 2, ack=True, window_scale=5)).record("wscale") == WSCALE_ABSENT


def test_sctp_ports() -> None:
    packet = parsed(V4.sctp(9899, 2905).payload(16))
    assert (packet["tp_src"], packet["tp_dst"]) == (9899, 2905)
    assert packet.record("payload") == 46


def test_other_protocols_have_an_l4_and_no_ports() -> None:
    for name in ("igmp", "udp-lite", "empty protocol", "esp6", "mobility"):
        packet = parsed(SAMPLES[name])
        assert packet["tp_src"] == 0 and packet["tp_dst"] == 0
        assert packet.record("l4") == packet.record("l3") + (40 if packet.record("family") == 6 else 20)
        assert packet.record("payload") == 0 and packet.verdict == "ok"


def test_fragments_of_ipv4() -> None:
    first = parsed(SAMPLES["first fragment"])
    assert first["nw_frag"] == FRAG_ANY and first["tp_dst"] == 6 and first.record("l4") == 34
    assert first.verdict == "ok", "the UDP length is that of the whole datagram"
    later = parsed(SAMPLES["later fragment"])
    assert later["nw_frag"] == FRAG_ANY | FRAG_LATER and later.record("l4") == 0 and later["tp_dst"] == 0
    assert later["nw_proto"] == 17 and later.verdict == "ok"


def test_tiny_first_fragment_keeps_what_is_there() -> None:
    frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", mf=True, protocol=6).payload(b"\0\5\0\6\0\0\0\0")
    packet = parsed(frame)
    assert (packet["tp_src"], packet["tp_dst"], packet.record("l4"), packet.verdict) == (5, 6, 0, "ok")


def test_fragments_of_ipv6() -> None:
    first = parsed(SAMPLES["first fragment 6"])
    assert first["nw_frag"] == FRAG_ANY and first["nw_proto"] == 17 and first["tp_src"] == 1
    later = parsed(SAMPLES["later fragment 6"])
    assert later["nw_frag"] == FRAG_ANY | FRAG_LATER and later["nw_proto"] == 44 and later.record("l4") == 0
    whole = parsed(V6.fragment().udp(1, 2))
    assert whole["nw_frag"] == 0 and whole["tp_dst"] == 2 and whole.record("options") == 1


def test_extension_headers_lead_to_the_transport_header() -> None:
    packet = parsed(SAMPLES["chain"])
    assert packet["nw_proto"] == 6 and (packet["tp_src"], packet["tp_dst"]) == (1, 2)
    assert packet.record("l4") == 14 + 40 + 8 + 24 + 8 + 24 + 8
    assert packet.record("options") == 1 and packet.verdict == "ok"


def test_many_fragment_headers_are_walked_and_too_many_refused() -> None:
    frame = Packet().eth().ipv6("::1", "::2")
    for _ in range(MAX_EXTENSION_HEADERS):
        frame = frame.fragment()
    assert parsed(frame.udp(1, 2))["tp_dst"] == 2
    packet = parsed(frame.fragment().udp(1, 2))
    assert packet.verdict == "bad-extension" and packet.record("l4") == 0
    assert packet["ipv6_dst"] == 2


@pytest.mark.parametrize(
    ("frame", "verdict"),
    [
        (b"", "short-ethernet"),
        (V4.udp(1, 2).cut(13), "short-ethernet"),
        (Packet().eth().vlan(5).cut(17), "short-vlan"),
        (Packet().eth().vlan(5).vlan(6).cut(21), "short-vlan"),
        (Packet().eth().arp("10.0.0.1", "10.0.0.2").cut(41), "short-arp"),
        (V4.udp(1, 2).cut(33), "short-ipv4"),
        (V4.udp(1, 2).payload(20).cut(61), "bad-ipv4"),
        (Packet().eth().ipv4("10.0.0.1", "10.0.0.2", ihl=4).udp(1, 2), "bad-ipv4"),
        (Packet().eth().ipv4("10.0.0.1", "10.0.0.2", ihl=15).udp(1, 2), "bad-ipv4"),
        (Packet().eth().ipv4("10.0.0.1", "10.0.0.2", total=19).udp(1, 2), "bad-ipv4"),
        (Packet().eth().ipv4("10.0.0.1", "10.0.0.2", total=0).udp(1, 2), "bad-ipv4"),
        (V6.udp(1, 2).cut(53), "short-ipv6"),
        (V6.udp(1, 2).cut(61), "bad-ipv6"),
        (Packet().eth().ipv6("::1", "::2", protocol=0, length=7).payload(7), "bad-extension"),
        (V6.hop_by_hop(length=200).udp(1, 2), "bad-extension"),
        (V6.authentication(length=255).udp(1, 2), "bad-extension"),
        (V4.tcp(1, 2).cut(53), "bad-ipv4"),
        (Packet().eth().ipv4("10.0.0.1", "10.0.0.2", protocol=6).payload(19), "short-l4"),
        (Packet().eth().ipv4("10.0.0.1", "10.0.0.2", protocol=17).payload(7), "short-l4"),
        (Packet().eth().ipv4("10.0.0.1", "10.0.0.2", protocol=1).payload(7), "short-l4"),
        (Packet().eth().ipv4("10.0.0.1", "10.0.0.2", protocol=132).payload(11), "short-l4"),
        (Packet().eth().ipv6("::1", "::2", protocol=58).payload(7), "short-l4"),
        (V4.tcp(1, 2, data_offset=4), "bad-tcp"),
        (V4.tcp(1, 2, data_offset=6), "bad-tcp"),
        (V4.tcp(1, 2, data_offset=6).pad(4), "bad-tcp"),
        (V4.udp(1, 2, length=7), "bad-udp"),
        (V4.udp(1, 2, length=9), "bad-udp"),
        (V4.udp(1, 2, length=8).payload(4), "ok"),
        (Packet().eth().ipv4("10.0.0.1", "10.0.0.2", version=5).udp(1, 2), "ok"),
    ],
)
def test_verdicts(frame: bytes | Packet, verdict: str) -> None:
    assert parsed(frame).verdict == verdict


def test_malformed_packets_keep_what_was_read() -> None:
    cut_off = parsed(V4.udp(5, 6).payload(20).cut(50))
    assert cut_off["nw_dst"] == address("10.0.0.2") and (cut_off["tp_src"], cut_off["tp_dst"]) == (5, 6)
    assert cut_off.record("l3_end") == 50 and cut_off.record("family") == 4
    no_transport = parsed(Packet().eth().ipv4("10.0.0.1", "10.0.0.2", total=10).udp(5, 6))
    assert no_transport["nw_proto"] == 17 and no_transport["tp_dst"] == 0 and no_transport.record("l4") == 0
    short = parsed(Packet().eth().ipv4("10.0.0.1", "10.0.0.2", protocol=6).payload(b"\0\5\0\6"))
    assert (short["tp_src"], short["tp_dst"], short.record("l4")) == (5, 6, 0)
    assert parsed(Packet().eth().ipv4("1.1.1.1", "1.1.1.2", protocol=6).payload(3))["tp_src"] == 0
    half_icmp = parsed(Packet().eth().ipv4("1.1.1.1", "1.1.1.2", protocol=1).payload(b"\3\1\0"))
    assert (half_icmp["tp_src"], half_icmp["tp_dst"]) == (3, 1)
    half_tag = parsed(Packet().eth().vlan(5).vlan(6).cut(20))
    assert half_tag["vlan_tci"] == 0x1005 and half_tag["eth_type"] == 0x8100
    bad_chain = parsed(V6.hop_by_hop(length=200).udp(1, 2))
    assert bad_chain["ipv6_src"] == address("2001:db8::1") and bad_chain["nw_proto"] == 0


def test_first_verdict_stands() -> None:
    assert parsed(V4.udp(5, 6, length=5).payload(20).cut(50)).verdict == "bad-ipv4"


def test_snapped_packets_are_refused_like_cut_ones() -> None:
    assert parsed(V4.tcp(1, 2).payload(100).cut(60), wire_length=154).verdict == "bad-ipv4"


def test_the_row_is_cleared_and_the_pipelines_words_are_left_alone() -> None:
    packet = parsed(SAMPLES["qinq"])
    keys = packet.keys
    keys[0] = -1
    parse_batch(packet.data, packet.packets, keys, 1)
    fresh = keys_of(1)
    parse_batch(packet.data, packet.packets, fresh, 1)
    assert (keys[0, :HEADER_WORDS] == fresh[0, :HEADER_WORDS]).all()
    assert (keys[0, HEADER_WORDS:] == -1).all()


def test_a_packet_does_not_see_its_neighbours() -> None:
    together = parsed_all(SAMPLES.values())
    for n, packet in enumerate(SAMPLES.values()):
        alone = parsed(packet)
        assert (alone.keys[0] == together.keys[n]).all()
        for name in (
            "l3",
            "l4",
            "l3_end",
            "payload",
            "seq",
            "ack",
            "window",
            "icmp_id",
            "wscale",
            "verdict",
            "family",
            "options",
        ):
            assert alone.packets[name][0] == together.packets[name][n]

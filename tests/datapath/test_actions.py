from __future__ import annotations

from ipaddress import ip_address

import pytest

from flowshunt.packet.schema import VLAN_PRESENT
from flowshunt.rules.openflow import flow as F
from tests.builders import CLIENT_MAC, SERVER_MAC, Packet, batch_of
from tests.datapath.switches import (
    ARP,
    EST,
    IP,
    IPV6,
    NEW,
    RPL,
    TCP,
    TRK,
    UDP,
    Sent,
    ct_state,
    fate,
    field,
    flow,
    ports_of,
    send,
    set_field,
    switch,
    udp,
)

A, B = "02:00:00:00:00:01", "02:00:00:00:00:02"


def counters(datapath: object) -> dict[str, int]:
    return {name: n for name, n in datapath.statistics().items() if n}  # type: ignore[attr-defined]


# --- output ----------------------------------------------------------------------------------------------------------


def test_output_leaves_the_bytes_alone() -> None:
    datapath = switch(flow(F.Output(2)))
    frame = udp().bytes()
    assert send(datapath, frame) == [Sent(2, frame)]
    assert counters(datapath) == {
        "packets": 1,
        "bytes": len(frame),
        "frames-sent": 1,
        "output": 1,
        "verdict.ok": 1,
    }
    assert datapath.ports.statistics()[1] == {"rx_packets": 1, "rx_bytes": len(frame), "tx_packets": 0, "tx_bytes": 0}
    assert datapath.ports.statistics()[2] == {"rx_packets": 0, "rx_bytes": 0, "tx_packets": 1, "tx_bytes": len(frame)}


def test_output_to_the_input_port_is_suppressed() -> None:
    datapath = switch(flow(F.Output(1)))
    assert send(datapath, udp()) == []
    assert fate(datapath, udp()) == "drop.output-in-port"
    assert datapath.statistics()["skipped.in-port"] == 2


def test_in_port_sends_back() -> None:
    assert ports_of(send(switch(flow(F.InPort())), udp(), in_port=3)) == [3]
    assert ports_of(send(switch(flow(F.Output(0xFFF8))), udp(), in_port=3)) == [3]


def test_output_to_a_port_that_does_not_exist() -> None:
    datapath = switch(flow(F.Output(77)))
    assert fate(datapath, udp()) == "drop.no-port"
    assert datapath.statistics()["skipped.no-port"] == 1
    assert fate(switch(flow(F.Output(0xFFFFFFFD))), udp()) == "drop.no-port"


def test_local_is_a_port_when_it_was_added() -> None:
    assert ports_of(send(switch(flow(F.Local()), ports=(1, 0xFFFE)), udp())) == [0xFFFE]
    assert fate(switch(flow(F.Local())), udp()) == "drop.no-port"


@pytest.mark.parametrize("name", ["reg0", "reg1", "xreg3"])
def test_output_to_the_port_in_a_field(name: str) -> None:
    datapath = switch(flow(set_field(name, 3, 16, start=8), F.Output(field(name, 8, 16))))
    assert ports_of(send(datapath, udp())) == [3]


def test_output_to_a_field_across_two_words() -> None:
    datapath = switch(flow(set_field("xxreg0", 3, 16, start=56), F.Output(field("xxreg0", 56, 16))))
    assert ports_of(send(datapath, udp())) == [3]


def test_reserved_numbers_in_a_field_mean_what_they_mean() -> None:
    for number, ports in ((0xFFF8, [1]), (0xFFFB, [2, 3]), (0xFFFC, [2, 3]), (0xFFFF, [])):
        datapath = switch(flow(set_field("reg0", number, 16), F.Output(field("reg0", 0, 16))))
        assert ports_of(send(datapath, udp())) == ports


def test_flood_and_all() -> None:
    datapath = switch(flow(F.Flood(), match=[IP]), flow(F.All(), match=[IPV6]))
    datapath.ports.add(9, no_flood=True)
    assert ports_of(send(datapath, udp(), in_port=2)) == [1, 3]
    assert ports_of(send(datapath, Packet().eth().ipv6("fe80::1", "fe80::2").udp(1, 2), in_port=2)) == [1, 3, 9]


def test_flood_without_another_port() -> None:
    assert fate(switch(flow(F.Flood()), ports=(1,)), udp()) == "drop.no-port"


def test_an_empty_list_drops_and_so_does_no_match() -> None:
    datapath = switch(flow(match=[ARP]))
    assert fate(datapath, udp()) == "drop.no-match"
    assert fate(datapath, Packet().eth().arp("10.0.0.1", "10.0.0.2")) == "drop.action"
    assert datapath.tables()[0] == (1, 1, 2, 1)


def test_a_frame_too_short_for_ethernet_is_dropped_before_the_tables() -> None:
    datapath = switch(flow(F.Output(2)))
    assert fate(datapath, b"\1\2\3") == "drop.invalid-packet"
    assert datapath.statistics()["verdict.short-ethernet"] == 1
    assert datapath.tables()[0].lookups == 0


def test_a_packet_that_is_output_and_then_changed_leaves_in_both_forms() -> None:
    datapath = switch(
        flow(
            F.Output(2),
            set_field("nw_dst", 0x0A000009, 32),
            F.Output(2),
            F.Output(3),
            set_field("nw_dst", 0x0A000002, 32),
            F.Output(3),
            match=[IP],
        )
    )
    original, changed = udp().bytes(), udp(destination="10.0.0.9").bytes()
    assert send(datapath, original) == [Sent(2, original), Sent(2, changed), Sent(3, changed), Sent(3, original)]
    assert datapath.statistics()["frames-changed"] == 2


# --- changing fields -------------------------------------------------------------------------------------------------


def one(*actions: F.Action, match: tuple[tuple[str, int, int], ...] = (IP,), packet: Packet | None = None) -> bytes:
    """The frame that leaves after the actions."""
    sent = send(switch(flow(*actions, F.Output(2), match=match)), packet or udp())
    assert ports_of(sent) == [2]
    return sent[0].frame


def test_set_addresses_and_ports() -> None:
    expected = Packet().eth(B, A).ipv4("1.2.3.4", "5.6.7.8").udp(11, 22).payload(b"hello").bytes()
    actions = (
        set_field("eth_src", 0x020000000002, 48),
        set_field("eth_dst", 0x020000000001, 48),
        set_field("nw_src", 0x01020304, 32),
        set_field("nw_dst", 0x05060708, 32),
        set_field("tp_src", 11, 16),
        set_field("tp_dst", 22, 16),
    )
    packet = Packet().eth(A, B).ipv4("10.0.0.1", "10.0.0.2").udp(1000, 2000).payload(b"hello")
    if (A, B) != (CLIENT_MAC, SERVER_MAC):
        pytest.fail("the builders' addresses changed")
    assert one(*actions, match=(IP, UDP), packet=packet) == expected


def test_set_with_a_mask_keeps_the_other_bits() -> None:
    got = one(set_field("nw_src", 0x00000500, 32, mask=0x0000FF00))
    assert got == udp(source="10.0.5.1").bytes()


def test_ipv6_addresses_are_set_and_moved_whole() -> None:
    packet = Packet().eth().ipv6("2001:db8::1", "2001:db8:0:1::2").udp(1, 2).payload(b"x")
    expected = Packet().eth().ipv6("2001:db8:0:1::2", "fe80::9").udp(1, 2).payload(b"x").bytes()
    actions = (
        F.Move(field("ipv6_dst", 0, 128), field("xxreg1", 0, 128)),
        set_field("ipv6_dst", (0xFE80 << 112) | 9, 128),
        F.Move(field("xxreg1", 0, 128), field("ipv6_src", 0, 128)),
    )
    assert one(*actions, match=(IPV6,), packet=packet) == expected


def test_a_move_across_words_and_onto_itself() -> None:
    value = 0x0123456789ABCDEF_FEDCBA9876543210
    datapath = switch(
        flow(
            set_field("xxreg0", value, 128),
            F.Move(field("xxreg0", 0, 100), field("xxreg0", 20, 100)),
            F.Resubmit(table=1),
        ),
        flow(
            F.Output(2),
            match=[("xxreg0", (value & ~(((1 << 100) - 1) << 20) | (value & ((1 << 100) - 1)) << 20), (1 << 128) - 1)],
            table=1,
        ),
    )
    assert ports_of(send(datapath, udp())) == [2]


def test_a_field_that_the_packet_lacks_is_not_written() -> None:
    arp = Packet().eth().arp("10.0.0.1", "10.0.0.2")
    for action in (
        set_field("nw_src", 1, 32),
        set_field("ipv6_src", 1, 128),
        set_field("nw_tos", 4, 8),
        set_field("tp_src", 1, 16),
        set_field("nd_target", 1, 128),
        set_field("vlan_tci", 5, 12),
        F.Move(field("nw_src", 0, 32), field("eth_src", 0, 32)),
    ):
        assert one(action, match=(), packet=arp) == arp.bytes()


def test_arp_fields_when_the_match_says_arp() -> None:
    got = one(
        set_field("nw_src", 0x0A000009, 32),
        set_field("nw_proto", 2, 8),
        set_field("arp_sha", 0x020000000009, 48),
        match=(ARP,),
        packet=Packet().eth().arp("10.0.0.1", "10.0.0.2"),
    )
    assert got[20:32] == bytes.fromhex("0002 020000000009 0a000009")


def test_ports_of_a_later_fragment_are_payload() -> None:
    packet = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", offset=64).payload(b"not a port number")
    assert one(set_field("tp_dst", 1, 16), packet=packet) == packet.bytes()


def test_rules_see_the_ports_of_a_first_fragment_if_they_are_to() -> None:
    """As with `ovs-ofctl set-frags`: normal and nx-match. Actions may change them in either case."""
    packet = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", id=1, mf=True).udp(1000, 2000).payload(bytes(16))
    of_port = flow(F.Output(3), match=[IP, UDP, ("tp_dst", 2000, 0xFFFF)], priority=200)
    datapath = switch(of_port, flow(set_field("tp_dst", 9, 16), F.Output(2), match=[IP, UDP]))
    changed = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", id=1, mf=True).udp(1000, 9).payload(bytes(16))
    whole = udp("10.0.0.1", "10.0.0.2")
    for seen, port in ((False, 2), (True, 3), (False, 2)):
        datapath.see_fragment_ports(seen)
        sent = send(datapath, packet)
        assert [one.port for one in sent] == [port]
        assert sent[0].frame[36:38] == (packet if seen else changed).bytes()[36:38]
        assert [one.port for one in send(datapath, whole)] == [3]


def test_dec_ttl_and_the_end_of_the_list_at_one() -> None:
    packet = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", ttl=2).udp(1, 2)
    assert one(F.DecTtl(), packet=packet) == Packet().eth().ipv4("10.0.0.1", "10.0.0.2", ttl=1).udp(1, 2).bytes()
    datapath = switch(flow(F.DecTtl(), F.DecTtl(), F.Output(2), match=[IP]))
    assert fate(datapath, packet) == "drop.ttl"
    assert one(F.DecTtl(), match=(), packet=Packet().eth().arp("1.1.1.1", "2.2.2.2"))


def test_dec_ttl_ends_its_own_list_only() -> None:
    datapath = switch(flow(F.Resubmit(table=1), F.Output(2)), flow(F.DecTtl(), F.Output(3), table=1))
    packet = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", ttl=1).udp(1, 2)
    assert send(datapath, packet) == [Sent(2, packet.bytes())]


def test_vlan_tags_pushed_set_and_popped() -> None:
    plain = udp()
    tagged = Packet().eth().vlan(5, pcp=3).ipv4("10.0.0.1", "10.0.0.2").udp(1000, 2000).payload(b"hello")
    twice = (
        Packet()
        .eth()
        .vlan(9, tpid=0x88A8)
        .vlan(5, pcp=3)
        .ipv4("10.0.0.1", "10.0.0.2")
        .udp(1000, 2000)
        .payload(b"hello")
    )
    vid = set_field("vlan_tci", 5, 12)
    pcp = set_field("vlan_tci", 3, 3, start=13)
    assert one(F.PushVlan(0x8100), vid, pcp, packet=plain) == tagged.bytes()
    assert one(F.PushVlan(0x88A8), set_field("vlan_tci", 9, 12), packet=tagged) == twice.bytes()
    assert one(F.PopVlan(), packet=twice) == tagged.bytes()
    assert one(F.PopVlan(), F.PopVlan(), packet=twice) == plain.bytes()
    assert one(F.PopVlan(), packet=plain) == plain.bytes()
    assert one(set_field("vlan_tci", 3 << 13 | VLAN_PRESENT | 5, 16), packet=plain) == tagged.bytes()
    assert one(set_field("vlan_tci", 0, 16), packet=twice) == plain.bytes()
    assert one(F.PushVlan(0x8100), F.PopVlan(), packet=plain) == plain.bytes()


def test_registers_and_metadata_are_matched_in_later_tables() -> None:
    datapath = switch(
        flow(set_field("reg15", 7, 32), set_field("metadata", 5 << 60, 64), F.Resubmit(table=1)),
        flow(F.Output(2), match=[("reg15", 7, 0xFF), ("metadata", 5 << 60, 0xF << 60)], table=1),
    )
    assert ports_of(send(datapath, udp())) == [2]


def test_note_does_nothing() -> None:
    assert ports_of(send(switch(flow(F.Note(b"hi"), F.Output(2))), udp())) == [2]


def test_a_packet_that_actions_gave_another_tuple_is_tracked_anew_in_the_same_zone() -> None:
    datapath = switch(
        flow(F.Ct(table=1, commit=True, exec=(set_field("ct_mark", 1, 32),))),
        flow(set_field("nw_dst", 0x0A000009, 32), F.Ct(table=2), table=1, match=[IP]),
        flow(
            F.Ct(commit=True, exec=(set_field("ct_mark", 2, 32),)),
            F.Output(2),
            table=2,
            match=[ct_state(NEW | TRK, NEW | TRK), ("ct_mark", 0, 0xFFFFFFFF)],
        ),
        flow(F.Output(3), table=2, match=[ct_state(EST | TRK, EST | TRK), ("ct_mark", 2, 0xFFFFFFFF)]),
    )
    assert ports_of(send(datapath, udp())) == [2]
    found = {(str(c.original.destination), c.mark) for c in datapath.tracker.connections()}
    assert found == {("10.0.0.2", 1), ("10.0.0.9", 2)}
    answer = udp("10.0.0.9", "10.0.0.1", 2000, 1000)
    datapath.add_flows([flow(F.Ct(), match=[("in_port", 2, 0xFFFFFFFF)], priority=200)])
    send(datapath, answer, in_port=2)
    assert ports_of(send(datapath, udp())) == [3]


def test_a_packet_whose_other_fields_were_changed_comes_back_as_it_was() -> None:
    datapath = switch(
        flow(F.Ct(table=1, commit=True)),
        flow(set_field("nw_tos", 8, 8), set_field("eth_dst", 5, 48), F.Ct(table=2), table=1, match=[IP]),
        flow(F.Output(2), table=2, match=[ct_state(NEW | TRK, NEW | TRK)]),
    )
    assert ports_of(send(datapath, udp())) == [2]
    (connection,) = datapath.tracker.connections()
    assert connection.packets == (1, 0)


# --- resubmit, goto, clone -------------------------------------------------------------------------------------------


def test_resubmit_returns() -> None:
    datapath = switch(flow(F.Resubmit(table=1), F.Output(3)), flow(set_field("eth_src", 1, 48), F.Output(2), table=1))
    frame = udp().bytes()
    changed = frame[:6] + bytes.fromhex("000000000001") + frame[12:]
    assert send(datapath, frame) == [Sent(2, changed), Sent(3, changed)]
    assert datapath.statistics()["resubmits"] == 1


def test_resubmit_replaces_the_input_port_for_the_lookup_only() -> None:
    datapath = switch(
        flow(F.Resubmit(port=3), priority=1),
        flow(F.Output(1), F.Output(3), F.InPort(), match=[("in_port", 3, 0xFFFFFFFF)], priority=2),
    )
    assert ports_of(send(datapath, udp())) == [3, 1]


def test_resubmit_to_the_input_port_keeps_it() -> None:
    datapath = switch(
        flow(F.Resubmit(port=0xFFF8, table=4)), flow(F.Output(2), match=[("in_port", 1, 0xFFFFFFFF)], table=4)
    )
    assert ports_of(send(datapath, udp())) == [2]


@pytest.mark.parametrize("family", [4, 6])
def test_resubmit_with_ct_looks_up_with_the_tuple_that_the_connection_began_with(family: int) -> None:
    client, server = ("10.0.0.1", "10.0.0.2") if family == 4 else ("2001:db8::1", "2001:db8::2")
    ip, prefix, width = (IP, "nw", 32) if family == 4 else (IPV6, "ipv6", 128)
    source = int(ip_address(client))
    kind = [ip, UDP]
    began = [*kind, (f"{prefix}_src", source, (1 << width) - 1), ("tp_dst", 53, 0xFFFF)]
    answered = [*kind, (f"ct_{prefix}_src", int(ip_address(server)), (1 << width) - 1), ct_state(RPL, RPL)]
    datapath = switch(
        flow(F.Ct(commit=True, table=1)),
        flow(F.Resubmit(table=2, ct=True), F.Output(3), table=1),
        flow(set_field("reg0", 1, 32), F.Resubmit(table=3), table=2, match=began),
        flow(F.Output(1), table=3, match=answered),
        flow(F.Output(2), table=3, match=began, priority=1),
        flow(F.Output(1), table=3, priority=0, match=[("reg0", 1, 1)]),
    )

    def ports(packet: Packet, in_port: int) -> list[Sent]:
        return send(datapath, packet, in_port=in_port)

    def packet(source: str, destination: str, *transport: int) -> Packet:
        head = Packet().eth()
        head = head.ipv4(source, destination) if family == 4 else head.ipv6(source, destination)
        return head.udp(*transport)

    there, back = packet(client, server, 1000, 53), packet(server, client, 53, 1000)
    assert ports(there, 1) == [Sent(2, there.bytes()), Sent(3, there.bytes())]
    assert ports(back, 2) == [Sent(1, back.bytes()), Sent(3, back.bytes())]  # seen as it is behind that lookup


def test_resubmit_with_ct_passes_over_what_has_no_connection() -> None:
    datapath = switch(flow(F.Resubmit(table=1, ct=True), F.Output(3)), flow(F.Output(2), table=1))
    assert ports_of(send(datapath, udp())) == [3]
    assert datapath.statistics()["resubmits"] == 1


def test_resubmit_that_misses_goes_on() -> None:
    assert ports_of(send(switch(flow(F.Resubmit(table=9), F.Output(2))), udp())) == [2]


def test_goto_continues_after_the_list_and_a_miss_drops() -> None:
    datapath = switch(
        flow(F.GotoTable(5), F.Output(2), set_field("reg0", 1, 32)),
        flow(F.Output(3), match=[("reg0", 1, 0xFFFFFFFF)], table=5),
    )
    assert ports_of(send(datapath, udp())) == [2, 3]
    assert fate(switch(flow(F.GotoTable(5))), udp()) == "drop.no-match"


def test_clone_restores_packet_and_metadata() -> None:
    inner = F.Clone((set_field("nw_src", 5, 32), F.Output(3)))
    datapath = switch(
        flow(
            F.Clone((set_field("nw_dst", 1, 32), set_field("reg0", 9, 32), inner, F.Output(2))),
            F.Output(field("reg0", 0, 16)),
            F.Output(3),
            match=[IP],
        )
    )
    sent = send(datapath, udp())
    assert sent == [
        Sent(3, udp(source="0.0.0.5", destination="0.0.0.1").bytes()),
        Sent(2, udp(destination="0.0.0.1").bytes()),
        Sent(3, udp().bytes()),
    ]


def test_clone_at_the_end_and_empty() -> None:
    assert ports_of(send(switch(flow(F.Output(3), F.Clone((F.Output(2),)))), udp())) == [3, 2]
    assert ports_of(send(switch(flow(F.Clone(()), F.Output(2))), udp())) == [2]
    datapath = switch(
        flow(F.Resubmit(table=1), F.Output(2)),
        flow(F.Clone((set_field("nw_dst", 1, 32), F.Output(3))), table=1, match=[IP]),
    )
    assert send(datapath, udp()) == [Sent(3, udp(destination="0.0.0.1").bytes()), Sent(2, udp().bytes())]


def test_a_move_between_overlapping_names_of_registers() -> None:
    """xxreg0 is reg0 to reg3: its bits 32 to 95 are reg1 and reg2, which go to reg0 and reg1."""
    values = (0x11111111, 0x22222222, 0x33333333)
    datapath = switch(
        flow(
            *(set_field(f"reg{n}", value, 32) for n, value in enumerate(values)),
            F.Move(F.Subfield("xxreg0", 32, 64), F.Subfield("xreg0", 0, 64)),
            F.Resubmit(table=1),
        ),
        flow(F.Output(2), table=1, match=[("reg0", values[1], 0xFFFFFFFF), ("reg1", values[2], 0xFFFFFFFF)]),
    )
    assert ports_of(send(datapath, udp())) == [2]


# --- conntrack -------------------------------------------------------------------------------------------------------


def test_ct_with_a_table_runs_a_copy_and_the_original_goes_on_untracked() -> None:
    datapath = switch(
        flow(F.Ct(table=1), F.Resubmit(table=2), match=[ct_state(0, TRK)]),
        flow(set_field("nw_dst", 1, 32), F.Output(2), table=1, match=[IP, ct_state(NEW | TRK, NEW | TRK)]),
        flow(F.Output(3), table=2, match=[ct_state(0, TRK)]),
    )
    assert send(datapath, udp()) == [Sent(2, udp(destination="0.0.0.1").bytes()), Sent(3, udp().bytes())]
    assert len(datapath.tracker) == 0


def test_ct_without_a_table_tracks_and_shows_nothing() -> None:
    datapath = switch(
        flow(F.Ct(commit=True, zone=5), F.Resubmit(table=1)),
        flow(F.Output(2), table=1, match=[ct_state(0, 0xFF), ("ct_zone", 0, 0xFFFF)]),
    )
    assert ports_of(send(datapath, udp())) == [2]
    assert [(c.zone, c.packets) for c in datapath.tracker.connections()] == [(5, (1, 0))]


def test_what_follows_a_ct_action_sees_an_untracked_packet_even_if_it_was_tracked_before() -> None:
    untracked = [ct_state(0, 0xFF), ("ct_zone", 0, 0xFFFF)]
    datapath = switch(
        flow(F.Ct(table=1, zone=1)),
        flow(F.Ct(table=2, zone=2), F.Resubmit(table=3), table=1),
        flow(F.Ct(commit=True, zone=3), F.Resubmit(table=3), table=2, match=[ct_state(TRK, TRK)]),
        flow(F.Output(2), table=3, match=untracked),
        flow(F.Output(3), table=3, priority=1),
    )
    assert ports_of(send(datapath, udp())) == [2, 2]


C1 = (
    flow(F.Normal(), match=[ARP]),
    flow(F.Ct(table=1), match=[IP, ct_state(0, TRK)]),
    flow(F.Ct(commit=True), F.Normal(), match=[IP, ct_state(TRK | NEW, TRK | NEW)], table=1, priority=1),
    flow(F.Normal(), match=[IP, ct_state(TRK | EST, TRK | EST)], table=1, priority=1),
)


def test_the_rules_of_the_smart_nic_page() -> None:
    datapath = switch(*C1)
    assert ports_of(send(datapath, Packet().eth(A, "ff:ff:ff:ff:ff:ff").arp("10.0.0.1", "10.0.0.2"))) == [2, 3]
    there, back = udp(), Packet().eth(B, A).ipv4("10.0.0.2", "10.0.0.1").udp(2000, 1000)
    assert ports_of(send(datapath, there)) == [2, 3]
    assert ports_of(send(datapath, back, in_port=2)) == [1]
    assert ports_of(send(datapath, there)) == [2]
    assert [(s.flow.table, s.packets) for s in datapath.flows()] == [(0, 1), (0, 3), (1, 1), (1, 2)]
    assert [c.packets for c in datapath.tracker.connections()] == [(2, 1)]


def test_several_zones_in_one_pass() -> None:
    datapath = switch(
        flow(F.Ct(commit=True, zone=1, table=1)),
        flow(F.Ct(commit=True, zone=2, table=2), table=1, match=[("ct_zone", 1, 0xFFFF)]),
        flow(F.Output(2), table=2, match=[("ct_zone", 2, 0xFFFF)]),
    )
    assert ports_of(send(datapath, udp())) == [2]
    assert sorted(c.zone for c in datapath.tracker.connections()) == [1, 2]


def test_the_zone_from_a_field() -> None:
    for name, start in (("reg3", 4), ("xxreg0", 60)):
        datapath = switch(flow(set_field(name, 300, 16, start=start), F.Ct(commit=True, zone=field(name, start, 16))))
        send(datapath, udp())
        assert [c.zone for c in datapath.tracker.connections()] == [300]


def test_exec_sets_mark_and_label() -> None:
    actions = (
        set_field("ct_mark", 0x12, 32, mask=0xFF),
        set_field("ct_label", 1 << 127 | 5, 128),
        F.Move(field("nw_src", 0, 32), field("ct_label", 32, 32)),
        F.Move(field("tp_dst", 0, 8), field("ct_mark", 8, 8)),
    )
    datapath = switch(
        flow(F.Ct(commit=True, table=1, exec=actions), F.Resubmit(table=2), match=[IP, UDP]),
        flow(
            F.Output(2),
            table=1,
            match=[("ct_mark", 0xD012, 0xFFFFFFFF), ("ct_label", 1 << 127 | 0x0A000001 << 32 | 5, (1 << 128) - 1)],
        ),
        flow(F.Output(3), table=2, match=[("ct_mark", 0, 0xFFFFFFFF), ("ct_label", 0, (1 << 128) - 1)]),
    )
    assert ports_of(send(datapath, udp())) == [2, 3]
    (connection,) = datapath.tracker.connections()
    assert connection.mark == 0xD012
    assert connection.label == 1 << 127 | 0x0A000001 << 32 | 5


def test_a_mask_leaves_the_other_bits_of_the_mark_alone() -> None:
    datapath = switch(
        flow(F.Ct(commit=True, exec=(set_field("ct_mark", 0xAB, 32),)), match=[("in_port", 1, 0xFFFFFFFF)]),
        flow(F.Ct(commit=True, exec=(set_field("ct_mark", 0xC0, 32, mask=0xF0),)), match=[("in_port", 2, 0xFFFFFFFF)]),
        flow(F.Ct(exec=(set_field("ct_mark", 0x77, 32),)), match=[("in_port", 3, 0xFFFFFFFF)]),
    )
    for port in (1, 2, 3):
        send(datapath, udp(), in_port=port)
    assert [c.mark for c in datapath.tracker.connections()] == [0xCB]


def test_ct_clear_forgets() -> None:
    datapath = switch(
        flow(F.Ct(commit=True, table=1)),
        flow(F.CtClear(), F.Resubmit(table=2), table=1),
        flow(F.Output(2), table=2, match=[ct_state(0, 0xFF), ("ct_nw_src", 0, 0xFFFFFFFF), ("ct_zone", 0, 0xFFFF)]),
    )
    assert ports_of(send(datapath, udp())) == [2]


def test_the_original_tuple_is_matched() -> None:
    datapath = switch(
        flow(F.Ct(commit=True, table=1)),
        flow(
            F.Output(3),
            table=1,
            match=[("ct_nw_src", 0x0A000001, 0xFFFFFFFF), ("ct_tp_dst", 2000, 0xFFFF), ("ct_nw_proto", 17, 0xFF)],
        ),
    )
    send(datapath, udp())
    back = Packet().eth().ipv4("10.0.0.2", "10.0.0.1").udp(2000, 1000)
    assert ports_of(send(datapath, back, in_port=2)) == [3]


def test_a_packet_changed_before_ct_is_tracked_as_changed() -> None:
    datapath = switch(flow(set_field("nw_src", 0x0A0000FF, 32), F.Ct(commit=True, table=1), match=[IP]), flow(table=1))
    send(datapath, udp())
    (connection,) = datapath.tracker.connections()
    assert str(connection.original.source) == "10.0.0.255"
    datapath = switch(flow(F.Ct(commit=True, table=1)), flow(F.Output(2), table=1, match=[ct_state(EST | TRK, 0xFF)]))
    send(datapath, Packet().eth().ipv4("10.0.0.255", "10.0.0.2").udp(1000, 2000))
    reply = Packet().eth().ipv4("10.0.0.2", "10.0.0.9").udp(2000, 1000)
    datapath.add_flows([flow(set_field("nw_dst", 0x0A0000FF, 32), F.Ct(table=1), match=[IP], priority=101)])
    datapath.add_flows([flow(F.Output(3), table=1, match=[ct_state(EST | TRK | 8, 0xFF)], priority=101)])
    assert ports_of(send(datapath, reply, in_port=2)) == [3]


def test_the_last_ct_state_is_reported() -> None:
    datapath = switch(flow(F.Ct(commit=True, table=1), match=[IP]), flow(F.Output(2)))
    result = datapath.process(batch_of([udp(), Packet().eth().arp("1.1.1.1", "2.2.2.2"), udp(sport=1)]))
    assert result.ct_state.tolist() == [NEW | TRK, 0, NEW | TRK]


def test_tcp_flags_and_masked_ports_match() -> None:
    datapath = switch(flow(F.Output(2), match=[IP, TCP, ("tcp_flags", 2, 0x12), ("tp_dst", 80, 0xFFF0)]))
    assert ports_of(send(datapath, Packet().eth().ipv4("1.1.1.1", "2.2.2.2").tcp(1, 85, syn=True))) == [2]
    assert ports_of(send(datapath, Packet().eth().ipv4("1.1.1.1", "2.2.2.2").tcp(1, 85, syn=True, ack=1))) == []
    assert ports_of(send(datapath, Packet().eth().ipv4("1.1.1.1", "2.2.2.2").tcp(1, 96, syn=True))) == []

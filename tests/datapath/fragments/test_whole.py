"""Datagrams are put together, tracked as one packet, and leave as they came."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.conntrack.states import CS_ESTABLISHED, CS_HELD, CS_INVALID, CS_NEW, CS_REPLY, CS_TRACKED
from flowshunt.datapath.fragments.schema import PROFILES
from flowshunt.datapath.tables import Datapath
from flowshunt.packet.schema import Batch
from flowshunt.rules.openflow import flow as F
from tests.builders import Packet, batch_of, internet_checksum
from tests.builders.fragments import fragment, fragments, fragments_of_size, payload_size, read, whole
from tests.datapath.fragments.switches import NO_MINIMUM, START_MS, fates, moved, play, tracking, udp4, udp6
from tests.datapath.switches import ct_state, field, flow, set_field

INVALID = CS_INVALID | CS_TRACKED
NEW = CS_NEW | CS_TRACKED
BOTH = pytest.mark.parametrize("packet", [udp4(), udp6()], ids=["ipv4", "ipv6"])


@pytest.mark.parametrize("packet", [udp4(), udp6(), udp6(extensions=True)], ids=["ipv4", "ipv6", "ipv6-extensions"])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_whatever_order_they_come_in_they_leave_as_they_came(packet: Packet, order: list[int]) -> None:
    datapath = tracking()
    frames = fragments_of_size(packet, 1300)
    sent = play(datapath, *(frames[n] for n in order))
    assert [len(part) for part in sent] == [0, 0, 3]
    assert [out.frame for out in sent[2]] == frames
    assert {out.port for out in sent[2]} == {2}
    statistics = datapath.statistics()
    assert (statistics["held"], statistics["output"], statistics["joined"], statistics["fragmented"]) == (2, 1, 1, 1)
    assert len(datapath.fragments) == datapath.fragments.n_datagrams == 0


@BOTH
def test_a_datagram_is_one_packet_to_its_connection_and_to_the_rules_behind_it(packet: Packet) -> None:
    datapath = tracking()
    frames = fragments_of_size(packet, 1300)
    play(datapath, *frames)
    size = len(packet.bytes())
    (connection,) = datapath.tracker.connections()
    assert (connection.packets, connection.bytes) == ((1, 0), (size - 14, 0))
    assert (connection.original.source_port, connection.original.destination_port) == (1000, 2000)
    rules = [(entry.packets, entry.bytes) for entry in datapath.flows()]
    assert rules == [(3, sum(map(len, frames))), (1, size)]


def test_states_fates_and_who_joined_whom() -> None:
    datapath = tracking()
    one, other = fragments_of_size(udp4(2000), 1300), fragments_of_size(udp4(2000, sport=9), 1300, id=8)
    assert fates(datapath, one[0], other[1], one[1]) == [("held", CS_HELD), ("held", CS_HELD), ("output", NEW)]
    result = datapath.process(batch_of([other[0]], time_ns=START_MS * 1_000_000))
    assert result.ct_state.tolist() == [NEW]
    assert sorted(result.joined.tolist()) == [(1, 3, 0), (3, 3, 1)]


def test_answers_that_come_in_fragments_are_replies() -> None:
    datapath = tracking()
    play(datapath, Packet().eth().ipv4("10.0.0.2", "10.0.0.1").udp(2000, 1000).payload(b"question"))
    (*_, last) = fates(datapath, *fragments_of_size(udp4(), 1300))
    assert last == ("output", CS_ESTABLISHED | CS_REPLY | CS_TRACKED)


@BOTH
def test_a_wrong_checksum_of_the_datagram_is_seen_and_fragments_leave_all_the_same(packet: Packet) -> None:
    datapath = tracking()
    frames = fragments_of_size(packet, 1300)
    damaged = frames[1][:-1] + bytes([frames[1][-1] ^ 1])
    assert fates(datapath, frames[0], damaged, frames[2])[2] == ("output", INVALID)
    assert datapath.tracker.statistics()["invalid-checksum"] == 1


def test_a_tcp_header_cut_in_two_is_read() -> None:
    datapath = tracking()
    syn = Packet().eth().vlan(5).ipv4("10.0.0.1", "10.0.0.2", id=7).tcp(1000, 80, syn=True)
    frames = fragments(syn, [8, 16])
    sent = play(datapath, *frames)
    assert [out.frame for out in sent[2]] == frames
    (connection,) = datapath.tracker.connections()
    assert connection.state == "SYN_SENT"


def test_a_datagram_of_the_greatest_length() -> None:
    datapath = tracking(settings=PROFILES["linux"])
    for packet in (udp4(65535 - 28), udp6(65535 - 8)):
        frames = fragments_of_size(packet, 1500)
        sent = play(datapath, *frames)
        assert [out.frame for out in sent[-1]] == frames
        assert fates(datapath, *frames)[-1] == ("output", NEW)


def test_fragments_that_never_meet_ct_pass_untouched() -> None:
    datapath = tracking(flow(F.Output(2)))
    frames = [*fragments_of_size(udp4(), 1300), fragment(udp6(), 8, 16)]
    sent = play(datapath, *frames)
    assert [[out.frame for out in part] for part in sent] == [[frame] for frame in frames]
    assert moved(datapath) == moved(datapath, "ipv6") == {}


def test_fields_ports_and_the_kind_of_fragment_match_behind_ct_as_in_a_whole_packet() -> None:
    datapath = tracking(
        flow(F.Ct(table=1)),
        flow(F.Output(3), table=1, match=[("nw_frag", 0, 3), ("eth_type", 0x0800, 0xFFFF), ("nw_proto", 17, 0xFF),
                                          ("tp_dst", 2000, 0xFFFF)]),
    )  # fmt: skip
    sent = play(datapath, *reversed(fragments_of_size(udp4(), 1300)))
    assert [len(part) for part in sent] == [0, 0, 3]


def test_metadata_and_input_port_are_those_of_the_fragment_that_completes() -> None:
    datapath = tracking(
        flow(set_field("reg0", 5, 32), F.Ct(table=1), match=[("in_port", 3, 0xFFFFFFFF)]),
        flow(F.Ct(table=1), priority=1),
        flow(F.Output(2), table=1, match=[("reg0", 5, 0xFFFFFFFF), ("in_port", 3, 0xFFFFFFFF)]),
    )
    first, second = fragments_of_size(udp4(2000), 1300)
    play(datapath, first, in_port=1)
    assert len(play(datapath, second, in_port=3)[0]) == 2


def test_headers_changed_in_front_of_ct_are_those_of_the_first_fragment() -> None:
    datapath = tracking(
        flow(set_field("eth_dst", 0x0200000000AB, 48), F.PushVlan(0x8100), set_field("nw_ttl", 9, 8), F.Ct(table=1)),
        flow(F.Output(2), table=1),
    )
    frames = fragments_of_size(udp4(), 1300)
    sent = play(datapath, *reversed(frames))[2]
    link = bytes.fromhex("0200000000ab 020000000001 8100 0000 0800")
    assert {read(out.frame).link for out in sent} == {link}
    assert {read(out.frame).header[8] for out in sent} == {9}
    assert [read(out.frame).payload for out in sent] == [read(frame).payload for frame in frames]


@BOTH
def test_headers_changed_behind_ct_change_in_every_fragment_and_the_checksum_in_the_first(packet: Packet) -> None:
    name, width = ("nw_src", 32) if packet.bytes()[12] == 8 else ("ipv6_src", 128)
    datapath = tracking(
        flow(F.Ct(table=1)),
        flow(set_field(name, 0x0A000063, width), set_field("tp_dst", 53, 16), F.Output(2), table=1),
    )
    sent = play(datapath, *fragments_of_size(packet, 1300))[2]
    out = whole([part.frame for part in sent])
    at = 34 if name == "nw_src" else 54
    assert struct.unpack_from(">HH", out, at) == (1000, 53)
    again = tracking()
    assert fates(again, *(part.frame for part in sent))[2] == ("output", NEW)
    assert again.tracker.statistics()["invalid-checksum"] == 0


def test_outputs_in_several_forms_and_floods() -> None:
    datapath = tracking(
        flow(F.Ct(table=1)),
        flow(F.Output(2), set_field("eth_src", 0x0200000000CC, 48), F.Flood(), F.Output(99), table=1),
    )
    frames = fragments_of_size(udp4(), 1300)
    sent = play(datapath, *frames)[2]
    assert [out.port for out in sent] == [2] * 3 + [2] * 3 + [3] * 3
    changed = [frame[:6] + bytes.fromhex("0200000000cc") + frame[12:] for frame in frames]
    assert [out.frame for out in sent] == frames + changed + changed
    assert datapath.statistics()["skipped.no-port"] == 1


def test_vlan_tags_pushed_and_popped_behind_ct() -> None:
    push = tracking(flow(F.Ct(table=1)), flow(F.PushVlan(0x8100), F.Output(2), table=1))
    frames = fragments_of_size(udp6(extensions=True), 1300)
    sent = play(push, *frames)[2]
    assert [out.frame for out in sent] == [frame[:12] + bytes.fromhex("81000000") + frame[12:] for frame in frames]
    pop = tracking(flow(F.Ct(table=1)), flow(F.PopVlan(), F.Output(2), table=1))
    assert [out.frame for out in play(pop, *(out.frame for out in sent))[2]] == frames


def test_the_rest_of_a_list_sees_the_datagram_too() -> None:
    datapath = tracking(flow(F.Ct(commit=True, zone=3, table=1), F.Output(3)), flow(F.Output(2), table=1))
    frames = fragments_of_size(udp4(), 1300)
    sent = play(datapath, *frames)
    assert [(out.port, out.frame) for out in sent[2]] == [(port, frame) for port in (2, 3) for frame in frames]
    assert [len(part) for part in sent[:2]] == [0, 0]


def test_a_fragment_that_waits_in_a_clone_goes_on_outside_of_it() -> None:
    datapath = tracking(
        flow(F.Clone((set_field("eth_src", 0x0200000000CC, 48), F.Ct(table=1))), F.Resubmit(table=2), F.Output(3)),
        flow(F.Output(2), table=1),
        flow(F.Output(1), table=2),
    )
    frames = fragments_of_size(udp4(), 1300)
    sent = play(datapath, *frames, in_port=9)
    for part, frame in zip(sent, frames, strict=True):
        assert [(out.port, out.frame) for out in part[-2:]] == [(1, frame), (3, frame)]
    changed = [frame[:6] + bytes.fromhex("0200000000cc") + frame[12:] for frame in frames]
    assert [(out.port, out.frame) for out in sent[2][:-2]] == [(2, frame) for frame in changed]
    assert [entry.bytes for entry in datapath.flows()][2] == sum(map(len, frames))


def test_zones_and_addresses_and_identifications_are_kept_apart() -> None:
    datapath = tracking(
        flow(F.Ct(commit=True, zone=field("reg0", 0, 16), table=1), match=[("reg0", 1, 1)]),
        flow(set_field("reg0", 3, 32), F.Resubmit(table=0), match=[("in_port", 3, 0xFFFFFFFF)], priority=1),
        flow(set_field("reg0", 1, 32), F.Resubmit(table=0), priority=0),
        flow(F.Output(2), table=1),
    )
    first, second = fragments_of_size(udp4(2000), 1300)
    others = [
        fragments_of_size(udp4(2000), 1300, id=8),
        [frame.replace(b"\x0a\x00\x00\x02", b"\x0a\x00\x00\x03") for frame in (first, second)],
    ]
    play(datapath, first, in_port=1)
    assert play(datapath, second, in_port=3) == [[]]
    assert play(datapath, others[0][1], in_port=1) == [[]]
    assert fates(datapath, others[1][1])[0][0] == "output"  # its header's checksum is wrong: invalid
    assert len(play(datapath, second, in_port=1)[0]) == 2
    assert len(play(datapath, first, in_port=3)[0]) == 2


def test_an_ipv6_packet_that_says_it_is_whole_is_no_fragment() -> None:
    datapath = tracking()
    atomic = Packet().eth().ipv6("2001:db8::1", "2001:db8::2").fragment(id=9).udp(1000, 2000).payload(b"whole")
    assert fates(datapath, atomic) == [("output", NEW)]
    assert [out.frame for out in play(datapath, atomic)[0]] == [atomic.bytes()]
    assert moved(datapath, "ipv6") == {}


def test_a_fragment_of_a_fragment_is_put_together_once_and_invalid() -> None:
    datapath = tracking()
    inner = Packet().eth().ipv6("2001:db8::1", "2001:db8::2").fragment(0, True, id=3).udp(1, 2).payload(bytes(592))
    body = inner.bytes()[54:]
    outer = Packet().eth().ipv6("2001:db8::1", "2001:db8::2")
    halves = [
        outer.fragment(0, True, id=4).protocol(44, body[:304]).bytes(),
        outer.fragment(38, False, id=4).protocol(44, body[304:]).bytes(),
    ]
    sent = fates(datapath, *halves)
    assert sent == [("held", CS_HELD), ("output", INVALID)]
    assert len(datapath.tracker) == 0


class TestSizes:
    """What leaves is no larger than what came."""

    @pytest.mark.parametrize("cuts", [[8], [1280], [8, 1200], [400, 1600], [1600, 1608, 2008]])
    @pytest.mark.parametrize("packet", [udp4(2500), udp6(2500)], ids=["ipv4", "ipv6"])
    def test_unequal_ones(self, packet: Packet, cuts: list[int]) -> None:
        frames = fragments(packet, cuts)
        sent = [out.frame for out in play(tracking(), *frames)[-1]]
        assert whole(sent) == whole(frames)
        assert max(map(len, sent)) <= max(map(len, frames))
        assert len(sent) == 1 or {read(frame).id for frame in sent} == {7}

    def test_dont_fragment_stays_when_the_largest_had_it(self) -> None:
        small, large = fragments(udp4(2000), [504])
        with_df = fragments(udp4(2000), [504], df=True)
        for frames, kept in (([small, large], False), (with_df, True), ([with_df[0], large], False),
                             ([small, with_df[1]], True)):  # fmt: skip
            sent = play(tracking(), *frames)[1]
            assert [bool(out.frame[20] & 0x40) for out in sent] == [kept] * len(sent)

    def test_options_are_repeated_in_later_fragments_only_where_they_are_to_be(self) -> None:
        record_route, router_alert = b"\x07\x07\x04" + bytes(4), b"\x94\x04\x00\x00"
        packet = udp4(2000, options=record_route + b"\x01" + router_alert)
        sent = play(tracking(), *fragments_of_size(packet, 1300))[1]
        headers = [read(out.frame).header for out in sent]
        assert headers[0][20:] == record_route + b"\x01" + router_alert
        assert headers[1][20:] == b"\x01" * 8 + router_alert

    @pytest.mark.parametrize(
        "options", [b"\x07\x00\x04\x00", b"\x07\x09\x04\x00", b"\x01\x01\x01\x07", b"\x00\x07\x01\x01"]
    )
    def test_damaged_options_stay_as_they_are(self, options: bytes) -> None:
        sent = play(tracking(), *fragments_of_size(udp4(2000, options=options), 1300))[1]
        assert [read(out.frame).header[20:] for out in sent] == [options] * 2

    def test_congestion_seen_by_one_fragment_is_seen_by_all(self) -> None:
        frames = [bytearray(frame) for frame in fragments_of_size(udp4(2000, tos=2), 1300)]
        frames[1][15] |= 3
        frames[1][24:26] = bytes(2)
        frames[1][24:26] = struct.pack(">H", internet_checksum(bytes(frames[1][14:34])))
        sent = play(tracking(), *map(bytes, frames))[1]
        assert [read(out.frame).header[1] & 3 for out in sent] == [3, 3]
        ipv6 = Packet().eth().ipv6("2001:db8::1", "2001:db8::2", traffic_class=2).udp(1, 2).payload(2000)
        frames = [bytearray(frame) for frame in fragments_of_size(ipv6, 1300)]
        frames[1][15] |= 0x30
        sent = play(tracking(), *map(bytes, frames))[1]
        assert [read(out.frame).header[1] & 0x30 for out in sent] == [0x30, 0x30]

    def test_congestion_is_not_made_known_to_who_did_not_ask(self) -> None:
        mixed = [fragments_of_size(udp4(2000, tos=tos), 1300)[n] for n, tos in enumerate((0, 3))]
        sent = play(tracking(), *mixed)[1]
        assert [read(out.frame).header[1] for out in sent] == [0, 0]


@st.composite
def cut_datagrams(draw: st.DrawFn) -> list[tuple[bytes, list[bytes]]]:
    """A few datagrams with their fragments, each in an order of its own."""
    found = []
    for n in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 900))
        build = draw(st.sampled_from([udp4, udp6]))
        extensions: Any = {"extensions": True} if build is udp6 and draw(st.booleans()) else {}
        frame = build(size, sport=1000 + n, **extensions).bytes()
        units = (payload_size(frame) - 1) // 8
        cuts = sorted(draw(st.sets(st.integers(1, units), min_size=1, max_size=12))) if units else []
        if cuts:
            found.append((frame, draw(st.permutations(fragments(frame, [8 * cut for cut in cuts], id=n)))))
    return found


@given(cut_datagrams(), st.randoms(use_true_random=False), st.sampled_from([1, 3, 256]))
def test_any_split_in_any_order_interleaved_and_repeated_gives_the_datagram(
    datagrams: list[tuple[bytes, list[bytes]]], random: Random, batch_size: int
) -> None:
    """The fragment that completes a datagram comes last; any other may come twice."""
    queues = [list(frames[:-1]) + random.sample(list(frames[:-1]), len(frames) // 2) for _, frames in datagrams]
    order = [n for n, queue in enumerate(queues) for _ in queue]
    random.shuffle(order)
    frames = [queues[n].pop(0) for n in order] + [frames[-1] for _, frames in datagrams]
    datapath = tracking(batch_size=batch_size)
    sent = play(datapath, *frames)
    for part, (_, received) in zip(sent[len(order) :], datagrams, strict=True):
        out = [s.frame for s in part]
        assert whole(out) == whole(received)
        assert max(map(len, out)) <= max(map(len, received))
    assert len(datapath.fragments) == 0
    repeated = sum(n for family in ("ipv4", "ipv6") for n in [moved(datapath, family).get("duplicate", 0)])
    assert repeated == sum(len(frames) // 2 for _, frames in datagrams)


def seen(datapath: Datapath, batch: Batch) -> list[Any]:
    result = datapath.process(batch)
    frames = []
    for out in result.tx:
        source = result.tx_data if out["source"] else batch.data
        frames.append(
            (int(out["port"]), int(out["packet"]), source[out["data"] : out["data"] + out["length"]].tobytes())
        )
    return [frames, result.ct_state.tolist(), result.fate.tolist(), result.joined.tolist(), datapath.statistics(),
            datapath.tracker.statistics(), [(c.packets, c.bytes) for c in datapath.tracker.connections()]]  # fmt: skip


@pytest.mark.parametrize("profile", ["default", "linux"])
def test_the_batch_size_changes_nothing(profile: str) -> None:
    rng = Random(3)
    frames = []
    for n in range(60):
        packet = rng.choice([udp4, udp6])(rng.randint(100, 2000), sport=1 + n % 7)
        size = payload_size(packet)
        cuts = sorted({rng.randrange(8, size, 8) for _ in range(rng.randint(1, 3))})
        parts = fragments(packet, cuts, id=n % 40)
        rng.shuffle(parts)
        frames += parts[: rng.randint(1, 4)]
        frames.append(udp4(10, sport=1 + n % 7).bytes())
    batch = batch_of(frames, time_ns=10**15, step_ns=200_000_000)
    results = [
        seen(tracking(batch_size=size, profile=profile, settings=NO_MINIMUM), Batch(batch.data, batch.packets.copy()))
        for size in (1, 32, 256)
    ]
    assert results[0] == results[1] == results[2]
    assert results[0][4]["joined"] > 10


def test_tables_may_hold_what_the_tracker_says_of_fragments_that_are_refused() -> None:
    datapath = tracking(
        flow(F.Ct(table=1)),
        flow(F.Output(3), table=1, match=[ct_state(INVALID, INVALID)]),
        settings=NO_MINIMUM,
    )
    empty = fragment(udp4(), 8, 8, more=True)
    sent = play(datapath, empty)
    assert [(out.port, out.frame) for out in sent[0]] == [(3, empty)]

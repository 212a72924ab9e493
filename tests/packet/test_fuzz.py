"""Properties that hold for any bytes whatever."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from flowshunt.packet.emit import rewrite_one
from flowshunt.packet.schema import (
    ETH_ARP,
    ETH_RARP,
    FIELDS,
    HEADER_WORDS,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VLAN_PRESENT,
)
from flowshunt.packet.text import describe, set_field
from tests.builders import Packet, batch_of
from tests.packet.kernels import Parsed, changed, checksums_ok, keys_of, parse_batch, parsed, quoted, rewritten
from tests.packet.samples import SAMPLES, mutants

HEADERS = {PROTO_TCP: 20, PROTO_UDP: 8, PROTO_SCTP: 12}
RECORD = ("l3", "l4", "l3_end", "payload", "seq", "ack", "window", "icmp_id", "wscale", "verdict", "family", "options")

ANY_MUTANT = st.integers(0, 2**32).map(lambda seed: mutants(seed, 1)[0])
ANY_FRAME = st.one_of(
    ANY_MUTANT,
    st.binary(max_size=120),
    st.binary(max_size=90).map(lambda body: Packet().eth(eth_type=0x0800).payload(b"\x45" + body).bytes()),
    st.binary(max_size=120).map(lambda body: Packet().eth(eth_type=0x86DD).payload(b"\x60" + body).bytes()),
)


def transport_size(packet: Parsed) -> int:
    """The fixed header that a non-zero l4 promises."""
    protocol = packet["nw_proto"]
    icmp = PROTO_ICMP if packet.record("family") == 4 else PROTO_ICMPV6
    return 8 if protocol == icmp else HEADERS.get(protocol, 0)


@given(ANY_FRAME)
def test_offsets_keep_what_the_parser_promises(frame: bytes) -> None:
    packet = parsed(frame)
    l3, l4, l3_end, payload, family = (packet.record(name) for name in ("l3", "l4", "l3_end", "payload", "family"))
    assert l3 <= len(frame) and l4 <= l3_end <= len(frame) and payload <= l3_end
    if family:
        assert l3 + (20 if family == 4 else 40) <= len(frame)
    if l4:
        assert family and l4 >= l3 + (20 if family == 4 else 40)
        assert l4 + transport_size(packet) <= l3_end
    if payload:
        assert payload >= l4 + 8 > 8
    assert (packet.keys[0, HEADER_WORDS:] == 0).all()
    assert describe(packet.keys, 0, packet.record("verdict"))


@given(ANY_FRAME, st.integers(0, 2**32))
def test_bytes_around_a_packet_have_no_say(frame: bytes, seed: int) -> None:
    alone = parsed(frame)
    chance = random.Random(seed)
    data, packets = batch_of([chance.randbytes(16), frame, chance.randbytes(80)])
    among = Parsed(data, packets[1:2], keys_of(1))
    parse_batch(*among, 1)
    assert (among.keys == alone.keys).all()
    assert [among.record(name) for name in RECORD] == [alone.record(name) for name in RECORD]
    assert checksums_ok(among) == checksums_ok(alone)
    inner, other = keys_of(1), keys_of(1)
    found = quoted(alone.data, alone.packets, 0, inner, 0, 0)
    assert quoted(among.data, among.packets, 0, other, 0, 0) == found
    assert not found or (inner == other).all()


@given(ANY_FRAME)
def test_rewriting_nothing_changes_nothing(frame: bytes) -> None:
    packet = parsed(frame)
    assert not changed(packet.keys, 0, packet.keys, 0)
    assert rewritten(packet) == frame


def writable(packet: Parsed) -> list[str]:
    """The fields that this packet has bytes for and whose change leaves the others as they are."""
    if packet.verdict == "short-ethernet":
        return []
    names = ["eth_src", "eth_dst"]
    family = packet.record("family")
    if packet["eth_type"] in (ETH_ARP, ETH_RARP) and packet["arp_sha"]:
        return [*names, "nw_src", "nw_dst", "arp_sha", "arp_tha"]
    if family:
        names += ["nw_src", "nw_dst"] if family == 4 else ["ipv6_src", "ipv6_dst", "ipv6_label"]
        names += ["nw_tos", "nw_ttl"]
    if packet.record("l4") and packet["nw_proto"] in HEADERS:
        names += ["tp_src", "tp_dst"]
    for name in ("nd_target", "arp_sha", "arp_tha"):
        names += [name] if packet[name] else []
    return names


@st.composite
def changes(draw: st.DrawFn, packet: Parsed) -> dict[str, int]:
    names = draw(st.lists(st.sampled_from(writable(packet) or ["eth_src"]), unique=True, max_size=8))
    values = {name: draw(st.integers(1, (1 << FIELDS[name].width) - 1)) for name in names}
    if not packet["vlan2_tci"] and packet.verdict != "short-vlan" and draw(st.booleans()):
        tag = draw(st.integers(0, 0xFFFF)) | VLAN_PRESENT
        values |= draw(
            st.sampled_from(
                [{"vlan_tci": tag, "vlan_tpid": 0x88A8}]
                + [{"vlan_tci": 0, "vlan_tpid": 0}] * (packet["eth_type"] not in (0x8100, 0x88A8, 0x9100))
                + [
                    {
                        "vlan_tci": tag,
                        "vlan_tpid": 0x9100,
                        "vlan2_tci": packet["vlan_tci"],
                        "vlan2_tpid": packet["vlan_tpid"],
                    }
                ]
                * bool(packet["vlan_tci"])
            )
        )
    return values


@given(st.data(), ANY_FRAME)
def test_rewritten_packets_parse_to_the_wanted_key(data: st.DataObject, frame: bytes) -> None:
    packet = parsed(frame)
    assume(packet.verdict != "short-ethernet" and packet["eth_type"] not in (0x8100, 0x88A8, 0x9100))
    values = data.draw(changes(packet))
    wanted = packet.keys.copy()
    for name, value in values.items():
        set_field(wanted, 0, name, value)
    result = rewritten(packet, **values)
    assert result is not None
    again = parsed(result)
    assert describe(again.keys, 0) == describe(wanted, 0)
    assert (again.keys == wanted).all()
    assert again.verdict == packet.verdict
    without_checksum = packet["nw_proto"] == PROTO_UDP and packet.record("family") == 6
    if not without_checksum and not packet.record("options"):
        assert checksums_ok(again) == checksums_ok(packet), "right stays right, wrong stays wrong"


@given(st.data(), st.sampled_from(sorted(SAMPLES)))
def test_a_change_and_its_reverse_give_the_frame_back(data: st.DataObject, name: str) -> None:
    frame = SAMPLES[name].bytes()
    packet = parsed(frame)
    assume("vlan" not in name and "tags" not in name and "qinq" not in name)
    values = data.draw(changes(packet))
    there = rewritten(packet, **values)
    assert there is not None
    back = parsed(there)
    out = np.zeros(len(frame), np.uint8)
    assert rewrite_one(back.data, back.packets, 0, packet.keys, 0, back.keys, out, 0) == len(frame)
    assert out.tobytes() == frame


@given(ANY_FRAME, st.lists(st.tuples(st.integers(0, HEADER_WORDS - 1), st.integers(-(2**63), 2**63 - 1)), max_size=6))
def test_any_key_at_all_is_written_within_the_frame(frame: bytes, words: list[tuple[int, int]]) -> None:
    packet = parsed(frame)
    keys = packet.keys.copy()
    for word, value in words:
        keys[0, word] = value
    out = np.full(len(frame) + 16, 0xEE, np.uint8)
    length = rewrite_one(packet.data, packet.packets, 0, keys, 0, packet.keys, out, 4)
    assert 0 <= length <= len(frame) + 8
    assert (out[:4] == 0xEE).all() and (out[4 + length :] == 0xEE).all()

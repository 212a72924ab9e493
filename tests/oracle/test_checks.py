"""What the oracle holds others to: each rule catches what breaks it."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.oracle.conversations import ethernet, fragment_v4, fragment_v6, ip_packet, l4_packet
from tests.oracle.frames import TCP, UDP, dissect, l4_checksum_is_right, ones_complement
from tests.oracle.naive import Naive
from tests.oracle.nat import Nat, complaint, first
from tests.oracle.reassembly import Piece, assemble, piece_of, whole_frame
from tests.oracle.records import Key, MismatchError, Seen
from tests.oracle.rewrite import rewrite

CLIENT, SERVER, PUBLIC, OTHER = (ip_address(text).packed for text in ("10.0.0.1", "10.0.0.2", "10.0.9.1", "10.0.9.7"))
KEY = Key(0, 4, UDP, CLIENT, SERVER, 5000, 53)
SOURCE = Nat("src", PUBLIC, PUBLIC)


def nobody(key: Key) -> bool:
    return False


def reply(**changes: object) -> Key:
    return replace(KEY.reversed(), destination=PUBLIC, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nat", "chosen", "what"),
    [
        (SOURCE, reply(), ""),
        (SOURCE, replace(reply(), destination=OTHER), "outside the range"),
        (SOURCE, reply(destination_port=5001), "although"),
        (SOURCE, reply(destination_port=600), "outside"),
        (SOURCE, reply(source_port=54), "something else"),
        (Nat("src", PUBLIC, PUBLIC, (7000, 7001)), reply(destination_port=7001), ""),
        (Nat("src", PUBLIC, PUBLIC, (7000, 7001)), reply(), "outside"),
        (Nat(), KEY.reversed(), ""),
        (Nat(), reply(), "keeps the address"),
        (Nat("dst", OTHER, OTHER), replace(KEY.reversed(), source=OTHER), ""),
        (Nat("dst", OTHER, OTHER), replace(KEY.reversed(), source=OTHER, source_port=54), "outside"),
        (Nat("dst", OTHER, OTHER), replace(KEY.reversed(), source=OTHER, destination_port=5001), "although"),
    ],
)
def test_a_reply_tuple_is_allowed_or_not(nat: Nat, chosen: Key, what: str) -> None:
    said = complaint(KEY, nat, chosen, nobody)
    assert (what in said) if what else (said == "")


def test_a_tuple_in_use_is_never_allowed_and_a_range_is_used_to_its_last_port() -> None:
    nat = Nat("src", PUBLIC, PUBLIC, (7000, 7003))
    taken: set[Key] = set()
    while (chosen := first(KEY, nat, taken.__contains__)) is not None:
        assert complaint(KEY, nat, chosen, taken.__contains__) == ""
        taken.add(chosen)
        assert complaint(KEY, nat, chosen, taken.__contains__)
    assert {key.destination_port for key in taken} == {7000, 7001, 7002, 7003}


def packet(source: bytes = CLIENT, body: bytes = b"hello") -> bytes:
    return l4_packet(source, SERVER, UDP, b"\x13\x88\x005" + (8 + len(body)).to_bytes(2) + b"\0\0" + body)


def test_a_refusal_without_a_reason_is_a_mismatch() -> None:
    oracle, frame = Naive(), ethernet(packet())
    with pytest.raises(MismatchError, match="refused"):
        oracle.track(frame, 0, nat=(SOURCE, SOURCE), seen=Seen("inv|trk", frame))


def test_replies_to_the_translated_address_come_back() -> None:
    oracle, frame = Naive(), ethernet(packet())
    out = oracle.track(frame, 0, nat=(SOURCE, SOURCE))
    datagram = dissect(out.frame)
    assert datagram is not None and datagram.source == PUBLIC and out.state == "new|trk|snat"
    assert l4_checksum_is_right(datagram) and ones_complement(datagram.header) == 0
    answer = ethernet(l4_packet(SERVER, PUBLIC, UDP, b"\x005\x13\x88\0\x0a\0\0ok"))
    back = oracle.track(answer, 1, commit=False, nat=(Nat(), Nat()))
    assert back.state == "est|rpl|trk|dnat" and back.frame[30:34] == CLIENT
    lost = oracle.track(ethernet(l4_packet(SERVER, CLIENT, UDP, b"\x005\x13\x88\0\x0a\0\0ok")), 1, commit=False)
    assert lost.state == "new|trk"


def test_a_rewritten_packet_rewritten_back_is_the_packet() -> None:
    frame = ethernet(packet())
    datagram = dissect(frame)
    assert datagram is not None
    there = rewrite(frame, datagram, replace(KEY, source=OTHER, source_port=9))
    changed = dissect(there)
    assert changed is not None and rewrite(there, changed, KEY) == frame != there


@pytest.mark.parametrize("family", [4, 6])
def test_pieces_in_any_order_make_the_whole(family: int) -> None:
    ends = (CLIENT, SERVER) if family == 4 else (bytes(15) + b"\1", bytes(15) + b"\2")
    whole = ip_packet(*ends, TCP, bytes(range(200)) * 10)
    data, make = whole[20 if family == 4 else 40 :], fragment_v4 if family == 4 else fragment_v6
    frames = [ethernet(make(whole, 1, at, data[at : at + 480], at + 480 < len(data))) for at in range(0, 2000, 480)]
    random.Random(1).shuffle(frames)
    parts = [piece_of(frame, datagram) for frame in frames for datagram in [dissect(frame)] if datagram is not None]
    assembled = assemble([piece for piece, _, _ in parts])
    assert assembled == data and assemble([piece for piece, _, _ in parts[1:]]) is None
    head = next(head for piece, head, _ in parts if piece.offset == 0)
    assert whole_frame(head, 14, family, assembled)[14:] == bytes(whole)


def test_pieces_that_contradict_each_other_make_nothing() -> None:
    assert assemble([Piece(0, b"a" * 16, True), Piece(16, b"b", False)]) == b"a" * 16 + b"b"
    assert assemble([Piece(0, b"a" * 16, True), Piece(8, b"x" * 8, True), Piece(16, b"b", False)]) is None
    assert assemble([Piece(0, b"a" * 8, False), Piece(8, b"b", False)]) is None

"""Fragments that contradict each other, or themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.conntrack.states import CS_HELD, CS_INVALID, CS_NEW, CS_TRACKED
from flowshunt.datapath.fragments import schema as G
from flowshunt.datapath.fragments.schema import PROFILES, FragmentSettings
from tests.builders import Packet
from tests.builders.fragments import fragment, fragments, read, whole
from tests.datapath.fragments.books import check_books
from tests.datapath.fragments.naive import NaiveFragments
from tests.datapath.fragments.switches import NO_MINIMUM, START_MS, fates, moved, play, tracking, udp4, udp6

INVALID = ("output", CS_INVALID | CS_TRACKED)
NEW = ("output", CS_NEW | CS_TRACKED)
HELD = ("held", CS_HELD)
GONE = ("drop.fragment", CS_HELD)
BOTH = pytest.mark.parametrize(("packet", "family"), [(udp4(), "ipv4"), (udp6(), "ipv6")], ids=["ipv4", "ipv6"])


@BOTH
def test_an_overlap_drops_the_datagram_and_what_comes_of_it_later(packet: Packet, family: str) -> None:
    datapath = tracking()
    first, second, third = fragments(packet, [1000, 2000])
    overlapping = fragment(packet, 992, 2000)
    assert fates(datapath, first, overlapping, second, third) == [HELD, INVALID, INVALID, INVALID]
    assert moved(datapath, family) == {"accepted": 1, "dropped": 1, "overlapping": 1, "of-refused-datagram": 2}
    assert (len(datapath.fragments), datapath.fragments.n_datagrams) == (0, 1)
    check_books(datapath)
    after = START_MS + (30_000 if family == "ipv4" else 60_000)
    assert fates(datapath, first, second, third, time_ms=after) == [HELD, HELD, NEW]
    check_books(datapath)


@BOTH
def test_a_repetition_is_refused_alone(packet: Packet, family: str) -> None:
    datapath = tracking()
    first, second, third = fragments(packet, [1000, 2000])
    part = fragment(packet, 8, 800)
    assert fates(datapath, first, first, third, third, part, second) == [HELD, INVALID, HELD, INVALID, INVALID, NEW]
    assert moved(datapath, family) == {"accepted": 3, "completed": 3, "duplicate": 3}


@BOTH
@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ((2000, 3008, False), (1000, 2008, False)),
        ((1000, 2008, False), (2000, 3008, False)),
        ((2000, 3000, True), (1000, 2000, False)),
        ((1000, 2000, False), (2000, 3000, True)),
        ((1000, 2001, False), (2000, 2008, True)),
        ((1000, 2003, False), (1000, 2001, False)),
    ],
)
def test_ends_that_contradict_each_other_drop_the_datagram(
    packet: Packet, family: str, earlier: tuple[int, int, bool], later: tuple[int, int, bool]
) -> None:
    datapath = tracking()
    frames = [fragment(packet, start, end, more=more) for start, end, more in (earlier, later)]
    assert fates(datapath, *frames, fragment(packet, 0, 1000)) == [HELD, INVALID, INVALID]
    assert moved(datapath, family) == {"accepted": 1, "dropped": 1, "inconsistent": 1, "of-refused-datagram": 1}


@BOTH
def test_what_is_wrong_by_itself_leaves_the_datagram_alone(packet: Packet, family: str) -> None:
    datapath = tracking()
    first, second = fragments(packet, [1000])
    too_long = bytearray(fragment(packet, 0, 1000, more=False))
    place = 20 if family == "ipv4" else 56
    too_long[place : place + 2] = b"\x1f\xff" if family == "ipv4" else b"\xff\xf8"
    frames = [first, fragment(packet, 1000, 1000, more=True), fragment(packet, 1000, 1004, more=True), second]
    assert fates(datapath, *frames[:3]) == [HELD, INVALID, INVALID]
    assert moved(datapath, family) == {"held": 1, "accepted": 1, "empty": 1, "misaligned": 1}
    if family == "ipv6":
        assert fates(datapath, bytes(too_long)) == [INVALID]
        assert moved(datapath, family)["too-long"] == 1
    assert fates(datapath, second) == [NEW]


def test_a_fragment_that_reaches_beyond_the_longest_packet() -> None:
    datapath = tracking()
    beyond = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", offset=8191).protocol(17, bytes(9))
    to_the_end = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", offset=8191).protocol(17, bytes(7))
    assert fates(datapath, beyond, to_the_end) == [INVALID, HELD]
    assert moved(datapath) == {"held": 1, "accepted": 1, "too-long": 1}


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_datagram_that_is_too_long_with_its_headers_is_refused(family: str) -> None:
    """65,528 bytes of payload, and 20 or 48 of headers, 40 of which are not counted in IPv6."""

    def part(start: int, end: int, more: bool) -> Packet:
        if family == "ipv4":
            packet = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", offset=start // 8, mf=more, protocol=253)
        else:
            packet = Packet().eth().ipv6("2001:db8::1", "2001:db8::2").hop_by_hop().fragment(start // 8, more)
        return packet.protocol(253, bytes(end - start))

    datapath = tracking()
    frames = [part(start, start + 16_000, True) for start in range(0, 64_000, 16_000)]
    assert fates(datapath, *frames, part(64_000, 65_528, False)) == [HELD] * 4 + [INVALID]
    assert moved(datapath, family) == {"accepted": 5, "dropped": 5, "too-long": 1}
    check_books(datapath)


@pytest.mark.parametrize(("headers", "packet"), [(14 + 20, udp4), (14 + 40 + 8, udp6)], ids=["ipv4", "ipv6"])
def test_a_datagram_that_makes_too_long_a_frame_is_refused(headers: int, packet: Callable[[int], Packet]) -> None:
    """As in Open vSwitch, where the link's header counts, and that of IPv6 fragments."""
    settings = replace(NO_MINIMUM, max_frame=3000)
    for size, outcome in ((3000 - headers - 8, NEW), (3000 - headers - 7, INVALID)):
        datapath = tracking(settings=settings)
        assert fates(datapath, *fragments(packet(size), [1000, 2000]))[-1] == outcome
        assert sum(datapath.fragments.too_long()) == (outcome == INVALID)
    assert (PROFILES["default"].max_frame, PROFILES["linux"].max_frame) == (65535, None)


def test_a_header_with_a_wrong_checksum_is_refused_unless_checksums_are_not_verified() -> None:
    first, second = fragments(udp4(), [1000])
    damaged = first[:24] + bytes([first[24] ^ 1]) + first[25:]
    datapath = tracking()
    assert fates(datapath, damaged, second) == [INVALID, HELD]
    assert moved(datapath)["wrong-checksum"] == 1
    lax = tracking()
    lax.tracker.arrays.state["check_checksums"] = 0
    assert fates(lax, damaged, second)[1] == NEW
    assert whole([out.frame for out in play(lax, first, second)[1]]) == udp4().bytes()


def test_fragments_that_are_cut_off_are_malformed() -> None:
    datapath = tracking()
    for packet in (udp4(), udp6()):
        (first, *_) = fragments(packet, [1000])
        assert fates(datapath, first[:-1], first[:40]) == [INVALID] * 2
    assert moved(datapath)["malformed"] == 2
    reserved = Packet().eth().ipv6("::1", "::2").fragment(0, False, reserved=1).udp(1, 2)
    assert fates(datapath, reserved) == [INVALID]
    assert moved(datapath, "ipv6") == {"malformed": 2}


def test_more_fragments_than_a_datagram_may_have_drop_it() -> None:
    datapath = tracking(settings=FragmentSettings(min_size_ipv4=0, max_fragments=2000))
    frames = [fragment(udp4(9000), 8 * n, 8 * n + 8) for n in range(G.MAX_PER_DATAGRAM + 1)]
    found = fates(datapath, *frames)
    assert found[-2:] == [HELD, INVALID]
    assert moved(datapath) == {"accepted": G.MAX_PER_DATAGRAM, "dropped": G.MAX_PER_DATAGRAM, "too-many": 1}
    check_books(datapath)


class TestLinux:
    """Refused fragments don't go on."""

    def test_what_is_refused_is_dropped(self) -> None:
        datapath = tracking(profile="linux")
        first, second, _ = fragments(udp4(), [1000, 2000])
        misaligned = fragment(udp4(), 2000, 2004, more=True)
        frames = [first, first, misaligned, fragment(udp4(), 992, 2000), second]
        assert fates(datapath, *frames) == [HELD, GONE, GONE, GONE, GONE]
        assert datapath.statistics()["drop.fragment"] == 4
        assert datapath.tracker.statistics()["invalid-fragment"] == 0

    def test_of_ipv6_what_deserves_an_error_message_goes_on_as_invalid(self) -> None:
        datapath = tracking(profile="linux")
        assert fates(datapath, fragment(udp6(), 0, 1004, more=True)) == [INVALID]

    def test_what_is_malformed_or_switched_off_goes_on_as_invalid(self) -> None:
        datapath = tracking(profile="linux", settings=FragmentSettings(ipv4=False))
        assert fates(datapath, fragment(udp4(), 0, 1000), fragment(udp6(), 0, 1000)[:-1]) == [INVALID] * 2


@st.composite
def hostile(draw: st.DrawFn) -> list[tuple[int, int, int, bool]]:
    """Identification, offset, size and more-bit of fragments that hardly fit together."""
    edges = st.sampled_from([0, 0, 8, 16, 24, 64, 248, 256, 264, 512, 65520, 65528])
    sizes = st.sampled_from([0, 1, 7, 8, 8, 16, 24, 40, 248, 256, 264])
    return draw(st.lists(st.tuples(st.integers(0, 3), edges, sizes, st.booleans()), max_size=60))


@given(hostile(), st.booleans())
def test_hostile_fragments_get_what_a_plain_model_gives_them(
    sequence: list[tuple[int, int, int, bool]], is_ipv6: bool
) -> None:
    datapath = tracking()
    family = "ipv6" if is_ipv6 else "ipv4"
    model = NaiveFragments(0 if is_ipv6 else 20)
    for n, (id, offset, size, more) in enumerate(sequence):
        body = bytes((n + k) & 0xFF for k in range(size))
        if not is_ipv6 and offset == 0 and not more:
            continue  # that is a whole packet
        if is_ipv6:
            if offset == 0 and not more:
                continue
            packet = Packet().eth().ipv6("::1", "::2").fragment(offset // 8, more, id=id).protocol(253, body)
        else:
            packet = Packet().eth().ipv4("1.1.1.1", "2.2.2.2", id=id, mf=more, offset=offset // 8, protocol=253)
            packet = packet.protocol(253, body)
        before = moved(datapath, family)
        (sent,) = play(datapath, packet)
        after = moved(datapath, family)
        expected = model.take(id, offset, body, more)
        if expected == "held":
            assert sent == []
            assert after["accepted"] == before.get("accepted", 0) + 1
        elif isinstance(expected, str):
            assert after[expected] == before.get(expected, 0) + 1
            assert [out.frame for out in sent] == [packet.bytes()]
        else:
            assert b"".join(read_payload(out.frame) for out in sent) == expected
            assert after["completed"] > before.get("completed", 0)
    check_books(datapath)


def read_payload(frame: bytes) -> bytes:
    """Of a fragment, or of a packet that was made whole and left so."""
    is_whole = frame[14] >> 4 == 6 and frame[20] != 44
    return frame[54:] if is_whole else read(frame).payload

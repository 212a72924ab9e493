"""Time, memory and numbers are bounded, settings can change, and a flood costs others nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt import Switch
from flowshunt.base.errors import UsageError
from flowshunt.conntrack.states import CS_HELD, CS_INVALID, CS_NEW, CS_TRACKED
from flowshunt.datapath.fragments import schema as G
from flowshunt.datapath.fragments.schema import PROFILES, FragmentSettings
from flowshunt.datapath.fragments.store import Fragments
from flowshunt.datapath.schema import MAX_OUTPUTS
from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow import flow as F
from tests.builders import Packet, batch_of
from tests.builders.fragments import fragment, fragments, fragments_of_size
from tests.datapath.fragments.books import check_books
from tests.datapath.fragments.switches import NO_MINIMUM, START_MS, fates, moved, play, tracking, udp4, udp6
from tests.datapath.switches import field, flow

INVALID = ("output", CS_INVALID | CS_TRACKED)
NEW = ("output", CS_NEW | CS_TRACKED)
HELD = ("held", CS_HELD)
BY_PORT = (flow(F.Ct(commit=True, zone=field("in_port", 0, 16), table=1)), flow(F.Output(2), table=1))
"""The zone is the number of the input port."""


def first_of(id: int, size: int = 8) -> bytes:
    """The beginning of a datagram that never comes to its end."""
    return fragment(udp4(2000), 0, size, id=id)


class TestTime:
    @pytest.mark.parametrize(("packet", "timeout"), [(udp4(2000), 30_000), (udp6(2000), 60_000)], ids=["ipv4", "ipv6"])
    def test_a_datagram_has_its_time_from_the_first_fragment_on(self, packet: Packet, timeout: int) -> None:
        datapath = tracking()
        family = "ipv4" if timeout == 30_000 else "ipv6"
        first, second, third = fragments(packet, [504, 1000])
        assert fates(datapath, first) == [HELD]
        assert fates(datapath, second, time_ms=START_MS + timeout - 1) == [HELD]
        assert fates(datapath, third, time_ms=START_MS + timeout) == [HELD]
        assert moved(datapath, family) == {"held": 1, "accepted": 3, "expired": 2}
        assert datapath.fragments.expire(START_MS + 2 * timeout - 1) == 0
        assert datapath.fragments.expire(START_MS + 2 * timeout) == 1
        assert datapath.fragments.expire(START_MS + 9 * timeout) == 0
        check_books(datapath)

    def test_both_families_expire_at_their_own_time(self) -> None:
        datapath = tracking()
        play(datapath, fragments(udp6(), [504])[0], first_of(1))
        assert datapath.fragments.expire(START_MS + 30_000) == 1
        assert moved(datapath, "ipv6") == {"held": 1, "accepted": 1}

    def test_a_clock_that_was_set_back_frees_what_is_from_the_future(self) -> None:
        datapath = tracking()
        play(datapath, first_of(1), time_ms=START_MS + 10_000_000)
        play(datapath, first_of(2), time_ms=START_MS)
        assert moved(datapath) == {"held": 1, "accepted": 2, "expired": 1}

    def test_a_small_step_back_is_jitter(self) -> None:
        datapath = tracking()
        first, second = fragments(udp4(), [1000])
        play(datapath, first, time_ms=START_MS + 1000)
        assert fates(datapath, second, time_ms=START_MS) == [NEW]

    def test_a_switch_forgets_without_further_fragments(self) -> None:
        switch = Switch()
        switch.add_flows("actions=ct(commit)")
        for time_ms, held in ((START_MS, 1), (START_MS + 29_000, 1), (START_MS + 31_000, 0)):
            frame = fragments_of_size(udp4(), 1500)[0] if time_ms == START_MS else udp4(10)
            switch.process(batch_of([frame], time_ns=time_ms * 1_000_000))
            assert len(switch.fragments) == held
        assert switch.statistics()["fragments.ipv4.expired"] == 1


class TestSettings:
    def test_the_default_profile_refuses_small_fragments_but_the_last(self) -> None:
        datapath = tracking(settings=PROFILES["default"])
        large, small = fragments_of_size(udp4(2000), 1200), fragments_of_size(udp4(2000), 1196)
        assert [len(frame) - 14 for frame in (large[0], small[0])] == [1196, 1196]
        exact = fragments(udp4(2000, options=b"\1" * 4), [1176])
        assert len(exact[0]) - 14 == 1200
        assert fates(datapath, *exact) == [HELD, NEW]
        assert fates(datapath, *small) == [INVALID, HELD]
        assert moved(datapath) == {"held": 1, "accepted": 3, "completed": 2, "too-small": 1}
        assert fates(datapath, *fragments(udp6(), [1232])) == [HELD, NEW]
        assert fates(datapath, *fragments(udp6(), [1224])) == [INVALID, HELD]
        assert moved(datapath, "ipv6")["too-small"] == 1

    def test_profile_linux_has_no_least_size(self) -> None:
        assert fates(tracking(settings=PROFILES["linux"], profile="linux"), *fragments(udp4(20), [8])) == [HELD, NEW]
        assert Switch("linux").fragments.settings == PROFILES["linux"]
        assert Switch().fragments.settings == PROFILES["default"]

    def test_least_sizes_can_change_at_any_time(self) -> None:
        datapath = tracking(settings=PROFILES["default"])
        datapath.fragments.configure(replace(datapath.fragments.settings, min_size_ipv4=400))
        assert fates(datapath, *fragments(udp4(2000), [384])) == [HELD, NEW]
        assert fates(datapath, *fragments(udp6(2000), [384])) == [INVALID, HELD]

    @pytest.mark.parametrize(("name", "packet", "other"), [("ipv4", udp4(), udp6()), ("ipv6", udp6(), udp4())])
    def test_each_family_can_be_switched_off(self, name: str, packet: Packet, other: Packet) -> None:
        datapath = tracking()
        off: dict[str, Any] = {name: False}
        datapath.fragments.configure(replace(NO_MINIMUM, **off))
        frames = fragments(packet, [1000])
        sent = play(datapath, *frames)
        assert [[out.frame for out in part] for part in sent] == [[frame] for frame in frames]
        assert fates(datapath, *frames) == [INVALID] * 2
        assert moved(datapath, name) == {}
        assert datapath.tracker.statistics()["invalid-fragment"] == 4
        assert fates(datapath, *fragments(other, [1000])) == [HELD, NEW]

    def test_times_can_change(self) -> None:
        datapath = tracking()
        play(datapath, first_of(1))
        datapath.fragments.configure(replace(NO_MINIMUM, timeout_ipv4_ms=100))
        assert datapath.fragments.expire(START_MS + 99) == 0
        assert datapath.fragments.expire(START_MS + 100) == 1

    @pytest.mark.parametrize(
        ("name", "value"),
        [("min_size_ipv4", -1), ("max_fragments", G.MAX_FRAGMENTS + 1), ("timeout_ipv6_ms", 0), ("max_zone_size", -5)],
    )
    def test_values_out_of_range_are_refused_and_change_nothing(self, name: str, value: int) -> None:
        fragments = Fragments()
        with pytest.raises(UsageError, match=f"{name} {value} is out of range"):
            fragments.configure(FragmentSettings(**{name: value}))  # type: ignore[arg-type]
        assert fragments.settings == PROFILES["default"]
        for memory in ({"n_fragments": 0}, {"n_fragments": G.MAX_FRAGMENTS + 1}, {"size": 100}):
            with pytest.raises(UsageError):
                Fragments(**memory)  # type: ignore[arg-type]


class TestRoom:
    def test_the_oldest_datagram_makes_room_for_a_new_fragment(self) -> None:
        datapath = tracking(settings=replace(NO_MINIMUM, max_fragments=3))
        first, second = fragments(udp4(2000), [1000])
        assert fates(datapath, first, first_of(1), first_of(2), second) == [HELD, HELD, HELD, NEW]
        assert fates(datapath, first, *map(first_of, (3, 4, 5)), second) == [HELD] * 5
        assert moved(datapath) == {"held": 3, "accepted": 9, "completed": 2, "purged": 4}
        check_books(datapath)

    def test_a_datagram_never_makes_room_for_itself(self) -> None:
        datapath = tracking(settings=replace(NO_MINIMUM, max_fragments=2))
        frames = fragments(udp4(2000), [504, 1000])
        assert fates(datapath, *frames) == [HELD, HELD, INVALID]
        assert moved(datapath) == {"held": 2, "accepted": 2, "no-room": 1}
        assert fates(tracking(settings=replace(NO_MINIMUM, max_fragments=0)), *frames) == [INVALID] * 3

    def test_a_limit_that_is_lowered_takes_effect_with_the_next_fragment(self) -> None:
        datapath = tracking()
        play(datapath, *(first_of(n) for n in range(10)))
        datapath.fragments.configure(replace(NO_MINIMUM, max_fragments=3))
        assert len(datapath.fragments) == 10
        play(datapath, first_of(10))
        assert len(datapath.fragments) == 3
        check_books(datapath)

    def test_memory_is_bounded_by_size(self) -> None:
        datapath = tracking(size=10 * G.BLOCK_SIZE)
        big = fragments_of_size(udp4(20_000), 1500)
        assert [fate for fate, _ in fates(datapath, *big)].count("held") == 3
        assert datapath.fragments.arrays.state["n_blocks"][0] <= 10
        check_books(datapath)
        assert fates(datapath, *fragments_of_size(udp4(2000), 1500, id=9)) == [HELD, NEW]
        check_books(datapath)

    def test_a_zone_has_limits_of_its_own(self) -> None:
        datapath = tracking(*BY_PORT, settings=replace(NO_MINIMUM, max_zone_fragments=2, max_zone_size=5 * 512))
        play(datapath, first_of(1), in_port=7)
        play(datapath, *(first_of(n) for n in range(5)), in_port=3)
        assert moved(datapath) == {"held": 3, "accepted": 6, "purged": 3}
        play(datapath, *(first_of(n, 1480) for n in range(10, 12)), in_port=4)
        assert moved(datapath)["held"] == 4
        check_books(datapath)

    def test_the_zone_that_takes_the_most_makes_room(self) -> None:
        datapath = tracking(*BY_PORT, settings=replace(NO_MINIMUM, max_fragments=10))
        first, second = fragments(udp4(2000), [1000])
        play(datapath, first, in_port=5)
        play(datapath, *(first_of(n, 1480) for n in range(100)), in_port=7)
        play(datapath, *(first_of(n, 1480) for n in range(3)), in_port=6)
        zones = datapath.fragments.arrays.zones["n_fragments"]
        assert zones[[5, 6, 7]].tolist() == [1, 3, 6]
        assert len(play(datapath, second, in_port=5)[0]) == 2
        check_books(datapath)

    def test_what_is_refused_takes_room_that_is_bounded_too(self) -> None:
        datapath = tracking(n_fragments=16)
        for n in range(40):
            play(datapath, first_of(n, 16), fragment(udp4(), 8, 24, id=n))
        assert datapath.fragments.n_datagrams == 16
        assert len(datapath.fragments) == 0
        check_books(datapath)
        assert fates(datapath, *fragments(udp4(2000), [1000], id=99)) == [HELD, NEW]

    def test_datagrams_of_one_bucket_are_bounded(self) -> None:
        datapath = tracking()
        fragments = datapath.fragments
        fragments.arrays = fragments.arrays._replace(buckets=np.zeros(1, np.int32))
        play(datapath, *(first_of(n) for n in range(40)))
        assert len(fragments) == G.MAX_CHAIN
        check_books(datapath)

    def test_flush_forgets_all_or_a_zone(self) -> None:
        datapath = tracking(*BY_PORT)
        for port in (3, 4):
            play(datapath, first_of(1), fragments(udp6(), [504])[0], in_port=port)
        assert datapath.fragments.flush(zone=3) == 2
        assert moved(datapath) == {"held": 1, "accepted": 2, "purged": 1}
        assert datapath.fragments.flush() == 2
        assert datapath.fragments.flush() == datapath.fragments.n_datagrams == 0
        check_books(datapath)

    def test_the_oldest_packet_that_is_held(self) -> None:
        datapath = tracking()
        assert datapath.fragments.oldest_packet() is None
        play(datapath, udp4(9), first_of(1), fragments(udp6(), [504])[0])
        assert datapath.fragments.oldest_packet() == 1
        play(datapath, fragment(udp4(2000), 0, 16, id=1))  # overlaps: packet 1 is gone
        assert datapath.fragments.oldest_packet() == 2
        datapath.fragments.flush()
        assert datapath.fragments.oldest_packet() is None


def test_a_flood_of_first_fragments_neither_grows_nor_keeps_others_from_being_put_together() -> None:
    datapath = tracking(settings=replace(NO_MINIMUM, max_fragments=50))
    flood = [first_of(n, 64) for n in range(500)]
    wanted = fragments_of_size(udp4(3000, sport=9), 1300, id=60_000)
    frames: list[bytes] = []
    for n, frame in enumerate(flood):
        frames += [frame, udp4(10).bytes()]
        frames += [wanted[n // 10 % 3]] if n % 10 == 9 else []
    sent = play(datapath, *frames)
    done = [n for n, frame in enumerate(frames) if frame in wanted and sent[n]]
    assert len(done) == 50 // 3
    assert all([out.frame for out in sent[n]] == wanted for n in done)
    assert all(sent[n] for n, frame in enumerate(frames) if frame == udp4(10).bytes())
    assert len(datapath.fragments) <= 50
    assert datapath.fragments.arrays.state["fresh_fragment"][0] <= 50
    check_books(datapath)


def test_more_fragments_than_one_packet_may_send_are_left_out_whole() -> None:
    ports = MAX_OUTPUTS // 1000 + 2
    datapath = with_ports(ports)
    frames = [fragment(udp4(7992), 8 * n, 8 * n + 8) for n in range(1000)]
    sent = play(datapath, *frames, in_port=99)
    assert len(sent[-1]) == MAX_OUTPUTS // 1000 * 1000
    assert datapath.statistics()["skipped.output-limit"] == ports - MAX_OUTPUTS // 1000


def with_ports(n: int) -> Datapath:
    datapath = tracking(flow(F.Ct(table=1)), flow(F.Flood(), table=1))
    for port in range(4, n + 1):
        datapath.ports.add(port)
    return datapath


def test_more_bytes_than_one_packet_may_send_are_left_out_whole() -> None:
    outputs = [
        action for n in range(20) for action in (F.SetField(field("eth_src", 0, 48), n + 1, (1 << 48) - 1), F.Output(2))
    ]
    datapath = tracking(flow(F.Ct(table=1)), flow(*outputs, table=1))
    frames = fragments_of_size(udp4(60_000), 1500)
    sent = play(datapath, *frames)[-1]
    assert 0 < len(sent) < 20 * len(frames)
    assert len(sent) % len(frames) == 0
    assert datapath.statistics()["skipped.output-limit"] == 20 - len(sent) // len(frames)


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0, 8, 16, 1000]), st.sampled_from([8, 16, 600, 1480]),
                          st.booleans(), st.integers(1, 4), st.integers(0, 12_000)), max_size=80))  # fmt: skip
def test_whatever_comes_the_bounds_hold(sequence: list[tuple[int, int, int, bool, int, int]]) -> None:
    limits = replace(NO_MINIMUM, max_fragments=9, max_zone_fragments=5, max_zone_size=12 * G.BLOCK_SIZE)
    datapath = tracking(*BY_PORT, settings=limits, n_fragments=12, size=20 * G.BLOCK_SIZE)
    time_ms = START_MS
    for id, start, size, more, port, pause in sequence:
        time_ms += pause
        play(datapath, fragment(udp4(4000), start, start + size, id=id, more=more), time_ms=time_ms, in_port=port)
        state = datapath.fragments.arrays.state[0]
        zones = datapath.fragments.arrays.zones
        assert state["n_fragments"] <= 9
        assert state["n_blocks"] <= 20
        assert state["n_datagrams"] <= 12
        assert zones["n_fragments"].max() <= 5
        assert zones["n_blocks"].max() <= 12
    check_books(datapath)


def test_a_fragment_may_complete_as_many_datagrams_as_there_are_clones() -> None:
    clones = [F.Clone((F.Ct(table=1, zone=zone),)) for zone in (1, 2, 3)]
    settings = FragmentSettings(min_size_ipv4=0, max_fragments=4096)
    datapath = tracking(flow(*clones), flow(F.Output(2), table=1), settings=settings)
    frames = fragments_of_size(udp4(8 * 900), 28)
    assert len(frames) > 900
    result = datapath.process(batch_of(frames, in_port=1, time_ns=START_MS * 1_000_000, step_ns=0))
    assert len(result.tx) == 3 * len(frames)
    assert len(result.joined) == 3 * len(frames)
    check_books(datapath)

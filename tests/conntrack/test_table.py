"""The tracker as its users see it: states, zones, marks, expiry, flushing, growth, limits, events and private slots."""

from __future__ import annotations

import time
from ipaddress import IPv4Address

import numpy as np
import pytest

from flowshunt import Switch
from flowshunt.base.errors import UsageError
from flowshunt.conntrack import schema as C
from flowshunt.conntrack.connection import Tuple
from flowshunt.conntrack.kernels import entry
from flowshunt.conntrack.states import LINUX_NAMES, ct_state_text, from_kernel_2015, to_kernel_2015
from flowshunt.conntrack.table import Tracker
from flowshunt.jit import JIT
from tests.builders import Packet, batch_of

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
SECOND = 1000
START_MS = 1_700_000_000_000


def make_tracker(**options: object) -> Tracker:
    """A small tracker whose hash key is fixed."""
    return Tracker(**{"max_connections": 4096, "seed": 5, **options})  # type: ignore[arg-type]


def tcp(
    flags: str, seq: int, ack: int = 0, *, reply: bool = False, port: int = 1000, payload: int = 0, **rest: int
) -> Packet:
    """A segment of the one conversation that these tests use; flags as letters out of SAFRP."""
    ends = (SERVER, CLIENT, 80, port) if reply else (CLIENT, SERVER, port, 80)
    names = {"S": "syn", "A": "ack", "F": "fin", "R": "rst", "P": "psh"}
    bits = {names[letter]: True for letter in flags}
    return Packet().eth().ipv4(*ends[:2]).tcp(*ends[2:], seq=seq, ack_number=ack, **bits, **rest).payload(payload)


def udp(port: int = 5000, *, reply: bool = False, destination: int = 53) -> Packet:
    """A datagram of a client with this port, or its answer."""
    if reply:
        return Packet().eth().ipv4(SERVER, CLIENT).udp(destination, port).payload(4)
    return Packet().eth().ipv4(CLIENT, SERVER).udp(port, destination).payload(4)


def send(
    tracker: Tracker,
    *packets: Packet,
    at_ms: int = START_MS,
    zone: int = 0,
    commit: bool = True,
    force: bool = False,
    in_port: int = 1,
) -> list[str]:
    """The states of packets that come one after the other at one time."""
    batch = batch_of(packets, in_port=in_port, time_ns=at_ms * 1_000_000, step_ns=0)
    return [ct_state_text(int(state)) for state in tracker.track(batch, zone, commit=commit, force=force)]


def handshake(port: int = 1000) -> list[Packet]:
    """SYN, SYN-ACK, ACK."""
    return [tcp("S", 100, port=port), tcp("SA", 500, 101, reply=True, port=port), tcp("A", 101, 501, port=port)]


def test_a_handshake_makes_one_connection() -> None:
    tracker = make_tracker()
    assert send(tracker, *handshake()) == ["new|trk", "est|rpl|trk", "est|trk"]
    (connection,) = tracker.connections()
    assert connection.states == ("ESTABLISHED", "ESTABLISHED")
    assert connection.original == Tuple(IPv4Address(CLIENT), IPv4Address(SERVER), 1000, 80)
    assert connection.reply == Tuple(IPv4Address(SERVER), IPv4Address(CLIENT), 80, 1000)
    assert connection.packets == (2, 1)
    assert connection.bytes == (80, 40)
    assert connection.seen_reply
    assert connection.timeout_ms == 86_400 * SECOND
    assert connection.start_ms == START_MS
    assert connection.in_port == 1


def test_without_commit_nothing_is_stored() -> None:
    tracker = make_tracker()
    assert send(tracker, udp(), udp(), commit=False) == ["new|trk", "new|trk"]
    assert len(tracker) == 0
    assert tracker.statistics()["new"] == 2


def test_zones_keep_equal_tuples_apart() -> None:
    tracker = make_tracker()
    assert send(tracker, udp(), zone=1) == ["new|trk"]
    assert send(tracker, udp(reply=True), zone=2) == ["new|trk"]
    assert send(tracker, udp(reply=True), zone=1) == ["est|rpl|trk"]
    assert sorted(connection.zone for connection in tracker.connections()) == [1, 2]
    assert [connection.zone for connection in tracker.connections(zone=2)] == [2]


def test_force_turns_a_connection_round() -> None:
    tracker = make_tracker()
    send(tracker, udp())
    assert send(tracker, udp(reply=True), force=True) == ["new|trk"]
    (connection,) = tracker.connections()
    assert str(connection.original.source) == SERVER
    assert tracker.statistics()["removed-forced"] == 1


def test_an_echo_in_either_direction_is_its_own_connection() -> None:
    ours = Packet().eth().ipv4(CLIENT, SERVER).icmp(8, id=7)
    theirs = Packet().eth().ipv4(SERVER, CLIENT).icmp(8, id=7)
    reply = Packet().eth().ipv4(SERVER, CLIENT).icmp(0, id=7)
    tracker = make_tracker()
    assert send(tracker, ours, theirs, reply) == ["new|trk", "new|trk", "est|rpl|trk"]
    assert len(tracker) == 2


def test_an_echo_reply_out_of_the_blue_is_invalid() -> None:
    tracker = make_tracker()
    assert send(tracker, Packet().eth().ipv4(SERVER, CLIENT).icmp(0, id=7)) == ["inv|trk"]
    assert tracker.statistics()["invalid-first-packet"] == 1


def test_an_icmp_error_is_related_against_the_direction_of_its_quote() -> None:
    tracker = make_tracker()
    send(tracker, udp())
    refused = Packet().eth().ipv4(SERVER, CLIENT).icmp(3, 3).quote(udp().bytes()[14:])
    assert send(tracker, refused) == ["rel|rpl|trk"]
    unknown = Packet().eth().ipv4(SERVER, CLIENT).icmp(3, 3).quote(udp(port=9).bytes()[14:])
    assert send(tracker, unknown) == ["inv|trk"]
    assert tracker.statistics()["related"] == 1
    assert tracker.statistics()["invalid-icmp-error-unknown"] == 1


@pytest.mark.parametrize("profile", ["default", "linux"])
def test_a_connection_ends_at_its_timeout(profile: str) -> None:
    tracker = make_tracker(profile=profile)
    send(tracker, udp())
    (connection,) = tracker.connections()
    last = START_MS + connection.timeout_ms
    assert send(tracker, udp(reply=True, port=9), at_ms=last - 1, commit=False) == ["new|trk"]
    assert len(list(tracker.connections())) == 1
    assert list(tracker.connections(last)) == []
    assert send(tracker, udp(reply=True), at_ms=last, commit=False) == ["new|trk"]
    assert tracker.statistics()["removed-expired"] == 1


def test_time_that_runs_backwards_does_not_revive() -> None:
    tracker = make_tracker()
    send(tracker, udp())
    send(tracker, udp(port=9), at_ms=START_MS + 100 * SECOND)
    assert send(tracker, udp(reply=True), at_ms=START_MS, commit=False) == ["new|trk"]


def test_sweeping_is_bounded_and_complete() -> None:
    tracker = make_tracker()
    send(tracker, *(udp(port=port) for port in range(1, 1001)))
    send(tracker, *handshake())
    assert tracker.sweep(START_MS + 59 * SECOND) == 0
    removed = tracker.sweep(START_MS + 61 * SECOND, budget=100)
    assert 0 < removed <= 100
    assert removed + tracker.sweep(START_MS + 61 * SECOND) == 1000
    assert [connection.protocol_name for connection in tracker.connections()] == ["tcp"]
    assert tracker.statistics()["removed-expired"] == 1000


def test_a_complete_sweep_is_exact_to_the_millisecond() -> None:
    for late in range(0, 3000, 250):
        tracker = make_tracker()
        send(tracker, udp())
        send(tracker, udp(port=6), at_ms=START_MS + late)
        assert tracker.sweep(START_MS + 60 * SECOND - 1) == 0
        assert tracker.sweep(START_MS + 60 * SECOND) == (1 if late else 2)
        assert tracker.sweep(START_MS + 60 * SECOND + late) == (1 if late else 0)


@pytest.mark.parametrize("leap_ms", [4 * 3600 * SECOND, 400 * 86_400 * SECOND])
def test_a_leap_of_the_clock_expires_what_is_due(leap_ms: int) -> None:
    tracker = make_tracker()
    send(tracker, udp(), *handshake())
    tracker.sweep(START_MS + leap_ms)
    left = 1 if leap_ms < 86_400 * SECOND else 0
    assert len(tracker) == left


def test_a_shorter_life_is_noticed_by_the_sweep() -> None:
    tracker = make_tracker()
    send(tracker, *handshake(), tcp("RA", 501, 101, reply=True))
    (connection,) = tracker.connections()
    assert connection.timeout_ms == 30 * SECOND
    assert tracker.sweep(START_MS + 32 * SECOND) == 1


def test_flush_of_everything_of_a_zone_and_of_one_tuple() -> None:
    tracker = make_tracker()
    for zone in (0, 1):
        send(tracker, *(udp(port=port) for port in range(1, 11)), zone=zone)
    wanted = Tuple(IPv4Address(SERVER), IPv4Address(CLIENT), 53, 3)  # the reply direction finds it too
    assert tracker.flush(1, wanted=wanted, protocol=17) == 1
    assert tracker.flush(1, wanted=wanted, protocol=17) == 0
    assert tracker.flush(1) == 9
    assert tracker.flush() == 10
    assert len(tracker) == 0
    assert tracker.statistics()["removed-flushed"] == 20
    assert send(tracker, udp(port=3)) == ["new|trk"]


def test_a_census_counts_what_a_listing_lists() -> None:
    tracker = make_tracker()
    send(tracker, *handshake(), *handshake(port=2), tcp("S", 1, port=3), udp(), udp(port=6), udp(port=6, reply=True))
    counts: dict[tuple[str, str | None, bool], int] = {}
    for example, n in tracker.census():
        kind = (example.protocol_name, example.state, example.seen_reply)
        counts[kind] = counts.get(kind, 0) + n
    assert counts == {
        ("tcp", "ESTABLISHED", True): 2,
        ("tcp", "SYN_SENT", False): 1,
        ("udp", None, False): 1,
        ("udp", None, True): 1,
    }


@pytest.mark.parametrize(("profile", "refused"), [("default", "new|trk"), ("linux", "inv|trk")])
def test_a_full_table_stores_no_new_connections(profile: str, refused: str) -> None:
    tracker = make_tracker(max_connections=3, profile=profile)
    states = send(tracker, *(udp(port=port) for port in range(1, 6)))
    assert states == ["new|trk"] * 3 + [refused] * 2
    assert len(tracker) == 3
    assert send(tracker, udp(port=1, reply=True)) == ["est|rpl|trk"]
    assert tracker.statistics()["full"] == 2
    tracker.sweep(START_MS + 61 * SECOND)
    assert send(tracker, udp(port=5), at_ms=START_MS + 62 * SECOND) == ["new|trk"]


def test_the_table_grows_and_finds_everything() -> None:
    n = 20_000 if JIT else 1500
    tracker = make_tracker(max_connections=n)
    packets = [Packet().eth().ipv4(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", SERVER).udp(1000, 53) for i in range(n)]
    batch = batch_of(packets, time_ns=START_MS * 1_000_000, step_ns=0)
    assert set(tracker.track(batch, commit=True).tolist()) == {0x21}
    base = int(tracker.arrays.state["base"][0])
    assert base > C.MIN_BUCKETS
    assert len(tracker) == n
    assert set(tracker.track(batch).tolist()) == {0x21}
    assert tracker.statistics()["found"] == n
    assert len(list(tracker.connections())) == n
    assert tracker.flush() == n
    while entry.grow(tracker.arrays, 64):
        pass
    assert not tracker.arrays.buckets[base : 2 * base].any()


def test_a_batch_of_one_gives_the_same_states() -> None:
    packets = [*handshake(), *(udp(port=port % 7 + 1, reply=port % 3 == 0) for port in range(100)), *handshake(port=2)]
    results = [send(make_tracker(batch_size=size), *packets) for size in (1, 32, 256)]
    assert results[0] == results[1] == results[2]


def test_checksums_are_verified_unless_switched_off() -> None:
    broken = Packet().eth().ipv4(CLIENT, SERVER).udp(1, 53, checksum=0x1234)
    tracker = make_tracker()
    assert send(tracker, broken) == ["inv|trk"]
    assert tracker.statistics()["invalid-checksum"] == 1
    assert send(make_tracker(check_checksums=False), broken) == ["new|trk"]


def test_sequence_checking_can_be_switched_off() -> None:
    far = tcp("A", 900_000_000, 501, payload=10)
    assert send(make_tracker(), *handshake(), far)[-1] == "inv|trk"
    assert send(make_tracker(check_sequence=False), *handshake(), far)[-1] == "est|trk"


def test_a_closed_connection_gives_way_to_a_new_syn() -> None:
    tracker = make_tracker()
    closing = [tcp("FA", 101, 501), tcp("FA", 501, 102, reply=True), tcp("A", 102, 502)]
    assert send(tracker, *handshake(), *closing)[-1] == "est|trk"
    assert send(tracker, tcp("S", 7000)) == ["new|trk"]
    assert tracker.statistics()["removed-replaced"] == 1
    assert len(tracker) == 1


def test_window_scaling_lets_large_windows_pass() -> None:
    tracker = make_tracker()
    opening = [
        tcp("S", 100, window_scale=7),
        tcp("SA", 500, 101, reply=True, window_scale=7, window=1000),
        tcp("A", 101, 501, window=1000),
        tcp("A", 501, 101, reply=True, window=1000),
    ]
    inside = tcp("A", 101 + 100_000, 501, payload=100)
    assert send(tracker, *opening, inside)[-1] == "est|trk"
    outside = tcp("A", 101 + 1000 * 128 + 70_000, 501, payload=100)
    assert send(tracker, outside) == ["inv|trk"]


def test_events_tell_the_life_of_a_connection() -> None:
    tracker = make_tracker()
    seen: list[np.ndarray] = []
    tracker.observe(seen.append)
    send(tracker, *handshake(), in_port=7)
    tracker.flush()
    events = np.concatenate(seen)
    kinds = [C.EVENT_KINDS[kind] for kind in events["kind"]]
    assert kinds[0] == "created"
    assert kinds[-1] == "destroyed"
    assert kinds.count("reply") == 1
    assert kinds.count("created") == kinds.count("destroyed") == 1
    assert C.REASONS[events["reason"][-1]] == "flushed"
    assert set(events["in_port"].tolist()) == {7}
    assert len({(row, generation) for row, generation in zip(events["row"], events["generation"], strict=True)}) == 1


def test_events_are_never_lost() -> None:
    tracker = make_tracker()
    counted = {"created": 0, "destroyed": 0}

    def count(events: np.ndarray) -> None:
        for kind in events["kind"]:
            name = C.EVENT_KINDS[kind]
            if name in counted:
                counted[name] += 1

    tracker.observe(count)
    tracker.arrays = tracker.arrays._replace(events=np.zeros(2 * C.EVENTS_PER_TRACK, C.EVENT))
    send(tracker, *(udp(port=port) for port in range(1, 1001)))
    tracker.sweep(START_MS + 70 * SECOND)
    assert counted == {"created": 1000, "destroyed": 1000}


def test_private_slots_belong_to_one_connection_and_are_destroyed_with_it() -> None:
    tracker = make_tracker()
    ended: list[int] = []
    slot = tracker.allocate_slot("test", ended.append)
    events: list[np.ndarray] = []
    tracker.observe(events.append)
    send(tracker, udp())
    row, generation = int(events[0]["row"][0]), int(events[0]["generation"][0])
    assert tracker.get_slot(slot, row, generation) == 0
    assert tracker.set_slot(slot, row, generation, 99)
    assert tracker.get_slot(slot, row, generation) == 99
    tracker.flush()
    assert ended == [99]
    assert tracker.get_slot(slot, row, generation) is None
    assert not tracker.set_slot(slot, row, generation, 1)
    send(tracker, udp())
    assert tracker.get_slot(slot, row, generation + 1) == 0


def test_slots_run_out_with_an_error() -> None:
    tracker = make_tracker()
    for number in range(C.N_SLOTS):
        tracker.allocate_slot(f"module{number}")
    with pytest.raises(UsageError, match="no private slot left"):
        tracker.allocate_slot("one too many")
    with pytest.raises(UsageError, match="taken"):
        tracker.allocate_slot("module0")


def test_observers_cannot_change_the_tracker_that_calls_them() -> None:
    tracker = make_tracker()
    refused: list[str] = []

    def meddle(events: np.ndarray) -> None:
        for change in (tracker.flush, lambda: tracker.sweep(0), lambda: send(tracker, udp(port=9))):
            try:
                change()
            except UsageError as error:
                refused.append(str(error))
        with pytest.raises(ValueError, match="read-only"):
            events["kind"] = 0

    tracker.observe(meddle)
    send(tracker, udp())
    assert len(refused) == 3
    assert len(tracker) == 1
    assert tracker.flush() == 1


def test_a_module_that_fails_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    tracker = make_tracker()
    seen: list[int] = []
    freed: list[int] = []

    def broken(events: np.ndarray) -> None:
        raise ZeroDivisionError("a bug of the module")

    def destroy(value: int) -> None:
        freed.append(value)
        if value == 2:
            raise ZeroDivisionError("another")

    slot = tracker.allocate_slot("test", destroy)
    tracker.observe(broken)
    tracker.observe(lambda events: seen.extend(events["row"].tolist()))
    assert send(tracker, udp(port=1), udp(port=2), udp(port=3)) == ["new|trk"] * 3
    for row in seen[:3]:
        tracker.set_slot(slot, row, 0, row + 1)
    tracker.flush()
    assert sorted(freed) == [1, 2, 3]
    assert len(seen) == 6
    assert tracker.statistics()["observer-errors"] == 3
    assert "a module that observes connections failed" in caplog.text


def test_force_in_the_original_direction_counts_a_packet_once() -> None:
    switch = Switch(max_connections=100)
    switch.add_port("p0")
    switch.add_flows("table=0,ip,actions=ct(table=1)\ntable=1,ip,actions=ct(commit,force),normal")
    for _ in range(4):
        switch.process(batch_of([udp()]))
    (connection,) = switch.tracker.connections()
    assert connection.packets == (4, 0)


def test_one_packet_from_the_future_does_not_stop_the_clock() -> None:
    tracker = make_tracker()
    future = 9_000_000_000 * SECOND
    send(tracker, *handshake())
    send(tracker, udp(), at_ms=future)
    assert send(tracker, tcp("A", 101, 501), at_ms=START_MS + SECOND) == ["est|trk"]
    assert tracker.now_ms == START_MS + SECOND
    send(tracker, udp(port=8), at_ms=START_MS + 2 * SECOND)
    assert tracker.sweep(START_MS + 5000 * SECOND) == 1  # 5000 s are more than the wheel goes round in


def test_times_before_1970_are_times_like_others() -> None:
    tracker = make_tracker()
    assert send(tracker, udp(), at_ms=-100_000 * SECOND) == ["new|trk"]
    assert send(tracker, udp(reply=True), at_ms=-99_999 * SECOND) == ["est|rpl|trk"]
    assert send(tracker, udp(), at_ms=-10 * SECOND) == ["new|trk"]
    (connection,) = tracker.connections()
    assert connection.start_ms == -10 * SECOND


def test_a_table_full_of_what_has_expired_takes_new_connections() -> None:
    tracker = make_tracker(max_connections=1)
    send(tracker, udp(port=1))
    assert send(tracker, udp(port=2), at_ms=START_MS + 100 * SECOND) == ["new|trk"]
    assert tracker.statistics()["full"] == 0


def test_marks_and_labels_can_be_set_from_outside() -> None:
    tracker = make_tracker()
    events: list[np.ndarray] = []
    tracker.observe(events.append)
    send(tracker, udp())
    (connection,) = tracker.connections()
    assert tracker.set_mark(connection.id, connection.generation, 0xABCD, 0xFF)
    assert tracker.set_label(connection.id, connection.generation, 1 << 127 | 5)
    (changed,) = tracker.connections()
    assert (changed.mark, changed.label) == (0xCD, 1 << 127 | 5)
    assert [C.EVENT_KINDS[kind] for kind in np.concatenate(events)["kind"]] == ["created", "mark", "label"]
    tracker.flush()
    assert not tracker.set_mark(connection.id, connection.generation, 1)
    assert not tracker.set_label(connection.id, connection.generation, 1)


def test_tcp_flags_are_remembered_by_direction() -> None:
    tracker = make_tracker()
    send(tracker, *handshake(), tcp("PA", 101, 501, payload=3))
    (connection,) = tracker.connections()
    assert connection.tcp_flags == (0x02 | 0x10 | 0x08, 0x02 | 0x10)


def test_state_events_of_profile_linux_name_its_states() -> None:
    tracker = make_tracker(profile="linux")
    events: list[np.ndarray] = []
    tracker.observe(events.append)
    send(tracker, *handshake())
    found = np.concatenate(events)
    states = found["state"][found["kind"] == C.EVENT_STATE].tolist()
    assert [LINUX_NAMES[state] for state in states] == ["SYN_RECV", "ESTABLISHED"]


def test_a_high_zone_works_as_any_other() -> None:
    tracker = make_tracker()
    assert send(tracker, udp(), zone=65535) == ["new|trk"]
    assert [connection.zone for connection in tracker.connections()] == [65535]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"profile": "bsd"}, "profile"), ({"batch_size": 0}, "batch size"), ({"max_connections": 0}, "capacity")],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_tracker(**options)


def test_a_zone_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="zone 65536"):
        send(make_tracker(), udp(), zone=65536)


def test_ct_state_bits_convert_to_the_kernel_patch_of_2015_and_back() -> None:
    assert to_kernel_2015(0x01 | 0x20) == 0x01 | 0x80
    assert to_kernel_2015(0x10 | 0x08) == 0x20 | 0x40
    assert all(from_kernel_2015(to_kernel_2015(bits)) == bits for bits in range(0x40))


@pytest.mark.needs_jit
@pytest.mark.long
def test_a_dump_of_a_million_never_holds_the_packet_path_for_a_millisecond() -> None:
    from benchmarks import traffic

    tracker = Tracker(max_connections=1 << 20, seed=1)
    tracker.track(traffic.frames(17, *traffic.flows(1_000_000)), commit=True)
    records, rows = np.zeros(2048, C.CONNECTION), np.zeros(2048, np.int64)
    slices, copied = [], 0
    for first in range(0, 1_000_000, 2048):
        began = time.thread_time_ns()
        copied += entry.copy_rows(tracker.arrays, records, rows, first, 2048, -1, 0)
        slices.append(time.thread_time_ns() - began)
    assert copied == 1_000_000
    assert np.median(slices) < 1_000_000

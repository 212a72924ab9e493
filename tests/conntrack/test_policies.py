"""Limits, headroom, early drop, timeout policies, liberal and loose TCP: set while the tracker runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt import Switch
from flowshunt.base.errors import UsageError
from flowshunt.conntrack import schema as C
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.kernels.policies import EVICTION_BUCKETS
from flowshunt.conntrack.states import F_LIVE, F_SEEN_REPLY
from flowshunt.conntrack.table import Tracker
from flowshunt.conntrack.timeouts import POLICY_CLASSES
from tests.builders import Packet, batch_of
from tests.conntrack.test_table import CLIENT, SECOND, SERVER, START_MS, handshake, make_tracker, send, tcp, udp

REFUSED = {"default": "new|trk", "linux": "inv|trk"}
"""What a packet is whose connection finds no room: Open vSwitch lets it pass as new, Linux drops it."""


def live_by_zone(tracker: Tracker) -> Counter[int]:
    """Counted one by one."""
    records = tracker.arrays.conns[: int(tracker.arrays.state["n_fresh"][0])]
    alive = records[(records["flags"] & F_LIVE) != 0]
    return Counter(((alive["tuple"] >> 16) & 0xFFFF).tolist())


def only(tracker: Tracker, zone: int = 0) -> Connection:
    (connection,) = tracker.connections(zone=zone)
    return connection


# --- limits ---


@pytest.mark.parametrize("profile", REFUSED)
def test_a_zone_takes_no_more_connections_than_its_limit(profile: str) -> None:
    tracker = make_tracker(profile=profile)
    tracker.set_zone_limit(5, 2)
    assert send(tracker, *(udp(port=port) for port in range(1, 5)), zone=5) == ["new|trk"] * 2 + [REFUSED[profile]] * 2
    assert send(tracker, *(udp(port=port) for port in range(1, 5)), zone=6) == ["new|trk"] * 4
    assert send(tracker, udp(port=1, reply=True), zone=5) == ["est|rpl|trk"]
    assert (tracker.zone_count(5), tracker.zone_count(6), tracker.zone_count(7)) == (2, 4, 0)
    assert tracker.zone_statistics(5)[5]["udp"]["insert_failed"] == {"zone-limit": 2}


def test_what_is_not_to_be_stored_knows_no_limit() -> None:
    tracker = make_tracker(max_connections=1)
    tracker.set_zone_limit(0, 1)
    assert send(tracker, udp(port=1), udp(port=2)) == ["new|trk"] * 2
    assert send(tracker, udp(port=3), udp(port=4), commit=False) == ["new|trk"] * 2
    assert tracker.statistics()["zone-limit"] == 1


def test_the_default_limit_holds_for_each_zone_without_its_own() -> None:
    tracker = make_tracker()
    tracker.set_zone_limit(1, 3)
    tracker.set_zone_limit(2, 0)
    tracker.set_zone_limit(None, 2)
    for zone in range(4):
        send(tracker, *(udp(port=port) for port in range(1, 6)), zone=zone)
    assert [tracker.zone_count(zone) for zone in range(4)] == [2, 3, 5, 2]
    assert tracker.zone_limits() == {None: 2, 1: 3, 2: 0}
    assert tracker.del_zone_limit(1)
    assert not tracker.del_zone_limit(1)
    tracker.set_zone_limit(None, 0)
    assert tracker.zone_limits() == {None: 0, 2: 0}
    send(tracker, udp(port=9), zone=1)
    assert tracker.zone_count(1) == 4


@pytest.mark.parametrize("profile", REFUSED)
def test_a_closed_zone_takes_no_connection_and_keeps_those_that_it_has(profile: str) -> None:
    tracker = make_tracker(profile=profile)
    assert send(tracker, udp(port=1), zone=2) == ["new|trk"]
    tracker.close_zone(2)
    assert send(tracker, udp(port=2), udp(port=1, reply=True), zone=2) == [REFUSED[profile], "est|rpl|trk"]
    assert (tracker.zone_limits()[2], tracker.zone_count(2)) == (0, 1)
    assert tracker.del_zone_limit(2)
    assert send(tracker, udp(port=2), zone=2) == ["new|trk"]


def test_a_lower_limit_leaves_what_is_there_and_refuses_what_comes() -> None:
    tracker = make_tracker()
    send(tracker, *(udp(port=port) for port in range(1, 6)))
    tracker.set_zone_limit(0, 3)
    assert send(tracker, udp(port=6), udp(port=1), udp(port=1, reply=True)) == ["new|trk", "new|trk", "est|rpl|trk"]
    assert tracker.zone_count(0) == 5
    send(tracker, udp(port=7), at_ms=START_MS + 65 * SECOND)
    assert tracker.zone_count(0) == 1
    tracker.set_zone_limit(0, 1)
    send(tracker, udp(port=8), at_ms=START_MS + 65 * SECOND)
    assert tracker.zone_count(0) == 1


def test_the_maximum_moves_within_the_capacity() -> None:
    tracker = make_tracker(max_connections=10)
    assert tracker.max_connections == 10
    tracker.set_max_connections(2)
    send(tracker, *(udp(port=port) for port in range(1, 6)))
    assert len(tracker) == 2
    tracker.set_max_connections(4)
    send(tracker, *(udp(port=port) for port in range(1, 6)))
    assert (len(tracker), tracker.max_connections) == (4, 4)
    assert tracker.statistics()["full"] == 4
    for wrong in (0, 11):
        with pytest.raises(UsageError, match="out of range"):
            tracker.set_max_connections(wrong)
    assert tracker.max_connections == 4


def two_zones(limit: int, headroom: int) -> Switch:
    """Every connection is stored in zone 1, and then in zone 2."""
    switch = Switch(max_connections=limit)
    switch.tracker.set_headroom(headroom)
    switch.add_port("p0")
    switch.add_flows(
        "table=0,ip,actions=ct(commit,zone=1,table=1)\ntable=1,ip,actions=ct(commit,zone=2,table=2)\ntable=2,actions=drop"
    )
    return switch


def test_headroom_completes_what_one_zone_has_accepted() -> None:
    without, with_headroom = two_zones(5, 0), two_zones(5, 1)
    for switch in (without, with_headroom):
        switch.process(batch_of([udp(port=port) for port in range(1, 9)]))
    assert [without.tracker.zone_count(zone) for zone in (1, 2)] == [3, 2]
    assert [with_headroom.tracker.zone_count(zone) for zone in (1, 2)] == [2, 2]
    assert with_headroom.tracker.headroom == 1
    assert (with_headroom.tracker.statistics()["headroom"], with_headroom.tracker.statistics()["full"]) == (12, 0)


def test_headroom_ends_at_the_maximum() -> None:
    switch = two_zones(4, 3)
    switch.process(batch_of([udp(port=port) for port in range(1, 9)]))
    assert [switch.tracker.zone_count(zone) for zone in (1, 2)] == [1, 1]
    with pytest.raises(UsageError, match="negative"):
        switch.tracker.set_headroom(-1)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("set_zone_limit", (65536, 1)),
        ("set_zone_limit", (-1, 1)),
        ("set_zone_limit", (0, -1)),
        ("set_zone_limit", (None, 1 << 32)),
        ("del_zone_limit", (65536,)),
        ("zone_count", (65536,)),
        ("zone_statistics", (-1,)),
        ("set_zone_liberal", (65536, True)),
        ("set_timeout_policy", (65536, {})),
        ("set_timeout_policy", (0, {"udp_firts": 1})),
        ("set_timeout_policy", (0, {"udp_first": -1})),
        ("set_timeout_policy", (0, {"udp_first": 1 << 32})),
    ],
)
def test_what_is_out_of_range_is_refused_and_changes_nothing(method: str, arguments: tuple[Any, ...]) -> None:
    tracker = make_tracker()
    with pytest.raises(UsageError):
        getattr(tracker, method)(*arguments)
    assert tracker.zone_limits() == {None: 0}
    assert tracker.timeout_policies() == {None: {}}


# --- early drop ---


def full_of(tracker: Tracker, *, answered: int, unanswered: int, zone: int = 0) -> None:
    send(tracker, *(udp(port=port) for port in range(1, answered + unanswered + 1)), zone=zone)
    send(tracker, *(udp(port=port, reply=True) for port in range(1, answered + 1)), zone=zone)


def test_early_drop_ends_a_connection_that_was_never_answered() -> None:
    tracker = make_tracker(max_connections=10)
    events: list[np.ndarray] = []
    tracker.observe(events.append)
    full_of(tracker, answered=4, unanswered=6)
    assert send(tracker, udp(port=100)) == ["new|trk"]
    assert tracker.statistics()["full"] == 1
    tracker.set_early_drop(True)
    assert tracker.early_drop
    assert send(tracker, *(udp(port=port) for port in range(101, 201))) == ["new|trk"] * 100
    assert len(tracker) == 10
    assert sorted(c.original.source_port for c in tracker.connections() if c.seen_reply) == [1, 2, 3, 4]
    statistics = tracker.statistics()
    assert statistics["removed-early-drop"] == statistics["inserted"] - 10 == 101 - statistics["full"]
    ended = np.concatenate(events)
    ended = ended[ended["kind"] == C.EVENT_DESTROYED]
    assert {C.REASONS[reason] for reason in ended["reason"]} == {"early-drop"}
    assert len(ended) == statistics["removed-early-drop"] >= 80


@pytest.mark.parametrize("profile", REFUSED)
def test_early_drop_never_ends_what_was_answered(profile: str) -> None:
    tracker = make_tracker(max_connections=10, profile=profile)
    full_of(tracker, answered=10, unanswered=0)
    tracker.set_early_drop(True)
    assert send(tracker, udp(port=100)) == [REFUSED[profile]]
    assert tracker.statistics()["removed-early-drop"] == 0
    assert len(tracker) == 10


def test_early_drop_in_a_full_zone_leaves_other_zones_alone() -> None:
    tracker = make_tracker()
    full_of(tracker, answered=0, unanswered=50, zone=1)
    tracker.set_zone_limit(2, 20)
    full_of(tracker, answered=0, unanswered=20, zone=2)
    tracker.set_early_drop(True)
    send(tracker, *(udp(port=port) for port in range(100, 200)), zone=2)
    assert (tracker.zone_count(1), tracker.zone_count(2)) == (50, 20)
    assert list(tracker.zone_statistics(1)[1]["udp"]["removed"]) == []
    dropped = tracker.zone_statistics(2)[2]["udp"]["early_dropped"]
    assert isinstance(dropped, int)
    assert dropped > 50


def test_early_drop_takes_what_has_expired_first_and_calls_it_so() -> None:
    tracker = make_tracker(max_connections=1)
    tracker.set_early_drop(True)
    full_of(tracker, answered=1, unanswered=0)
    batch = batch_of([udp(port=9)], time_ns=(START_MS + 31 * SECOND) * 1_000_000)
    tracker.sweep = lambda *arguments, **options: 0  # type: ignore[method-assign]
    assert tracker.track(batch, commit=True).tolist() == [0x21]
    assert (tracker.statistics()["removed-expired"], tracker.statistics()["removed-early-drop"]) == (1, 0)


def test_early_drop_looks_at_a_few_buckets_only() -> None:
    tracker = make_tracker(max_connections=4096)
    full_of(tracker, answered=2047, unanswered=1)
    tracker.set_early_drop(True)
    tracker.set_max_connections(2048)
    assert int(tracker.arrays.state["base"][0]) > 2 * EVICTION_BUCKETS
    assert send(tracker, *(udp(port=port) for port in range(9000, 9008))) == ["new|trk"] * 8
    assert len(tracker) == 2048
    assert tracker.statistics()["full"] > 0  # the one that could go is too far away for most of them


# --- the count of a zone ---

OPERATIONS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 40), st.integers(0, 3), st.booleans(), st.booleans()),
    st.tuples(st.just("tcp"), st.integers(1, 8), st.integers(0, 3), st.sampled_from(["S", "SA", "A", "FA", "R", "RA"])),
    st.tuples(st.just("wait"), st.integers(1, 70_000)),
    st.tuples(st.just("flush"), st.sampled_from([None, 0, 1, 2, 3])),
    st.tuples(st.just("limit"), st.sampled_from([None, 0, 1, 2, 3]), st.integers(0, 8)),
    st.tuples(st.just("maximum"), st.integers(1, 30)),
    st.tuples(st.just("headroom"), st.integers(0, 5)),
    st.tuples(st.just("early"), st.booleans()),
    st.tuples(st.just("timeout"), st.sampled_from([None, 0, 1]), st.integers(0, 100)),
)


def carry_out(tracker: Tracker, operation: tuple[Any, ...], now_ms: int) -> int:
    """Do one thing to a tracker. Returns the time after it."""
    name, *rest = operation
    if name == "send":
        port, zone, reply, force = rest
        send(tracker, udp(port=port, reply=reply), at_ms=now_ms, zone=zone, force=force)
    elif name == "tcp":
        port, zone, flags = rest
        for reply in (False, True):
            send(tracker, tcp(flags, 100, 500, reply=reply, port=port), at_ms=now_ms, zone=zone)
    elif name == "wait":
        now_ms += rest[0]
        tracker.sweep(now_ms)
    elif name == "flush":
        tracker.flush(rest[0])
    elif name == "limit":
        tracker.set_zone_limit(*rest)
    elif name == "maximum":
        tracker.set_max_connections(rest[0])
    elif name == "headroom":
        tracker.set_headroom(rest[0])
    elif name == "timeout":
        tracker.set_timeout_policy(rest[0], {"udp_first": rest[1]})
    else:
        tracker.set_early_drop(rest[0])
    return now_ms


@settings(max_examples=60)
@given(st.lists(OPERATIONS, min_size=10, max_size=80), st.sampled_from(["default", "linux"]))
def test_counts_are_exact_whatever_happens(operations: list[tuple[Any, ...]], profile: str) -> None:
    tracker = make_tracker(max_connections=30, profile=profile)
    now_ms = START_MS
    for operation in operations:
        now_ms = carry_out(tracker, operation, now_ms)
        counted = live_by_zone(tracker)
        assert {zone: tracker.zone_count(zone) for zone in range(4)} == {zone: counted[zone] for zone in range(4)}
        assert counted.total() == len(tracker) <= 30
    statistics = tracker.statistics()
    ended = sum(n for name, n in statistics.items() if name.startswith("removed-"))
    assert statistics["inserted"] - ended == len(tracker)
    assert not any(tracker.arrays.conns["flags"][int(row)] & F_LIVE for row in free_rows(tracker))


def free_rows(tracker: Tracker) -> np.ndarray:
    return tracker.arrays.free[: int(tracker.arrays.state["n_free"][0])]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=20, max_size=120))
def test_early_drop_spares_answered_connections_in_random_traffic(packets: list[tuple[int, bool]]) -> None:
    tracker = make_tracker(max_connections=12)
    tracker.set_early_drop(True)
    answered: set[int] = set()
    for port, reply in packets:
        send(tracker, udp(port=port, reply=reply))
        for connection in tracker.connections():
            client = max(connection.original.source_port, connection.original.destination_port)
            if connection.seen_reply:
                answered.add(client)
        alive = {max(c.original.source_port, c.original.destination_port) for c in tracker.connections()}
        assert answered <= alive


# --- timeout policies ---

OVS_NAMES = [
    "icmp_first",
    "icmp_reply",
    "tcp_close",
    "tcp_close_wait",
    "tcp_established",
    "tcp_fin_wait",
    "tcp_last_ack",
    "tcp_retransmit",
    "tcp_syn_recv",
    "tcp_syn_sent2",
    "tcp_syn_sent",
    "tcp_time_wait",
    "tcp_unack",
    "udp_first",
    "udp_multiple",
    "udp_single",
]
"""Keys of the column timeouts of table CT_Timeout_Policy (ovs-vswitchd.conf.db(5))."""

GRE = Packet().eth().ipv4(CLIENT, SERVER).protocol(47, bytes(8))
CLOSING = [tcp("FA", 101, 501), tcp("FA", 501, 102, reply=True)]
ECHO = Packet().eth().ipv4(CLIENT, SERVER).icmp(8, id=7), Packet().eth().ipv4(SERVER, CLIENT).icmp(0, id=7)
BY_NAME: dict[str, dict[str, list[Packet]]] = {
    "default": {
        "tcp_syn_sent": handshake()[:1],
        "tcp_syn_recv": [tcp("S", 100), tcp("S", 500, reply=True), tcp("S", 100), tcp("A", 101, 400, reply=True)],
        "tcp_established": handshake(),
        "tcp_fin_wait": [*handshake(), CLOSING[0]],
        "tcp_time_wait": [*handshake(), *CLOSING],
        "tcp_close": [*handshake(), *CLOSING, tcp("A", 102, 502)],
        "udp_first": [udp()],
        "udp_single": [udp(), udp()],
        "udp_multiple": [udp(), udp(reply=True)],
        "icmp_first": [ECHO[0]],
        "icmp_reply": [*ECHO],
    },
    "linux": {
        "tcp_syn_sent": handshake()[:1],
        "tcp_syn_recv": handshake()[:2],
        "tcp_established": handshake(),
        "tcp_fin_wait": [*handshake(), CLOSING[0]],
        "tcp_close_wait": [*handshake(), CLOSING[0], tcp("A", 501, 102, reply=True)],
        "tcp_last_ack": [*handshake(), *CLOSING],
        "tcp_time_wait": [*handshake(), *CLOSING, tcp("A", 102, 502)],
        "tcp_close": [*handshake(), tcp("R", 101, 501)],
        "tcp_syn_sent2": [tcp("S", 100), tcp("S", 500, reply=True)],
        "tcp_unack": [*handshake(), tcp("PA", 101, 501, payload=4)],
        "tcp_retransmit": [*handshake(), *[tcp("PA", 101, 501, payload=4)] * 4],
        "udp_single": [udp()],
        "udp_multiple": [udp(), udp(reply=True)],
        "icmp_first": [*ECHO],
    },
}
"""What to send so that the named timeout is set by the last packet."""


def test_the_names_are_those_of_open_vswitch() -> None:
    assert sorted(POLICY_CLASSES) == sorted(OVS_NAMES)


@pytest.mark.parametrize(("profile", "name"), [(profile, name) for profile, names in BY_NAME.items() for name in names])
def test_each_name_sets_the_timeout_of_its_state(profile: str, name: str) -> None:
    policy = dict.fromkeys(OVS_NAMES, 5000) | {name: 1234}
    tracker = make_tracker(profile=profile)
    tracker.set_timeout_policy(3, policy)
    packets = BY_NAME[profile][name]
    for n, packet in enumerate(packets):
        send(tracker, packet, zone=3, at_ms=START_MS + 3 * n * SECOND)
        send(tracker, packet, zone=4, at_ms=START_MS + 3 * n * SECOND)
    if (profile, name) == ("linux", "udp_multiple"):  # a stream only once it was answered for two seconds
        send(tracker, udp(reply=True), zone=3, at_ms=START_MS + 9 * SECOND)
    assert only(tracker, 3).timeout_ms == 1234 * SECOND
    assert only(tracker, 4).timeout_ms not in (1234 * SECOND, 5000 * SECOND)


@pytest.mark.parametrize(("profile", "expected"), [("default", 1234), ("linux", 600)])
def test_protocols_without_names_go_by_those_of_udp_in_open_vswitch(profile: str, expected: int) -> None:
    tracker = make_tracker(profile=profile)
    tracker.set_timeout_policy(None, {"udp_first": 1234})
    send(tracker, GRE)
    assert only(tracker).timeout_ms == expected * SECOND


def test_a_policy_holds_for_later_packets_of_connections_that_are_there() -> None:
    tracker = make_tracker()
    send(tracker, udp(), udp(reply=True))
    tracker.set_timeout_policy(0, {"udp_multiple": 500})
    assert only(tracker).timeout_ms == 30 * SECOND
    send(tracker, udp())
    assert only(tracker).timeout_ms == 500 * SECOND
    tracker.set_timeout_policy(0, {"udp_multiple": 7})
    send(tracker, udp())
    assert only(tracker).timeout_ms == 7 * SECOND
    assert tracker.sweep(START_MS + 7 * SECOND) == 1


def test_what_a_zone_leaves_out_is_as_in_all_zones_and_that_as_in_the_profile() -> None:
    tracker = make_tracker()
    tracker.set_timeout_policy(1, {"udp_first": 11})
    tracker.set_timeout_policy(None, {"udp_first": 22, "icmp_first": 33})
    for zone in (1, 2):
        send(tracker, udp(), ECHO[0], tcp("S", 1), zone=zone)
    found = [[c.timeout_s for c in tracker.connections(zone=zone)] for zone in (1, 2)]
    assert found == [[11, 33, 30], [22, 33, 30]]
    assert tracker.timeout_policies() == {None: {"udp_first": 22, "icmp_first": 33}, 1: {"udp_first": 11}}
    assert tracker.del_timeout_policy(1)
    assert not tracker.del_timeout_policy(1)
    assert tracker.del_timeout_policy(None)
    assert not tracker.del_timeout_policy(None)
    send(tracker, udp(port=6), zone=1)
    assert [c.timeout_s for c in tracker.connections(zone=1)] == [11, 33, 30, 60]
    assert tracker.timeout_policies() == {None: {}}


def test_zones_with_equal_policies_share_one_and_policies_run_out_with_an_error() -> None:
    tracker = make_tracker()
    for zone in range(C.N_ZONES):
        tracker.set_timeout_policy(zone, {"udp_first": 1 + zone % 100})
    assert len(set(tracker.arrays.zones["policy"].tolist())) == 100
    for zone in range(100, C.N_ZONES):
        tracker.del_timeout_policy(zone)
    for zone in range(100, C.MAX_POLICIES - 1):
        tracker.set_timeout_policy(zone, {"udp_single": zone})
    with pytest.raises(UsageError, match="4095 different timeout policies"):
        tracker.set_timeout_policy(60_000, {"icmp_first": 1})
    assert 60_000 not in tracker.timeout_policies()
    tracker.set_timeout_policy(60_000, {"udp_first": 1})
    tracker.set_timeout_policy(4000, {"icmp_first": 1})  # its own was the only one of its kind
    send(tracker, udp(), zone=99)
    assert only(tracker, 99).timeout_ms == 100 * SECOND


def test_a_timeout_of_zero_ends_a_connection_at_once() -> None:
    tracker = make_tracker()
    tracker.set_timeout_policy(0, {"udp_first": 0})
    assert send(tracker, udp(), udp()) == ["new|trk"] * 2
    assert list(tracker.connections()) == []
    assert tracker.statistics()["inserted"] == 2


def test_linux_shortens_only_timeouts_that_are_longer() -> None:
    tracker = make_tracker(profile="linux")
    tracker.set_timeout_policy(0, {"tcp_established": 100, "tcp_last_ack": 1000, "tcp_retransmit": 200})
    data = tcp("PA", 101, 501, payload=4)
    send(tracker, *handshake(), *[data] * 5)
    assert only(tracker).timeout_ms == 100 * SECOND
    send(tracker, tcp("FA", 105, 501), tcp("FA", 501, 105, reply=True))
    assert only(tracker).timeout_ms == 200 * SECOND  # the data came three times: tcp_retransmit
    send(tracker, *handshake(), *CLOSING, zone=1)
    tracker.set_timeout_policy(1, {"tcp_last_ack": 301})
    send(tracker, CLOSING[1], zone=1)
    assert only(tracker, 1).timeout_ms == 300 * SECOND  # a FIN is not acknowledged yet: tcp_unack
    tracker.set_timeout_policy(1, {"tcp_last_ack": 299})
    send(tracker, CLOSING[1], zone=1)
    assert only(tracker, 1).timeout_ms == 299 * SECOND


# --- liberal and loose ---

FAR = tcp("A", 900_000_000, 501, payload=10)
FAR_RESET = tcp("R", 900_000_000)
OLD_RESET = tcp("R", 50)


@pytest.mark.parametrize("profile", REFUSED)
def test_a_liberal_zone_judges_resets_only(profile: str) -> None:
    tracker = make_tracker(profile=profile)
    tracker.set_zone_liberal(5, True)
    for zone, state in ((5, "est|trk"), (6, "inv|trk")):
        assert send(tracker, *handshake(), FAR, zone=zone)[-1] == state
    assert send(tracker, OLD_RESET, zone=5) == ["inv|trk"]
    assert only(tracker, 5).state == "ESTABLISHED"
    tracker.set_zone_liberal(5, None)
    assert send(tracker, tcp("A", 1_900_000_000, 501, payload=10), zone=5) == ["inv|trk"]


@pytest.mark.parametrize("profile", REFUSED)
def test_a_zone_may_be_strict_in_a_liberal_tracker(profile: str) -> None:
    tracker = make_tracker(profile=profile)
    tracker.set_zone_liberal(None, True)
    tracker.set_zone_liberal(5, False)
    assert send(tracker, *handshake(), FAR, zone=5)[-1] == "inv|trk"
    assert send(tracker, *handshake(), FAR, zone=6)[-1] == "est|trk"
    tracker.set_zone_liberal(None, None)
    assert send(tracker, tcp("A", 1_900_000_000, 501, payload=10), zone=6) == ["inv|trk"]


@pytest.mark.parametrize("profile", REFUSED)
def test_a_single_connection_can_be_liberal(profile: str) -> None:
    tracker = make_tracker(profile=profile)
    send(tracker, *handshake())
    connection = only(tracker)
    assert tracker.set_liberal(connection.id, connection.generation, True)
    assert only(tracker).liberal == (True, True)
    assert send(tracker, FAR) == ["est|trk"]
    assert send(tracker, tcp("A", 501, 300_000, reply=True)) == ["est|rpl|trk"]
    assert tracker.set_liberal(connection.id, connection.generation, False)
    assert only(tracker).liberal == (False, False)
    assert send(tracker, tcp("A", 1_900_000_000, 501, payload=10)) == ["inv|trk"]
    tracker.flush()
    assert not tracker.set_liberal(connection.id, connection.generation, True)


def test_a_reset_far_outside_is_invalid_in_the_default_profile_even_when_liberal() -> None:
    tracker = make_tracker()
    tracker.set_zone_liberal(None, True)
    assert send(tracker, *handshake(), FAR_RESET)[-1] == "inv|trk"
    assert tracker.statistics()["invalid-tcp-reset"] == 1
    exact = make_tracker(check_sequence=False)
    assert send(exact, *handshake(), FAR_RESET)[-1] == "est|trk"


@pytest.mark.parametrize("profile", REFUSED)
def test_without_loose_only_a_syn_begins_a_connection(profile: str) -> None:
    tracker = make_tracker(profile=profile)
    tracker.set_loose(False)
    assert send(tracker, tcp("A", 5, 6), tcp("PA", 5, 6, payload=3), tcp("SA", 5, 6)) == ["inv|trk"] * 3
    statistics = tracker.statistics()
    assert (statistics["invalid-mid-stream"], statistics["invalid-first-packet"]) == (2, 1)
    assert send(tracker, *handshake(port=7)) == ["new|trk", "est|rpl|trk", "est|trk"]
    tracker.set_loose(True)
    assert send(tracker, tcp("A", 5, 6)) == ["new|trk"]
    assert int(tracker.arrays.conns["flags"][0]) & F_SEEN_REPLY


def test_after_a_pause_one_batch_makes_room_at_the_limit() -> None:
    tracker = make_tracker()
    tracker.set_zone_limit(0, 5)
    tracker.track(batch_of([udp(port=1000 + n) for n in range(5)], time_ns=START_MS * 1_000_000), commit=True)
    hour = 3600 * SECOND
    later = batch_of([udp(port=2000 + n) for n in range(5)], time_ns=(START_MS + hour) * 1_000_000)
    tracker.track(later, commit=True)
    assert {c.original.source_port for c in tracker.connections()} == {2000 + n for n in range(5)}


def test_an_unanswered_pick_up_has_the_shortest_of_its_timeouts() -> None:
    tracker = make_tracker(profile="linux")
    tracker.set_timeout_policy(0, {"tcp_unack": 1, "tcp_retransmit": 100})
    for _ in range(5):
        send(tracker, tcp("A", 101, 501))
    assert only(tracker).timeout_ms == SECOND

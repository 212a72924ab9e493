"""Counters by zone, protocol and reason: each packet counted once, and all of them adding up."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from flowshunt import Switch
from flowshunt.conntrack import schema as C
from flowshunt.conntrack.statistics import INSERT_FAILED, ProtocolStatistics, expired_names
from flowshunt.conntrack.table import Tracker
from flowshunt.jit import JIT
from tests.builders import Packet, batch_of
from tests.conntrack.test_table import CLIENT, SECOND, SERVER, START_MS, handshake, make_tracker, send, tcp, udp
from tests.oracle.conversations import Conversation
from tests.oracle.pair import flows

PROFILES = ("default", "linux")
GROUPS = ("insert_failed", "invalid", "removed", "expired")


def group(statistics: ProtocolStatistics, name: str) -> dict[str, int]:
    value = statistics[name]
    assert isinstance(value, dict)
    return value


def number(statistics: ProtocolStatistics, name: str) -> int:
    value = statistics[name]
    assert isinstance(value, int)
    return value


def above_zero(statistics: ProtocolStatistics) -> dict[str, Any]:
    return {name: value for name, value in statistics.items() if value}


def all_of(tracker: Tracker) -> list[ProtocolStatistics]:
    return [statistics for zone in tracker.zone_statistics().values() for statistics in zone.values()]


def test_packets_are_counted_in_their_zone_under_their_protocol() -> None:
    tracker = make_tracker()
    refused = Packet().eth().ipv4(SERVER, CLIENT).icmp(3, 3).quote(udp().bytes()[14:])
    send(tracker, *handshake(), zone=1)
    send(tracker, udp(), udp(), udp(reply=True), refused, zone=1)
    send(
        tracker, Packet().eth().arp(CLIENT, SERVER), Packet().eth().ipv4(CLIENT, SERVER).protocol(47, bytes(8)), zone=9
    )
    send(tracker, Packet().eth().ipv6("::1", "::2").icmpv6(128, id=1), udp(), zone=65535, commit=False)
    found = {
        zone: {protocol: above_zero(statistics) for protocol, statistics in protocols.items()}
        for zone, protocols in tracker.zone_statistics().items()
    }
    assert found == {
        1: {
            "tcp": {"found": 2, "new": 1, "inserted": 1},
            "udp": {"found": 2, "new": 1, "inserted": 1},
            "icmp": {"related": 1},
        },
        9: {"other": {"new": 1, "inserted": 1, "invalid": {"not-ip": 1}}},
        65535: {"icmpv6": {"new": 1}, "udp": {"new": 1}},
    }
    assert tracker.zone_statistics(9) == {9: tracker.zone_statistics()[9]}
    assert tracker.zone_statistics(8) == {}
    assert tracker.zones() == [1, 9, 65535]


def test_a_tracker_without_packets_has_counted_nothing() -> None:
    tracker = make_tracker()
    assert tracker.zone_statistics() == {}
    assert tracker.zones() == []
    assert set(tracker.counters().values()) == {0}


def test_every_name_is_there_even_when_it_is_zero() -> None:
    tracker = make_tracker()
    send(tracker, udp())
    statistics = tracker.zone_statistics(0)[0]["udp"]
    assert set(statistics) == {
        "found", "new", "related", "again", "inserted", "insert_failed", "invalid", "dropped", "removed",
        "early_dropped", "expired", *(name for name in C.COUNTERS if name.startswith("expect")),
    }  # fmt: skip
    assert all(isinstance(statistics[name], dict) == (name in GROUPS) for name in statistics)


@pytest.mark.parametrize(
    ("profile", "packets", "reason"),
    [
        ("default", [tcp("SF", 1)], "tcp-flags"),
        ("linux", [tcp("SF", 1)], "tcp-flags"),
        ("default", [*handshake(), tcp("", 101)], "tcp-flags"),
        ("linux", [*handshake(), tcp("", 101)], "tcp-flags"),
        ("default", [tcp("SA", 1, 1)], "first-packet"),
        ("linux", [tcp("FA", 1, 1)], "first-packet"),
        ("default", [Packet().eth().ipv4(CLIENT, SERVER).icmp(0, id=1)], "first-packet"),
        ("default", [*handshake(), tcp("A", 900_000_000, 501, payload=9)], "tcp-sequence"),
        ("linux", [*handshake(), tcp("A", 900_000_000, 501, payload=9)], "tcp-sequence"),
        ("default", [*handshake(), tcp("A", 101, 900_000_000)], "tcp-ack"),
        ("linux", [*handshake(), tcp("A", 101, 900_000_000)], "tcp-ack"),
        ("default", [*handshake(), tcp("R", 150)], "tcp-reset"),
        ("linux", [*handshake(), tcp("R", 50)], "tcp-reset"),
        ("linux", [*handshake(), tcp("S", 900, reply=True)], "state"),
        ("default", [Packet().eth().arp(CLIENT, SERVER)], "not-ip"),
        ("default", [udp().cut(36)], "malformed"),
        ("default", [Packet().eth().ipv4(CLIENT, SERVER).udp(1, 53, checksum=7)], "checksum"),
    ],
)
def test_each_reason_has_its_counter(profile: str, packets: list[Packet], reason: str) -> None:
    tracker = make_tracker(profile=profile)
    assert send(tracker, *packets)[-1] == "inv|trk"
    assert tracker.statistics()[f"invalid-{reason}"] == 1
    assert sum(n for name, n in tracker.statistics().items() if name.startswith("invalid-")) == 1


def test_connections_expire_in_a_state() -> None:
    tracker = make_tracker()
    send(tracker, tcp("S", 1, port=1), *handshake(port=2), *handshake(port=3))
    send(tracker, tcp("FA", 101, 501, port=3), tcp("FA", 501, 102, reply=True, port=3), tcp("A", 102, 502, port=3))
    send(tracker, udp(port=1), udp(port=2), udp(port=2, reply=True))
    tracker.sweep(START_MS + 100_000 * SECOND)
    statistics = tracker.zone_statistics(0)[0]
    assert group(statistics["tcp"], "expired") == {"SYN_SENT": 1, "ESTABLISHED": 1, "TIME_WAIT": 1}
    assert group(statistics["udp"], "expired") == {"unanswered": 1, "answered": 1}
    assert group(statistics["udp"], "removed") == {"expired": 2}


def test_connections_of_profile_linux_expire_in_its_states() -> None:
    tracker = make_tracker(profile="linux")
    send(tracker, tcp("S", 1, port=1), *handshake(port=2), *handshake(port=3), tcp("FA", 101, 501, port=3))
    tracker.sweep(START_MS + 1_000_000 * SECOND)
    assert group(tracker.zone_statistics(0)[0]["tcp"], "expired") == {"SYN_SENT": 1, "ESTABLISHED": 1, "FIN_WAIT": 1}


def test_what_is_flushed_has_not_expired() -> None:
    tracker = make_tracker()
    send(tracker, udp())
    tracker.flush()
    assert above_zero(tracker.zone_statistics(0)[0]["udp"]) == {"new": 1, "inserted": 1, "removed": {"flushed": 1}}


def test_states_have_a_place_each() -> None:
    assert len(C.COUNTERS) <= C.EXPIRED_AT
    for profile in PROFILES:
        for protocol in C.PROTOCOLS:
            assert len(expired_names(protocol, profile)) <= (1 << C.COUNTER_SHIFT) - C.EXPIRED_AT
    assert len(C.PROTOCOLS) <= 1 << C.ZONE_SHIFT - C.COUNTER_SHIFT


def test_a_packet_that_comes_back_to_its_zone_is_counted_as_that() -> None:
    switch = Switch(max_connections=100)
    switch.add_port("p0")
    switch.add_flows("table=0,ip,actions=ct(commit,zone=1),ct(zone=1),ct(commit,zone=2),ct(zone=1)")
    switch.process(batch_of([udp()]))
    statistics = switch.tracker.zone_statistics()
    assert above_zero(statistics[1]["udp"]) == {"new": 1, "inserted": 1, "again": 1, "found": 1}
    assert above_zero(statistics[2]["udp"]) == {"new": 1, "inserted": 1}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", [1, 2])
def test_everything_adds_up_after_random_conversations(profile: str, seed: int) -> None:
    """With limits and early drop, so that every counter has a chance."""
    conversation = Conversation(random.Random(seed), flows=40, nat=False, fragments=False)
    switch = Switch(profile, max_connections=60)
    tracker = switch.tracker
    tracker.set_headroom(5)
    tracker.set_early_drop(seed == 1)
    tracker.set_zone_limit(None, 25)
    for n in range(1, len(conversation.manners) + 1):
        switch.add_port(f"manner{n}", n)
    switch.add_flows(flows(conversation.manners))
    for _ in range(4 if JIT else 2):
        events = list(islice(conversation, 2000))
        batch = batch_of([event.frame for event in events])
        batch.packets["time_ns"] = [event.now_ms * 1_000_000 for event in events]
        batch.packets["in_port"] = [event.manner + 1 for event in events]
        switch.process(batch)
        check_sums(tracker, switch.statistics()["tracked"])
    assert seed == 1 or tracker.statistics()["zone-limit"] > 0
    assert (tracker.statistics()["removed-early-drop"] > 0) == (seed == 1)


def check_sums(tracker: Tracker, n_tracked: int) -> None:
    statistics, totals = all_of(tracker), tracker.statistics()
    once = sum(number(s, name) for s in statistics for name in ("found", "new", "related", "again"))
    refused = sum(sum(group(s, name).values()) for s in statistics for name in ("insert_failed", "invalid"))
    assert once + refused == n_tracked
    inserted = sum(number(s, "inserted") for s in statistics)
    removed: Counter[str] = Counter()
    for s in statistics:
        removed.update(group(s, "removed"))
        assert sum(group(s, "expired").values()) == group(s, "removed").get("expired", 0)
        assert number(s, "early_dropped") == group(s, "removed").get("early-drop", 0)
        assert number(s, "dropped") == sum(group(s, "insert_failed").values())
    assert inserted - removed.total() == len(tracker) == sum(tracker.zone_count(zone) for zone in tracker.zones())
    assert totals["inserted"] == inserted
    for name in ("found", "new", "related", "again"):
        assert totals[name] == sum(number(s, name) for s in statistics)
    for name in INSERT_FAILED:
        assert totals[name] == sum(group(s, "insert_failed").get(name, 0) for s in statistics)
    for name in totals:
        for kind in ("invalid", "removed"):
            if name.startswith(f"{kind}-"):
                reason = name.removeprefix(f"{kind}-")
                assert totals[name] == sum(group(s, kind).get(reason, 0) for s in statistics)

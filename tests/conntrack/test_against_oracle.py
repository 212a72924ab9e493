"""The kernels and the naive tracker through the same conversations: packet by packet, and the tables after them.

200,000 packets in the gate; FLOWSHUNT_ORACLE_PACKETS asks for more, FLOWSHUNT_ORACLE_SEED for others.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from ipaddress import ip_address
from itertools import groupby, islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt import Tracker
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.schema import COUNTERS
from flowshunt.conntrack.states import ct_state_text
from tests.builders import batch_of
from tests.oracle import naive, nf_tcp, pf_tcp
from tests.oracle.conversations import Conversation, Event

PACKETS = int(os.environ.get("FLOWSHUNT_ORACLE_PACKETS", "200000"))
SEED = int(os.environ.get("FLOWSHUNT_ORACLE_SEED", "1"))
PROFILES = ("default", "linux")
NEVER: dict[str, set[str]] = {
    "default": {"full", "removed-flushed", "removed-closed"},
    "linux": {"full", "removed-flushed"},
}
"""Counters that conversations cannot move: the table is large, nothing is flushed."""
CHUNK = 5000
"""Packets between two comparisons of the tables."""


def kernel_states(tracker: Tracker, events: list[Event]) -> list[str]:
    """Track events in batches of equal ct() arguments."""
    states: list[str] = []
    for (zone, commit, force), group in groupby(events, key=lambda event: (event.zone, event.commit, event.force)):
        members = list(group)
        batch = batch_of([event.frame for event in members])
        batch.packets["time_ns"] = [event.now_ms * 1_000_000 + 999_999 for event in members]
        ct_state = tracker.track(batch, zone, commit=commit or force, force=force)
        states += [ct_state_text(int(value)) for value in ct_state]
    return states


def naive_states(oracle: naive.Naive, events: Iterable[Event]) -> list[str]:
    return [
        oracle.track(event.frame, event.now_ms, zone=event.zone, commit=event.commit, force=event.force).state
        for event in events
    ]


def kernel_entry(connection: Connection) -> tuple[Any, ...]:
    original = connection.original
    return (
        connection.zone, connection.protocol, original.source, original.destination,
        original.source_port, original.destination_port, original.icmp_type, original.icmp_id,
        connection.states, connection.seen_reply, connection.assured, connection.timeout_ms,
        connection.start_ms, connection.packets, connection.bytes, connection.mark, connection.label,
    )  # fmt: skip


def naive_entry(connection: naive.Connection, linux: bool, now_ms: int) -> tuple[Any, ...]:
    key = connection.key
    states = None
    if linux and connection.tcp is not None:
        states = (nf_tcp.NAMES[connection.tcp.state],) * 2
    elif connection.tcp is not None:
        states = tuple(pf_tcp.NAMES[peer.state] for peer in connection.tcp)
    query = key.icmp is not None
    return (
        key.zone, key.protocol, ip_address(key.source), ip_address(key.destination),
        0 if query else key.source_port, key.destination_port, key.icmp, key.source_port if query else None,
        states, connection.seen_reply, connection.assured, connection.expires_ms - now_ms,
        connection.start_ms, tuple(connection.packets), tuple(connection.bytes), connection.mark, connection.label,
    )  # fmt: skip


def compare(tracker: Tracker, oracle: naive.Naive, events: list[Event]) -> None:
    got, want = kernel_states(tracker, events), naive_states(oracle, events)
    for n, (event, one, other) in enumerate(zip(events, got, want, strict=True)):
        assert one == other, f"packet {n} at {event.now_ms}: {one}, not {other}: {event.frame.hex()} {event}"
    now_ms = oracle.now_ms
    assert {kernel_entry(connection) for connection in tracker.connections(now_ms)} == {
        naive_entry(connection, oracle.linux, now_ms) for connection in oracle.live(now_ms)
    }


def pair(profile: str, batch_size: int = 256, **options: bool) -> tuple[Tracker, naive.Naive]:
    tracker = Tracker(profile, max_connections=20_000, batch_size=batch_size, seed=1, **options)
    return tracker, naive.Naive(profile, sack=False, **options)


@pytest.mark.parametrize("profile", PROFILES)
def test_long_conversations(profile: str) -> None:
    rounds = max(PACKETS // len(PROFILES) // (10 * CHUNK), 1)
    reached = dict.fromkeys(COUNTERS, 0)
    for n in range(rounds):
        tracker, oracle = pair(profile)
        conversation = Conversation(random.Random(SEED * 1000 + n), flows=6 if n % 2 else 40)
        for _ in range(10):
            compare(tracker, oracle, list(islice(conversation, CHUNK)))
        for name, value in tracker.statistics().items():
            reached[name] = reached.get(name, 0) + value
    never = {name for name in COUNTERS if reached[name] == 0}
    assert never == NEVER[profile], "the conversations do not reach every corner"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("options", [{"check_checksums": False}, {"check_sequence": False}], ids=str)
def test_checks_switched_off(profile: str, options: dict[str, bool]) -> None:
    tracker, oracle = pair(profile, **options)
    compare(tracker, oracle, list(islice(Conversation(random.Random(SEED)), CHUNK)))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_batch_size_changes_nothing(profile: str) -> None:
    events = list(islice(Conversation(random.Random(SEED + 7), flows=3), CHUNK))
    for batch_size in (1, 32):
        tracker, oracle = pair(profile, batch_size)
        compare(tracker, oracle, events)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.sampled_from(PROFILES), st.integers(1, 60))
def test_short_conversations(rng: random.Random, profile: str, n: int) -> None:
    tracker, oracle = pair(profile)
    compare(tracker, oracle, list(islice(Conversation(rng, flows=2), n)))

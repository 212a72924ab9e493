"""The kernels and the naive tracker through the same conversations: packet by packet, and the tables after them.

200,000 packets in the gate, 20,000 with the JIT off; FLOWSHUNT_ORACLE_PACKETS asks for more, FLOWSHUNT_ORACLE_SEED for
others.
"""

from __future__ import annotations

import os
import random
from ipaddress import ip_address
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt import Switch, Tracker
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.schema import COUNTERS
from flowshunt.conntrack.states import ct_state_text
from flowshunt.jit import JIT
from tests.builders import batch_of
from tests.oracle import naive, nf_tcp, pf_tcp
from tests.oracle.conversations import Conversation, Event
from tests.oracle.frames import SCTP

PACKETS = int(os.environ.get("FLOWSHUNT_ORACLE_PACKETS", "200000" if JIT else "20000"))
SEED = int(os.environ.get("FLOWSHUNT_ORACLE_SEED", "1"))
PROFILES = ("default", "linux")
UNLIMITED = {
    "full",
    "zone-limit",
    "headroom",
    "removed-early-drop",
    "removed-flushed",
    "invalid-mid-stream",
    "invalid-nat-exhausted",
}
NEVER: dict[str, set[str]] = {
    "default": {*UNLIMITED, "removed-closed", "invalid-state", "invalid-sctp-chunks", "invalid-sctp-tag"},
    "linux": UNLIMITED,
}
"""Counters that conversations cannot move: the table is large, nothing is flushed or translated."""
CHUNK = 5000 if JIT else 1000
"""Packets between two comparisons of the tables."""


class Pair:
    """A switch and the naive tracker, fed alike: a packet's ingress port chooses its ct() actions."""

    def __init__(self, profile: str, conversation: Conversation, batch_size: int = 256, **options: bool) -> None:
        self.switch = Switch(profile, max_connections=20_000, batch_size=batch_size, **options)
        self.oracle = naive.Naive(profile, sack=False, **options)
        self.conversation = conversation
        for n, steps in enumerate(conversation.manners, 1):
            self.switch.add_port(f"manner{n}", n)
            actions = ",".join(step.action(step is steps[-1]) for step in steps)
            self.switch.add_flows(f"table=0,in_port={n},actions={actions}")

    @property
    def tracker(self) -> Tracker:
        return self.switch.tracker

    def kernel_states(self, events: list[Event]) -> list[str]:
        batch = batch_of([event.frame for event in events])
        batch.packets["time_ns"] = [event.now_ms * 1_000_000 + 999_999 for event in events]
        batch.packets["in_port"] = [event.manner + 1 for event in events]
        return [ct_state_text(int(value)) for value in self.switch.process(batch).ct_state]

    def naive_states(self, events: list[Event]) -> list[str]:
        manners = self.conversation.manners
        return [self.oracle.track_in_turn(event.frame, event.now_ms, manners[event.manner]) for event in events]

    def compare(self, n: int) -> None:
        """Let the conversation go on for n packets; every state and the table must agree."""
        events = list(islice(self.conversation, n))
        got, want = self.kernel_states(events), self.naive_states(events)
        for at, (event, one, other) in enumerate(zip(events, got, want, strict=True)):
            manner = self.conversation.manners[event.manner]
            assert one == other, f"packet {at}: {one}, not {other}: {event.frame.hex()} {manner} {event}"
        now_ms = self.oracle.now_ms
        assert {kernel_entry(connection) for connection in self.tracker.connections(now_ms)} == {
            naive_entry(connection, self.oracle.linux, now_ms) for connection in self.oracle.live(now_ms)
        }


def kernel_entry(connection: Connection) -> tuple[Any, ...]:
    original = connection.original
    states = (connection.state,) * 2 if connection.protocol == SCTP and connection.state else connection.states
    return (
        connection.zone, connection.protocol, original.source, original.destination,
        original.source_port, original.destination_port, original.icmp_type, original.icmp_id,
        states, connection.seen_reply, connection.assured, connection.timeout_ms,
        connection.start_ms, connection.packets, connection.bytes, connection.mark, connection.label,
    )  # fmt: skip


def naive_entry(connection: naive.Connection, linux: bool, now_ms: int) -> tuple[Any, ...]:
    key = connection.key
    states = None
    if linux and connection.tcp is not None:
        states = (nf_tcp.NAMES[connection.tcp.state],) * 2
    elif connection.tcp is not None:
        states = tuple(pf_tcp.NAMES[peer.state] for peer in connection.tcp)
    elif connection.sctp is not None:
        states = (connection.sctp.state,) * 2
    query = key.icmp is not None
    return (
        key.zone, key.protocol, ip_address(key.source), ip_address(key.destination),
        0 if query else key.source_port, key.destination_port, key.icmp, key.source_port if query else None,
        states, connection.seen_reply, connection.assured, connection.expires_ms - now_ms,
        connection.start_ms, tuple(connection.packets), tuple(connection.bytes), connection.mark, connection.label,
    )  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
def test_long_conversations(profile: str) -> None:
    reached = dict.fromkeys(COUNTERS, 0)
    for n in range(max(PACKETS // len(PROFILES) // (10 * CHUNK), 1)):
        pair = Pair(profile, Conversation(random.Random(SEED * 1000 + n), flows=6 if n % 2 else 40))
        for _ in range(10):
            pair.compare(CHUNK)
        for name, value in pair.tracker.statistics().items():
            reached[name] = reached.get(name, 0) + value
    never = {name for name in COUNTERS if reached[name] == 0}
    assert never == NEVER[profile], "the conversations do not reach every corner"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("options", [{"check_checksums": False}, {"check_sequence": False}], ids=str)
def test_checks_switched_off(profile: str, options: dict[str, bool]) -> None:
    Pair(profile, Conversation(random.Random(SEED)), **options).compare(CHUNK)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_the_batch_size_changes_nothing(profile: str, batch_size: int) -> None:
    Pair(profile, Conversation(random.Random(SEED + 7), flows=3), batch_size).compare(CHUNK)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from(PROFILES), st.integers(1, 5), st.integers(1, 100))
def test_short_conversations(seed: int, profile: str, flows: int, n: int) -> None:
    """Short, so that a difference shrinks to the packets that make it."""
    Pair(profile, Conversation(random.Random(seed), flows=flows)).compare(n)

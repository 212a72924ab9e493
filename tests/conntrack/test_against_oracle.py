"""The kernels and the naive tracker through the same conversations: every packet's bits and bytes, and the tables.

A million packets in the gate, 20,000 with the JIT off; FLOWSHUNT_ORACLE_PACKETS asks for more, FLOWSHUNT_ORACLE_SEED
for others. Nine in ten go through a large table in batches, the others one by one where limits, short times and odd
settings hold.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.conntrack.schema import COUNTERS
from flowshunt.jit import JIT
from tests.oracle.conversations import Conversation
from tests.oracle.pair import Pair, shrunk
from tests.oracle.policies import draw_policies

PACKETS = int(os.environ.get("FLOWSHUNT_ORACLE_PACKETS", "1000000" if JIT else "20000"))
SEED = int(os.environ.get("FLOWSHUNT_ORACLE_SEED", "1"))
PROFILES = ("default", "linux")
HELPERS = {name for name in COUNTERS if name.startswith("expect")}
LIMITS = {"full", "zone-limit", "headroom", "removed-early-drop"}
UNTOUCHED = HELPERS | LIMITS | {"removed-flushed", "invalid-mid-stream"}
NEVER: dict[str, set[str]] = {
    "default": {*UNTOUCHED, "removed-closed", "invalid-state", "invalid-sctp-chunks", "invalid-sctp-tag"},
    "linux": UNTOUCHED,
}
"""Counters that conversations cannot move: the table is large, nothing is flushed, streams are picked up."""
CHUNK = 5000 if JIT else 1000
"""Packets between two comparisons of the tables."""


def parts(packets: int) -> range:
    """Numbers of the conversations that so many packets make, ten chunks each."""
    return range(max(packets // len(PROFILES) // (10 * CHUNK), 1))


@pytest.mark.parametrize("profile", PROFILES)
def test_long_conversations(profile: str) -> None:
    reached = dict.fromkeys(COUNTERS, 0)
    for n in parts(PACKETS * 9 // 10):
        pair = Pair(profile, Conversation(random.Random(SEED * 1000 + n), flows=6 if n % 2 else 40))
        for _ in range(10):
            shrunk(pair, lambda pair=pair: pair.compare(CHUNK))
        for name, value in pair.tracker.statistics().items():
            reached[name] = reached.get(name, 0) + value
    never = {name for name in COUNTERS if reached[name] == 0}
    assert never >= NEVER[profile]
    if PACKETS >= 200_000:
        assert never == NEVER[profile], "the conversations do not reach every corner"


@pytest.mark.parametrize("profile", PROFILES)
def test_limits_timeouts_and_early_drop(profile: str) -> None:
    reached = dict.fromkeys(COUNTERS, 0)
    for n in range(10):
        seed = random.Random(SEED * 1000 + n)
        pair = Pair(profile, Conversation(seed, flows=40), policies=draw_policies(seed))
        shrunk(pair, lambda pair=pair: pair.compare(PACKETS // 10 // len(PROFILES) // 10))
        for name, value in pair.tracker.statistics().items():
            reached[name] = reached.get(name, 0) + value
    assert all(reached[name] for name in LIMITS - {"headroom"}), reached


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("options", [{"check_checksums": False}, {"check_sequence": False}], ids=str)
def test_checks_switched_off(profile: str, options: dict[str, bool]) -> None:
    pair = Pair(profile, Conversation(random.Random(SEED), nat=options.get("check_checksums", True)), **options)
    shrunk(pair, lambda: pair.compare(CHUNK))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_the_batch_size_changes_nothing(profile: str, batch_size: int) -> None:
    pair = Pair(profile, Conversation(random.Random(SEED + 7), flows=3), batch_size)
    shrunk(pair, lambda: pair.compare(CHUNK))


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from(PROFILES), st.integers(1, 5), st.integers(1, 100))
def test_short_conversations(seed: int, profile: str, flows: int, n: int) -> None:
    """Short, so that a difference shrinks to the packets that make it."""
    Pair(profile, Conversation(random.Random(seed), flows=flows)).compare(n)

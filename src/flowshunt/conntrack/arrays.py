"""Making a tracker's memory."""

from __future__ import annotations

import secrets

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.memory import reserve
from flowshunt.conntrack.states import N_TIMEOUTS
from flowshunt.packet.schema import KEY_WORDS

MAX_CAPACITY = 1 << 28
MAX_EXPECTATIONS = 1 << 14


def make_arrays(
    capacity: int, n_events: int = 8192, seed: int | None = None, n_expectations: int = MAX_EXPECTATIONS
) -> C.ConntrackArrays:
    """Memory for up to `capacity` connections, empty, with a random hash key (or one made from `seed`, for tests).

    `n_expectations` also bounds the connections whose sequence numbers are adjusted.

    Raises ValueError for a capacity outside `[1, MAX_CAPACITY]`, MemoryError when it cannot be reserved.
    """
    if not 1 <= capacity <= MAX_CAPACITY:
        raise ValueError(f"capacity is {capacity}; it must be 1 to {MAX_CAPACITY}")
    max_base = C.MIN_BUCKETS
    while max_base * 5 < capacity * 2:  # room for two entries each, as NAT needs
        max_base *= 2
    state = np.zeros(1, C.STATE)
    state["key"][0] = hash_key(seed)
    state["now_ms"] = C.BEFORE_ALL_MS
    state["capacity"] = capacity
    state["base"] = C.MIN_BUCKETS
    state["max_base"] = max_base
    state["check_checksums"] = 1
    state["check_sequence"] = 1
    state["loose"] = 1
    state["limit"] = capacity
    state["zone_limit"] = C.UNLIMITED
    return C.ConntrackArrays(
        conns=reserve(C.CONNECTION, capacity),
        buckets=reserve(np.int64, 2 * max_base, 8),
        state=state,
        events=np.zeros(n_events, C.EVENT),
        timeouts=np.zeros((C.MAX_POLICIES, N_TIMEOUTS), np.int64),
        wheel=np.full(C.WHEEL_SLOTS, -1, np.int32),
        free=reserve(np.int32, capacity, huge=False),
        slots=reserve(np.int64, capacity, C.N_SLOTS),
        counters=reserve(np.int64, C.N_ZONES << C.ZONE_SHIFT, huge=False),
        hashes=np.zeros(C.BATCH_MAX, np.int64),
        candidates=np.full(C.BATCH_MAX, -1, np.int64),
        tracked=np.zeros(C.BATCH_MAX, C.TRACKED),
        inner_key=np.zeros((1, KEY_WORDS), np.int64),
        zones=reserve(C.ZONE, C.N_ZONES, huge=False),
        used_zones=reserve(np.uint16, C.N_ZONES),
        exts=reserve(C.EXT, capacity),
        ext_free=reserve(np.int32, capacity, huge=False),
        nat_spec=np.zeros(C.NAT_WORDS, np.int64),
        nat_key=np.zeros((1, KEY_WORDS), np.int64),
        quotes=np.zeros((C.N_QUOTES, C.QUOTE_WORDS), np.int64),
        gauges=np.zeros(C.N_GAUGES, C.GAUGE),
        pools=np.zeros(C.POOL_SETS * C.POOL_WAYS, C.POOL),
        pool_ports=reserve(np.int64, C.POOL_SETS * C.POOL_WAYS, C.POOL_WORDS),
        pool_expiry=reserve(np.int64, C.POOL_SETS * C.POOL_WAYS, C.POOL_WORDS),
        expectations=reserve(C.EXPECTATION, n_expectations),
        expected=np.zeros(2 << (n_expectations - 1).bit_length(), np.uint32),
        adjustments=reserve(C.ADJUSTMENT, n_expectations),
        draft=np.zeros(1, C.CONNECTION),
    )


def hash_key(seed: int | None) -> np.ndarray:
    """Four random words, int64 (4,), to key a hash with; always the same ones for a given seed."""
    if seed is not None:
        return np.random.default_rng(seed).integers(-(1 << 63), (1 << 63) - 1, 4, np.int64)
    return np.frombuffer(secrets.token_bytes(32), np.int64).copy()


def example_arrays() -> C.ConntrackArrays:
    """The smallest memory, for the types of entry points."""
    return make_arrays(1, n_events=1, seed=0, n_expectations=1)

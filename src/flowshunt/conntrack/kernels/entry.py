"""Entry points: what Python calls on the tracker's memory, each in bounded slices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack import states as S
from flowshunt.conntrack.arrays import example_arrays
from flowshunt.conntrack.kernels.buckets import find, migrate, prefetch_bucket
from flowshunt.conntrack.kernels.rows import destroy, expire, is_over, move_timer
from flowshunt.conntrack.kernels.step import HASHED, NAT, hash_parsed, set_label, set_mark, suggest, track
from flowshunt.conntrack.kernels.tuples import hash_packet
from flowshunt.jit import assume, by_reference, kernel, prefetch
from flowshunt.packet.parse import parse
from flowshunt.packet.schema import KEY_WORDS, PACKET, W_CT, W_NAT

GROUP = 8
"""Packets that go through each stage together (parse and hash, ask for the buckets, ask for the connections, track), so
that what is asked for comes in bursts: with pages far apart, requests for memory overlap far better in a short loop
than one by one between other work.
"""

RING_ROWS = 4 * GROUP
"""Rows of the key array in use at a time: a power of two, enough for three groups, small enough for the L1 cache."""
_RING = RING_ROWS - 1

_WHEEL_MASK = C.WHEEL_SLOTS - 1


class _Packets(NamedTuple):
    data: np.ndarray
    packets: np.ndarray
    keys: np.ndarray


def _example_keys() -> np.ndarray:
    return np.zeros((1, KEY_WORDS), np.int64)


@kernel
def _track_chunk(
    t: Any, data: Any, packets: Any, keys: Any, first: Any, n: Any, zone: Any, flags: Any, ct_state: Any
) -> Any:
    """Packets `[first, first + n)`; when a group is parsed, the one two before it is tracked."""
    now_ms = np.int64(0)
    start_ns = np.int64(0)  # of the millisecond now_ms
    for begin in range(0, n + 2 * GROUP, GROUP):
        for step in range(begin, min(begin + GROUP, n)):
            parse(data, packets, first + step, keys, step & _RING)
            hash_parsed(t, packets, first + step, keys, step & _RING)
        for step in range(begin, min(begin + GROUP, n)):
            prefetch_bucket(t, t.hashes[step & _RING])
        for step in range(max(begin - 2 * GROUP, 0), min(begin - GROUP, n)):
            k = step & _RING
            i = first + step
            if not 0 <= packets["time_ns"][i] - start_ns < 1_000_000:
                now_ms = packets["time_ns"][i] // 1_000_000
                start_ns = now_ms * 1_000_000
            track(t, data, packets, i, keys, k, zone, flags | HASHED, now_ms)
            ct_state[i] = (keys[k, W_CT] >> 32) & 0xFFFF
            if flags & NAT:
                keys[k, W_NAT] = 0
        for step in range(max(begin - GROUP, 0), min(begin, n)):
            suggest(t, keys, step & _RING)


def _track_example() -> tuple[Any, ...]:
    data, packets, ct_state = np.zeros(1, np.uint8), np.zeros(1, PACKET), np.zeros(1, np.uint16)
    return example_arrays(), data, packets, _example_keys(), 0, 0, 0, ct_state, 1


@kernel(example=_track_example)
def track_packets(
    t: Any, data: Any, packets: Any, keys: Any, first: Any, zone: Any, flags: Any, ct_state: Any, batch: Any
) -> Any:
    """Parse and track packets `[first, len(packets))` in batches of up to `batch`; ct_state (uint16) is filled.

    `keys`: int64 (RING_ROWS, KEY_WORDS), scratch. Returns how many packets are done in total: fewer than all when the
    events must be drained first.
    """
    assume(first >= 0)
    t = by_reference(t)
    b = by_reference(_Packets(data, packets, keys))
    assume(b.keys.shape[1] == KEY_WORDS)
    zone = np.int64(zone)
    done = first
    while done < len(packets):
        n = min(batch, len(packets) - done)
        if t.state["events_on"][0]:
            room = (len(t.events) - t.state["n_events"][0]) // C.EVENTS_PER_TRACK
            n = min(n, room)
            if n <= 0:
                return done
        _track_chunk(t, b.data, b.packets, b.keys, done, n, zone, flags, ct_state)
        done += n
    return done


@kernel(example=lambda: (example_arrays(), 0, 0))
def sweep(t: Any, now_ms: Any, budget: Any) -> Any:
    """Expire connections whose time has come, looking at no more than `budget` of them.

    Empty slots cost nothing, unless time has leapt beyond the wheel: one packet with a wild time shall not end all that
    a packet with the right time, which may come next, would find alive. Returns the budget left: above 0 when nothing
    more is due at `now_ms`. Stops early when the events are full.
    """
    state = t.state
    if now_ms > state["now_ms"][0]:
        state["now_ms"][0] = now_ms
    now = state["now_ms"][0]
    last = now >> C.WHEEL_SHIFT
    if state["n_live"][0] == 0:
        state["wheel_tick"][0] = last
    elif last - state["wheel_tick"][0] > C.WHEEL_SLOTS:
        state["wheel_tick"][0] = last - C.WHEEL_SLOTS
        state["leaping"][0] = 1
    elif state["wheel_tick"][0] > last + 1:  # the clock was set back: what is linked too late is found a round later
        state["wheel_tick"][0] = last
    while budget > 0 and state["wheel_tick"][0] <= last:
        row = np.int64(t.wheel[state["wheel_tick"][0] & _WHEEL_MASK])
        if row < 0:
            state["wheel_tick"][0] += 1
            budget -= state["leaping"][0]
            continue
        budget -= 1
        following = np.int64(t.conns["next"][row])
        if following >= 0:
            prefetch(t.conns, following, 0)
            prefetch(t.conns, following, 128)
        if t.conns["expires_ms"][row] > now:
            move_timer(t, row)
            continue
        if state["events_on"][0] and state["n_events"][0] >= len(t.events):
            return np.int64(0)
        expire(t, row, now)
    if state["wheel_tick"][0] > last:
        state["leaping"][0] = 0
    return budget


@kernel(example=lambda: (example_arrays(), 0, 0, 0))
def flush_rows(t: Any, first: Any, n_rows: Any, zone: Any) -> Any:
    """Destroy the live connections of `zone` (-1: all) in rows `[first, first + n_rows)`.

    Returns the row to go on with, or -1 at the end; stops early when the events are full.
    """
    last = min(first + n_rows, t.state["n_fresh"][0])
    for row in range(first, last):
        if t.conns["flags"][row] & S.F_LIVE == 0:
            continue
        if zone >= 0 and (t.conns["tuple"][row] >> 16) & 0xFFFF != zone:
            continue
        if t.state["events_on"][0] and t.state["n_events"][0] >= len(t.events):
            return np.int64(row)
        destroy(t, row, C.REASON_FLUSHED, t.state["now_ms"][0])
    return np.int64(-1) if last == t.state["n_fresh"][0] else np.int64(last)


@kernel(example=lambda: (example_arrays(), 0))
def destroy_row(t: Any, row: Any) -> Any:
    """Destroy one live connection as flushed. There must be room for an event."""
    destroy(t, row, C.REASON_FLUSHED, t.state["now_ms"][0])


@kernel(example=lambda: (example_arrays(), np.zeros(1, C.CONNECTION), np.zeros(1, np.int64), 0, 0, 0, 0))
def copy_rows(t: Any, out: Any, out_rows: Any, first: Any, n_rows: Any, zone: Any, now_ms: Any) -> Any:
    """Copy the live, unexpired connections of `zone` (-1: all) among rows `[first, first + n_rows)` to `out`.

    `out` and `out_rows` (the row numbers) hold at least n_rows. Returns how many were copied.
    """
    n = 0
    for row in range(first, min(first + n_rows, t.state["n_fresh"][0])):
        if t.conns["flags"][row] & S.F_LIVE == 0 or is_over(t, row, now_ms):
            continue
        if zone >= 0 and (t.conns["tuple"][row] >> 16) & 0xFFFF != zone:
            continue
        out[n] = t.conns[row]
        out_rows[n] = row
        n += 1
    return n


@kernel(example=lambda: (example_arrays(), _example_keys(), 0, 0))
def find_row(t: Any, keys: Any, word: Any, now_ms: Any) -> Any:
    """Row << 1 | direction of the connection of the addresses in keys[0] and the tuple word, zone included; or -1."""
    hashed = hash_packet(t.state, keys, 0, word & ~(0xFFFF << 16))
    found = find(t, hashed, keys, 0, word)
    if found >= 0 and is_over(t, found >> 1, now_ms):
        return np.int64(-1)
    return found


@kernel(example=lambda: (example_arrays(), 0, 0, 0, 0))
def change_mark(t: Any, row: Any, value: Any, mask: Any, now_ms: Any) -> Any:
    """`set_mark` from Python. There must be room for an event."""
    set_mark(t, row, value, mask, now_ms)


@kernel(example=lambda: (example_arrays(), 0, 0, 0, 0, 0, 0))
def change_label(t: Any, row: Any, high: Any, low: Any, mask_high: Any, mask_low: Any, now_ms: Any) -> Any:
    """`set_label` from Python. There must be room for an event."""
    set_label(t, row, high, low, mask_high, mask_low, now_ms)


@kernel(example=lambda: (example_arrays(), 0))
def grow(t: Any, n_buckets: Any) -> Any:
    """Go on with a doubling of the buckets that is under way. Returns whether there is more to do."""
    if t.state["old_base"][0] != 0:
        migrate(t, n_buckets)
    return t.state["old_base"][0] != 0

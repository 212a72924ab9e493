"""Rows of the connection table: taken, timed, announced, given back.

Expiry is a wheel of doubly linked lists. A connection sits in the slot of the time it had when it was last put there;
a longer life is noticed only when that slot comes due, so packets that extend a life touch nothing here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels.adjust import free_adjustment
from flowshunt.conntrack.kernels.buckets import remove
from flowshunt.conntrack.kernels.expectations import drop_expectations_of
from flowshunt.conntrack.kernels.extensions import release_ext
from flowshunt.conntrack.kernels.pools import ENDED, SHORTENED, note_ports
from flowshunt.conntrack.kernels.statistics import count, final_state
from flowshunt.conntrack.schema import (
    C_REMOVED,
    CLOCK_STEP_MS,
    DUE_GRACE_MS,
    EVENT_DESTROYED,
    EVENT_DUE,
    EXPIRED_AT,
    N_SLOTS,
    REASON_EXPIRED,
    WHEEL_SHIFT,
    WHEEL_SLOTS,
)
from flowshunt.conntrack.states import F_LIVE, WATCH_HELD
from flowshunt.jit import kernel


@kernel
def emit_event(t: Any, row: Any, kind: Any, reason: Any, direction: Any, in_port: Any, now: Any) -> Any:
    """Append an event about `row`, when anyone listens. The caller has made sure that there is room."""
    if t.state["events_on"][0]:
        _append_event(t, row, kind, reason, direction, in_port, now)


@kernel(inline=False)
def _append_event(t: Any, row: Any, kind: Any, reason: Any, direction: Any, in_port: Any, now: Any) -> Any:
    n = t.state["n_events"][0]
    e = t.events
    e["time_ms"][n] = now
    for half in range(2):
        e["source"][n, half] = t.conns["source"][row, half]
        e["destination"][n, half] = t.conns["destination"][row, half]
    e["tuple"][n] = t.conns["tuple"][row]
    e["row"][n] = row
    e["generation"][n] = t.conns["generation"][row]
    e["in_port"][n] = in_port
    e["mark"][n] = t.conns["mark"][row]
    e["kind"][n] = kind
    e["reason"][n] = reason
    e["direction"][n] = direction
    e["state"][n] = t.conns["state"][row] if t.state["linux"][0] else t.conns["peer"][row, direction]
    for slot in range(N_SLOTS):
        e["slots"][n, slot] = t.slots[row, slot] if kind == EVENT_DESTROYED and t.state["slots_on"][0] else 0
    t.state["n_events"][0] = n + 1


@kernel
def advance(t: Any, now_ms: Any) -> Any:
    """The time to go by at a packet of time `now_ms`, which becomes the tracker's.

    A little earlier than the time before counts as that, since captures are not always in order. A step back of
    CLOCK_STEP_MS or more means that the clock was set, or that one packet had a wild time: the tracker follows.
    """
    now = t.state["now_ms"][0]
    if now_ms > now or now_ms <= now - CLOCK_STEP_MS:
        t.state["now_ms"][0] = now_ms
        return now_ms
    return now


@kernel
def _link(t: Any, row: Any) -> Any:
    tick = t.state["wheel_tick"][0]
    ahead = (t.conns["expires_ms"][row] >> WHEEL_SHIFT) + 1 - tick
    slot = (tick + min(max(ahead, 0), WHEEL_SLOTS - 1)) & (WHEEL_SLOTS - 1)
    head = np.int64(t.wheel[slot])
    t.conns["slot"][row] = slot
    t.conns["previous"][row] = -1
    t.conns["next"][row] = head
    if head >= 0:
        t.conns["previous"][head] = row
    t.wheel[slot] = row


@kernel
def _unlink(t: Any, row: Any) -> Any:
    before = np.int64(t.conns["previous"][row])
    after = np.int64(t.conns["next"][row])
    if before >= 0:
        t.conns["next"][before] = after
    else:
        t.wheel[np.int64(t.conns["slot"][row])] = after
    if after >= 0:
        t.conns["previous"][after] = before


@kernel
def start_timer(t: Any, row: Any, expires: Any) -> Any:
    """Time a row that is in no slot yet."""
    t.conns["expires_ms"][row] = expires
    _link(t, row)


@kernel(inline=False)
def move_timer(t: Any, row: Any) -> Any:
    """Put a row into the slot of its present expiry."""
    _unlink(t, row)
    _link(t, row)


@kernel(inline=False)
def _shorten(t: Any, row: Any) -> Any:
    move_timer(t, row)
    if t.state["n_pools"][0]:
        note_ports(t, row, np.int64(SHORTENED))


@kernel
def set_timer(t: Any, row: Any, expires: Any) -> Any:
    """Change when a row expires; only a shorter life has to move it."""
    shorter = expires < t.conns["expires_ms"][row]
    t.conns["expires_ms"][row] = expires
    if shorter:
        _shorten(t, row)


@kernel
def take_row(t: Any, zone: Any) -> Any:
    """A free row, counted as a connection of `zone`. There must be one: `policies.take_admitted_row` sees to that."""
    state = t.state
    state["n_live"][0] += 1
    t.zones["live"][zone] += 1
    if state["n_free"][0] > 0:
        n = state["n_free"][0] - 1
        state["n_free"][0] = n
        return np.int64(t.free[n])
    row = state["n_fresh"][0]
    state["n_fresh"][0] = row + 1
    return row


@kernel(inline=False)
def _end_ext(t: Any, row: Any) -> Any:
    """A connection with an extension record ends: what it announced and all records of its own go with it."""
    drop_expectations_of(t, row)
    free_adjustment(t, np.int64(t.conns["ext"][row]) - 1)
    release_ext(t, row)


@kernel(inline=False)
def destroy(t: Any, row: Any, reason: Any, now: Any) -> Any:
    """End a connection: out of the table and its slot, announced, counted; the row's generation moves on."""
    emit_event(t, row, EVENT_DESTROYED, reason, 0, np.int64(t.conns["in_port"][row]), now)
    if t.state["n_pools"][0]:
        note_ports(t, row, np.int64(ENDED))
    remove(t, row)
    if t.conns["ext"][row]:
        _end_ext(t, row)
    _unlink(t, row)
    t.conns["flags"][row] = np.int64(t.conns["flags"][row]) & ~F_LIVE & 0xFF
    t.conns["watch"][row] = 0
    t.conns["generation"][row] = (np.int64(t.conns["generation"][row]) + 1) & 0xFFFFFFFF
    if t.state["slots_on"][0]:
        for slot in range(N_SLOTS):
            t.slots[row, slot] = 0
    n = t.state["n_free"][0]
    t.free[n] = row
    t.state["n_free"][0] = n + 1
    t.state["n_live"][0] -= 1
    word = t.conns["tuple"][row]
    zone = (word >> 16) & 0xFFFF
    proto = (word >> 8) & 0xFF
    t.zones["live"][zone] -= 1
    count(t, zone, proto, C_REMOVED + reason)
    if reason == REASON_EXPIRED:
        count(t, zone, proto, EXPIRED_AT + final_state(t, row, proto))


@kernel
def is_over(t: Any, row: Any, now: Any) -> Any:
    """Whether a connection has expired. One that a module holds has not before the module was asked."""
    return t.conns["expires_ms"][row] <= now and t.conns["watch"][row] & WATCH_HELD == 0


@kernel(inline=False)
def _ask(t: Any, row: Any, now: Any) -> Any:
    emit_event(t, row, EVENT_DUE, 0, 0, np.int64(t.conns["in_port"][row]), now)
    t.conns["expires_ms"][row] = now + DUE_GRACE_MS
    move_timer(t, row)


@kernel
def expire(t: Any, row: Any, now: Any) -> Any:
    """A connection's time has come: destroy it, or ask the module that holds it. There must be room for an event."""
    if t.conns["watch"][row] & WATCH_HELD:
        _ask(t, row, now)
    else:
        destroy(t, row, REASON_EXPIRED, now)

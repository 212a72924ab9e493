"""Connections that a module holds: asked before they expire, re-armed by what it answers, given back."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack import states as S
from flowshunt.conntrack.arrays import example_arrays
from flowshunt.conntrack.kernels.protocols import current_timeout
from flowshunt.conntrack.kernels.rows import set_timer
from flowshunt.jit import by_reference, kernel
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP

_STREAM_AFTER_MS = 2000
"""linux: see `protocols._linux_update`."""
_LINUX_ESTABLISHED = S.LINUX_NAMES.index("ESTABLISHED")


@kernel
def _lives(t: Any, row: Any, generation: Any) -> Any:
    return t.conns["generation"][row] == generation and t.conns["flags"][row] & S.F_LIVE != 0


@kernel
def _is_held(t: Any, row: Any, generation: Any) -> Any:
    return (
        t.conns["generation"][row] == generation
        and t.conns["flags"][row] & S.F_LIVE != 0
        and t.conns["watch"][row] & S.WATCH_HELD != 0
    )


@kernel
def _let_go(t: Any, row: Any) -> Any:
    t.conns["watch"][row] = np.int64(t.conns["watch"][row]) & ~S.WATCH_HELD


def _example_rows() -> np.ndarray:
    return np.zeros(0, np.int64)


@kernel(example=lambda: (example_arrays(), _example_rows(), _example_rows()))
def hold(t: Any, rows: Any, generations: Any) -> Any:
    """Hold connections, int64 (n,) rows and generations. Returns how many of them live."""
    t = by_reference(t)
    n_living = 0
    for i in range(len(rows)):
        row = rows[i]
        if _lives(t, row, generations[i]):
            t.conns["watch"][row] = np.int64(t.conns["watch"][row]) | S.WATCH_HELD
            if (t.conns["tuple"][row] >> 8) & 0xFF == PROTO_TCP:
                t.conns["flags"][row] = np.int64(t.conns["flags"][row]) | S.F_SEQ_CHECK_OFF
            n_living += 1
    return n_living


@kernel(example=lambda: (example_arrays(), 0, _example_rows(), _example_rows(), _example_rows()))
def set_slots(t: Any, slot: Any, rows: Any, generations: Any, values: Any) -> Any:
    """Set a private slot of connections, all int64 (n,). Returns how many of them live."""
    t = by_reference(t)
    n_living = 0
    for i in range(len(rows)):
        if _lives(t, rows[i], generations[i]):
            t.slots[rows[i], slot] = values[i]
            n_living += 1
    return n_living


@kernel(example=lambda: (example_arrays(), _example_rows(), _example_rows(), _example_rows(), _example_rows(), 0))
def answer_due(t: Any, rows: Any, generations: Any, last_used_ms: Any, asked_ms: Any, now_ms: Any) -> Any:
    """Carry out the answers to `due` events; see `Holding.answer_due`. All int64 (n,). Returns how many live on."""
    t = by_reference(t)
    n_living = 0
    for i in range(len(rows)):
        row = rows[i]
        if not _is_held(t, row, generations[i]) or t.conns["expires_ms"][row] != asked_ms[i] + C.DUE_GRACE_MS:
            continue  # gone, or seen since it was asked about
        expires = min(last_used_ms[i], now_ms) + current_timeout(t, row)
        if last_used_ms[i] > 0 and expires > now_ms:
            set_timer(t, row, expires)
            n_living += 1
        elif t.state["linux"][0]:
            set_timer(t, row, now_ms + current_timeout(t, row))
            n_living += 1
        else:
            _let_go(t, row)
            set_timer(t, row, now_ms)
    return n_living


@kernel(example=lambda: (example_arrays(), _example_rows(), _example_rows(), 0, 0))
def release(t: Any, rows: Any, generations: Any, now_ms: Any, is_settled: Any) -> Any:
    """Hold connections, int64 (n,) rows and generations, no longer. Profile linux: with a full timeout.

    Unless `is_settled`: all that went unseen has been added, so that their timers are as they should be.
    """
    t = by_reference(t)
    for i in range(len(rows)):
        row = rows[i]
        if _is_held(t, row, generations[i]):
            _let_go(t, row)
            if t.state["linux"][0] and not is_settled:
                set_timer(t, row, now_ms + current_timeout(t, row))


# --- packets that went unseen ----------------------------------------------------------------------------------------


@kernel
def note_use(t: Any, row: Any, used_ms: Any) -> Any:
    """What an unseen packet of time `used_ms` would have made of the connection besides its timer.

    linux: an answered UDP flow becomes a stream, with the longer timeout, after a while.
    """
    flags = np.int64(t.conns["flags"][row])
    if (
        t.state["linux"][0]
        and flags & (S.F_SEEN_REPLY | S.F_ASSURED) == S.F_SEEN_REPLY
        and (t.conns["tuple"][row] >> 8) & 0xFF == PROTO_UDP
        and used_ms - t.conns["start_ms"][row] > _STREAM_AFTER_MS
    ):
        t.conns["flags"][row] = flags | S.F_ASSURED


def _example_pairs() -> np.ndarray:
    return np.zeros((0, 2), np.int64)


@kernel(
    example=lambda: (
        example_arrays(), _example_rows(), _example_rows(), _example_rows(), _example_pairs(), _example_pairs(),
        _example_pairs(), 0,
    )
)  # fmt: skip
def add_usage(
    t: Any, rows: Any, generations: Any, turned: Any, packets: Any, sizes: Any, last_used_ms: Any, now_ms: Any
) -> Any:
    """Add what went unseen; see `Holding.add_usage`. int64 (n,) and (n, 2). Returns how many of them live."""
    t = by_reference(t)
    n_living = 0
    for i in range(len(rows)):
        row = rows[i]
        if not _lives(t, row, generations[i]):
            continue
        n_living += 1
        for path in range(2):
            d = path ^ turned[i]
            t.conns["packets"][row, d] += packets[i, path]
            t.conns["bytes"][row, d] += sizes[i, path]
        used = min(max(last_used_ms[i, 0], last_used_ms[i, 1]), now_ms)
        if used > 0:
            note_use(t, row, used)
            expires = used + current_timeout(t, row)
            if expires > t.conns["expires_ms"][row]:
                set_timer(t, row, expires)
    return n_living


@kernel
def _is_established(t: Any, row: Any) -> Any:
    proto = (t.conns["tuple"][row] >> 8) & 0xFF
    flags = np.int64(t.conns["flags"][row])
    if flags & S.F_DYING:
        return False
    if proto == PROTO_UDP:
        return flags & S.F_SEEN_REPLY != 0
    if proto != PROTO_TCP:
        return False
    if t.state["linux"][0]:
        return t.conns["state"][row] == _LINUX_ESTABLISHED
    return t.conns["peer"][row, 0] == S.PEER_ESTABLISHED and t.conns["peer"][row, 1] == S.PEER_ESTABLISHED


@kernel(example=lambda: (example_arrays(), _example_rows(), _example_rows(), _example_rows()))
def idle_limits(t: Any, rows: Any, generations: Any, limits: Any) -> Any:
    """Fill `limits`, int64 (n,); see `Holding.idle_limits`. Returns how many are not 0."""
    t = by_reference(t)
    n_fit = 0
    for i in range(len(rows)):
        row = rows[i]
        limits[i] = 0
        if _lives(t, row, generations[i]) and _is_established(t, row):
            limits[i] = current_timeout(t, row)
            n_fit += 1
    return n_fit

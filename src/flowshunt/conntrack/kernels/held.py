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


@kernel(example=lambda: (example_arrays(), _example_rows(), _example_rows(), 0))
def release(t: Any, rows: Any, generations: Any, now_ms: Any) -> Any:
    """Hold connections, int64 (n,) rows and generations, no longer. Profile linux: with a full timeout."""
    t = by_reference(t)
    for i in range(len(rows)):
        row = rows[i]
        if _is_held(t, row, generations[i]):
            _let_go(t, row)
            if t.state["linux"][0]:
                set_timer(t, row, now_ms + current_timeout(t, row))

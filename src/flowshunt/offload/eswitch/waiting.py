"""Connections on their way into the table: a queue in the order of their turns."""

from __future__ import annotations

import numpy as np

from flowshunt.datapath.paths.records import FLOW

_SMALLEST = 256


class Waiting:
    """A ring of FLOW that grows. Places are sequence numbers, from 0 on, and stay valid until they are popped."""

    def __init__(self) -> None:
        self._flows = np.zeros(_SMALLEST, FLOW)
        self._due_ms = np.zeros(_SMALLEST, np.int64)
        self._is_live = np.zeros(_SMALLEST, bool)
        self._first = 0
        self._end = 0

    def push(self, flows: np.ndarray, due_ms: np.ndarray) -> np.ndarray:
        """Append FLOW (n,) whose turns, int64 (n,), are none before those that wait. Returns places, int64 (n,)."""
        places = self._end + np.arange(len(flows))
        while self._end + len(flows) - self._first > len(self._flows):
            self._grow()
        slots = places % len(self._flows)
        self._flows[slots] = flows
        self._due_ms[slots] = due_ms
        self._is_live[slots] = True
        self._end += len(flows)
        return places

    def replace(self, places: np.ndarray, flows: np.ndarray) -> None:
        """Other paths for those at these places; their turns stay."""
        self._flows[places % len(self._flows)] = flows

    def renew(self, places: np.ndarray, epoch: int) -> None:
        """The paths of those at these places are valid in this epoch, too."""
        self._flows["epoch"][places % len(self._flows)] = epoch

    def cancel(self, places: np.ndarray) -> None:
        """They wait no longer; nobody gets their turns."""
        self._is_live[places % len(self._flows)] = False

    def pop_due(self, now_ms: int) -> tuple[np.ndarray, int]:
        """Those whose turn has come, FLOW (n,), in order; and how many turns that were, cancelled ones included."""
        n = self._n_due(now_ms)
        slots = np.arange(self._first, self._first + n) % len(self._flows)
        self._first += n
        found: np.ndarray = self._flows[slots[self._is_live[slots]]]
        return found, n

    def next_due_ms(self) -> int | None:
        """When the first turn comes; None: nobody waits."""
        if self._first == self._end:
            return None
        return int(self._due_ms[self._first % len(self._due_ms)])

    def clear(self) -> None:
        """Nobody waits any more."""
        self._first = self._end

    def _n_due(self, now_ms: int) -> int:
        """The ring is one or two ordered pieces."""
        start, length = self._first % len(self._due_ms), self._end - self._first
        piece = self._due_ms[start : start + length]
        n = int(np.searchsorted(piece, now_ms, side="right"))
        if n == len(piece) < length:
            n += int(np.searchsorted(self._due_ms[: length - n], now_ms, side="right"))
        return n

    def _grow(self) -> None:
        slots = np.arange(self._first, self._end) % len(self._flows)
        new_slots = np.arange(self._first, self._end) % (2 * len(self._flows))
        for name in ("_flows", "_due_ms", "_is_live"):
            old: np.ndarray = getattr(self, name)
            new = np.zeros(2 * len(old), old.dtype)
            new[new_slots] = old[slots]
            setattr(self, name, new)

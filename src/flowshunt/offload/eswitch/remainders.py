"""Counters that were read from the table and are not told yet."""

from __future__ import annotations

import numpy as np

from flowshunt.datapath.paths.records import USAGE

_COUNTERS = ("packets", "bytes", "frame_bytes")

_REMAINDER = np.dtype([("usage", USAGE), ("told_ms", np.int64), ("generation", np.uint32)], align=True)


class Remainders:
    """USAGE by connection. A NIC reads its counters now and then; who asks in between is told nothing new.

    Rows and generations are uint32 (n,), and in one call no row comes twice.
    """

    def __init__(self) -> None:
        self._remainders = np.zeros(0, _REMAINDER)

    def begin(self, rows: np.ndarray, generations: np.ndarray, now_ms: int) -> None:
        """Connections come; counters of one that was here before stay to be told."""
        needed = int(rows.max()) + 1 if len(rows) else 0
        if needed > len(self._remainders):
            grown = np.zeros(max(needed, 2 * len(self._remainders), 1024), _REMAINDER)
            grown[: len(self._remainders)] = self._remainders
            self._remainders = grown
        other = self._remainders["generation"][rows] != generations
        if other.any():
            rows = rows[other]
            self._remainders["usage"][rows] = 0
            self._remainders["generation"][rows] = generations[other]
            self._remainders["told_ms"][rows] = now_ms

    def keep(self, rows: np.ndarray, usage: np.ndarray) -> None:
        """Add what was read of connections that have begun, USAGE (n,), to what is to be told."""
        mine = self._remainders["usage"][rows]
        for name in _COUNTERS:
            mine[name] += usage[name]
        for name in ("last_used_ms", "counted_ms"):
            mine[name] = np.maximum(mine[name], usage[name])
        self._remainders["usage"][rows] = mine

    def tell(self, rows: np.ndarray, now_ms: int, delay_ms: int) -> np.ndarray:
        """What is told now, USAGE (n,), of connections that have begun: within the delay no counters, but last uses."""
        told: np.ndarray = self._remainders["usage"][rows]
        rests = now_ms - self._remainders["told_ms"][rows] < delay_ms
        self._remainders["told_ms"][rows[~rests]] = now_ms
        for name in _COUNTERS:
            told[name][rests] = 0
            self._remainders["usage"][name][rows[~rests]] = 0
        told["counted_ms"][rests] = self._remainders["told_ms"][rows[rests]]
        return told

    def last(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """All that is left to be told, USAGE (n,); zeros for unknown connections."""
        told = np.zeros(len(rows), USAGE)
        known = np.flatnonzero(rows < len(self._remainders))
        known = known[self._remainders["generation"][rows[known]] == generations[known]]
        told[known] = self._remainders["usage"][rows[known]]
        for name in _COUNTERS:
            self._remainders["usage"][name][rows[known]] = 0
        return told

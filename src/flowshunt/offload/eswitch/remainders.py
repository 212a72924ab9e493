"""Counters that were read from the table and are not told yet."""

from __future__ import annotations

import numpy as np

from flowshunt.datapath.paths.records import USAGE

_WORDS = USAGE.itemsize // 8
_LAST = slice(0, 2)
_COUNTERS = slice(2, 8)
_COUNTED = 8
"""USAGE as int64 words, far faster in NumPy than fields: last uses, counters, and when those were read."""


class Remainders:
    """USAGE by connection. A NIC reads its counters now and then; who asks in between is told nothing new.

    Rows and generations are uint32 (n,), and in one call no row comes twice.
    """

    def __init__(self) -> None:
        self._words = np.zeros((0, _WORDS), np.int64)
        self._told_ms = np.zeros(0, np.int64)
        self._generation = np.zeros(0, np.uint32)

    def begin(self, rows: np.ndarray, generations: np.ndarray, now_ms: int) -> None:
        """Connections come; counters of one that was here before stay to be told."""
        self._make_room(rows)
        other = self._generation[rows] != generations
        if other.any():
            rows = rows[other]
            self._words[rows] = 0
            self._generation[rows] = generations[other]
            self._told_ms[rows] = now_ms

    def keep(self, rows: np.ndarray, usage: np.ndarray) -> None:
        """Add what was read of connections that have begun, USAGE (n,), to what is to be told."""
        words, mine = _words(usage), self._words[rows]
        mine[:, _COUNTERS] += words[:, _COUNTERS]
        mine[:, _LAST] = np.maximum(mine[:, _LAST], words[:, _LAST])
        mine[:, _COUNTED] = np.maximum(mine[:, _COUNTED], words[:, _COUNTED])
        self._words[rows] = mine

    def tell(self, rows: np.ndarray, now_ms: int, delay_ms: int) -> np.ndarray:
        """What is told now, USAGE (n,), of connections that have begun: within the delay no counters, but last uses."""
        words, told_ms = self._words[rows], self._told_ms[rows]
        rests = now_ms - told_ms < delay_ms
        self._told_ms[rows] = np.where(rests, told_ms, now_ms)
        words[rests, _COUNTERS] = 0
        words[rests, _COUNTED] = told_ms[rests]
        self._words[rows[~rests], _COUNTERS] = 0
        return _usage(words)

    def last(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """All that is left to be told, USAGE (n,); zeros for unknown connections."""
        self._make_room(rows)
        words = np.where((self._generation[rows] == generations)[:, None], self._words[rows], 0)
        self._words[rows, _COUNTERS] -= words[:, _COUNTERS]
        return _usage(words)

    def _make_room(self, rows: np.ndarray) -> None:
        needed = int(rows.max()) + 1 if len(rows) else 0
        if needed > len(self._words):
            n_more = max(needed, 2 * len(self._words), 1024) - len(self._words)
            self._words = np.concatenate([self._words, np.zeros((n_more, _WORDS), np.int64)])
            self._told_ms = np.concatenate([self._told_ms, np.zeros(n_more, np.int64)])
            self._generation = np.concatenate([self._generation, np.zeros(n_more, np.uint32)])


def _words(usage: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(usage).view(np.int64).reshape(len(usage), _WORDS)


def _usage(words: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(words).view(USAGE).reshape(len(words))

"""A table of entries that no packet passes: providers that forward through the datapath's are checked with it."""

from __future__ import annotations

import errno

import numpy as np

from flowshunt.offload.installing import USAGE

_UNLIMITED = 1 << 62


class Entries:
    """Implements `sharing.Shares`: each share is a table of its own."""

    def share(self, name: str, limit: int | None = None) -> Part:
        """See Shares."""
        return Part(_UNLIMITED if limit is None else limit)


class Part:
    """Implements `sharing.Share`. By row: generation + 1 (0: none), when the flow was installed, and its epoch."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.check = False
        self._identity = np.zeros(0, np.int64)
        self._used_ms = np.zeros(0, np.int64)
        self._epochs = np.zeros(0, np.int64)

    def _has(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        self._make_room(rows)
        found: np.ndarray = self._identity[rows] == generations.astype(np.int64) + 1
        return found

    def _make_room(self, rows: np.ndarray) -> None:
        missing = int(rows.max(initial=0)) + 1 - len(self._identity)
        if missing > 0:
            more = np.zeros(max(missing, len(self._identity)), np.int64)
            self._identity = np.concatenate([self._identity, more])
            self._used_ms = np.concatenate([self._used_ms, more])
            self._epochs = np.concatenate([self._epochs, more])

    def install(self, flows: np.ndarray) -> None:
        """See Share."""
        rows, generations = flows["rows"][:, 0], flows["generations"][:, 0]
        new = ~self._has(rows, generations)
        over = new & (np.cumsum(new) > self.limit - int((self._identity != 0).sum()))
        flows["error"] = np.where(over, errno.ENOSPC, 0)
        self._identity[rows[~over]] = generations[~over].astype(np.int64) + 1
        self._used_ms[rows[~over]] = flows["now_ms"][~over]
        self._epochs[rows[~over]] = flows["epoch"][~over]

    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int) -> None:
        """See Share."""
        self._epochs[rows[self._has(rows, generations)]] = epoch

    def passes(self, rows: np.ndarray, generations: np.ndarray, epoch: int) -> np.ndarray:
        """See Share."""
        found = self._has(rows, generations)
        found &= self._epochs[rows] == epoch
        return found

    def withdraw(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """See Share."""
        self._identity[rows[self._has(rows, generations)]] = 0
        return np.zeros(len(rows), USAGE)

    def usage(self, rows: np.ndarray, generations: np.ndarray, now_ms: int) -> np.ndarray:
        """See Share. No packet ever passed."""
        return np.zeros(len(rows), USAGE)

    def idle(self, now_ms: int, timeout_ms: int, budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See Share; all at once."""
        rows = np.flatnonzero((self._identity != 0) & (now_ms - self._used_ms >= timeout_ms))
        generations = self._identity[rows] - 1
        self._identity[rows] = 0
        return rows.astype(np.uint32), generations.astype(np.uint32), np.zeros(len(rows), USAGE)

    def flush(self) -> None:
        """See Share."""
        self._identity[:] = 0

    def statistics(self) -> dict[str, int]:
        """See Share."""
        return {"n_flows": int((self._identity != 0).sum()), "limit": self.limit}

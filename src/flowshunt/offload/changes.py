"""Which connections got another mark or label lately: a path that was told before is not what later packets take.

Records of paths come behind the events of the same part of a batch, whichever was first there. Parts are counted as
*turns*; within one, times tell.
"""

from __future__ import annotations

import numpy as np

from flowshunt.conntrack.memory import reserve
from flowshunt.conntrack.schema import EVENT_LABEL, EVENT_MARK


class Changes:
    """By row, when mark or label changed last. `turn`: the present one."""

    def __init__(self, capacity: int) -> None:
        self.turn = 1
        self._turns = reserve(np.int64, capacity)
        self._times_ms = reserve(np.int64, capacity)

    def note(self, events: np.ndarray) -> None:
        """Take the tracker's events, EVENT (n,), in order."""
        kinds = events["kind"]
        changed = (kinds == EVENT_MARK) | (kinds == EVENT_LABEL)
        if changed.any():
            rows = events["row"][changed]
            self._turns[rows] = self.turn
            self._times_ms[rows] = events["time_ms"][changed]

    def outdate(self, learned: np.ndarray) -> np.ndarray:
        """Which of LEARNED (n,), told in this turn, may have been told before such a change: bool (n,)."""
        outdated: np.ndarray = np.zeros(len(learned), bool)
        for zone in range(int(learned["n_zones"].max(initial=0))):
            rows = learned["rows"][:, zone]
            late = (self._turns[rows] == self.turn) & (self._times_ms[rows] >= learned["time_ms"])
            outdated |= late & (learned["n_zones"] > zone)
        return outdated

    def came_after(self, rows: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """Whether connections, int64 (n,), changed after turns, int64 (n,): bool (n,)."""
        later: np.ndarray = self._turns[rows] > turns
        return later

"""What packets have shown of each connection's paths, by the row of the first connection on the way (the *leader*).

Of a path that is installed only a digest stays, since whoever forwards has the path itself; one that waits for that of
the other direction, or for being taken, lies in a pool.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowshunt.datapath.paths.records import LEARNED, N_ZONES
from flowshunt.offload.kernels import book as kernels
from flowshunt.offload.kernels import pairing
from flowshunt.offload.kernels.schema import ASKED, BUSY, FIT, HELD, LEAVING, WAITS, make_book

__all__ = ["ASKED", "BUSY", "FIT", "HELD", "LEAVING", "WAITS", "Book", "Members"]


class Members(NamedTuple):
    """The connections on the way of flows, way by way, the leader of each first.

    `which`: places in the leaders asked about, int64 (m,). `rows`, `generations`: int64 (m,). `turned`: int64 (m,), 1
    where a packet of the leader's original direction is a reply.
    """

    which: np.ndarray
    rows: np.ndarray
    generations: np.ndarray
    turned: np.ndarray


class Book:
    """`arrays`: see `kernels.schema.BookArrays`, of which some are here, too. Leaders are int64 (n,), each once."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.arrays = make_book(capacity)
        self.flags = self.arrays.flags
        self.entries = self.arrays.entries
        self.owner = self.arrays.owner
        self._turn = self.arrays.state["turn"]

    @property
    def top(self) -> int:
        """Rows with an entry are below."""
        return int(self.arrays.state["top"][0])

    @property
    def n_waiting(self) -> int:
        """Paths that wait."""
        return int(self.arrays.state["n_fresh"][0] - self.arrays.state["n_free"][0])

    def begin_turn(self) -> None:
        """What is told from now on comes behind the events and paths so far."""
        self._turn[0] += 1

    def last_of_each(self, rows: np.ndarray) -> np.ndarray:
        """Which places of `rows`, int64 (n,), are the last of their row: bool (n,)."""
        places, scratch = np.arange(len(rows), dtype=np.uint32), self.arrays.scratch[:, 0]
        scratch[rows] = places
        last: np.ndarray = scratch[rows] == places
        return last

    def note(self, learned: np.ndarray, limits: np.ndarray, verdicts: np.ndarray) -> np.ndarray:
        """Note paths; see `pairing.note`. Returns the leaders that have a new one, in the order of their rows."""
        leaders = np.empty(len(learned), np.int64)
        words = learned.view(np.int64).reshape(len(learned), LEARNED.itemsize // 8)
        noted = leaders[: pairing.note(self.arrays, learned, words, limits, verdicts, leaders)]
        noted.sort()
        return noted

    def forget(self, leaders: np.ndarray) -> None:
        """Know nothing of these; flows that nobody holds (any more)."""
        kernels.forget(self.arrays, leaders)

    def stop_waiting(self, leaders: np.ndarray) -> None:
        """The paths of these need not wait any longer."""
        kernels.stop_waiting(self.arrays, leaders)

    def generations(self, leaders: np.ndarray) -> np.ndarray:
        """int64 (n,)."""
        found: np.ndarray = self.entries["generation"][leaders].astype(np.int64)
        return found

    def members(self, leaders: np.ndarray) -> Members:
        """The connections on the ways of these."""
        columns = np.empty((4, N_ZONES * len(leaders)), np.int64)
        m = kernels.list_members(self.arrays, leaders, columns)
        return Members(*columns[:, :m])

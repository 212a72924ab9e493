"""What packets have shown of each connection's paths, by the row of the first connection on the way (the *leader*).

Of a path that is installed only a digest stays, since whoever forwards has the path itself; one that waits for that of
the other direction, or for being taken, lies in a pool.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flowshunt.base.picking import as_bytes
from flowshunt.conntrack.memory import reserve
from flowshunt.datapath.paths.records import N_ZONES, PATH

FIT = (1, 2)
"""By direction: its path is known, and may be taken without asking."""
WAITS = (4, 8)
"""By direction: its path lies in the pool, and is another than the one that is installed, if one is."""
ASKED = 16
"""Offered to the holder, which has not answered yet, or more often than it has answered."""
HELD = 32
"""The holder (see `Dispatcher.holder`) has it."""
LEAVING = 64
"""Being withdrawn from the holder, which has not answered yet."""
BUSY = ASKED | HELD | LEAVING

ENTRY = np.dtype(
    [
        ("digests", np.int64, 2),  # of the paths, by direction of the leader; likewise all pairs
        ("epochs", np.int64, 2),
        ("turns", np.int64, 2),  # in which the paths were told
        ("eth_srcs", np.int64, 2),
        ("generation", np.uint32),  # the leader's
        ("n_asked", np.uint32),  # installations that wait for their answer
        ("places", np.uint32, 2),  # in the pool
        ("chains", np.uint32, 2),
        ("in_ports", np.uint32, 2),
        ("vlans", np.uint16, 2),
        ("ct_states", np.uint16, 2),
        ("turned", np.uint8, 2),
        ("n_zones", np.uint8),
    ],
    align=True,
)

_WORDS = PATH.itemsize // 4


class Members(NamedTuple):
    """The connections at one place on the way of flows.

    `which`: flows that have a connection there, int64 (m,), places in the leaders asked about. `rows`, `generations`:
    int64 (m,). `turned`: int64 (m,), 1 where a packet of the leader's original direction is a reply.
    """

    which: np.ndarray
    rows: np.ndarray
    generations: np.ndarray
    turned: np.ndarray


class Pool:
    """Paths that wait, at most `capacity`; memory is committed up to the most that ever waited."""

    def __init__(self, capacity: int) -> None:
        self.paths = reserve(np.uint8, capacity, PATH.itemsize)
        self._free = reserve(np.uint32, capacity)
        self._n_free = 0
        self._n_fresh = 0

    def take(self, n: int) -> np.ndarray:
        """n places, int64; the caller never has more than `capacity`."""
        again = min(n, self._n_free)
        self._n_free -= again
        fresh = np.arange(self._n_fresh, self._n_fresh + n - again)
        self._n_fresh += n - again
        return np.concatenate([self._free[self._n_free : self._n_free + again].astype(np.int64), fresh])

    def give(self, places: np.ndarray) -> None:
        """Places back, each once."""
        self._free[self._n_free : self._n_free + len(places)] = places
        self._n_free += len(places)

    def __len__(self) -> int:
        """Paths that wait."""
        return self._n_fresh - self._n_free


class Book:
    """`flags`: uint8 by row, see above; `entries`: ENTRY by row, meaningful where a flag is set. `owner`: uint32 by
    row, the leader + 1 of the flow that is held, or asked about, on whose way that connection is; 0: none.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.flags = reserve(np.uint8, capacity)
        self.entries = reserve(ENTRY, capacity)
        self.owner = reserve(np.uint32, capacity)
        self.pool = Pool(2 * capacity)
        self.top = 0
        self._other_rows = reserve(np.uint32, capacity, N_ZONES - 1, huge=False)
        self._other_generations = reserve(np.uint32, capacity, N_ZONES - 1, huge=False)
        self._scratch = reserve(np.uint32, capacity)
        self._keys = np.frombuffer(secrets.token_bytes(8 * _WORDS), np.uint64) | np.uint64(1)

    # --- writing ------------------------------------------------------------------------------------------------------

    def last_of_each(self, rows: np.ndarray) -> np.ndarray:
        """Which places of `rows`, int64 (n,), are the last of their row: bool (n,)."""
        places = np.arange(len(rows), dtype=np.uint32)
        self._scratch[rows] = places
        last: np.ndarray = self._scratch[rows] == places
        return last

    def digests(self, paths: np.ndarray) -> np.ndarray:
        """A number for each path, bytes of PATH as uint8 (n, size): int64 (n,), equal for equal paths.

        Different ones are equal by chance once in 2**32 at most, whoever chose them: the sum is weighed with numbers
        that nobody outside knows, and a path has fields that senders choose.
        """
        words = np.ascontiguousarray(paths).view(np.uint32)
        sums: np.ndarray = (words.astype(np.uint64) * self._keys).sum(1, dtype=np.uint64)
        return sums.view(np.int64)

    def same_way(self, learned: np.ndarray) -> np.ndarray:
        """Whether what the book has under these leaders is of the very connections of LEARNED (n,): bool (n,)."""
        leaders = learned["rows"][:, 0]
        same: np.ndarray = self.flags[leaders] != 0
        same &= self.entries["generation"][leaders] == learned["generations"][:, 0]
        same &= self.entries["n_zones"][leaders] == learned["n_zones"]
        for zone in range(1, int(learned["n_zones"].max())):
            there = learned["n_zones"] > zone
            same &= ~there | (self._other_rows[leaders, zone - 1] == learned["rows"][:, zone])
            same &= ~there | (self._other_generations[leaders, zone - 1] == learned["generations"][:, zone])
        return same

    def begin(self, learned: np.ndarray) -> None:
        """New entries, without a path, for the leaders of LEARNED (n,); each leader once, nothing known of it."""
        leaders = learned["rows"][:, 0].astype(np.int64)
        self.flags[leaders] = 0
        self.entries["generation"][leaders] = learned["generations"][:, 0]
        self.entries["n_asked"][leaders] = 0
        self.entries["n_zones"][leaders] = learned["n_zones"]
        many = learned["n_zones"] > 1
        if many.any():
            self._other_rows[leaders[many]] = learned["rows"][many, 1:]
            self._other_generations[leaders[many]] = learned["generations"][many, 1:]

    def note(self, d: int, learned: np.ndarray, turn: int) -> None:
        """A fit path of direction d for each leader of LEARNED (n,), each leader once, told in `turn`.

        It waits unless it is what the holder has already.
        """
        leaders = learned["rows"][:, 0].astype(np.int64)
        paths = as_bytes(learned, "path")
        digests = self.digests(paths)
        flags, entries = self.flags[leaders], self.entries
        same = (flags & FIT[d] != 0) & (entries["digests"][leaders, d] == digests)
        self._wait(d, leaders, paths, ~same | (flags & (HELD | ASKED | WAITS[d]) == 0))
        entries["digests"][leaders, d] = digests
        entries["epochs"][leaders, d] = learned["epoch"]
        entries["turns"][leaders, d] = turn
        entries["chains"][leaders, d] = learned["chain"]
        entries["turned"][leaders, d] = learned["turned"]
        entries["ct_states"][leaders, d] = learned["ct_state"]
        entries["in_ports"][leaders, d] = learned["path"]["in_port"]
        entries["eth_srcs"][leaders, d] = learned["path"]["eth_src"]
        entries["vlans"][leaders, d] = learned["path"]["vlan_tci"]
        self.flags[leaders] |= FIT[d]
        self.top = max(self.top, int(leaders.max()) + 1)

    def _wait(self, d: int, leaders: np.ndarray, paths: np.ndarray, wanted: np.ndarray) -> None:
        """Put those paths, uint8 (n, size), that are wanted, bool (n,), into the pool, for what waits there already."""
        fresh = leaders[wanted & (self.flags[leaders] & WAITS[d] == 0)]
        self.entries["places"][fresh, d] = self.pool.take(len(fresh))
        self.flags[fresh] |= WAITS[d]
        self.pool.paths[self.entries["places"][leaders[wanted], d]] = paths[wanted]

    def drop(self, leaders: np.ndarray, d: int) -> None:
        """Know no path of direction d of these, each leader once."""
        self._give(leaders, d)
        self.flags[leaders] &= 0xFF & ~FIT[d]

    def forget(self, leaders: np.ndarray) -> None:
        """Know nothing of these, each leader once; flows that nobody holds (any more)."""
        for d in range(2):
            self._give(leaders, d)
        self.flags[leaders] = 0

    def stop_waiting(self, leaders: np.ndarray) -> None:
        """The paths of these need not wait any longer."""
        for d in range(2):
            self._give(leaders, d)

    def _give(self, leaders: np.ndarray, d: int) -> None:
        waiting = leaders[self.flags[leaders] & WAITS[d] != 0]
        self.pool.give(self.entries["places"][waiting, d])
        self.flags[waiting] &= 0xFF & ~WAITS[d]

    # --- reading ------------------------------------------------------------------------------------------------------

    def generations(self, leaders: np.ndarray) -> np.ndarray:
        """uint32 (n,)."""
        found: np.ndarray = self.entries["generation"][leaders]
        return found

    def waiting_paths(self, leaders: np.ndarray) -> np.ndarray:
        """uint8 (n, 2, size): PATH of both directions, of leaders whose paths both wait."""
        paths: np.ndarray = self.pool.paths[self.entries["places"][leaders]]
        return paths

    def identities(self, leaders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and generations of all connections on the way, uint32 (n, N_ZONES) each, zeros where there are fewer."""
        rows = np.zeros((len(leaders), N_ZONES), np.uint32)
        generations = np.zeros((len(leaders), N_ZONES), np.uint32)
        rows[:, 0] = leaders
        generations[:, 0] = self.entries["generation"][leaders]
        n_zones = self.entries["n_zones"][leaders]
        for zone in range(1, int(n_zones.max(initial=1))):
            there = np.flatnonzero(n_zones > zone)
            rows[there, zone] = self._other_rows[leaders[there], zone - 1]
            generations[there, zone] = self._other_generations[leaders[there], zone - 1]
        return rows, generations

    def members(self, leaders: np.ndarray) -> Iterator[Members]:
        """The connections on the way, place by place; the leaders themselves come first."""
        entries = self.entries
        turned = entries["turned"][leaders, 0].astype(np.int64)
        n_zones = entries["n_zones"][leaders]
        everyone = np.arange(len(leaders))
        generations = entries["generation"][leaders].astype(np.int64)
        yield Members(everyone, leaders.astype(np.int64), generations, turned & 1)
        for zone in range(1, int(n_zones.max(initial=1))):
            there = np.flatnonzero(n_zones > zone)
            rows = self._other_rows[leaders[there], zone - 1].astype(np.int64)
            generations = self._other_generations[leaders[there], zone - 1].astype(np.int64)
            yield Members(there, rows, generations, turned[there] >> zone & 1)

    def all_rows(self, leaders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and generations of all connections on the ways of these, int64 (m,)."""
        parts = list(self.members(leaders))
        return np.concatenate([part.rows for part in parts]), np.concatenate([part.generations for part in parts])

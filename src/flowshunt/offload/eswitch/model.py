"""Which connections are in a NIC's table: limits, pace, and changing them. Arithmetic only; arrays throughout.

A connection is absent, waiting (it has its place in a group, and packets pass it by), or inserted. Times are given.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowshunt.offload.eswitch.groups import FITS, PATTERNS, TOO_MANY, Groups
from flowshunt.offload.eswitch.settings import EswitchSettings

ABSENT, WAITING, INSERTED = range(3)
QUEUE_FULL = TOO_MANY + 1
"""Besides those of `groups`: why a connection does not get in."""
REFUSALS = ("", "no-group", "table-full", "table-full", "queue-full")
"""The codes of `offload.reasons` for FITS, NO_GROUP, NO_ROOM, TOO_MANY and QUEUE_FULL."""

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
_UNLIMITED = 1 << 62

_CONNECTION = np.dtype(
    [
        ("place", np.int64),  # in the queue, when waiting
        ("generation", np.uint32),
        ("groups", np.uint16, 2),  # by direction
        ("state", np.uint8),
    ],
    align=True,
)


class Admission(NamedTuple):
    """For each of n connections: FITS or why not, uint8; and, for those that fit, their turn, int64 (n,)."""

    refusals: np.ndarray
    due_ms: np.ndarray


class Model:
    """The NIC's switch. Rows and generations are uint32 (n,), and in one call no row comes twice.

    `settings` are those asked for. The sizes of tables and groups follow when the table is empty: until then
    `is_changing`, and new connections still come into the tables that there are.
    """

    def __init__(self, settings: EswitchSettings) -> None:
        self.settings = settings
        self.is_changing = False
        self.n_connections = 0
        self.n_queued = 0
        self.peak_connections = 0
        self.peak_queued = 0
        self._connections = np.zeros(0, _CONNECTION)
        self._free_ns = 0  # when the inserter has nothing more to do
        self._last_due_ms = 0
        self._lay_out()

    def configure(self, settings: EswitchSettings) -> None:
        """Apply other settings: sizes of tables and groups when the table is empty, everything else at once.

        A lowered maximum turns nobody out; a changed pace is that of connections that come from now on.
        """
        self.settings = settings
        self.is_changing = (settings.group_size, settings.num_of_groups) != (self.groups.size, len(self.groups.used))
        self._change_when_empty()

    def _lay_out(self) -> None:
        self.groups = Groups(self.settings.group_size, self.settings.num_of_groups)
        self.is_changing = False

    def _change_when_empty(self) -> None:
        if self.is_changing and self.n_connections == 0:
            self._lay_out()

    # --- who is there ------------------------------------------------------------------------------------------------

    def _make_room(self, rows: np.ndarray) -> None:
        needed = int(rows.max()) + 1 if len(rows) else 0
        if needed > len(self._connections):
            grown = np.zeros(max(needed, 2 * len(self._connections), 1024), _CONNECTION)
            grown[: len(self._connections)] = self._connections
            self._connections = grown

    def states(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """ABSENT, WAITING or INSERTED, uint8 (n,)."""
        self._make_room(rows)
        found: np.ndarray = self._connections["state"][rows]
        return np.where(self._connections["generation"][rows] == generations, found, ABSENT).astype(np.uint8)

    def former(self, rows: np.ndarray, generations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of other generations that are still in these rows: rows and generations."""
        self._make_room(rows)
        old = self._connections["generation"][rows]
        there = (self._connections["state"][rows] != ABSENT) & (old != generations)
        return rows[there], old[there]

    def patterns(self, rows: np.ndarray) -> np.ndarray:
        """Patterns of connections that are there, uint8 (n, 2)."""
        return self.groups.patterns(self._connections["groups"][rows]).astype(np.uint8)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Places in the queue of connections that wait, int64 (n,)."""
        found: np.ndarray = self._connections["place"][rows]
        return found

    # --- coming and going --------------------------------------------------------------------------------------------

    def admit(self, rows: np.ndarray, generations: np.ndarray, patterns: np.ndarray, now_ms: int) -> Admission:
        """Let absent connections in, one after the other, with patterns uint8 (n, 2).

        Those that fit have their places in the groups from now on. With a turn that is not later than `now_ms` they
        are inserted, else they wait; then say by `set_places` where.
        """
        self._make_room(rows)
        maximum = self.settings.ct_max_offloaded_conns
        room = _UNLIMITED if maximum is None else max(0, maximum - self.n_connections)
        queue_room = self._n_due_now(now_ms) + max(0, self.settings.insertion_queue - self.n_queued)
        refusals = self.groups.fit(patterns, min(room, queue_room))
        if queue_room < room:
            refusals[refusals == TOO_MANY] = QUEUE_FULL
        fits = refusals == FITS
        due_ms = np.zeros(len(rows), np.int64)
        due_ms[fits] = self._turns(int(fits.sum()), now_ms)
        self._enter(rows[fits], generations[fits], self.groups.take(patterns[fits]), due_ms[fits] > now_ms)
        return Admission(refusals, due_ms)

    def _enter(self, rows: np.ndarray, generations: np.ndarray, groups: np.ndarray, waits: np.ndarray) -> None:
        self._connections["generation"][rows] = generations
        self._connections["groups"][rows] = groups
        self._connections["state"][rows] = np.where(waits, WAITING, INSERTED)
        self.n_connections += len(rows)
        self.n_queued += int(waits.sum())
        self.peak_connections = max(self.peak_connections, self.n_connections)
        self.peak_queued = max(self.peak_queued, self.n_queued)

    def set_places(self, rows: np.ndarray, places: np.ndarray) -> None:
        """Where in the queue connections wait, int64 (n,)."""
        self._connections["place"][rows] = places

    def inserted(self, rows: np.ndarray, n_turns: int) -> None:
        """Connections that waited are in the table, after so many turns; those of others that left meanwhile count."""
        self._connections["state"][rows] = INSERTED
        self.n_queued -= n_turns

    def remove(self, rows: np.ndarray) -> None:
        """Connections that are there leave; their places in the groups are free, their turns in the queue are not."""
        self._connections["state"][rows] = ABSENT
        self.groups.give_back(self._connections["groups"][rows])
        self.n_connections -= len(rows)
        self._change_when_empty()

    def clear(self) -> None:
        """All leave."""
        self._connections["state"] = ABSENT
        self.n_connections = self.n_queued = 0
        self._lay_out()

    # --- the pace of insertion ---------------------------------------------------------------------------------------

    def _n_due_now(self, now_ms: int) -> int:
        """How many that come now have their turn within this millisecond."""
        rate = self.settings.insertion_rate
        if self.settings.insertion_latency_ms or now_ms < self._last_due_ms:
            return 0
        if rate is None:
            return _UNLIMITED
        left_ns = (now_ms + 1) * _NS_PER_MS - max(self._free_ns, now_ms * _NS_PER_MS)
        return max(0, -(-left_ns * rate // _NS_PER_S))

    def _turns(self, n: int, now_ms: int) -> np.ndarray:
        """The turns of the next n connections, milliseconds, int64 (n,); none before those of earlier ones."""
        rate = self.settings.insertion_rate
        start_ns = max(self._free_ns, now_ms * _NS_PER_MS)
        work_ns = np.zeros(n + 1, np.int64) if rate is None else np.arange(n + 1) * _NS_PER_S // rate
        self._free_ns = start_ns + int(work_ns[-1])
        turns = (start_ns + work_ns[:-1]) // _NS_PER_MS + self.settings.insertion_latency_ms
        turns = np.maximum(turns, self._last_due_ms)
        if n:
            self._last_due_ms = int(turns[-1])
        return turns

    # --- counters ----------------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, int]:
        """What there is, by name; entries of each pattern that has some as `entries.PATTERN`."""
        entries = self.groups.entries_by_pattern()
        return {
            "connections": self.n_connections,
            "queued": self.n_queued,
            "entries": self.groups.n_entries,
            "groups": self.groups.n_used,
            "peak-connections": self.peak_connections,
            "peak-entries": 2 * self.peak_connections,
            "peak-queued": self.peak_queued,
            **{f"entries.{name}": n for name, n in zip(PATTERNS, entries.tolist(), strict=True) if n},
        }

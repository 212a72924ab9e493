"""What happens to connections, for readers who may be slow: a bounded queue beside the packet path.

The packet path copies the records of a batch's events, all at once, and never waits. What finds the queue full is
counted and left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.memory import reserve
from flowshunt.conntrack.snapshot import connection
from flowshunt.conntrack.states import F_LIVE, F_NAT
from flowshunt.conntrack.table import Tracker

QUEUE_LIMIT = 65_536
"""Events that wait for one reader, unless it says otherwise."""

_KINDS = np.zeros(256, np.uint8)
_NEW, _UPDATE, _DESTROY = 1, 2, 4
_KINDS[C.EVENT_CREATED] = _NEW
_KINDS[[C.EVENT_REPLY, C.EVENT_STATE, C.EVENT_MARK, C.EVENT_LABEL]] = _UPDATE
_KINDS[C.EVENT_DESTROYED] = _DESTROY

NAMES = {"NEW": _NEW, "UPDATES": _UPDATE, "DESTROY": _DESTROY}
"""Kinds of events by the names of conntrack -e."""
_TYPES = {_NEW: "NEW", _UPDATE: "UPDATE", _DESTROY: "DESTROY"}


class Change(NamedTuple):
    """One event: NEW, UPDATE or DESTROY, and the connection as it was. `reason`: why it ended, else None.

    `cause`: what the event was in the tracker's words (schema.EVENT_KINDS).
    """

    kind: str
    cause: str
    time_ms: int
    connection: Connection
    reason: str | None


class _Part(NamedTuple):
    """Events of one drain with copies of their records, those of extensions and of parents."""

    events: np.ndarray
    records: np.ndarray
    exts: np.ndarray
    parents: np.ndarray


class Changes:
    """The events of one reader. `on_events` and `close` belong to the tracker's thread, `take` to the reader's."""

    def __init__(
        self, tracker: Tracker, kinds: int, limit: int = QUEUE_LIMIT, wake: Callable[[], None] | None = None
    ) -> None:
        """Listen from now on. `kinds`: values of NAMES, or-ed. `wake` is called when there is something to take."""
        self._tracker = tracker
        self._kinds = kinds
        self._limit = limit
        self._wake = wake
        self._parts: deque[_Part] = deque()
        self._reading: Iterator[Any] = iter(())
        self._n_put = 0  # written by the tracker's thread alone, the next one by the reader's
        self._n_taken = 0
        self.n_lost = 0
        n_rows = int(tracker.arrays.state["n_fresh"][0])
        self._exts = reserve(np.uint32, len(tracker.arrays.conns))
        self._exts[:n_rows] = tracker.arrays.conns["ext"][:n_rows]
        tracker.observe(self.on_events)

    def __len__(self) -> int:
        """Events that wait."""
        return self._n_put - self._n_taken

    def close(self) -> None:
        """Listen no more."""
        self._tracker.unobserve(self.on_events)

    def on_events(self, events: np.ndarray) -> None:
        """Copy what the events are about."""
        self._note_translations(events["row"])
        events = events[_KINDS[events["kind"]] & self._kinds != 0]
        n = len(events)
        if n == 0:
            return
        room = self._limit - len(self)
        if n > room:
            self.n_lost += n - max(room, 0)
            if room <= 0:
                return
            events = events[:room]
        arrays = self._tracker.arrays
        records = arrays.conns[events["row"]]
        self._find_translations(records, events["row"])
        exts = arrays.exts[np.maximum(records["ext"].astype(np.int64), 1) - 1]
        known = (records["ext"] != 0) & (exts["parent_row"] != C.NO_PARENT)
        parents = records
        if known.any():
            parents = arrays.conns[np.where(known, exts["parent_row"], 0)]
        self._parts.append(_Part(events, records, exts, parents))
        self._n_put += len(events)
        if self._wake is not None:
            self._wake()

    def _note_translations(self, rows: np.ndarray) -> None:
        """Remember the extensions of connections: one that has ended has given its own back."""
        exts = self._tracker.arrays.conns["ext"][rows]
        self._exts[rows[exts != 0]] = exts[exts != 0]

    def _find_translations(self, records: np.ndarray, rows: np.ndarray) -> None:
        """Show the extensions of connections with NAT that have ended, while they are what they were.

        One that another connection has taken meanwhile has neither end in common; without, the reply tuple is the
        original one turned round.
        """
        ended = np.flatnonzero((records["ext"] == 0) & (records["flags"] & F_NAT != 0))
        if not len(ended):
            return
        exts = self._exts[rows[ended]].astype(np.int64)
        found = self._tracker.arrays.exts[np.maximum(exts, 1) - 1]
        ends = records[ended]
        same = (found["source"] == ends["destination"]).all(1) | (found["destination"] == ends["source"]).all(1)
        same &= exts != 0
        records["ext"][ended[same]] = exts[same]
        records["flags"][ended[~same]] &= 0xFF & ~F_NAT

    def take(self, most: int) -> list[Change]:
        """Up to `most` of the events that wait, oldest first."""
        linux = self._tracker.profile == "linux"
        found: list[Change] = []
        while len(found) < most:
            row = next(self._reading, None)
            if row is None:
                if not self._parts:
                    break
                self._reading = zip(*self._parts.popleft(), strict=True)
                continue
            self._n_taken += 1
            found.append(_change(row, linux))
        return found


def _change(parts: tuple[Any, Any, Any, Any], linux: bool) -> Change:
    """An event with its connection; with its tuple alone when the record was used again before it could be copied."""
    event, record, ext, parent = parts
    lives = (int(record["generation"]) - int(event["generation"])) & 0xFFFFFFFF
    if lives > 1 or (lives == 1 and int(record["flags"]) & F_LIVE):
        record = np.zeros((), C.CONNECTION)[()]
        for name in ("source", "destination", "tuple", "mark", "generation", "in_port"):
            record[name] = event[name]
        record["start_ms"] = record["expires_ms"] = event["time_ms"]
    time_ms = int(event["time_ms"])
    one = connection(record, ext, parent, int(event["row"]), time_ms, linux)
    kind, cause = _TYPES[int(_KINDS[event["kind"]])], C.EVENT_KINDS[int(event["kind"])]
    reason = C.REASONS[int(event["reason"])] if kind == "DESTROY" else None
    return Change(kind, cause, time_ms, one, reason)

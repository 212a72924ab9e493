"""The latest steps of all connections, kept as they come: arrays, a batch at a time, the oldest given up for room.

Stories of connections are told from it when somebody asks. What is older than it is not in them; how a connection
stands is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.selection import Selection
from flowshunt.control.stories.stories import Stories, Story

if TYPE_CHECKING:
    from flowshunt.control.stories.paths import Switch

MAX_STEPS_KEPT = 1 << 16
MAX_PATHS_KEPT = 1 << 13
RATE_MS = 10_000
"""Over how long rates are measured."""
_TICK_MS = 1000


class _Steps(NamedTuple):
    kind: str
    rows: np.ndarray
    generations: np.ndarray
    now_ms: int
    provider: str
    reasons: np.ndarray


class _Retold(Stories):
    """Stories of connections that are named beforehand."""

    def __init__(self, switch: Switch, connections: Iterable[Connection]) -> None:
        super().__init__(switch, Selection(), listens=False)
        self._stories = {(one.id, one.generation): Story(one) for one in connections}
        self.rows = np.array(sorted({row for row, _ in self._stories}), np.int64)

    def _meant(self, rows: np.ndarray) -> np.ndarray:
        return np.isin(rows, self.rows)

    def _begin(self, rows: np.ndarray, generations: np.ndarray) -> int:
        return 0


class History:
    """Listens to a switch from the beginning. For the packet thread."""

    def __init__(self, switch: Switch) -> None:
        """`switch`: one that offloads."""
        self._switch = switch
        self._order = 0
        self._steps: deque[tuple[int, _Steps]] = deque()
        self._paths: deque[tuple[int, np.ndarray]] = deque()
        self._n_steps = self._n_paths = 0
        self._samples: deque[tuple[int, dict[str, int]]] = deque()
        switch.offload.observe_paths(self._on_learned)
        switch.offload.keep_journal(self._note)

    def _note(
        self,
        kind: str,
        rows: np.ndarray,
        generations: np.ndarray,
        now_ms: int,
        provider: str,
        reason: np.ndarray | int,
    ) -> None:
        """A step of connections (`offload.caller.Journal`)."""
        if len(rows) == 0:
            return
        reasons = np.broadcast_to(np.asarray(reason, np.uint16), len(rows)).copy()
        step = _Steps(kind, rows.astype(np.int64), generations.astype(np.int64), now_ms, provider, reasons)
        self._steps.append((self._order, step))
        self._order += 1
        self._n_steps += len(rows)
        while self._n_steps > MAX_STEPS_KEPT:
            self._n_steps -= len(self._steps.popleft()[1].rows)

    def _on_learned(self, learned: np.ndarray) -> None:
        """Paths that packets have shown, LEARNED (n,)."""
        if len(learned) == 0:
            return
        self._paths.append((self._order, learned.copy()))
        self._order += 1
        self._n_paths += len(learned)
        while self._n_paths > MAX_PATHS_KEPT:
            self._n_paths -= len(self._paths.popleft()[1])

    def tell(self, connections: Iterable[Connection]) -> Stories:
        """The stories of some connections that live."""
        stories = _Retold(self._switch, connections)
        leaders = self._leaders(stories.rows)
        wanted = np.union1d(stories.rows, leaders)
        entries: list[tuple[int, _Steps | np.ndarray]] = [*self._steps, *self._paths]
        for _, entry in sorted(entries, key=lambda pair: pair[0]):
            if isinstance(entry, _Steps):
                mine = np.isin(entry.rows, wanted)
                if mine.any():
                    stories.note(
                        entry.kind,
                        entry.rows[mine],
                        entry.generations[mine],
                        entry.now_ms,
                        entry.provider,
                        entry.reasons[mine],
                    )
            elif np.isin(entry["rows"], wanted).any():
                stories.on_learned(entry)
        return stories

    def _leaders(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the connections that lead the ways on which these are."""
        found = [np.zeros(0, np.int64)]
        for _, learned in self._paths:
            zones = np.arange(learned["rows"].shape[1]) < learned["n_zones"][:, None]
            on_the_way = (np.isin(learned["rows"], rows) & zones).any(1)
            found.append(learned["rows"][on_the_way, 0].astype(np.int64))
        return np.unique(np.concatenate(found))

    # --- rates -----------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Note, once a second, how many connections each provider has taken."""
        if self._samples and now_ms - self._samples[-1][0] < _TICK_MS:
            return
        self._samples.append((now_ms, dict(self._taken())))
        while len(self._samples) > 2 and now_ms - self._samples[1][0] >= RATE_MS:
            self._samples.popleft()

    def _taken(self) -> Iterator[tuple[str, int]]:
        for provider, counters in self._switch.offload.providers():
            yield provider.name, counters["installed"] or counters["established"]

    def rates(self, now_ms: int) -> dict[str, float]:
        """Connections per second that each provider has taken lately, over RATE_MS at most."""
        if not self._samples:
            return {}
        since_ms, before = self._samples[0]
        seconds = max(now_ms - since_ms, 1) / 1000
        return {name: (taken - before.get(name, taken)) / seconds for name, taken in self._taken()}

"""The latest steps of all connections, kept as they come: arrays, a batch at a time, the oldest given up for room.

Stories of connections are told from it when somebody asks. What is older than it is not in them; how a connection
stands is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.selection import Selection
from flowshunt.control.stories.stories import Stories, Story
from flowshunt.offload.caller import KINDS
from flowshunt.offload.framework import MAX_PROVIDERS

if TYPE_CHECKING:
    from flowshunt.control.stories.paths import Switch

MAX_STEPS_KEPT = 1 << 16
MAX_PATHS_KEPT = 1 << 12
RATE_MS = 10_000
"""Over how long rates are measured."""
_TICK_MS = 1000


STEP = np.dtype(
    [
        ("order", np.int64),
        ("now_ms", np.int64),
        ("row", np.uint32),
        ("generation", np.uint32),
        ("reason", np.uint16),
        ("kind", np.uint8),
        ("provider", np.uint8),
    ],
    align=True,
)
"""A step of one connection. `order`: among all steps and paths, from 1; 0: none. `kind`: in KINDS; `provider`: in the
names that the history has met.
"""


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
        self._steps = np.zeros(MAX_STEPS_KEPT, STEP)
        self._next = 0
        self._providers: list[str] = []
        self._paths: deque[tuple[int, np.ndarray]] = deque()
        self._n_paths = 0
        self._samples: deque[tuple[int, dict[str, int]]] = deque()
        switch.observe_paths(self._on_learned)
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
        """A step of connections (`offload.caller.Journal`); of more than are kept, the last ones."""
        n = min(len(rows), MAX_STEPS_KEPT)
        self._order += 1
        places = (self._next + np.arange(n)) % MAX_STEPS_KEPT
        self._next = (self._next + n) % MAX_STEPS_KEPT
        steps = self._steps
        steps["order"][places] = self._order
        steps["now_ms"][places] = now_ms
        steps["row"][places] = rows[len(rows) - n :]
        steps["generation"][places] = generations[len(rows) - n :]
        steps["reason"][places] = np.broadcast_to(np.asarray(reason, np.uint16), len(rows))[len(rows) - n :]
        steps["kind"][places] = KINDS.index(kind)
        steps["provider"][places] = self._number_of(provider)

    def _number_of(self, provider: str) -> int:
        if provider not in self._providers:
            if len(self._providers) > MAX_PROVIDERS:  # many came and went: begin anew
                self._providers.clear()
                self._steps["order"] = 0
            self._providers.append(provider)
        return self._providers.index(provider)

    def _on_learned(self, learned: np.ndarray) -> None:
        """Paths that packets have shown, LEARNED (n,)."""
        if len(learned) == 0:
            return
        self._order += 1
        self._paths.append((self._order, learned.copy()))
        self._n_paths += len(learned)
        while self._n_paths > MAX_PATHS_KEPT:
            self._n_paths -= len(self._paths.popleft()[1])

    def tell(self, connections: Iterable[Connection]) -> Stories:
        """The stories of some connections that live."""
        stories = _Retold(self._switch, connections)
        leaders = self._leaders(stories.rows)
        wanted = np.union1d(stories.rows, leaders)
        mine = self._steps[np.isin(self._steps["row"], wanted) & (self._steps["order"] > 0)]
        entries: list[tuple[int, np.void | np.ndarray]] = [(int(step["order"]), step) for step in mine]
        entries += [(order, learned) for order, learned in self._paths if np.isin(learned["rows"], wanted).any()]
        for _, entry in sorted(entries, key=lambda pair: pair[0]):
            if isinstance(entry, np.void):
                self._retell(stories, entry)
            else:
                stories.on_learned(entry)
        return stories

    def _retell(self, stories: Stories, step: np.void) -> None:
        rows, generations = (np.array([step[name]], np.int64) for name in ("row", "generation"))
        kind, provider = KINDS[int(step["kind"])], self._providers[int(step["provider"])]
        stories.note(kind, rows, generations, int(step["now_ms"]), provider, int(step["reason"]))

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

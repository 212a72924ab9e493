"""What happens to some connections on their way to a provider, noted while it happens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowshunt.conntrack.connection import Connection
from flowshunt.control.stories.paths import PathText, path_text
from flowshunt.offload import reasons as R

if TYPE_CHECKING:
    from flowshunt.conntrack.selection import Selection
    from flowshunt.control.stories.paths import Switch

MAX_STORIES = 1000
MAX_STEPS = 200
"""Steps of one connection; those after the first half of them are dropped, and the last half is kept."""

_PATHS = ("path-original", "path-reply")

Identity = tuple[int, int]


class Step(NamedTuple):
    """One step: when, what (`offload.caller.KINDS`), with which provider and reason; a path with what it is."""

    time_ms: int
    kind: str
    provider: str = ""
    reason: R.Reason | None = None
    path: PathText | None = None


@dataclass(slots=True)
class Story:
    """One connection: as it was seen last, and its steps. `n_left_out`: steps that were too many to keep."""

    connection: Connection
    steps: list[Step] = field(default_factory=list)
    n_left_out: int = 0
    alive: bool = True

    def tell_path(self, time_ms: int, kind: str, path: PathText) -> None:
        """Say which path the latest step of this kind was about; one that is no news is dropped."""
        places = [place for place, step in enumerate(self.steps) if step.kind == kind]
        open_places = [place for place in places if self.steps[place].path is None]
        told = [place for place in places if self.steps[place].path is not None]
        is_news = not told or self.steps[told[-1]].path != path
        if open_places and is_news:
            self.steps[open_places[0]] = Step(time_ms, kind, path=path)
        for place in reversed(open_places[is_news:]):
            del self.steps[place]
        if is_news and not open_places:
            self.add(Step(time_ms, kind, path=path))

    def add(self, step: Step) -> None:
        """One more step; what stands in the way of both directions is said once."""
        if step.kind == "unfit" and self.steps and self.steps[-1][1:] == step[1:]:
            return
        if len(self.steps) == MAX_STEPS:
            del self.steps[MAX_STEPS // 2]
            self.n_left_out += 1
        self.steps.append(step)


class Stories:
    """Listens to a switch; made before the switch offloads anything, so that paths are heard of before offers.

    Of more than `limit` connections the first ones are kept, and `n_left_out` counts the others.
    """

    def __init__(self, switch: Switch, selection: Selection, limit: int = MAX_STORIES, *, listens: bool = True) -> None:
        self.n_left_out = 0
        self._switch, self._selection, self._limit = switch, selection, limit
        self._stories: dict[Identity, Story] = {}
        self._ended: list[Story] = []
        self._followers: dict[Identity, list[Identity]] = {}
        if listens:
            switch.observe_paths(self.on_learned)
            switch.offload.keep_journal(self.note)

    def __iter__(self) -> Iterator[Story]:
        """By the time of their first step."""
        for story in self._stories.values():
            self._refresh(story)
        return iter(sorted([*self._ended, *self._stories.values()], key=lambda story: story.connection.sort_key))

    # --- listening -------------------------------------------------------------------------------------------------

    def note(
        self,
        kind: str,
        rows: np.ndarray,
        generations: np.ndarray,
        now_ms: int,
        provider: str,
        reason: np.ndarray | int,
    ) -> None:
        """A step of connections, or of those that lead a flow (`offload.caller.Journal`)."""
        if kind == "created":
            self.n_left_out += self._begin(rows, generations)
        if not self._stories:
            return
        reasons = np.broadcast_to(np.asarray(reason), len(rows))
        for row, generation, number in zip(rows.tolist(), generations.tolist(), reasons.tolist(), strict=True):
            identity = (row, generation)
            for each in (identity, *self._followers.get(identity, ())):
                story = self._stories.get(each)
                if story is not None:
                    story.add(Step(now_ms, kind, provider, R.reason(number) if number else None))
            if kind == "destroyed":
                self._end(identity)

    def on_learned(self, learned: np.ndarray) -> None:
        """Paths that packets have shown, LEARNED (n,)."""
        known = np.zeros(len(learned), bool)
        for zone in range(learned["rows"].shape[1]):
            there = np.flatnonzero(learned["n_zones"] > zone)
            known[there] |= self._meant(learned["rows"][there, zone].astype(np.int64))
        for record in learned[known]:
            members = [(int(record["rows"][z]), int(record["generations"][z])) for z in range(int(record["n_zones"]))]
            for place, identity in enumerate(members):
                self._begin(*(np.array([value], np.int64) for value in identity))
                story = self._stories.get(identity)
                if story is None:
                    continue
                if place and identity not in self._followers.setdefault(members[0], []):
                    self._followers[members[0]].append(identity)
                kind = _PATHS[int(record["turned"]) >> place & 1]
                if not record["unfit"]:
                    story.tell_path(int(record["time_ms"]), kind, path_text(record, self._switch))

    def _meant(self, rows: np.ndarray) -> np.ndarray:
        return self._selection.matches(self._switch.tracker.arrays.conns, rows)

    def _begin(self, rows: np.ndarray, generations: np.ndarray) -> int:
        """Stories of those that are meant and have none yet; returns how many there was no room for."""
        n_left_out = 0
        meant = np.flatnonzero(self._meant(rows))
        for row, generation in zip(rows[meant].tolist(), generations[meant].tolist(), strict=True):
            if (row, generation) in self._stories:
                continue
            if len(self._stories) + len(self._ended) >= self._limit:
                n_left_out += 1
                continue
            connection = self._switch.tracker.connection(row, generation)
            if connection is not None:
                self._stories[row, generation] = Story(connection)
        return n_left_out

    def _refresh(self, story: Story) -> None:
        identity = story.connection.id, story.connection.generation
        story.connection = self._switch.tracker.connection(*identity) or story.connection

    def _end(self, identity: Identity) -> None:
        story = self._stories.pop(identity, None)
        self._followers.pop(identity, None)
        if story is not None:
            story.alive = False
            self._ended.append(story)

"""The tracker's events in rounds, so that many connections can be told at once without mixing up any one's life.

Within a round every connection has its events in the order created, reply, due, destroyed; and no connection is created
whose row or tuple belonged to another that ends in the same round. So a round is at most four calls of a provider.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flowshunt.conntrack.schema import EVENT_CREATED, EVENT_DESTROYED, EVENT_DUE, EVENT_REPLY

MAX_ROUNDS = 8
"""More are never made of one array. A connection that comes and goes within it, and would need them, is left out."""

_KINDS = (EVENT_CREATED, EVENT_REPLY, EVENT_DUE, EVENT_DESTROYED)


class Round(NamedTuple):
    """EVENT arrays; `replies` and `due` hold each connection once."""

    created: np.ndarray
    replies: np.ndarray
    due: np.ndarray
    destroyed: np.ndarray


def rounds(events: np.ndarray) -> Iterator[Round]:
    """Cut drained events, EVENT (n,), into rounds; kinds that concern no provider are left out."""
    kinds = events["kind"]
    concerns = np.isin(kinds, _KINDS)
    if not concerns.all():
        events, kinds = events[concerns], kinds[concerns]
    if len(events) == 0:
        return
    created, destroyed = np.flatnonzero(kinds == EVENT_CREATED), np.flatnonzero(kinds == EVENT_DESTROYED)
    if len(created) == 0 or len(destroyed) == 0 or created[-1] < destroyed[0]:
        yield _round(events)
        return
    levels = _levels(events)
    for level in range(int(levels.max()) + 1):
        yield _round(events[levels == level])


def n_left_out(events: np.ndarray, told: int) -> int:
    """How many of the events that concern providers did not get into `told` ones."""
    return int(np.isin(events["kind"], _KINDS).sum()) - told


def _round(events: np.ndarray) -> Round:
    created, replies, due, destroyed = (events[events["kind"] == kind] for kind in _KINDS)
    return Round(created, _once(replies), _once(due), destroyed)


def _once(events: np.ndarray) -> np.ndarray:
    """The first event of each row; within a round a row is one connection."""
    if len(events) < 2:
        return events
    _, first = np.unique(events["row"], return_index=True)
    return events if len(first) == len(events) else events[np.sort(first)]


def _levels(events: np.ndarray) -> np.ndarray:
    """The round of each event, -1 for those left out."""
    free_from: dict[object, int] = {}  # row or tuple: the round from which on another may have it
    living: dict[int, tuple[int, int]] = {}  # row: round, place of its creation
    levels: list[int] = []
    brief: set[int] = set()  # places of creations whose connection ended in these events
    owner: list[int] = []  # place of the creation that each event belongs to
    columns = [events[name].tolist() for name in ("kind", "row", "tuple", "source", "destination")]
    for place, (kind, row, word, source, destination) in enumerate(zip(*columns, strict=True)):
        identity = (word, *source, *destination)
        if kind == EVENT_CREATED:
            level = max(free_from.get(row, 0), free_from.get(identity, 0))
            living[row] = level, place
        level, creation = living.get(row, (0, -1))
        if kind == EVENT_DESTROYED:
            living.pop(row, None)
            free_from[row] = free_from[identity] = level + 1
            if creation >= 0:
                brief.add(creation)
        levels.append(level)
        owner.append(creation)
    found, late = np.array(levels), MAX_ROUNDS - 1
    left_out = np.array([creation in brief for creation in owner]) & (found >= late)
    return np.where(left_out, -1, np.minimum(found, late))

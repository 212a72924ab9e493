"""The tracker's events in rounds, so that many connections can be told at once without mixing up any one's life.

Within a round every connection has its events in the order created, reply, due, destroyed; and no connection is created
whose row or tuple belonged to another that ends in the same round. So a round is at most four calls of a provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flowshunt.base.picking import pick
from flowshunt.conntrack.schema import EVENT_CREATED, EVENT_DESTROYED, EVENT_DUE, EVENT_REPLY
from flowshunt.offload.kernels.telling import count_kinds

MAX_ROUNDS = 8
"""More are never made of one array. A connection that comes and goes within it, and would need them, is left out."""

_KINDS = (EVENT_CREATED, EVENT_REPLY, EVENT_DUE, EVENT_DESTROYED)
_CONCERNS = np.zeros(256, bool)
_CONCERNS[list(_KINDS)] = True


class Round(NamedTuple):
    """EVENT arrays."""

    created: np.ndarray
    replies: np.ndarray
    due: np.ndarray
    destroyed: np.ndarray


def rounds(events: np.ndarray) -> tuple[list[Round], int]:
    """Cut drained events, EVENT (n,), into rounds; kinds that concern no provider are dropped.

    Returns the rounds, and how many events were left out for being beyond MAX_ROUNDS.
    """
    *counts, n_others, begins_again = count_kinds(events)
    if n_others == len(events):
        return [], 0
    if not begins_again:
        return [_round(events, counts)], 0
    if n_others:
        events = pick(events, _CONCERNS[events["kind"]])
    levels = _levels(events)
    found = []
    for level in range(int(levels.max()) + 1):
        part = some(events, levels == level)
        found.append(_round(part, count_kinds(part)[: len(_KINDS)]))
    return found, int((levels < 0).sum())


def _round(events: np.ndarray, counts: Sequence[int]) -> Round:
    return Round(*(_of_kind(events, kind, n) for kind, n in zip(_KINDS, counts, strict=True)))


def _of_kind(events: np.ndarray, kind: int, n: int) -> np.ndarray:
    return events[:n] if n in (0, len(events)) else some(events, events["kind"] == kind)


def some(events: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Some of EVENT (n,), by bool (n,); read-only like those that the tracker drains."""
    picked = pick(events, which)
    picked.flags.writeable = False
    return picked


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

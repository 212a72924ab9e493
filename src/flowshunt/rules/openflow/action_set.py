"""Action sets: what becomes of actions whose order is not the user's.

OpenFlow 1.1 and later have packets carry such a set, which tables write to, and have the buckets of groups be such sets
(OpenFlow 1.3, sections 5.10 and 5.12). What remains of a list, and in which order, is as in Open vSwitch.
"""

from __future__ import annotations

from typing import NamedTuple

from flowshunt.rules.openflow import flow as F

_ONCE = (F.PopVlan, F.PushVlan, F.DecTtl)
"""Carried out first, in this order; of several of a kind the last one counts."""
_IN_ORDER = (F.SetField, F.Move, F.SetQueue)
"""Carried out next, all of them, as they stand."""
_OUTPUTS = (F.Output, F.Normal, F.Flood, F.All, F.InPort, F.Local, F.ToTable, F.Controller)
_FINAL = ((F.Ct,), (F.CtClear,), (F.Resubmit,), _OUTPUTS, (F.Group,))
"""Of these only one is carried out, at the end: the last one of the highest kind, and kinds rise."""


class SetParts(NamedTuple):
    """A set by its parts, in the order in which they are carried out.

    `once`: for each kind of _ONCE the action that counts, if there is one. `last`: what says where the packet goes, of
    this `rank` (-1: there is none, and nothing is carried out).
    """

    once: tuple[F.Action | None, ...]
    changes: tuple[F.Action, ...]
    last: F.Action | None
    rank: int


def parts_of(actions: tuple[F.Action, ...]) -> SetParts:
    """The parts of a set that a list was written to. Actions that have no place in sets do nothing."""
    rank, place = max(((_rank(action), place) for place, action in enumerate(actions)), default=(-1, -1))
    once = [[action for action in actions if isinstance(action, kind)][-1:] for kind in _ONCE]
    return SetParts(
        tuple(found[0] if found else None for found in once),
        tuple(action for action in actions if isinstance(action, _IN_ORDER)),
        actions[place] if rank >= 0 else None,
        rank,
    )


def action_set(actions: tuple[F.Action, ...]) -> tuple[F.Action, ...]:
    """The list that does what a set does."""
    once, changes, last, _ = parts_of(actions)
    return () if last is None else (*(action for action in once if action is not None), *changes, last)


def has_place(action: F.Action) -> bool:
    """Whether an action can stand in a set."""
    if isinstance(action, F.SetQueue):
        return action.queue is not None
    return isinstance(action, _ONCE + _IN_ORDER) or _rank(action) >= 0


def _rank(action: F.Action) -> int:
    """How an action stands among those that end a set; -1 for others."""
    if isinstance(action, F.Output) and not isinstance(action.port, int):
        return -1
    if isinstance(action, F.Controller) and action != F.Controller(max_len=action.max_len):
        return -1
    return next((rank for rank, kinds in enumerate(_FINAL) if isinstance(action, kinds)), -1)

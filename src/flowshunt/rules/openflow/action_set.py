"""Action sets: what becomes of a list of actions whose order is not the user's.

OpenFlow 1.1 and later have the buckets of groups be such sets (OpenFlow 1.3, sections 5.10 and 5.12). What remains of a
list, and in which order, is as in Open vSwitch.
"""

from __future__ import annotations

from flowshunt.rules.openflow import flow as F

_ONCE = (F.PopVlan, F.PushVlan, F.DecTtl)
"""Carried out first, in this order; of several of a kind the last one counts."""
_IN_ORDER = (F.SetField, F.Move, F.SetQueue)
"""Carried out next, all of them, as they stand."""
_OUTPUTS = (F.Output, F.Normal, F.Flood, F.All, F.InPort, F.Local, F.ToTable, F.Controller)
_FINAL = ((F.Ct,), (F.CtClear,), (F.Resubmit,), _OUTPUTS, (F.Group,))
"""Of these only one is carried out, at the end: the last one of the highest kind, and kinds rise."""


def action_set(actions: tuple[F.Action, ...]) -> tuple[F.Action, ...]:
    """The list that does what a set does.

    Actions that have no place in sets do nothing, and neither does a set in which nothing says where the packet goes.
    """
    final = max(
        ((_rank(action), place) for place, action in enumerate(actions) if _rank(action) >= 0), default=(-1, -1)
    )[1]
    if final < 0:
        return ()
    once = [action for kind in _ONCE for action in [a for a in actions if isinstance(a, kind)][-1:]]
    return (*once, *(action for action in actions if isinstance(action, _IN_ORDER)), actions[final])


def _rank(action: F.Action) -> int:
    """How an action stands among those that end a set; -1 for others."""
    if isinstance(action, F.Output) and not isinstance(action.port, int):
        return -1
    if isinstance(action, F.Controller) and action != F.Controller(max_len=action.max_len):
        return -1
    return next((rank for rank, kinds in enumerate(_FINAL) if isinstance(action, kinds)), -1)

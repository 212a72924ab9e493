"""Lists of actions, read and written: bytes to the values of `rules.openflow.flow`, and back.

Reading: `action_reader` has lists and OpenFlow's own actions, `nicira`, `ct`, `learning` and `links` those of Nicira.
Writing: `action_writer`.
"""

from __future__ import annotations

from functools import lru_cache

from flowshunt.control.openflow import ct, learning, links, nicira
from flowshunt.control.openflow.action_reader import EXPERIMENTERS, ActionReader, Actions
from flowshunt.control.openflow.action_writer import encode_actions
from flowshunt.control.openflow.wire import NX
from flowshunt.rules.openflow.match import Facts

EXPERIMENTERS[NX] = {**nicira.ROWS, **ct.ROWS, **learning.ROWS, **links.ROWS}

_CACHED_SIZE = 512
"""Longer lists are read anew each time, so that the cache stays small."""


def decode_actions(data: bytes, version: int, facts: Facts | None) -> Actions:
    """The list of actions that `data` is, for a flow whose match says `facts` (None: not checked).

    Raises OpenFlowError with OFPBAC_* or NXBAC_*.
    """
    if len(data) <= _CACHED_SIZE:
        return _decode_short(data, version, facts)
    return ActionReader(version, facts).list_of(data, 0, len(data))


@lru_cache(maxsize=8192)
def _decode_short(data: bytes, version: int, facts: Facts | None) -> Actions:
    return ActionReader(version, facts).list_of(data, 0, len(data))


__all__ = ["Actions", "decode_actions", "encode_actions"]

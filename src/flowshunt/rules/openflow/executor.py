"""Actions that Python carries out while their packet waits, and what they tell controllers.

Compiled programs punt a packet for them (`datapath.punts`) with the action and the flow that it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from flowshunt.datapath.program import PUNT_ACTION
from flowshunt.datapath.punts import Punt
from flowshunt.datapath.schema import OUTSIDE_TABLE
from flowshunt.datapath.tables import Datapath
from flowshunt.packet.schema import ETH_IPV6, FIELDS
from flowshunt.rules.openflow import flow as F

Triples = tuple[tuple[str, int, int], ...]

NO_COOKIE = (1 << 64) - 1
"""The cookie of actions that belong to no flow."""
REASON_MISS, REASON_ACTION, REASON_GROUP, REASON_PACKET_OUT = 0, 1, 4, 5

_WORD = (1 << 64) - 1
_PIPELINE = ("ct_state", "ct_zone", "ct_mark", "ct_label", *(f"reg{n}" for n in range(16)), "metadata")
_TUPLE_4 = ("ct_nw_src", "ct_nw_dst", "ct_nw_proto", "ct_tp_src", "ct_tp_dst")
_TUPLE_6 = ("ct_ipv6_src", "ct_ipv6_dst", "ct_nw_proto", "ct_tp_src", "ct_tp_dst")


class ToController(NamedTuple):
    """A packet for controllers. `frame`: with all changes so far; `metadata`: fields of the pipeline, as a match.

    `action` says which controllers get it and why. `is_miss`: by a flow for what no other flow matches, or (`table` 0,
    without a flow) because there was none at all. `continuation`: what lets a paused packet go on.
    """

    action: F.Controller
    frame: bytes
    table: int
    cookie: int
    metadata: Triples
    is_miss: bool = False
    continuation: bytes = b""


def read_field(key: Any, name: str) -> int:
    """The value of a field in a flow key."""
    place = FIELDS[name]
    if place.width > 64:
        return (int(key[place.word]) & _WORD) << 64 | int(key[place.word + 1]) & _WORD
    return int(key[place.word]) >> place.shift & ((1 << place.width) - 1)


def metadata_of(key: Any) -> Triples:
    """The fields of the pipeline that say something, and the port, in order of name as matches are."""
    names = [name for name in _PIPELINE if read_field(key, name)]
    if read_field(key, "ct_nw_proto"):
        names += ("eth_type", *(_TUPLE_6 if read_field(key, "eth_type") == ETH_IPV6 else _TUPLE_4))
    triples = [(name, read_field(key, name), (1 << FIELDS[name].width) - 1) for name in (*names, "in_port")]
    return tuple(sorted(triples))


class Executor:
    """Carries out actions of punted packets. `to_controllers` gets packets for controllers, where it is set."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self.to_controllers: Callable[[ToController], None] | None = None
        datapath.handle_punts(PUNT_ACTION, self)

    def __call__(self, punt: Punt) -> None:
        """Carry out the action that a packet was punted for."""
        handled = self._datapath.rules.linker.handled(punt.argument)
        if handled is not None:
            _HANDLERS[type(handled.action)](self, punt, handled.action, handled.flow)

    def _controller(self, punt: Punt, action: F.Controller, flow: F.Flow) -> None:
        outside, in_group = flow.table == OUTSIDE_TABLE, flow.table == F.ALL_TABLES
        if self.to_controllers is not None:
            is_miss = (
                not (outside or in_group) and not flow.priority and not flow.match and action.reason == REASON_ACTION
            )
            if action.reason == REASON_ACTION and (outside or in_group):
                action = replace(action, reason=REASON_PACKET_OUT if outside else REASON_GROUP)
            self.to_controllers(
                ToController(
                    action,
                    punt.frame_now,
                    0 if outside else punt.table,
                    NO_COOKIE if outside or in_group else flow.cookie,
                    metadata_of(punt.key),
                    is_miss,
                )
            )
        if action.pause:
            punt.halt()


_HANDLERS: Mapping[type, Callable[[Executor, Punt, Any, F.Flow], None]] = {F.Controller: Executor._controller}

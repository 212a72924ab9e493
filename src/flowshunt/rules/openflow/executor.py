"""Actions that Python carries out while their packet waits, and what they tell controllers.

Compiled programs punt a packet for them (`datapath.punts`) with the action and the flow that it belongs to.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from flowshunt.base.errors import UsageError
from flowshunt.base.log import logger
from flowshunt.datapath.freezing import Frozen
from flowshunt.datapath.program import PUNT_ACTION, Assembler, CompiledRule, Handled, as_int64
from flowshunt.datapath.punts import Punt
from flowshunt.datapath.schema import DROP_MISSES, OUTSIDE_TABLE
from flowshunt.datapath.tables import Datapath
from flowshunt.packet.schema import ETH_IPV6, FIELDS
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.learning import learned_flow

_LOG = logger(__name__)

Triples = tuple[tuple[str, int, int], ...]

NO_COOKIE = (1 << 64) - 1
"""The cookie of actions that belong to no flow."""
MAX_PAUSED = 256
"""Packets that may wait for a controller; with more, the oldest are given up."""
MAX_PAUSE_MS = 60_000
"""How long one may. While a packet waits, what its flow refers to stays, although the flow may be gone long since."""

MISSES = ("controller", "continue", "drop")
"""What may become of a packet that a table has no flow for, by OpenFlow 1.1's numbers."""

REASON_MISS, REASON_ACTION, REASON_INVALID_TTL, REASON_GROUP, REASON_PACKET_OUT = 0, 1, 2, 4, 5

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
    """The fields of the pipeline that say something, and the port, in order of name as matches are.

    Where the state says something, so does the type of the packet, by which the rest of it is read.
    """
    names = [name for name in _PIPELINE if read_field(key, name)]
    if read_field(key, "ct_state"):
        names.append("eth_type")
    if read_field(key, "ct_nw_proto"):
        names += _TUPLE_6 if read_field(key, "eth_type") == ETH_IPV6 else _TUPLE_4
    triples = [(name, read_field(key, name), (1 << FIELDS[name].width) - 1) for name in (*names, "in_port")]
    return tuple(sorted(triples))


class Executor:
    """Carries out actions of punted packets. `to_controllers` gets packets for controllers, where it is set."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self.to_controllers: Callable[[ToController], None] | None = None
        self.n_not_learned = 0
        self.n_given_up = 0
        self._paused: dict[bytes, tuple[int, Frozen]] = {}
        self._next_token = secrets.randbits(62)
        self._programs: dict[int, int] = {}
        self._ways_on: dict[int, int] = {}
        self._pending: dict[tuple[int, int], int] = {}
        self._doomed: set[tuple[int, int]] = set()
        datapath.rules.linker.on_released = self._released
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
            for frame in punt.finished_frames:
                self.to_controllers(
                    ToController(
                        action,
                        frame,
                        0 if outside else punt.table,
                        NO_COOKIE if outside or in_group else flow.cookie,
                        metadata_of(punt.key),
                        is_miss,
                        self._pause(_now_ms(punt)) if action.pause else b"",
                    )
                )
        if action.pause:
            punt.halt()

    # --- packets that pause ----------------------------------------------------------------------------------------

    def _pause(self, now_ms: int) -> bytes:
        """Keep the packet; returns the number by which a controller lets it go on. The oldest goes when many wait."""
        if len(self._paused) >= MAX_PAUSED:
            self._give_up_oldest()
        token = self._next_token.to_bytes(8, "big")
        self._next_token += 1
        self._paused[token] = now_ms, self._datapath.freeze()
        return token

    def _give_up_oldest(self) -> None:
        self._datapath.forget(self._paused.pop(next(iter(self._paused)))[1])
        self.n_given_up += 1

    def give_up(self, now_ms: int) -> None:
        """Give up the packets that have waited for MAX_PAUSE_MS."""
        while self._paused and now_ms - next(iter(self._paused.values()))[0] >= MAX_PAUSE_MS:
            self._give_up_oldest()

    def take_paused(self, token: bytes) -> Frozen | None:
        """The packet that waits under a number, which is void then; the caller resumes it. None: there is none."""
        found = self._paused.pop(token, None)
        return None if found is None else found[1]

    def send_misses(self, wanted: bool) -> None:
        """Let packets that the first table has no flow for go to controllers, or be dropped."""
        self._send("miss", REASON_MISS, wanted)

    def send_ttl_over(self, wanted: bool) -> None:
        """Let packets whose TTL cannot be decremented go to controllers, or be dropped."""
        self._send("ttl_over", REASON_INVALID_TTL, wanted)

    def _send(self, place: str, reason: int, wanted: bool) -> None:
        """Put a program that tells controllers in a place of the tables' state, or take it away."""
        rules = self._datapath.rules
        state = rules.arrays.state
        if bool(state[place][0]) != wanted:
            state[place] = self._program(reason) if wanted else 0
            rules.version += 1

    def set_miss(self, table: int, miss: str | None) -> None:
        """What becomes of packets that a table has no flow for.

        One of `MISSES`, where "continue" looks into the next table, and leads to controllers behind the last one. None:
        as `send_misses` says for the first table, and dropped in others.
        """
        rules = self._datapath.rules
        places = rules.arrays.state["misses"][0]
        if miss is None:
            places[table] = 0
        elif miss == "drop":
            places[table] = DROP_MISSES
        else:
            leads_on = miss == "continue" and table + 1 < OUTSIDE_TABLE
            places[table] = self._way_on(table + 1) if leads_on else self._program(REASON_MISS)
        rules.version += 1

    def _way_on(self, table: int) -> int:
        """The pool offset of a program that leads to a table; made once."""
        if table not in self._ways_on:
            out = Assembler()
            out.goto(table)
            self._ways_on[table] = self._datapath.rules.store(out.finish())
        return self._ways_on[table]

    def _program(self, reason: int) -> int:
        """The pool offset of a program that tells controllers and ends; made once."""
        rules = self._datapath.rules
        if reason not in self._programs:
            out = Assembler()
            out.handled(Handled(F.Controller(reason=reason), F.Flow()))
            words, _ = rules.linker.link(out.finish(), out.late)
            self._programs[reason] = rules.store(words)
        return self._programs[reason]

    # --- learning --------------------------------------------------------------------------------------------------

    def _learn(self, punt: Punt, action: F.Learn, flow: F.Flow) -> None:
        """The flow is made of the packet as it is now, and is there for the next packet."""
        learned = learned_flow(action, lambda part: read_field(punt.key, part.field) >> part.start & _ones(part.width))
        now_ms = _now_ms(punt)
        rule = self._datapath.compile(learned)
        fits = self._datapath.rules.find(rule) is not None or not action.limit or self._n_learned(action) < action.limit
        if action.result is not None:
            _write_bit(punt.key, action.result, fits)
        if fits:
            self._pending[learned.table, learned.cookie] = self._pending.get((learned.table, learned.cookie), 0) + 1
            self._datapath.after_packet.append(lambda: self._add_learned(rule, now_ms))

    def _n_learned(self, action: F.Learn) -> int:
        """Flows with the table and cookie of a learn action, those that are about to be added included."""
        request = F.Flow(table=action.table, cookie=action.cookie, cookie_mask=NO_COOKIE)
        there = len(self._datapath.selected_rules(request))
        return there + self._pending.get((action.table, action.cookie), 0)

    def _add_learned(self, rule: CompiledRule, now_ms: int) -> None:
        """Add a learned flow; one that is there already begins its hard timeout anew, and goes on counting."""
        self._pending.clear()
        rules = self._datapath.rules
        number = rules.find(rule)
        try:
            if number is None:
                rules.add((rule,), now_ms)
            elif rules.rule(number).source == rule.source:
                rules.touch(number, now_ms)
            else:
                rules.change(number, rule, now_ms)
        except UsageError as problem:
            self.n_not_learned += 1
            _LOG.debug("a flow could not be learned: %s", problem)

    def _fin_timeout(self, punt: Punt, action: F.FinTimeout, flow: F.Flow) -> None:
        """Shorten the timeouts of the flow that the packet met, once it has passed."""
        rule = self._datapath.compile(flow)
        now_ms = _now_ms(punt)
        self._datapath.after_packet.append(lambda: self._shorten(rule, action, now_ms))

    def _shorten(self, rule: CompiledRule, action: F.FinTimeout, now_ms: int) -> None:
        rules = self._datapath.rules
        number = rules.find(rule)
        if number is None:
            return
        flow = rules.rule(number).source
        idle = _shorter(flow.idle_timeout, action.idle_timeout)
        hard = _shorter(flow.hard_timeout, action.hard_timeout)
        if (idle, hard) != (flow.idle_timeout, flow.hard_timeout):
            rules.retime(number, replace(flow, idle_timeout=idle, hard_timeout=hard), 1000 * idle, 1000 * hard)

    # --- learned flows that go with those that taught them ---------------------------------------------------------

    def _released(self, handled: Handled) -> None:
        action = handled.action
        if isinstance(action, F.Learn) and action.delete_learned:
            self._doomed.add((action.table, action.cookie))

    def tidy(self) -> None:
        """Delete the flows that no flow teaches any more where learn said so; call it after changes of flows."""
        while self._doomed:
            table, cookie = self._doomed.pop()
            actions = self._datapath.rules.linker.handled_actions()
            teaching = (action for action in actions if isinstance(action, F.Learn) and action.delete_learned)
            if not any((action.table, action.cookie) == (table, cookie) for action in teaching):
                self._datapath.delete_flows(F.Flow(table=table, cookie=cookie, cookie_mask=NO_COOKIE))


def _now_ms(punt: Punt) -> int:
    return int(punt.own.packets["time_ns"][0]) // 1_000_000


def _ones(width: int) -> int:
    return (1 << width) - 1


def _shorter(timeout: int, limit: int) -> int:
    """A timeout that is at most `limit`, where there is one; 0 is none of both."""
    return limit if limit and (not timeout or timeout > limit) else timeout


def _write_bit(key: Any, part: F.Subfield, value: bool) -> None:
    place = FIELDS[part.field]
    at = part.start + place.shift
    word = place.word if place.width <= 64 or part.start >= 64 else place.word + 1
    mask = 1 << (at & 63)
    key[word] = as_int64((int(key[word]) & _WORD & ~mask) | (mask if value else 0))


_HANDLERS: Mapping[type, Callable[[Executor, Punt, Any, F.Flow], None]] = {
    F.Controller: Executor._controller,
    F.Learn: Executor._learn,
    F.FinTimeout: Executor._fin_timeout,
}

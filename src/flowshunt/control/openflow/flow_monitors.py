"""Monitors of flow tables: which connections want to know of which flows, and what they are told.

Changes that a request makes are told together when it is done; what a bundle changed and took back is not told. A
connection that does not read what it is told is *paused*: from then on it is told only of flows that it knew and that
are gone; what came or changed in the meantime follows when it reads again. That is how Open vSwitch does it
(nicira-ext.h, "Flow monitoring"), and it bounds what waits by the number of flows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flowshunt.base.errors import UsageError
from flowshunt.control.openflow.changes import GROUP_DELETED, METER_DELETED
from flowshunt.control.openflow.connection import Connection
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.flow_removed import (
    REASON_DELETE,
    REASON_GROUP_DELETE,
    REASON_HARD,
    REASON_IDLE,
    REASON_METER_DELETE,
)
from flowshunt.control.openflow.monitor import FlowUpdate, Monitor, MonitorPause, MonitorReply
from flowshunt.datapath.listing import ADDED, DELETED, EXPIRED_HARD, EXPIRED_IDLE
from flowshunt.datapath.program import CompiledRule
from flowshunt.datapath.rules import MAX_PRIORITY, Rules
from flowshunt.datapath.schema import ALL_TABLES
from flowshunt.rules.openflow.compile import FlowCompiler
from flowshunt.rules.openflow.flow import Flow

MAX_MONITORS = 256
"""Monitors of one connection."""
MAX_UNREAD = 1 << 17
"""Bytes of updates that may wait to be sent to a connection before it is paused."""

_COMMANDS = {ADDED: "add", DELETED: "delete"}
_REASONS = {
    "": REASON_DELETE,
    EXPIRED_IDLE: REASON_IDLE,
    EXPIRED_HARD: REASON_HARD,
    GROUP_DELETED: REASON_GROUP_DELETE,
    METER_DELETED: REASON_METER_DELETE,
}
_IN_FULL = frozenset(("own", "no_abbreviation"))


class _Watched(NamedTuple):
    """A monitor, and what it selects by."""

    monitor: Monitor
    selection: CompiledRule

    def covers(self, rule: CompiledRule, flow: Flow) -> bool:
        """Whether the monitor selects a rule, with the actions of `flow`."""
        if self.selection.table not in (ALL_TABLES, rule.table) or rule.priority > MAX_PRIORITY:
            return False
        words = {word: (mask, value) for word, mask, value in rule.match}
        for word, mask, value in self.selection.match:
            known, has = words.get(word, (0, 0))
            if known & mask != mask or has & mask != value:
                return False
        return _COMPILER.is_selected(flow, self.monitor.selection)


_COMPILER = FlowCompiler()


class _Missed(NamedTuple):
    """What first happened to a rule while its monitor was paused. `is_new`: the monitor does not know the rule."""

    event: str
    is_new: bool
    rule: CompiledRule


class _Change(NamedTuple):
    """A change as `Rules.on_change` tells it."""

    event: str
    rule: CompiledRule
    before: Flow | None
    why: str


_Key = tuple[int, int, tuple[tuple[int, int, int], ...]]


def _key(rule: CompiledRule) -> _Key:
    """By what a flow is known."""
    return rule.table, rule.priority, rule.match


class _Listener:
    """A connection with monitors. `missed`: what happened to which flows while it is paused; None: it is not."""

    def __init__(self) -> None:
        self.monitors: dict[int, _Watched] = {}
        self.updates: list[FlowUpdate] = []
        self.is_abbreviated = False
        self.missed: dict[_Key, _Missed] | None = None

    def flags_for(self, event: str, rule: CompiledRule, before: Flow | None) -> frozenset[str]:
        """The flags of all monitors that want to be told of a change; none: nobody does."""
        wanted: frozenset[str] = frozenset()
        command = _COMMANDS.get(event, "modify")
        for watched in self.monitors.values():
            if command in watched.monitor.flags and (
                watched.covers(rule, rule.source) or (before is not None and watched.covers(rule, before))
            ):
                wanted |= watched.monitor.flags
        return wanted


class FlowMonitors:
    """The monitors of one bridge's connections. It hears of changes from the rules, as long as there are any."""

    def __init__(self, rules: Rules, call: Callable[[], None]) -> None:
        """`call` has somebody send what is told outside of requests."""
        self._rules = rules
        self._call = call
        self._listeners: dict[Connection, _Listener] = {}
        self._own: tuple[Connection, int] | None = None
        self._changes: list[_Change] = []  # of the request that is being carried out

    # --- requests --------------------------------------------------------------------------------------------------

    def change(self, connection: Connection, monitors: tuple[Monitor, ...]) -> MonitorReply:
        """Add, change or delete monitors; returns what those that want it are told at first.

        Raises OpenFlowError, and nothing has changed then.
        """
        listener = self._listeners.get(connection) or _Listener()
        found = dict(listener.monitors)
        fresh = []
        for monitor in monitors:
            known = monitor.id in found
            if monitor.command == "add" and known:
                raise OpenFlowError("OFPMOFC_MONITOR_EXISTS", f"there is a monitor {monitor.id}")
            if monitor.command != "add" and not known:
                raise OpenFlowError("OFPMOFC_UNKNOWN_MONITOR", f"there is no monitor {monitor.id}")
            if monitor.command == "delete":
                del found[monitor.id]
                continue
            try:
                found[monitor.id] = watched = _Watched(monitor, _COMPILER.compile_selection(monitor.selection))
            except UsageError as problem:
                raise OpenFlowError("OFPBRC_BAD_TABLE_ID", str(problem)) from None
            if monitor.command == "add":
                fresh.append(watched)
        if len(found) > MAX_MONITORS:
            raise OpenFlowError("OFPBRC_EPERM", f"at most {MAX_MONITORS} monitors")
        listener.monitors = found
        if found:
            self._listeners[connection] = listener
        else:
            self._listeners.pop(connection, None)
        self._listen()
        return MonitorReply(self._initial(fresh))

    def cancel(self, connection: Connection, number: int) -> None:
        """Delete one monitor. Raises OpenFlowError when there is none."""
        self.change(connection, (Monitor(number, Flow(), frozenset(), "delete"),))

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._listeners.pop(connection, None)
        self._listen()

    def _listen(self) -> None:
        self._rules.on_change = self._changed if self._listeners else None

    def _initial(self, watched: list[_Watched]) -> list[FlowUpdate]:
        """What there is of the flows that monitors select, each once."""
        flags: dict[int, frozenset[str]] = {}
        for each in watched:
            if "initial" in each.monitor.flags:
                for number in self._rules.select(each.selection):
                    rule = self._rules.rule(number)
                    if _COMPILER.is_selected(rule.source, each.monitor.selection):
                        flags[number] = flags.get(number, frozenset()) | each.monitor.flags
        return [
            FlowUpdate("initial", self._rules.rule(number).source, actions="actions" in flags[number])
            for number in self._rules.in_order(flags)
        ]

    # --- changes ---------------------------------------------------------------------------------------------------

    def begin(self, connection: Connection, xid: int) -> None:
        """What changes from now on, a request of this connection does."""
        self._own = connection, xid

    def discard(self) -> None:
        """What has changed since `begin` was taken back."""
        self._changes.clear()

    def end(self) -> None:
        """The request is done: tell what changed."""
        changed, self._changes = self._changes, []
        for connection, listener in self._listeners.items():
            for change in changed:
                self._note(connection, listener, *change)
            self._tell(connection, listener)
        self._own = None

    def _tell(self, connection: Connection, listener: _Listener) -> None:
        updates, listener.updates, listener.is_abbreviated = listener.updates, [], False
        if updates:
            connection.notify(MonitorReply(updates))
        if listener.missed is None and (connection.congested or connection.n_unsent > MAX_UNREAD):
            listener.missed = {}
            connection.paused = True
            connection.notify(MonitorPause(True))

    def _changed(self, event: str, rule: CompiledRule, before: Flow | None, why: str) -> None:
        """A rule came, went or changed; `before` is what it was then."""
        if self._own is not None:
            self._changes.append(_Change(event, rule, before, why))
            return
        for connection, listener in self._listeners.items():
            self._note(connection, listener, event, rule, before, why)
            if listener.updates:
                self._tell(connection, listener)
                self._call()

    def _note(
        self, connection: Connection, listener: _Listener, event: str, rule: CompiledRule, before: Flow | None, why: str
    ) -> None:
        """What a listener is to be told of a change, or will be when it reads again."""
        flags = listener.flags_for(event, rule, before)
        if not flags:
            return
        if listener.missed is not None:
            if event != DELETED:
                listener.missed.setdefault(_key(rule), _Missed(event, event == ADDED and before is None, rule))
                return
            first = listener.missed.pop(_key(rule), None)
            if first is not None and first.is_new:
                return
        elif self._own is not None and connection is self._own[0] and not flags & _IN_FULL:
            if not listener.is_abbreviated:
                listener.is_abbreviated = True
                listener.updates.append(FlowUpdate("abbreviated", None, xid=self._own[1]))
            return
        reason = _REASONS[why] if event == DELETED else 0
        listener.updates.append(FlowUpdate(event, rule.source, reason, actions="actions" in flags))

    def resume(self, connection: Connection) -> None:
        """The connection reads again: tell it what it missed."""
        listener = self._listeners.get(connection)
        if listener is None or listener.missed is None or connection.congested:
            return
        missed, listener.missed = listener.missed, None
        connection.paused = False
        updates = []
        numbers = [self._rules.find(first.rule) for first in missed.values()]
        for number in self._rules.in_order([number for number in numbers if number is not None]):
            rule = self._rules.rule(number)
            event = missed[_key(rule)].event
            flags = listener.flags_for(event, rule, None)
            if flags:
                updates.append(FlowUpdate(event, rule.source, actions="actions" in flags))
        if updates:
            connection.notify(MonitorReply(updates))
        connection.notify(MonitorPause(False))

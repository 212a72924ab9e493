"""What a switch answers: the requests of all OpenFlow connections of one bridge, carried out on its datapath.

The service does no I/O and reads no clock. A request that asks for something the switch does not have gets OpenFlow's
error for it, never silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from flowshunt.base.log import logger
from flowshunt.base.version import VERSION
from flowshunt.control.openflow import (
    codec,
    extensions,
    flow_stats,
    groups,
    meters,
    monitor,
    ports,
    queues,
    switch,
    tables,
)
from flowshunt.control.openflow.action_reader import STANDARD
from flowshunt.control.openflow.changes import HIDDEN_TABLE, BundleError, FlowChanges, selects_all
from flowshunt.control.openflow.connection import Commit, Connection, Request
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.events import Event, Events
from flowshunt.control.openflow.flow_mod import FlowMod
from flowshunt.control.openflow.flow_monitors import FlowMonitors
from flowshunt.control.openflow.flow_removed import (
    REASON_DELETE,
    REASON_HARD,
    REASON_IDLE,
    REASON_METER_DELETE,
    FlowRemoved,
)
from flowshunt.control.openflow.flushing import flush
from flowshunt.control.openflow.group_table import MAX_GROUPS, GroupTable, Places
from flowshunt.control.openflow.listing import entries_of, entry_of, is_shown
from flowshunt.control.openflow.meter_table import MAX_BANDS, MAX_METERS, MeterTable
from flowshunt.control.openflow.packets import PacketOut, Resume
from flowshunt.control.openflow.parts import Bridge
from flowshunt.control.openflow.roles import Roles
from flowshunt.control.openflow.switch_ports import SwitchPorts, describe_port
from flowshunt.control.openflow.table_settings import TableSettings
from flowshunt.control.openflow.traffic import Traffic
from flowshunt.control.openflow.wire import (
    OF13,
)
from flowshunt.datapath.listing import EXPIRED_HARD, EXPIRED_IDLE, ExpiredRule, FlowStatistics, Listing
from flowshunt.rules.openflow.executor import ToController

N_TABLES = HIDDEN_TABLE
"""Tables that controllers see."""

REASON_ADDED, REASON_DELETED, REASON_CHANGED = range(3)
"""What `tell_port` tells of a port."""

_MILLION = 1_000_000
_NORMAL, _NX_MATCH = 0, 3
"""How fragments are handled, in a configuration: first ones without their ports, or with them."""
_LOG = logger(__name__)


class Service:
    """Answers the requests of one bridge's connections. `connections` are those that events go to.

    What packets and time bring about waits in `events` until `deliver_events` is called.
    """

    def __init__(
        self,
        bridge: Bridge,
        *,
        datapath_id: int = 1,
        describe: Callable[[str, int], ports.PortDescription] = describe_port,
        started_ns: int = 0,
    ) -> None:
        """`describe` gives what is known of a port; `started_ns` is when the bridge came up."""
        self._bridge = bridge
        self.ports = SwitchPorts(bridge, describe)
        self.on_configured: Callable[[], None] | None = None
        self._started_ns = started_ns
        self._now_ns = started_ns
        self.datapath_id = datapath_id
        self.hides_flows = False
        """Whether there may be flows of the switch's own."""
        self.description = switch.Description("Flowshunt", "Flowshunt", VERSION, "None", "None")
        self.connections: dict[Connection, bool] = {}
        self.events = Events()
        self.groups = GroupTable(bridge.datapath, self.ports.is_live)
        self.meters = MeterTable(bridge.datapath)
        self._changes = FlowChanges(bridge.datapath, self._flow_removed, self.groups, self.meters)
        self._monitors = FlowMonitors(bridge.datapath.rules, self.events.call)
        bridge.datapath.on_expired = self._flow_expired
        bridge.executor.to_controllers = self._to_controllers
        self._roles = Roles()
        self._tables = TableSettings(bridge.executor)
        self._traffic = Traffic(bridge, self.ports)
        # What was prepared of bundles and requests, by their id().
        self._sorted: dict[int, _Sorted] = {}
        self._places: dict[int, Places] = {}
        self._tlv: dict[int, extensions.TlvMap] = {}
        self._fragments = 0

    def attach(self, connection: Connection, *, quiet: bool = False) -> None:
        """A connection that events go to; `quiet`: only once it asks for packets (management sockets are so)."""
        self.connections[connection] = quiet

    def detach(self, connection: Connection) -> None:
        """The connection is gone."""
        self.connections.pop(connection, None)
        self._monitors.forget(connection)
        self._watch_packets()

    # --- requests --------------------------------------------------------------------------------------------------

    def handle(self, connection: Connection, request: Request, now_ns: int) -> None:
        """Carry out a request and answer it, be it with an error."""
        self._now_ns = now_ns
        try:
            handler = _HANDLERS.get(type(request.message))
            if handler is None:
                raise OpenFlowError("OFPBRC_BAD_TYPE", f"{type(request.message).__name__} is not supported yet")
            if connection.role == "secondary" and isinstance(request.message, _CHANGES):
                raise OpenFlowError("OFPBRC_IS_SLAVE", "a secondary controller changes nothing")
            handler(self, connection, request)
        except OpenFlowError as error:
            _LOG.info("%s refused: %s", type(request.message).__name__, error)
            connection.fail(request, error)

    def prepare(self, event: Request | Commit) -> Iterator[None]:
        """Do beforehand, in any thread, what `carry_out` need not do where the switch lives: a slice at each step.

        What goes wrong is left to `carry_out`, which tells of it.
        """
        with suppress(Exception):
            if isinstance(event, Commit):
                sorted_ = self._sorted[id(event)] = _sort(event.requests)
                yield from self._changes.prepare_all(sorted_.messages, event.control.version)
            elif isinstance(event.message, FlowMod):
                self._changes.prepare(event.message, event.version)
            elif isinstance(event.message, groups.GroupStatsRequest):
                self._places[id(event)] = self.groups.places(event.message.group)

    def carry_out(self, connection: Connection, event: Request | Commit, now_ns: int) -> None:
        """`handle` or `commit`, whichever it takes. A fault of ours is logged, and answered with an error, too."""
        self._monitors.begin(connection, (event.control if isinstance(event, Commit) else event).xid)
        try:
            if isinstance(event, Commit):
                self.commit(connection, event, now_ns)
            else:
                self.handle(connection, event, now_ns)
        except Exception:  # noqa: BLE001  (the requests behind it go on, and nobody waits for an answer for ever)
            _LOG.exception("a request could not be carried out")
            failed = event.control if isinstance(event, Commit) else event
            connection.fail(failed, OpenFlowError("OFPBRC_EPERM", "the log says why"))
        finally:
            self._sorted.pop(id(event), None)
            self._places.pop(id(event), None)
            if isinstance(event, Commit):
                self._changes.waste(list(event.requests))
            requests = event.requests if isinstance(event, Commit) else (event,)
            self._changes.forget(request.message for request in requests if type(request.message) in _MODS)
            self._monitors.end()

    @property
    def has_waste(self) -> bool:
        """Whether there is something to `tidy`."""
        return self._changes.has_waste

    def tidy(self) -> Iterator[None]:
        """What `carry_out` has left to be done where nobody waits, once its answer is sent: a slice at each step."""
        yield from self._changes.tidy()

    def commit(self, connection: Connection, commit: Commit, now_ns: int) -> None:
        """Carry out a bundle: all of it, or nothing and an error."""
        self._now_ns = now_ns
        if connection.role == "secondary":
            connection.fail(commit.control, OpenFlowError("OFPBRC_IS_SLAVE"))
            return
        mods, messages, rest = self._sorted.get(id(commit)) or _sort(commit.requests)
        for request in rest:
            if not isinstance(request.message, PacketOut):
                error = OpenFlowError("OFPBFC_MSG_UNSUP", f"{type(request.message).__name__} in a bundle")
                connection.commit_failed(commit, request, error)
                return
        try:
            self._changes.apply_all(messages, commit.control.version, now_ns)
        except BundleError as failure:
            _LOG.info("bundle refused: %s", failure)
            self._monitors.discard()
            connection.commit_failed(commit, mods[failure.place], failure.error)
            return
        self._bridge.executor.tidy()
        for request in rest:
            try:
                self._packet_out(connection, request)
            except OpenFlowError as error:
                connection.fail(request, error)
        connection.committed(commit)

    def _barrier(self, connection: Connection, request: Request) -> None:
        connection.barrier(request)

    def _features(self, connection: Connection, request: Request) -> None:
        described = tuple(self.ports.descriptions())
        connection.reply(request, switch.Features(self.datapath_id, N_TABLES, described))
        self._watch_packets()

    def _watch_packets(self) -> None:
        """Have packets sent to controllers without an action for it, where one hears of them.

        Those that no flow matches are dropped for versions from 1.3 on, unless a flow of priority 0 says otherwise.
        """
        listening = [
            connection for connection, quiet in list(self.connections.items()) if connection.miss_send_len or not quiet
        ]
        listening = [connection for connection in listening if not connection.controller_id]
        executor = self._bridge.executor
        executor.send_misses(any(0 < connection.version < OF13 for connection in listening))
        executor.send_ttl_over(any(connection.hears_of_invalid_ttl for connection in listening))

    def _config(self, connection: Connection, request: Request) -> None:
        connection.reply(
            request, switch.Config(self._fragments, connection.miss_send_len, connection.hears_of_invalid_ttl)
        )

    def _set_config(self, connection: Connection, request: Request) -> None:
        if request.message.fragments not in (_NORMAL, _NX_MATCH):
            raise OpenFlowError("OFPSCFC_BAD_FLAGS", "fragments are not dropped here")
        connection.miss_send_len = request.message.miss_send_len
        self._fragments = request.message.fragments
        self._bridge.datapath.see_fragment_ports(self._fragments == _NX_MATCH)
        if request.message.invalid_ttl is not None:
            connection.hear_of_invalid_ttl(request.message.invalid_ttl)
        self._watch_packets()

    def _set_async(self, connection: Connection, request: Request) -> None:
        self._watch_packets()

    def _description(self, connection: Connection, request: Request) -> None:
        connection.reply(request, self.description)

    def _role(self, connection: Connection, request: Request) -> None:
        connection.reply(request, self._roles.change(list(self.connections), connection, request.message))

    # --- flows -----------------------------------------------------------------------------------------------------

    def _flow_mod(self, connection: Connection, request: Request) -> None:
        self._changes.apply(request.message, request.version, self._now_ns // _MILLION)
        self._bridge.executor.tidy()

    def _listing(self, request: flow_stats.FlowRequest | flow_stats.AggregateRequest) -> Listing:
        listing = self._bridge.datapath.listing(None if selects_all(request.selection) else request.selection)
        if self.hides_flows:
            return listing._replace(is_wanted=partial(is_shown, listing.is_wanted))
        return listing

    def _entry(self, line: FlowStatistics) -> flow_stats.FlowEntry:
        return entry_of(line, self._now_ns // _MILLION)

    def _flows(self, connection: Connection, request: Request) -> None:
        entries = entries_of(self._listing(request.message), self._now_ns // _MILLION)
        connection.reply(request, flow_stats.FlowReply(entries, request.message.nicira))

    def _aggregate(self, connection: Connection, request: Request) -> None:
        reply = flow_stats.AggregateReply(*self._listing(request.message).totals(), request.message.nicira)
        connection.reply(request, reply)

    def _flow_removed(self, line: FlowStatistics, reason: int = REASON_DELETE) -> None:
        self.tell("flow_removed", reason, FlowRemoved(self._entry(line), reason))

    def _flow_expired(self, rule: ExpiredRule, now_ms: int) -> None:
        if "send_flow_rem" in rule.statistics.flow.flags:
            reason = _EXPIRED[rule.reason]
            self.events.put(Event("flow_removed", reason, FlowRemoved(entry_of(rule.statistics, now_ms), reason)))

    # --- tables ----------------------------------------------------------------------------------------------------

    def _table_stats(self, connection: Connection, request: Request) -> None:
        known = self._bridge.datapath.tables()
        counters = []
        for number in range(N_TABLES):
            table, miss = known.get(number), self._tables.miss(number)
            counters.append(
                tables.TableCounters(number, 0, 0, 0, miss)
                if table is None
                else tables.TableCounters(number, table.rules, table.lookups, table.matches, miss)
            )
        connection.reply(request, tables.TableStatsReply(counters))

    def _table_features(self, connection: Connection, request: Request) -> None:
        if request.message.change:
            raise OpenFlowError("OFPTFFC_EPERM", "the features of tables are fixed")
        connection.reply(request, tables.TableFeaturesReply(N_TABLES))

    def _table_descriptions(self, connection: Connection, request: Request) -> None:
        known = self._bridge.datapath.tables()
        flows = [known[number].rules if number in known else 0 for number in range(N_TABLES)]
        connection.reply(request, tables.TableDescriptionReply(self._tables.descriptions(flows)))

    def _table_mod(self, connection: Connection, request: Request) -> None:
        self._tables.change(request.message)

    # --- ports and queues ------------------------------------------------------------------------------------------

    def _port_descriptions(self, connection: Connection, request: Request) -> None:
        connection.reply(request, ports.PortDescriptionReply(self.ports.descriptions(request.message.port)))

    def _port_stats(self, connection: Connection, request: Request) -> None:
        age = max(self._now_ns - self._started_ns, 0) // _MILLION * _MILLION
        connection.reply(request, ports.PortStatsReply(self.ports.counters(request.message.port, age)))

    def _port_mod(self, connection: Connection, request: Request) -> None:
        for name, number in self.ports.change(request.message):
            self.tell_port(REASON_CHANGED, name, number)
            if self.on_configured is not None:
                self.on_configured()

    def _queue_stats(self, connection: Connection, request: Request) -> None:
        message: queues.QueueStatsRequest = request.message
        connection.reply(request, queues.QueueStatsReply(self.ports.queue_counters(message.port, message.queue)))

    # --- groups ----------------------------------------------------------------------------------------------------

    def _group_mod(self, connection: Connection, request: Request) -> None:
        for entry, reason in self._changes.apply_group(request.message, self._now_ns):
            self._flow_removed(entry, reason)

    def _group_stats(self, connection: Connection, request: Request) -> None:
        places = self._places.get(id(request))
        found = self.groups.counters(request.message.group, self._now_ns, places)
        connection.reply(request, groups.GroupStatsReply(found, request.message.nicira))

    def _group_descriptions(self, connection: Connection, request: Request) -> None:
        found = self.groups.entries(request.message.group)
        connection.reply(request, groups.GroupDescriptionReply(found, request.message.nicira))

    def _group_features(self, connection: Connection, request: Request) -> None:
        most, actions = (MAX_GROUPS,) * 4, (_STANDARD_ACTIONS,) * 4
        features = groups.GroupFeatures(0xF, _GROUP_CAPABILITIES, most, actions, request.message.nicira)
        connection.reply(request, features)

    # --- meters ----------------------------------------------------------------------------------------------------

    def _meter_mod(self, connection: Connection, request: Request) -> None:
        for line in self._changes.apply_meter(request.message, self._now_ns):
            self._flow_removed(line, REASON_METER_DELETE)

    def _meter_stats(self, connection: Connection, request: Request) -> None:
        found = self.meters.counters(request.message.meter, self._now_ns)
        connection.reply(request, meters.MeterStatsReply(found))

    def _meter_config(self, connection: Connection, request: Request) -> None:
        connection.reply(request, meters.MeterConfigReply(self.meters.entries(request.message.meter)))

    def _meter_features(self, connection: Connection, request: Request) -> None:
        capabilities = meters.FLAG_KBPS | meters.FLAG_PKTPS | meters.FLAG_BURST | meters.FLAG_STATS
        features = meters.MeterFeatures(MAX_METERS, 1 << meters.BAND_DROP, capabilities, MAX_BANDS)
        connection.reply(request, features)

    # --- extensions ------------------------------------------------------------------------------------------------

    def _flush_zone(self, connection: Connection, request: Request) -> None:
        self._bridge.tracker.flush(request.message.zone)

    def _flush(self, connection: Connection, request: Request) -> None:
        flush(self._bridge.tracker, request.message)

    def _tlv_table(self, connection: Connection, request: Request) -> None:
        connection.reply(request, extensions.TlvTableReply(tuple(self._tlv.values())))

    def _tlv_mod(self, connection: Connection, request: Request) -> None:
        self._tlv = extensions.changed_table(self._tlv, request.message)

    # --- packets ---------------------------------------------------------------------------------------------------

    def _packet_out(self, connection: Connection, request: Request) -> None:
        self._traffic.send(request.message, self._now_ns)

    def _to_controllers(self, packet: ToController) -> None:
        event = self._traffic.packet_in(packet)
        if event is not None:
            self.events.put(event)

    def _resume(self, connection: Connection, request: Request) -> None:
        self._traffic.resume(request.message, self._now_ns)

    def _monitor(self, connection: Connection, request: Request) -> None:
        connection.reply(request, self._monitors.change(connection, request.message.monitors))

    def _cancel_monitor(self, connection: Connection, request: Request) -> None:
        self._monitors.cancel(connection, request.message.id)

    def resume_monitors(self, connection: Connection) -> None:
        """A connection that did not read its monitors' updates reads again; the caller sends what it has to send."""
        self._monitors.resume(connection)

    # --- events ----------------------------------------------------------------------------------------------------

    def tell(self, event: str, reason: int, message: Any, controller: int | None = None) -> None:
        """Send an event to the connections that want it: "packet_in", "port_status" or "flow_removed".

        `controller`: only to those that have this number.
        """
        for connection, quiet in list(self.connections.items()):
            if controller is not None and connection.controller_id != controller:
                continue
            if connection.is_told(event, reason) and not (quiet and not connection.miss_send_len):
                connection.notify(message)

    def deliver_events(self) -> int:
        """Tell connections what waits in `events`; returns how many news. The caller sends what they have to send."""
        waiting = self.events.take()
        for event in waiting:
            self.tell(event.kind, event.reason, event.message, event.controller)
        return len(waiting)

    def tell_port(self, reason: int, name: str, number: int) -> None:
        """A port came, went or changed (REASON_*): tell the connections, and the groups and bundles that watch it."""
        if reason == REASON_DELETED:
            self.ports.forget(number)
        self.groups.refresh()
        self._bridge.datapath.ports.set_up(number, self.ports.is_live(number))
        self.tell("port_status", reason, ports.PortStatus(reason, self.ports.describe(name, number)))


_MODS = frozenset((FlowMod, groups.GroupMod))
"""What bundles change, all of it or nothing."""


class _Sorted(NamedTuple):
    """Flow-mods and group-mods of a bundle, their messages, and its other requests."""

    mods: Sequence[Request]
    messages: Sequence[FlowMod | groups.GroupMod]
    rest: Sequence[Request]


def _sort(requests: Sequence[Request]) -> _Sorted:
    mods = [request for request in requests if type(request.message) in _MODS]
    rest = [request for request in requests if type(request.message) not in _MODS]
    return _Sorted(mods, [request.message for request in mods], rest)


_EXPIRED = {EXPIRED_IDLE: REASON_IDLE, EXPIRED_HARD: REASON_HARD}


_GROUP_CAPABILITIES = 7
"""Weights, liveness, and groups that lead to groups."""
_STANDARD_ACTIONS = sum(1 << number for number in STANDARD)

_Handler = Callable[[Service, Connection, Request], None]
_HANDLERS: Mapping[type, _Handler] = {
    codec.BarrierRequest: Service._barrier,
    switch.FeaturesRequest: Service._features,
    switch.ConfigRequest: Service._config,
    switch.SetConfig: Service._set_config,
    switch.SetAsync: Service._set_async,
    switch.DescriptionRequest: Service._description,
    switch.RoleRequest: Service._role,
    FlowMod: Service._flow_mod,
    flow_stats.FlowRequest: Service._flows,
    flow_stats.AggregateRequest: Service._aggregate,
    tables.TableStatsRequest: Service._table_stats,
    tables.TableFeaturesRequest: Service._table_features,
    tables.TableDescriptionRequest: Service._table_descriptions,
    tables.TableMod: Service._table_mod,
    ports.PortDescriptionRequest: Service._port_descriptions,
    ports.PortStatsRequest: Service._port_stats,
    ports.PortMod: Service._port_mod,
    queues.QueueStatsRequest: Service._queue_stats,
    groups.GroupMod: Service._group_mod,
    groups.GroupStatsRequest: Service._group_stats,
    groups.GroupDescriptionRequest: Service._group_descriptions,
    groups.GroupFeaturesRequest: Service._group_features,
    meters.MeterMod: Service._meter_mod,
    meters.MeterStatsRequest: Service._meter_stats,
    meters.MeterConfigRequest: Service._meter_config,
    meters.MeterFeaturesRequest: Service._meter_features,
    extensions.FlushZone: Service._flush_zone,
    extensions.Flush: Service._flush,
    extensions.TlvTableRequest: Service._tlv_table,
    extensions.TlvTableMod: Service._tlv_mod,
    monitor.MonitorRequest: Service._monitor,
    monitor.MonitorCancel: Service._cancel_monitor,
    Resume: Service._resume,
    PacketOut: Service._packet_out,
}

_CHANGES = (
    FlowMod, PacketOut, Resume, groups.GroupMod, meters.MeterMod, ports.PortMod, tables.TableMod,
    extensions.FlushZone, extensions.Flush, extensions.TlvTableMod,
)  # fmt: skip
"""What a secondary controller may not do."""

"""The composition root: where tables, tracker, ports and the flow language become one switch.

The only module that names concrete classes of all layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import flowshunt.offload.answers
import flowshunt.offload.dispatcher  # noqa: F401  (both for their entry points: `Offload` and providers import them late)
from flowshunt.base.errors import UsageError
from flowshunt.config.changes import (
    Action,
    SetFragments,
    SetTracker,
    SetZoneLiberal,
    SetZoneLimit,
    SetZoneTimeouts,
    changes,
)
from flowshunt.config.model import Config, FragmentsSection, TrackerSection
from flowshunt.conntrack.helpers import BY_NAME
from flowshunt.conntrack.helpers.inspector import Inspector
from flowshunt.conntrack.holding import Holding
from flowshunt.conntrack.schema import BATCH_MAX
from flowshunt.conntrack.table import DEFAULT_CAPACITY, Tracker, first_ms
from flowshunt.datapath.fragments.schema import PROFILES, FragmentSettings
from flowshunt.datapath.listing import FlowStatistics
from flowshunt.datapath.paths.joined import JoinedPaths
from flowshunt.datapath.paths.records import HOME_BITS
from flowshunt.datapath.paths.table import Observer
from flowshunt.datapath.program import CompiledRule
from flowshunt.datapath.schema import OUTSIDE_TABLE
from flowshunt.datapath.tables import Datapath, Result
from flowshunt.offload.api import Provider
from flowshunt.offload.framework import Offload
from flowshunt.offload.providers import make, register_available
from flowshunt.offload.providers.options import set_options
from flowshunt.offload.registry import Settings
from flowshunt.offload.sharing import Shares
from flowshunt.packet.schema import Batch
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.compile import FlowCompiler, compile_actions, compile_flow, compile_match
from flowshunt.rules.openflow.errors import FlowWarning
from flowshunt.rules.openflow.executor import Executor, Triples
from flowshunt.rules.openflow.flow import ALL_TABLES, Flow
from flowshunt.rules.openflow.parse import Command, parse_flows

_SILENCE_MS = 1000
"""After so long without a packet, forwarders are asked what they gave up before the tracker looks at its timers."""
_SWEEP_BUDGET = 512
_IDLE_SWEEP_BUDGET = 4096
_PORT_NAME = re.compile(r"[A-Za-z0-9_@:+-][A-Za-z0-9_.@:+-]{0,254}")
_RESERVED_NAMES = frozenset(
    ("in_port", "table", "normal", "flood", "all", "controller", "local", "none", "any", "unset", "max", "drop")
)


class Switch:
    """A stateful switch: OpenFlow tables and a connection tracker over numbered ports.

    One thread uses a switch. Packets go in as batches, each carrying its own time; nothing here reads a clock.
    `on_output(result, batch)`, where it is set, gets what leaves without having come in (packet-outs).
    """

    def __init__(
        self,
        profile: str = "default",
        *,
        check_checksums: bool = True,
        check_sequence: bool = True,
        max_connections: int = DEFAULT_CAPACITY,
        batch_size: int = BATCH_MAX,
        seed: int | None = None,
        helpers: Iterable[str] = (),
        beside: Switch | None = None,
    ) -> None:
        """Make a switch without ports and flows; its tracker takes the arguments (see `Tracker`).

        `beside`: another switch whose tracker, fragments and offloading this one shares; the arguments above are
        its then. One thread uses both. Providers are told of the connections of both; in ports, they see the `home` of
        a switch above the number of OpenFlow (see `paths.records.HOME_BITS`).
        `helpers` (`ftp`, `tftp`) are those that new connections to their well-known ports get by themselves; flows
        attach them with ct(commit,alg=...) in any case.
        `batch_size` (1 to 256) is how many packets are worked on at a time; it changes speed, never results.
        """
        self._ports: dict[str, int] = {}
        self._port_names: dict[int, str] = {}
        if beside is None:
            self.tracker = Tracker(
                profile,
                check_checksums=check_checksums,
                check_sequence=check_sequence,
                max_connections=max_connections,
                batch_size=batch_size,
                seed=seed,
            )
            self._inspector = Inspector(self.tracker, by_port=helpers)
            fragments = shunt = None
        else:
            self.tracker, self._inspector = beside.tracker, beside._inspector
            fragments, shunt = beside.datapath.fragments, beside.datapath.shunt
        self.datapath: Datapath = Datapath(
            self.tracker, batch_size, compiler=FlowCompiler(), fragments=fragments, shunt=shunt
        )
        self.datapath.inspect_with(self._inspector)
        self.executor = Executor(self.datapath)
        self.on_output: Callable[[Result, Batch], None] | None = None
        if beside is None:
            self._shares: Shares = self.datapath.shunt
            self._homes: dict[int, Switch] = {}
            self._joined = JoinedPaths(len(self.tracker.arrays.conns))
            self.offload = Offload(
                Holding(self.tracker),
                devices=self.device_at,
                paths=self._joined,
                on_unregistered=self._shares.release,
            )
            self.tracker.before_timeouts = self.offload.withdraw_flows
        else:
            self.offload, self._shares = beside.offload, beside._shares
            self._homes, self._joined = beside._homes, beside._joined
        self.home = self._joined.add(self.datapath.paths)
        self._homes[self.home] = self
        self.datapath.before_expiry = self.offload.synchronise
        self.fragments = self.datapath.fragments
        self._config = Config(
            TrackerSection(
                profile,
                max_connections,
                checksums=check_checksums,
                sequence_checks=check_sequence,
                helpers=bool(helpers),
            )
        )

    @classmethod
    def from_config(cls, config: Config, *, batch_size: int = BATCH_MAX) -> Switch:
        """A switch set as `config` says, without its ports and flows. Raises UsageError for values out of range."""
        tracker = config.tracker
        switch = cls(
            tracker.profile,
            check_checksums=tracker.checksums,
            check_sequence=tracker.sequence_checks,
            max_connections=tracker.max_connections,
            batch_size=batch_size,
            helpers=BY_NAME if tracker.helpers else (),
        )
        switch.configure(config)
        return switch

    def configure(self, config: Config) -> tuple[Action, ...]:
        """Set the tracker as `config` says, changing only what differs from how it was set. Returns what was done.

        Ports and flows stay as they are. Raises UsageError, with nothing changed, for what cannot change any more.
        """
        actions = changes(self._config, config)
        for action in actions:
            self._carry_out_setting(action)
        if actions:
            self.datapath.paths.bump("settings")
        self._config = config
        return actions

    def _carry_out_setting(self, action: Action) -> None:
        tracker = self.tracker
        match action:
            case SetTracker("max_connections", value):
                tracker.set_max_connections(value)
            case SetTracker("headroom", value):
                tracker.set_headroom(value)
            case SetTracker("early_drop", value):
                tracker.set_early_drop(bool(value))
            case SetTracker("loose", value):
                tracker.set_loose(bool(value))
            case SetTracker("liberal", value):
                tracker.set_zone_liberal(None, bool(value))
            case SetZoneLimit(int(zone), None):
                tracker.del_zone_limit(zone)
            case SetZoneLimit(zone, limit):
                tracker.set_zone_limit(zone, limit or 0)
            case SetZoneTimeouts(zone, None):
                tracker.del_timeout_policy(zone)
            case SetZoneTimeouts(zone, timeouts):
                tracker.set_timeout_policy(zone, timeouts or {})
            case SetZoneLiberal(zone, liberal):
                tracker.set_zone_liberal(zone, liberal)
            case SetFragments(section):
                self.fragments.configure(_fragment_settings(self.tracker.profile, section))
            case _:
                raise AssertionError(f"nothing carries out {action}")

    @property
    def ports(self) -> Mapping[str, int]:
        """OpenFlow port numbers by name."""
        return MappingProxyType(self._ports)

    def add_port(self, name: str, number: int | None = None) -> int:
        """Add a port; without a number it gets the lowest free one from 1. Returns the number.

        Raises UsageError when name or number is taken or cannot be one.
        """
        check_port_name(name)
        if name in self._ports:
            raise UsageError(f"there is a port {name!r} already")
        if number is None:
            number = next(n for n in range(1, len(self._ports) + 2) if n not in self._port_names)
        self.datapath.ports.add(number)
        self._ports[name] = number
        self._port_names[number] = name
        return number

    def remove_port(self, name: str) -> None:
        """Remove a port; what was learned behind it is forgotten. Raises UsageError when there is none."""
        if name not in self._ports:
            raise UsageError(f"there is no port {name!r}")
        number = self._ports.pop(name)
        del self._port_names[number]
        self.datapath.ports.remove(number)

    def leave(self) -> None:
        """No packet will come any more: learn no paths, and let another switch beside the others have the `home`."""
        if self._homes.get(self.home) is self:
            del self._homes[self.home]
            self._joined.remove(self.home)

    def observe_paths(self, observer: Observer) -> None:
        """Have `observer` get what packets show of their paths, here and in switches beside this one, LEARNED (n,)."""
        self._joined.observe(observer)

    def at_home(self, port: int) -> Switch | None:
        """The switch that a port of a path or event belongs to, this one or one beside it; None: it is gone."""
        return self._homes.get(port >> HOME_BITS)

    def device_at(self, port: int) -> str | None:
        """Name of a port by its number in paths and events, of this switch or of one beside it; None: it is gone."""
        switch = self.at_home(port)
        return None if switch is None else switch._port_names.get(port & (1 << HOME_BITS) - 1)

    def add_flows(
        self,
        text: str,
        source: str = "<flows>",
        *,
        now_ms: int = 0,
        warn: Callable[[FlowWarning], None] | None = None,
    ) -> int:
        """Carry out the flows of a text, one on each line, as `ovs-ofctl add-flows` would. Returns how many lines.

        Lines may begin with a command (`add`, `modify`, `delete`, `modify_strict`, `delete_strict`). `source` names the
        text in messages, `warn` gets what is read otherwise than it looks. Raises FlowSyntaxError, and UsageError for
        what cannot be compiled; then nothing has changed.
        """
        commands = parse_flows(text, self._ports, source=source, warn=warn)
        if any(command != "add" for command, _ in commands):
            for command, flow in commands:
                if not command.startswith("del"):
                    compile_flow(_in_a_table(flow))
        pending: list[Flow] = []
        for command, flow in commands:
            if command == "add":
                pending.append(flow)
                continue
            self.datapath.add_flows(pending, now_ms)
            pending = []
            self._carry_out(command, flow, now_ms)
        self.datapath.add_flows(pending, now_ms)
        return len(commands)

    def del_flows(self, text: str, source: str = "<flows>") -> int:
        """Delete the flows that a text selects, one match on each line; empty: all. Returns how many."""
        if not text.strip():
            return len(self.datapath.delete_flows(Flow(table=ALL_TABLES)))
        commands = parse_flows(text, self._ports, source=source, command="del")
        return sum(self._carry_out(command, flow, 0) for command, flow in commands)

    def _carry_out(self, command: Command, flow: Flow, now_ms: int) -> int:
        strict = command.endswith("_strict")
        if command.startswith("del"):
            return len(self.datapath.delete_flows(flow, strict=strict))
        if command.startswith("mod"):
            n_changed = self.datapath.modify_flows(flow, strict=strict, add=False, now_ms=now_ms)
            return n_changed or self.datapath.add_flows([_in_a_table(flow)], now_ms)
        return self.datapath.add_flows([flow], now_ms)

    def process(self, batch: Batch) -> Result:
        """Take a batch through the switch, each packet at its own time and to its end, in order."""
        if len(batch.packets):
            now_ms = first_ms(batch)
            if now_ms - self.tracker.now_ms >= _SILENCE_MS:  # what was idle meanwhile was given up, and then expired
                self.offload.poll(now_ms)
            self.tracker.sweep(now_ms, budget=_SWEEP_BUDGET)
        result = self.datapath.process(batch)
        self.tracker.sweep(self.tracker.now_ms, budget=max(_SWEEP_BUDGET, 2 * len(batch.packets)))
        self.fragments.expire(self.tracker.now_ms)
        self.offload.poll(self.tracker.now_ms)
        self.expire_flows(self.tracker.now_ms)
        return result

    def idle(self, now_ms: int) -> None:
        """Let time pass without packets: what is due by `now_ms` expires, a slice at a time."""
        self.tracker.sweep(now_ms, budget=_IDLE_SWEEP_BUDGET)
        self.fragments.expire(now_ms)
        self.expire_flows(now_ms)
        self.offload.poll(now_ms)

    def packet_out(
        self, frame: bytes, in_port: int, actions: tuple[F.Action, ...], now_ns: int, metadata: Triples = ()
    ) -> Result:
        """Take a frame through actions, as if it came in on a port, with some fields of the pipeline set.

        What leaves goes to `on_output` as the result of a batch of one, too. Raises UsageError for a frame that is none
        or too long, for actions that cannot be compiled, and for a group or meter that is not there.
        """
        program, late = compile_actions(actions)
        rule = CompiledRule(OUTSIDE_TABLE, 0, (), program, late=late)
        result, batch = self.datapath.send_out(frame, in_port, rule, now_ns, compile_match(metadata))
        if self.on_output is not None:
            self.on_output(result, batch)
        return result

    def resume(self, token: bytes, frame: bytes, now_ns: int, metadata: Triples = ()) -> bool:
        """Let a packet go on that a controller action paused, as the controller has changed it; as `packet_out`.

        False when none waits under this number (any more).
        """
        frozen = self.executor.take_paused(token)
        if frozen is None:
            return False
        result, batch = self.datapath.resume(frozen, frame, now_ns, compile_match(metadata))
        if self.on_output is not None:
            self.on_output(result, batch)
        return True

    def expire_flows(self, now_ms: int) -> int:
        """Remove flows whose timeouts ran out, a bounded number per call; returns how many. Paused packets that nobody
        lets go on are given up.

        `process` does so; whoever has no packets to process calls this now and then.
        """
        self.executor.give_up(now_ms)
        self.executor.tidy()
        return self.datapath.expire_flows(now_ms)

    def configure_offload(self, config: Mapping[str, str]) -> None:
        """Apply `hw-offload` and `hw-offload-priority` of a configuration like Open_vSwitch's other_config (row A9).

        On registers what is built in and installed. Keys that begin with a provider's name and `-` are its options,
        such as `eswitch-num-of-groups`. Raises UsageError when the tracker has no private slot left.
        """
        settings = Settings.from_other_config(config)
        if settings.enabled:
            register_available(self.offload, settings, self._shares)
        self.offload.configure(settings)
        set_options(self.offload, config)

    def offload_to(self, providers: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        """Offload to these providers, the first one asked first, instead of to those before; none: offload no more.

        Each is a name (`flowtable`, `eswitch`, an installed one's, or `module:class`) with its options as text. Raises
        UsageError for one that there is not or that cannot be registered, and for its options; OSError for a file that
        an option names. Then nothing is offloaded.
        """
        self.offload.close()
        self.offload.configure(Settings())
        made: list[Provider] = []
        try:
            for name, options in providers:
                made.append(make(name, options, self._shares))
            for provider in made:
                self.offload.register(provider)
            self.offload.configure(Settings(bool(made), tuple(provider.name for provider in made)))
        except (UsageError, OSError):
            self.offload.close()
            for provider in made:
                self._shares.release(provider.name)
            raise

    def flows(self) -> list[FlowStatistics]:
        """All flows with their counters, by table, then highest priority first."""
        return self.datapath.flows()

    def statistics(self) -> dict[str, int]:
        """Counters of the datapath by name: packets by fate and verdict, frames out, lookups, learning, helpers."""
        return self.datapath.statistics() | self._inspector.statistics()


def check_port_name(name: str) -> None:
    """Raise UsageError for what cannot be a port's name."""
    if not _PORT_NAME.fullmatch(name) or name.isdecimal() or name.lower() in _RESERVED_NAMES:
        hint = "letters, digits and _ - . + @ :, not a number alone and no word of OpenFlow such as normal"
        raise UsageError(f"{name!r} cannot be a port's name", hint=hint)


def _fragment_settings(profile: str, section: FragmentsSection) -> FragmentSettings:
    """The profile's settings with what the section says in their place; its timeouts are seconds."""
    said = {name: getattr(section, name) for name in FragmentsSection.__dataclass_fields__}
    for name in ("timeout_ipv4", "timeout_ipv6"):
        seconds = said.pop(name)
        said[f"{name}_ms"] = None if seconds is None else 1000 * seconds
    return replace(PROFILES[profile], **{name: value for name, value in said.items() if value is not None})


def _in_a_table(flow: Flow) -> Flow:
    """A flow that can be added: what names no table goes to the first one."""
    return replace(flow, table=0) if flow.table == ALL_TABLES else flow

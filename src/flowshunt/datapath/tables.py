"""The facade of the datapath: what Python outside this package uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.base.log import logger
from flowshunt.conntrack.schema import BATCH_MAX
from flowshunt.conntrack.states import CS_INVALID
from flowshunt.conntrack.table import Tracker
from flowshunt.datapath import schema as D
from flowshunt.datapath.fragments.schema import PROFILES
from flowshunt.datapath.fragments.store import Fragments
from flowshunt.datapath.freezing import Frozen, freeze, thaw
from flowshunt.datapath.inspection import Consultation, Inspector
from flowshunt.datapath.listing import ExpiredRule, FlowStatistics, Listing, TableStatistics
from flowshunt.datapath.loop import MAX_EVENTS, run_batch
from flowshunt.datapath.paths.table import Paths
from flowshunt.datapath.ports import Ports
from flowshunt.datapath.program import PUNT_HELPER, CompiledRule
from flowshunt.datapath.punts import Handler, Punt
from flowshunt.datapath.rules import Rules
from flowshunt.datapath.shunt.table import Shunt
from flowshunt.datapath.vlans import hide_inner_tag
from flowshunt.jit import plain
from flowshunt.packet.parse import parse_batch
from flowshunt.packet.schema import (
    HEADER_WORDS,
    PACKET,
    VERDICT_SHORT_ETHERNET,
    VERDICTS,
    VLAN_PRESENT,
    W_ARP_SHA,
    W_PORT,
    Batch,
)

FATES = D.FATES

_log = logger(__name__)
_hide_inner_tag = plain(hide_inner_tag)
_FRAMES_AT_ONCE = 2 * D.MAX_OUTPUTS
_SIZE_AT_ONCE = 16 * D.MAX_OUTPUT_SIZE


class Result(NamedTuple):
    """What became of a batch; the arrays are valid until the next `process`.

    `ct_state`: uint16 (n,), the last one of each packet, 0 when it was never tracked, CS_HELD for a fragment that was
    not the last to come. `fate`: uint8 (n,), index into FATES. `tx`: TX records, by packet and then in order of
    emission. `tx_data`: uint8; source 0 is the batch's own buffer, source 1 this one. `joined`: JOINED records, which
    fragments the whole packets of this batch are made of; they count all packets that the datapath ever got.
    """

    ct_state: np.ndarray
    fate: np.ndarray
    tx: np.ndarray
    tx_data: np.ndarray
    joined: np.ndarray


class Compiler(Protocol):
    """What the datapath asks about flows, whatever they are. All methods may raise UsageError for a wrong flow."""

    def compile(self, flow: Any, *, keeps_counters: bool = False) -> CompiledRule:
        """A flow as a rule, with the flow as its source. `keeps_counters`: see CompiledRule."""

    def compile_selection(self, request: Any) -> CompiledRule:
        """Table (ALL_TABLES: any), priority and match by which a change or deletion selects; the program is unused."""

    def is_selected(self, flow: Any, request: Any) -> bool:
        """Whether `request` selects a flow that its match selects; cookies and output ports are considered here."""

    def looks_at_flows(self, request: Any) -> bool:
        """Whether `is_selected` may be false."""

    def merge(self, flow: Any, request: Any) -> Any:
        """What a flow becomes by a change: its own match, priority and timeouts, the other's actions."""


class PlainCompiler:
    """Takes rules that are compiled already."""

    def compile(self, flow: CompiledRule, *, keeps_counters: bool = False) -> CompiledRule:
        """The rule itself, as its own source. Raises TypeError when it is something else."""
        if not isinstance(flow, CompiledRule):
            raise TypeError(f"without a compiler a datapath takes CompiledRule, not {type(flow).__name__}")
        return flow._replace(source=flow, keeps_counters=keeps_counters or flow.keeps_counters)

    def compile_selection(self, request: CompiledRule) -> CompiledRule:
        """The same."""
        return self.compile(request)

    def is_selected(self, flow: CompiledRule, request: CompiledRule) -> bool:
        """Always."""
        return True

    def looks_at_flows(self, request: CompiledRule) -> bool:
        """Never."""
        return False

    def merge(self, flow: CompiledRule, request: CompiledRule) -> CompiledRule:
        """The flow with the program of the request."""
        return flow._replace(program=request.program)


class Datapath:
    """Tables, ports and the batch loop, with one tracker. One thread uses a datapath.

    A flow is whatever `compiler` compiles; without one, a CompiledRule. Times are milliseconds since the epoch.

    `before_expiry()`, where it is set, is called before counters are listed, and before something may be forgotten for
    want of use: whoever counts packets elsewhere brings rules and stations up to date there. `on_expired(rule,
    now_ms)` gets rules that went. A handler of punted packets puts into `after_packet` what is to be done when its
    packet has ended, before the next one.
    """

    def __init__(
        self,
        tracker: Tracker | None = None,
        batch_size: int = BATCH_MAX,
        *,
        compiler: Compiler | None = None,
        fragments: Fragments | None = None,
        shunt: Shunt | None = None,
    ) -> None:
        """Make a datapath without rules and ports, with a tracker of its own when none is given.

        `fragments`: where fragments wait; without, a store with the settings of the tracker's profile. `shunt`: that of
        another datapath of the same tracker, which both use then; their paths have different homes.

        Raises UsageError for a batch size outside `[1, 256]`, and for a tracker with too little room for events.
        """
        if not 1 <= batch_size <= BATCH_MAX:
            raise UsageError(f"batch size {batch_size} is out of range", hint=f"1 to {BATCH_MAX}")
        self.tracker = Tracker() if tracker is None else tracker  # an empty one is false
        if len(self.tracker.arrays.events) < MAX_EVENTS:
            raise UsageError(
                "the tracker has too little room for the events of one packet", hint=f"make it {MAX_EVENTS}"
            )
        self.batch_size = batch_size
        self.fragments = Fragments(PROFILES[self.tracker.profile]) if fragments is None else fragments
        self.ports = Ports()
        self.rules = Rules()
        self.shunt = Shunt(self.tracker) if shunt is None else shunt
        self._compiler = compiler or PlainCompiler()
        self._work = D.make_work(batch_size, self.tracker.arrays.quotes, len(self.tracker.arrays.conns))
        self.paths = Paths(self._work, self.rules, self.ports)
        self._own = D.make_own()
        self._handlers: dict[int, Handler] = {}
        self._n_failed_handlers = 0
        self._output = D.make_output(0, _FRAMES_AT_ONCE, _SIZE_AT_ONCE)
        self.after_packet: list[Callable[[], None]] = []
        self.before_expiry: Callable[[], None] | None = None
        self.on_expired: Callable[[ExpiredRule, int], None] | None = None

    # --- flows -----------------------------------------------------------------------------------------------------

    def add_flow(self, flow: Any, now_ms: int = 0) -> None:
        """Add one flow; see `add_flows`."""
        self.add_flows([flow], now_ms)

    def add_flows(self, flows: Iterable[Any], now_ms: int = 0) -> int:
        """Add flows in order; one of equal table, match and priority is replaced and counts from zero.

        All are compiled before the first is added. Returns how many. Raises UsageError for a flow that cannot be
        compiled (nothing is added) and when the tables are full (those before it are).
        """
        return self.rules.add([self._compiler.compile(flow) for flow in flows], now_ms)

    def compile(self, flow: Any, *, keeps_counters: bool = False) -> CompiledRule:
        """A flow as a rule for `rules.add`; raises UsageError for one that cannot be compiled."""
        return self._compiler.compile(flow, keeps_counters=keeps_counters)

    def compile_selection(self, request: Any) -> CompiledRule:
        """What `request` selects by as a rule; raises UsageError for what cannot be matched."""
        return self._compiler.compile_selection(request)

    def is_selected(self, number: int, request: Any) -> bool:
        """Whether `request` selects the rule of this number, which its match selects."""
        return self._compiler.is_selected(self.rules.rule(number).source, request)

    def delete_flows(self, request: Any, *, strict: bool = False, why: str = "") -> list[Any]:
        """Delete what `request` selects, and return it; `why` is for `Rules.on_change`.

        Strict: the flow of equal match and priority. Otherwise all flows whose packets the match covers, whatever
        their priority (OpenFlow's non-strict selection).
        """
        return [rule.source for rule in self.remove_rules(request, strict=strict, why=why)]

    def remove_rules(self, request: Any, *, strict: bool = False, why: str = "") -> list[CompiledRule]:
        """`delete_flows`; returns the rules behind what is deleted."""
        return self.rules.remove(self._select(request, strict), why)

    def modify_flows(
        self, request: Any, *, strict: bool = False, add: bool = True, now_ms: int = 0, resets_counters: bool = False
    ) -> int:
        """Give the actions of `request` to what it selects (see `delete_flows`); counters stay, or begin at zero.

        Returns how many were changed. When there is none, the flow is added if `add` is set (as OpenFlow 1.0 does), and
        counts as one. All are compiled before the first is changed. Raises UsageError; then flows are as before, but
        those that were changed in between count from zero.
        """
        numbers = self._select(request, strict)
        merged = [self._compiler.merge(self.rules.rule(number).source, request) for number in numbers]
        rules = [self._compiler.compile(flow) for flow in merged]
        before = [self.rules.rule(number) for number in numbers]
        for n_changed, (number, rule) in enumerate(zip(numbers, rules, strict=True)):
            try:
                self.rules.change(number, rule, now_ms, resets_counters=resets_counters)
            except UsageError:
                self.rules.add(before[:n_changed], now_ms, refuses_overlaps=False)
                raise
        if not numbers and add:
            return self.add_flows([request], now_ms)
        return len(numbers)

    def _select(self, request: Any, strict: bool) -> list[int]:
        numbers = self.rules.select(self._compiler.compile_selection(request), strict=strict)
        if not self._compiler.looks_at_flows(request):
            return numbers
        return [number for number in numbers if self.is_selected(number, request)]

    def selected(self, request: Any, *, strict: bool = False) -> list[FlowStatistics]:
        """The flows that `request` selects (see `delete_flows`), with their counters, in the order of `flows`."""
        self._synchronise()
        return self.rules.listing(self._select(request, strict)).lines()

    def statistics_of(self, numbers: Sequence[int]) -> list[FlowStatistics]:
        """Flows by the numbers of their rules, with their counters."""
        self._synchronise()
        return self.rules.statistics_of_all(numbers)

    def selected_rules(self, request: Any, *, strict: bool = False) -> list[CompiledRule]:
        """The rules behind `selected`, as they are: one that is changed later is another one."""
        return self.rules.rules(self._select(request, strict))

    def listing(self, request: Any = None) -> Listing:
        """What `selected` gives for `request`, or `flows` without one, as it is now: to be made in any thread."""
        self._synchronise()
        if request is None:
            return self.rules.listing()
        numbers = self.rules.select(self._compiler.compile_selection(request))
        wanted = partial(self._compiler_selects, request) if self._compiler.looks_at_flows(request) else None
        return self.rules.listing(numbers, wanted)

    def _compiler_selects(self, request: Any, flow: Any) -> bool:
        return self._compiler.is_selected(flow, request)

    def flows(self) -> list[FlowStatistics]:
        """All flows with their counters, by table, then highest priority first."""
        self._synchronise()
        return list(self.rules.statistics())

    def port_statistics(self) -> dict[int, dict[str, int]]:
        """Counters of ports by number, what passed elsewhere included; see `Ports.statistics`."""
        self._synchronise()
        return self.ports.statistics()

    def _synchronise(self) -> None:
        if self.before_expiry is not None:
            self.before_expiry()

    def expire_flows(self, now_ms: int, most: int = 256) -> int:
        """Remove flows whose timeouts ran out; returns how many. Bounded: it looks at `most` flows that may be due."""
        expired = self.rules.expire(now_ms, most, self.before_expiry)
        if self.on_expired is not None:
            for rule in expired:
                self.on_expired(rule, now_ms)
        return len(expired)

    def tables(self) -> dict[int, TableStatistics]:
        """Tables in use: rules, masks, lookups, matches."""
        self._synchronise()
        return self.rules.tables()

    # --- packets ---------------------------------------------------------------------------------------------------

    def process(self, batch: Batch) -> Result:
        """Take a batch through the switch, each packet at its own time, to its end, in order.

        Fills the parser's part of `batch.packets`. Events are handed to the tracker's observers when they fill up and
        at the end. A packet of a port that does not exist is processed like any other.
        """
        self.tracker.refuse_observers()
        n = len(batch.packets)
        if len(self._output.fate) < n:
            self._output = self._output._replace(fate=np.zeros(n, np.uint8), ct_state=np.zeros(n, np.uint16))
        self._output.sent[:] = 0
        self._work.machine["punt"] = D.PUNT_NONE  # an exception may have ended the batch before in the middle
        return self._run(batch)

    def _run(self, batch: Batch) -> Result:
        """Run a batch, from the packet that is punted on when there is one."""
        n = len(batch.packets)
        done = 0
        if n:
            self.paths.expire_stations(int(batch.packets["time_ns"][-1]) // 1_000_000, self.before_expiry)
        while done < n:
            self.paths.refresh()
            # Flows that a packet's actions learn are there for the next packet, and not before.
            end = done + 1 if self.after_packet else n
            done = run_batch(
                self._work,
                self.rules.arrays,
                self.ports.arrays,
                self._output,
                self.tracker.arrays,
                self.fragments.arrays,
                self._own,
                self.shunt.arrays,
                batch.data,
                batch.packets,
                done,
                end,
                self.batch_size,
            )
            if self.tracker.arrays.state["n_events"][0]:
                self.tracker.drain()
            self.paths.drain()
            if self._work.machine["punt"][0] == D.PUNT_WAITING:
                self._answer(done)
            elif done < end:
                self._make_room()
            elif self.after_packet:
                waiting, self.after_packet = self.after_packet, []
                for step in waiting:
                    step()
        output = self._output
        n_frames, _, n_joined = output.sent.tolist()
        return Result(
            output.ct_state[:n], output.fate[:n], output.tx[:n_frames], output.tx_data, output.joined[:n_joined]
        )

    def send_out(
        self,
        frame: bytes,
        in_port: int,
        program: CompiledRule,
        now_ns: int,
        fields: Iterable[tuple[int, int, int]] = (),
    ) -> tuple[Result, Batch]:
        """Take a frame through the actions of `program`, as if it came in on a port: what a packet-out does.

        `fields`: words of the key to begin with, (word, mask, value). The result is that of the batch of one packet
        that comes with it. Raises MissingError for a group or meter that is not there, TablesFullError, and UsageError
        for a frame of more than OWN_SIZE bytes.
        """
        words, tokens = self.rules.linker.link(program.program, program.late)
        try:
            with self.rules.stored(words) as at:
                return self._start_at(at, frame, in_port, now_ns, fields)
        finally:
            self.rules.linker.unlink(tokens)

    def freeze(self) -> Frozen:
        """A copy of the packet that a handler of punted packets is asked about; the handler may halt it then.

        It has to go on, by `resume`, or be given up, by `forget`.
        """
        self.rules.linker.pin()
        return freeze(self._work, self.rules.arrays.pool, int(self._own.packets["in_port"][0]))

    def forget(self, frozen: Frozen) -> None:
        """Give up a packet that was frozen."""
        self.rules.linker.unpin()

    def resume(
        self, frozen: Frozen, frame: bytes, now_ns: int, fields: Iterable[tuple[int, int, int]] = ()
    ) -> tuple[Result, Batch]:
        """Let a frozen packet go on with these bytes, with fields of the pipeline changed; as `send_out`."""
        try:
            with self.rules.stored([word for program in frozen.programs for word in program]) as at:
                batch = self._take_in(frame, frozen.in_port, now_ns)
                thaw(frozen, self._work, at, now_ns // 1_000_000)
                key = self._work.keys[0]
                key[:HEADER_WORDS] = self._own.original[0, :HEADER_WORDS]
                for word, mask, value in fields:
                    key[word] = int(key[word]) & ~mask | value
                return self._run(batch), batch
        finally:
            self.rules.linker.unpin()

    def _start_at(
        self, at: int, frame: bytes, in_port: int, now_ns: int, fields: Iterable[tuple[int, int, int]]
    ) -> tuple[Result, Batch]:
        batch = self._take_in(frame, in_port, now_ns)
        machine, work = self._work.machine, self._work
        machine[0] = np.zeros((), machine.dtype)
        machine["now_ms"] = now_ns // 1_000_000
        machine["size"] = len(frame)
        machine["fate"] = D.FATE_ACTION
        machine["dirty"] = machine["own"] = machine["resubmits"] = 1
        machine["pc"] = at
        machine["target"] = -1
        machine["table"] = D.OUTSIDE_TABLE
        machine["punt"] = D.PUNT_ANSWERED
        work.keys[0] = 0
        work.keys[0, :HEADER_WORDS] = self._own.original[0, :HEADER_WORDS]
        work.keys[0, W_PORT] = in_port << 32
        for word, mask, value in fields:
            work.keys[0, word] = int(work.keys[0, word]) & ~mask | value
        self._output.ct_state[0] = 0
        work.tracked[0] = np.zeros((), work.tracked.dtype)
        work.tracked["row"] = -1
        return self._run(batch), batch

    def _take_in(self, frame: bytes, in_port: int, now_ns: int) -> Batch:
        """A batch of one packet, which is the own one too."""
        if len(frame) > D.OWN_SIZE:
            raise UsageError(f"a packet of {len(frame)} bytes does not fit", hint=f"at most {D.OWN_SIZE}")
        batch = Batch(np.frombuffer(frame, np.uint8).copy(), np.zeros(1, PACKET))
        packet = batch.packets
        packet["length"] = packet["wire_length"] = len(frame)
        packet["in_port"] = in_port
        packet["time_ns"] = now_ns
        self.tracker.refuse_observers()
        if not len(self._output.fate):
            self._output = self._output._replace(fate=np.zeros(1, np.uint8), ct_state=np.zeros(1, np.uint16))
        self._output.sent[:] = 0
        data, packets, original = self._own
        data[: len(frame)] = batch.data
        packets[0] = packet[0]
        parse_batch(data, packets, original, 1)
        if packets["verdict"][0] == VERDICT_SHORT_ETHERNET:
            raise UsageError(f"{len(frame)} bytes are no packet", hint="an Ethernet header has 14")
        if self.ports.arrays.state["vlan_limit"][0] == 1 and original[0, W_ARP_SHA] & VLAN_PRESENT:
            _hide_inner_tag(packets, 0, original, 0)
        return batch

    def see_fragment_ports(self, wanted: bool) -> None:
        """Say whether rules see the ports of first fragments; at first, as later fragments, they seem to have none."""
        state = self.rules.arrays.state
        if bool(state["frag_ports"][0]) != wanted:
            state["frag_ports"] = wanted
            self.rules.version += 1

    def handle_punts(self, reason: int, handler: Handler) -> None:
        """Have `handler(punt)` called for every packet that is punted for `reason` (program.PUNT_*).

        Without a handler such packets just go on. One that raises is logged and counted (`handler-errors`), and the
        packet goes on.
        """
        self._handlers[reason] = handler

    def inspect_with(self, inspector: Inspector) -> None:
        """Have `inspector` see the payload of packets of connections with a helper."""
        self.handle_punts(PUNT_HELPER, Consultation(inspector))

    def _answer(self, packet: int) -> None:
        """Ask the handler of the packet that waits, whose index in the batch is `packet`."""
        machine, work = self._work.machine[0], self._work
        doubts: list[bool] = []
        halts: list[bool] = []
        punt = Punt(
            int(machine["reason"]),
            int(machine["argument"]),
            self._own,
            work.keys[0],
            work.tracked[0],
            doubts,
            int(machine["table"]),
            halts,
        )
        handler = self._handlers.get(punt.reason)
        try:
            if handler is not None:
                handler(punt)
        except Exception:  # noqa: BLE001  (whatever a handler gets wrong, packets go on)
            self._n_failed_handlers += 1
            _log.exception("a handler of punted packets failed")
        finally:
            if doubts:
                self._output.ct_state[packet] |= CS_INVALID
            if halts:
                for register, value in (("pc", 0), ("frames", 0), ("target", -1)):
                    work.machine[register] = value
            self._work.machine["punt"] = D.PUNT_ANSWERED

    def _make_room(self) -> None:
        """Enlarge what is too small for one more packet's outputs; what is in it stays."""
        output = self._output
        if output.sent[0] + D.MAX_OUTPUTS > len(output.tx):
            self._output = output._replace(tx=np.concatenate([output.tx, np.zeros_like(output.tx)]))
        if output.sent[1] + D.MAX_OUTPUT_SIZE > len(output.tx_data):
            tx_data = np.concatenate([output.tx_data, np.zeros_like(output.tx_data)])
            self._output = self._output._replace(tx_data=tx_data)
        missing = int(output.sent[2]) + 2 * len(self.fragments.arrays.fragments) - len(output.joined)
        if missing > 0:
            more = np.zeros(max(missing, len(output.joined)), output.joined.dtype)
            self._output = self._output._replace(joined=np.concatenate([output.joined, more]))

    def statistics(self) -> dict[str, int]:
        """Counters by name: packets by fate and by the parser's verdict, frames, lookups, learning, fragments."""
        output = self._output
        counters = dict(zip(D.COUNTERS, output.counters.tolist(), strict=True))
        fates = dict(zip(D.FATES, output.fates.tolist(), strict=True))
        verdicts = {f"verdict.{name}": n for name, n in zip(VERDICTS, output.verdicts.tolist(), strict=True)}
        counters["handler-errors"] = self._n_failed_handlers
        fragments = {f"fragments.{name}": n for name, n in self.fragments.statistics().items()}
        shunt = {f"shunt.{name}": n for name, n in self.shunt.statistics().items()}
        return counters | fates | verdicts | self.ports.station_statistics() | fragments | shunt

"""Flow-mods carried out on a datapath: one by one, or all of a bundle and nothing if one fails."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from flowshunt.base.errors import UsageError
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.flow_mod import FlowMod
from flowshunt.control.openflow.flow_removed import REASON_DELETE, REASON_GROUP_DELETE
from flowshunt.control.openflow.group_table import GroupTable
from flowshunt.control.openflow.groups import GroupMod
from flowshunt.control.openflow.meter_table import MeterTable
from flowshunt.control.openflow.meters import MeterMod
from flowshunt.control.openflow.wire import GROUP_ALL, NO_BUFFER, OF12
from flowshunt.datapath.feed import Feed, feeds_of
from flowshunt.datapath.linking import MissingError, PoolFullError
from flowshunt.datapath.listing import FlowStatistics
from flowshunt.datapath.program import CompiledRule, GroupNumber, MeterNumber
from flowshunt.datapath.rules import OverlapError, TablesFullError
from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.links import check_conjunctions

_RESET_COUNTS = frozenset(("reset_counts",))

_REFUSALS: Mapping[type, str] = {
    TablesFullError: "OFPFMFC_TABLE_FULL",
    PoolFullError: "OFPFMFC_TABLE_FULL",
    OverlapError: "OFPFMFC_OVERLAP",
}

GROUP_DELETED, METER_DELETED = "group", "meter"
"""Why a flow goes, for `Rules.on_change`."""

HIDDEN_TABLE = 254
"""The table that Open vSwitch keeps to itself, and so do we."""


class _WayBack(NamedTuple):
    """What undoes a change, and the rules that it keeps for that."""

    undo: Callable[[], None]
    kept: list[CompiledRule]


_SLICE = 256
"""Flow-mods compiled between two turns of other work."""


class BundleError(Exception):
    """The message at `place` of a bundle failed with `error`."""

    def __init__(self, place: int, error: OpenFlowError) -> None:
        super().__init__(str(error))
        self.place = place
        self.error = error


class FlowChanges:
    """Carries out flow-mods. `removed` gets the statistics of deleted flows that asked to be reported."""

    def __init__(
        self,
        datapath: Datapath,
        removed: Callable[[FlowStatistics, int], None],
        groups: GroupTable,
        meters: MeterTable,
    ) -> None:
        self._datapath = datapath
        self._groups = groups
        self._meters = meters
        self._removed = removed
        self._reports = False
        self._prepared: dict[int, tuple[FlowMod, CompiledRule | None]] = {}
        self._plans: dict[int, _Plan] = {}
        self._spent: deque[list[Any]] = deque()

    def prepare(self, mod: FlowMod, version: int) -> None:
        """Compile a flow-mod that will be applied soon, while another thread uses the datapath.

        What cannot be compiled is told when it is applied. `forget` is to be called whatever becomes of it.
        """
        with contextlib.suppress(UsageError, OpenFlowError):
            _check(mod)
            self._prepared[id(mod)] = mod, self._compile(mod, version)

    def prepare_all(self, mods: Sequence[FlowMod | GroupMod], version: int) -> Iterator[None]:
        """The same of a bundle's messages, a slice at each step."""
        rules: list[CompiledRule | None] = []
        for index, mod in enumerate(mods):
            try:
                rules.append(self._checked(mod, version))
            except (UsageError, OpenFlowError) as problem:
                self._plans[id(mods[0])] = _Plan(mods[0], rules, {}, problem)
                return
            if index % _SLICE == _SLICE - 1:
                yield
        runs: dict[int, _Run] = {}
        done = 0
        while done < len(mods):
            run = self._run_from(mods, rules, done)
            if run is not None:
                runs[done] = run
                yield
            done += 1 if run is None else run.n
        if mods:
            self._plans[id(mods[0])] = _Plan(mods[0], rules, runs)
        yield from self._datapath.rules.make_room([feed for run in runs.values() if run.adds for feed in run.feeds])

    def forget(self, mods: Iterable[FlowMod | GroupMod]) -> None:
        """Let go of what was prepared of one message or a bundle's, and not applied because it was refused before."""
        for mod in mods:
            self._prepared.pop(id(mod), None)
            self._plans.pop(id(mod), None)
            break

    def apply(self, mod: FlowMod, version: int, now_ms: int) -> None:
        """Carry out one flow-mod. Raises OpenFlowError, and then nothing has changed."""
        try:
            _check(mod)
            rule = self._compile(mod, version)
            if mod.command.startswith("del"):
                way_back, lines = self._delete(mod, now_ms)
                for line in lines:
                    self._removed(line, REASON_DELETE)
                self.waste(way_back.kept)
            else:
                self._carry_out(mod, rule, version, now_ms)
        except UsageError as problem:
            raise refusal(problem) from None

    def apply_group(self, mod: GroupMod, now_ns: int) -> list[tuple[FlowStatistics, int]]:
        """Carry out one group-mod. Returns the flows that went with a group and are to be reported, and why.

        Raises OpenFlowError, and then nothing has changed.
        """
        try:
            gone = self._groups.apply(mod, now_ns)
        except UsageError as problem:
            raise refusal(problem) from None
        lines: list[FlowStatistics] = []
        for number in gone:
            request = F.Flow(table=F.ALL_TABLES, out_group=number)
            lines += self._datapath.selected(request) if self._reports else []
            self._datapath.delete_flows(request, why=GROUP_DELETED)
        return [(line, REASON_GROUP_DELETE) for line in lines if "send_flow_rem" in line.flow.flags]

    def apply_meter(self, mod: MeterMod, now_ns: int) -> list[FlowStatistics]:
        """Carry out one meter-mod. Returns the flows that went with a meter and are to be reported.

        Raises OpenFlowError, and then nothing has changed.
        """
        gone = set(self._meters.apply(mod, now_ns))
        rules = self._datapath.rules
        numbers = rules.that_refer_to(MeterNumber(number) for number in gone)
        lines = self._datapath.statistics_of(numbers)
        rules.remove(numbers, METER_DELETED)
        return [line for line in lines if "send_flow_rem" in line.flow.flags]

    def _way_back_of_group(self, mod: GroupMod, now_ms: int) -> _WayBack:
        groups, rules = self._groups, self._datapath.rules
        before = groups.snapshot()
        going = []
        if mod.command == "delete":
            for number in [number for number in before if mod.group in (GROUP_ALL, number)]:
                going += self._datapath.selected_rules(F.Flow(table=F.ALL_TABLES, out_group=number))

        def undo() -> None:
            groups.restore(before)
            rules.add(going, now_ms, refuses_overlaps=False)

        return _WayBack(undo, going)

    def apply_all(self, mods: Sequence[FlowMod | GroupMod], version: int, now_ns: int) -> None:
        """Carry out flow-mods and group-mods in order.

        Raises BundleError for the first that fails; then flows and groups are as before, except that those which were
        changed in between count from zero.
        """
        now_ms = now_ns // 1_000_000
        plan = self._plans.pop(id(mods[0]), None) if mods else None
        rules: list[CompiledRule | None] = [] if plan is None else plan.rules
        runs: Mapping[int, _Run] = {} if plan is None else plan.runs
        ways_back: list[_WayBack] = []
        gone: list[tuple[FlowStatistics, int]] = []
        done = one_by_one = 0
        try:
            if plan is None:
                for mod in mods:
                    rules.append(self._checked(mod, version))
            elif plan.problem is not None:
                raise plan.problem
            while done < len(mods):
                mod = mods[done]
                run = None
                if done >= one_by_one:
                    run = runs.get(done) if plan is not None else self._run_from(mods, rules, done)
                if run is not None:
                    try:
                        way_back, lines = self._carry_out_run(run, now_ms)
                    except UsageError:  # which message is to blame is seen when they come one by one
                        one_by_one = done + run.n
                        continue
                    ways_back.append(way_back)
                    gone += [(line, REASON_DELETE) for line in lines]
                    done += run.n
                    continue
                if isinstance(mod, GroupMod):
                    ways_back.append(self._way_back_of_group(mod, now_ms))
                    gone += self.apply_group(mod, now_ns)
                elif mod.command.startswith("del"):
                    way_back, lines = self._delete(mod, now_ms)
                    ways_back.append(way_back)
                    gone += [(line, REASON_DELETE) for line in lines]
                else:
                    ways_back.append(self._way_back(mod, rules[done], now_ms))
                    self._carry_out(mod, rules[done], version, now_ms)
                done += 1
        except (UsageError, OpenFlowError) as problem:
            for way_back in reversed(ways_back):
                way_back.undo()
            place = done if len(rules) == len(mods) else len(rules)
            raise BundleError(place, problem if isinstance(problem, OpenFlowError) else refusal(problem)) from None
        for line, reason in gone:
            self._removed(line, reason)
        for way_back in ways_back:
            self.waste(way_back.kept)

    def _checked(self, mod: FlowMod | GroupMod, version: int) -> CompiledRule | None:
        """What a message of a bundle adds or may add, if it is a flow-mod that can be carried out."""
        if isinstance(mod, GroupMod):
            return None
        _check(mod)
        return self._compile(mod, version)

    def _run_from(
        self, mods: Sequence[FlowMod | GroupMod], rules: Sequence[CompiledRule | None], at: int
    ) -> _Run | None:
        """The run that begins at `at`; None: the message there is to be carried out by itself."""
        added: list[CompiledRule] = []
        deleted: list[F.Flow] = []
        for place in range(at, len(mods)):
            mod, rule = mods[place], rules[place]
            if isinstance(mod, GroupMod):
                break
            if mod.command == "add" and rule is not None and not rule.checks_overlap and not deleted:
                added.append(rule)
            elif mod.command == "del_strict" and mod.flow.table != F.ALL_TABLES and not added:
                deleted.append(mod.flow)
            else:
                break
        if added:
            return _Run(len(added), tuple(feeds_of(added)), ())
        try:
            selections = [self._datapath.compile_selection(request) for request in deleted]
        except UsageError:  # told when it is carried out
            return None
        return _Run(len(deleted), tuple(feeds_of(selections)), tuple(deleted)) if deleted else None

    def _compile(self, mod: FlowMod, version: int) -> CompiledRule | None:
        """The rule that a flow-mod adds or may add; None for a deletion.

        A modification's actions are compiled, too, so that they are known to be right. Raises UsageError.
        """
        prepared = self._prepared.pop(id(mod), None)
        if prepared is not None and prepared[0] is mod:
            return prepared[1]
        flow = mod.flow
        if mod.command.startswith("del"):
            return None
        if mod.command != "add":
            flow = mod.added or replace(flow, table=0 if flow.table == F.ALL_TABLES else flow.table)
        self._reports = self._reports or "send_flow_rem" in flow.flags
        if version < OF12:  # before there was the flag, there was no way to keep the counters
            flow = flow.with_flags(flow.flags | _RESET_COUNTS)
        return self._datapath.compile(flow, keeps_counters="reset_counts" not in flow.flags)

    def _carry_out_run(self, run: _Run, now_ms: int) -> tuple[_WayBack, list[FlowStatistics]]:
        """Add or delete rules in one go. Returns what undoes it, and the deleted flows that are to be reported.

        An exception has undone it.
        """
        if not run.adds:
            return self._delete_run(run, now_ms)
        rules = self._datapath.rules
        replaced: list[CompiledRule] = []

        def undo() -> None:
            for feed in run.feeds:
                rules.take_back(feed.rules)
            own = {id(rule) for feed in run.feeds for rule in feed.rules}
            rules.add([rule for rule in replaced[::-1] if id(rule) not in own], now_ms, refuses_overlaps=False)

        try:
            for feed in run.feeds:
                rules.add_feed(feed, now_ms, replaced)
        except UsageError:
            undo()
            raise
        return _WayBack(undo, replaced), []

    def _delete_run(self, run: _Run, now_ms: int) -> tuple[_WayBack, list[FlowStatistics]]:
        datapath, rules = self._datapath, self._datapath.rules
        requests = iter(run.requests)
        going: dict[int, None] = {}
        for feed in run.feeds:
            for number, request in zip(rules.find_all(feed), requests, strict=False):
                if number is not None and datapath.is_selected(number, request):
                    going[number] = None
        numbers = list(going)
        lines = datapath.statistics_of(numbers) if self._reports else []
        removed = rules.remove(numbers)

        def undo() -> None:
            rules.add(removed, now_ms, refuses_overlaps=False)

        return _WayBack(undo, removed), [line for line in lines if "send_flow_rem" in line.flow.flags]

    def waste(self, things: list[Any]) -> None:
        """Leave things that nobody needs any more to `tidy`."""
        if len(things) > _SLICE:
            self._spent.append(things)

    @property
    def has_waste(self) -> bool:
        """Whether there is something to `tidy`."""
        return bool(self._spent)

    def tidy(self) -> Iterator[None]:
        """Let go of what changes have left, a slice at each step: to free a hundred thousand objects takes long.

        For the thread that need not hurry.
        """
        while self._spent:
            things = self._spent.popleft()
            while things:
                del things[-_SLICE:]
                yield

    def _way_back(self, mod: FlowMod, rule: CompiledRule | None, now_ms: int) -> _WayBack:
        """What undoes a flow-mod that is about to be carried out."""
        datapath = self._datapath
        added = [rule] if rule is not None else []
        if mod.command == "add":
            found = datapath.rules.find(added[0])
            before = [] if found is None else [datapath.rules.rule(found)]
        else:
            before = datapath.selected_rules(mod.flow, strict=mod.command.endswith("_strict"))

        def undo() -> None:
            datapath.rules.take_back(added)
            datapath.rules.add(before, now_ms, refuses_overlaps=False)

        return _WayBack(undo, before)

    def _carry_out(self, mod: FlowMod, rule: CompiledRule | None, version: int, now_ms: int) -> None:
        """Carry out an addition or a modification that was checked."""
        datapath, flow = self._datapath, mod.flow
        if mod.command == "add":
            self._add(rule, now_ms)
            return
        strict = mod.command.endswith("_strict")
        resets = "reset_counts" in flow.flags and version >= OF12
        n_changed = datapath.modify_flows(flow, strict=strict, add=False, now_ms=now_ms, resets_counters=resets)
        if not n_changed and mod.added is not None:
            self._add(rule, now_ms)

    def _delete(self, mod: FlowMod, now_ms: int) -> tuple[_WayBack, list[FlowStatistics]]:
        """Carry out a deletion. Returns what undoes it, and the deleted flows that are to be reported."""
        datapath, strict = self._datapath, mod.command.endswith("_strict")
        going = datapath.selected(mod.flow, strict=strict) if self._reports else []
        removed = datapath.remove_rules(mod.flow, strict=strict)

        def undo() -> None:
            datapath.rules.add(removed, now_ms, refuses_overlaps=False)

        return _WayBack(undo, removed), [line for line in going if "send_flow_rem" in line.flow.flags]

    def _add(self, rule: CompiledRule | None, now_ms: int) -> None:
        assert rule is not None  # only deletions have none
        self._datapath.rules.add((rule,), now_ms)


def _check(mod: FlowMod) -> None:
    """Refuse what the datapath cannot do."""
    if mod.buffer_id != NO_BUFFER:
        raise OpenFlowError("OFPBRC_BUFFER_UNKNOWN", "no packets are kept here")
    if mod.flow.table == HIDDEN_TABLE:
        raise OpenFlowError("OFPBRC_EPERM", f"table {HIDDEN_TABLE} is the switch's own")
    problem = check_conjunctions(mod.flow.actions)
    if problem:
        raise OpenFlowError("NXBAC_BAD_CONJUNCTION", problem)


class _Run(NamedTuple):
    """Messages of a bundle that are carried out together: n additions, or strict deletions with their `requests`.

    None of them needs to look at the flows there are, except for the equal one.
    """

    n: int
    feeds: tuple[Feed, ...]
    requests: tuple[F.Flow, ...]

    @property
    def adds(self) -> bool:
        """Whether rules are added."""
        return not self.requests


class _Plan(NamedTuple):
    """What was prepared of a bundle: its first message, what each became, and the runs by the place of their first.

    With a `problem` it is refused, for the message behind those in `rules`.
    """

    first: FlowMod | GroupMod
    rules: list[CompiledRule | None]
    runs: Mapping[int, _Run]
    problem: UsageError | OpenFlowError | None = None


def refusal(problem: UsageError) -> OpenFlowError:
    """The error for a flow that the compiler or the tables refused."""
    if isinstance(problem, MissingError):
        is_group = isinstance(problem.thing, GroupNumber)
        return OpenFlowError("OFPBAC_BAD_OUT_GROUP" if is_group else "OFPMMFC_INVALID_METER", str(problem))
    for kind, name in _REFUSALS.items():
        if isinstance(problem, kind):
            return OpenFlowError(name, str(problem))
    return OpenFlowError("OFPBAC_BAD_ARGUMENT", str(problem))


def selects_all(request: F.Flow) -> bool:
    """Whether a request means all flows there are."""
    return request.table == F.ALL_TABLES and replace(request, table=0) == F.Flow()

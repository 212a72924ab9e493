"""A recording told in the words of the rules that the packet met.

What is told has the form of Open vSwitch's trace: bridges, tables, actions, and remarks on what they did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from flowshunt.datapath import schema as D
from flowshunt.datapath.linking import Linker
from flowshunt.datapath.program import PUNT_HELPER, W_SCRATCH, CompiledRule
from flowshunt.datapath.tracing.record import (
    Chosen,
    Entered,
    Executed,
    Fetched,
    Frame,
    Key,
    Lookup,
    Part,
    Punted,
    Recording,
    Refused,
    Sent,
    Tracked,
    Written,
)
from flowshunt.packet.schema import W_METADATA, W_REG
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.action_set import action_set
from flowshunt.rules.openflow.buckets import Bucket
from flowshunt.rules.openflow.compile import action_places
from flowshunt.rules.openflow.format import format_action, format_match, format_part
from flowshunt.rules.openflow.nat import write_nat
from flowshunt.rules.openflow.tracing.actions import DatapathActions, marks_of
from flowshunt.rules.openflow.tracing.keys import add_hashed, add_to_mask, read_part

DETAIL, WARNING, ERROR = "detail", "warning", "error"
BRIDGE, TABLE, BUCKET, THAW, ACTION = "bridge", "table", "bucket", "thaw", "action"

_COUNT_WORDS = 3
_ERRORS = {
    D.FATE_DEPTH: (f"over max translation depth {D.MAX_DEPTH}", "Recursion too deep"),
    D.FATE_RESUBMITS: (f"over {D.MAX_RESUBMITS} resubmit actions", "Too many resubmits"),
    D.FATE_SNAPSHOTS: ("too many copies of the packet, or values on its stack", "Stack too deep"),
    D.FATE_TRACKS: (f"over {D.MAX_TRACKS} passes through the tracker", "Too many resubmits"),
}
_NOT_SENT = {
    D.FATE_IN_PORT: "skipping output to input port",
    D.FATE_NO_PORT: "Nonexistent output port",
}
_NORMAL = {
    D.FATE_SAME_PORT: (DETAIL, "learned port is input port, dropping"),
    D.FATE_VLAN: (WARNING, "disallowed VLAN VID for this input port, dropping"),
    D.FATE_RESERVED: (WARNING, "the destination address is reserved for the switch, dropping"),
    D.FATE_NO_PORT: (WARNING, "no input bundle, dropping"),
}
_OTHERS = {
    D.FATE_METER: (WARNING, "the meter drops it"),
    D.FATE_HELD: (DETAIL, "the fragment waits for the others of its datagram"),
    D.FATE_FRAGMENT: (WARNING, "the fragment is dropped"),
}


@dataclass
class Node:
    """One line, and what lies in it. `kind` is one of those above."""

    kind: str
    text: str
    nodes: list[Node] = field(default_factory=list)


class Group(NamedTuple):
    """A group, for its story: its number, type and buckets, and where their counters lie in its program."""

    number: int
    kind: str
    buckets: Sequence[Bucket]
    places: Sequence[int]


class Place(NamedTuple):
    """A bridge, for stories that happen in it. `names`: of its ports by number, where they are wanted."""

    name: str
    linker: Linker
    names: Mapping[int, str]
    group: Callable[[int], Group | None]
    datapath_port: Callable[[int], str]
    """How the datapath's actions name a port."""
    behind: Callable[[int, bytes, tuple[int, ...]], Story | None]
    """What becomes of a frame that leaves on a port that leads to another bridge; None: it leads out. The last argument
    is what the paths of its parts begin with.
    """


@dataclass
class Chapter:
    """One part of the way. `recirc_id`: 0 in the first; `state`: what the tracker said, where it led here."""

    bridge: Place
    part: Part
    recirc_id: int
    nodes: list[Node]
    actions: str
    failure: str | None
    nat: NatChange | None = None


class NatChange(NamedTuple):
    """A packet's addresses, before and after NAT."""

    before: Key
    after: Key
    is_ipv6: bool


@dataclass
class Story:
    """All chapters, in the order in which they are told."""

    recording: Recording
    chapters: list[Chapter]
    waiting: list[Chapter]
    """Those of `chapters` that happen after others."""

    @property
    def frames(self) -> list[Frame]:
        """What leaves its bridge."""
        return self.recording.frames


class Teller:
    """Tells the story of one recording. `numbers` gives recirculations their numbers."""

    def __init__(self, place: Place, recording: Recording, numbers: Callable[[], int]) -> None:
        self._place = place
        self._recording = recording
        self._number = numbers
        self._ids: dict[int, int] = {}
        self._later: list[Chapter] = []
        self._names = place.names
        self._writes: dict[int, tuple[int, tuple[F.Action, ...], F.Flow]] = {}

    def tell(self, outside: F.Flow | None = None) -> Story:
        """The story. `outside`: the actions of no table that the packet began with."""
        parts = sorted(self._recording.parts, key=lambda part: (len(part.path), part.path))
        for part in parts:
            self._ids[id(part)] = 0 if part.cause is None else self._number()
        chapters = [self._chapter(part, outside if part.cause is None else None) for part in parts]
        return Story(self._recording, [chapters[0], *chapters[1:], *self._later], chapters[1:] + self._later)

    def _chapter(self, part: Part, outside: F.Flow | None) -> Chapter:
        actions = DatapathActions(part.key, self._place.datapath_port)
        told = _Telling(self, part, actions)
        nodes = told.steps(part.steps, outside)
        for word in (W_METADATA, *range(W_REG, W_REG + 8)):
            part.mask[word] = 0  # no packet has them
        tree = [Node(BRIDGE, f'bridge("{self._place.name}")', [])]
        if part.cause is None:
            tree[0].nodes = nodes
        else:
            table = (part.cause.instruction[0] >> 16) & 0xFF
            tree[0].nodes = [Node(THAW, "thaw", [Node(THAW, f"Resuming from table {table}")]), *nodes]
        failure = _ERRORS[part.failed][1] if part.failed in _ERRORS else None
        return Chapter(self._place, part, self._ids[id(part)], tree, actions.text(), failure)

    def inner(self, story: Story) -> None:
        """Another bridge's story is told within this one; what happens later there is told later."""
        self._later += story.waiting

    def wrote(self, step: Written, actions: tuple[F.Action, ...], flow: F.Flow) -> None:
        """A flow has written to an action set."""
        self._writes[step.head] = step.previous, actions, flow

    def action_set(self, head: int) -> tuple[tuple[F.Action, ...], F.Flow]:
        """What the action set is that ends with a write, and the flow that wrote last."""
        written: tuple[F.Action, ...] = ()
        last = F.Flow()
        while head in self._writes:
            head, actions, flow = self._writes[head]
            last = flow if not written else last
            written = actions + written
        return action_set(written), last

    def recirc_id(self, part: Part) -> int:
        """Its number."""
        return self._ids[id(part)]


class _Telling:
    """Tells one part."""

    def __init__(self, teller: Teller, part: Part, actions: DatapathActions) -> None:
        self._teller = teller
        self._place = teller._place
        self._names = teller._names
        self._frames = teller._recording.frames
        self._part = part
        self._actions = actions
        self._flow = F.Flow()
        self._n_patches = 0

    def steps(self, steps: Sequence[Any], flow: F.Flow | None, places: Mapping[int, Any] | None = None) -> list[Node]:
        """What happened while one program ran, that of `flow` unless `places` says which actions lie where."""
        outer, self._flow = self._flow, flow or self._flow
        known = places if places is not None else action_places(flow, flow.actions) if flow is not None else {}
        nodes: list[Node] = []
        if flow is not None and not flow.actions:
            nodes.append(Node(ACTION, "drop"))
        action: F.Action | None = None
        for at, step in enumerate(steps):
            if isinstance(step, Fetched):
                for action in known.get(step.offset, ()):
                    nodes += self._action(action, _key_after(steps, at) or step.key)
            elif isinstance(step, Tracked) and isinstance(action, F.Ct):
                nodes += self._tracked(step, action)
            elif isinstance(step, Entered) and isinstance(action, F.Group):
                nodes += self._group(step, action)
            elif isinstance(step, Written):
                nodes.append(self._written(step, action))
            else:
                nodes += self._other(step, action)
        self._flow = outer
        return nodes

    def _action(self, action: F.Action, after: Key) -> list[Node]:
        """An action that is about to run, with what it makes of a field."""
        nodes = [Node(ACTION, format_action(action, self._flow, self._names))]
        mask = self._part.mask
        match action:
            case F.Move(source, dest):
                add_to_mask(mask, source)
                add_to_mask(mask, dest)
                nodes.append(Node(DETAIL, f"{format_part(dest, self._flow)} is now {read_part(after, dest):#x}"))
            case F.SetField(dest, _, bits):
                add_to_mask(mask, dest, bits)
            case F.DecTtl():
                add_to_mask(mask, F.Subfield("nw_ttl", 0, 8))
            case F.PushVlan() | F.PopVlan():
                add_to_mask(mask, F.Subfield("vlan_tci", 0, 16))
            case F.Normal():
                for place in ("eth_src", "eth_dst"):
                    add_to_mask(mask, F.Subfield(place, 0, 48))
                add_to_mask(mask, F.Subfield("vlan_tci", 0, 13))
            case F.Multipath(dest=part) | F.Bundle(dest=F.Subfield() as part):
                add_to_mask(mask, part)
                add_hashed(mask, action, after)
                nodes.append(Node(DETAIL, f"{format_part(part, self._flow)} is now {_number(after[W_SCRATCH])}"))
            case F.Bundle():
                add_hashed(mask, action, after)
            case F.OutputTruncated(max_len=max_len):
                self._actions.truncate(max_len)
            case F.Output(F.Subfield() as part):
                add_to_mask(mask, part)
                nodes.append(Node(DETAIL, f"output port is {read_part(after, part)}"))
            case F.Learn(specs):
                for spec in specs:
                    if isinstance(spec.source, F.Subfield):
                        add_to_mask(mask, spec.source)
            case F.CtClear():
                self._actions.clear_ct()
            case F.Meter(number):
                self._actions.meter(number)
            case F.Ct(zone=F.Subfield() as part):
                add_to_mask(mask, part)
        return nodes

    def _tracked(self, step: Tracked, action: F.Ct) -> list[Node]:
        names = [write_nat(action.nat)] if action.nat is not None else []
        names += [format_action(each, self._flow, self._names) for each in action.exec]
        nodes = [Node(ACTION, text) for text in names or ["drop"]]
        recirc_id = None
        if step.part is not None:
            recirc_id = self._teller.recirc_id(step.part)
            nodes.append(
                Node(
                    DETAIL,
                    "A clone of the packet is forked to recirculate. The forked pipeline will be resumed at table "
                    f"{(step.instruction[0] >> 16) & 0xFF}.",
                )
            )
        nodes.append(Node(DETAIL, "Sets the packet to an untracked state, and clears all the conntrack fields."))
        self._actions.ct(step.key, action, step.zone, marks_of(action.exec, step.after), recirc_id)
        return nodes

    def _group(self, step: Entered, action: F.Group) -> list[Node]:
        group = self._place.group(action.group)
        if group is None:
            return [Node(WARNING, f"output to nonexistent group {action.group}")]
        places: dict[int, Any] = {}
        for bucket, counted in zip(group.buckets, group.places, strict=True):
            if counted:
                begin = counted - 1
                found = action_places(F.Flow(table=F.ALL_TABLES), bucket.steps())
                places |= {begin + _COUNT_WORDS + offset: actions for offset, actions in found.items()}
        return self._buckets(step, group, places)

    def _buckets(self, step: Entered, group: Group, places: dict[int, Any]) -> list[Node]:
        """The buckets that ran, each with what happened in it."""
        begins = {counted - 1: bucket for bucket, counted in zip(group.buckets, group.places, strict=True) if counted}
        nodes: list[Node] = []
        run: list[tuple[Bucket, list[Any]]] = []
        for each in step.steps:
            if isinstance(each, Fetched) and each.offset in begins:
                run.append((begins[each.offset], []))
            elif run and not isinstance(each, Chosen):
                run[-1][1].append(each)
        if not run:
            nodes.append(Node(DETAIL, "no live bucket"))
        for bucket, steps in run:
            if group.kind in ("select", "fast_failover"):
                nodes.append(Node(DETAIL, f"using bucket {bucket.id}"))
            inner = self.steps(steps, None, places)
            nodes.append(Node(BUCKET, f"bucket {bucket.id}", inner or [Node(ACTION, "drop")]))
        return nodes

    def _written(self, step: Written, action: F.Action | None) -> Node:
        """What the action set is by a write, or was before it was emptied."""
        actions: tuple[F.Action, ...]
        if not isinstance(action, F.WriteActions):
            verb, (actions, flow) = "was", self._teller.action_set(step.previous)
        elif step.head == step.previous:  # what is carried out cannot be written to
            verb, actions, flow = "is", action_set(action.actions), self._flow
        else:
            self._teller.wrote(step, action.actions, self._flow)
            verb, (actions, flow) = "is", self._teller.action_set(step.head)
        text = ",".join(format_action(each, flow, self._names) for each in actions)
        return Node(DETAIL, f"action set {verb}: {text}" if text else f"action set {verb} empty")

    def _executed(self, step: Executed) -> Node:
        """What an action set does; all but its last action is done at once."""
        actions, flow = self._teller.action_set(step.head)
        outer, self._flow = self._flow, flow
        nodes: list[Node] = []
        over = step.steps[:1] == [Refused(D.FATE_TTL)]
        for action in actions[:-1]:
            nodes += self._action(action, step.key)
            if over and isinstance(action, F.DecTtl):
                break
        places = {} if over else {0: actions[-1:]}
        nodes += self.steps(step.steps, None, places)
        self._flow = outer
        return Node(TABLE, "--. Executing action set:", nodes)

    def _other(self, step: Any, action: F.Action | None) -> list[Node]:
        match step:
            case Lookup():
                return [self._table(step)]
            case Executed():
                return [self._executed(step)]
            case Sent():
                return self._sent(step)
            case Punted():
                return self._punted(step)
            case Refused(why) if why in _ERRORS:
                return [Node(ERROR, _ERRORS[why][0])]
            case Refused(D.FATE_TTL):
                version = 6 if read_part(self._part.key, F.Subfield("eth_type", 0, 16)) == 0x86DD else 4
                return [Node(WARNING, f"IPv{version} decrement TTL exception")]
            case Refused(why) if why in _OTHERS:
                return [Node(*_OTHERS[why])]
        return []

    def _table(self, step: Lookup) -> Node:
        head = f"{step.table:2d}. "
        if step.rule is None:
            miss = 'No match, and a "packet-in" is called for.' if step.calls_controller else "No match."
            inner = self.steps(step.steps, None)
            return Node(TABLE, head + miss, inner or [Node(ACTION, "drop")])
        flow = step.rule.source
        text = format_match(replace(flow, priority=F.DEFAULT_PRIORITY), self._names)
        text = f"{text}, priority {flow.priority}" if text else f"priority {flow.priority}"
        if flow.cookie:
            text += f", cookie {flow.cookie:#x}"
        return Node(TABLE, head + text, self.steps(step.steps, flow))

    def _sent(self, step: Sent) -> list[Node]:
        nodes = []
        if step.to is not None and step.to < 0:
            nodes.append(Node(*_NORMAL.get(-step.to, (WARNING, D.FATES[-step.to]))))
        elif step.to is not None:
            floods = step.to == D.PORT_FLOOD
            text = "no learned MAC for destination, flooding" if floods else "forwarding to learned port"
            nodes.append(Node(DETAIL, text))
        elif not step.ports and step.fate in _NOT_SENT:
            nodes.append(Node(WARNING, _NOT_SENT[step.fate]))
        for n, port in enumerate(step.ports):
            frame = self._frames[step.first + n].data if step.first + n < len(self._frames) else b""
            self._n_patches += 1
            story = self._place.behind(port, frame, (*self._part.path, 1_000_000 + self._n_patches))
            if story is None:
                self._actions.output(step.key, (port,))
                continue
            self._teller.inner(story)
            nodes += story.chapters[0].nodes
            if story.chapters[0].actions != "drop":
                self._actions.commit(step.key)
                self._actions.inside([story.chapters[0].actions])
        return nodes

    def _punted(self, step: Punted) -> list[Node]:
        if step.reason == PUNT_HELPER:
            return [Node(DETAIL, "the connection's helper would see the packet here; it is not asked")]
        handled = self._place.linker.handled(step.argument)
        if handled is None:
            return []
        if isinstance(handled.action, F.Controller):
            self._actions.controller(step.key, handled.action, handled.flow.cookie)
            return [Node(DETAIL, "the packet would wait for a controller")] if handled.action.pause else []
        name = format_action(handled.action, F.Flow()).partition("(")[0]
        return [Node(WARNING, f"suppressing side effects, so {name} action ignored")]


def _number(value: int) -> str:
    return f"{value:#x}" if value else "0"


def _key_after(steps: Sequence[Any], at: int) -> Key | None:
    """The packet's key once the instruction of step `at` has run."""
    for step in steps[at + 1 :]:
        if isinstance(step, Fetched | Sent | Punted):
            return step.key
    return None


def outside_rule(flow: F.Flow, program: tuple[int, ...], late: Any) -> CompiledRule:
    """A rule of no table with the actions of a flow."""
    return CompiledRule(D.OUTSIDE_TABLE, 0, (), program, flow, late=late)

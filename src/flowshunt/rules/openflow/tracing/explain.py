"""Explains what becomes of a packet in a world of bridges, without a trace left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple, Protocol

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.schema import NAT_DST, NAT_KIND
from flowshunt.datapath.program import CT_NAT, CT_WORDS, as_int64
from flowshunt.datapath.tables import Datapath
from flowshunt.datapath.tracing.record import Key
from flowshunt.datapath.tracing.run import Tracer
from flowshunt.packet.schema import FIELDS, W_CT, W_PORT
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.compile import compile_actions
from flowshunt.rules.openflow.tracing.compose import compose
from flowshunt.rules.openflow.tracing.keys import headers_of, pipeline_of, read
from flowshunt.rules.openflow.tracing.story import Group, NatChange, Place, Story, Teller, outside_rule

DEFAULT, ASKED, TRACKER = "default", "asked", "tracker"
"""Who said what the tracker says."""

_MAX_BRIDGES = 32
_TRK_NEW = 0x21
_WORD = (1 << 64) - 1


class Bridge(Protocol):
    """A bridge, as explaining needs it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def datapath(self) -> Datapath:
        """What forwards."""

    @property
    def ports(self) -> Mapping[str, int]:
        """OpenFlow numbers of its ports by name."""

    def group(self, number: int) -> Group | None:
        """A group of it."""

    def datapath_port(self, number: int) -> str:
        """How the datapath's actions name a port."""

    def peer(self, number: int) -> tuple[Bridge, int] | None:
        """Where a patch port leads to."""


class Asked(NamedTuple):
    """A packet to explain. `key`: its flow; `frame`: its bytes, where they were given or made.

    `is_real`: the tracker is asked about it, unless `ct_next` says what it says, one state for each time. `actions`:
    those that it begins with, in place of the first table. `names`: ports are named.
    """

    bridge: Bridge
    key: Key
    frame: bytes | None = None
    is_real: bool = False
    ct_next: tuple[int, ...] = ()
    actions: tuple[F.Action, ...] | None = None
    names: bool = False


class Explained(NamedTuple):
    """A story, and by the paths of its parts who said what the tracker says there."""

    story: Story
    sources: dict[tuple[int, ...], str]


@dataclass
class _Supposed:
    """States by path of the part that they lead to; the first state of a new connection where none is said."""

    states: Mapping[tuple[int, ...], int]
    changes: dict[tuple[int, ...], NatChange] = field(default_factory=dict)

    def after(self, path: tuple[int, ...], instruction: tuple[int, ...], zone: int, key: list[int]) -> list[int]:
        """See `datapath.tracing.recorder.Supposition`."""
        state = self.states.get(path, _TRK_NEW)
        before = tuple(key)
        key[W_CT] = as_int64((zone << 48 | state << 32) & _WORD)
        if (instruction[0] >> 8) & CT_NAT:
            _translate(key, instruction[CT_WORDS:])
            if tuple(key[:W_CT]) != before[:W_CT]:
                self.changes[path] = NatChange(before, tuple(key), (instruction[CT_WORDS] >> 8) & 0xFF == 6)
        return key


def _put(key: list[int], place: str, value: int) -> None:
    place_ = FIELDS[place]
    if place_.width > 64:
        key[place_.word], key[place_.word + 1] = as_int64(value >> 64), as_int64(value & _WORD)
        return
    bits = ((1 << place_.width) - 1) << place_.shift
    key[place_.word] = as_int64((key[place_.word] & _WORD & ~bits) | value << place_.shift)


def _translate(key: list[int], spec: tuple[int, ...]) -> None:
    """The first address and port of a range, in place of the packet's own."""
    head, high, low = spec[:3]
    kind, family = head & NAT_KIND, (head >> 8) & 0xFF
    end = "dst" if kind == NAT_DST else "src"
    if not kind or family not in (4, 6):
        return
    address = (high & _WORD) << 64 | low & _WORD
    _put(key, f"ipv6_{end}" if family == 6 else f"nw_{end}", address if family == 6 else address & 0xFFFFFFFF)
    port = (head >> 16) & 0xFFFF
    if port:
        _put(key, f"tp_{end}", port)


class _World:
    """One telling."""

    def __init__(self, asked: Asked, now_ns: int, tracer: Tracer, suppose: _Supposed | None) -> None:
        self._asked = asked
        self._now_ns = now_ns
        self._tracer = tracer
        self._suppose = suppose
        self._next_id: Callable[[], int] = count(1).__next__
        self._depth = 0

    def first(self) -> Story:
        """The story of the packet that was asked about."""
        asked = self._asked
        in_port = read(asked.key, "in_port")
        pipeline = {word: value for word, value in pipeline_of(asked.key).items() if word != W_PORT}
        pipeline[W_PORT] = asked.key[W_PORT] & 0xFFFFFFFF
        outside = rule = None
        if asked.actions is not None:
            outside = F.Flow(table=F.ALL_TABLES, actions=asked.actions)
            rule = outside_rule(outside, *compile_actions(asked.actions))
        recording = self._tracer.trace(
            asked.bridge.datapath,
            compose(asked.key) if asked.frame is None else asked.frame,
            in_port,
            self._now_ns,
            header=headers_of(asked.key) if asked.frame is None else (),
            pipeline=pipeline,
            suppose=self._suppose,
            program=rule,
        )
        return Teller(self._place(asked.bridge), recording, self._next_id).tell(outside)

    def _place(self, bridge: Bridge) -> Place:
        names = {number: name for name, number in bridge.ports.items()} if self._asked.names else {}

        def behind(port: int, data: bytes, path: tuple[int, ...]) -> Story | None:
            end = bridge.peer(port)
            return None if end is None else self._inner(*end, data, path)

        def datapath_port(number: int) -> str:
            return names.get(number) or bridge.datapath_port(number)

        return Place(bridge.name, bridge.datapath.rules.linker, names, bridge.group, datapath_port, behind)

    def _inner(self, bridge: Bridge, in_port: int, data: bytes, path: tuple[int, ...]) -> Story:
        if self._depth >= _MAX_BRIDGES:
            raise UsageError("the packet passes too many patch ports", hint="they lead round in a circle")
        self._depth += 1
        recording = self._tracer.trace(bridge.datapath, data, in_port, self._now_ns, suppose=self._suppose, path=path)
        story = Teller(self._place(bridge), recording, self._next_id).tell()
        self._depth -= 1
        return story


def explain(asked: Asked, now_ns: int) -> Explained:
    """What becomes of a packet. For the packet thread, between two batches; leaves everything as it was.

    Raises UsageError for a frame that is none, actions that cannot be, and a way that is too long to be told.
    """
    if asked.is_real and not asked.ct_next:
        with Tracer() as tracer:
            story = _World(asked, now_ns, tracer, None).first()
        return Explained(story, {})
    states: dict[tuple[int, ...], int] = {}
    while True:
        suppose = _Supposed(states)
        with Tracer() as tracer:
            story = _World(asked, now_ns, tracer, suppose).first()
        paths = [chapter.part.path for chapter in story.chapters if chapter.part.cause is not None]
        wanted = dict(zip(paths, asked.ct_next, strict=False))
        # A state changes which parts follow, but never those before it: each round settles at least one more.
        if wanted == states:
            break
        states = wanted
    for chapter in story.chapters:
        chapter.nat = suppose.changes.get(chapter.part.path)
    return Explained(story, {path: ASKED if path in states else DEFAULT for path in paths})

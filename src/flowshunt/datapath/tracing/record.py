"""What is told of a packet: its way in parts, as Open vSwitch tells it.

A part is what happens between two passes through the tracker that lead on to a table. `steps` of a part and of what is
in it are in the order in which they happened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flowshunt.datapath.program import CompiledRule

Key = tuple[int, ...]
"""A flow key; words are int64."""


class Fetched(NamedTuple):
    """The instruction `offset` words into the running program is about to run; `key` is the packet's."""

    offset: int
    key: Key


class Sent(NamedTuple):
    """An output instruction has run: the ports that frames went to, in order, and those frames' places in `tx`.

    `fate`: why there are none (schema.FATE_*), 0 otherwise. `to`: what `normal` decided, a port or -FATE_*; None: it
    was not asked.
    """

    ports: tuple[int, ...]
    first: int
    fate: int
    key: Key
    to: int | None


class Punted(NamedTuple):
    """Python would be asked here: `reason` and `argument` as in `datapath.punts`."""

    reason: int
    argument: int
    key: Key


class Refused(NamedTuple):
    """Something ended here: `why` is schema.FATE_*."""

    why: int


@dataclass
class Lookup:
    """A table was looked at. `rule`: None when there is none; `calls_controller`: a miss that one is told of."""

    table: int
    rule: CompiledRule | None
    in_port: int
    deeper: bool
    calls_controller: bool = False
    steps: list[Any] = field(default_factory=list)


@dataclass
class Entered:
    """A group was entered, the one whose cell in the pool is `cell`."""

    cell: int
    steps: list[Any] = field(default_factory=list)


class Written(NamedTuple):
    """The action set was written to, or emptied: the number of its last write now (0: none), and of that before.

    They are the same where there was nothing to write to, because a set is being carried out.
    """

    head: int
    previous: int


@dataclass
class Executed:
    """The action set that ends with the write `head` was carried out; `key` is the packet's then, before its last
    action. The program of that one begins at offset 0.
    """

    head: int
    key: Key = ()
    steps: list[Any] = field(default_factory=list)


class Chosen(NamedTuple):
    """A select group chose the bucket whose program begins `offset` words into the group's."""

    offset: int


@dataclass
class Tracked:
    """The ct action `instruction` was passed. `key`: before; `after`: with what the tracker said."""

    instruction: tuple[int, ...]
    zone: int
    row: int
    key: Key
    after: Key
    part: Part | None = None


@dataclass
class Part:
    """One part. `cause`: the ct action that led here, None in the first one. `mask`: bits of the key that mattered."""

    path: tuple[int, ...]
    key: Key
    cause: Tracked | None
    mask: list[int]
    final: Key = ()
    failed: int = 0
    steps: list[Any] = field(default_factory=list)


class Frame(NamedTuple):
    """What left: port, bytes."""

    port: int
    data: bytes


class Recording(NamedTuple):
    """All of it. `parts`: in the order in which they were begun. `fate`: of the packet, index into FATES."""

    parts: list[Part]
    frames: list[Frame]
    fate: int
    ct_state: int

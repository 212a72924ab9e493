"""Groups compiled: their buckets' actions as one program that counts, copies and chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from flowshunt.datapath.program import Assembler, Late, as_int64
from flowshunt.packet.schema import FIELDS, W_L4, W_NW_DST, W_NW_SRC
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.action_set import action_set
from flowshunt.rules.openflow.compile import compile_actions

TYPES = ("all", "select", "indirect", "fast_failover")

GROUP_FLOW = F.Flow(table=F.ALL_TABLES)
"""The flow that handlers see for actions of groups, whose own flow is not known."""

_WORD = (1 << 64) - 1
_DEFAULT_FIELDS = (
    *((word, _WORD) for word in (W_NW_SRC, W_NW_SRC + 1, W_NW_DST, W_NW_DST + 1)),
    (W_L4, 0xFFFFFFFF << 32 | 0xFF << 24),
)
"""What tells conversations apart: addresses, ports, protocol (Open vSwitch's hash of the datapath)."""


class Bucket(NamedTuple):
    """One bucket, its actions as somebody wrote them; None where nothing is watched."""

    actions: tuple[F.Action, ...]
    weight: int = 0
    watch_port: int | None = None
    watch_group: int | None = None
    id: int = 0

    def steps(self) -> tuple[F.Action, ...]:
        """Its actions as they are carried out: those of a set."""
        return action_set(self.actions)

    def is_watched(self) -> bool:
        """Whether it depends on a port or group."""
        return self.watch_port is not None or self.watch_group is not None


class CompiledGroup(NamedTuple):
    """A group's program; packets and bytes are counted in it from `counted` on, and of buckets from their `places`.

    A bucket that no packet can reach has the place 0.
    """

    program: tuple[int, ...]
    late: tuple[Late, ...]
    counted: int
    places: tuple[int, ...]


_Body = tuple[tuple[int, ...], tuple[Late, ...]]


def _body(bucket: Bucket) -> _Body:
    """The program of one bucket; its counters are the second and third word."""
    out = Assembler()
    out.count()
    program, late = compile_actions(bucket.steps(), GROUP_FLOW)
    out.append(program, late)
    return tuple(out.words), tuple(out.late)


def _key_words(fields: Sequence[tuple[str, int]]) -> list[tuple[int, int]]:
    """Words and masks of the key for fields and masks."""
    found = []
    for name, mask in fields:
        place = FIELDS[name]
        if place.width > 64:
            found += [(place.word, mask >> 64), (place.word + 1, mask & _WORD)]
        else:
            found.append((place.word, mask << place.shift))
    return found


def compile_group(
    kind: str,
    buckets: Sequence[Bucket],
    is_live: Callable[[Bucket], bool],
    basis: int = 0,
    fields: Sequence[tuple[str, int]] = (),
) -> CompiledGroup:
    """Compile a group of one of TYPES.

    `basis` and `fields` (name, mask) are what a select group chooses by; without fields it is the conversation. A
    bucket that watches something is chosen only while it is live, by "select" and "fast_failover". Raises UsageError
    for actions that cannot be compiled.
    """
    out = Assembler()
    counted = out.count()
    places = [0] * len(buckets)
    bodies = [_body(bucket) for bucket in buckets]
    live = [place for place, bucket in enumerate(buckets) if is_live(bucket)]
    if kind == "select":
        chosen = [place for place in live if buckets[place].weight]
        rows = [(buckets[place].id & 0xFFFFFFFF, buckets[place].weight, *bodies[place]) for place in chosen]
        begins = out.select(as_int64(basis), _key_words(fields) if fields else _DEFAULT_FIELDS, rows)
        for place, begin in zip(chosen, begins, strict=True):
            places[place] = begin + 1
        return CompiledGroup(tuple(out.words), tuple(out.late), counted, tuple(places))
    if kind == "fast_failover":
        buckets_run = live[:1]
    else:
        buckets_run = list(range(len(buckets)))
    for place in buckets_run:
        out.clone(*bodies[place], is_bucket=True)
        places[place] = len(out.words) - len(bodies[place][0]) + 1
    return CompiledGroup(out.finish(), tuple(out.late), counted, tuple(places))

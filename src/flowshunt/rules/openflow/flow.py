"""Flows as values: what the flow text parses to, what is printed, and what the compiler takes.

Everything here is frozen and hashable. Fields are named as in `flowshunt.packet.schema.FIELDS`; values and masks are
non-negative Python integers of the field's width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DEFAULT_PRIORITY = 0x8000


@dataclass(frozen=True, slots=True)
class Subfield:
    """Bits `[start, start + width)` of a field, counted from its least significant bit."""

    field: str
    start: int
    width: int


@dataclass(frozen=True, slots=True)
class Output:
    """Send to a port; a Subfield names the field that holds the port number at run time."""

    port: int | Subfield


@dataclass(frozen=True, slots=True)
class Normal:
    """Forward as a learning switch."""


@dataclass(frozen=True, slots=True)
class Flood:
    """Send to all ports but the input port."""


@dataclass(frozen=True, slots=True)
class All:
    """Send to all ports but the input port, also those that flood excludes."""


@dataclass(frozen=True, slots=True)
class InPort:
    """Send back to the input port."""


@dataclass(frozen=True, slots=True)
class Local:
    """Send to the bridge's own port."""


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Look up again, with in_port and table replaced for the lookup where given; then go on."""

    port: int | None = None
    table: int | None = None


@dataclass(frozen=True, slots=True)
class GotoTable:
    """Continue in a later table when this list is done."""

    table: int


@dataclass(frozen=True, slots=True)
class SetField:
    """Set bits of `dest`: those of `mask`, relative to the subfield, take the bits of `value`."""

    dest: Subfield
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Move:
    """Copy `source` to `dest`, of equal width."""

    source: Subfield
    dest: Subfield


@dataclass(frozen=True, slots=True)
class PushVlan:
    """Add a VLAN tag of zero in front of the others."""

    tpid: int


@dataclass(frozen=True, slots=True)
class PopVlan:
    """Take the outermost VLAN tag off; nothing happens without one (strip_vlan too)."""


@dataclass(frozen=True, slots=True)
class DecTtl:
    """Decrement TTL or hop limit; at 0 or 1 the list of actions ends here."""


@dataclass(frozen=True, slots=True)
class Ct:
    """Send through the connection tracker. `exec` changes only ct_mark and ct_label."""

    commit: bool = False
    force: bool = False
    zone: int | Subfield = 0
    table: int | None = None
    exec: tuple[SetField | Move, ...] = ()


@dataclass(frozen=True, slots=True)
class CtClear:
    """Forget the connection tracking state."""


@dataclass(frozen=True, slots=True)
class Clone:
    """Run actions on a copy of packet and metadata."""

    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """Does nothing; carries bytes."""

    data: bytes


Action = (
    Output | Normal | Flood | All | InPort | Local | Resubmit | GotoTable | SetField | Move | PushVlan | PopVlan
    | DecTtl | Ct | CtClear | Clone | Note
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow entry. `match` maps field to (value, mask); an empty list of actions drops."""

    match: tuple[tuple[str, int, int], ...] = ()
    actions: tuple[Action, ...] = ()
    table: int = 0
    priority: int = DEFAULT_PRIORITY
    cookie: int = 0
    idle_timeout: int = 0
    hard_timeout: int = 0
    importance: int = 0
    flags: frozenset[str] = field(default_factory=frozenset)

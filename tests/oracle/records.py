"""What the naive tracker keeps and says: tuples, connections, verdicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tests.oracle import nf_sctp
from tests.oracle.nat import Nat

OPPOSITE = {4: {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}, 6: {128: 129, 129: 128}}
"""ICMP queries and their answers, either way."""
FLAGS = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")


@dataclass(frozen=True)
class Key:
    """A tuple: for ICMP queries `icmp` is the type and `source_port` the identifier."""

    zone: int
    family: int
    protocol: int
    source: bytes
    destination: bytes
    source_port: int = 0
    destination_port: int = 0
    icmp: int | None = None

    def reversed(self) -> Key:
        ends = (self.zone, self.family, self.protocol, self.destination, self.source)
        if self.icmp is not None:
            return Key(*ends, self.source_port, 0, OPPOSITE[self.family][self.icmp])
        return Key(*ends, self.destination_port, self.source_port)


@dataclass
class Connection:
    """`reply` is what replies look like; `nat` is the end (src, dst) that counts as translated, if one does."""

    key: Key
    expires_ms: int
    start_ms: int
    reply: Key
    nat: tuple[str, ...] = ()
    tcp: Any = None  # list of pf peers, or nf_tcp.State
    sctp: nf_sctp.State | None = None  # profile linux
    state: int = 0  # default profile, not TCP: 0 first, 1 multiple or reply, 2 bidirectional
    seen_reply: bool = False
    assured: bool = False
    mark: int = 0
    label: int = 0
    packets: list[int] = field(default_factory=lambda: [0, 0])
    bytes: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(frozen=True)
class Verdict:
    """`state` as Open vSwitch prints it; `connection` is the one found or made, if any; `frame` is what goes on."""

    state: str
    connection: Connection | None = None
    reply: bool = False
    note: str = ""
    frame: bytes = b""
    translated: bool = False


@dataclass(frozen=True)
class Seen:
    """What the tracker under test made of a packet at one ct() action; `parts`: sizes of the fragments that left."""

    state: str
    frame: bytes
    parts: tuple[int, ...] = ()


class MismatchError(AssertionError):
    """The tracker under test did what it may not do."""


INVALID = Verdict("inv|trk")


@lru_cache
def text(*flags: str) -> str:
    return "|".join(name for name in FLAGS if name in flags or name == "trk")


def kinds_of(nat: Nat | None, key: Key, reply: Key) -> tuple[str, ...]:
    """The end that a new connection's packets count as translated at, whether or not anything changes there."""
    if nat is not None and nat.kind:
        return (nat.kind,)
    return () if reply == key.reversed() else ("src",)

"""What a replay at one point of the grid came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from flowshunt.cli.what_if.grid import Point


@dataclass(frozen=True, slots=True)
class Summary:
    """Packets and bytes of frames that came, and of these those that skipped the tables; and connections.

    `peak_connections`: the most that were offloaded at a time. `wanted_connections`: the most that would have been with
    room for all. `insertions`: how often one was taken. `evictions`: how often one was handed back. `refusals`:
    connections that were refused at least once, by reason.
    """

    packets: int
    bytes: int
    hit_packets: int
    hit_bytes: int
    peak_connections: int
    wanted_connections: int
    insertions: int
    evictions: int
    refusals: Mapping[str, int] = field(default_factory=dict)


class Metric(StrEnum):
    """What a chart shows."""

    BYTES = "bytes"
    PACKETS = "packets"
    CONNECTIONS = "connections"
    REFUSED = "refused"


def measured(summary: Summary, metric: Metric) -> float:
    """A summary's value; hits in per cent."""
    match metric:
        case Metric.BYTES:
            return _percent(summary.hit_bytes, summary.bytes)
        case Metric.PACKETS:
            return _percent(summary.hit_packets, summary.packets)
        case Metric.CONNECTIONS:
            return summary.peak_connections
        case Metric.REFUSED:
            return sum(summary.refusals.values())


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class Tried:
    """A point and what came of it."""

    point: Point
    summary: Summary


Progress = Callable[[int, int], None]
"""Told the bytes of the capture read so far, and the packets."""


class Outcome(NamedTuple):
    """A replay that came to its end; `damages`: where the capture cannot be read any further, and why."""

    summary: Summary
    damages: tuple[str, ...] = ()


class Run(Protocol):
    """Something that replays."""

    def check(self, point: Point, /) -> None:
        """Raise UsageError for a provider that there is not, or options that it does not have."""

    def __call__(self, point: Point, progress: Progress, /) -> Outcome | None:
        """Replay with the point's provider; None: the user stopped it. Raises UsageError, OSError."""

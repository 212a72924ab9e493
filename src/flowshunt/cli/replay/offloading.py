"""What became of connections that a run offered to providers: hits, refusals, and how much room they needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.cli.replay.reasons import split
from flowshunt.cli.replay.run import Consumer
from flowshunt.cli.replay.series import Series, Step
from flowshunt.conntrack.memory import reserve
from flowshunt.offload import reasons as R

if TYPE_CHECKING:
    from flowshunt.app import Switch
    from flowshunt.conntrack.connection import Connection
    from flowshunt.datapath.tables import Result
    from flowshunt.packet.schema import Batch

FOR_ROOM = frozenset(("table-full", "no-group", "queue-full"))
"""Refusals that a larger or faster provider would not have made."""


@dataclass(frozen=True, slots=True)
class ProviderReport:
    """One provider: how it marks what it forwards (None: it only observes), its counters, its refusals by reason."""

    name: str
    mark: str | None
    counters: Mapping[str, int]
    refusals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """One connection at the end: who forwards it, or why nobody does, by provider."""

    holder: str | None
    reasons: Mapping[str, R.Reason]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the switch without offload did otherwise (see `twin.Twin`)."""

    unchecked: int
    after: int
    different: int
    first_different: int | None


@dataclass(frozen=True, slots=True)
class OffloadReport:
    """A run with offload.

    Bytes are those of frames. `peak_flows`: the most connections that were forwarded at a time, each in two directions;
    `peak_wanted`: with those that were refused for want of room. `peak_taken`: the most in a second of the capture.
    `refused`: connections that were refused at least once, or whose way may not be skipped, by reason.
    """

    providers: tuple[ProviderReport, ...]
    packets: int
    bytes: int
    shunted_packets: int
    shunted_bytes: int
    taken: int
    handed_back: int
    withdrawn: int
    peak_flows: int
    peak_wanted: int
    peak_taken: int
    refused: Mapping[str, int]
    misses: Mapping[str, int]
    series: Series
    comparison: Comparison | None = None
    connections: Sequence[ConnectionReport] = ()
    """In the order of the report's listing, if there is one."""


def settled(switch: Switch) -> Consumer:
    """Waits after each batch until providers on threads of their own have answered: the same input, the same result.

    Raises UsageError when one does not.
    """

    def wait(batch: Batch, result: Result) -> None:
        if not switch.offload.settle():
            raise UsageError(
                "an offload provider does not return from a call", hint="flowshunt provider check tells more"
            )

    return wait


class OffloadWatch:
    """Sees every batch, and every step of every connection, of a run with offload."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._series = Series()
        self._counts: Counter[str] = Counter()
        self._refused: Counter[int] = Counter()
        capacity = len(switch.tracker.arrays.conns)
        self._refused_for = reserve(np.uint16, capacity)
        self._wants = reserve(np.uint8, capacity)
        self._n_wanted = self._peak_wanted = 0
        self._packets = self._bytes = 0
        self._shunted = (0, 0)
        self._second, self._in_second, self._peak_taken = -1, 0, 0
        self._step = Step()
        self._peak_flows = 0
        switch.offload.keep_journal(self.note)

    def note(
        self,
        kind: str,
        rows: np.ndarray,
        generations: np.ndarray,
        now_ms: int,
        provider: str,
        reason: np.ndarray | int,
    ) -> None:
        """A step of some connections (see `offload.installer`): rows int (n,), reasons of refusals uint16 (n,)."""
        n = len(rows)
        self._counts[kind] += n
        if kind == "taken":
            self._step.taken += n
            self._take(n, now_ms)
            self._want(rows)
        elif kind in ("handed-back", "withdrawn", "closed"):
            self._step.ended += n
        elif kind in ("refused", "unfit"):
            self._note_refusals(rows, np.broadcast_to(np.asarray(reason, np.uint16), n))
        if kind in ("destroyed", "closed"):
            self._want_no_more(rows)
            self._refused_for[rows] = 0
        elif kind in ("handed-back", "withdrawn"):
            reasons = np.broadcast_to(np.asarray(reason, np.uint16), n)
            self._want_no_more(rows[~_are_for_room(reasons)])

    def _take(self, n: int, now_ms: int) -> None:
        if now_ms // 1000 != self._second:
            self._second, self._in_second = now_ms // 1000, 0
        self._in_second += n
        self._peak_taken = max(self._peak_taken, self._in_second)

    def _want(self, rows: np.ndarray) -> None:
        self._n_wanted += len(rows) - int(self._wants[rows].sum())
        self._wants[rows] = 1
        self._peak_wanted = max(self._peak_wanted, self._n_wanted)

    def _want_no_more(self, rows: np.ndarray) -> None:
        rows = np.unique(rows)  # one may come twice: a connection, and another one in its row
        self._n_wanted -= int(self._wants[rows].sum())
        self._wants[rows] = 0

    def _note_refusals(self, rows: np.ndarray, reasons: np.ndarray) -> None:
        first = self._refused_for[rows] != reasons
        self._refused_for[rows] = reasons
        for reason, n in zip(*np.unique(reasons[first], return_counts=True), strict=True):
            self._refused[int(reason)] += int(n)
        self._want(rows[_are_for_room(reasons)])

    def add(self, batch: Batch, result: Result) -> None:
        """Take note of a batch that went through the switch."""
        packets = batch.packets
        if not len(packets):
            return
        n_bytes = int(np.maximum(packets["length"], packets["wire_length"]).sum())
        counters = self._switch.datapath.shunt.statistics()
        shunted = counters["hits"], counters["hit_bytes"]
        step = self._step
        step.packets, step.bytes = len(packets), n_bytes
        step.shunted_packets, step.shunted_bytes = (now - was for now, was in zip(shunted, self._shunted, strict=True))
        step.flows = counters["flows"]
        self._peak_flows = max(self._peak_flows, step.flows)
        self._packets += len(packets)
        self._bytes += n_bytes
        self._shunted = shunted
        self._series.add(int(packets["time_ns"][-1]), step)
        self._step = Step()

    def report(self, listing: Iterable[Connection] = (), comparison: Comparison | None = None) -> OffloadReport:
        """All of it. `listing`: the living connections, as the tracker snapped them."""
        offload, shunt = self._switch.offload, self._switch.datapath.shunt
        return OffloadReport(
            providers=tuple(_provider_report(provider, counters) for provider, counters in offload.providers()),
            packets=self._packets,
            bytes=self._bytes,
            shunted_packets=self._shunted[0],
            shunted_bytes=self._shunted[1],
            taken=self._counts["taken"],
            handed_back=self._counts["handed-back"],
            withdrawn=self._counts["withdrawn"] + self._counts["closed"],
            peak_flows=self._peak_flows,
            peak_wanted=self._peak_wanted,
            peak_taken=self._peak_taken,
            refused=_by_code(self._refused),
            misses=split(shunt.statistics(), "long-way."),
            series=self._series,
            comparison=comparison,
            connections=[self._connection(connection) for connection in listing],
        )

    def _connection(self, connection: Connection) -> ConnectionReport:
        offload, identity = self._switch.offload, (connection.id, connection.generation)
        names = [provider.name for provider, _ in offload.providers()]
        return ConnectionReport(offload.holder(*identity), {name: offload.reason(*identity, name) for name in names})


def _are_for_room(reasons: np.ndarray) -> np.ndarray:
    """Which of these numbers of reasons stand in FOR_ROOM, bool (n,)."""
    numbers = np.unique(reasons).tolist()
    return np.isin(reasons, [number for number in numbers if R.reason(number).code in FOR_ROOM])


def _provider_report(provider: object, counters: Mapping[str, int]) -> ProviderReport:
    prefix = "refused."
    refusals = {name.removeprefix(prefix): n for name, n in counters.items() if name.startswith(prefix) and n}
    rest = {name: n for name, n in counters.items() if not name.startswith(prefix)}
    return ProviderReport(str(getattr(provider, "name", "")), getattr(provider, "mark", None), rest, refusals)


def _by_code(counts: Mapping[int, int]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for reason, n in counts.items():
        found[R.reason(reason).code] += n
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

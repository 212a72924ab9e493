"""The offload framework, one thread (its CPU seconds), providers that take everything and do nothing.

`offload.array`, `offload.callbacks`: connections a second that begin, are answered and end, told to a provider of that
weight; tracking them is left out, since it is the same without. `offload.array_calls`: calls of the array provider for
100,000 of them. `offload.tracker_ratio`: tracking alone against tracking and telling. `offload.due`: share of a core
that it takes to keep a million connections alive that are forwarded elsewhere and due every 30 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks import traffic
from flowshunt.cli.bench.figures import Record
from flowshunt.conntrack.holding import Holding
from flowshunt.conntrack.table import Tracker
from flowshunt.jit import warm_up
from flowshunt.offload.api import Provider
from flowshunt.offload.framework import Offload
from flowshunt.offload.providers.dummy import ArrayDummy, Dummy
from flowshunt.offload.registry import Settings
from flowshunt.packet.schema import PROTO_UDP, Batch

N = 100_000
MANY = 1_000_000
PERIOD_MS = 30_000
_CALL = 4096
_BUDGET = 4096


def _tracker(provider: Provider | None, n: int) -> Tracker:
    tracker = Tracker(max_connections=n + 1024, seed=1)
    if provider is not None:
        offload = Offload(Holding(tracker))
        offload.register(provider)
        offload.configure(Settings(enabled=True))
    return tracker


def _track(tracker: Tracker, batch: Batch, commit: bool = False) -> None:
    for first in range(0, len(batch.packets), _CALL):
        tracker.track(Batch(batch.data, batch.packets[first : first + _CALL]), commit=commit)


def _lives(provider: Provider | None) -> float:
    """Seconds for N connections to begin, be answered and end."""
    tracker = _tracker(provider, N)
    clients, ports = traffic.flows(N)
    first = traffic.frames(PROTO_UDP, clients, ports, first=True)
    reply = traffic.frames(PROTO_UDP, clients, ports, reply=True, first=True)
    began = time.thread_time()
    _track(tracker, first, commit=True)
    _track(tracker, reply)
    tracker.flush()
    seconds = time.thread_time() - began
    if len(tracker):
        raise AssertionError("connections are left")
    return seconds


def _weight(record: Record, name: str, make: Callable[[], Provider], alone: float) -> None:
    told = _lives(make())
    record.add(f"offload.{name}", "connections/s", N / (told - alone))
    if name == "array":
        record.add("offload.tracker_ratio", "ratio", alone / told)


class _InUse(ArrayDummy):
    """Says that every connection is in use."""

    def _update(self, run: np.ndarray) -> None:
        run["last_used_ms"] = run["now_ms"]


def _due(record: Record) -> None:
    """A period of batches every 10 ms, each sweeping a part; only the sweeps are timed."""
    provider = _InUse(forwards=True)
    tracker = _tracker(provider, MANY)
    clients, ports = traffic.flows(MANY)
    reply = traffic.frames(PROTO_UDP, clients, ports, reply=True, first=True)
    _track(tracker, traffic.frames(PROTO_UDP, clients, ports, first=True), commit=True)
    reply.packets["time_ns"] = np.linspace(0, PERIOD_MS * 1_000_000 - 1, MANY).astype(np.int64)
    _track(tracker, reply)
    start_ms = tracker.now_ms + 3000
    before, began = provider.counts["upd"], time.thread_time()
    for now_ms in range(start_ms, start_ms + PERIOD_MS, 10):
        tracker.sweep(now_ms, budget=_BUDGET)
    seconds = time.thread_time() - began
    asked = provider.counts["upd"] - before
    if len(tracker) != MANY or asked < MANY * 0.9:
        raise AssertionError(f"{len(tracker)} connections live, {asked} were asked about")
    record.add("offload.due", "cores", seconds / (PERIOD_MS / 1000) * MANY / asked)


def measure(record: Record, rounds: int) -> None:
    """All figures named offload.*."""
    warm_up()
    counted = ArrayDummy()
    _lives(counted)
    record.add("offload.array_calls", "calls", counted.n_calls)
    for _ in range(rounds):
        alone = _lives(None)
        _weight(record, "array", ArrayDummy, alone)
        _weight(record, "callbacks", lambda: Dummy(max_told=0), alone)
        _due(record)

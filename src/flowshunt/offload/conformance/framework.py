"""Scenarios with the framework in between: many connections at once, inline and on a worker thread."""

from __future__ import annotations

import threading

import numpy as np

from flowshunt.offload.attachment import MARK_ADDED, MARK_ESTABLISHED
from flowshunt.offload.batch import ADD, DEL, EST, Batch, Context
from flowshunt.offload.calls import has, serve
from flowshunt.offload.conformance.scenarios import scenario
from flowshunt.offload.conformance.stage import Stage
from flowshunt.offload.conformance.subject import BrokenContractError, Factory, NotApplicableError, expect
from flowshunt.offload.framework import Offload
from flowshunt.offload.registry import Settings

MANY = 100_000
_SETTLE_S = 30.0


class Watcher:
    """A provider between the framework and another: passes everything on, and notes what was told and answered.

    `taken`: by row, generation + 1 of the connection that the provider has, 0: none. `agreed`: by row, how often it
    agreed to that connection. `wrong`: what should not have been told.
    """

    def __init__(self, provider: object, queue_limit: int, capacity: int) -> None:
        self.name = str(getattr(provider, "name", ""))
        self.queue_limit = queue_limit
        self.forwards = False
        self.taken = np.zeros(capacity, np.int64)
        self.agreed = np.zeros(capacity, np.int64)
        self.threads: set[int] = set()
        self.wrong: list[str] = []
        self._provider = provider

    def batch_submit(self, batch: Batch) -> None:
        """As the provider does it, in batches or one by one."""
        self.threads.add(threading.get_ident())
        if has(self._provider, "batch_submit"):
            self._provider.batch_submit(batch)  # type: ignore[attr-defined]
        else:
            serve(self._provider, batch)  # type: ignore[arg-type]
        if len(batch):
            self._note(int(batch.records["type"][0]), batch.records)

    def _note(self, kind: int, records: np.ndarray) -> None:
        """The framework's batches hold one type, and no row twice."""
        rows, identity, done = records["row"], records["generation"] + np.int64(1), records["error"] == 0
        if kind == ADD:
            self.taken[rows[done]] = identity[done]
            self.agreed[rows[done]] = 0
        elif kind == DEL:
            self.taken[rows[self.taken[rows] == identity]] = 0
        elif kind == EST:
            strange = int((self.taken[rows] != identity).sum())
            if strange:
                self.wrong.append(f"established came for {strange} connections that it does not have")
            self.agreed[rows[done]] += 1

    def can_offload(self, context: Context) -> bool:
        """Never called: the framework asks in batches."""
        return False

    conn_add = conn_del = flush = can_offload


def _stand(factory: Factory, capacity: int, queue_limit: int = 0) -> tuple[Stage, Offload, Watcher]:
    watcher = Watcher(factory(), queue_limit, capacity)
    if has(watcher._provider, "init"):
        watcher._provider.init()  # type: ignore[attr-defined]
    stage = Stage(capacity)
    offload = Offload(stage, devices=lambda n: f"p{n}", clock_ns=lambda: 0)  # the scenario has a deadline of its own
    offload.register(watcher)  # type: ignore[arg-type]
    offload.configure(Settings(enabled=True))
    return stage, offload, watcher


def _counters(offload: Offload) -> dict[str, int]:
    ((_, counters),) = offload.providers()
    return counters


def no_bugs(offload: Offload, watcher: Watcher) -> None:
    """Raise BrokenContractError when something failed, or was answered as it must not be."""
    counters = _counters(offload)
    bugs = {name: n for name, n in counters.items() if name.endswith((":EIO", ":EPROTO")) and n}
    expect(not bugs, f"callbacks fail or answer what they must not: {bugs}")
    expect(counters["errors"] == 0, f"{counters['errors']} del, update or flush fail")
    expect(not watcher.wrong, "; ".join(watcher.wrong[:3]))


def _nothing_left(watcher: Watcher) -> None:
    n_left = int((watcher.taken != 0).sum())
    expect(n_left == 0, f"{n_left} connections are left behind")


@scenario("exactly-once", "However many reply packets come, it agrees to each connection once.")
def _exactly_once(factory: Factory) -> None:
    stage, offload, watcher = _stand(factory, 1000)
    rows = np.arange(1000)
    stage.create(rows)
    for _ in range(105):
        stage.reply(rows)
    no_bugs(offload, watcher)
    marks = offload.marks(rows, watcher.name)
    taken = marks >= MARK_ADDED
    expect(bool(taken.any()), "it takes no connection")
    if has(watcher._provider, "conn_established") or has(watcher._provider, "batch_submit"):
        expect(bool((marks[taken] == MARK_ESTABLISHED).all()), "connections that it took were never established")
        often = int((watcher.agreed > 1).sum())
        expect(often == 0, f"{often} connections were established more than once")


@scenario("hundred-thousand", "100,000 connections begin, are answered and end, and then others may come.", 120.0)
def _hundred_thousand(factory: Factory) -> None:
    stage, offload, watcher = _stand(factory, MANY)
    rows = np.arange(MANY)
    taken = []
    for _ in range(2):
        before = _counters(offload)["added"]
        stage.create(rows)
        stage.reply(rows)
        taken.append(_counters(offload)["added"] - before)
        stage.now_ms += 1000
        stage.destroy(rows)
    no_bugs(offload, watcher)
    expect(taken[0] > 0, "it takes no connection")
    expect(taken[1] >= taken[0], f"it took {taken[0]} connections at first, and {taken[1]} after all had ended")
    _nothing_left(watcher)


@scenario("churn", "Rows are used again at once, generation after generation, and nothing is mixed up.", 30.0)
def _churn(factory: Factory) -> None:
    stage, offload, watcher = _stand(factory, 64)
    rows = np.arange(64)
    for turn in range(200):
        stage.create(rows)
        stage.reply(rows[turn % 3 :: 3])
        stage.destroy(rows)
        stage.now_ms += 1
    counters = _counters(offload)
    no_bugs(offload, watcher)
    refused = counters["refused"] - counters.get("refused.provider-declined", 0)
    expect(refused == 0 or counters["added"] % 200 == 0, "of rows that are used again some are taken, some refused")
    _nothing_left(watcher)


@scenario("worker", "On a worker thread it does the same, while the packet thread goes on.", 60.0)
def _worker(factory: Factory) -> None:
    limit = getattr(factory(), "queue_limit", None)
    inline = _after_traffic(factory, 0)
    queued = _after_traffic(factory, 200_000)
    for name in ("added", "established", "deleted", "refused"):
        expect(inline[name] == queued[name], f"{name}: {inline[name]} on the packet thread, {queued[name]} on a worker")
    if limit == 0 and inline["added"] == 0:
        raise NotApplicableError("it takes no connection")


def _after_traffic(factory: Factory, queue_limit: int) -> dict[str, int]:
    stage, offload, watcher = _stand(factory, 20_000, queue_limit)
    for part in np.array_split(np.arange(20_000), 20):
        stage.create(part)
        stage.reply(part[::2])
        if queue_limit == 0:
            continue
        offload.poll(stage.now_ms)
    if not offload.settle(_SETTLE_S):
        raise BrokenContractError(f"its worker does not come to an end within {_SETTLE_S:.0f} s")
    stage.destroy(np.arange(20_000))
    if not offload.settle(_SETTLE_S):
        raise BrokenContractError(f"its worker does not come to an end within {_SETTLE_S:.0f} s")
    no_bugs(offload, watcher)
    expect(queue_limit == 0 or threading.get_ident() not in watcher.threads, "it was called on the packet thread")
    counters = _counters(offload)
    offload.close()
    return counters


@scenario("late", "What ends while it waits in the worker's queue is cleaned up.", 60.0)
def _late(factory: Factory) -> None:
    stage, offload, watcher = _stand(factory, 5000, 200_000)
    rows = np.arange(5000)
    for _ in range(3):
        stage.create(rows)
        stage.reply(rows)
        stage.destroy(rows)
    if not offload.settle(_SETTLE_S):
        raise BrokenContractError(f"its worker does not come to an end within {_SETTLE_S:.0f} s")
    no_bugs(offload, watcher)
    _nothing_left(watcher)
    offload.close()

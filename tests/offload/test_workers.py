"""Providers that raise, hang, lie, or answer from a worker thread: packets, table and other providers don't notice."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from flowshunt.base.errors import UsageError
from flowshunt.offload import runner as runner_module
from flowshunt.offload.api import Provider
from flowshunt.offload.attachment import MARK_ESTABLISHED, MARK_NONE
from flowshunt.offload.batch import ADD, OPERATION, Batch, Context
from flowshunt.offload.calls import perform
from flowshunt.offload.framework import Offload
from flowshunt.offload.providers.dummy import ArrayDummy, Dummy
from flowshunt.offload.providers.unruly import Unruly
from flowshunt.offload.registry import Settings
from flowshunt.offload.runner import Inline, Worker
from tests.offload.traffic import SECOND, START_MS, Bench


@pytest.fixture
def slow() -> Iterator[Unruly]:
    """A provider with a worker, whose gate opens at the end of the test whatever happens."""
    provider = Unruly("slow", queue_limit=8)
    yield provider
    provider.gate.set()


def hang(provider: Unruly, *callbacks: str) -> None:
    provider.delays.update(callbacks)
    provider.gate.clear()


# --- raising and lying -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", ["policy", "add", "est", "upd", "del", "flush"])
@pytest.mark.parametrize(
    "failure", [RuntimeError("bug"), OSError(errno.EIO, "device"), SystemExit(1), OSError("no errno")], ids=repr
)
def test_a_provider_that_raises_anywhere_harms_nobody(callback: str, failure: BaseException) -> None:
    unruly, dummy = Unruly(forwards=True), Dummy()
    unruly.failures[callback] = failure
    bench = Bench(unruly, dummy)
    bench.handshake()
    bench.ask(7)
    bench.answer(7)
    bench.pass_time(100 * SECOND)
    bench.tracker.flush()
    bench.offload.unregister("unruly")
    assert [name for name in dummy.names() if name != "upd"] == ["add", "est", "add", "est", "del", "del"]
    assert len(bench.tracker) == 0
    assert bench.tracker.statistics()["observer-errors"] == 0


@pytest.mark.parametrize(
    ("callback", "lie"),
    [("policy", None), ("policy", 1), ("add", -28), ("add", False), ("est", None), ("est", "yes"), ("upd", None)]
    + [("upd", -5), ("upd", 1.5), ("upd", 1 << 70), ("upd", True)],
)
def test_answers_of_the_wrong_kind_are_errors(callback: str, lie: object) -> None:
    unruly = Unruly()
    unruly.answers[callback] = lie
    records = np.zeros(1, OPERATION)
    records["type"] = {"policy": ADD, "add": ADD, "est": 5, "upd": 2}[callback]
    if callback in ("est", "upd"):
        unruly.conn_add(next(iter(Batch(records.copy()))).context)  # type: ignore[arg-type]
    outcome = perform(unruly, records, None)
    assert outcome.error.tolist() == [errno.EPROTO]


class Vandal(ArrayDummy):
    """Takes every connection, and writes where it must not."""

    def __init__(self, vandalise: Callable[[Batch], None]) -> None:
        super().__init__("vandal")
        self._vandalise = vandalise

    def batch_submit(self, batch: Batch, /) -> None:
        super().batch_submit(batch)
        self._vandalise(batch)


def _scramble(batch: Batch) -> None:
    batch.records["row"] = 4_000_000_000
    batch.records["generation"] = 77
    batch.records["type"] = 3


def _shorten(batch: Batch) -> None:
    batch.records = batch.records[:0]


def _nonsense(batch: Batch) -> None:
    batch.records["error"] = -5
    batch.records["reason"] = 65535
    batch.records["last_used_ms"] = 1 << 62


def _raise(batch: Batch) -> None:
    raise KeyError("in the middle")


@pytest.mark.parametrize(
    ("vandalise", "reason"),
    [
        (_scramble, "none"),
        (_shorten, "provider-refused:EPROTO"),
        (_nonsense, "provider-refused:EPROTO"),
        (_raise, "provider-refused:EIO"),
    ],
)
def test_what_a_batch_provider_scribbles_stays_in_its_copy(vandalise: Callable[[Batch], None], reason: str) -> None:
    vandal, dummy = Vandal(vandalise), Dummy()
    bench = Bench(vandal, dummy)
    bench.ask(1, 2)
    bench.answer(1, 2)
    assert bench.reason("vandal") == reason
    assert [dummy.is_bidirectional(identity) for identity in bench.identities()] == [True, True]


def test_a_last_use_ahead_of_now_counts_as_now() -> None:
    records = np.zeros(1, OPERATION)
    records["type"], records["now_ms"] = 2, START_MS
    outcome = perform(Vandal(_nonsense_time), records, None)
    assert outcome.last_used_ms.tolist() == [START_MS]


def _nonsense_time(batch: Batch) -> None:
    batch.records["error"] = 0
    batch.records["last_used_ms"] = 1 << 62


def test_a_provider_cannot_change_the_framework_that_calls_it() -> None:
    refused = []

    class Meddler(Dummy):
        def conn_add(self, context: Context, /) -> None:
            for change in (lambda: bench.offload.unregister("dummy"), bench.offload.flush, bench.tracker.flush):
                with pytest.raises(UsageError):
                    change()
                refused.append(change)

    bench = Bench(Meddler())
    bench.ask(1)
    assert len(refused) == 3


# --- blocking the packet thread --------------------------------------------------------------------------------------


def test_a_provider_that_blocks_the_packet_thread_once_gets_a_worker() -> None:
    ticks = iter(range(0, 10**15, 2 * runner_module.SLOW_NS))
    dummy = Dummy()
    bench = Bench()
    bench.offload = Offload(bench.holding, clock_ns=lambda: next(ticks))
    bench.offload.register(dummy)
    bench.offload.configure(Settings(enabled=True))
    threads: set[str] = set()
    note = dummy.conn_established
    dummy.conn_established = lambda context: bool(threads.add(threading.current_thread().name)) or note(context)  # type: ignore[method-assign]
    bench.ask(1)
    bench.answer(1)
    assert bench.offload.settle()
    assert threads == {"offload-dummy"}
    assert bench.offload.mark(*bench.identities()[0]) == MARK_ESTABLISHED
    bench.offload.close()


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Dummy, ArrayDummy])
def test_a_worker_tells_the_same_in_the_same_order(make: Callable[..., Provider]) -> None:
    inline, worker = make("inline"), make("worker", queue_limit=100_000)
    bench = Bench(inline, worker)
    for start in range(0, 1000, 100):
        bench.ask(*range(start + 1, start + 101))
        bench.answer(*range(start + 1, start + 101))
    assert bench.offload.settle()
    marks = [[bench.offload.mark(*identity, name) for identity in bench.identities()] for name in ("inline", "worker")]
    assert marks == [[MARK_ESTABLISHED] * 1000] * 2
    bench.tracker.flush()
    assert bench.offload.settle()
    assert worker.counts == inline.counts  # type: ignore[attr-defined]
    assert len(worker) == 0  # type: ignore[arg-type]
    bench.offload.close()


def test_established_waits_for_the_add_that_is_under_way(slow: Unruly) -> None:
    hang(slow, "add")
    bench = Bench(slow)
    bench.ask(1)
    bench.answer(1)
    assert slow.names() == []
    slow.gate.set()
    assert bench.offload.settle()
    assert slow.names() == ["add", "est"]
    assert slow.told[-1].in_port == 2
    assert bench.reason("slow") == "none"


def test_an_add_that_fails_in_the_queue_is_followed_by_no_established(slow: Unruly) -> None:
    slow.failures["add"] = OSError(errno.ENOSPC, "full")
    hang(slow, "add")
    bench = Bench(slow)
    bench.ask(1)
    bench.answer(1)
    slow.gate.set()
    assert bench.offload.settle()
    assert slow.counts == {"policy": 1, "add": 1}
    assert bench.reason("slow") == "provider-refused:ENOSPC"


def test_an_answer_that_comes_after_the_end_is_dropped_and_cleaned_up(slow: Unruly) -> None:
    hang(slow, "add")
    bench = Bench(slow)
    bench.ask(1)
    bench.answer(1)
    bench.tracker.flush()
    bench.ask(1)
    (identity,) = bench.identities()
    slow.gate.set()
    assert bench.offload.settle()
    assert slow.names() == ["add", "del", "add"]
    assert slow.contains(identity)
    assert len(slow) == 1
    assert bench.counters("slow")["late"] == 1
    assert bench.offload.mark(*identity) == 1


def test_a_full_queue_refuses_with_a_reason_and_is_retried_at_the_next_reply(slow: Unruly) -> None:
    hang(slow, "add")
    dummy = Dummy()
    bench = Bench(slow, dummy)
    bench.ask(*range(1, 21))
    assert slow.waiting.wait(10)
    assert [bench.reason("slow", place) for place in (0, 7, 8, 19)] == ["provider-pending"] * 2 + ["queue-full"] * 2
    assert dummy.n_added == 20
    slow.gate.set()
    assert bench.offload.settle()
    assert len(slow) == 8
    bench.answer(12)
    assert bench.offload.settle()
    assert bench.offload.mark(*bench.identities()[11], "slow") == MARK_ESTABLISHED
    assert bench.counters("slow")["queue-full"] == 12
    assert bench.counters("slow")["refused.queue-full"] == 12


def test_established_that_finds_the_queue_full_is_retried_too(slow: Unruly) -> None:
    bench = Bench(slow)
    bench.ask(*range(1, 9))
    assert bench.offload.settle()
    hang(slow, "est")
    bench.answer(*range(1, 9))
    assert slow.waiting.wait(10)
    bench.ask(9)
    assert bench.reason("slow", 8) == "queue-full"
    slow.gate.set()
    assert bench.offload.settle()
    bench.answer(9)
    assert bench.offload.settle()
    assert all(bench.offload.is_established(*identity) for identity in bench.identities())
    assert slow.n_established == 9


def test_while_a_worker_hangs_the_ends_of_what_it_has_wait_and_nothing_else_grows(slow: Unruly) -> None:
    bench = Bench(slow)
    bench.ask(*range(1, 9))
    assert bench.offload.settle()
    hang(slow, "del")
    bench.tracker.flush()
    for start in range(100, 400, 100):
        bench.ask(*range(start, start + 100))
        bench.tracker.flush()
    assert bench.counters("slow")["deletes-dropped"] == 300
    assert bench.counters("slow")["queue-full"] == 600
    slow.gate.set()
    assert bench.offload.settle()
    assert len(slow) == 0
    assert slow.n_deleted == 8


def test_a_worker_that_never_returns_can_be_unregistered(slow: Unruly, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowshunt.offload.framework.CLOSE_S", 0.05)
    hang(slow, "add", "flush")
    bench = Bench(slow)
    bench.ask(1)
    assert not bench.offload.settle(0.05)
    assert bench.offload.unregister("slow")
    assert bench.offload.mark(*bench.identities()[0]) == MARK_NONE
    bench.answer(1)


def test_off_while_answers_are_under_way_drops_them_and_flushes(slow: Unruly) -> None:
    hang(slow, "add")
    bench = Bench(slow)
    bench.ask(1)
    bench.offload.configure(Settings(enabled=False))
    slow.gate.set()
    assert bench.offload.settle()
    assert slow.names() == ["add", "flush"]
    assert bench.counters("slow")["late"] == 1
    assert bench.offload.mark(*bench.identities()[0]) == MARK_NONE


def test_the_framework_decides_where_a_provider_runs() -> None:
    def runner_of(queue_limit: int | None, is_plugin: bool) -> object:
        offload = Offload(Bench().holding)
        offload.register(Dummy(queue_limit=queue_limit), is_plugin=is_plugin)
        return offload._attachments["dummy"].runner

    assert isinstance(runner_of(None, False), Inline)
    assert isinstance(runner_of(0, True), Inline)
    assert isinstance(runner_of(None, True), Worker)
    worker = runner_of(5, False)
    assert isinstance(worker, Worker)
    assert worker.limit == 5

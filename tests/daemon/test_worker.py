"""The packet thread, and those who take its place while it sleeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from flowshunt.base.clock import SystemClock
from flowshunt.daemon.worker import Worker

FOLLOWED: list[int] = []
"""Grows with each command that the worker has followed up."""


@pytest.fixture
def worker() -> Iterator[Worker]:
    FOLLOWED.clear()
    made = Worker(SystemClock(), lambda now_ms: None, lambda: FOLLOWED.append(1))
    made.start()
    yield made
    made.stop()


def run_now(worker: Worker, done: list[str]) -> None:
    """Try until the thread sleeps."""
    deadline = time.monotonic() + 20
    while not worker.run_now(lambda: done.append("now" if worker.is_current() else "elsewhere")):
        assert time.monotonic() < deadline


def test_a_sleeping_thread_lets_another_one_take_its_place(worker: Worker) -> None:
    done: list[str] = []
    run_now(worker, done)
    assert done == ["now"]
    assert len(FOLLOWED) == 1, "what was done is followed up like any command"
    assert not worker.is_current()
    assert worker.submit(worker.is_current).result(20)


def test_a_busy_thread_keeps_its_place_and_what_waits_comes_first(worker: Worker) -> None:
    begun, go_on, order = threading.Event(), threading.Event(), []

    def busy() -> None:
        begun.set()
        go_on.wait(20)
        order.append("first")

    first = worker.submit(busy)
    assert begun.wait(20)
    assert not worker.run_now(lambda: order.append("too soon"))
    second = worker.submit(lambda: order.append("second"))
    assert not worker.run_now(lambda: order.append("too soon"))
    go_on.set()
    first.result(20)
    second.result(20)
    run_now(worker, order)
    assert order == ["first", "second", "now"]


def test_what_comes_for_the_thread_waits_until_its_place_is_free(worker: Worker) -> None:
    order: list[str] = []

    def in_its_place() -> None:
        waiting = worker.submit(lambda: order.append("on the thread"))
        assert not waiting.done()
        order.append("in its place")

    deadline = time.monotonic() + 20
    while not worker.run_now(in_its_place):
        assert time.monotonic() < deadline
    worker.submit(lambda: None).result(20)
    assert order == ["in its place", "on the thread"]


def test_a_failure_frees_the_place(worker: Worker) -> None:
    def fail() -> None:
        raise ValueError("no")

    deadline = time.monotonic() + 20
    with pytest.raises(ValueError, match="no"):
        while not worker.run_now(fail):
            assert time.monotonic() < deadline
    run_now(worker, [])


def test_a_stopped_thread_takes_nothing(worker: Worker) -> None:
    worker.stop()
    with pytest.raises(RuntimeError):
        worker.run_now(lambda: None)

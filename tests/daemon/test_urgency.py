"""Real-time priority for a thread that mostly sleeps, and for no other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from flowshunt.daemon.urgency import Urgency


def in_a_thread(function: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(function).result(60)


def may_be_urgent() -> bool:
    found: list[bool] = []
    in_a_thread(lambda: found.append(Urgency().is_urgent))
    return found[0]


def policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


def be_busy_until_it_shows(urgency: Urgency) -> None:
    deadline = time.monotonic() + 30
    while urgency.is_urgent:
        assert time.monotonic() < deadline
        busy_until = time.thread_time() + 0.02
        while time.thread_time() < busy_until:
            pass
        urgency.look()


@pytest.mark.skipif(not may_be_urgent(), reason="needs CAP_SYS_NICE, and a control group with real-time shares")
def test_a_busy_thread_is_urgent_no_longer_until_it_sleeps_again() -> None:
    def check() -> None:
        urgency = Urgency()
        assert policy() == os.SCHED_RR
        be_busy_until_it_shows(urgency)
        assert policy() == os.SCHED_OTHER
        time.sleep(0.05)
        urgency.look()
        assert policy() == os.SCHED_RR

    in_a_thread(check)


@pytest.mark.skipif(not may_be_urgent(), reason="needs CAP_SYS_NICE, and a control group with real-time shares")
def test_what_an_urgent_thread_starts_is_not_urgent() -> None:
    found: list[int] = []

    def check() -> None:
        urgency = Urgency()
        child = threading.Thread(target=lambda: found.append(policy()))
        child.start()
        child.join()
        assert urgency.is_urgent

    in_a_thread(check)
    assert found == [os.SCHED_OTHER]


def test_without_the_privilege_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def refuse(pid: int, asked: int, parameters: object) -> None:
        tried.append(asked)
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)

    def check() -> None:
        urgency = Urgency()
        time.sleep(0.01)
        urgency.look()
        assert not urgency.is_urgent

    in_a_thread(check)
    assert len(tried) == 1

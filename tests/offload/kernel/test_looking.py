"""Looking at devices beside the packets, without any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from flowshunt.offload.providers.kernel.looking import Look, Looking

OBJECTS = cast(Any, object())


class Bench:
    """Devices whose other ends change, and questions that are answered when a test says so."""

    def __init__(self) -> None:
        self.peers = {1: 10, 2: 20}
        self.known: dict[int, int] = {}
        self.waiting: list[Callable[[], None]] = []
        self.refuses = 0
        self.looking = Looking(self.begin, self.take)
        self.looking.beside = self.beside

    def begin(self, ifindex: int) -> Callable[[], Look] | None:
        return (lambda: Look(ifindex, OBJECTS, self.peers[ifindex])) if ifindex in self.peers else None

    def take(self, look: Look) -> bool:
        self.refuses -= 1
        if self.refuses >= 0:
            return False
        self.known[look.ifindex] = look.peer
        return True

    def beside(self, work: Callable[[], Look | None], done: Callable[[Look | None], None]) -> None:
        """As a thread that looks at once, and whose answer comes at any time."""
        found = work()
        self.waiting.append(lambda: done(found))

    def answer_all(self, last_first: bool) -> None:
        while self.waiting:
            self.waiting.pop(-1 if last_first else 0)()


@pytest.mark.parametrize("last_first", [False, True])
def test_what_was_seen_last_is_what_is_known(last_first: bool) -> None:
    bench = Bench()
    for peer in (11, 12, 13):
        bench.peers[1] = peer
        bench.looking.ask(1)
        bench.looking.ask(2)
    bench.answer_all(last_first)
    assert bench.known == {1: 13, 2: 20}


def test_many_questions_about_a_device_are_two() -> None:
    bench = Bench()
    for _ in range(100):
        bench.looking.ask(1)
    assert len(bench.waiting) == 1
    bench.waiting.pop()()
    assert len(bench.waiting) == 1
    bench.waiting.pop()()
    assert bench.waiting == []


def test_an_answer_that_is_of_no_use_any_more_is_asked_for_again() -> None:
    bench = Bench()
    bench.refuses = 2
    bench.looking.ask(1)
    bench.answer_all(False)
    assert bench.known == {1: 10}


def test_an_answer_that_was_overtaken_is_asked_for_again_and_not_taken() -> None:
    bench = Bench()
    bench.looking.overtake(1)
    assert bench.waiting == []
    bench.looking.ask(1)
    bench.peers[1] = 11
    bench.looking.overtake(1)
    bench.waiting.pop()()
    assert bench.known == {}
    bench.answer_all(False)
    assert bench.known == {1: 11}


def test_a_failure_keeps_nobody_from_asking_again() -> None:
    bench = Bench()
    del bench.peers[2]
    bench.looking.ask(2)
    assert bench.waiting == []
    begin = bench.looking._begin
    bench.looking._begin = lambda ifindex: lambda: 1 // 0  # type: ignore[return-value]
    bench.looking.ask(1)
    bench.answer_all(False)
    bench.looking._begin = begin
    bench.looking.ask(1)
    bench.answer_all(False)
    assert bench.known == {1: 10}

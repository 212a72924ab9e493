"""Clocks never go back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.base.clock import ManualClock, SystemClock, milliseconds
from flowshunt.base.errors import UsageError


def test_the_system_clock_begins_with_the_machines():
    before = time.time_ns()
    now = SystemClock().now_ns()
    assert before - 1_000_000 <= now <= time.time_ns() + 1_000_000


def test_the_system_clock_goes_on_as_before_when_the_machines_is_set(monkeypatch):
    passed = iter([1_000, 1_005, 1_005, 1_030])
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _: next(passed))
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000)
    clock = SystemClock()
    monkeypatch.setattr(time, "time_ns", lambda: 7)
    assert [clock.now_ns() for _ in range(3)] == [5_000_005, 5_000_005, 5_000_030]


@given(st.lists(st.integers(0, 2**62), min_size=1))
def test_a_manual_clock_shows_the_latest_time_it_was_set_to(times):
    clock = ManualClock()
    shown = []
    for now in times:
        clock.advance_to(now)
        shown.append(clock.now_ns())
    assert shown == [max(times[: i + 1]) for i in range(len(times))]


def test_a_manual_clock_moves_by_steps_and_refuses_to_go_back():
    clock = ManualClock(5)
    clock.advance(10)
    assert clock.now_ns() == 15
    with pytest.raises(UsageError, match="cannot go back by 3 ns"):
        clock.advance(-3)
    assert clock.now_ns() == 15


@pytest.mark.parametrize(("time_ns", "time_ms"), [(0, 0), (999_999, 0), (1_000_000, 1), (-1, -1)])
def test_milliseconds_are_rounded_down(time_ns, time_ms):
    assert milliseconds(time_ns) == time_ms

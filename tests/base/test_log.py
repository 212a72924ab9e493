"""No message floods the log, and none is lost without being counted."""

from __future__ import annotations

import logging

import pytest

from flowshunt.base.clock import ManualClock
from flowshunt.base.log import BURST, INTERVAL_NS, RateLimit, logger


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1)


@pytest.fixture
def limited(clock, request, caplog) -> logging.Logger:
    caplog.set_level(logging.INFO)
    named = logging.getLogger(f"test.{request.node.name}")
    named.addFilter(RateLimit(clock, burst=2, interval_ns=100))
    return named


def test_a_message_passes_as_often_as_the_burst_allows(limited, caplog):
    for port in range(5):
        limited.warning("port %d is down", port)
    assert caplog.messages == ["port 0 is down", "port 1 is down"]


def test_the_next_interval_says_how_many_were_left_out(limited, clock, caplog):
    for port in range(5):
        limited.warning("port %d is down", port)
    clock.advance(100)
    limited.warning("port %d is down", 9)
    limited.warning("port %d is down", 10)
    assert caplog.messages[2:] == ["port 9 is down (and 3 more like it)", "port 10 is down"]


def test_messages_and_levels_are_counted_apart(limited, caplog):
    for _ in range(3):
        limited.warning("one")
        limited.warning("two")
        limited.info("one")
    assert sorted(caplog.messages) == ["one"] * 4 + ["two"] * 2


def test_an_interval_without_silence_adds_nothing(limited, clock, caplog):
    for _ in range(3):
        limited.warning("one")
        clock.advance(100)
    assert caplog.messages == ["one"] * 3


def test_a_modules_logger_is_limited_once():
    named = logger("test.module")
    assert named is logger("test.module")
    (limit,) = named.filters
    assert isinstance(limit, RateLimit)
    assert (limit._burst, limit._interval_ns) == (BURST, INTERVAL_NS)

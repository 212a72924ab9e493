"""What threads make ahead is asked for by one thread, and given up when nobody wants it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from flowshunt.daemon.preparing import Preparing

TIMEOUT_S = 20


class Thing:
    """Something that is made, and says when it is closed."""

    def __init__(self) -> None:
        self.was_closed = threading.Event()

    def close(self) -> None:
        self.was_closed.set()


class Maker:
    """Makes things when it is let."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.n_prepared = 0

    def prepare(self) -> Callable[[], Thing]:
        self.n_prepared += 1
        return self._make

    def _make(self) -> Thing:
        assert self.may.wait(TIMEOUT_S)
        return Thing()


def fails() -> Thing:
    raise OSError(16, "busy")


def test_what_is_asked_for_is_there_later_once() -> None:
    told = threading.Event()
    preparing: Preparing[Thing] = Preparing(told.set)
    maker = Maker()
    assert preparing.get("key", maker.prepare) is None
    assert preparing.is_busy
    maker.may.set()
    assert told.wait(TIMEOUT_S)
    thing = preparing.get("key", maker.prepare)
    assert thing is not None
    assert preparing.get("key", maker.prepare) is thing
    assert maker.n_prepared == 1
    preparing.took("key")
    assert not preparing.is_busy
    assert not thing.was_closed.is_set()


def test_what_cannot_be_made_says_why_to_who_asks() -> None:
    preparing: Preparing[Thing] = Preparing(lambda: None)
    with pytest.raises(OSError, match="busy"):
        while preparing.get("key", lambda: fails) is None:
            preparing.wait()
    preparing.keep(())
    assert not preparing.is_busy


def test_what_nobody_wants_any_more_is_closed_also_if_it_comes_later() -> None:
    preparing: Preparing[Thing] = Preparing(lambda: None)
    things = {key: Thing() for key in ("kept", "there", "late")}
    for key in ("kept", "there"):
        preparing.get(key, lambda key=key: lambda: things[key])  # type: ignore[misc]
    preparing.wait()
    may = threading.Event()

    def make_late() -> Thing:
        assert may.wait(TIMEOUT_S)
        return things["late"]

    preparing.get("late", lambda: make_late)
    preparing.keep({"kept"})
    may.set()
    for key in ("there", "late"):
        assert things[key].was_closed.wait(TIMEOUT_S)
    assert preparing.get("kept", lambda: fails) is things["kept"]
    assert not things["kept"].was_closed.is_set()


def test_what_comes_next_for_a_key_waits_until_what_was_given_up_is_gone() -> None:
    told = threading.Event()
    preparing: Preparing[Thing] = Preparing(told.set)
    may_close = threading.Event()

    class Slow(Thing):
        def close(self) -> None:
            assert may_close.wait(TIMEOUT_S)
            super().close()

    first, second = Slow(), Thing()
    preparing.get("key", lambda: lambda: first, "maker")
    preparing.wait()
    told.clear()
    assert preparing.get("key", lambda: lambda: second, "another") is None
    assert preparing.is_busy
    assert preparing.get("key", lambda: fails, "another") is None, "it should not be begun"
    may_close.set()
    preparing.wait()
    assert first.was_closed.is_set()
    assert told.wait(TIMEOUT_S)
    while (there := preparing.get("key", lambda: lambda: second, "another")) is None:
        preparing.wait()
    assert there is second

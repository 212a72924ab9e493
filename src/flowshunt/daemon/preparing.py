"""What threads of their own make ahead: devices and programs take the kernel 10 ms each, and packets do not wait."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Future, wait
from typing import Generic, Protocol, TypeVar

from flowshunt.base.background import in_background


class Closable(Protocol):
    """What can be made ahead."""

    def close(self) -> None:
        """Give it up. It may take long."""


_Made = TypeVar("_Made", bound=Closable)


class Preparing(Generic[_Made]):
    """What is under way or was not taken yet, by key. One thread alone uses it, but for `wait`."""

    def __init__(self, done: Callable[[], None]) -> None:
        """`done()` is called, in a thread of ours, whenever something is there."""
        self._done = done
        self._futures: dict[Hashable, Future[_Made]] = {}

    def get(self, key: Hashable, prepare: Callable[[], Callable[[], _Made]]) -> _Made | None:
        """What there is for a key; None: not yet. Raises what making it has raised.

        For a new key `prepare()` gives what a thread then calls.
        """
        if key not in self._futures:
            self._futures[key] = in_background(prepare())
            self._futures[key].add_done_callback(lambda future: self._done())
        future = self._futures[key]
        return future.result() if future.done() else None

    def took(self, key: Hashable) -> None:
        """Whoever asked for it owns it now."""
        self._futures.pop(key, None)

    def keep(self, keys: Collection[Hashable]) -> None:
        """Give up what there is for other keys."""
        for key in self._futures.keys() - set(keys):
            self._futures.pop(key).add_done_callback(self._give_up)

    def _give_up(self, future: Future[_Made]) -> None:
        if future.exception() is None:
            in_background(future.result().close)

    @property
    def is_busy(self) -> bool:
        """Whether there is anything that was not taken."""
        return bool(self._futures)

    def wait(self) -> None:
        """Wait, in any thread, until what was under way at the call is there."""
        wait(list(self._futures.values()))

"""What threads of their own make ahead: devices and programs take the kernel 10 ms each, and packets do not wait."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Future, wait
from functools import partial
from typing import Generic, Protocol, TypeVar

from flowshunt.base.background import in_background


class Closable(Protocol):
    """What can be made ahead."""

    def close(self) -> None:
        """Give it up. It may take long."""


_Made = TypeVar("_Made", bound=Closable)


class Preparing(Generic[_Made]):
    """What is under way or was not taken yet, by key. One thread alone uses it, but for `wait`.

    What comes for a key is begun when what was given up for it is gone: a device takes a program once.
    """

    def __init__(self, done: Callable[[], None]) -> None:
        """`done()` is called, in a thread of ours, whenever something is there, or gone."""
        self._done = done
        self._futures: dict[Hashable, Future[_Made]] = {}
        self._makers: dict[Hashable, object] = {}
        self._going: dict[Hashable, Future[None]] = {}

    def get(self, key: Hashable, prepare: Callable[[], Callable[[], _Made]], maker: object = None) -> _Made | None:
        """What there is for a key; None: not yet. Raises what making it has raised.

        For a new key `prepare()` gives what a thread then calls. What came from another `maker` is given up.
        """
        if key in self._futures and self._makers[key] is not maker:
            self._give_up(key)
        if key not in self._futures:
            if key in self._going and not self._going[key].done():
                return None
            self._futures[key], self._makers[key] = in_background(prepare()), maker
            self._futures[key].add_done_callback(lambda future: self._done())
        future = self._futures[key]
        return future.result() if future.done() else None

    def took(self, key: Hashable) -> None:
        """Whoever asked for it owns it now."""
        self._futures.pop(key, None)
        self._makers.pop(key, None)

    def keep(self, keys: Collection[Hashable]) -> None:
        """Give up what there is for other keys."""
        for key in self._futures.keys() - set(keys):
            self._give_up(key)
        self._going = {key: going for key, going in self._going.items() if not going.done()}

    def _give_up(self, key: Hashable) -> None:
        future = self._futures[key]
        self.took(key)
        if future.done() and future.exception() is not None:
            return
        self._going[key] = in_background(partial(_close, future))
        self._going[key].add_done_callback(lambda future: self._done())

    @property
    def is_busy(self) -> bool:
        """Whether there is anything that was not taken, or that is not gone."""
        return bool(self._futures) or not all(going.done() for going in self._going.values())

    def wait(self) -> None:
        """Wait, in any thread, until what was under way at the call is there, or gone."""
        wait(list(self._futures.values()))
        wait(list(self._going.values()))


def _close(future: Future[_Made]) -> None:
    """Close what was given up, when it is there."""
    if future.exception() is None:
        future.result().close()

"""The packet thread: it sleeps until a port or a command needs it, and owns everything that packets touch."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from flowshunt.base.clock import Clock
from flowshunt.base.log import logger
from flowshunt.daemon.urgency import Urgency

TICK_MS = 200
"""How often idle time is told."""
MAX_COMMANDS = 8
"""Commands between two batches."""

_MAX_EVENTS = 64
_LOG = logger(__name__)
_Result = TypeVar("_Result")


class Worker:
    """One thread that waits for file descriptors, and carries out commands between what they bring.

    `watch` and `unwatch` are for the thread itself; `submit` may be called from any. While it sleeps, another thread
    may take its place for a moment, by `run_now`: that saves two changes of threads.
    """

    def __init__(
        self, clock: Clock, tick: Callable[[int], None], done: Callable[[], None], *, busy_poll: bool = False
    ) -> None:
        """`tick(now_ms)` is called every TICK_MS, busy or not, `done()` after it and each command, before anyone hears.

        `busy_poll`: never sleep.
        """
        self._clock = clock
        self._tick = tick
        self._done = done
        self._busy_poll = busy_poll
        self._commands: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._readers: dict[int, Callable[[], None]] = {}
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._stopping = False
        self._place = threading.Lock()  # held by whoever is the packet thread now; free while that sleeps
        self._holder = 0
        self._thread = threading.Thread(target=self._run, name="packets", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Carry out the commands that are waiting, and end. A second call does nothing."""
        if self._stopping:
            return
        self._stopping = True
        if self._thread.is_alive():
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        with self._place:
            self._holder = threading.get_ident()
            self._run_commands(len(self._commands))
        self._epoll.close()
        os.close(self._wake)

    def is_current(self) -> bool:
        """Whether the caller runs on this thread, or in its place."""
        return self._holder == threading.get_ident()

    def submit(self, function: Callable[[], _Result]) -> Future[_Result]:
        """Have `function()` called on the thread, between two batches. Raises RuntimeError once it has stopped."""
        if self._stopping:
            raise RuntimeError("the packet thread has ended")
        future: Future[_Result] = Future()
        self._commands.append((future, function))
        os.eventfd_write(self._wake, 1)
        return future

    def run_now(self, function: Callable[[], None]) -> bool:
        """Call `function()`, and `done()`, in the thread's place if it sleeps and nothing waits; False: not called.

        Raises RuntimeError once the thread has stopped, and what the function raises.
        """
        if self._commands or not self._place.acquire(blocking=False):
            return False
        try:
            if self._stopping:
                raise RuntimeError("the packet thread has ended")
            self._holder = threading.get_ident()
            try:
                function()
            finally:
                self._guarded(self._done)
        finally:
            self._holder = 0
            self._place.release()
        return True

    def watch(self, fd: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever `fd` has something to read, one batch at a time."""
        self._readers[fd] = reader
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; call it before it is closed."""
        if self._readers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _run(self) -> None:
        urgency = Urgency()
        next_tick_ns = 0
        ready: list[tuple[int, int]] = []
        while not self._stopping:
            with self._place:
                self._holder = threading.get_ident()
                self._answer(ready)
                now_ns = self._clock.now_ns()
                if now_ns >= next_tick_ns:
                    self._guarded(lambda: self._tick(self._clock.now_ns() // 1_000_000))
                    self._guarded(self._done)
                    urgency.look()
                    next_tick_ns = now_ns + TICK_MS * 1_000_000
                timeout = 0.0 if self._busy_poll or self._commands else max(next_tick_ns - now_ns, 0) / 1e9
                self._holder = 0
            ready = self._epoll.poll(min(timeout, TICK_MS / 1000), _MAX_EVENTS)

    def _answer(self, ready: list[tuple[int, int]]) -> None:
        """Read what there is to read, and carry out some of the commands."""
        for fd, _ in ready:
            if fd == self._wake:
                os.eventfd_read(fd)
            elif reader := self._readers.get(fd):
                self._guarded(reader)
        self._run_commands(MAX_COMMANDS)

    def _run_commands(self, limit: int) -> None:
        for _ in range(min(limit, len(self._commands))):
            future, function = self._commands.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function()
                self._guarded(self._done)
                future.set_result(result)
            except BaseException as problem:  # noqa: BLE001  (it is the caller's)
                future.set_exception(problem)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Packets go on whatever goes wrong with some of them."""
        try:
            step()
        except Exception:  # noqa: BLE001
            _LOG.exception("the packet thread goes on after an error")

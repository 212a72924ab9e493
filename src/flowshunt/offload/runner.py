"""Where a provider's callbacks run: on the packet thread, or on a worker thread behind a bounded queue."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from flowshunt.base.log import logger
from flowshunt.offload.api import Provider
from flowshunt.offload.batch import Devices
from flowshunt.offload.calls import Outcome, perform
from flowshunt.offload.forwarding import Answer, Call, carry_out

DEFAULT_QUEUE = 65536
"""Operations that wait for a worker, unless its provider says otherwise."""
SLOW_NS = 1_000_000_000
"""A call on the packet thread that takes this long, and SLOW_OPERATION_NS more for each of its operations, has broken
its promise not to block."""
SLOW_OPERATION_NS = 500_000

_log = logger(__name__)


class Submitted(NamedTuple):
    """`n_taken`: operations that were taken, the first ones. `outcome`: the answers when they are there already."""

    n_taken: int
    outcome: Outcome | None


class Runner(Protocol):
    """Serves one provider. Its methods belong to the packet thread."""

    def submit(self, records: np.ndarray, epoch: int, *, must: bool = False) -> Submitted:
        """Have operations of one type served, in order. `must`: take all, even when the queue is full."""

    def call(self, call: Call, *, must: bool = False) -> tuple[bool, Answer | None]:
        """Have a forwarder's method called, in order with the operations.

        Returns False when the queue has no room for it, and the answer when it is there already.
        """

    def collect(self) -> list[Outcome | Answer]:
        """Answers that came since, in order."""

    def settle(self, timeout_s: float) -> bool:
        """Wait until all that was submitted is answered; False when it took too long."""

    def close(self, timeout_s: float) -> bool:
        """Serve what waits, and stop; False when a call does not return, whose thread is given up."""


class Inline:
    """On the packet thread. `is_slow` becomes True when a call blocked it (see SLOW_NS)."""

    def __init__(
        self,
        provider: Provider,
        devices: Devices | None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._provider = provider
        self._devices = devices
        self._clock_ns = clock_ns
        self.is_slow = False

    def submit(self, records: np.ndarray, epoch: int, *, must: bool = False) -> Submitted:
        """Served at once."""
        began = self._clock_ns()
        outcome = perform(self._provider, records, self._devices, epoch)
        allowed_ns = SLOW_NS + SLOW_OPERATION_NS * len(records)
        self.is_slow = self.is_slow or self._clock_ns() - began >= allowed_ns
        return Submitted(len(records), outcome)

    def call(self, call: Call, *, must: bool = False) -> tuple[bool, Answer | None]:
        """Called at once."""
        began = self._clock_ns()
        answer = carry_out(self._provider, call)
        self.is_slow = self.is_slow or self._clock_ns() - began >= SLOW_NS + SLOW_OPERATION_NS * call.size
        return True, answer

    def collect(self) -> list[Outcome | Answer]:
        """Nothing ever comes later."""
        return []

    def settle(self, timeout_s: float) -> bool:
        """Nothing to wait for."""
        return True

    def close(self, timeout_s: float) -> bool:
        """Nothing to stop."""
        return True


class Worker:
    """On a thread of its own, made at the first operation.

    At most `limit` operations are inside, those included whose answers were not collected yet; only what must be taken
    (the end of connections that the provider has, of which there are at most as many as it was given) goes beyond.
    """

    def __init__(self, provider: Provider, devices: Devices | None, limit: int = DEFAULT_QUEUE) -> None:
        self.limit = limit
        self._provider = provider
        self._devices = devices
        self._jobs: deque[tuple[np.ndarray, int] | Call] = deque()
        self._answers: deque[Outcome | Answer] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_busy = False
        self._n_inside = 0
        self._thread: threading.Thread | None = None

    @property
    def n_inside(self) -> int:
        """Operations submitted and not collected."""
        return self._n_inside

    def submit(self, records: np.ndarray, epoch: int, *, must: bool = False) -> Submitted:
        """Queue operations; none when the queue is full, as many as fit otherwise."""
        n = len(records) if must else max(0, min(len(records), self.limit - self._n_inside))
        if n:
            self._put((records[:n].copy(), epoch), n)
        return Submitted(n, None)

    def call(self, call: Call, *, must: bool = False) -> tuple[bool, Answer | None]:
        """Queue a call; it counts as so many operations as it concerns connections."""
        if not must and self._n_inside + call.size > self.limit:
            return False, None
        self._put(call, call.size)
        return True, None

    def _put(self, job: tuple[np.ndarray, int] | Call, size: int) -> None:
        self._n_inside += size
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
        if self._thread is None:
            name = f"offload-{self._provider.name}"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                while not self._jobs:
                    if self._is_closing:
                        return
                    self._changed.wait()
                job = self._jobs.popleft()
                self._is_busy = True
            if isinstance(job, Call):
                self._answers.append(carry_out(self._provider, job))
            else:
                self._answers.append(perform(self._provider, job[0], self._devices, job[1]))

    def collect(self) -> list[Outcome | Answer]:
        """Answers in the order of submission."""
        answers = []
        while self._answers:
            answer = self._answers.popleft()
            self._n_inside -= answer.call.size if isinstance(answer, Answer) else len(answer.records)
            answers.append(answer)
        return answers

    def settle(self, timeout_s: float) -> bool:
        """Wait until the queue is empty and the thread idle."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._is_busy, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Serve what waits, then end the thread; given up after `timeout_s`."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("provider %s does not return from a call; its thread is given up", self._provider.name)
            return False
        return True

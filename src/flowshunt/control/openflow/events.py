"""What controllers are to be told, on its way from the packet thread to the connections.

Packets bring about news faster than controllers may read them: the queue is bounded, and what finds it full is counted
and dropped. Putting and taking may happen on different threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_PACKET_INS = 1024
MAX_OTHERS = 1 << 16
"""News that wait at most; what a controller must not miss has more room."""


class Event(NamedTuple):
    """News. `kind` is that of `Connection.is_told`, `reason` its number, `message` what is sent.

    `controller`: the number of the controllers that it is for; None: all.
    """

    kind: str
    reason: int
    message: Any
    controller: int | None = None


class Events:
    """A queue of news.

    `wake()` is called, on the thread that puts, for what comes after the last `take`; where it says False, nobody will
    come, and the next news call it again.
    """

    def __init__(self, wake: Callable[[], bool] | None = None) -> None:
        self.wake = wake
        self._is_woken = False
        self.dropped = {"packet_in": 0, "flow_removed": 0}
        self._waiting: dict[str, deque[Event]] = {kind: deque() for kind in self.dropped}
        self._most = {"packet_in": MAX_PACKET_INS, "flow_removed": MAX_OTHERS}

    def put(self, event: Event) -> None:
        """Add news of a kind that has a queue; they are dropped, and counted, when it is full."""
        queue = self._waiting[event.kind]
        if len(queue) >= self._most[event.kind]:
            self.dropped[event.kind] += 1
            return
        queue.append(event)
        self.call()

    def call(self) -> None:
        """Have somebody come who sends what connections have to send."""
        if not self._is_woken and self.wake is not None:
            self._is_woken = True  # before it wakes anybody: who comes and takes at once says that nobody will come
            if not self.wake():
                self._is_woken = False

    def take(self) -> list[Event]:
        """All that wait, packets first, each kind in order."""
        self._is_woken = False
        found = []
        for queue in self._waiting.values():
            for _ in range(len(queue)):
                found.append(queue.popleft())
        return found

"""When rules with timeouts are due: a heap of times, so that rules without any cost nothing and no one scans rules.

A time may be too early, never too late: whoever takes a rule that is due looks whether it was used in between, and
puts it back. So a packet changes nothing here.
"""

from __future__ import annotations

import heapq

_SLACK = 64
"""Entries that may be out of date before the heap is made anew, besides as many as are not."""


class Timers:
    """Numbers with the time at which each is due, in milliseconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._due: dict[int, int] = {}

    def __len__(self) -> int:
        """Numbers that are due some day."""
        return len(self._due)

    def watch(self, number: int, due_ms: int) -> None:
        """Let a number be due at a time; one that is due earlier already stays so."""
        before = self._due.get(number)
        if before is not None and before <= due_ms:
            return
        self._due[number] = due_ms
        heapq.heappush(self._heap, (due_ms, number))
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [(due, number) for number, due in self._due.items()]
            heapq.heapify(self._heap)

    def forget(self, number: int) -> None:
        """Let a number be due no more; its entry in the heap is passed over when its time comes."""
        self._due.pop(number, None)

    def take_due(self, now_ms: int, most: int) -> list[int]:
        """Numbers that are due, the earliest first and at most so many, no longer watched."""
        found: list[int] = []
        while self._heap and self._heap[0][0] <= now_ms and len(found) < most:
            due, number = heapq.heappop(self._heap)
            if self._due.get(number) == due:
                del self._due[number]
                found.append(number)
        return found

    def next_ms(self) -> int | None:
        """When the next number may be due; None: there is none."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

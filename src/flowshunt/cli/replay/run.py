"""The loop: batch after batch from the source through the switch to whoever wants to see it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from flowshunt.ports.api import CaptureError

if TYPE_CHECKING:
    from flowshunt.app import Result
    from flowshunt.packet.schema import Batch


class Source(Protocol):
    """Where the packets come from: a capture, or several merged by time."""

    @property
    def offset(self) -> int:
        """Bytes taken so far, for progress."""

    @property
    def size(self) -> int | None:
        """Bytes in all; None when nobody knows."""

    def receive(self, limit: int) -> Batch | None:
        """The next packets, at most `limit`; None at the end. Raises CaptureError where the capture is damaged."""


class Processor(Protocol):
    """The part of a switch that the loop needs."""

    def process(self, batch: Batch) -> Result:
        """Run a batch; the result is valid until the next one."""


Consumer = Callable[["Batch", "Result"], None]
"""Sees every batch and what became of it; keeps no reference to either."""


class Ending(StrEnum):
    """Why a run stopped."""

    END = "end"
    LIMIT = "limit"
    DAMAGED = "damaged"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `damage` says where the capture could not be read any further."""

    ending: Ending
    damage: CaptureError | None = None


class Interrupts:
    """Ctrl-C as a wish to stop between two batches.

    Raised at any other moment, KeyboardInterrupt would leave the switch half-way through a batch. Only while the source
    waits for data it is raised at once, for a pipe may stay silent for ever; a second one is always raised at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._waiting = False

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Handle SIGINT this way for the while."""
        previous: Any = signal.signal(signal.SIGINT, self._handle)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, previous)

    def receive(self, source: Source, limit: int) -> Batch | None:
        """`source.receive`, which an interrupt breaks off; None then."""
        try:
            self._waiting = True
            return source.receive(limit)
        except KeyboardInterrupt:
            return None
        finally:
            self._waiting = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if again or self._waiting:
            raise KeyboardInterrupt


def run(
    source: Source,
    switch: Processor,
    consumers: Sequence[Consumer],
    *,
    batch_size: int,
    limit: int | None = None,
    interrupts: Interrupts | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Replay until the source ends, is damaged, `limit` packets are through, or the user interrupts.

    `progress(offset, packets)` is called after each batch. Errors of the switch and of consumers are passed on.
    """
    interrupts = interrupts or Interrupts()
    n_packets = 0
    while not interrupts.requested:
        room = batch_size if limit is None else min(batch_size, limit - n_packets)
        if room == 0:
            return Outcome(Ending.LIMIT)
        try:
            batch = interrupts.receive(source, room)
        except CaptureError as damage:
            return Outcome(Ending.DAMAGED, damage)
        if batch is None:
            return Outcome(Ending.INTERRUPTED if interrupts.requested else Ending.END)
        result = switch.process(batch)
        n_packets += len(batch.packets)
        for consume in consumers:
            consume(batch, result)
        if progress:
            progress(source.offset, n_packets)
    return Outcome(Ending.INTERRUPTED)

"""The loop: batch after batch from the source through the switch to whoever wants to see it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from flowshunt.datapath.tables import Result
    from flowshunt.packet.schema import Batch
    from flowshunt.ports.api import CaptureError


class Source(Protocol):
    """Where the packets come from: a capture, or several merged by time."""

    @property
    def offset(self) -> int:
        """Bytes taken so far, for progress."""

    @property
    def size(self) -> int | None:
        """Bytes in all; None when nobody knows."""

    @property
    def errors(self) -> Sequence[CaptureError]:
        """Damages met so far; complete when `receive` has returned None."""

    @property
    def is_holding(self) -> bool:
        """Whether it took packets beforehand that an interrupted run shall still have."""

    def receive(self, limit: int) -> Batch | None:
        """The next packets, at most `limit`; None at the end, which a damage is too."""


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
    """How a run ended; `damages` say where captures could not be read any further."""

    ending: Ending
    damages: tuple[CaptureError, ...] = ()


class Interrupts:
    """Ctrl-C as a wish to stop between two batches.

    Raised at any other moment, KeyboardInterrupt would leave the switch half-way through a batch. Only while the source
    waits for data it is raised at once, for a pipe may stay silent for ever. A second one is always raised at once.
    """

    def __init__(self) -> None:
        self._n = 0
        self._waiting = False

    def requested(self) -> bool:
        """Whether the user wants to stop."""
        return self._n > 0

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Handle SIGINT this way for the while."""
        previous: Any = signal.signal(signal.SIGINT, self._handle)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, previous)

    def receive(self, source: Source, limit: int) -> Batch | None:
        """`source.receive`, which the first interrupt breaks off; None then."""
        try:
            self._waiting = True
            return source.receive(limit)
        except KeyboardInterrupt:
            if self._n > 1:
                raise
            return None
        finally:
            self._waiting = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._n += 1
        if self._n > 1 or self._waiting:
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
    ending = _loop(source, switch, consumers, interrupts, batch_size, limit, progress)
    damages = tuple(source.errors)
    return Outcome(Ending.DAMAGED if damages and ending is Ending.END else ending, damages)


def _loop(
    source: Source,
    switch: Processor,
    consumers: Sequence[Consumer],
    interrupts: Interrupts,
    batch_size: int,
    limit: int | None,
    progress: Callable[[int, int], None] | None,
) -> Ending:
    n_packets = 0
    while not interrupts.requested() or source.is_holding:
        room = batch_size if limit is None else min(batch_size, limit - n_packets)
        if room == 0:
            return Ending.LIMIT
        batch = interrupts.receive(source, room)
        if batch is None and interrupts.requested():
            continue
        if batch is None:
            return Ending.END
        result = switch.process(batch)
        n_packets += len(batch.packets)
        for consume in consumers:
            consume(batch, result)
        if progress:
            progress(source.offset, n_packets)
    return Ending.INTERRUPTED

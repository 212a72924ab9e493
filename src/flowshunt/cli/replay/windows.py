"""Batches that span little time: a provider learns of a connection between two batches, not within one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flowshunt.cli.replay.run import Source
from flowshunt.packet.schema import Batch

if TYPE_CHECKING:
    from flowshunt.ports.api import CaptureError

WINDOW_NS = 1_000_000
"""A live switch takes up what has come within about a millisecond; a capture's batch of 256 may span an hour."""


class Windowed:
    """A source whose batches end where the capture's clock is `window_ns` past their first packet.

    The batches that it makes depend on nothing but the packets, so a replay stays the same for the same input.
    """

    def __init__(self, source: Source, window_ns: int = WINDOW_NS) -> None:
        self._source = source
        self._window_ns = window_ns
        self._rest: Batch | None = None

    @property
    def offset(self) -> int:
        """Bytes taken so far."""
        return self._source.offset

    @property
    def size(self) -> int | None:
        """Bytes in all; None when nobody knows."""
        return self._source.size

    @property
    def errors(self) -> Sequence[CaptureError]:
        """Damages met so far."""
        return self._source.errors

    @property
    def is_holding(self) -> bool:
        """Whether packets were taken that have not been handed out."""
        return self._rest is not None or self._source.is_holding

    def receive(self, limit: int) -> Batch | None:
        """The next packets of one window, at most `limit`; None at the end."""
        batch, self._rest = self._rest or self._source.receive(limit), None
        if batch is None or not len(batch.packets):
            return batch
        times = batch.packets["time_ns"]
        late = times - times[0] >= self._window_ns
        end = min(int(np.argmax(late)) if late.any() else len(times), limit)
        if end < len(times):
            self._rest = Batch(batch.data, batch.packets[end:])
        return Batch(batch.data, batch.packets[:end])

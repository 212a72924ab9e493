"""Captures as the loop wants them: one whose two sides are told apart, or several merged by time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from flowshunt.cli.replay.options import PortFile
from flowshunt.packet.schema import Batch
from flowshunt.ports.api import CaptureError
from flowshunt.ports.capture.merge import Merge, merge
from flowshunt.ports.capture.reader import CaptureReader, open_capture
from flowshunt.ports.capture.sides import Network, SideInference, Sides

LOOK_PACKETS = 32_768
LOOK_BYTES = 64 << 20
"""How far into a capture the look for its sides goes: as pipes can be read but once, it must fit into memory."""

_BLOCK = 4096


class SidedSource:
    """One capture; every packet gets the port of the side that it came from: 1 inside, 2 outside.

    The first packets are kept while their sides are inferred; then they and the rest are handed out. Which packets are
    looked at depends on nothing but the capture, so files and pipes give the same result. `limit`: packets to read at
    most, None for all. `sides`: what was inferred; None before the first `receive`.
    """

    def __init__(self, reader: CaptureReader, inside: Sequence[Network] = (), limit: int | None = None) -> None:
        self.sides: Sides | None = None
        self.errors: list[CaptureError] = []
        self._reader = reader
        self._inside = inside
        self._left = limit
        self._kept: deque[Batch] = deque()
        self._now: Batch | None = None
        self._at = 0

    @property
    def offset(self) -> int:
        """Bytes of the file taken so far."""
        return self._reader.offset

    @property
    def size(self) -> int | None:
        """Bytes of the file; None for a pipe."""
        return self._reader.size

    @property
    def n_skipped(self) -> int:
        """Packets left out because their link type cannot be read."""
        return self._reader.n_skipped

    @property
    def is_holding(self) -> bool:
        """Whether packets of the look are still waiting to be handed out."""
        return bool(self._kept)

    def receive(self, limit: int) -> Batch | None:
        """The next packets, at most `limit`, in_port set; None at the end, or where the capture is damaged.

        A KeyboardInterrupt during the look is passed on and ends the reading; what was read till then is handed out by
        later calls.
        """
        sides = self.sides or self._look()
        if self._now is None or self._at == len(self._now.packets):
            self._now = self._kept.popleft() if self._kept else self._read(_BLOCK)
            self._at = 0
            if self._now is None:
                return None
            sides.assign(self._now)
        start, self._at = self._at, min(self._at + limit, len(self._now.packets))
        return Batch(self._now.data, self._now.packets[start : self._at])

    def _look(self) -> Sides:
        inference = SideInference(self._inside)
        try:
            self._keep(inference)
        except KeyboardInterrupt:
            self._left = 0
            raise
        finally:
            self.sides = inference.decide()
        return self.sides

    def _keep(self, inference: SideInference) -> None:
        n_packets = n_bytes = 0
        while n_packets < LOOK_PACKETS and n_bytes < LOOK_BYTES:
            batch = self._read(min(_BLOCK, LOOK_PACKETS - n_packets))
            if batch is None:
                break
            kept = _copy(batch)
            self._kept.append(kept)
            sizes = np.cumsum(kept.packets["length"].astype(np.int64))
            n_seen = int(np.searchsorted(sizes, LOOK_BYTES - n_bytes)) + 1
            inference.observe(Batch(kept.data, kept.packets[:n_seen]))
            n_packets += len(kept.packets)
            n_bytes += int(sizes[-1])

    def _read(self, limit: int) -> Batch | None:
        wanted = limit if self._left is None else min(limit, self._left)
        if wanted == 0:
            return None
        try:
            batch = self._reader.receive(wanted)
        except CaptureError as error:
            self.errors.append(error)
            batch = None
        if batch is not None and self._left is not None:
            self._left -= len(batch.packets)
        return batch


def _copy(batch: Batch) -> Batch:
    """The packets in memory of their own."""
    packets = batch.packets.copy()
    start = int(packets["data"].min())
    end = int((packets["data"] + packets["length"]).max())
    packets["data"] -= start
    return Batch(batch.data[start:end].copy(), packets)


class MergedSource:
    """Several captures, one per port, merged by time; of equal times the port given first is first."""

    is_holding = False

    def __init__(self, readers: Sequence[CaptureReader]) -> None:
        self._readers = readers
        self._merge: Merge = merge(readers, _BLOCK)
        self._now: Batch | None = None
        self._at = 0

    @property
    def offset(self) -> int:
        """Bytes of all files taken so far."""
        return sum(reader.offset for reader in self._readers)

    @property
    def size(self) -> int | None:
        """Bytes of all files; None when one of them is a pipe."""
        sizes = [reader.size for reader in self._readers]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def n_skipped(self) -> int:
        """Packets left out because their link type cannot be read."""
        return sum(reader.n_skipped for reader in self._readers)

    @property
    def errors(self) -> Sequence[CaptureError]:
        """Damages met so far; the other captures go on."""
        return self._merge.errors

    def receive(self, limit: int) -> Batch | None:
        """The next packets, at most `limit`; None at the end of all captures."""
        if self._now is None or self._at == len(self._now.packets):
            self._now = next(self._merge, None)
            self._at = 0
            if self._now is None:
                return None
        start, self._at = self._at, min(self._at + limit, len(self._now.packets))
        return Batch(self._now.data, self._now.packets[start : self._at])


def open_sided(path: str, inside: Sequence[Network], limit: int | None, closing: ExitStack) -> SidedSource:
    """Open one capture, which `closing` closes. Raises OSError, and CaptureError when it is no capture."""
    return SidedSource(closing.enter_context(open_capture(path)), inside, limit)


def open_merged(files: Sequence[PortFile], numbers: Sequence[int], closing: ExitStack) -> MergedSource:
    """Open one capture per port, which `closing` closes. Raises OSError, and CaptureError when one is no capture."""
    return MergedSource(
        [closing.enter_context(open_capture(file.path, number)) for file, number in zip(files, numbers, strict=True)]
    )

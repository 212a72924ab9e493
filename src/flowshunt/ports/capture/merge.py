"""Several captures, one per port, as one stream in the order of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from flowshunt.jit import kernel, load_be64, store_be64
from flowshunt.packet.schema import PACKET, Batch
from flowshunt.ports.api import CaptureError

_READ_AHEAD = 16384
_NO_KEYS = np.zeros(0, np.int64)


class Receiver(Protocol):
    """What is merged: a `CaptureReader`, or another port that ends."""

    def receive(self, limit: int) -> Batch | None:
        """See `flowshunt.ports.api.Port`."""


def merge(readers: Sequence[Receiver], limit: int) -> Merge:
    """The packets of all `readers`, by time, in batches of at most `limit` packets (at least 1).

    Each capture keeps its own order: a packet earlier than the one before it in the same file counts as being of that one's
    time. Of equal times the reader given first is first. in_port is what each reader writes. A batch's arrays are valid
    until the next one; its packets lie one after the other in one buffer. A reader with a damaged file ends there and the
    others go on; see `Merge.errors`.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}, must be at least 1")
    return Merge(readers, limit)


class Merge(Iterator[Batch]):
    """The merged batches; made by `merge`.

    `errors`: what ended readers early, in the order met; complete when the iteration is over, which never raises
    CaptureError itself.
    """

    def __init__(self, readers: Sequence[Receiver], limit: int) -> None:
        self.errors: list[CaptureError] = []
        self._inputs = [_Input(reader) for reader in readers]
        self._limit = limit
        self._order = np.zeros((0, 2), np.int64)  # (input, packet of its batch), what is left of the present round
        self._data = np.zeros(0, np.uint8)

    def __next__(self) -> Batch:
        if not len(self._order):
            self._next_round()
        if not len(self._order):
            raise StopIteration
        now, self._order = self._order[: self._limit], self._order[self._limit :]
        return self._gather(now)

    def _next_round(self) -> None:
        """Read where nothing is left, and order all packets that no later one can precede.

        Those are the ones up to the earliest last key in memory; of that very key, only those of readers up to the first one
        that ends with it, since it may go on with the same time.
        """
        for source in self._inputs:
            self._fill(source)
        open_inputs = [j for j, source in enumerate(self._inputs) if not source.ended]
        first = min(open_inputs, key=lambda j: int(self._inputs[j].keys[-1]), default=-1)
        parts = []
        for j, source in enumerate(self._inputs):
            taken = len(source.keys)
            if first >= 0:
                side = "right" if j <= first else "left"
                taken = int(np.searchsorted(source.keys, self._inputs[first].keys[-1], side))
            parts.append(source.take(j, taken))
        keys = np.concatenate([key for key, _ in parts]) if parts else _NO_KEYS
        order = np.argsort(keys, kind="stable")
        self._order = np.concatenate([row for _, row in parts])[order] if parts else self._order

    def _fill(self, source: _Input) -> None:
        if source.ended or len(source.keys):
            return
        try:
            source.fill()
        except CaptureError as error:
            source.ended = True
            self.errors.append(error)

    def _gather(self, order: np.ndarray) -> Batch:
        """Copy the packets named by `order` into one buffer."""
        packets = np.empty(len(order), PACKET)
        for j, source in enumerate(self._inputs):
            mine = order[:, 0] == j
            packets[mine] = source.packets[order[mine, 1]]
        lengths = packets["length"].astype(np.int64)
        ends = np.cumsum(lengths)
        if len(self._data) < ends[-1]:
            self._data = np.zeros(int(ends[-1]) * 2, np.uint8)
        starts = ends - lengths
        for j, source in enumerate(self._inputs):
            mine = np.flatnonzero(order[:, 0] == j)
            if len(mine):
                gather(source.data, packets, mine, starts, self._data)
        packets["data"] = starts
        return Batch(self._data, packets)


class _Input:
    """A reader, and the batch of it that is being merged.

    `keys`: running maximum of the times of the packets not yet ordered; `ended`: nothing will come after them.
    """

    def __init__(self, reader: Receiver) -> None:
        self.reader = reader
        self.ended = False
        self.data = np.zeros(0, np.uint8)
        self.packets = np.zeros(0, PACKET)
        self.keys = _NO_KEYS
        self._latest = np.int64(np.iinfo(np.int64).min)

    def fill(self) -> None:
        batch = self.reader.receive(_READ_AHEAD)
        if batch is None:
            self.ended = True
            return
        self.data, self.packets = batch
        self.keys = np.maximum.accumulate(np.maximum(self.packets["time_ns"], self._latest))
        self._latest = self.keys[-1]

    def take(self, j: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Take the first `n` packets not yet ordered: their keys, and their (j, index) rows."""
        first = len(self.packets) - len(self.keys)
        rows = np.full((n, 2), j, np.int64)
        rows[:, 1] = np.arange(first, first + n)
        taken, self.keys = self.keys[:n], self.keys[n:]
        return taken, rows


@kernel
def copy_bytes(source: Any, at: Any, target: Any, to: Any, length: Any) -> None:
    """target[to:to + length] = source[at:at + length], for different arrays; the caller has checked the bounds."""
    words = length >> 3
    for w in range(words):
        store_be64(target, to + 8 * w, load_be64(source, at + 8 * w))
    for b in range(8 * words, length):
        target[to + b] = source[at + b]


@kernel(
    example=lambda: (
        np.zeros(1, np.uint8), np.zeros(1, PACKET), np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.uint8)
    )
)  # fmt: skip
def gather(data: Any, packets: Any, indices: Any, starts: Any, out: Any) -> None:
    """Copy packets[i] for each i of `indices` from `data` to out[starts[i]:].

    `data`, `out`: uint8; `packets`: PACKET (n,), unchanged; `indices`, `starts`: int64. The caller has made room.
    """
    for k in range(len(indices)):
        i = indices[k]
        copy_bytes(data, packets["data"][i], out, starts[i], np.int64(packets["length"][i]))

"""Several captures, one per port, as one stream in the order of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from flowshunt.jit import kernel
from flowshunt.packet.schema import PACKET, Batch
from flowshunt.ports.api import CaptureError
from flowshunt.ports.capture.scan import copy_bytes

_READ_AHEAD = 16384
_BUFFER_SIZE = 1 << 20

HEAD = np.dtype([("next", np.int64), ("n", np.int64), ("ended", np.int64)], align=True)
"""Of one input: its next packet not yet taken, the number in memory, and whether none will follow them."""

PICK = np.dtype([("input", np.int64), ("data", np.int64)], align=True)
"""Where a merged packet comes from: input, and offset in that one's buffer."""


class Receiver(Protocol):
    """What is merged: a `CaptureReader`, or another port that ends."""

    def receive(self, limit: int) -> Batch | None:
        """See `flowshunt.ports.api.Port`."""


def merge(readers: Sequence[Receiver], limit: int) -> Merge:
    """The packets of all `readers`, by time, in batches of at most `limit` packets (at least 1), none empty.

    Each capture keeps its own order, also where its time goes back. Of equal times the reader given first is first.
    in_port is what each reader writes. A batch's arrays are valid until the next one; its packets lie one after the
    other in one buffer. A reader with a damaged file ends there and the others go on; see `Merge.errors`.
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
        self._readers = list(readers)
        self._data = [np.zeros(0, np.uint8) for _ in readers]
        self._waiting = np.zeros((len(readers), _READ_AHEAD), PACKET)
        self._heads = np.zeros(len(readers), HEAD)
        self._picks = np.zeros(limit, PICK)
        self._packets = np.zeros(limit, PACKET)
        self._out = np.zeros(_BUFFER_SIZE, np.uint8)

    def __next__(self) -> Batch:
        for j in np.flatnonzero((self._heads["next"] == self._heads["n"]) & (self._heads["ended"] == 0)).tolist():
            self._fill(j)
        n = int(pick(self._waiting, self._heads, self._picks, self._packets, len(self._out)))
        if n == 0:
            raise StopIteration
        for j, data in enumerate(self._data):
            gather(data, self._picks, j, self._packets, n, self._out)
        return Batch(self._out, self._packets[:n])

    def _fill(self, j: int) -> None:
        """Read the next packets of input `j`; in its own buffer until it is asked again, so all must be taken
        before."""
        head: Any = self._heads[j]
        try:
            batch = self._readers[j].receive(_READ_AHEAD)
        except CaptureError as error:
            self.errors.append(error)
            batch = None
        if batch is None:
            head["ended"] = 1
            return
        n = len(batch.packets)
        self._data[j] = batch.data
        self._waiting[j, :n] = batch.packets
        head["next"], head["n"] = 0, n
        longest = int(batch.packets["length"].max(initial=0))
        if longest > len(self._out):
            self._out = np.zeros(longest, np.uint8)


@kernel(
    example=lambda: (
        np.zeros((1, 1), PACKET), np.zeros(1, HEAD), np.zeros(1, PICK), np.zeros(1, PACKET), np.int64(1)
    )
)  # fmt: skip
def pick(waiting: Any, heads: Any, picks: Any, packets: Any, size: Any) -> Any:
    """Take packets in the order of time into `packets`, which then point into a buffer of `size` bytes; returns how
    many.

    `waiting`: PACKET (inputs, any), row j has input j's packets; `heads`: HEAD (inputs,), `next` moves on; `picks`:
    PICK, written; `packets`: PACKET, of the same length, its port's part is written. Stops when these are full, the
    buffer is (a packet always fits into an empty one), or an input has nothing left in memory but goes on.
    """
    n = np.int64(0)
    at = np.int64(0)
    while n < len(packets):
        best = _earliest(waiting, heads)
        if best < 0:
            break
        i = heads["next"][best]
        length = np.int64(waiting["length"][best, i])
        if at + length > size:
            break
        picks["input"][n] = best
        picks["data"][n] = waiting["data"][best, i]
        packets["data"][n] = at
        packets["time_ns"][n] = waiting["time_ns"][best, i]
        packets["length"][n] = length
        packets["wire_length"][n] = waiting["wire_length"][best, i]
        packets["in_port"][n] = waiting["in_port"][best, i]
        packets["gso_size"][n] = waiting["gso_size"][best, i]
        packets["gso_type"][n] = waiting["gso_type"][best, i]
        packets["checksum"][n] = waiting["checksum"][best, i]
        heads["next"][best] = i + 1
        at += length
        n += 1
    return n


@kernel
def _earliest(waiting: Any, heads: Any) -> Any:
    """The input whose next packet is the earliest, the first of several; -1 when none is left or one must be read
    first."""
    best = np.int64(-1)
    earliest = np.int64(0)
    for j in range(len(heads)):
        i = heads["next"][j]
        if i == heads["n"][j]:
            if heads["ended"][j] == 0:
                return np.int64(-1)
            continue
        time_ns = waiting["time_ns"][j, i]
        if best < 0 or time_ns < earliest:
            best = np.int64(j)
            earliest = time_ns
    return best


@kernel(
    example=lambda: (
        np.zeros(1, np.uint8), np.zeros(1, PICK), 0, np.zeros(1, PACKET), 1, np.zeros(1, np.uint8)
    )
)  # fmt: skip
def gather(data: Any, picks: Any, j: Any, packets: Any, n: Any, out: Any) -> None:
    """Copy the bytes of those of the first `n` packets that come from input `j`, from `data` to `out`.

    `data`, `out`: uint8; `picks`: PICK and `packets`: PACKET as `pick` wrote them.
    """
    for i in range(n):
        if picks["input"][i] == j:
            copy_bytes(data, picks["data"][i], out, packets["data"][i], np.int64(packets["length"][i]))

"""What live ports take and give: batches with the offloads that devices left to us, and frames to send.

A *virtio-net header* comes with every frame of a port that can do offloads: whether its checksum is partial, and into
which segments it is to be cut. It stays with the frame until it leaves; `VNET` is its layout, in the machine's byte
order (virtio 1.2 section 5.1.6, without the number of buffers).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from flowshunt.packet.schema import Batch

VNET_WORDS = 5
VNET_SIZE = 2 * VNET_WORDS
"""Bytes of a header."""
V_FLAGS, V_HEADER_SIZE, V_GSO_SIZE, V_CHECKSUM_START, V_CHECKSUM_OFFSET = range(VNET_WORDS)
"""The words of a header. The first holds VNET_* in its low byte and the GSO type in its high one. The checksum starts
so many bytes behind the frame's first one, and is written so many bytes behind there.
"""

VNET_NEEDS_CHECKSUM = 1
VNET_CHECKSUM_VALID = 2


class LiveBatch(NamedTuple):
    """A batch, and the virtio-net header of each of its packets: uint16 (n, VNET_WORDS)."""

    batch: Batch
    vnet: np.ndarray

    def select(self, which: np.ndarray) -> LiveBatch:
        """Some of its packets, bool (n,), in their order; itself when it is all of them."""
        if which.all():
            return self
        return LiveBatch(Batch(self.batch.data, self.batch.packets[which]), self.vnet[: len(which)][which])


class Frames(NamedTuple):
    """What a batch causes to be sent.

    `tx`: records with at least `data`, `length`, `port`, `packet` (index in the batch), `source` (0: `data` is an
    offset in the batch's buffer, 1: in `tx_data`) and `time_ns`.
    """

    received: LiveBatch
    tx: np.ndarray
    tx_data: np.ndarray

    def bytes_of(self, n: int) -> bytes:
        """Frame n."""
        record = self.tx[n]
        data = self.tx_data if record["source"] else self.received.batch.data
        return data[int(record["data"]) : int(record["data"]) + int(record["length"])].tobytes()

    def to_port(self, number: int) -> list[int]:
        """Which frames leave on port `number`, in order."""
        return np.flatnonzero(self.tx["port"] == number).tolist()


class LivePort(Protocol):
    """A port of a running switch. Used by the packet thread alone."""

    in_port: int
    """The OpenFlow port number of packets that it receives, and of the frames that it sends."""

    @property
    def counters(self) -> dict[str, int]:
        """What went wrong, by name."""
        ...

    def fileno(self) -> int:
        """What to wait for; -1: nothing ever comes by itself."""
        ...

    def receive(self, now_ns: int) -> LiveBatch | None:
        """What has come, at most 256 packets, stamped with `now_ns`; None: nothing. It never blocks.

        The arrays are valid until `release`. Raises PortError when the device is gone.
        """
        ...

    def release(self) -> None:
        """The batch that was received last is done with, and what it caused is sent."""
        ...

    def send(self, frames: Frames) -> None:
        """Send those frames that are for this port, in order. What the device refuses is counted, never retried.

        Raises PortError when the device is gone.
        """
        ...

    def close(self) -> None:
        """Give up the device. A second call does nothing."""
        ...


def plain(batch: Batch) -> LiveBatch:
    """A batch without offloads."""
    return LiveBatch(batch, np.zeros((len(batch.packets), VNET_WORDS), np.uint16))

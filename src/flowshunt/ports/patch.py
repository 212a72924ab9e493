"""Patch ports: what one bridge sends, another receives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowshunt.packet.schema import PACKET, Batch
from flowshunt.ports.live import V_CHECKSUM_START, V_HEADER_SIZE, Frames, LiveBatch
from flowshunt.ports.segments import link_size

Deliver = Callable[[LiveBatch], bool]
"""Takes a batch to the other end; False: there is none."""


class PatchPort:
    """See `LivePort`. Frames become a new batch, with nothing of what the first bridge found out about them."""

    def __init__(self, in_port: int, deliver: Deliver) -> None:
        self.in_port = in_port
        self.counters: dict[str, int] = {"tx_dropped": 0}
        self._deliver = deliver

    def fileno(self) -> int:
        """Nothing to wait for."""
        return -1

    def receive(self, now_ns: int) -> LiveBatch | None:
        """Nothing comes from here; the other end delivers."""
        return None

    def release(self) -> None:
        """Nothing was lent."""

    def send(self, frames: Frames) -> None:
        """Copy the frames, and deliver them."""
        chosen = frames.to_port(self.in_port)
        copies = [frames.bytes_of(n) for n in chosen]
        tx = frames.tx[chosen]
        before = frames.received.batch.packets[tx["packet"]]
        packets = np.zeros(len(chosen), PACKET)
        packets["length"] = packets["wire_length"] = tx["length"]
        packets["data"][1:] = np.cumsum(tx["length"][:-1])
        packets["time_ns"] = tx["time_ns"]
        for name in ("gso_size", "gso_type", "checksum"):
            packets[name] = np.where(tx["cut"], 0, before[name])
        vnet = moved(frames, tx)
        data = np.frombuffer(bytearray().join(copies), np.uint8)
        if not self._deliver(LiveBatch(Batch(data, packets), vnet)):
            self.counters["tx_dropped"] += len(chosen)

    def close(self) -> None:
        """Nothing to give up."""


def moved(frames: Frames, tx: np.ndarray) -> np.ndarray:
    """The virtio-net headers of frames: those they came with, moved by what was put in front of the checksum."""
    vnet: np.ndarray = frames.received.vnet[tx["packet"]].copy()
    vnet[tx["cut"] != 0] = 0
    for row, record in zip(vnet, tx, strict=True):
        if row[V_CHECKSUM_START]:
            data = frames.tx_data if record["source"] else frames.received.batch.data
            place = np.int64(frames.received.batch.packets["data"][record["packet"]])
            growth = link_size(data, np.int64(record["data"])) - link_size(frames.received.batch.data, place)
            row[V_CHECKSUM_START] += growth
            row[V_HEADER_SIZE] += growth if row[V_HEADER_SIZE] else 0
    return vnet

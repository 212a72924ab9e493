"""A port in memory: frames are put in as bytes and come out as bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from flowshunt.packet.schema import PACKET, Batch
from flowshunt.ports.api import PortError


class Transmitted(NamedTuple):
    """A frame that the switch sent, and when (ns since the epoch)."""

    frame: bytes
    time_ns: int


class MemoryPort:
    """In-memory port for tests and for the Python API; see `flowshunt.ports.api.Port` for what ports do.

    `transmitted`: what was sent, oldest first. `ends`: whether `receive`
    returns None when nothing is left (as a capture does) instead of an empty batch (as a live port does).
    """

    def __init__(self, in_port: int = 0, *, ends: bool = False) -> None:
        self.in_port = in_port
        self.ends = ends
        self.transmitted: list[Transmitted] = []
        self._waiting: deque[tuple[bytes, dict[str, int]]] = deque()
        self._closed = False

    def __len__(self) -> int:
        """Frames queued and not yet received."""
        return len(self._waiting)

    def queue(self, frame: bytes, time_ns: int = 0, **fields: int) -> None:
        """Put a frame in line. `fields`: further fields of `PACKET` that a port fills, such as `wire_length`,
        `gso_size`, `gso_type`, `checksum`; wire_length is the frame's length when not given.

        Raises ValueError for a field that a port doesn't fill, PortError when the port is closed.
        """
        unknown = fields.keys() - {"wire_length", "gso_size", "gso_type", "checksum"}
        if unknown:
            raise ValueError(f"not a field that a port fills: {', '.join(sorted(unknown))}")
        if self._closed:
            raise PortError("memory port is closed")
        self._waiting.append((bytes(frame), {"wire_length": len(frame), **fields, "time_ns": time_ns}))

    def queue_all(self, frames: Iterable[bytes], time_ns: int = 0, interval_ns: int = 0) -> None:
        """Put frames in line, `interval_ns` apart."""
        for n, frame in enumerate(frames):
            self.queue(frame, time_ns + n * interval_ns)

    def receive(self, limit: int) -> Batch | None:
        """At most `limit` of the queued frames, in new arrays."""
        taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        if not taken and (self.ends or self._closed):
            return None
        packets = np.zeros(len(taken), PACKET)
        at = 0
        for i, (frame, fields) in enumerate(taken):
            record: Any = packets[i]
            record["data"], record["length"], record["in_port"] = at, len(frame), self.in_port
            for name, value in fields.items():
                record[name] = value
            at += len(frame)
        data = np.frombuffer(bytearray().join(frame for frame, _ in taken), np.uint8)
        return Batch(data, packets)

    def transmit(self, data: np.ndarray, frames: np.ndarray) -> int:
        """Keep copies of the frames in `transmitted`; takes all of them."""
        if self._closed:
            raise PortError("memory port is closed")
        for start, length, time_ns in zip(
            frames["data"].tolist(), frames["length"].tolist(), frames["time_ns"].tolist(), strict=True
        ):
            self.transmitted.append(Transmitted(data[start : start + length].tobytes(), time_ns))
        return len(frames)

    def close(self) -> None:
        """Forget what is queued; what was transmitted stays readable."""
        self._closed = True
        self._waiting.clear()

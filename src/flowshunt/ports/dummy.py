"""Ports without a device: frames are put in by hand, and those sent are kept for whoever asks."""

from __future__ import annotations

from collections import deque

from flowshunt.ports.live import Frames, LiveBatch
from flowshunt.ports.memory import Transmitted

KEPT = 4096
"""Frames that are kept; older ones are forgotten."""


class DummyPort:
    """See `LivePort`. `transmitted`: what was sent, oldest first. `is_up`: whether anything is."""

    def __init__(self, in_port: int) -> None:
        self.in_port = in_port
        self.is_up = True
        self.counters: dict[str, int] = {"tx_dropped": 0}
        self.transmitted: deque[Transmitted] = deque(maxlen=KEPT)

    def fileno(self) -> int:
        """Nothing comes by itself."""
        return -1

    def receive(self, now_ns: int) -> LiveBatch | None:
        """Nothing."""
        return None

    def release(self) -> None:
        """Nothing was lent."""

    def send(self, frames: Frames) -> None:
        """Keep copies, while the port is up."""
        chosen = frames.to_port(self.in_port)
        if not self.is_up:
            self.counters["tx_dropped"] += len(chosen)
            return
        for n in chosen:
            self.transmitted.append(Transmitted(frames.bytes_of(n), int(frames.tx["time_ns"][n])))

    def close(self) -> None:
        """Nothing to give up."""

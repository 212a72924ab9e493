"""Ports without a device: frames are put in by hand, and those sent are kept for whoever asks."""

from __future__ import annotations

from collections import deque

from flowshunt.ports.finishing import Finisher
from flowshunt.ports.live import Frames, LiveBatch
from flowshunt.ports.memory import Transmitted

KEPT = 4096
"""Frames that are kept; older ones are forgotten."""


class DummyPort:
    """See `LivePort`. `transmitted`: what was sent, oldest first. `is_up`: whether anything is."""

    def __init__(self, in_port: int) -> None:
        self.in_port = in_port
        self.is_up = True
        self.counters: dict[str, int] = {"tx_dropped": 0, "tx_errors": 0}
        self.transmitted: deque[Transmitted] = deque(maxlen=KEPT)
        self._finisher = Finisher()

    def fileno(self) -> int:
        """Nothing comes by itself."""
        return -1

    def receive(self, now_ns: int) -> LiveBatch | None:
        """Nothing."""
        return None

    def release(self) -> None:
        """Nothing was lent."""

    def send(self, frames: Frames) -> None:
        """Keep copies, as they would be on a wire, while the port is up."""
        if not self.is_up:
            self.counters["tx_dropped"] += len(frames.to_port(self.in_port))
            return
        for finished in self._finisher(frames, self.in_port):
            for n in range(len(finished.tx)):
                self.transmitted.append(Transmitted(finished.bytes_of(n), int(finished.tx["time_ns"][n])))
        self.counters["tx_errors"] = self._finisher.n_refused

    def close(self) -> None:
        """Nothing to give up."""

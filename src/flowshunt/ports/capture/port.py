"""A capture, or a pair of them, as a port: received from one file, transmitted into another."""

from __future__ import annotations

import numpy as np

from flowshunt.packet.schema import Batch
from flowshunt.ports.capture.reader import CaptureReader
from flowshunt.ports.capture.writer import PcapngWriter, PcapWriter


class CapturePort:
    """See `flowshunt.ports.api.Port`. Owns `reader` and `writer` and closes them.

    Without a reader nothing is received; without a writer, transmitted frames are taken and dropped.
    `n_transmitted`: frames taken.
    """

    def __init__(self, reader: CaptureReader | None = None, writer: PcapWriter | PcapngWriter | None = None) -> None:
        self.reader = reader
        self.writer = writer
        self.n_transmitted = 0
        self._in_port = reader.in_port if reader else 0

    @property
    def in_port(self) -> int:
        """The port number written into received packets."""
        return self._in_port

    @in_port.setter
    def in_port(self, number: int) -> None:
        self._in_port = number
        if self.reader:
            self.reader.in_port = number

    def receive(self, limit: int) -> Batch | None:
        """The next batch of the capture; None at its end. Raises CaptureError at damage."""
        return self.reader.receive(limit) if self.reader else None

    def transmit(self, data: np.ndarray, frames: np.ndarray) -> int:
        """Write the frames; takes all. Raises ValueError as the writer does, OSError when writing fails."""
        if self.writer:
            self.writer.write(data, frames)
        self.n_transmitted += len(frames)
        return len(frames)

    def close(self) -> None:
        """Close both files."""
        try:
            if self.reader:
                self.reader.close()
        finally:
            if self.writer:
                self.writer.close()

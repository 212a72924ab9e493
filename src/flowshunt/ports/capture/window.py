"""The part of a capture that is in memory: one buffer that moves over the file, refilled behind the scan."""

from __future__ import annotations

import numpy as np

from flowshunt.ports.capture.compressed import Source

CAPACITY = 1 << 20
"""Bytes of the file in memory at once; it bounds what a batch holds, and fits the second-level cache."""

HEADROOM = 64
"""Bytes before the window that a synthesised Ethernet header may use."""


class Window:
    """The bytes `[start, end)` of `data` are the file's, from `offset` of the (decompressed) stream on."""

    def __init__(self, source: Source) -> None:
        self.data = np.zeros(HEADROOM + CAPACITY, np.uint8)
        self.start = HEADROOM
        self.end = HEADROOM
        self.offset = 0
        self._source = source
        self._view = self.data.data

    def __len__(self) -> int:
        return self.end - self.start

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, refilling as needed; fewer only at the end of the file. Raises as `refill` does."""
        while len(self) < size and self.refill(size):
            pass
        return self.data[self.start : min(self.end, self.start + size)].tobytes()

    def advance(self, size: int) -> None:
        """Pass over the next `size` bytes, which are in the window."""
        self.start += size
        self.offset += size

    def refill(self, need: int) -> int:
        """Read once, to get nearer to `need` bytes (at most CAPACITY) in the window; moves its contents to the
        front where that is necessary. Returns the bytes read, 0 only at the end of the file. Raises
        CompressionError, OSError."""
        if self.start == self.end or self.start + max(need, CAPACITY // 16) > len(self.data):
            rest = len(self)
            self.data[HEADROOM : HEADROOM + rest] = self.data[self.start : self.end]
            self.start, self.end = HEADROOM, HEADROOM + rest
        n = self._source.read_into(self._view[self.end :])
        self.end += n
        return n

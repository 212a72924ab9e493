"""What a port is, and what can go wrong with one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from flowshunt.base.errors import InputError
from flowshunt.packet.schema import Batch


class PortError(InputError):
    """A port cannot go on; the other ports can."""


class CaptureError(PortError):
    """A capture is damaged, or is not a capture that can be read. Packets before the damage have been delivered.

    `path`: as given to the reader. `offset`: byte where the damage begins: the start of the record or block that cannot
    be read, or the end of what could be decompressed; for compressed captures it counts decompressed bytes.
    `problem`: what was found there. `expected`: what would have been right.
    """

    def __init__(self, path: str, offset: int, problem: str, expected: str) -> None:
        super().__init__(f"{path}: {problem} at byte {offset}; expected {expected}")
        self.path = path
        self.offset = offset
        self.problem = problem
        self.expected = expected

    def __reduce__(self) -> tuple[type[CaptureError], tuple[str, int, str, str]]:
        return type(self), (self.path, self.offset, self.problem, self.expected)


@runtime_checkable
class Port(Protocol):
    """One port of the switch. Used by one thread, the packet worker; only `close` may come from another.

    `in_port`: the OpenFlow port number written into every packet received; whoever adds the port to a switch sets it.
    """

    in_port: int

    def receive(self, limit: int) -> Batch | None:
        """The next packets, at most `limit` (at least 1), in arrival order.

        A live port never blocks and returns an empty batch when nothing has come; a port that ends (a capture) may
        block on its file and returns None from its end on. The batch's arrays belong to the port, may be read and
        written by the caller (parsing, rewriting in place), and are valid until the next call of `receive` or `close`.

        Raises PortError (CaptureError for captures) when the port cannot go on, after everything before the failure has
        been returned by earlier calls; from then on it returns None.
        """

    def transmit(self, data: np.ndarray, frames: np.ndarray) -> int:
        """Send frames in the order given; returns how many were taken, the first ones.

        `data`: uint8 buffer. `frames`: structured array with at least the fields `data` (offset in the buffer),
        `length` and `time_ns`: `PACKET` and the datapath's transmit records both do. Neither is changed or kept
        after the call. A port that can take no more leaves the rest to the caller, who counts it as dropped;
        nothing is retried. Raises PortError when the port cannot go on.
        """

    def close(self) -> None:
        """Give up file or device; buffered output is written first. A second call does nothing."""

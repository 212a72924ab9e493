"""Punts: a packet stops in the middle of its way, Python looks at it and may change it, and it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.states import CS_INVALID, CS_TRACKED
from flowshunt.datapath.schema import HEADER_GROWTH, OWN_SIZE, PacketArrays
from flowshunt.packet.emit import rewrite_one
from flowshunt.packet.parse import parse_batch
from flowshunt.packet.schema import W_CT, W_L4
from flowshunt.ports.finishing import finished_frames


class Punt(NamedTuple):
    """A packet that waits for its handler.

    `reason`: program.PUNT_*. `argument`: what the action said. `own`: the packet, with its headers as they came.
    `key`: int64 (KEY_WORDS,), the packet's key as the tables left it; a handler may change it. `tracked`: TRACKED, the
    connection that the packet was tracked in last. `doubts`: see `invalidate`. `table`: whose actions run. `halts`: see
    `halt`.
    """

    reason: int
    argument: int
    own: PacketArrays
    key: np.ndarray
    tracked: np.void
    doubts: list[bool]
    table: int
    halts: list[bool]

    @property
    def frame(self) -> bytes:
        """The packet's bytes, headers as they came."""
        return self.own.data[: int(self.own.packets["length"][0])].tobytes()

    @property
    def frame_now(self) -> bytes:
        """The packet's bytes as they would leave now, with all that actions wrote into its headers."""
        data, packets, original = self.own
        out = np.zeros(int(packets["length"][0]) + HEADER_GROWTH, np.uint8)
        length = int(rewrite_one(data, packets, 0, self.key.reshape(1, -1), 0, original, out, 0))
        return out[:length].tobytes()

    @property
    def finished_frames(self) -> list[bytes]:
        """`frame_now` for those who take plain packets only: a GSO packet as its segments, checksums complete."""
        protocol = int(self.key[W_L4]) >> 24 & 0xFF
        return finished_frames(self.frame_now, self.own.packets, protocol, self.own.data)

    def halt(self) -> None:
        """Let the packet end here."""
        self.halts.append(True)

    def replace(self, frame: bytes) -> None:
        """Let the packet go on with other bytes. What actions wrote into its headers is still to be applied to them.

        Raises UsageError for more than OWN_SIZE bytes; then nothing has changed.
        """
        if len(frame) > OWN_SIZE:
            raise UsageError(f"a packet of {len(frame)} bytes does not fit", hint=f"at most {OWN_SIZE}")
        data, packets, original = self.own
        data[: len(frame)] = np.frombuffer(frame, np.uint8)
        packets["length"][0] = packets["wire_length"][0] = len(frame)
        parse_batch(data, packets, original, 1)

    def invalidate(self) -> None:
        """Add inv to the packet's ct_state, where it has any."""
        self.doubts.append(True)
        if int(self.key[W_CT]) >> 32 & CS_TRACKED:
            self.key[W_CT] |= CS_INVALID << 32


Handler = Callable[[Punt], None]
"""Called while packets wait: it must be quick, must not send packets, and must not remove or change flows, whose
actions may be those that the packet goes on with."""

"""Packets that wait for a helper: what it gets to see, and what it may do with them."""

from __future__ import annotations

from typing import Protocol

from flowshunt.conntrack.states import CS_REPLY
from flowshunt.datapath.helping import TRANSLATED
from flowshunt.datapath.punts import Punt
from flowshunt.packet.payload import room_for_payload, with_payload
from flowshunt.packet.schema import W_L4


class Verdict(Protocol):
    """What an inspector says of a packet."""

    @property
    def payload(self) -> bytes | None:
        """What goes on in the place of its payload; None: that stays."""

    @property
    def invalid(self) -> bool:
        """Whether it is not to be trusted."""


class Inspector(Protocol):
    """Whoever knows the helpers' protocols."""

    def inspect(
        self, row: int, generation: int, direction: int, seq: int, payload: bytes, *, room: int, translated: bool
    ) -> Verdict:
        """Called for each packet with payload of a connection with a helper, while the packet waits.

        `seq`: TCP sequence number of the first byte as the sender counts, 0 for other protocols. `room`: bytes by which
        the payload may grow. `translated`: the packet's ct action applies NAT.
        """


class Consultation:
    """The handler of packets that are punted to helpers."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    def __call__(self, punt: Punt) -> None:
        """Show the payload to the inspector, and do what it says."""
        packet = punt.own.packets[0]
        frame = punt.frame
        verdict = self._inspector.inspect(
            int(punt.tracked["row"]),
            int(punt.tracked["generation"]),
            1 if int(punt.tracked["state"]) & CS_REPLY else 0,
            punt.argument & 0xFFFFFFFF,
            frame[int(packet["payload"]) : int(packet["l3_end"])],
            room=room_for_payload(packet),
            translated=bool(punt.argument & TRANSLATED),
        )
        if verdict.payload is not None:
            protocol = (int(punt.own.original[0, W_L4]) >> 24) & 0xFF
            punt.replace(with_payload(frame, packet, protocol, verdict.payload))
        if verdict.invalid:
            punt.invalidate()

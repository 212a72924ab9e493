"""Packets that controllers send out, hear of, and let go on."""

from __future__ import annotations

from flowshunt.base.errors import UsageError
from flowshunt.control.openflow import ports
from flowshunt.control.openflow.changes import refusal
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.events import Event
from flowshunt.control.openflow.packets import MAX_DATA, PacketIn, PacketOut, Resume, continuation_of
from flowshunt.control.openflow.parts import Bridge
from flowshunt.control.openflow.switch_ports import SwitchPorts
from flowshunt.control.openflow.wire import NO_BUFFER, PORT_CONTROLLER, PORT_LOCAL, PORT_MAX, PORT_NONE
from flowshunt.rules.openflow.executor import REASON_MISS, ToController

_RESUMED_FIELDS = frozenset(("metadata", *(f"reg{n}" for n in range(16))))
"""What a controller may change of a paused packet, besides its bytes."""


class Traffic:
    """The packets of one bridge that controllers have to do with."""

    def __init__(self, bridge: Bridge, ports_: SwitchPorts) -> None:
        """`ports_`: those of the bridge, which may be configured to tell nobody of packets."""
        self._bridge = bridge
        self._ports = ports_

    def send(self, out: PacketOut, now_ns: int) -> None:
        """Carry out a packet-out. Raises OpenFlowError."""
        if out.buffer_id != NO_BUFFER:
            raise OpenFlowError("OFPBRC_BUFFER_UNKNOWN", "no packets are kept here")
        if out.in_port > PORT_MAX and out.in_port not in (PORT_LOCAL, PORT_NONE, PORT_CONTROLLER):
            raise OpenFlowError("OFPBRC_BAD_PORT", f"a packet can't come in on port {out.in_port}")
        metadata = tuple(triple for triple in out.metadata if triple[0] != "in_port")
        try:
            self._bridge.packet_out(out.data, out.in_port, out.actions, now_ns, metadata)
        except UsageError as problem:
            raise refusal(problem) from None

    def packet_in(self, packet: ToController) -> Event | None:
        """The news of a packet for controllers; None when its port is configured to keep quiet."""
        action = packet.action
        reason = REASON_MISS if packet.is_miss else action.reason
        if reason == REASON_MISS:
            in_port = next((value for name, value, _ in packet.metadata if name == "in_port"), 0)
            if self._ports.is_configured(in_port, ports.CONFIG_NO_PACKET_IN):
                return None
        message = PacketIn(
            packet.frame[:MAX_DATA],
            len(packet.frame),
            reason,
            packet.table,
            packet.cookie,
            packet.metadata,
            action.userdata,
            continuation_of(packet.continuation),
            is_miss_flow=packet.is_miss,
        )
        return Event("packet_in", reason, message, action.controller)

    def resume(self, message: Resume, now_ns: int) -> None:
        """Let a paused packet go on. Raises OpenFlowError (NXR_STALE when it does not wait any more)."""
        settable = tuple(triple for triple in message.metadata if triple[0] in _RESUMED_FIELDS)
        try:
            found = self._bridge.resume(message.continuation[-8:], message.data, now_ns, settable)
        except UsageError as problem:
            raise refusal(problem) from None
        if not found:
            raise OpenFlowError("NXR_STALE", "this packet does not wait any more")

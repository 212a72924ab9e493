"""Opens the device of a port by its type."""

from __future__ import annotations

from flowshunt.daemon.bridge import OpenPort, PortInfo
from flowshunt.ports.af_packet import AfPacketPort
from flowshunt.ports.api import PortError
from flowshunt.ports.dummy import DummyPort
from flowshunt.ports.live import LivePort

NOT_SUPPORTED = frozenset(
    ("vxlan", "geneve", "gre", "ip6gre", "erspan", "ip6erspan", "gtpu", "bareudp", "srv6", "stt", "lisp", "tap")
)
"""Types that Open vSwitch knows, and we don't."""


def open_dummy(info: PortInfo) -> LivePort:
    """A port in memory, whatever the type; patch ports are the node's."""
    info.mtu = 1500
    return DummyPort(info.ofport)


def open_device(info: PortInfo) -> LivePort:
    """The device that a port stands for. Raises PortError."""
    if info.type == "dummy":
        return open_dummy(info)
    if info.type == "system":
        return AfPacketPort(info.name, info.ofport)
    if info.type in NOT_SUPPORTED:
        raise PortError(f"{info.name}: ports of type {info.type} are not supported")
    raise PortError(f"{info.name}: unknown type of port {info.type}")


__all__ = ["OpenPort", "open_device", "open_dummy"]

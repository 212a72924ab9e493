"""Opens the device of a port by its type."""

from __future__ import annotations

from flowshunt.daemon.bridge import OpenPort, PortInfo
from flowshunt.ports.af_packet import AfPacketPort
from flowshunt.ports.af_xdp import AfXdpPort
from flowshunt.ports.api import PortError
from flowshunt.ports.devices import link_of, look_up
from flowshunt.ports.dummy import DummyPort
from flowshunt.ports.live import LivePort
from flowshunt.ports.tap import TapPort

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
        return _described(info, AfPacketPort(info.name, info.ofport))
    if info.type == "afxdp":
        return _described(info, AfXdpPort(info.name, info.ofport))
    if info.type == "internal":
        return _described(info, TapPort(info.name, info.ofport, info.mtu_request))
    if info.type in NOT_SUPPORTED:
        raise PortError(f"{info.name}: ports of type {info.type} are not supported")
    raise PortError(f"{info.name}: unknown type of port {info.type}")


def has_device(info: PortInfo) -> bool:
    """Whether a port of this type stands for a device of its name."""
    return info.type in ("system", "internal", "afxdp")


def describe(info: PortInfo) -> bool:
    """Fill in what the device of a port says; returns whether that is new. Raises PortError when it is gone."""
    try:
        found = look_up(info.name)
    except OSError as problem:
        raise PortError(f"could not open network device {info.name} ({problem.strerror})") from None
    link = link_of(info.name)
    before = (info.ifindex, info.mtu, info.mac, info.admin_up, info.link_up), info.link
    if info.link_up != found.link_up:
        info.link_resets += 1
    info.ifindex, info.mtu, info.mac, info.admin_up, info.link_up = found
    info.link = link
    return before != (found, link)


def _described(info: PortInfo, port: LivePort) -> LivePort:
    try:
        describe(info)
    except PortError:
        port.close()
        raise
    info.link_resets = 0
    return port


__all__ = ["OpenPort", "open_device", "open_dummy"]

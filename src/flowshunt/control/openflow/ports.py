"""Ports: their descriptions, statistics and changes."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, pack
from typing import NamedTuple

from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.wire import OF10, OF13, OF14, OF15, PORT_NONE, port_from_32, port_to_32

CONFIG_DOWN = 1 << 0
CONFIG_NO_RECEIVE = 1 << 2
CONFIG_NO_FLOOD = 1 << 4
CONFIG_NO_FORWARD = 1 << 5
CONFIG_NO_PACKET_IN = 1 << 6
STATE_LINK_DOWN = 1 << 0
STATE_LIVE = 1 << 2

_PORT_10 = Struct("!H6s16s6I")
_PORT_11 = Struct("!I4x6s2x16s8I")
_PORT_14 = Struct("!IH2x6s2x16sII")
_ETHERNET = Struct("!HH4x6I")
_MOD_10 = Struct("!H6sIII4x")
_MOD_11 = Struct("!I4x6s2xIII4x")
_MOD_14 = Struct("!I4x6s2xII")
_UNKNOWN = (1 << 64) - 1
_NAME_SIZE = 15
_CONFIG_10 = 0x7F
_CONFIG_11 = CONFIG_DOWN | CONFIG_NO_RECEIVE | CONFIG_NO_FORWARD | CONFIG_NO_PACKET_IN


class PortDescription(NamedTuple):
    """A port. `number` has 16 bits; `config` and `state` are CONFIG_* and STATE_*; speeds are in kbit/s."""

    number: int
    name: str
    address: bytes
    config: int = 0
    state: int = STATE_LIVE
    features: int = 0
    speed: int = 0


class PortCounters(NamedTuple):
    """What a port counted; None: not known."""

    number: int
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_dropped: int | None = None
    tx_dropped: int | None = None
    rx_errors: int | None = None
    tx_errors: int | None = None
    duration_ns: int = 0


class PortDescriptionRequest(NamedTuple):
    """Asks for descriptions of one port, or of all (None)."""

    port: int | None = None


class PortDescriptionReply(NamedTuple):
    """Descriptions of ports."""

    ports: Sequence[PortDescription]


class PortStatsRequest(NamedTuple):
    """Asks for the counters of one port, or of all (None)."""

    port: int | None = None


class PortStatsReply(NamedTuple):
    """Counters of ports."""

    ports: Sequence[PortCounters]


class PortMod(NamedTuple):
    """A change of a port: those bits of `config` that are in `mask`."""

    port: int
    address: bytes
    config: int
    mask: int


class PortStatus(NamedTuple):
    """A port came (0), went (1) or changed (2)."""

    reason: int
    port: PortDescription


def decode_port_number(body: bytes, version: int) -> int | None:
    """The port that a request names, None for any."""
    if len(body) != 8:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request about a port of the wrong size")
    if version == OF10:
        port: int | None = int.from_bytes(body[:2], "big")
    else:
        port = port_from_32(int.from_bytes(body[:4], "big"))
    if port is None:
        raise OpenFlowError("OFPBRC_BAD_PORT", "not a port")
    return None if port == PORT_NONE else port


def decode_description_request(body: bytes, version: int) -> PortDescriptionRequest:
    """A request for descriptions; before OpenFlow 1.5 it is for all."""
    if version >= OF15:
        return PortDescriptionRequest(decode_port_number(body, version))
    if body:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request for descriptions of the wrong size")
    return PortDescriptionRequest()


def decode_stats_request(body: bytes, version: int) -> PortStatsRequest:
    """A request for counters."""
    return PortStatsRequest(decode_port_number(body, version))


def decode_port_mod(body: bytes, version: int) -> PortMod:
    """A change of a port; what it advertises is read over."""
    layout = _MOD_10 if version == OF10 else _MOD_11 if version < OF14 else _MOD_14
    if len(body) < layout.size or (version < OF14 and len(body) != layout.size):
        raise OpenFlowError("OFPBRC_BAD_LEN", "a port-mod of the wrong size")
    number, address, config, mask = layout.unpack_from(body)[:4]
    port = number if version == OF10 else port_from_32(number)
    if port is None:
        raise OpenFlowError("OFPPMFC_BAD_PORT", f"{number:#x} is not a port")
    if (config | mask) & ~(_CONFIG_10 if version == OF10 else _CONFIG_11):
        raise OpenFlowError("OFPPMFC_BAD_CONFIG", f"unknown configuration {config:#x}/{mask:#x}")
    if version >= OF14:
        _check_properties(body, _MOD_14.size)
    return PortMod(port, address, config, mask)


def _check_properties(body: bytes, at: int) -> None:
    while at < len(body):
        kind, size = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if len(body) - at < 4 or size < 4 or size > len(body) - at:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a property of {size} bytes")
        if kind != 0:
            raise OpenFlowError("OFPBPC_BAD_TYPE", f"unknown property {kind} of a port")
        at += (size + 7) & ~7


def encode_port(port: PortDescription, version: int) -> bytes:
    """One description, in the form of the version."""
    name = port.name.encode()[:_NAME_SIZE]
    if version == OF10:
        state = port.state & STATE_LINK_DOWN
        return _PORT_10.pack(port.number, port.address, name, port.config, state, port.features, 0, 0, 0)
    number = port_to_32(port.number)
    config = port.config & _CONFIG_11
    if version < OF14:
        speeds = (port.features, 0, 0, 0, port.speed, port.speed)
        return _PORT_11.pack(number, port.address, name, config, port.state, *speeds)
    size = _PORT_14.size + _ETHERNET.size
    return _PORT_14.pack(number, size, port.address, name, config, port.state) + _ETHERNET.pack(
        0, _ETHERNET.size, port.features, 0, 0, 0, port.speed, port.speed
    )


def _known(value: int | None) -> int:
    return _UNKNOWN if value is None else value


def encode_counters(port: PortCounters, version: int) -> bytes:
    """One port's counters, in the form of the version. Frame, overrun and CRC errors and collisions are not known."""
    counters = [_known(value) for value in port[1:9]]
    details = pack("!4Q", *(_UNKNOWN,) * 4)
    seconds, nanoseconds = divmod(port.duration_ns, 1_000_000_000)
    if version == OF10:
        return pack("!H6x8Q", port.number, *counters) + details
    number = port_to_32(port.number)
    if version < OF14:
        body = pack("!I4x8Q", number, *counters) + details
        return body + pack("!II", seconds, nanoseconds) if version >= OF13 else body
    size = 80 + 40
    return pack("!H2xIII8Q", size, number, seconds, nanoseconds, *counters) + pack("!HH4x", 0, 40) + details


def encode_status(status: PortStatus, version: int) -> bytes:
    """The news of a port."""
    return pack("!B7x", status.reason) + encode_port(status.port, version)

"""What the system says of a network device, asked by ioctl, which needs neither netlink nor /sys."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys
from typing import NamedTuple

# linux/sockios.h, linux/if.h
_GET_FLAGS, _SET_FLAGS, _GET_MTU, _SET_MTU, _GET_ADDRESS, _GET_INDEX = 0x8913, 0x8914, 0x8921, 0x8922, 0x8927, 0x8933
_SET_ADDRESS = 0x8924
# linux/ethtool.h
_ETHTOOL, _GET_SETTINGS, _GET_FEATURES, _RXVLAN = 0x8946, 0x01, 0x25, 1 << 8
_SETTINGS_SIZE, _SPEED_AT, _DUPLEX_AT, _SPEED_HIGH_AT = 44, 12, 14, 28
_FULL_DUPLEX = 1
_UNKNOWN_SPEEDS = (0, 0xFFFF, 0xFFFFFFFF)
_ETHERNET = 1
_IFF_UP = 0x1
_IFF_RUNNING = 0x40
_REQUEST_SIZE = 40
NAME_SIZE = 16
"""Bytes of a device's name, with the one behind it."""


class Device(NamedTuple):
    """A device as it is now. `link_up`: it has a carrier. `mtu` is bytes."""

    ifindex: int
    mtu: int
    mac: bytes
    admin_up: bool
    link_up: bool


def _ask(control: socket.socket, request: int, name: str) -> bytes:
    return fcntl.ioctl(control.fileno(), request, name.encode().ljust(_REQUEST_SIZE, b"\0"))[NAME_SIZE:]


def look_up(name: str) -> Device:
    """Ask about a device by name. Raises OSError (ENODEV) when there is none."""
    if len(name.encode()) >= NAME_SIZE:
        raise OSError(19, "No such device")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack_from("@H", _ask(control, _GET_FLAGS, name))[0]
        index = struct.unpack_from("@i", _ask(control, _GET_INDEX, name))[0]
        mtu = struct.unpack_from("@i", _ask(control, _GET_MTU, name))[0]
        mac = _ask(control, _GET_ADDRESS, name)[2:8]
    return Device(index, mtu, mac, bool(flags & _IFF_UP), bool(flags & _IFF_RUNNING))


def mtu_of(control: socket.socket, name: str) -> int:
    """A device's MTU now, asked by a socket that is there. Raises OSError when there is no device of that name."""
    return int.from_bytes(_ask(control, _GET_MTU, name)[:4], sys.byteorder)


def _ethtool(name: str, command: bytes) -> bytes:
    """What the driver of a device answers to a command, which is as long as that. Raises OSError."""
    value = array.array("B", command)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("@16sP", name.encode(), value.buffer_info()[0])
        fcntl.ioctl(control.fileno(), _ETHTOOL, request.ljust(_REQUEST_SIZE, b"\0"))
    return value.tobytes()


def takes_tags_off(name: str) -> bool:
    """Whether a device takes VLAN tags out of the frames that it receives, and tells them beside. Raises OSError."""
    value = _ethtool(name, struct.pack("@II", _GET_FEATURES, 0))
    return bool(struct.unpack_from("@I", value, 4)[0] & _RXVLAN)


class Link(NamedTuple):
    """What a device is connected by. `speed`: bits per second."""

    speed: int
    full_duplex: bool


def link_of(name: str) -> Link | None:
    """The link of a device; None where its driver does not say how fast it is."""
    try:
        value = _ethtool(name, struct.pack("@I", _GET_SETTINGS).ljust(_SETTINGS_SIZE, b"\0"))
    except OSError:
        return None
    low, high = (struct.unpack_from("@H", value, at)[0] for at in (_SPEED_AT, _SPEED_HIGH_AT))
    megabits = low | high << 16
    if megabits in _UNKNOWN_SPEEDS:
        return None
    return Link(megabits * 1_000_000, value[_DUPLEX_AT] == _FULL_DUPLEX)


def set_up(name: str, mtu: int | None = None, *, up: bool = True) -> None:
    """Bring a device up, or down, first giving it an MTU. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        start = name.encode().ljust(NAME_SIZE, b"\0")
        if mtu is not None:
            fcntl.ioctl(control.fileno(), _SET_MTU, (start + struct.pack("@i", mtu)).ljust(_REQUEST_SIZE, b"\0"))
        flags = struct.unpack_from("@H", _ask(control, _GET_FLAGS, name))[0]
        request = (start + struct.pack("@H", flags | _IFF_UP if up else flags & ~_IFF_UP)).ljust(_REQUEST_SIZE, b"\0")
        fcntl.ioctl(control.fileno(), _SET_FLAGS, request)


def set_address(name: str, mac: bytes) -> None:
    """Give an Ethernet device another address. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = name.encode().ljust(NAME_SIZE, b"\0") + struct.pack("@H", _ETHERNET) + mac
        fcntl.ioctl(control.fileno(), _SET_ADDRESS, request.ljust(_REQUEST_SIZE, b"\0"))

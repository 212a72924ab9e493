"""The other end of a veth pair, by rtnetlink: may packets be handed to it directly?"""

from __future__ import annotations

import socket
import struct

_GETLINK, _NEWLINK = 18, 16
_REQUEST = 1
# linux/if_link.h
_ADDRESS, _LINK, _QDISC, _LINKINFO, _LINK_NETNSID, _TARGET_NETNSID = 1, 5, 6, 18, 37, 46
_INFO_KIND = 1
_HEADER = struct.Struct("=IHHII")
_INTERFACE = struct.Struct("=BxHiII")
_TYPE_MASK = 0x3FFF


def peer_address(ifindex: int) -> int:
    """The MAC address at the other end of a veth pair, 48 bits, when packets may skip this end's way out; else 0.

    They may when the other end is in another network namespace, and nothing here holds packets back (no queueing
    discipline). What is redirected there counts as addressed to it, so only packets to this address must be.
    """
    try:
        here = _link(ifindex)
        is_open = here.get(_QDISC, b"").rstrip(b"\0") == b"noqueue"
        if _kind(here) != "veth" or not is_open or _LINK_NETNSID not in here:
            return 0
        namespace = struct.unpack("=i", here[_LINK_NETNSID])[0]
        there = _link(struct.unpack("=i", here[_LINK])[0], namespace)
    except (OSError, struct.error, KeyError):
        return 0
    return int.from_bytes(there.get(_ADDRESS, b"")[:6], "big")


def kind_of(ifindex: int) -> str:
    """What made a device, such as "veth"; empty for that of a driver, and for none."""
    try:
        return _kind(_link(ifindex))
    except (OSError, struct.error):
        return ""


def _kind(link: dict[int, bytes]) -> str:
    return attributes(link.get(_LINKINFO, b"")).get(_INFO_KIND, b"").rstrip(b"\0").decode()


def _link(ifindex: int, namespace: int | None = None) -> dict[int, bytes]:
    """A device's attributes. Raises OSError."""
    body = _INTERFACE.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)
    if namespace is not None:
        body += struct.pack("=HHi", 8, _TARGET_NETNSID, namespace)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asking:
        asking.settimeout(1.0)
        asking.send(_HEADER.pack(_HEADER.size + len(body), _GETLINK, _REQUEST, 1, 0) + body)
        answer = asking.recv(1 << 16)
    _, type_, *_ = _HEADER.unpack_from(answer)
    if type_ != _NEWLINK:
        raise OSError(-struct.unpack_from("=i", answer, _HEADER.size)[0], "no such link")
    return attributes(answer[_HEADER.size + _INTERFACE.size :])


def attributes(data: bytes) -> dict[int, bytes]:
    """Netlink attributes by type."""
    found, at = {}, 0
    while at + 4 <= len(data):
        size, type_ = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        found[type_ & _TYPE_MASK] = data[at + 4 : at + size]
        at += (size + 3) & ~3
    return found

"""XDP: what devices can do with frames, and the program on those that shall pass them on without making packets.

A frame that is redirected to a veth device is lost, silently, unless the other end of the pair polls (NAPI), which it
does with generic receive offload or an XDP program of its own. The kernel says whether a device takes frames (Linux
6.3; Documentation/netlink/specs/netdev.yaml), and when that changes.
"""

from __future__ import annotations

import socket
import struct
import threading

from flowshunt.base import bpf
from flowshunt.offload.providers.kernel.links import Link
from flowshunt.offload.providers.kernel.peers import attributes, kind_of
from flowshunt.ports.devices import takes_tags_off

# linux/netdev.h, linux/genetlink.h
_BASIC, _REDIRECT, _XMIT, _XMIT_FRAGS = 1 << 0, 1 << 1, 1 << 2, 1 << 6
_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME, _GROUPS = 16, 3, 1, 2, 7
_GROUP_NAME, _GROUP_ID = 1, 2
_GET_DEVICE, _IFINDEX, _XDP_FEATURES = 1, 1, 3
_REQUEST, _ERROR = 1, 2
_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBxx")
_NETLINK_GENERIC, _SOL_NETLINK, _ADD_MEMBERSHIP = 16, 270, 1
_ATTRIBUTES = _HEADER.size + _GENERIC.size
_SIZE = 1 << 16

_FAR_END = "its other end would not take frames: there, ethtool -K DEVICE gro on, or an XDP program"
_QUEUES = "its other end sends on more queues than it receives on: ip link add ... numrxqueues N"
_OLD = "the kernel does not say whether its other end takes frames, as Linux 6.3 does"


class FrameHook(Link):
    """The program at XDP on a device, in its driver."""

    @staticmethod
    def _make(program_fd: int, ifindex: int, keep: bool) -> int:
        return bpf.link_xdp(program_fd, ifindex, bpf.XDP_NATIVE)


class Features:
    """What devices of this network namespace can do with frames. Any thread may ask."""

    def __init__(self) -> None:
        self._family = 0
        self._n_asked = 0
        self._lock = threading.Lock()
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._asking = socket.socket(socket.AF_NETLINK, kind, _NETLINK_GENERIC)
        self._heard = socket.socket(socket.AF_NETLINK, kind, _NETLINK_GENERIC)
        self._heard.bind((0, 0))
        self._heard.setblocking(False)
        self._asking.settimeout(1.0)
        try:
            self._subscribe()
        except (OSError, KeyError):
            self._family = 0

    def _subscribe(self) -> None:
        found = self._ask(_CONTROL, _GET_FAMILY, struct.pack("=HH8s", 11, _FAMILY_NAME, b"netdev"))
        for group in attributes(found[_GROUPS]).values():
            about = attributes(group)
            if about[_GROUP_NAME].rstrip(b"\0") == b"mgmt":
                self._heard.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, struct.unpack("=I", about[_GROUP_ID])[0])
        self._family = struct.unpack_from("=H", found[_FAMILY_ID])[0]

    def _ask(self, family: int, command: int, body: bytes) -> dict[int, bytes]:
        message = _GENERIC.pack(command, 1) + body
        with self._lock:
            self._n_asked += 1
            self._asking.send(_HEADER.pack(_HEADER.size + len(message), family, _REQUEST, self._n_asked, 0) + message)
            answer = self._asking.recv(_SIZE)
            while _HEADER.unpack_from(answer)[3] != self._n_asked:  # to a question that nobody waits for any more
                answer = self._asking.recv(_SIZE)
        if _HEADER.unpack_from(answer)[1] == _ERROR:
            raise OSError(-struct.unpack_from("=i", answer, _HEADER.size)[0], "the kernel refuses to say")
        return attributes(answer[_ATTRIBUTES:])

    def of(self, ifindex: int) -> int | None:
        """Bits of what a device can do; None: the kernel does not say."""
        if not self._family:
            return None
        try:
            found = self._ask(self._family, _GET_DEVICE, struct.pack("=HHI", 8, _IFINDEX, ifindex))
        except OSError:
            return 0
        return int(struct.unpack_from("=Q", found.get(_XDP_FEATURES, bytes(8)))[0])

    def why_not(self, ifindex: int, *, is_attached: bool) -> str:
        """Why frames cannot come in and leave by a device, and what would change that; empty: they can.

        Some drivers send frames of others only once the device has a program itself (`is_attached`).
        """
        can, is_veth = self.of(ifindex), kind_of(ifindex) == "veth"
        if can is None and is_veth:
            return _OLD
        if can is None:
            can = _BASIC | _REDIRECT | _XMIT  # attaching shows
        if is_veth and can & _BASIC and not can & _XMIT:
            return _FAR_END
        if not can & _BASIC or not can & _REDIRECT:
            return _QUEUES if is_veth else "its driver has no XDP"
        if not is_veth and _takes_tags_off(ifindex):
            return "it takes VLAN tags out of frames: ethtool -K DEVICE rxvlan off"
        return "its driver does not send frames of other devices" if is_attached and not can & _XMIT else ""

    def takes_large(self, ifindex: int) -> bool:
        """Whether frames of several buffers leave by it."""
        can = self.of(ifindex)
        return can is not None and bool(can & _XMIT_FRAGS)

    def have_changed(self) -> bool:
        """Whether something has changed since the last call."""
        changed = False
        while True:
            try:
                self._heard.recv(_SIZE)
            except BlockingIOError:
                return changed
            except OSError:  # news were lost
                pass
            changed = True

    def close(self) -> None:
        """Ask no more."""
        with self._lock:
            self._asking.close()
        self._heard.close()


def _takes_tags_off(ifindex: int) -> bool:
    try:
        return takes_tags_off(socket.if_indextoname(ifindex))
    except OSError:
        return False

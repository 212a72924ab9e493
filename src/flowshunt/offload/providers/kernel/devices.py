"""The program at the ingress of devices, and the device where what goes up is received."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from flowshunt.base import bpf
from flowshunt.offload.providers.kernel.links import Link
from flowshunt.ports.devices import look_up, set_up

# linux/if_tun.h
_SET_INTERFACE = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_NO_TCX = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_NEEDS_TCX = "kernel-hitless needs tcx links, as in Linux 6.6"
_CLSACT = 0xFFFF0000
_INGRESS = 0xFFFFFFF2
_PREFERENCE = 0xC000
_TAP_MTU = 0xFFFF - 14
"""The largest: Linux 5.11 drops larger packets that are redirected."""


class Ingress(Link):
    """A program at a device's ingress, by a tcx link.

    Where the kernel has no tcx it is a filter of a clsact qdisc, which only `close` removes.
    """

    @staticmethod
    def _make(program_fd: int, ifindex: int, keep: bool) -> int:
        try:
            return bpf.link_ingress(program_fd, ifindex)
        except OSError as problem:
            if problem.errno not in _NO_TCX:
                raise
            if keep:
                raise OSError(problem.errno, _NEEDS_TCX) from None
            _add_filter(program_fd, ifindex)
            return -1

    @property
    def is_tcx(self) -> bool:
        """Whether it is a tcx link."""
        return self._link >= 0

    def replace(self, program_fd: int) -> None:
        """Another program from the next packet on, unless the device is gone. Raises OSError."""
        if self.is_tcx:
            super().replace(program_fd)
        else:
            _add_filter(program_fd, self.ifindex)

    def keep(self, pin: str | None) -> None:
        """Stay beyond the process, pinned there; None: no more. Raises OSError; then it is as it was."""
        if pin is not None and not self.is_tcx:
            raise OSError(errno.EOPNOTSUPP, _NEEDS_TCX)
        super().keep(pin)

    def close(self, *, keep: bool = False) -> None:
        """See `Link.close`."""
        if not self.is_tcx and self.ifindex:
            _remove_filter(self.ifindex)
        super().close(keep=keep)
        self.ifindex = 0


def _add_filter(program_fd: int, ifindex: int) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route:
        with contextlib.suppress(NetlinkError):  # there is one
            route.tc("add", "clsact", ifindex)
        try:
            route.tc(
                "replace-filter", "bpf", ifindex, handle=1, fd=program_fd, name="flowshunt", parent=_INGRESS,
                prio=_PREFERENCE, direct_action=True,
            )  # fmt: skip
        except NetlinkError as problem:
            raise OSError(problem.code, f"clsact: {problem}") from None


def _remove_filter(ifindex: int) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route, contextlib.suppress(NetlinkError):  # the device may be gone
        route.tc("del-filter", "bpf", ifindex, handle=1, parent=_INGRESS, prio=_PREFERENCE)


class UpDevice:
    """A tap device without anyone at its other end: what is redirected to it is received by a packet socket.

    The machine's own stack gets nothing of it. It lives as long as this object, or its process. `name`, `ifindex`.
    """

    def __init__(self, discard_fd: int) -> None:
        """`discard_fd`: the program that keeps packets from the stack. Raises OSError."""
        self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            request = struct.pack("@16sH22x", b"fsup%d", _IFF_TAP | _IFF_NO_PI)
            answer: bytes = fcntl.ioctl(self._fd, _SET_INTERFACE, request)
            self.name = answer[:16].rstrip(b"\0").decode()
            self.ifindex = look_up(self.name).ifindex
            with contextlib.suppress(OSError), open(_ipv6_of(self.name), "w", encoding="ascii") as setting:
                setting.write("1")
            self._discard = Ingress(discard_fd, self.ifindex)
        except OSError:
            os.close(self._fd)
            raise
        try:
            set_up(self.name, _TAP_MTU)
        except OSError:
            self.close()
            raise

    def replace(self, discard_fd: int) -> None:
        """The program comes from other objects."""
        self._discard.replace(discard_fd)

    def close(self) -> None:
        """Remove the device."""
        if self._fd >= 0:
            self._discard.close()
            os.close(self._fd)
            self._fd = -1


def _ipv6_of(device: str) -> str:
    return f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6"

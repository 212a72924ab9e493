"""Programs on devices: at the ingress of ports, and the device where what goes up is received."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowshunt.base import bpf
from flowshunt.base.background import in_background
from flowshunt.offload.providers.kernel.records import DEVICE, LARGE_FRAMES, SMALL_FRAMES
from flowshunt.offload.providers.kernel.slots import ANY_PORT
from flowshunt.ports.devices import look_up, set_up

if TYPE_CHECKING:
    from flowshunt.offload.providers.kernel.frames import FrameHook

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
_LARGEST = 0xFFFF
"""MTU that a flow can say."""
INGRESS, FRAMES = "ingress", "xdp"
"""Where programs are attached."""


_GOING: dict[int, Future[None]] = {}
"""Links that are being closed, by their devices."""
_GOING_LOCK = threading.Lock()


class Ingress:
    """A program at a device's ingress, until `close` or the end of the process, by a tcx link.

    Where the kernel has no tcx it is a filter of a clsact qdisc, which only `close` removes.
    """

    def __init__(self, program_fd: int, ifindex: int, pin: str | None = None, *, keep: bool = False) -> None:
        """`pin`: where in a BPF file system a process before may have left its link; its program ends here.

        `keep`: pin our own there, so that it stays beyond the process. Raises OSError.
        """
        self.ifindex = ifindex
        self._pin = pin if keep else None
        self._link = -1 if pin is None else take_over(program_fd, pin, keep)
        if self._link >= 0:
            return
        if going := _GOING.get(ifindex):
            going.result()  # a device takes a program once
        try:
            self._link = bpf.link_ingress(program_fd, ifindex)
        except OSError as problem:
            if problem.errno not in _NO_TCX:
                raise
            if keep:
                raise OSError(problem.errno, _NEEDS_TCX) from None
            _add_filter(program_fd, ifindex)
        if self._pin is not None:
            try:
                bpf.pin(self._link, self._pin)
            except OSError as problem:
                os.close(self._link)
                raise OSError(problem.errno, f"cannot be pinned as {self._pin}: {problem.strerror}") from None

    @property
    def is_tcx(self) -> bool:
        """Whether it is a tcx link."""
        return self._link >= 0

    def replace(self, program_fd: int) -> None:
        """Another program from the next packet on, unless the device is gone. Raises OSError."""
        if self._link >= 0:
            try:
                bpf.update_link(self._link, program_fd)
            except OSError as problem:
                if problem.errno != errno.ENOLINK:
                    raise
        else:
            _add_filter(program_fd, self.ifindex)

    def keep(self, pin: str | None) -> None:
        """Stay beyond the process, pinned there; None: no more. Raises OSError; then it is as it was."""
        if pin is not None and not self.is_tcx:
            raise OSError(errno.EOPNOTSUPP, _NEEDS_TCX)
        self._pin = move_pin(self._link, self._pin, pin)

    def close(self, *, keep: bool = False) -> None:
        """Take the program off the device, if it is still there; `keep`: leave it there if its link is pinned.

        A link goes soon: the kernel has whoever closes it wait until no processor runs the program.
        """
        if self._pin is not None and not keep:
            unpin(self._pin)
        if self._link >= 0:
            with _GOING_LOCK:
                for ifindex in [ifindex for ifindex, going in _GOING.items() if going.done()]:
                    del _GOING[ifindex]
                _GOING[self.ifindex] = in_background(partial(os.close, self._link))
            self._link = -1
        elif self.ifindex:
            _remove_filter(self.ifindex)
        self.ifindex = 0


def take_over(program_fd: int, pin: str, keep: bool) -> int:
    """The link that is pinned there, with this program; -1: there is none, or its device is gone."""
    try:
        link = bpf.get(pin)
    except OSError:  # there is none, or nothing was ever pinned there
        return -1
    try:
        bpf.update_link(link, program_fd)
    except OSError:
        os.close(link)
        link = -1
    if link < 0 or not keep:
        unpin(pin)
    return link


def move_pin(link: int, before: str | None, pin: str | None) -> str | None:
    """Pin a link there in place of `before`; None: nowhere. Returns `pin`. Raises OSError; then it is as it was."""
    if pin != before:
        if pin is not None:
            unpin(pin)
            bpf.pin(link, pin)
        if before is not None:
            unpin(before)
    return pin


def unpin(pin: str) -> None:
    """Let go of what is pinned there, if that may be done and there is anything."""
    with contextlib.suppress(OSError):
        os.unlink(pin)


def pin_of(folder: str, ifindex: int, hook: str = INGRESS) -> str:
    """Where the link of a device of this network namespace is pinned. `hook`: INGRESS or FRAMES."""
    return os.path.join(folder, f"{hook}{_namespace()}{ifindex}")


def pins_in(folder: str) -> list[str]:
    """All links of this network namespace that are pinned."""
    try:
        prefixes = INGRESS + _namespace(), FRAMES + _namespace()
        return [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(prefixes)]
    except OSError:
        return []


def _namespace() -> str:
    return f"-{os.stat('/proc/thread-self/ns/net').st_ino}-"


def is_bpf_folder(folder: str) -> bool:
    """Whether things can be pinned there."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        mounts = [(line.split()[1], line.split()[2]) for line in file]
    real = os.path.realpath(folder)
    inside = [(len(place), kind) for place, kind in mounts if real == place or real.startswith(place.rstrip("/") + "/")]
    return bool(inside) and max(inside, key=lambda found: found[0])[1] == "bpf"


class Attached(NamedTuple):
    """A port that the program is attached to. `number`: as what goes up is marked. `peer`: see `peers`.

    `wants_frames`: it is to do without packets, see `frames`; `hook`: it does; `why`: it cannot. `takes_large`: it
    sends frames of several buffers.
    `ingress`: None while the program of the process before forwards.
    """

    number: int
    ifindex: int
    mtu: int
    ingress: Ingress | None
    up: UpDevice
    peer: int = 0
    wants_frames: bool = False
    hook: FrameHook | None = None
    takes_large: bool = False
    why: str = ""


class Prepared(NamedTuple):
    """A device that the program is on and does nothing yet. `peer`: see `peers`."""

    ingress: Ingress
    peer: int

    def close(self) -> None:
        """Take the program off."""
        self.ingress.close()


class Ports:
    """The ports that are attached, by their numbers in paths. `devices`: DEVICE (n,), in the order of numbers."""

    def __init__(self) -> None:
        self.attached: dict[int, Attached] = {}
        self._sort()

    def _sort(self) -> None:
        self.devices = np.zeros(len(self.attached), DEVICE)
        for place, number in enumerate(sorted(self.attached)):
            port = self.attached[number]
            self.devices[place] = number, port.ifindex, min(port.mtu, _LARGEST), port.peer, _frames_of(port)

    def add(self, port: int, attached: Attached) -> None:
        """One more."""
        self.attached[port] = attached
        self._sort()

    def remove(self, port: int) -> Attached | None:
        """One less, if it is there."""
        found = self.attached.pop(port, None)
        self._sort()
        return found

    def change(self, port: int, changed: Attached) -> bool:
        """Note what a port that is there is now; whether that is new."""
        if self.attached[port] == changed:
            return False
        self.add(port, changed)
        return True


def _frames_of(port: Attached) -> int:
    """See DEVICE."""
    return 0 if port.why or not port.wants_frames else LARGE_FRAMES if port.takes_large else SMALL_FRAMES


class EveryPort(Ports):
    """Every number is a port, for checks without any: of the device of the same index, or all of one device.

    `has_frames`: they all do without packets.
    """

    def __init__(self, ifindex: int = 0, *, has_frames: bool = False) -> None:
        super().__init__()
        self.devices = np.array([(ANY_PORT, ifindex, 0, 0, LARGE_FRAMES if has_frames else 0)], DEVICE)


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

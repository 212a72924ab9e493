"""Programs on devices by links of the kernel, and where links are pinned so that they outlive the process."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from functools import partial

from flowshunt.base import bpf
from flowshunt.base.background import in_background

INGRESS, FRAMES = "ingress", "xdp"
"""Where programs are attached."""

_GOING: dict[tuple[type, int], Future[None]] = {}
"""Links that are being closed, by their kinds and devices."""
_GOING_LOCK = threading.Lock()


class Link(ABC):
    """A program on a device, until `close` or the end of the process."""

    def __init__(self, program_fd: int, ifindex: int, pin: str | None = None, *, keep: bool = False) -> None:
        """`pin`: where in a BPF file system a process before may have left its link; its program ends here.

        `keep`: pin our own there, so that it stays beyond the process. Raises OSError.
        """
        self.ifindex = ifindex
        self._pin = pin if keep else None
        self._link = -1 if pin is None else take_over(program_fd, pin, keep)
        if self._link >= 0:
            return
        if going := _GOING.get((type(self), ifindex)):
            going.result()  # a device takes a program once
        self._link = self._make(program_fd, ifindex, keep)
        if self._pin is not None:
            try:
                bpf.pin(self._link, self._pin)
            except OSError as problem:
                os.close(self._link)
                raise OSError(problem.errno, f"cannot be pinned as {self._pin}: {problem.strerror}") from None

    @staticmethod
    @abstractmethod
    def _make(program_fd: int, ifindex: int, keep: bool) -> int:
        """A link's descriptor. Raises OSError."""

    def replace(self, program_fd: int) -> None:
        """Another program from the next packet on, unless the device is gone. Raises OSError."""
        try:
            bpf.update_link(self._link, program_fd)
        except OSError as problem:
            if problem.errno != errno.ENOLINK:
                raise

    def keep(self, pin: str | None) -> None:
        """Stay beyond the process, pinned there; None: no more. Raises OSError; then it is as it was."""
        self._pin = move_pin(self._link, self._pin, pin)

    def close(self, *, keep: bool = False) -> None:
        """Take the program off the device, if it is still there; `keep`: leave it there if its link is pinned.

        A link goes soon: the kernel has whoever closes it wait until no processor runs the program.
        """
        if self._pin is not None and not keep:
            unpin(self._pin)
        if self._link >= 0:
            with _GOING_LOCK:
                for key in [key for key, going in _GOING.items() if going.done()]:
                    del _GOING[key]
                _GOING[type(self), self.ifindex] = in_background(partial(os.close, self._link))
            self._link = -1


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

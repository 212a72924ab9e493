"""The maps and programs of one provider."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import weakref
from functools import cached_property
from importlib.resources import files

import numpy as np

from flowshunt.base import bpf
from flowshunt.offload.providers.kernel.elf import ObjectFile
from flowshunt.offload.providers.kernel.pinned import Pinned
from flowshunt.offload.providers.kernel.records import CONTROL, KEY, PORT, REASONS, STATE, VALUE

MAX_PORTS = 4096

_CAPABILITIES = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 39: "CAP_BPF"}
_SYS_ADMIN = 21
_NOT_THERE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def missing_privileges() -> list[str]:
    """Capabilities that the provider needs and this thread does not have."""
    with open("/proc/thread-self/status", encoding="ascii") as status:
        held = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    if held >> _SYS_ADMIN & 1:
        held |= 1 << 39
    return [name for bit, name in _CAPABILITIES.items() if not held >> bit & 1]


class Objects:
    """Maps for `limit` flows, and the programs that use them. Nothing passes before a program is attached.

    `states`: STATE (limit, 2), `control`: CONTROL (1,), both shared with the programs. `pinned`: what the next process
    finds.
    """

    def __init__(self, limit: int, pins: str | None = None) -> None:
        """`pins`: folder for `pinned`.

        Raises OSError: EPERM with the privileges that are missing, EOPNOTSUPP for a kernel that is too old.
        """
        if lacking := missing_privileges():
            raise OSError(errno.EPERM, f"needs {', '.join(lacking)}")
        self.limit = limit
        self._fds: list[int] = []
        weakref.finalize(self, bpf.close_all, self._fds)
        self.pinned: Pinned | None = None
        try:
            self._make(limit, pins)
        except OSError as problem:
            self.close()
            if problem.errno in _NOT_THERE:
                text = f"needs BPF as in Linux 5.11 or later: {problem.strerror}"
                raise OSError(errno.EOPNOTSUPP, text) from None
            raise

    def _make(self, limit: int, pins: str | None) -> None:
        array, hash_ = bpf.ARRAY, bpf.HASH
        self._flows = self._map("flows", hash_, KEY.itemsize, VALUE.itemsize, 2 * limit)
        states = self._map("states", array, 4, STATE.itemsize, 2 * limit, bpf.MMAPABLE)
        control = self._map("control", array, 4, CONTROL.itemsize, 1, bpf.MMAPABLE)
        reasons = self._map("reasons", array, 4, 8, len(REASONS), bpf.MMAPABLE)
        self._ports = self._map("ports", hash_, 4, PORT.itemsize, MAX_PORTS)
        self.states = bpf.mapped(states, STATE, 2 * limit).reshape(limit, 2)
        self.control = bpf.mapped(control, CONTROL, 1)
        self._reasons = bpf.mapped(reasons, np.dtype("=u8"), len(REASONS))
        self._maps = {"flows": self._flows, "states": states, "control": control}
        maps = {**self._maps, "ports": self._ports, "reasons": reasons}
        self.forward = self._program("forward", "tc/forward", maps)
        self.discard = self._program("forward", "tc/discard", maps)
        if pins is not None:
            self.pinned = Pinned(pins, states, limit)

    def _map(self, name: str, type_: int, key_size: int, value_size: int, length: int, flags: int = 0) -> int:
        self._fds.append(bpf.create_map(type_, key_size, value_size, length, flags=flags, name=name))
        return self._fds[-1]

    def _program(
        self, source: str, section: str, maps: dict[str, int], type_: int = bpf.CLASSIFIER, flags: int = 0
    ) -> int:
        content = object_file(source)
        name = section.rpartition("/")[2]
        self._fds.append(bpf.load_program(content.program(section, maps), content.license, name, type_, flags))
        return self._fds[-1]

    @cached_property
    def forward_frames(self) -> int:
        """The program for XDP. Raises OSError: EOPNOTSUPP for a kernel that is too old."""
        try:
            return self._program("xdp", "xdp/forward", self._maps, bpf.XDP, bpf.XDP_HAS_FRAGS)
        except OSError as problem:
            if problem.errno in _NOT_THERE:
                text = f"needs XDP as in Linux 5.18 or later: {problem.strerror}"
                raise OSError(errno.EOPNOTSUPP, text) from None
            raise

    def close(self, *, keep: bool = False) -> None:
        """Give them up; they go when nothing else has them. `keep`: the next process finds what is pinned."""
        if self.pinned is not None:
            self.pinned.close(keep=keep)
        bpf.close_all(self._fds)

    # --- flows -------------------------------------------------------------------------------------------------------

    def insert(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray | None:
        """Add entries, KEY and VALUE (n,), none of which is there (a batch would replace it).

        Returns None when that is done; else an errno for each, int32 (n,), ENOSPC for want of room; 0: it is there.
        """
        done, problem = bpf.update_batch(self._flows, keys, values)
        if problem == 0:
            return None
        errors = np.zeros(len(keys), np.int32)
        while problem != 0:
            errors[done] = errno.ENOSPC if problem in (errno.E2BIG, errno.ENOMEM) else problem
            n, problem = bpf.update_batch(self._flows, keys[done + 1 :], values[done + 1 :])
            done += 1 + n
        return errors

    def remove(self, keys: np.ndarray) -> None:
        """Remove entries that are there, KEY (n,)."""
        done = 0
        while done < len(keys):
            n, problem = bpf.delete_batch(self._flows, keys[done:])
            if problem not in (0, errno.ENOENT):
                raise OSError(problem, os.strerror(problem))
            done += n + (problem != 0)

    def set_port(self, ifindex: int, number: int, up_ifindex: int) -> None:
        """What comes in on a device goes up to another one, as that port's. Raises OSError (E2BIG) beyond MAX_PORTS."""
        port = np.array([(number, up_ifindex)], PORT)
        bpf.update(self._ports, ifindex.to_bytes(4, sys.byteorder), port.tobytes())

    def clear_port(self, ifindex: int) -> None:
        """The device is no port any more."""
        with contextlib.suppress(OSError):
            bpf.delete(self._ports, ifindex.to_bytes(4, sys.byteorder))

    def reasons(self) -> dict[str, int]:
        """How many packets went up, by why."""
        return dict(zip(REASONS, self._reasons.tolist(), strict=True))


def object_file(source: str) -> ObjectFile:
    """The programs of a source file, as they came with the package."""
    return ObjectFile(files(__package__).joinpath("bpf", f"{source}.o").read_bytes())

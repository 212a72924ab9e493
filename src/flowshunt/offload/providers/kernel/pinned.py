"""Maps beside those of the programs, pinned: what the next process needs to know of the flows that go on without one.

Each process has a folder of its own for them, and `maps-NAMESPACE` is a link to that of the process whose programs
forward now. It changes when the programs have, so that there is always one of the two, whenever a process is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import weakref

import numpy as np

from flowshunt.base import bpf
from flowshunt.base.picking import pick, put
from flowshunt.datapath.paths.records import N_ZONES
from flowshunt.offload.handover import HANDOVER, KEPT, Described
from flowshunt.offload.providers.kernel.records import STATE

NOTE = np.dtype(
    [
        ("flow", HANDOVER),
        ("counted", np.uint64, (2, 2)),  # by path: packets and bytes in its STATE when it was installed
        ("in_ifindexes", np.uint32, 2),
        ("out_ifindexes", np.uint32, 2),
        ("is_there", np.uint8),
    ],
    align=True,
)
"""A flow, beside what is kept of its connections."""

VERSION = 1
"""Of what the records mean; their layout is told apart by itself."""
_OTHERS = np.dtype([("kept", KEPT, N_ZONES - 1)])


def _layout() -> str:
    text = repr([(dtype.descr, dtype.itemsize) for dtype in (NOTE, KEPT, STATE)])
    return f"{VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class Pinned:
    """The maps of this process, for the flows in `limit` slots."""

    def __init__(self, folder: str, states_fd: int, limit: int) -> None:
        """Raises OSError."""
        self._link = _link_in(folder)
        self._place = f"{self._link}-{secrets.token_hex(4)}"
        self._limit = limit
        self._fds: list[int] = []
        weakref.finalize(self, bpf.close_all, self._fds)
        os.mkdir(self._place, 0o700)
        try:
            bpf.pin(states_fd, os.path.join(self._place, "states"))
            self._notes = self._make("flows", NOTE)
            self._leaders = self._make("leaders", KEPT)
        except OSError:
            self.close()
            raise
        self._others: np.ndarray | None = None

    def _make(self, name: str, dtype: np.dtype) -> np.ndarray:
        size = dtype.itemsize
        fd = bpf.create_map(bpf.ARRAY, 4, size, self._limit, flags=bpf.MMAPABLE, name=name)
        self._fds.append(fd)
        bpf.pin(fd, os.path.join(self._place, f"{name}-{_layout()}"))
        return bpf.mapped(fd, dtype, self._limit)

    def write(
        self, slots: np.ndarray, described: Described, ifindexes: tuple[np.ndarray, np.ndarray], counted: np.ndarray
    ) -> None:
        """Flows are installed in these slots, int64 (n,); `ifindexes`: of input and output devices, (n, 2) each.

        `counted`: uint64 (n, 2, 2), see NOTE.
        """
        notes = np.zeros(len(slots), NOTE)
        notes["flow"] = described.flows
        notes["counted"] = counted
        notes["in_ifindexes"], notes["out_ifindexes"] = ifindexes
        self._notes["is_there"][slots] = 0
        put(self._notes, slots, notes)
        put(self._leaders, slots, described.connections[0])
        if len(described.connections) > 1 and self._others is None:
            self._others = self._make("others", _OTHERS)
        for zone, kept in enumerate(described.connections[1:]):
            assert self._others is not None
            self._others["kept"][slots, zone] = kept
        self._notes["is_there"][slots] = 1

    def clear(self, slots: np.ndarray) -> None:
        """The flows there are no more."""
        self._notes["is_there"][slots] = 0

    def publish(self) -> None:
        """From now on the flows that forward are these; those of others are forgotten. Raises OSError."""
        if _target(self._link) != self._place:
            fresh = f"{self._place}-new"
            os.symlink(os.path.basename(self._place), fresh)
            os.rename(fresh, self._link)
        _remove_others(self._link, self._place)

    def close(self, *, keep: bool = False) -> None:
        """Forget them; `keep`: leave them to the next process."""
        if not keep:
            if _target(self._link) == self._place:
                _unlink(self._link)
            shutil.rmtree(self._place, ignore_errors=True)
        bpf.close_all(self._fds)


class LeftBehind:
    """The flows that the process before has left, as they were when it ended, but for `usage`.

    `notes`: NOTE (n,). `kept`: KEPT (n,) for the first connection on the way of each, and for the next ones if any has.
    """

    def __init__(self, folder: str) -> None:
        """Raises FileNotFoundError when there are none, OSError with the reason for those that cannot be read."""
        link = _link_in(folder)
        names = os.listdir(link)
        wanted = f"flows-{_layout()}"
        if wanted not in names:
            found = next((name for name in names if name.startswith("flows-")), "nothing")
            raise OSError(f"{link} has {found}, of another version, in place of {wanted}")
        notes = _opened(os.path.join(link, wanted), NOTE)
        slots = np.flatnonzero(notes["is_there"])
        self.notes = pick(notes, slots)
        self.kept = [pick(_opened(os.path.join(link, f"leaders-{_layout()}"), KEPT, len(notes)), slots)]
        if f"others-{_layout()}" in names:
            others = _opened(os.path.join(link, f"others-{_layout()}"), _OTHERS, len(notes))
            several = pick(others, slots).view(KEPT).reshape(-1, N_ZONES - 1)
            self.kept += [several[:, n].copy() for n in range(N_ZONES - 1)]
        states = _opened(os.path.join(link, "states"), STATE, 2 * len(notes))
        self._states = states.reshape(-1, 2)
        self._slots = slots

    def __len__(self) -> int:
        return len(self.notes)

    def last_used_ns(self) -> np.ndarray:
        """When each flow was used, by path, on CLOCK_MONOTONIC: int64 (n, 2)."""
        used: np.ndarray = self._states["last_used_ns"][self._slots].astype(np.int64)
        return used

    def counters(self) -> np.ndarray:
        """Packets and bytes by path since each flow was installed, int64 (n, 2, 2)."""
        counted = np.stack([self._states[name][self._slots] for name in ("packets", "bytes")], axis=2)
        since: np.ndarray = (counted - self.notes["counted"]).astype(np.int64)
        return since


def forget_all(folder: str) -> None:
    """Remove what processes of this network namespace have left."""
    link = _link_in(folder)
    _unlink(link)
    _remove_others(link, "")


def _link_in(folder: str) -> str:
    return os.path.join(folder, f"maps-{os.stat('/proc/thread-self/ns/net').st_ino}")


def _target(link: str) -> str:
    try:
        return os.path.join(os.path.dirname(link), os.readlink(link))
    except OSError:
        return ""


def _remove_others(link: str, place: str) -> None:
    folder, prefix = os.path.split(f"{link}-")
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if not name.startswith(prefix) or path == place:
                continue
            if os.path.islink(path):
                _unlink(path)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _opened(path: str, dtype: np.dtype, length: int | None = None) -> np.ndarray:
    """A pinned array of these records; `length`: that it must have. Raises OSError."""
    try:
        fd = bpf.get(path)
    except FileNotFoundError:
        raise OSError(f"{path} is missing") from None
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            said = dict(line.split(":", 1) for line in file if ":" in line)
        found = tuple(int(said.get(key, "0"), 0) for key in ("map_type", "value_size", "max_entries"))
        if found[:2] != (bpf.ARRAY, dtype.itemsize) or length not in (None, found[2]):
            raise OSError(f"{path} is another map: type, size and length {found}")
        return bpf.mapped(fd, dtype, found[2])
    finally:
        os.close(fd)

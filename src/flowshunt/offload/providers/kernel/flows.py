"""The flows that the programs have: installed, renewed, withdrawn, counted, handed back. All of it on arrays."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator

import numpy as np

from flowshunt.base.picking import pick
from flowshunt.offload import reasons as R
from flowshunt.offload.handover import Described
from flowshunt.offload.installing import USAGE
from flowshunt.offload.providers.kernel import slots as kernels
from flowshunt.offload.providers.kernel.objects import Objects
from flowshunt.offload.providers.kernel.ports import Ports
from flowshunt.offload.providers.kernel.schema import AT_ONCE, PORT_SUM, PORT_SUMS, Slots, make_slots

TURNS = 8
"""Turns through the flows within a timeout."""
_SWEEP_EVERY_MS = 50
_SWEEP_LEAST = 1024
_CHECKED_PER_MS = 20
"""Flows of the process before whose next packets show within a millisecond whether they are still right."""
_NS_PER_MS = 1_000_000
_MONOTONIC_COARSE = 6  # linux/time.h; Python names it not

CountPorts = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
Describe = Callable[[np.ndarray], Described]


class Flows:
    """Flows between `ports`, in the maps of `objects` while there are any. On the packet thread.

    `count_ports(ports, packets, bytes_in, bytes_out)`, where it is set, hears of everything that is told: from ports to
    ports, uint32 (n, 2), packets and frame bytes as they came in and as they left, int64 (n,). `describe`, likewise, is
    `Offload.describe`: without it nothing is left to the next process.
    """

    def __init__(self, ports: Ports) -> None:
        self.count_ports: CountPorts | None = None
        self.describe: Describe | None = None
        self.objects: Objects | None = None
        self._ports = ports
        self._epoch = 0
        self._offset_ms = 0
        self._swept_ms = 0
        self._hand = 0
        self._slot_of = np.zeros(0, np.int64)
        self._given_up: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.use(None)

    def use(self, objects: Objects | None) -> None:
        """From now on these maps, which are empty; flows that are there have been given up."""
        self.objects = objects
        self._slots: Slots | None = None
        if objects is not None:
            objects.control["epoch"] = self._epoch
            self._slots = make_slots(objects.limit, objects.states.reshape(-1))
        self._slot_of[:] = 0
        self._hand = 0
        self._unchecked = np.zeros(0, np.int64)
        self._unchecked_epoch = 0
        self._checked_ms = 0

    # --- installing --------------------------------------------------------------------------------------------------

    def install(self, flows: np.ndarray) -> None:
        """See Forwarder; there must be maps."""
        slots, devices = self._slots, self._ports.devices
        assert slots is not None
        self._set_clock(int(flows["now_ms"][-1]))
        done = 0
        while done < len(flows):
            last = kernels.admit(slots, self._slot_of, flows, devices, done)
            if last == kernels.NEEDS_ROWS:
                self._make_room(flows["rows"][:, 0])
                continue
            if n_stale := int(slots.state["n_stale"][0]):
                self._remove(slots.stale[:n_stale].copy())
            self._withhold(flows[done:last])
            n = kernels.place(slots, self._slot_of, flows, devices, done, last, _now_ns())
            self._add(slots, flows, n)
            done = last

    def _add(self, slots: Slots, flows: np.ndarray, n: int) -> None:
        """Bring the map up to date for flows that were placed; what it refuses is gone again."""
        objects = self.objects
        assert objects is not None
        if n_gone := int(slots.state["n_gone"][0]):
            objects.remove(slots.gone_keys[:n_gone])
        if n:
            self._leave_behind(slots, flows, n)
        errors = objects.insert(slots.new_keys[: 2 * n], slots.new_values[: 2 * n])
        if errors is None:
            return
        errors = errors.reshape(-1, 2)
        failed = np.flatnonzero((errors != 0).any(axis=1))
        which, first = slots.which[failed], errors[failed].max(axis=1)
        objects.remove(slots.new_keys.reshape(-1, 2)[failed][errors[failed] == 0])
        other = R.PROVIDER_REFUSED | first << R.PARAMETER_SHIFT
        flows["error"][which], flows["reason"][which] = first, np.where(first == errno.ENOSPC, R.TABLE_FULL, other)
        mine = slots.new_values["index"].reshape(-1, 2)[failed, 0].astype(np.int64) >> 1
        for part in _parts(mine):
            kernels.unlink(slots, part, self._no_epoch)
            self._release(slots, part)

    def _withhold(self, flows: np.ndarray) -> None:
        """What the next process knows of flows that are about to be replaced is not so any more."""
        if self.objects is not None and self.objects.pinned is not None:
            self.objects.pinned.clear(self._find(flows["rows"][:, 0], flows["generations"][:, 0])[1])

    def _leave_behind(self, slots: Slots, flows: np.ndarray, n: int) -> None:
        """Tell the next process of flows that were placed, if it is to know."""
        pinned = None if self.objects is None else self.objects.pinned
        if pinned is None or self.describe is None:
            return
        values, told = slots.new_values[: 2 * n].reshape(n, 2), slots.told.reshape(-1, 2)
        mine = values["index"][:, 0].astype(np.int64) >> 1
        devices = slots.new_keys["ifindex"][: 2 * n].reshape(n, 2), values["out_ifindex"]
        counted = np.stack([told["packets"][mine], told["bytes"][mine]], axis=2)
        pinned.write(mine, self.describe(pick(flows, slots.which[:n])), devices, counted)

    # --- epochs ------------------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        """See Forwarder."""
        self._epoch = epoch & 0xFFFFFFFF
        if self.objects is not None:
            self.objects.control["epoch"] = self._epoch

    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int) -> None:
        """See Forwarder. A packet that took the long way has shown it, so the flow is not idle."""
        slots = self._find(rows, generations)[1]
        if self._slots is not None and len(slots):
            kernels.renew(self._slots, slots, epoch & 0xFFFFFFFF, _now_ns())

    @property
    def _no_epoch(self) -> int:
        return ~self._epoch & 0xFFFFFFFF

    def go_on(self, rows: np.ndarray, generations: np.ndarray, last_used_ns: np.ndarray) -> None:
        """See `provider.Kernel.go_on`."""
        which, slots = self._find(rows, generations)
        assert self.objects is not None
        self.objects.states["last_used_ns"][slots] = last_used_ns[which]
        self._unchecked = np.append(self._unchecked, slots)
        self._unchecked_epoch = self._epoch
        self._checked_ms = self._offset_ms + _now_ns() // _NS_PER_MS

    def _check_some(self, now_ms: int) -> None:
        if len(self._unchecked) == 0 or self.objects is None:
            return
        n = min(max(now_ms - self._checked_ms, 1), 1000) * _CHECKED_PER_MS
        self._checked_ms = now_ms
        slots, self._unchecked = self._unchecked[:n], self._unchecked[n:]
        if self._unchecked_epoch != self._epoch:  # all come up anyway
            self._unchecked = self._unchecked[:0]
            return
        self.objects.states["epoch"][slots] = self._no_epoch

    # --- removing ----------------------------------------------------------------------------------------------------

    def withdraw(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """See Forwarder."""
        usage = np.zeros(len(rows), USAGE)
        _, firsts = np.unique(rows, return_index=True)
        which, slots = self._find(rows[firsts], generations[firsts])
        usage[firsts[which]] = self._remove(slots)
        return usage

    def end(self, rows: np.ndarray, generations: np.ndarray) -> None:
        """These connections are no more."""
        self._remove(np.unique(self._find(rows, generations)[1]))

    def flush(self) -> None:
        """Forget all flows; nobody wants to hear of them."""
        self._remove(self._used())
        self._given_up.clear()

    def give_up_all(self) -> None:
        """All flows stop passing, and are told by `handed_back`."""
        self._give_up(self._used())

    def give_up_port(self, port: int) -> None:
        """Likewise those through a port, by its number in paths."""
        used = self._used()
        if self._slots is not None:
            passes = (self._slots.told["ports"].reshape(-1, 4)[used] == port).any(axis=1)
            self._give_up(used[passes])

    def _give_up(self, slots: np.ndarray) -> None:
        if len(slots):
            assert self._slots is not None
            rows, generations = self._slots.rows[slots], self._slots.generations[slots]
            self._given_up.append((rows, generations, self._remove(slots)))

    def handed_back(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """See Forwarder: those that were given up."""
        parts, self._given_up = self._given_up, []
        if not parts:
            none = np.zeros(0, np.uint32)
            return none, none, np.zeros(0, np.uint16), np.zeros(0, USAGE)
        rows, generations, usage = (np.concatenate([part[n] for part in parts]) for n in range(3))
        return rows, generations, np.full(len(rows), R.IDLE, np.uint16), usage

    def look_after(self, now_ms: int, timeout_ms: int) -> None:
        """To be called again and again: flows that were silent for the timeout are given up, a few looked at."""
        self._set_clock(now_ms)
        self._check_some(now_ms)
        self._give_up_idle(now_ms, timeout_ms)

    def _give_up_idle(self, now_ms: int, timeout_ms: int) -> None:
        elapsed = now_ms - self._swept_ms
        if self._slots is None or 0 <= elapsed < _SWEEP_EVERY_MS:
            return
        self._swept_ms = now_ms
        if not self.n_flows:
            return
        limit = len(self._slots.rows)
        budget = max(limit * TURNS * min(abs(elapsed), 1000) // timeout_ms, _SWEEP_LEAST)
        first, last = self._hand, min(self._hand + budget, limit)
        self._hand = 0 if last == limit else last
        found = np.zeros(last - first, np.int64)
        before_ns = _now_ns() - timeout_ms * _NS_PER_MS
        self._give_up(found[: kernels.find_idle(self._slots, first, last, before_ns, found)])

    def _remove(self, slots: np.ndarray) -> np.ndarray:
        """Flows stop passing; their last USAGE (n,)."""
        if self._slots is None or self.objects is None:
            return np.zeros(len(slots), USAGE)
        for part in _parts(slots):
            kernels.unlink(self._slots, part, self._no_epoch)
            self.objects.remove(self._slots.gone_keys[: 2 * len(part)])
        usage = self._read(slots, len(slots), np.arange(len(slots)))
        self._release(self._slots, slots)
        return usage

    def _release(self, slots: Slots, which: np.ndarray) -> None:
        """Slots that are not in the map any more are free."""
        if self.objects is not None and self.objects.pinned is not None:
            self.objects.pinned.clear(which)
        kernels.release(slots, self._slot_of, which)

    # --- asking ------------------------------------------------------------------------------------------------------

    def statistics(self, rows: np.ndarray, generations: np.ndarray, now_ms: int) -> np.ndarray:
        """See Forwarder."""
        which, slots = self._find(rows, generations)
        self._set_clock(now_ms)
        usage = self._read(slots, len(rows), which)
        usage["counted_ms"] = now_ms
        return usage

    def is_forwarding(self, rows: np.ndarray, generations: np.ndarray, epoch: int) -> np.ndarray:
        """See Inspectable."""
        passes = np.zeros(len(rows), bool)
        which, slots = self._find(rows, generations)
        if self.objects is not None:
            passes[which] = (self.objects.states["epoch"][slots] == epoch & 0xFFFFFFFF).all(axis=1)
        return passes

    @property
    def n_flows(self) -> int:
        """Flows that are forwarded, or were in an epoch before."""
        return 0 if self._slots is None else len(self._slots.rows) - int(self._slots.state["n_free"][0])

    def _set_clock(self, now_ms: int) -> None:
        """Note how far the clock of connections is ahead of that of the programs."""
        self._offset_ms = now_ms - _now_ns() // _NS_PER_MS

    def _used(self) -> np.ndarray:
        """The slots of all flows."""
        return np.zeros(0, np.int64) if self._slots is None else np.flatnonzero(self._slots.is_used)

    def _make_room(self, rows: np.ndarray) -> None:
        grown = np.zeros(max(int(rows.max()) + 1, 2 * len(self._slot_of), 1024), np.int64)
        grown[: len(self._slot_of)] = self._slot_of
        self._slot_of = grown

    def _find(self, rows: np.ndarray, generations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the connections are here, and their slots."""
        which, slots = np.zeros((2, len(rows)), np.int64)
        if self._slots is None:
            return which[:0], slots[:0]
        n = kernels.find(self._slots, self._slot_of, rows.astype(np.int64), generations.astype(np.int64), which, slots)
        return which[:n], slots[:n]

    def _read(self, slots: np.ndarray, n: int, which: np.ndarray) -> np.ndarray:
        """USAGE (n,) since it was told last: zeros, but for `which`, of the flows in slots."""
        usage = np.zeros(n, USAGE)
        if self._slots is None or len(slots) == 0:
            return usage
        sums = np.zeros(2 * len(slots) + PORT_SUMS, PORT_SUM)
        n_sums = kernels.tell(self._slots, slots, usage, which, sums, self._offset_ms)
        if n_sums and self.count_ports is not None:
            sums = sums[:n_sums]
            self.count_ports(sums["ports"], sums["packets"], sums["bytes_in"], sums["bytes_out"])
        return usage


def _now_ns() -> int:
    """The programs' clock."""
    return time.clock_gettime_ns(_MONOTONIC_COARSE)


def _parts(slots: np.ndarray) -> Iterator[np.ndarray]:
    """AT_ONCE at a time."""
    for first in range(0, len(slots), AT_ONCE):
        yield slots[first : first + AT_ONCE]

"""The provider: paths become entries of the map, what passed becomes usage. All of it on arrays."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.base.picking import pick
from flowshunt.offload import reasons as R
from flowshunt.offload.answers import answer
from flowshunt.offload.api import ArrayProvider
from flowshunt.offload.batch import Batch
from flowshunt.offload.handover import Described
from flowshunt.offload.installing import USAGE
from flowshunt.offload.providers.kernel import slots as kernels
from flowshunt.offload.providers.kernel.devices import (
    FRAMES,
    INGRESS,
    Attached,
    Ingress,
    Ports,
    Prepared,
    UpDevice,
    is_bpf_folder,
    pin_of,
    pins_in,
    unpin,
)
from flowshunt.offload.providers.kernel.frames import Features, FrameHook
from flowshunt.offload.providers.kernel.objects import Objects
from flowshunt.offload.providers.kernel.peers import peer_address
from flowshunt.offload.providers.kernel.pinned import LeftBehind, forget_all
from flowshunt.offload.providers.kernel.schema import AT_ONCE, PORT_SUM, PORT_SUMS, Slots, make_slots
from flowshunt.offload.providers.values import check_names, number_of, truth_of

TIMEOUT_MS = 30_000
LIMIT = 131_072
"""Connections; the kernel takes the memory for all of them at once, some 400 bytes each."""
MAX_LIMIT = 4_000_000

_SWEEP_EVERY_MS = 50
_SWEEP_LEAST = 1024
TURNS = 8
"""Turns through the flows within a timeout."""
_CHECKED_PER_MS = 20
"""Flows of the process before whose next packets show within a millisecond whether they are still right."""
_NS_PER_MS = 1_000_000
_MONOTONIC_COARSE = 6  # linux/time.h; Python names it not
PINS = "/sys/fs/bpf/flowshunt"
_OPTIONS = ("timeout", "limit", "mode", "peer", "hitless", "pins")
MODES = ("tc", "xdp")
MODE = "kernel-mode"
"""Option of a port that is to work otherwise than the others."""

CountPorts = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
Complain = Callable[[int, str], None]
Describe = Callable[[np.ndarray], Described]


class Kernel(ArrayProvider):
    """Forwards between ports that `attach` names; without any it is told of connections and forwards none.

    `timeout_ms`: a connection silent for so long is handed back; may be changed at any time. `mode`: of ports that
    do not say it. `is_hitless`: the programs outlive the process. Runs on the packet thread.
    """

    name = "kernel"
    mark = "OFFLOAD"
    queue_limit = 0
    packet_thread_only = True

    def __init__(self, ports: Ports | None = None, *, limit: int = LIMIT) -> None:
        """`ports`: what stands for those that are attached, in tests.

        `count_ports(ports, packets, bytes_in, bytes_out)`, where it is set, hears of everything that is told: from
        ports to ports, uint32 (n, 2), packets and frame bytes as they came in and as they left, int64 (n,).
        `complain(port, what)` hears of a port that is not in the mode that it is to be in, with why, and what would
        change that; empty: it is again, or is gone. `describe`, likewise, is `Offload.describe`: without it nothing is
        left to the next process.
        """
        self.count_ports: CountPorts | None = None
        self.complain: Complain | None = None
        self.describe: Describe | None = None
        self.timeout_ms = TIMEOUT_MS
        self._limit = limit
        self._may_skip = True
        self.mode = "tc"
        self._features: Features | None = None
        self.is_hitless = False
        self._pins = PINS
        self.objects: Objects | None = None
        self._ports = Ports() if ports is None else ports
        self._epoch = 0
        self._offset_ms = 0
        self._swept_ms = 0
        self._hand = 0
        self._slot_of = np.zeros(0, np.int64)
        self._given_up: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._forget()

    def _forget(self) -> None:
        """No flow has a slot, nor will have before there are maps."""
        self._slots: Slots | None = None
        self._slot_of[:] = 0
        self._unchecked = np.zeros(0, np.int64)
        self._unchecked_epoch = 0
        self._checked_ms = 0

    def init(self) -> None:
        """Load the programs. Raises OSError with the privilege that is missing, or what the kernel lacks."""
        self._load()

    def _load(self) -> Objects:
        if self.objects is None:
            self.objects = Objects(self._limit, self._folder)
            self.objects.control["epoch"] = self._epoch
        if self._slots is None:
            self._slots = make_slots(self._limit, self.objects.states.reshape(-1))
        return self.objects

    @property
    def _folder(self) -> str | None:
        """Where what the next process needs is pinned."""
        return self._pins if self.is_hitless else None

    def _pin_of(self, ifindex: int, hook: str = INGRESS) -> str | None:
        """Where the link of a port is to be pinned."""
        return pin_of(self._pins, ifindex, hook) if self.is_hitless else None

    def close(self, *, keep: bool = False) -> None:
        """Detach everything, and give up maps and programs; `keep`: those that are pinned go on without us."""
        for port in list(self._ports.attached):
            self.detach(port, keep=keep)
        if not keep:
            self._give_up(self._used())
        if self.objects is not None:
            self.objects.close(keep=keep)
            self.objects = None
        if self._features is not None:
            self._features.close()
            self._features = None
        self._forget()

    # --- options -----------------------------------------------------------------------------------------------------

    def set_options(self, options: Mapping[str, str]) -> None:
        """`timeout` in seconds, `limit` in connections; those left out are at their defaults.

        `mode` tc or xdp: how ports work that do not say it themselves. `peer` true or false: whether packets may go
        straight to the other ends of veth pairs, for ports that are attached from now on. `hitless` true or false:
        whether the programs outlive the process, by pins in the folder `pins` of a BPF file system. With another limit
        or folder flows begin anew. Raises UsageError for others, and OSError when the kernel refuses maps or pins; then
        the options are as they were.
        """
        check_names(self.name, options, _OPTIONS)
        mode = check_mode(options.get("mode", "tc"))
        timeout_s = number_of(self.name, options, "timeout", TIMEOUT_MS // 1000)
        limit = number_of(self.name, options, "limit", LIMIT)
        if limit > MAX_LIMIT:
            raise UsageError(f"kernel: limit is {limit}", hint=f"at most {MAX_LIMIT}")
        may_skip = truth_of(self.name, options, "peer", "true")
        is_hitless = truth_of(self.name, options, "hitless")
        pins = options.get("pins", PINS)
        if is_hitless:
            _check_pins(pins)
        before, folder = (self.is_hitless, self._pins), self._folder
        self.is_hitless, self._pins = is_hitless, pins
        if limit != self._limit or folder != self._folder:
            try:
                self._resize(limit)
            except OSError:
                self.is_hitless, self._pins = before
                raise
        self.timeout_ms, self._may_skip, self.mode = 1000 * timeout_s, may_skip, mode

    def _resize(self, limit: int) -> None:
        """New maps and programs, in the places of the old ones; flows are handed back."""
        former, made = self.objects, None
        if former is not None:
            made = Objects(limit, self._folder)
            made.control["epoch"] = self._epoch
            try:
                for port in self._ports.attached.values():
                    self._move(port, made)
            except OSError:
                made.close()
                raise
            self._give_up(self._used())
            former.close()
        self.objects, self._limit = made, limit
        self._forget()

    def _move(self, port: Attached, made: Objects) -> None:
        """Have a port work by other maps and programs, pinned or not as it is to be now."""
        made.set_port(port.ifindex, port.number, port.up.ifindex)
        if port.ingress is not None:
            port.ingress.keep(self._pin_of(port.ifindex))
            port.ingress.replace(made.forward)
        if port.hook is not None:
            port.hook.keep(self._pin_of(port.ifindex, FRAMES))
            port.hook.replace(made.forward_frames)
        port.up.replace(made.discard)

    # --- ports -------------------------------------------------------------------------------------------------------

    def prepare(self, ifindex: int) -> Callable[[], Prepared]:
        """What puts the program on a device, in any thread; it lets all packets pass there until `attach`."""
        program = os.dup(self._load().forward)
        pin = pin_of(self._pins, ifindex)

        def put() -> Prepared:
            try:
                return Prepared(Ingress(program, ifindex, pin), self.peer_of(ifindex))
            finally:
                os.close(program)

        return put

    def prepare_up_device(self) -> Callable[[], UpDevice]:
        """What makes a device for what goes up from ports, in any thread. Raises OSError."""
        program = os.dup(self._load().discard)

        def make() -> UpDevice:
            try:
                return UpDevice(program)
            finally:
                os.close(program)

        return make

    def attach(
        self,
        port: int,
        ifindex: int,
        mtu: int,
        up: UpDevice,
        mode: str = "tc",
        prepared: Prepared | None = None,
        *,
        later: bool = False,
    ) -> None:
        """A port of paths is this device: from now on its packets pass here, or go up to `up`.

        There they have the low 16 bits of the port's number in a tag. `mode`: of MODES; one that cannot be had is told
        by `complain`. `prepared`: the device as `prepare` has left it, with the same programs; it is ours then. Again
        for a port that is there: flows through it are handed back if its device, MTU or mode is another one. Raises
        OSError; then it is not attached (EBUSY: the device is another port's).

        `later`: flows may begin and end there, but its packets do not pass here before this is called again: those of
        flows go on as the process before had it.
        """
        wants_frames = mode == "xdp"
        known = self._ports.attached.get(port)
        if known is not None and known.ifindex == ifindex:
            if known.ingress is None and not later:
                known = self._begin(port, known)
            if (known.mtu, known.wants_frames) != (mtu, wants_frames):
                self._change(port, self._with_frames(known._replace(mtu=mtu, wants_frames=wants_frames)))
            return
        self.detach(port)
        if any(other.ifindex == ifindex for other in self._ports.attached.values()):
            raise OSError(errno.EBUSY, "the device is another port already")
        objects = self._load()
        number = port & 0xFFFF
        objects.set_port(ifindex, number, up.ifindex)
        try:
            ingress = prepared.ingress if prepared else None if later else self._ingress(ifindex)
        except OSError:
            objects.clear_port(ifindex)
            raise
        peer = prepared.peer if prepared else self.peer_of(ifindex)
        made = Attached(number, ifindex, mtu, ingress, up, peer, wants_frames)
        self._ports.add(port, made)
        self._change(port, self._with_frames(made))

    def _begin(self, port: int, known: Attached) -> Attached:
        """The programs take the place of those of the process before; flows of the same kind stay."""
        begun = self._with_frames(known._replace(ingress=self._ingress(known.ifindex)))
        self._ports.add(port, known._replace(ingress=begun.ingress, hook=begun.hook))
        self._change(port, begun)
        return begun

    def _ingress(self, ifindex: int) -> Ingress:
        return Ingress(self._load().forward, ifindex, pin_of(self._pins, ifindex), keep=self.is_hitless)

    def detach(self, port: int, *, keep: bool = False) -> None:
        """The port is none any more, or its packets are received otherwise; an unknown one is no error.

        `keep`: a pinned program goes on, with the flows that it has.
        """
        known = self._ports.remove(port)
        if known is None:
            return
        if known.why and self.complain is not None:
            self.complain(port, "")
        if not keep:
            self._give_up_port(port)
            if self.objects is not None:
                self.objects.clear_port(known.ifindex)
        if known.ingress is not None:
            known.ingress.close(keep=keep)
        if known.hook is not None:
            known.hook.close(keep=keep)

    def look_again(self, ifindex: int, peer: int) -> None:
        """Something happened to a device, perhaps to the other end of a veth pair: flows to it are handed back then.

        `peer`: what `peer_of` says now.
        """
        for port, known in list(self._ports.attached.items()):
            if known.ifindex == ifindex:
                self._change(port, self._with_frames(known._replace(peer=peer)))

    def _change(self, port: int, changed: Attached) -> None:
        before = self._ports.attached[port]
        if self._ports.change(port, changed):
            self._give_up_port(port)
        if changed.why != before.why and self.complain is not None:
            self.complain(port, f"kernel-mode=xdp: {changed.why}; it works by tc" if changed.why else "")

    def _with_frames(self, port: Attached) -> Attached:
        """With the program at XDP if it is wanted and can be there, or without, and why."""
        if not port.wants_frames:
            return self._without_frames(port, "")
        features = self._features = self._features or Features()
        why = features.why_not(port.ifindex, is_attached=port.hook is not None)
        hook = port.hook
        if not why and hook is None and port.ingress is not None:
            pin = pin_of(self._pins, port.ifindex, FRAMES)
            try:
                hook = FrameHook(self._load().forward_frames, port.ifindex, pin, keep=self.is_hitless)
            except OSError as problem:
                why = problem.strerror or str(problem)
            else:
                why = features.why_not(port.ifindex, is_attached=True)
        if why:
            return self._without_frames(port._replace(hook=hook), why)
        return port._replace(hook=hook, takes_large=features.takes_large(port.ifindex), why="")

    def _without_frames(self, port: Attached, why: str) -> Attached:
        if port.hook is not None:
            port.hook.close()
        return port._replace(hook=None, takes_large=False, why=why)

    @property
    def notes(self) -> list[str]:
        """Devices that work, or should, otherwise than by tc, and why they do not."""
        return [
            f"{_name_of(port.ifindex)} works by {f'tc, not xdp: {port.why}' if port.why else 'xdp'}"
            for port in self._ports.attached.values()
            if port.wants_frames
        ]

    def peer_of(self, ifindex: int) -> int:
        """See `peers`; 0 where packets may not skip anything. In any thread: the kernel may be busy with devices."""
        return peer_address(ifindex) if self._may_skip else 0

    def forget_others(self) -> None:
        """Let go of pinned programs on devices that are no ports any more, and of what other processes have left.

        Raises OSError when the next process cannot be told of what is here.
        """
        if self.objects is not None and self.objects.pinned is not None:
            self.objects.pinned.publish()
        else:
            forget_all(self._pins)
        if pins := pins_in(self._pins):
            ports = self._ports.attached.values()
            ours = {pin_of(self._pins, port.ifindex) for port in ports}
            ours |= {pin_of(self._pins, port.ifindex, FRAMES) for port in ports if port.hook is not None}
            for pin in set(pins) - ours:
                unpin(pin)

    # --- what the process before has left ----------------------------------------------------------------------------

    def left_behind(self) -> LeftBehind | None:
        """The flows that go on by its programs; None: there are none. Raises OSError for those that cannot be read."""
        try:
            return LeftBehind(self._pins)
        except FileNotFoundError:
            return None

    def ports_at(self, ifindexes: np.ndarray) -> np.ndarray:
        """The ports that these devices are now, int64 (n, m), -1: none of them is attached."""
        ports = {known.ifindex: port for port, known in self._ports.attached.items()}
        found = [ports.get(ifindex, -1) for ifindex in ifindexes.reshape(-1).tolist()]
        return np.array(found, np.int64).reshape(ifindexes.shape)

    def go_on(self, rows: np.ndarray, generations: np.ndarray, last_used_ns: np.ndarray) -> None:
        """Flows were those of the process before, last used at these times, int64 (n, 2), on our programs' clock.

        They pass as they are; a few at a time their next packets come up, and show whether that is still right.
        """
        which, slots = self._find(rows, generations)
        self._load().states["last_used_ns"][slots] = last_used_ns[which]
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

    def _give_up_port(self, port: int) -> None:
        used = self._used()
        if self._slots is not None:
            passes = (self._slots.told["ports"].reshape(-1, 4)[used] == port).any(axis=1)
            self._give_up(used[passes])

    def _used(self) -> np.ndarray:
        """The slots of all flows."""
        return np.zeros(0, np.int64) if self._slots is None else np.flatnonzero(self._slots.is_used)

    def _give_up(self, slots: np.ndarray) -> None:
        """Flows stop passing, and are told by `handed_back`."""
        if len(slots):
            assert self._slots is not None
            rows, generations = self._slots.rows[slots], self._slots.generations[slots]
            self._given_up.append((rows, generations, self._remove(slots)))

    # --- notifications -----------------------------------------------------------------------------------------------

    def batch_submit(self, batch: Batch, /) -> None:
        """See `answers.answer`: others than TCP and UDP are declined."""
        flushed, ended = answer(batch, declines=True)
        if flushed:
            self._remove(self._used())
            self._given_up.clear()
        if len(ended):
            self._remove(np.unique(self._find(ended["row"], ended["generation"])[1]))

    # --- forwarding --------------------------------------------------------------------------------------------------

    def install(self, flows: np.ndarray, /) -> None:
        """See Forwarder."""
        self._load()
        self._set_clock(int(flows["now_ms"][-1]))
        devices = self._ports.devices
        done = 0
        while done < len(flows):
            slots = self._slots
            assert slots is not None
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
        objects = self._load()
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

    def _release(self, slots: Slots, which: np.ndarray) -> None:
        """Slots that are not in the map any more are free."""
        if self.objects is not None and self.objects.pinned is not None:
            self.objects.pinned.clear(which)
        kernels.release(slots, self._slot_of, which)

    @property
    def _no_epoch(self) -> int:
        return ~self._epoch & 0xFFFFFFFF

    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> None:
        """See Forwarder. A packet that took the long way has shown it, so the flow is not idle."""
        slots = self._find(rows, generations)[1]
        if self._slots is not None and len(slots):
            kernels.renew(self._slots, slots, epoch & 0xFFFFFFFF, _now_ns())

    def begin_epoch(self, epoch: int, /) -> None:
        """See Forwarder."""
        self._epoch = epoch & 0xFFFFFFFF
        if self.objects is not None:
            self.objects.control["epoch"] = self._epoch

    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> np.ndarray:
        """See Forwarder."""
        usage = np.zeros(len(rows), USAGE)
        _, firsts = np.unique(rows, return_index=True)
        which, slots = self._find(rows[firsts], generations[firsts])
        usage[firsts[which]] = self._remove(slots)
        return usage

    def statistics(self, rows: np.ndarray, generations: np.ndarray, now_ms: int, /) -> np.ndarray:
        """See Forwarder."""
        which, slots = self._find(rows, generations)
        self._set_clock(now_ms)
        usage = self._read(slots, len(rows), which)
        usage["counted_ms"] = now_ms
        return usage

    def handed_back(self, now_ms: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Connections that were silent for the timeout, and those whose ports or maps are others."""
        self._set_clock(now_ms)
        if self._features is not None and self._features.have_changed():
            for port in list(self._ports.attached.values()):
                if port.wants_frames:
                    self.look_again(port.ifindex, port.peer)
        self._check_some(now_ms)
        self._give_up_idle(now_ms)
        parts, self._given_up = self._given_up, []
        if not parts:
            none = np.zeros(0, np.uint32)
            return none, none, np.zeros(0, np.uint16), np.zeros(0, USAGE)
        rows, generations, usage = (np.concatenate([part[n] for part in parts]) for n in range(3))
        return rows, generations, np.full(len(rows), R.IDLE, np.uint16), usage

    def _give_up_idle(self, now_ms: int) -> None:
        elapsed = now_ms - self._swept_ms
        if self._slots is None or 0 <= elapsed < _SWEEP_EVERY_MS:
            return
        self._swept_ms = now_ms
        if not self.n_flows:
            return
        budget = max(self._limit * TURNS * min(abs(elapsed), 1000) // self.timeout_ms, _SWEEP_LEAST)
        first, last = self._hand, min(self._hand + budget, self._limit)
        self._hand = 0 if last == self._limit else last
        found = np.zeros(last - first, np.int64)
        before_ns = _now_ns() - self.timeout_ms * _NS_PER_MS
        self._give_up(found[: kernels.find_idle(self._slots, first, last, before_ns, found)])

    def is_forwarding(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> np.ndarray:
        """See Inspectable."""
        passes = np.zeros(len(rows), bool)
        which, slots = self._find(rows, generations)
        if self.objects is not None:
            passes[which] = (self.objects.states["epoch"][slots] == epoch & 0xFFFFFFFF).all(axis=1)
        return passes

    def _set_clock(self, now_ms: int) -> None:
        """Note how far the clock of connections is ahead of that of the programs."""
        self._offset_ms = now_ms - _now_ns() // _NS_PER_MS

    # --- slots -------------------------------------------------------------------------------------------------------

    @property
    def n_flows(self) -> int:
        """Flows that are forwarded, or were in an epoch before."""
        return 0 if self._slots is None else self._limit - int(self._slots.state["n_free"][0])

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

    # --- inspection --------------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Flows and their limit, segments beyond the packets that they came in, and why packets went up, by name."""
        flows = {"n_flows": self.n_flows, "limit": self._limit}
        if self.objects is None:
            return flows
        segments = int(self.objects.states["extra_segments"].sum())
        return flows | {"extra_segments": segments} | {f"up.{k}": n for k, n in self.objects.reasons().items()}


def forget_left(options: Mapping[str, str]) -> None:
    """Have programs end that a process before has left, where the provider is off but for its options."""
    if options.get("hitless") == "true":
        forgetting = Kernel()
        forgetting._pins = options.get("pins", PINS)
        forgetting.forget_others()


def check_mode(mode: str) -> str:
    """One of MODES. Raises UsageError for others."""
    if mode in MODES:
        return mode
    hint = "use tc, or xdp for frames of devices whose drivers have it"
    if mode.startswith("xdp-"):
        hint = (
            "use xdp, which works in the driver: a card would need maps of its own, and behind the driver tc is as good"
        )
    raise UsageError(f"kernel: mode is {mode!r}", hint=hint)


def _name_of(ifindex: int) -> str:
    """A device's name, or its index."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return str(ifindex)


def _now_ns() -> int:
    """The programs' clock."""
    return time.clock_gettime_ns(_MONOTONIC_COARSE)


def _check_pins(folder: str) -> None:
    """Make a folder for pins. Raises UsageError where there can be none."""
    if not is_bpf_folder(folder):
        hint = f"mount -t bpf bpf {folder}, before the switch gives up its privileges; kernel-pins names another one"
        raise UsageError(f"kernel: {folder} is not in a BPF file system", hint=hint)
    os.makedirs(folder, mode=0o700, exist_ok=True)


def _parts(slots: np.ndarray) -> Iterator[np.ndarray]:
    """AT_ONCE at a time."""
    for first in range(0, len(slots), AT_ONCE):
        yield slots[first : first + AT_ONCE]

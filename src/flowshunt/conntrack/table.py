"""The facade of the tracker: what Python outside this package uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.base.log import logger
from flowshunt.conntrack import schema as C
from flowshunt.conntrack.arrays import make_arrays
from flowshunt.conntrack.connection import Connection, Tuple
from flowshunt.conntrack.expectations import Expectation, expectations
from flowshunt.conntrack.keeper import Keeper
from flowshunt.conntrack.kernels import entry
from flowshunt.conntrack.kernels.helping import expire_expectations
from flowshunt.conntrack.kernels.step import COMMIT, FORCE, NAT
from flowshunt.conntrack.kernels.sweep import AT_THE_END, FROM_THE_START, sweep_slot
from flowshunt.conntrack.memory import release
from flowshunt.conntrack.nat import Address, Nat, NatUsage, usage
from flowshunt.conntrack.policies import Policies, check_zone
from flowshunt.conntrack.restore import Entry, Outcome, restore, restore_records
from flowshunt.conntrack.snapshot import connections, key_of
from flowshunt.conntrack.states import F_LIBERAL, F_LIVE, F_SEEN_REPLY
from flowshunt.conntrack.statistics import Statistics
from flowshunt.packet.schema import KEY_WORDS, Batch

DEFAULT_CAPACITY = 3_000_000
PROFILES = ("default", "linux")

_SLICE_ROWS = 2048
"""Rows that a dump or flush handles at a time: well under a millisecond."""
SWEEP_SLICE = 64
"""Entries that a complete sweep looks at in one go: some 20 us, of which slow memory may make several times that."""
_SWEEP_BUDGET = 512
"""The least that a batch sweeps."""

_log = logger(__name__)
_NO_EVENTS = np.zeros(0, C.EVENT)
_NO_EVENTS.flags.writeable = False

Observer = Callable[[np.ndarray], None]
Destructor = Callable[[int], None]


def _signed_half(value: int) -> int:
    """The low 64 bits of a number, as the int64 of that pattern."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def first_ms(batch: Batch) -> int:
    """When a batch of at least one packet begins; of one whose first packet is from the future, when it ends."""
    return int(min(batch.packets["time_ns"][0], batch.packets["time_ns"][-1])) // 1_000_000


class Tracker(Policies, Statistics):
    """A connection tracker.

        >>> from flowshunt import Tracker
        >>> from flowshunt.ports.capture import open_capture
        >>> tracker = Tracker(profile="default")
        >>> for batch in open_capture("some.pcap").batches(4096):
        ...     states = tracker.track(batch, zone=0, commit=True)  # ct_state of each packet
        >>> for connection in tracker.connections():
        ...     print(connection.original, connection.state, connection.packets)

    One thread uses a tracker. Everything it hands out is a copy. Limits, timeouts and other policies may change while
    it runs; they hold for the packets that follow.
    """

    def __init__(
        self,
        profile: str = "default",
        *,
        check_checksums: bool = True,
        check_sequence: bool = True,
        max_connections: int = DEFAULT_CAPACITY,
        batch_size: int = C.BATCH_MAX,
        seed: int | None = None,
    ) -> None:
        """Make an empty tracker.

        `profile`: `default` judges as Open vSwitch's userspace tracker, `linux` as nf_conntrack. `max_connections`:
        beyond it no connection is made (see `set_max_connections`, which can lower it later); address space is
        reserved, memory only used as they come. `seed` fixes the hash key, and with it which address and port NAT
        chooses, for repeatable tests. Raises UsageError for values out of range.
        """
        if profile not in PROFILES:
            raise UsageError(f"unknown profile {profile!r}: use one of {', '.join(PROFILES)}")
        if not 1 <= batch_size <= C.BATCH_MAX:
            raise UsageError(f"batch size {batch_size} is out of range: use 1 to {C.BATCH_MAX}")
        try:
            arrays = make_arrays(max_connections, seed=seed)
        except (ValueError, MemoryError) as error:
            raise UsageError(f"max_connections: {error}") from error
        Policies.__init__(self, arrays)
        Statistics.__init__(self, arrays, profile)
        self.batch_size = batch_size
        state = arrays.state
        state["linux"] = profile == "linux"
        state["check_checksums"] = check_checksums
        state["check_sequence"] = check_sequence
        self._keys = np.zeros((entry.RING_ROWS, KEY_WORDS), np.int64)
        self._observers: list[Observer] = []
        self._destructors: list[Destructor | None] = []
        self._slot_names: list[str] = []
        self._is_telling = False
        self._n_failed_observers = 0
        self._keeper: Keeper | None = None
        self._released = C.MIN_BUCKETS

    def __len__(self) -> int:
        """Connections in the table, expired ones that were not swept yet included."""
        return int(self.arrays.state["n_live"][0])

    @property
    def now_ms(self) -> int:
        """The latest time that the tracker saw."""
        return int(self.arrays.state["now_ms"][0])

    def track(
        self, batch: Batch, zone: int = 0, *, commit: bool = False, force: bool = False, nat: Nat | None = None
    ) -> np.ndarray:
        """Send every packet of a batch through the tracker, in order, each at its own time.

        `nat`: connections that are committed get this NAT, and ct_state says which packets are translated; the frames
        themselves are left alone (a switch with rules rewrites them). Returns ct_state as uint16 (n,). Raises
        UsageError for a zone outside `[0, 65536)`. Observers are called when the events fill up and at the end.
        Helpers see no packets here: they belong to the datapath, where a packet can wait and be changed.
        """
        check_zone(zone)
        self.refuse_observers()
        flags = (COMMIT if commit else 0) | (FORCE if force else 0)
        if nat is not None:
            flags |= NAT
            self.arrays.nat_spec[:] = nat.words()
        n = len(batch.packets)
        ct_state = np.zeros(n, np.uint16)
        if n:
            self.sweep(first_ms(batch), budget=_SWEEP_BUDGET)
        done = 0
        while done < n:
            done = entry.track_packets(
                self.arrays, batch.data, batch.packets, self._keys, done, zone, flags, ct_state, self.batch_size
            )
            self.drain()
        if n:
            self.sweep(self.now_ms, budget=max(_SWEEP_BUDGET, 2 * n))
        return ct_state

    # --- listing ---------------------------------------------------------------------------------------------------

    def connections(self, now_ms: int | None = None, zone: int | None = None) -> Iterator[Connection]:
        """Snapshots of the connections that have not expired at `now_ms` (default: the latest time seen).

        The table is read in slices; between two of them it may change, and a connection that lives throughout is
        listed exactly once.
        """
        now = self.now_ms if now_ms is None else now_ms
        for records, rows in self._slices(now, zone):
            yield from self._snapshots(records, rows, now)

    def census(self, now_ms: int | None = None) -> Iterator[tuple[Connection, int]]:
        """How many connections there are of each kind: an example and the number of those like it.

        Alike are those of one protocol, state and answer (`seen_reply`); a kind may come up several times. Much
        cheaper than counting `connections`.
        """
        now = self.now_ms if now_ms is None else now_ms
        for records, rows in self._slices(now, None):
            protocol = (records["tuple"] >> 8) & 0xFF
            peers = records["peer"].astype(np.int64)
            answered = records["flags"].astype(np.int64) & F_SEEN_REPLY
            kinds = protocol << 32 | records["state"].astype(np.int64) << 24 | peers[:, 0] << 16 | peers[:, 1] << 8
            _, examples, counts = np.unique(kinds | answered, return_index=True, return_counts=True)
            yield from zip(self._snapshots(records[examples], rows[examples], now), counts.tolist(), strict=True)

    def _snapshots(self, records: np.ndarray, rows: np.ndarray, now_ms: int) -> Iterator[Connection]:
        """Snapshots of records that have just been read; their extensions are copied before the first is handed out."""
        exts = self.arrays.exts[np.maximum(records["ext"].astype(np.int64), 1) - 1]
        known = (records["ext"] != 0) & (exts["parent_row"] != C.NO_PARENT)
        parents = records
        if known.any():
            parents = self.arrays.conns[np.where(known, exts["parent_row"], 0)]
        offloads = None if self._keeper is None else self._keeper.names(rows)
        return connections(records, exts, parents, rows, now_ms, self.profile == "linux", offloads)

    def _slices(self, now_ms: int, zone: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Records and row numbers of the connections that live at `now_ms`, valid until the next slice."""
        records = np.zeros(_SLICE_ROWS, C.CONNECTION)
        rows = np.zeros(_SLICE_ROWS, np.int64)
        first = 0
        while first < int(self.arrays.state["n_fresh"][0]):
            if self._keeper is not None:
                self._keeper.refresh(first, first + _SLICE_ROWS)
            n = entry.copy_rows(self.arrays, records, rows, first, _SLICE_ROWS, -1 if zone is None else zone, now_ms)
            yield records[:n], rows[:n]
            first += _SLICE_ROWS

    def find(self, wanted: Tuple, protocol: int, zone: int = 0) -> Connection | None:
        """The connection that has this tuple in either direction, or None."""
        row = self._row(wanted, protocol, zone)
        if row < 0:
            return None
        if self._keeper is not None:
            self._keeper.refresh(row, row + 1)
        return next(self._snapshots(self.arrays.conns[row : row + 1], np.array([row]), self.now_ms))

    def connection(self, row: int, generation: int) -> Connection | None:
        """The connection of this identity, or None when it is gone."""
        if not self._lives(row, generation):
            return None
        if self._keeper is not None:
            self._keeper.refresh(row, row + 1)
        return next(self._snapshots(self.arrays.conns[row : row + 1], np.array([row]), self.now_ms))

    def _row(self, wanted: Tuple, protocol: int, zone: int) -> int:
        try:
            keys, word = key_of(wanted, protocol, zone)
        except ValueError as error:
            raise UsageError(str(error)) from error
        return int(entry.find_row(self.arrays, keys, word, self.now_ms)) >> 1

    def nat_usage(self) -> dict[Address | None, NatUsage]:
        """How many connections each translated address has now, and how many it refused for want of a free port.

        The first 4096 addresses in use at a time are counted one by one, all beyond them under None. The refusals of an
        address that is not in use any more may move there.
        """
        return usage(self.arrays.gauges)

    def expectations(self, now_ms: int | None = None) -> Iterator[Expectation]:
        """Snapshots of the connections that helpers await at `now_ms` (default: the latest time seen), oldest first."""
        yield from expectations(self.arrays, self.now_ms if now_ms is None else now_ms)

    # --- changing --------------------------------------------------------------------------------------------------

    def flush(self, zone: int | None = None, *, wanted: Tuple | None = None, protocol: int = 0) -> int:
        """Remove all connections, those of a zone, or the one of a tuple (with its protocol). Returns how many."""
        self.refuse_observers()
        self.drain()
        before = len(self)
        if wanted is not None:
            row = self._row(wanted, protocol, zone or 0)
            if row >= 0:
                entry.destroy_row(self.arrays, row)
        else:
            first = 0
            while first >= 0:
                first = entry.flush_rows(self.arrays, first, _SLICE_ROWS, -1 if zone is None else zone)
                self.drain()
        self.drain()
        return before - len(self)

    def restore(self, entries: Iterable[Entry], now_ms: int) -> Iterator[Outcome]:
        """Put numbered snapshots into the table as they stood at `now_ms`. See `restore.restore`."""
        self.refuse_observers()
        return restore(self, entries, now_ms)

    def restore_records(self, records: np.ndarray, exts: np.ndarray, now_ms: int) -> np.ndarray:
        """Put records into the table as they stood. See `restore.restore_records`."""
        self.refuse_observers()
        return restore_records(self, records, exts, now_ms)

    def sweep(self, now_ms: int, budget: int | None = None) -> int:
        """Remove connections that have expired at `now_ms`, looking at up to `budget` entries (None: all that is due).

        Returns how many were removed.
        """
        self.refuse_observers()
        if budget is not None and not self._is_sweep_due(now_ms):
            return 0
        before = len(self)
        left = 0
        while left <= 0:
            left = entry.sweep(self.arrays, now_ms, SWEEP_SLICE if budget is None else budget)
            self.drain()
            if budget is not None:
                break
        else:
            self._sweep_to_the_millisecond()
        if self.arrays.state["n_expected"][0]:
            expire_expectations(self.arrays, self.now_ms)
        self._tidy()
        return before - len(self)

    def _is_sweep_due(self, now_ms: int) -> bool:
        """Whether the wheel has a slot to look into; nearly no batch of a busy switch has to."""
        last = max(now_ms, self.now_ms) >> C.WHEEL_SHIFT
        tick = int(self.arrays.state["wheel_tick"][0])
        return tick <= last or tick > last + 1

    def _sweep_to_the_millisecond(self) -> None:
        """The wheel is behind by up to two slots, by how much depends on its past; a complete sweep must not."""
        row = FROM_THE_START
        while row != AT_THE_END:
            row = sweep_slot(self.arrays, self.now_ms, row, SWEEP_SLICE)
            self.drain()

    def _tidy(self) -> None:
        """Give back the memory of bucket tables that were outgrown."""
        state = self.arrays.state[0]
        if state["old_base"] == 0 and state["base"] > self._released:
            release(self.arrays.buckets, self._released, int(state["base"]))
            self._released = int(state["base"])

    def set_mark(self, row: int, generation: int, value: int, mask: int = 0xFFFFFFFF) -> bool:
        """Set the bits of `mask` in a connection's mark. Returns False, and sets nothing, when it is gone."""
        self.refuse_observers()
        if not self._lives(row, generation):
            return False
        self.drain()
        entry.change_mark(self.arrays, row, value & mask, mask & 0xFFFFFFFF, self.now_ms)
        self.drain()
        return True

    def zero_counters(self, row: int, generation: int) -> bool:
        """Let a connection's packets and bytes count from zero. Returns False when it is gone."""
        if not self._lives(row, generation):
            return False
        for name in ("packets", "bytes"):
            self.arrays.conns[name][row] = 0
        return True

    def set_label(self, row: int, generation: int, value: int, mask: int = (1 << 128) - 1) -> bool:
        """Set the bits of `mask` in a connection's 128-bit label. Returns False, and sets nothing, when it is gone."""
        self.refuse_observers()
        if not self._lives(row, generation):
            return False
        halves = (value >> 64, value, mask >> 64, mask)
        self.drain()
        entry.change_label(self.arrays, row, *(_signed_half(half) for half in halves), self.now_ms)
        self.drain()
        return True

    def set_liberal(self, row: int, generation: int, on: bool) -> bool:
        """Judge a TCP connection's windows no more (see `set_zone_liberal`), or again as its zone says.

        Returns False, and changes nothing, when that connection is gone.
        """
        if not self._lives(row, generation):
            return False
        flags = int(self.arrays.conns["flags"][row])
        self.arrays.conns["flags"][row] = flags | F_LIBERAL if on else flags & ~F_LIBERAL
        return True

    # --- observing (row A10) -----------------------------------------------------------------------------------------

    def observe(self, observer: Observer) -> None:
        """Have `observer(events)` called with every drained array of EVENT records, in order, losing none.

        The array is read-only and may be kept. An observer may read the tracker and set its own slots, but not send
        packets, flush or sweep: that raises UsageError. One that raises is logged and counted (`observer-errors`), and
        harms neither the packet path nor other observers.
        """
        self._observers.append(observer)
        self.arrays.state["events_on"] = 1

    def unobserve(self, observer: Observer) -> None:
        """Stop calling an observer. Raises ValueError when it does not observe."""
        self._observers.remove(observer)
        if not self._observers and not any(self._destructors):
            self.drain()
            self.arrays.state["events_on"] = 0

    def show_holder(self, keeper: Keeper | None) -> None:
        """Have listings show who holds connections (see `holding`), with counters up to date; None: nobody does."""
        self._keeper = keeper

    def refuse_observers(self) -> None:
        """Raise UsageError when an observer is being called: what it wanted must wait until it has returned."""
        if self._is_telling:
            raise UsageError("an observer cannot change the tracker that calls it", hint="note it and do it afterwards")

    def drain(self) -> np.ndarray:
        """Hand the waiting events to the observers, and return them as a copy, EVENT (n,)."""
        state = self.arrays.state
        n = int(state["n_events"][0])
        if n == 0:
            return _NO_EVENTS
        events = self.arrays.events[:n].copy()
        events.flags.writeable = False
        state["n_events"] = 0
        if not self._is_telling:
            self._is_telling = True
            try:
                for observer in self._observers:
                    self._tell(observer, events)
                self._destroy_slots(events)
            finally:
                self._is_telling = False
        return events

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call a module's function; nothing that it raises gets further than the log."""
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001  (whatever a module gets wrong, packets go on)
            self._n_failed_observers += 1
            _log.exception("a module that observes connections failed")

    def allocate_slot(self, name: str, destructor: Destructor | None = None) -> int:
        """Reserve a private 64-bit integer per connection for a module. Returns the slot's number.

        `destructor(value)` is called when a connection ends whose slot is not 0. Raises UsageError when the name is
        taken or no slot is left.
        """
        if name in self._slot_names:
            raise UsageError(f"private slot {name!r} is taken")
        if len(self._slot_names) == C.N_SLOTS:
            raise UsageError(f"no private slot left for {name!r}: {', '.join(self._slot_names)} hold all {C.N_SLOTS}")
        self._slot_names.append(name)
        self._destructors.append(destructor)
        self.arrays.state["slots_on"] = 1
        self.arrays.state["events_on"] = 1
        return len(self._slot_names) - 1

    def get_slot(self, slot: int, row: int, generation: int) -> int | None:
        """A module's value for the connection (row, generation), or None when that connection is gone."""
        return int(self.arrays.slots[row, slot]) if self._lives(row, generation) else None

    def set_slot(self, slot: int, row: int, generation: int, value: int) -> bool:
        """Set a module's value. Returns False, and sets nothing, when that connection is gone."""
        if not self._lives(row, generation):
            return False
        self.arrays.slots[row, slot] = value
        return True

    def _lives(self, row: int, generation: int) -> bool:
        record: Any = self.arrays.conns[row]
        return int(record["generation"]) == generation and bool(int(record["flags"]) & F_LIVE)

    def _destroy_slots(self, events: np.ndarray) -> None:
        ended = events[events["kind"] == C.EVENT_DESTROYED]
        for slot, destructor in enumerate(self._destructors):
            if destructor is not None:
                for value in ended["slots"][:, slot]:
                    if value:
                        self._tell(destructor, int(value))

    def statistics(self) -> dict[str, int]:
        """Counters by name since the tracker was made; sums over all zones.

        And what there is now: `connections`, those in the table, and `expectations`.
        """
        expected = int(self.arrays.state["n_expected"][0])
        rest = {"expectations": expected, "observer-errors": self._n_failed_observers}
        return {"connections": len(self), **self.counters(), **rest}

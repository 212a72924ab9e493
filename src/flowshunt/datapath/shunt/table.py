"""The facade: the shunt, and a share of it for each owner."""

from __future__ import annotations

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.schema import EVENT_DESTROYED, EVENT_LABEL, EVENT_MARK, EVENT_STATE
from flowshunt.conntrack.table import Tracker
from flowshunt.datapath.paths.records import FLOW, USAGE
from flowshunt.datapath.shunt import entry
from flowshunt.datapath.shunt.schema import CAUSES, E_DEAD, MAX_FLOWS, MAX_OWNERS, ShuntArrays, make_shunt

_TOTALS = ("hits", "hit_bytes", "unchecked", "refused")
"""What owners count, by the names of OWNER."""
_ENDS = (EVENT_DESTROYED, EVENT_STATE, EVENT_MARK, EVENT_LABEL)


class Shunt:
    """The table of shunted flows of one datapath; see the package's docstring. Owners get a `share` of it.

    Used on the datapath's thread, between batches; observers of the tracker may use it, too.
    """

    def __init__(self, tracker: Tracker, capacity: int | None = None) -> None:
        """Make an empty shunt for up to `capacity` flows (default: one per connection, at most MAX_FLOWS).

        Memory is used as flows come. Raises UsageError for a capacity below 1, and when it cannot be reserved.
        """
        n_rows = len(tracker.arrays.conns)
        capacity = min(n_rows, MAX_FLOWS) if capacity is None else capacity
        if capacity < 1:
            raise UsageError(f"a shunt for {capacity} flows", hint="1 or more")
        try:
            self.arrays: ShuntArrays = make_shunt(capacity, n_rows)
        except MemoryError as error:
            raise UsageError(f"shunt: {error}") from error
        self._tracker = tracker
        self._shares: list[Share] = []
        self._free: set[str] = set()
        self._former = dict.fromkeys(_TOTALS, 0)

    @property
    def capacity(self) -> int:
        """Flows that all owners can have together."""
        return len(self.arrays.free)

    def __len__(self) -> int:
        """Flows of all owners, those that are dead or of an older epoch included."""
        return int(self.arrays.state["n_flows"][0])

    def share(self, name: str, limit: int | None = None) -> Share:
        """A share for a new owner, of up to `limit` flows (None: as many as there is room for).

        It is its owner's until `release`. Raises UsageError when the name is taken, or all of MAX_OWNERS shares are
        given out.
        """
        if name in self._free:
            return self._again(name, limit)
        if any(share.name == name for share in self._shares):
            raise UsageError(f"the shunt has a share named {name!r} already")
        if len(self._shares) == MAX_OWNERS:
            raise UsageError(f"no share left for {name!r}: there are {MAX_OWNERS}")
        if not self._shares:
            self._tracker.observe(self._bury)
        share = Share(self, self._tracker, name, len(self._shares))
        share.limit = self.capacity if limit is None else limit
        self._shares.append(share)
        return share

    def release(self, name: str) -> None:
        """The owner of the share of this name is gone: its flows are withdrawn, and who comes next may have the share.

        A name without a share is no error.
        """
        for share in self._shares:
            if share.name == name:
                share.flush()
                self._free.add(name)

    def _again(self, name: str, limit: int | None) -> Share:
        """A released share as if it were new; what it has counted stays in the totals."""
        share = next(share for share in self._shares if share.name == name)
        share.limit = self.capacity if limit is None else limit
        for total, n in share.start_again().items():
            self._former[total] += n
        self._free.remove(name)
        return share

    def set_epoch(self, epoch: int) -> None:
        """Only flows of this epoch are hit from now on. Where paths are learned, the loop sets it to theirs."""
        self.arrays.state["epoch"] = epoch

    def _bury(self, events: np.ndarray) -> None:
        """Events of the packet path have done their work there already; those of sweeps and commands do it here."""
        if len(self):
            ended = events[np.isin(events["kind"], _ENDS)]
            entry.kill_rows(self.arrays, *_pair(ended["row"], ended["generation"]))

    def statistics(self) -> dict[str, int]:
        """Flows, hits, flows that died of events (`killed`), and why packets took the long way, by cause."""
        owners = self.arrays.owners
        totals = {name: int(owners[name].sum()) + self._former[name] for name in _TOTALS}
        causes = dict(zip(CAUSES[1:], self.arrays.causes.tolist()[1:], strict=True))
        flows = {"flows": len(self), "killed": int(self.arrays.state["n_killed"][0])}
        return flows | totals | {f"long-way.{cause}": n for cause, n in causes.items()}


class Share:
    """One owner's flows. A flow is named by its first connection: row and generation.

    Arrays of rows and generations are integers (n,), rows of one call differ; those that name no flow of this owner are
    left alone.
    """

    def __init__(self, shunt: Shunt, tracker: Tracker, name: str, number: int) -> None:
        self.name = name
        self._shunt = shunt
        self._tracker = tracker
        self._number = number

    @property
    def _arrays(self) -> ShuntArrays:
        return self._shunt.arrays

    @property
    def limit(self) -> int:
        """Flows that this owner may have; a lower one than it has lets no new ones in."""
        return int(self._arrays.owners["limit"][self._number])

    @limit.setter
    def limit(self, flows: int) -> None:
        if flows < 0:
            raise UsageError(f"a limit of {flows} flows", hint="0 or more")
        self._arrays.owners["limit"][self._number] = flows

    @property
    def check(self) -> bool:
        """Whether flows that are installed from now on have their packets judged as the tracker would.

        Checksums, and the windows of TCP; a packet that is not plainly valid takes the long way. Flows that are there
        stay as they are, also when they are installed again: their windows were not followed.
        """
        return bool(self._arrays.owners["check"][self._number])

    @check.setter
    def check(self, on: bool) -> None:
        self._arrays.owners["check"][self._number] = on

    def __len__(self) -> int:
        return int(self._arrays.owners["n_flows"][self._number])

    @property
    def n_flows(self) -> int:
        """Flows of this owner, dead ones included until they are withdrawn."""
        return len(self)

    @property
    def hits(self) -> int:
        """Packets that passed."""
        return int(self._arrays.owners["hits"][self._number])

    def install(self, flows: np.ndarray) -> None:
        """Have packets of `flows`, FLOW (n,), pass from now on. Both directions or neither; writes each flow's `error`.

        0; ENOSPC: the limit is reached, or one tuple has too many flows; EEXIST: another flow has these packets, or
        another owner this connection; ENOENT: a connection is gone; EBUSY: one is in another flow; EINVAL: no TCP or
        UDP, a port out of range, no connections. The flow that a connection names already is replaced, and goes on
        counting. Raises UsageError for an array of something else.
        """
        if flows.dtype != FLOW or flows.ndim != 1:
            raise UsageError(f"install takes FLOW records in one dimension, not {flows.dtype} {flows.shape}")
        if not (flows.flags.c_contiguous and flows.flags.writeable):
            raise UsageError("install writes into the array, so it must be contiguous and writable")
        entry.install(self._tracker.arrays, self._arrays, flows, self._number)

    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int) -> None:
        """These flows are in `epoch` what they were."""
        entry.renew(self._arrays, *_pair(rows, generations), self._number, epoch)

    def withdraw(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """Remove flows; their packets take the long way from now on. Returns what passed since last told, USAGE (n,).

        The timers of their connections are set as if the packets had been tracked.
        """
        usage = np.zeros(len(rows), USAGE)
        pair = _pair(rows, generations)
        entry.withdraw(self._tracker.arrays, self._arrays, *pair, usage, self._number, self._tracker.now_ms)
        return usage

    def usage(self, rows: np.ndarray, generations: np.ndarray, now_ms: int) -> np.ndarray:
        """What passed since last told, USAGE (n,); zeros for unknown flows. `last_used_ms` is told every time.

        It counts packets that took the long way, too, and may be a little early, never late.
        """
        usage = np.zeros(len(rows), USAGE)
        pair = _pair(rows, generations)
        entry.read_usage(self._tracker.arrays, self._arrays, *pair, usage, self._number, now_ms)
        return usage

    def passes(self, rows: np.ndarray, generations: np.ndarray, epoch: int) -> np.ndarray:
        """Whether entries of these flows, in both directions, would be hit in `epoch`: bool (n,)."""
        s = self._arrays
        places = s.flow_of[rows].astype(np.int64)
        both = s.entries.reshape(-1, 2)[np.maximum(places, 1) - 1]
        lives: np.ndarray = (places != 0) & (both["row"][:, 0] == rows) & (both["generation"][:, 0] == generations)
        lives &= both["owner"][:, 0] == self._number
        for name, value in (("flags", 0), ("port_epoch", epoch & 0xFFFFFFFF)):
            mask = E_DEAD if name == "flags" else 0xFFFFFFFF
            lives &= ((both[name] & mask) == value).all(axis=1)
        return lives

    def idle(self, now_ms: int, timeout_ms: int, budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Withdraw flows whose last packet in either direction came `timeout_ms` ago or earlier.

        Looks at up to `budget` flows, each call going on where the last one ended. Returns rows and generations,
        uint32 (n,), and their last USAGE (n,).
        """
        rows, generations = np.zeros(budget, np.int64), np.zeros(budget, np.int64)
        usage = np.zeros(budget, USAGE)
        arrays = self._tracker.arrays, self._arrays
        n = entry.remove_idle(*arrays, rows, generations, usage, self._number, now_ms, timeout_ms, budget)
        return rows[:n].astype(np.uint32), generations[:n].astype(np.uint32), usage[:n]

    def flush(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Withdraw all flows of this owner. Returns what `idle` does."""
        everything = max(int(self._arrays.state["n_fresh"][0]), 1)
        return self.idle(self._tracker.now_ms, _ALWAYS, everything)

    def start_again(self) -> dict[str, int]:
        """Forget what was set and counted; returns what was counted, by name. For a share without flows."""
        record = self._arrays.owners[self._number : self._number + 1]
        counted = {name: int(record[name][0]) for name in _TOTALS}
        for name in (*_TOTALS, "check"):
            record[name] = 0
        return counted

    def statistics(self) -> dict[str, int]:
        """Flows and their limit, hits in packets and bytes, those that nobody checked, packets that a check refused."""
        record = self._arrays.owners[self._number]
        return {name: int(record[name]) for name in ("n_flows", "limit", *_TOTALS)}


_ALWAYS = -(1 << 62)
"""A timeout that every flow has outlived."""


def _pair(rows: np.ndarray, generations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(generations, np.int64)

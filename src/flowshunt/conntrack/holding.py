"""Holding connections: for a module that lets packets pass without the tracker seeing them.

While a connection is held, its TCP windows are not checked, and it does not expire: when its timer runs out, a `due`
event asks the module when it was last used (row A8). Given back, the next plain segment sets its windows anew (row A7).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.base.picking import pick
from flowshunt.conntrack.keeper import Keeper
from flowshunt.conntrack.kernels import held
from flowshunt.conntrack.states import F_LIVE, WATCH_REPLY
from flowshunt.conntrack.table import Observer, Tracker


class Holding:
    """A tracker as the module sees it that holds connections. One module at a time, on the tracker's thread.

    Rows and generations are int64 (n,), rows of one call differ; connections that are gone are left alone. Unlike
    packets and flushes, all of this may be done while observers are called.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    @property
    def capacity(self) -> int:
        """The tracker's maximum; rows are below it."""
        return len(self._tracker.arrays.conns)

    @property
    def _conns(self) -> Any:
        return self._tracker.arrays.conns

    def refuse_observers(self) -> None:
        """See `Tracker.refuse_observers`."""
        self._tracker.refuse_observers()

    def observe(self, observer: Observer) -> None:
        """See `Tracker.observe`."""
        self._tracker.observe(observer)

    def unobserve(self, observer: Observer) -> None:
        """See `Tracker.unobserve`."""
        self._tracker.unobserve(observer)

    def allocate_slot(self, name: str) -> int:
        """See `Tracker.allocate_slot`."""
        return self._tracker.allocate_slot(name)

    def get_slot(self, slot: int, row: int, generation: int) -> int | None:
        """See `Tracker.get_slot`."""
        return self._tracker.get_slot(slot, row, generation)

    def set_slots(self, slot: int, rows: np.ndarray, generations: np.ndarray, values: np.ndarray) -> None:
        """Set a module's values, int64 (n,)."""
        held.set_slots(self._tracker.arrays, slot, *_pair(rows, generations), values)

    def everyone(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and generations of all connections, int64 (n,)."""
        rows = np.flatnonzero(self._conns["flags"][: int(self._tracker.arrays.state["n_fresh"][0])] & F_LIVE)
        return rows, self._conns["generation"][rows].astype(np.int64)

    def records(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copies of connections as they are, CONNECTION (n,) and EXT (n,): what `Tracker.restore_records` takes.

        `ext` of a record says whether it has an extension at all.
        """
        records = pick(self._conns, rows)
        return records, pick(self._tracker.arrays.exts, np.maximum(records["ext"].astype(np.int64), 1) - 1)

    @property
    def is_linux(self) -> bool:
        """Whether the tracker's profile is linux: states mean something else there."""
        return self._tracker.profile == "linux"

    def in_ports(self, rows: np.ndarray) -> np.ndarray:
        """The port of each connection's first packet, uint32 (n,)."""
        ports: np.ndarray = self._conns["in_port"][rows]
        return ports

    def watch_replies(self, rows: np.ndarray, generations: np.ndarray) -> None:
        """Make the next packet of each in the reply direction a `reply` event, as the first one was."""
        self._conns["watch"][rows[self._live(rows, generations)]] |= WATCH_REPLY

    def watch_all_replies(self) -> None:
        """The same for all connections; a flag each, some 20 ms for a million."""
        self._conns["watch"][: int(self._tracker.arrays.state["n_fresh"][0])] |= WATCH_REPLY

    def hold(self, rows: np.ndarray, generations: np.ndarray) -> None:
        """From now on packets may pass unseen."""
        held.hold(self._tracker.arrays, *_pair(rows, generations))

    def release(self, rows: np.ndarray, generations: np.ndarray, *, is_settled: bool = False) -> None:
        """From now on all packets are seen again. Profile linux: the connection gets its full timeout.

        `is_settled`: what went unseen was told by `add_usage`, so that timers are left as they are. (Linux's flow table
        takes its own timeout off the full one, which comes to the same: flow_offload_fixup_ct.) Before a TCP connection
        has sent its next plain segment its windows are still not checked.
        """
        held.release(self._tracker.arrays, *_pair(rows, generations), self._tracker.now_ms, int(is_settled))

    def answer_due(
        self, rows: np.ndarray, generations: np.ndarray, last_used_ms: np.ndarray, asked_ms: np.ndarray
    ) -> None:
        """Answer `due` events, whose times are `asked_ms`, with the last uses, int64 (n,); 0: unknown.

        A use so recent that the connection would not have expired sets its timer from that time (one ahead of now
        counts as now). Otherwise it is held no longer, and the next sweep removes it; profile linux keeps it
        until it is released, as the kernel's flow table does. A packet seen since then outweighs any answer.
        """
        pair = _pair(rows, generations)
        held.answer_due(self._tracker.arrays, *pair, last_used_ms, np.ascontiguousarray(asked_ms), self._tracker.now_ms)

    def add_usage(
        self,
        rows: np.ndarray,
        generations: np.ndarray,
        turned: np.ndarray,
        packets: np.ndarray,
        sizes: np.ndarray,
        last_used_ms: np.ndarray,
    ) -> None:
        """Add packets that went unseen to connections' counters, and to their timers.

        `packets`, `sizes` (bytes as connections count) and `last_used_ms` (0: unknown) are int64 (n, 2), by path;
        `turned`, int64 (n,): 0 where path 0 is the connection's original direction, 1 where it is the reply direction.
        A timer only gets longer: it is set as the packet of the last use would have set it.
        """
        columns = (np.ascontiguousarray(column, np.int64) for column in (turned, packets, sizes, last_used_ms))
        held.add_usage(self._tracker.arrays, *_pair(rows, generations), *columns, self._tracker.now_ms)

    def idle_limits(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """How long each connection may be silent before it expires, in milliseconds, int64 (n,).

        0: it is gone, not established or closing; TCP counts as established from the end of its handshake to the first
        FIN, UDP from the first answer, others never.
        """
        limits = np.zeros(len(rows), np.int64)
        held.idle_limits(self._tracker.arrays, *_pair(rows, generations), limits)
        return limits

    def show(self, keeper: Keeper | None) -> None:
        """Have listings say who holds connections; see `Tracker.show_holder`."""
        self._tracker.show_holder(keeper)

    def _live(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        lives: np.ndarray = (self._conns["generation"][rows] == generations) & (
            self._conns["flags"][rows] & F_LIVE != 0
        )
        return lives


def _pair(rows: np.ndarray, generations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(generations, np.int64)

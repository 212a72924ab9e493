"""What forwarders forwarded, added to what the tracker and the tables saw (row E6), and the last uses (row A8).

Each flow's counters are read at least once in PERIOD_MS, a slice at a time; at once where somebody looks at them
(`refresh`, `synchronise`), before a connection expires, and when a flow is withdrawn or goes by other rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flowshunt.base.picking import pick
from flowshunt.offload import book as B
from flowshunt.offload import forwarding as F
from flowshunt.offload.attachment import Attachment
from flowshunt.offload.book import Book, Members
from flowshunt.offload.caller import Caller
from flowshunt.offload.runner import Worker
from flowshunt.offload.table import Paths, Table

PERIOD_MS = 20_000
SLICE_ROWS = 4096
"""Rows that are gone through at a time, at least and (times MAX_SLICES) at most."""
MAX_SLICES = 4

MAX_UNANSWERED = 10
"""How often a connection that is due is left alone because its provider's worker has not answered yet."""


class Ledger(NamedTuple):
    """Where the usage of flows goes, as it stood when they were asked about.

    `leaders`, `generations`: int64 (n,). `chains`, `in_ports`, `eth_srcs`, `vlans`: (n, 2), by path.
    """

    leaders: np.ndarray
    generations: np.ndarray
    members: Members
    chains: np.ndarray
    in_ports: np.ndarray
    eth_srcs: np.ndarray
    vlans: np.ndarray


class _Told(NamedTuple):
    leaders: np.ndarray
    generations: np.ndarray
    ledger: Ledger | None
    """As it was when a worker was asked; None: it is as it was, since the answer came at once."""
    due: np.ndarray | None
    """OPERATION of connections that are due, and which of the ledger's flows each belongs to; else None."""
    places: np.ndarray | None


class Accounting:
    """Reads counters from forwarders, and writes them where users look.

    `synchronised_ms`: no counter is older than this. `n_synchronised`: flows read by the periodic work.
    """

    def __init__(self, table: Table, paths: Paths, book: Book, caller: Caller) -> None:
        self.synchronised_ms = 0
        self.n_synchronised = 0
        self._table = table
        self._paths = paths
        self._book = book
        self._caller = caller
        self._cursor = 0
        self._began_ms = 0
        self._last_ms = 0
        self._owed = 0.0

    # --- adding -------------------------------------------------------------------------------------------------------

    def ledger(self, leaders: np.ndarray) -> Ledger:
        """As the book has it now, of leaders int64 (n,)."""
        entries = self._book.entries
        columns = (entries[name][leaders] for name in ("chains", "in_ports", "eth_srcs", "vlans"))
        return Ledger(leaders, self._book.generations(leaders), self._book.members(leaders), *columns)

    def add(self, attachment: Attachment, ledger: Ledger, usage: np.ndarray) -> None:
        """Add USAGE (n,) of the flows of a ledger to connections, rules and stations."""
        ways = _ways(usage)
        used = np.asarray(ways.any(axis=1))
        if not used.any():
            return
        attachment.counters["forwarded-packets"] += int(usage["packets"].sum())
        attachment.counters["forwarded-bytes"] += int(usage["frame_bytes"].sum())
        which = ledger.members.which
        those = used[which]
        mine = pick(usage, which[those])
        rows, generations, turned = (column[those] for column in ledger.members[1:])
        self._table.add_usage(rows, generations, turned, mine["packets"], mine["bytes"], mine["last_used_ms"])
        for d in range(2):
            mine = ways[:, d]
            if mine.any():
                self._paths.account(
                    ledger.chains[mine, d],
                    ledger.in_ports[mine, d],
                    usage["packets"][mine, d],
                    usage["frame_bytes"][mine, d],
                    usage["last_used_ms"][mine, d],
                    ledger.eth_srcs[mine, d],
                    ledger.vlans[mine, d],
                )

    # --- reading ------------------------------------------------------------------------------------------------------

    def poll(self, now_ms: int) -> None:
        """Read the slice that is due by now."""
        top = self._book.top
        elapsed = now_ms - self._last_ms
        self._last_ms = now_ms
        if top == 0 or elapsed <= 0:
            return
        self._owed = min(self._owed + elapsed * top / PERIOD_MS, float(top))
        if self._owed < min(SLICE_ROWS, top):
            return
        n = min(int(self._owed), MAX_SLICES * SLICE_ROWS)
        self._owed -= n
        if self._cursor == 0:
            self._began_ms = now_ms
        last = min(self._cursor + n, top)
        self.n_synchronised += self.refresh(self._cursor, last)
        self._cursor = last
        if last == top:
            self._cursor, self.synchronised_ms = 0, self._began_ms

    def synchronising(self) -> Iterator[None]:
        """Read all counters, some at each step."""
        began_ms, step = self._caller.now_ms, MAX_SLICES * SLICE_ROWS
        for first in range(0, self._book.top, step):
            self.refresh(first, min(first + step, self._book.top))
            yield
        self.synchronised_ms = max(self.synchronised_ms, began_ms)

    def refresh(self, first: int, last: int) -> int:
        """Read the counters of all flows on whose way a connection in rows `[first, last)` is. Returns how many."""
        owners = self._book.owner[first : min(last, self._book.capacity)]
        found = owners[owners != 0].astype(np.int64) - 1
        if len(found) == 0:
            return 0
        found = found[self._book.last_of_each(found)]
        leaders = found[self._book.flags[found] & (B.HELD | B.LEAVING) == B.HELD]
        self.read(leaders)
        return len(leaders)

    def read(self, leaders: np.ndarray) -> None:
        """Read the counters of flows that are held, int64 (n,)."""
        for attachment, mine in self._by_holder(leaders):
            self._ask(attachment, leaders[mine])

    def _by_holder(self, leaders: np.ndarray) -> list[tuple[Attachment, np.ndarray]]:
        numbers = self._caller.holder[leaders]
        found = ((self._caller.attachment_of(number), numbers == number) for number in np.unique(numbers).tolist())
        return [(attachment, mine) for attachment, mine in found if attachment is not None]

    def _ask(
        self,
        attachment: Attachment,
        leaders: np.ndarray,
        due: np.ndarray | None = None,
        places: np.ndarray | None = None,
    ) -> bool:
        generations = self._book.generations(leaders)
        ledger = self.ledger(leaders) if isinstance(attachment.runner, Worker) else None
        told = _Told(leaders, generations, ledger, due, places)
        now_ms = self._caller.now_ms
        identity = leaders.astype(np.uint32), generations.astype(np.uint32)
        call = F.Call(F.STATISTICS, (*identity, now_ms), now_ms, attachment.epoch, told)
        return self._caller.call(attachment, call)

    def on_statistics(self, attachment: Attachment, told: _Told, usage: np.ndarray) -> None:
        """The answer to what was asked."""
        if told.ledger is not None:
            self.add(attachment, told.ledger, usage)
        else:
            used: np.ndarray = np.asarray(_ways(usage).any(axis=1))
            if used.any():
                self.add(attachment, self.ledger(told.leaders[used]), pick(usage, used))
        if told.due is not None:
            attachment.counters["updated"] += len(told.due)
            attachment.asks[told.due["row"]] = 0
            last_used = usage["last_used_ms"].max(axis=1)
            self._answer(told.due, last_used[told.places])

    # --- expiry -------------------------------------------------------------------------------------------------------

    def ask_last_use(self, due: np.ndarray) -> None:
        """Connections, OPERATION (n,), on the ways of flows that are held would expire: when were they used last?"""
        leaders = self._book.owner[due["row"]].astype(np.int64) - 1
        answered = np.zeros(len(due), bool)
        for attachment, mine in self._by_holder(leaders):
            if isinstance(attachment.runner, Worker):
                mine &= self._is_patient(attachment, due["row"], mine)
            flows, places = np.unique(leaders[mine], return_inverse=True)
            if len(flows):
                answered |= mine
                self._ask(attachment, flows, due[mine], places)
        if not answered.all():
            self._answer(due[~answered], np.zeros(int((~answered).sum()), np.int64))

    def _is_patient(self, attachment: Attachment, rows: np.ndarray, mine: np.ndarray) -> np.ndarray:
        """Whether an answer is still worth waiting for; bool (n,)."""
        attachment.asks[rows[mine]] = np.minimum(attachment.asks[rows[mine]], MAX_UNANSWERED) + 1
        patient: np.ndarray = attachment.asks[rows] <= MAX_UNANSWERED
        return patient

    def _answer(self, due: np.ndarray, last_used_ms: np.ndarray) -> None:
        identity = due["row"].astype(np.int64), due["generation"].astype(np.int64)
        self._table.answer_due(*identity, np.ascontiguousarray(last_used_ms), due["now_ms"])


def _ways(usage: np.ndarray) -> np.ndarray:
    """Which directions of USAGE (n,) have news, bool (n, 2).

    A last use after the counters were read is of packets that are told later; it counts already.
    """
    ways: np.ndarray = np.logical_or(usage["packets"] != 0, usage["last_used_ms"] > usage["counted_ms"][:, None])
    return ways

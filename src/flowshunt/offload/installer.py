"""Between paths that packets have shown and providers that forward: pairing, offering, holding, withdrawing.

What happens to a connection here (DESIGN: notification and installing are two things):

1. The datapath tells paths (LEARNED), one direction at a time. The `book` keeps them.
2. When both directions of the same connections are known in one epoch and all of them are established, the flow is
   offered to the forwarders that have the connection, in priority order. The first that takes it holds it.
3. In a later epoch the same paths are told again, and the flow is renewed; others replace it.
4. It is withdrawn at the end of any of its connections, when one of them begins to close or gets another mark or label,
   when a packet shows that it may not be forwarded any more, and with its provider.

Calls are asked and answered apart, since a provider may have a worker thread: one on the packet thread answers at once.
What the provider forwarded becomes counters in `accounting`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flowshunt.base.picking import copied, pick
from flowshunt.conntrack import schema as C
from flowshunt.datapath.paths.records import UNFIT
from flowshunt.offload import attachment as A
from flowshunt.offload import book as B
from flowshunt.offload import forwarding as F
from flowshunt.offload import reasons as R
from flowshunt.offload.accounting import Accounting, Ledger
from flowshunt.offload.attachment import Attachment
from flowshunt.offload.book import Book
from flowshunt.offload.caller import Caller, Journal
from flowshunt.offload.installing import FLOW
from flowshunt.offload.kernels import offering, pairing, telling
from flowshunt.offload.runner import Worker
from flowshunt.offload.table import Paths, Table

MAX_IDLE_MS = 30_000
"""After a longer silence a packet takes the long way, however long the tracker would wait."""
WITHDRAW_AT_ONCE = 4096
"""Connections that are withdrawn by one call, some milliseconds."""

_EVENT_KINDS = {C.EVENT_CREATED: "created", C.EVENT_REPLY: "reply", C.EVENT_DESTROYED: "destroyed"}
_PATH_KINDS = ("path-original", "path-reply")
_REASON_OF_UNFIT = np.array([R.number_of(code) for code in UNFIT], np.uint16)


class _Asked(NamedTuple):
    leaders: np.ndarray
    generations: np.ndarray
    flows: np.ndarray | None
    """For those who come after; None: there are none."""


class _Leaving(NamedTuple):
    ledger: Ledger
    again: bool


class Installer:
    """Offers flows to forwarders and keeps who holds which. One thread, the tracker's.

    `journal` may be set to hear of each step. All rows and leaders are int64 (n,).
    """

    def __init__(self, table: Table, paths: Paths, caller: Caller) -> None:
        self.journal: Journal | None = None
        self.book = Book(table.capacity)
        self.accounting = Accounting(table, paths, self.book, caller)
        self._table = table
        self._paths = paths
        self._caller = caller
        self._epoch = -1
        self._polled_ms = -1

    # --- what packets have shown --------------------------------------------------------------------------------------

    def on_learned(self, learned: np.ndarray) -> None:
        """Take what the packets of a batch have shown, LEARNED (n,)."""
        if len(learned) == 0 or not self._caller.forwarders():
            return
        self.follow_epoch()
        verdicts = np.empty(len(learned), np.uint8)
        limits = self._table.idle_limits(*_leaders_of(learned))
        found = pairing.judge(self.book.arrays, learned, limits, verdicts)
        if found & ~pairing.TAKEN:
            self._prepare(learned, verdicts, found)
        if found & pairing.TAKEN:
            leaders = self.book.note(learned, limits, verdicts)
            if self.journal is not None:
                self._journal_paths(pick(learned, verdicts & pairing.NOTED != 0))
            if len(leaders):
                self._pair(leaders)
        self.book.begin_turn()

    def _prepare(self, learned: np.ndarray, verdicts: np.ndarray, found: int) -> None:
        """What has to be done before paths are noted, by all their verdicts in one."""
        if found & pairing.OUTDATED:
            self._tell_anew(pick(learned, verdicts == pairing.OUTDATED))
        if found & pairing.STRANGE:
            self.withdraw(_distinct_leaders(learned, verdicts & pairing.STRANGE != 0), R.PATH_CHANGED)
        if found & pairing.OTHER_RULES:
            # What was forwarded so far was forwarded by the rules of before.
            leaders = _distinct_leaders(learned, verdicts & pairing.OTHER_RULES != 0)
            self.accounting.read(leaders[self.book.flags[leaders] & B.HELD != 0])
        for d in range(2 if found & pairing.UNFIT else 0):
            self._note_unfit(pick(learned, (verdicts & pairing.UNFIT != 0) & (learned["turned"] & 1 == d)))

    def _journal_paths(self, learned: np.ndarray) -> None:
        for d, kind in enumerate(_PATH_KINDS):
            self._tell(kind, *_leaders_of(pick(learned, learned["turned"] & 1 == d)))

    def _tell_anew(self, learned: np.ndarray) -> None:
        for zone in range(int(learned["n_zones"].max())):
            there = learned["n_zones"] > zone
            self._paths.forget(learned["rows"][there, zone].astype(np.int64))

    def _note_unfit(self, learned: np.ndarray) -> None:
        """Paths that may not be taken, each of another leader: flows that have them end."""
        if len(learned) == 0:
            return
        reasons = _REASON_OF_UNFIT[np.minimum(learned["unfit"], len(UNFIT) - 1)]
        varying = reasons == R.number_of("varying-match")
        reasons = np.where(varying, reasons | learned["parameter"].astype(np.uint16) << R.PARAMETER_SHIFT, reasons)
        reasons = reasons.astype(np.uint16)
        for attachment in self._caller.forwarders():
            for zone in range(int(learned["n_zones"].max())):
                there = learned["n_zones"] > zone
                attachment.note(learned["rows"][there, zone].astype(np.int64), reasons[there])
        leaders, generations = _leaders_of(learned)
        self._tell("unfit", leaders, generations, "", reasons)
        busy = self.book.flags[leaders] & B.BUSY != 0
        if busy.any():
            self._withdraw_each(leaders[busy], reasons[busy])

    def _withdraw_each(self, leaders: np.ndarray, reasons: np.ndarray) -> None:
        for reason in np.unique(reasons).tolist():
            self.withdraw(leaders[reasons == reason], reason, again=False)

    def _pair(self, leaders: np.ndarray) -> None:
        """Offer, replace or renew flows of which both directions are known in one epoch."""
        verdicts = np.empty(len(leaders), np.uint8)
        found = pairing.pair(self.book.arrays, leaders, verdicts)
        if found & pairing.CHANGED:
            changed = leaders[verdicts == pairing.CHANGED]
            self._paths.forget(self.book.members(changed).rows)
            self.book.forget(changed)
        if found & pairing.RENEW:
            self._renew(leaders[verdicts == pairing.RENEW])
        if found & pairing.WITHDRAW:
            self.withdraw(leaders[verdicts == pairing.WITHDRAW], R.PATH_CHANGED)
        if found & pairing.OFFER:
            self._make_offers(leaders[verdicts == pairing.OFFER])

    def _renew(self, leaders: np.ndarray) -> None:
        epochs = self.book.entries["epochs"][leaders, 0]
        for attachment, mine in self._by_holder(leaders):
            for epoch in np.unique(epochs[mine]).tolist():
                those = leaders[mine][epochs[mine] == epoch]
                generations = self.book.generations(those)
                attachment.counters["renewed"] += len(those)
                rows = those.astype(np.uint32), generations.astype(np.uint32)
                self._call(attachment, F.RENEW, (*rows, epoch), must=True)
                self._tell("renewed", those, generations, attachment.name)

    # --- offering -----------------------------------------------------------------------------------------------------

    def _make_offers(self, leaders: np.ndarray) -> None:
        leaders = self._without_conflicts(leaders)
        limits = np.empty(len(leaders), np.int64)
        if offering.own_limits(self.book.arrays, leaders, MAX_IDLE_MS, limits):
            limits = self._limits(leaders)
        if not limits.all():
            fit = limits > 0
            self.book.stop_waiting(leaders[~fit])
            leaders, limits = leaders[fit], limits[fit]
        if len(leaders) == 0:
            return
        flows = np.zeros(len(leaders), FLOW)
        offering.write_flows(self.book.arrays, leaders, limits, self._caller.now_ms, flows)
        held = self.book.flags[leaders] & B.BUSY != 0
        if not held.any():
            self._offer(leaders, flows)
            return
        for attachment, mine in self._by_holder(leaders, held):
            self._ask(attachment, leaders[mine], pick(flows, mine))
        self._offer(leaders[~held], pick(flows, ~held))

    def _without_conflicts(self, leaders: np.ndarray) -> np.ndarray:
        """Flows on whose way no connection is of another flow; one that was another's is taken from that."""
        clean = np.empty(len(leaders), np.bool_)
        if offering.find_clean(self.book.arrays, leaders, clean) == len(leaders):
            return leaders
        members = self.book.members(leaders)
        owners = self.book.owner[members.rows].astype(np.int64)
        strange = (owners != 0) & (owners != leaders[members.which] + 1)
        self.withdraw(np.unique(owners[strange]) - 1, R.PATH_CHANGED)
        offering.find_clean(self.book.arrays, leaders, clean)
        self.book.stop_waiting(leaders[~clean])
        return leaders[clean]

    def _limits(self, leaders: np.ndarray) -> np.ndarray:
        """How long each flow may be silent; 0: some connection on its way is not established, or closing."""
        limits: np.ndarray = np.full(len(leaders), MAX_IDLE_MS, np.int64)
        members = self.book.members(leaders)
        offering.lower(limits, members.which, self._table.idle_limits(members.rows, members.generations))
        return limits

    def _offer(self, leaders: np.ndarray, flows: np.ndarray, after: Attachment | None = None) -> None:
        """Offer flows that nobody holds to the forwarders, in order; `after`: to those that come after it."""
        order = self._caller.forwarders()
        if after is not None:
            order = order[order.index(after) + 1 :] if after in order else []
        for attachment in order:
            if len(leaders) == 0:
                return
            state = attachment.state[leaders]
            needed = A.TAKEN | (A.ESTABLISHED if attachment.takes_established else 0)
            ready = state & needed == needed
            if ready.all():
                self._ask(attachment, leaders, flows)
                return
            self._ask(attachment, leaders[ready], pick(flows, ready))
            leaders, flows = leaders[~ready], pick(flows, ~ready)

    def _ask(self, attachment: Attachment, leaders: np.ndarray, flows: np.ndarray) -> None:
        """Offer flows to one forwarder, which may hold them already. A worker may begin before we hear of it."""
        if len(leaders) == 0:
            return
        generations = self.book.generations(leaders)
        attachment.counters["offered"] += len(leaders)
        self._tell("offered", leaders, generations, attachment.name)
        offering.ask(self.book.arrays, self._caller.holder, leaders, attachment.number)
        is_later = isinstance(attachment.runner, Worker)
        if is_later:
            members = self.book.members(leaders)
            self._table.hold(members.rows, members.generations)
        is_last = not is_later and self._caller.forwarders()[-1] is attachment  # until a worker answers others may come
        asked = _Asked(leaders, generations, None if is_last else copied(flows))
        if not self._call(attachment, F.INSTALL, (flows,), keep=asked):
            errors = np.ones(len(leaders), np.int32)
            attachment.counters["queue-full"] += len(leaders)
            # An offer of before that waits for its answer is of paths that the flow does not have any more.
            self.withdraw(leaders[self.book.entries["n_asked"][leaders] > 1], R.QUEUE_FULL, again=False)
            self._installed(attachment, asked, errors, np.full(len(leaders), R.QUEUE_FULL, np.uint16))

    def _installed(self, attachment: Attachment, asked: _Asked, errors: np.ndarray, reasons: np.ndarray) -> None:
        """The answer to `_ask`."""
        leaders, verdicts = asked.leaders, np.empty(len(asked.leaders), np.uint8)
        found = offering.take_answer(
            self.book.arrays, self._caller.holder, leaders, asked.generations, errors, attachment.number, verdicts
        )
        if found & offering.TAKEN:
            self._take(attachment, leaders[verdicts == offering.TAKEN])
        if found & offering.REFUSED:
            self._refuse(attachment, asked, verdicts == offering.REFUSED, reasons)

    def _take(self, attachment: Attachment, leaders: np.ndarray) -> None:
        attachment.counters["installed"] += len(leaders)
        members = self.book.members(leaders)
        attachment.reason[members.rows] = R.NONE
        self._table.hold(members.rows, members.generations)
        self._caller.publish(members.rows, members.generations)
        if self.journal is not None:
            self._tell("taken", leaders, self.book.generations(leaders), attachment.name)

    def _refuse(self, attachment: Attachment, asked: _Asked, refused: np.ndarray, reasons: np.ndarray) -> None:
        """What the provider refused is offered to the next one; what it held with other paths is taken from it."""
        leaders, why = asked.leaders[refused], reasons[refused]
        attachment.refuse(leaders, why)
        self._tell("refused", leaders, self.book.generations(leaders), attachment.name, why)
        held = self.book.flags[leaders] & B.HELD != 0
        self._withdraw_each(leaders[held], why[held])
        free = leaders[~held]
        self._let_go(free, isinstance(attachment.runner, Worker))
        if asked.flows is not None:
            self._offer(free, pick(pick(asked.flows, refused), ~held), after=attachment)

    def _let_go(self, leaders: np.ndarray, was_held: bool = True) -> None:
        """Nobody holds these flows any more. Rows that belong to others by now are left alone."""
        members = self.book.members(leaders)
        mine = self.book.owner[members.rows] == leaders[members.which] + 1
        rows, generations = members.rows[mine], members.generations[mine]
        self.book.owner[rows] = 0
        self._caller.holder[rows] = 0
        if was_held:
            self._table.release(rows, generations, is_settled=True)
            self._caller.publish(rows, generations)

    # --- withdrawing --------------------------------------------------------------------------------------------------

    def withdraw(
        self, leaders: np.ndarray, reason: int = R.NONE, *, again: bool = True, why: str = "withdrawn"
    ) -> None:
        """Take flows from their holders, each once. `again`: they may be offered as soon as their paths are told."""
        leaders = leaders[(self.book.flags[leaders] & (B.HELD | B.ASKED) != 0)]
        for first in range(0, len(leaders), WITHDRAW_AT_ONCE):
            some = leaders[first : first + WITHDRAW_AT_ONCE]
            for attachment, mine in self._by_holder(some):
                self._withdraw_from(attachment, some[mine], reason, again, why)

    def _withdraw_from(self, attachment: Attachment, leaders: np.ndarray, reason: int, again: bool, why: str) -> None:
        ledger = self.accounting.ledger(leaders)
        self.book.stop_waiting(leaders)
        self.book.flags[leaders] = B.LEAVING
        attachment.counters["withdrawn"] += len(leaders)
        attachment.reason[ledger.members.rows] = reason
        self._tell(why, leaders, ledger.generations, attachment.name, reason)
        rows = leaders.astype(np.uint32), ledger.generations.astype(np.uint32)
        self._call(attachment, F.WITHDRAW, rows, keep=_Leaving(ledger, again), must=True)

    def _withdrawn(self, attachment: Attachment, leaving: _Leaving, usage: np.ndarray) -> None:
        ledger = leaving.ledger
        self.accounting.add(attachment, ledger, usage)
        leaders = ledger.leaders
        current = self.book.flags[leaders] & B.LEAVING != 0
        current &= self.book.generations(leaders) == ledger.generations
        self._end_of_hold(leaders[current], leaving.again)

    def _end_of_hold(self, leaders: np.ndarray, again: bool) -> None:
        if len(leaders) == 0:
            return
        rows = self.book.members(leaders).rows
        self._let_go(leaders)
        self.book.forget(leaders)
        if again:
            self._paths.forget(rows)

    def abandon(self, attachment: Attachment) -> None:
        """Withdraw all from a provider that is switched off."""
        for leaders in self._held_by(attachment):
            self.withdraw(leaders, R.NONE)

    def taking_back(self, attachment: Attachment, rows: np.ndarray | None = None) -> Iterator[int]:
        """Withdraw the flows of a provider, all or those of connections in `rows`; at each step some, and how many.

        They may come again.
        """
        wanted = None
        if rows is not None:
            wanted = np.zeros(self.book.capacity, bool)
            wanted[rows] = True
        for leaders in self._held_by(attachment):
            chosen = leaders if wanted is None else leaders[self._passes(leaders, wanted)]
            self.withdraw(chosen, R.NONE)
            yield len(chosen)

    def _passes(self, leaders: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Which flows have one of the connections on their way that are wanted, bool by row: bool (n,)."""
        passes = np.zeros(len(leaders), bool)
        members = self.book.members(leaders)
        passes[members.which[wanted[members.rows]]] = True
        return passes

    def abandon_now(self, attachment: Attachment) -> None:
        """Let go of what a provider has not answered about, which never will."""
        mine = np.flatnonzero(self._caller.holder == attachment.number)
        leaders = mine[self.book.owner[mine] == mine + 1]
        self.book.flags[leaders] = B.LEAVING
        self._end_of_hold(leaders, again=True)

    def _held_by(self, attachment: Attachment) -> Iterator[np.ndarray]:
        for first in range(0, self.book.top, WITHDRAW_AT_ONCE):
            part = slice(first, first + WITHDRAW_AT_ONCE)
            held = self.book.flags[part] & (B.HELD | B.ASKED) != 0
            yield first + np.flatnonzero(held & (self._caller.holder[part] == attachment.number))

    # --- the tracker's events -----------------------------------------------------------------------------------------

    def on_events(self, events: np.ndarray) -> None:
        """Flows end with any of their connections, and when one of them closes or gets another mark or label."""
        if self.journal is not None:
            self._journal_events(events)
        places = np.empty(len(events), np.int64)
        places = places[: telling.find_concerned(self.book.arrays, events, places)]
        if len(places) == 0:
            return
        rows, ended = events["row"][places].astype(np.int64), events["kind"][places] == C.EVENT_DESTROYED
        self._withdraw_ended(rows, ended)
        self._forget_ended(rows[ended], events["generation"][places[ended]])

    def _withdraw_ended(self, rows: np.ndarray, ended: np.ndarray) -> None:
        """All flows that these rows belong to; at most one connection of a row can be held, the one that ended."""
        owners = self.book.owner[rows].astype(np.int64)
        for those in (ended, ~ended):
            leaders = np.unique(owners[those & (owners != 0)]) - 1
            if len(leaders) == 0:
                continue
            over = self._limits(leaders) == 0
            why = "withdrawn" if those is ended else "closed"
            self.withdraw(leaders[over], R.NOT_ESTABLISHED, again=False, why=why)
            self.withdraw(leaders[~over], R.PATH_CHANGED)

    def _forget_ended(self, rows: np.ndarray, generations: np.ndarray) -> None:
        known = (self.book.flags[rows] != 0) & (self.book.flags[rows] & B.BUSY == 0)
        known &= self.book.generations(rows) == generations
        self.book.forget(np.unique(rows[known]))

    def _journal_events(self, events: np.ndarray) -> None:
        assert self.journal is not None
        for kind, name in _EVENT_KINDS.items():
            some = events[events["kind"] == kind]
            if len(some):
                identity = some["row"].astype(np.int64), some["generation"].astype(np.int64)
                self.journal(name, *identity, int(some["time_ms"][-1]), "", R.NONE)

    # --- periodic work ------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Once per batch: new epochs, what providers gave up, and a slice of the counters."""
        forwarders = self._caller.forwarders()
        if not forwarders:
            return
        self.follow_epoch()
        if self._caller.now_ms == self._polled_ms:
            return
        self._polled_ms = self._caller.now_ms
        for attachment in forwarders:
            if attachment.has_collected:
                attachment.has_collected = not isinstance(attachment.runner, Worker)
                self._call(attachment, F.HANDED_BACK, (self._caller.now_ms,), must=True)
        self.accounting.poll(self._caller.now_ms)

    def follow_epoch(self) -> None:
        """Tell forwarders of a new epoch, if there is one."""
        epoch = self._paths.epoch
        if epoch != self._epoch:
            self._epoch = epoch
            for attachment in self._caller.forwarders():
                self._call(attachment, F.BEGIN_EPOCH, (epoch,), must=True)

    def on_answer(self, attachment: Attachment, answer: F.Answer) -> None:
        """A forwarder's answer, from this thread or another."""
        call = answer.call
        if answer.error:
            attachment.counters["errors"] += 1
        if call.name == F.INSTALL:
            self._installed(attachment, call.keep, *answer.value)
        elif call.name == F.WITHDRAW:
            self._withdrawn(attachment, call.keep, answer.value)
        elif call.name == F.STATISTICS:
            self.accounting.on_statistics(attachment, call.keep, answer.value)
        elif call.name == F.HANDED_BACK:
            attachment.has_collected = True
            self._given_up(attachment, *answer.value)

    def _given_up(
        self, attachment: Attachment, rows: np.ndarray, generations: np.ndarray, reasons: np.ndarray, usage: np.ndarray
    ) -> None:
        """What a provider gave up by itself; what it does not hold is not looked at."""
        if len(rows) == 0:
            return
        book = self.book
        inside = (rows >= 0) & (rows < book.capacity)
        leaders = np.where(inside, rows, 0)
        mine = inside & (book.generations(leaders) == generations) & (book.flags[leaders] & B.BUSY == B.HELD)
        mine &= (self._caller.holder[leaders] == attachment.number) & book.last_of_each(leaders)
        leaders, reasons = leaders[mine], reasons[mine]
        if len(leaders) == 0:
            return
        attachment.counters["handed-back"] += len(leaders)
        ledger = self.accounting.ledger(leaders)
        self.accounting.add(attachment, ledger, usage[mine])
        attachment.reason[ledger.members.rows] = reasons[ledger.members.which]
        self._tell("handed-back", leaders, ledger.generations, attachment.name, reasons)
        self._end_of_hold(leaders, again=True)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Whether a flow that is held, or asked about, passes these connections: bool (n,)."""
        held: np.ndarray = self.book.owner[rows] != 0
        return held

    def names(self, rows: np.ndarray) -> Sequence[str | None]:
        """How listings mark the connections in these rows; see `conntrack.table.Keeper`."""
        marks: dict[int, str | None] = {0: None}
        for number in np.unique(self._caller.holder[rows]).tolist():
            attachment = self._caller.attachment_of(number) if number else None
            marks[number] = None if attachment is None else attachment.mark
        return [marks[number] for number in self._caller.holder[rows].tolist()]

    def refresh(self, first: int, last: int) -> None:
        """Bring counters up to date; see `conntrack.table.Keeper`."""
        self.accounting.refresh(first, last)

    def _by_holder(
        self, leaders: np.ndarray, which: np.ndarray | None = None
    ) -> Iterator[tuple[Attachment, np.ndarray]]:
        """Attachments and which of the leaders they hold, bool (n,)."""
        numbers = self._caller.holder[leaders]
        if which is not None:
            numbers = np.where(which, numbers, 0)
        for number in np.unique(numbers).tolist():
            attachment = self._caller.attachment_of(number) if number else None
            if attachment is not None:
                yield attachment, numbers == number

    def _call(
        self,
        attachment: Attachment,
        name: str,
        arguments: tuple[object, ...],
        keep: object = None,
        *,
        must: bool = False,
    ) -> bool:
        call = F.Call(name, arguments, self._caller.now_ms, attachment.epoch, keep)
        return self._caller.call(attachment, call, must=must)

    def _tell(
        self,
        kind: str,
        rows: np.ndarray,
        generations: np.ndarray,
        provider: str = "",
        reason: np.ndarray | int = R.NONE,
    ) -> None:
        if self.journal is not None and len(rows):
            now_ms = self._caller.now_ms
            self.journal(kind, rows.astype(np.int64), generations.astype(np.int64), now_ms, provider, reason)


def _leaders_of(learned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and generations of the first connections on the ways of LEARNED (n,), int64 (n,)."""
    return learned["rows"][:, 0].astype(np.int64), learned["generations"][:, 0].astype(np.int64)


def _distinct_leaders(learned: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The leaders of some of LEARNED (n,), by bool (n,), each once; int64 (m,)."""
    return np.unique(learned["rows"][which, 0]).astype(np.int64)

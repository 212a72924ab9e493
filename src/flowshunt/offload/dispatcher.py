"""From the tracker's events to providers' callbacks, and from their answers to marks.

One thread, the tracker's, uses everything here. Each drained array of events becomes at most a few calls of each
provider, whatever its size. Rules (rows A3, A5, A6):

- add: every provider is offered the connection. established: once per provider that took it, at the first reply;
  asked again at the next reply packet until it agrees. del: every provider, always.
- The mark of a connection is the highest that any provider gave it; it lies in a private slot of the tracker.
- What waits in a worker's queue is answered later; an answer about a connection that has ended meanwhile is dropped,
  and since its del waits behind in the same queue, the provider cleans up by itself.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.base.log import logger
from flowshunt.base.picking import pick
from flowshunt.conntrack.memory import reserve
from flowshunt.offload import attachment as A
from flowshunt.offload import reasons as R
from flowshunt.offload.attachment import Attachment
from flowshunt.offload.batch import ADD, DEL, EST, FLUSH, OPERATION, POLICY, UPD, Batch, Devices
from flowshunt.offload.calls import Outcome
from flowshunt.offload.forwarding import Answer, Call
from flowshunt.offload.installer import Installer
from flowshunt.offload.kernels import telling
from flowshunt.offload.kernels.schema import make_known
from flowshunt.offload.order import rounds, some
from flowshunt.offload.runner import Inline, Worker
from flowshunt.offload.table import Paths, Table

MAX_UNANSWERED = 10
"""How often a connection that is due is left alone because its provider's worker has not answered yet."""

_log = logger(__name__)


class Dispatcher:
    """Tells attached providers of connections, and keeps what they answer; `installer` has flows forwarded, if any.

    `attachments`: in priority order. `holder`: by row, the number of the attachment that forwards it (0: none).
    """

    def __init__(self, table: Table, devices: Devices | None, paths: Paths | None = None) -> None:
        self.attachments: dict[str, Attachment] = {}
        self.slot: int | None = None
        self.now_ms = 0
        self.n_left_out = 0
        self.is_calling = False
        self._table = table
        self._devices = devices
        self.holder = reserve(np.uint8, table.capacity)
        self.installer = None if paths is None else Installer(table, paths, self)
        self.forget()

    def forget(self) -> None:
        """No connection is known any more."""
        self._known = make_known(self._table.capacity)

    def is_known(self, row: int, generation: int) -> bool:
        """Whether the events were about this connection last."""
        return bool(self._known.alive[row]) and int(self._known.generation[row]) == generation

    def refuse_providers(self) -> None:
        """Raise UsageError when a provider or an observer is being called: what it wanted must wait until after."""
        if self.is_calling:
            raise UsageError("a provider cannot change the framework that calls it", hint="do it afterwards")
        self._table.refuse_observers()

    def _working(self) -> list[Attachment]:
        return [attachment for attachment in self.attachments.values() if attachment.is_on]

    def forwarders(self) -> list[Attachment]:
        """Those at work that forward flows, in priority order."""
        return [attachment for attachment in self.attachments.values() if attachment.is_on and attachment.installs]

    def attachment_of(self, number: int) -> Attachment | None:
        """By number; also one that was just switched off."""
        return next((a for a in self.attachments.values() if a.number == number), None)

    # --- events -------------------------------------------------------------------------------------------------------

    def poll(self, now_ms: int) -> None:
        """Take the answers of workers, and do the forwarders' periodic work; to be called once per batch of packets."""
        self.collect(now_ms)
        if self.installer is not None:
            self.installer.poll()

    def collect(self, now_ms: int) -> None:
        """Take the answers of workers. Cheap when there are none."""
        self.now_ms = now_ms
        for attachment in list(self.attachments.values()):
            for answer in attachment.runner.collect():
                if isinstance(answer, Answer):
                    self._on_answer(attachment, answer)
                else:
                    self._apply(attachment, answer)

    def _on_answer(self, attachment: Attachment, answer: Answer) -> None:
        if self.installer is not None:
            self.installer.on_answer(attachment, answer)

    def on_learned(self, learned: np.ndarray) -> None:
        """Take the paths that a batch has shown, LEARNED (n,)."""
        if self.installer is not None and len(learned):
            self.now_ms = max(self.now_ms, int(learned["time_ms"][-1]))
            self.installer.on_learned(learned)

    def on_events(self, events: np.ndarray) -> None:
        """Tell providers of the tracker's events, EVENT (n,); an observer (row A10)."""
        if events.flags.writeable:
            events = events.view()
            events.flags.writeable = False
        self.collect(int(events["time_ms"][-1]))
        if self.installer is not None:
            self.installer.on_events(events)
        parts, n_left_out = rounds(events)
        self.n_left_out += n_left_out
        for created, replies, due, destroyed in parts:
            if len(created):
                records = _operations(created, ADD, with_port=True)
                telling.meet(self._known, records)
                self._add(records)
            if len(replies):
                self._answered(_operations(self._once(replies), EST, with_port=True))
            if len(due):
                self._ask_last_use(_operations(self._once(due), UPD, with_port=False))
            if len(destroyed):
                self._end(_operations(destroyed, DEL, with_port=False))

    def _once(self, events: np.ndarray) -> np.ndarray:
        """The last event of each row; within a round a row is one connection."""
        last = np.empty(len(events), np.bool_)
        n = telling.find_last(self._known, events, last)
        return events if n == len(events) else some(events, last)

    def dispatch(self, batch: Batch, flush: Callable[[], None]) -> None:
        """Carry out operations that did not come from events, in order, and write each one's result into it.

        `error`, when providers answer at once (what waits for a worker counts as done): ADD, DEL: the first error of
        any provider. EST: likewise, of those that have the connection. UPD: ENODATA when nobody knows, else
        `last_used_ms` is the first that was told. POLICY: EPERM unless somebody says yes. Unknown types: EINVAL.

        Raises UsageError, and does nothing, when an operation is about a row that the table does not have.
        """
        self.refuse_providers()
        records = batch.records
        if records["row"].max(initial=0) >= self._table.capacity:  # kernels would not notice
            raise UsageError(f"operations are about connections in rows below {self._table.capacity}")
        kinds = records["type"]
        cuts = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(records)]
        for first, last in pairwise(cuts):
            if first < last:
                self._dispatch_run(records[first:last], int(kinds[first]), flush)

    def _dispatch_run(self, records: np.ndarray, kind: int, flush: Callable[[], None]) -> None:
        """Operations of one type; a connection that comes twice is served twice, in order."""
        for part in _distinct(records):
            mine = part.copy()
            mine["error"] = 0
            if kind == ADD:
                telling.meet(self._known, mine)
                mine["error"] = self._add(mine)
            elif kind == EST:
                mine["error"] = self._answered(mine)
            elif kind == DEL:
                mine["error"] = self._end(mine)
            elif kind == UPD:
                mine["last_used_ms"] = self._last_uses(mine)
                mine["error"] = np.where(mine["last_used_ms"] == 0, errno.ENODATA, 0)
            elif kind == POLICY:
                mine["error"] = self._policy(mine)
            elif kind == FLUSH:
                flush()
            else:
                mine["error"] = errno.EINVAL
            part["error"] = mine["error"]
            part["last_used_ms"] = mine["last_used_ms"]

    # --- the life of a connection -------------------------------------------------------------------------------------

    def _add(self, records: np.ndarray) -> np.ndarray:
        """Offer new connections to all; returns the first error of any for each."""
        first_error = np.zeros(len(records), np.int32)
        for attachment in self._working():
            error = self._offer(attachment, records)
            first_error = np.where(first_error == 0, error, first_error)
        return first_error

    def _offer(self, attachment: Attachment, records: np.ndarray, answered: int = 0) -> np.ndarray:
        """ADD at one provider. `answered`: ANSWERED when EST is to follow."""
        telling.offer(attachment.told, records, A.ADDING | answered)
        n_taken, error = self._submit(attachment, records)
        attachment.state[records["row"][n_taken:]] = 0
        return error

    def _answered(self, records: np.ndarray) -> np.ndarray:
        """A reply packet was seen: EST for those that have the connection, ADD before it where that is still owed."""
        self._meet_strangers(records)
        first_error = np.zeros(len(records), np.int32)
        for attachment in self._working():
            error = np.zeros(len(records), np.int32)
            owed, ready = self._note_replies(attachment, records)
            if len(owed):
                add = records[owed]
                add["type"] = ADD
                add["in_port"] = self._table.in_ports(add["row"])
                self._offer(attachment, add, A.ANSWERED)
            if len(ready):
                error[ready] = self._establish(attachment, _some(records, ready))
            first_error = np.where(first_error == 0, error, first_error)
        return first_error

    def _meet_strangers(self, records: np.ndarray) -> None:
        """Connections that are older than the framework's interest in them."""
        places = np.empty(len(records), np.int64)
        places = places[: telling.find_strangers(self._known, records, places)]
        if len(places):
            strangers = records[places]
            telling.meet(self._known, strangers)
            for attachment in self.attachments.values():
                attachment.state[strangers["row"]] = 0
                attachment.reason[strangers["row"]] = R.NOT_TOLD

    def _note_replies(self, attachment: Attachment, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places, int64 (m,), of those for which ADD is owed to one provider, and of those for which EST is due."""
        lists = np.empty((2, len(records)), np.int64)
        n_owed, n_ready = telling.note_replies(attachment.told, records, int(attachment.takes_established), lists)
        return lists[0, :n_owed], lists[1, :n_ready]

    def _establish(self, attachment: Attachment, records: np.ndarray) -> np.ndarray:
        """EST at one provider, for which it is due."""
        n_taken, error = self._submit(attachment, records)
        attachment.state[records["row"][n_taken:]] &= 0xFF & ~A.ESTABLISHING
        return error

    def _end(self, records: np.ndarray) -> np.ndarray:
        """DEL at all; nobody knows these connections any more."""
        rows = records["row"]
        first_error = np.zeros(len(records), np.int32)
        known = self._known
        current = (known.alive[rows] == 0) | (known.generation[rows] == records["generation"])
        for attachment in self._working():
            has_it = current & (attachment.state[rows] != 0)
            attachment.state[rows[current]] = 0
            attachment.reason[rows[current]] = R.NONE
            error = np.zeros(len(records), np.int32)
            for group, must in ((has_it, True), (~has_it, False)):
                if group.any():
                    error[group] = self._submit(attachment, pick(records, group), must=must)[1]
            first_error = np.where(first_error == 0, error, first_error)
        known.alive[rows[current]] = 0
        if self.installer is not None:
            current &= ~self.installer.holds(rows)  # its withdrawal waits for an answer
        self.holder[rows[current]] = 0
        return first_error

    def _policy(self, records: np.ndarray) -> np.ndarray:
        """POLICY at those that answer at once."""
        wanted = np.zeros(len(records), bool)
        for attachment in self._working():
            if isinstance(attachment.runner, Inline):
                wanted |= self._call(attachment, records).error == 0
        return np.where(wanted, 0, errno.EPERM)

    def switch_off(self, attachment: Attachment) -> None:
        """Flush, and forget what the provider had. The rows that it held are the tracker's own again."""
        if self.installer is not None:
            self.installer.abandon(attachment)
        attachment.is_on = False
        known = np.flatnonzero(attachment.state)
        held = np.flatnonzero(self.holder == attachment.number)
        if self.installer is not None:
            held = held[~self.installer.holds(held)]
        attachment.restart()
        self._release(held)
        self._publish(known)
        if attachment.takes_flush:
            flush = np.zeros(1, OPERATION)
            flush["type"] = FLUSH
            flush["now_ms"] = self.now_ms
            self._submit(attachment, flush, must=True)

    # --- the last use -------------------------------------------------------------------------------------------------

    def _last_uses(self, records: np.ndarray) -> np.ndarray:
        """UPD at those that have the connections and answer at once: the first that is told, int64 (n,), 0: none."""
        found = np.zeros(len(records), np.int64)
        for attachment in self._working():
            has_it = attachment.state[records["row"]] & A.TAKEN != 0
            asked = has_it & (found == 0)
            if not attachment.takes_update or isinstance(attachment.runner, Worker) or not asked.any():
                continue
            outcome = self._call(attachment, pick(records, asked))
            found[asked] = np.where(outcome.error == 0, outcome.last_used_ms, 0)
            attachment.counters["updated"] += int((outcome.error == 0).sum())
            attachment.counters["errors"] += _n_failed(outcome)
        return found

    def _ask_last_use(self, records: np.ndarray) -> None:
        """Connections are due to expire: let those live on whose provider says so."""
        if self.installer is not None:
            forwarded = self.installer.holds(records["row"])
            if forwarded.any():
                self.installer.accounting.ask_last_use(records[forwarded])
                records = records[~forwarded]
        found = self._last_uses(records)
        waits = np.zeros(len(records), bool)
        for attachment in self._working():
            if attachment.takes_update and isinstance(attachment.runner, Worker):
                mine = (found == 0) & (self.holder[records["row"]] == attachment.number)
                if mine.any():
                    waits[mine] = self._ask_later(attachment, records[mine])
        self._answer_due(pick(records, ~waits), found[~waits])

    def _ask_later(self, attachment: Attachment, records: np.ndarray) -> np.ndarray:
        """UPD at a worker's provider. Returns for which connections an answer is worth waiting for, bool (n,)."""
        rows = records["row"]
        attachment.asks[rows] = np.minimum(attachment.asks[rows], MAX_UNANSWERED) + 1
        patient: np.ndarray = attachment.asks[rows] <= MAX_UNANSWERED
        asked = patient & (attachment.state[rows] & A.UPDATING == 0)
        if asked.any():
            attachment.state[rows[asked]] |= A.UPDATING
            n_taken, _ = self._submit(attachment, records[asked])
            attachment.state[rows[asked][n_taken:]] &= 0xFF & ~A.UPDATING
        return patient

    def _answer_due(self, records: np.ndarray, last_used_ms: np.ndarray) -> None:
        if len(records):
            identity = records["row"].astype(np.int64), records["generation"].astype(np.int64)
            self._table.answer_due(*identity, last_used_ms, records["now_ms"])

    # --- calls and answers --------------------------------------------------------------------------------------------

    def call(self, attachment: Attachment, call: Call, *, must: bool = False) -> bool:
        """Have a forwarder's method called; see `caller.Caller`."""
        before, self.is_calling = self.is_calling, True
        try:
            is_taken, answer = attachment.runner.call(call, must=must)
        finally:
            self.is_calling = before
        if answer is not None:
            self._put_aside_if_slow(attachment)
            self._on_answer(attachment, answer)
        return is_taken

    def _call(self, attachment: Attachment, records: np.ndarray) -> Outcome:
        """Have an inline provider answer now."""
        self.is_calling = True
        try:
            outcome = attachment.runner.submit(records, attachment.epoch).outcome
        finally:
            self.is_calling = False
        assert outcome is not None
        self._put_aside_if_slow(attachment)
        return outcome

    def _submit(self, attachment: Attachment, records: np.ndarray, *, must: bool = False) -> tuple[int, np.ndarray]:
        """Give operations of one type to a provider, and take the answers if they are there.

        Returns how many were taken, the first ones, and errors, int32 (n,): ENOBUFS for the rest, which found the queue
        full; what waits is 0.
        """
        self.is_calling = True
        try:
            n_taken, outcome = attachment.runner.submit(records, attachment.epoch, must=must)
        finally:
            self.is_calling = False
        if outcome is not None:
            self._put_aside_if_slow(attachment)
            self._apply(attachment, outcome)
            return n_taken, outcome.error
        error = np.zeros(len(records), np.int32)
        if n_taken < len(records):
            error[n_taken:] = errno.ENOBUFS
            self._queue_full(attachment, records[n_taken:])
        return n_taken, error

    def _put_aside_if_slow(self, attachment: Attachment) -> None:
        runner = attachment.runner
        if not isinstance(runner, Inline) or not runner.is_slow:
            return
        if getattr(attachment.provider, "packet_thread_only", False):
            _log.warning("provider %s blocked the packet thread, where it has to stay", attachment.name)
            runner.is_slow = False
        else:
            _log.warning("provider %s blocked the packet thread; from now on it has a worker thread", attachment.name)
            attachment.runner = Worker(attachment.provider, self._devices)

    def _queue_full(self, attachment: Attachment, records: np.ndarray) -> None:
        kind = int(records["type"][0])
        attachment.counters["queue-full"] += len(records)
        if kind == DEL:
            attachment.counters["deletes-dropped"] += len(records)
        elif kind in (ADD, EST):
            attachment.refuse_all(records["row"], R.QUEUE_FULL)
            self._watch(records["row"])

    def _apply(self, attachment: Attachment, outcome: Outcome) -> None:
        """Take a provider's answers about operations of one type."""
        kind = int(outcome.records["type"][0])
        if kind in (DEL, FLUSH):
            attachment.counters["deleted" if kind == DEL else "flushed"] += int((outcome.error == 0).sum())
            attachment.counters["errors"] += _n_failed(outcome)
            return
        if outcome.epoch != attachment.epoch:
            attachment.counters["late"] += len(outcome.records)
        else:
            {ADD: self._added, EST: self._established, UPD: self._updated}[kind](attachment, outcome)

    def _added(self, attachment: Attachment, outcome: Outcome) -> None:
        records, lists = outcome.records, np.empty((3, len(outcome.records)), np.int64)
        found = telling.take_added(self._known, attachment.told, records, outcome.error, lists)
        n_taken, n_refused, n_again, n_late = map(int, found)  # plain kernels count in numpy's
        attachment.counters["added"] += n_taken
        attachment.counters["late"] += n_late
        if n_refused:
            refused = lists[1, :n_refused]
            attachment.counters["refused"] += n_refused
            attachment.refuse(records["row"][refused], outcome.reason[refused])
        self._publish(lists[0, :n_taken])
        if n_again:
            self._go_on(attachment, records[lists[2, :n_again]])

    def _go_on(self, attachment: Attachment, records: np.ndarray) -> None:
        """Connections that were answered before the provider took them."""
        records["type"] = EST
        records["in_port"] = attachment.reply_port[records["row"]]
        records["now_ms"] = np.maximum(records["now_ms"], self.now_ms)
        _, ready = self._note_replies(attachment, records)
        if len(ready):
            self._establish(attachment, _some(records, ready))

    def _established(self, attachment: Attachment, outcome: Outcome) -> None:
        records, lists = outcome.records, np.empty((2, len(outcome.records)), np.int64)
        reason = R.PATH_UNKNOWN if attachment.installs else R.NONE
        found = telling.take_established(self._known, attachment.told, records, outcome.error, reason, lists)
        n_agreed, n_later, n_late = map(int, found)
        attachment.counters["established"] += n_agreed
        attachment.counters["late"] += n_late
        done = lists[0, :n_agreed]
        if attachment.forwards:
            free = done[self.holder[done] == 0]
            self.holder[free] = attachment.number
            self._table.hold(*self._identity(free))
        self._publish(done)
        if n_later:
            self._ask_again(attachment, outcome, lists[1, :n_later])

    def _ask_again(self, attachment: Attachment, outcome: Outcome, later: np.ndarray) -> None:
        """The provider does not agree yet to the connections in these places, int64 (m,)."""
        rows, error = outcome.records["row"][later], outcome.error[later]
        attachment.counters["not-now"] += len(later)
        reasons = np.where(error == errno.EAGAIN, R.NOT_READY, outcome.reason[later])
        attachment.refuse(rows, reasons.astype(np.uint16))
        attachment.asks[rows] += 1
        self._watch(rows[attachment.asks[rows] < A.MAX_ASKS])

    def _updated(self, attachment: Attachment, outcome: Outcome) -> None:
        """Answers of a worker; inline providers answer in `_last_uses`."""
        known, rows = self._known, outcome.records["row"]
        current = (known.alive[rows] != 0) & (known.generation[rows] == outcome.records["generation"])
        attachment.counters["late"] += int((~current).sum())
        outcome, rows = outcome.only(current), rows[current]
        attachment.state[rows] &= 0xFF & ~A.UPDATING
        attachment.asks[rows] = 0
        attachment.counters["updated"] += int((outcome.error == 0).sum())
        attachment.counters["errors"] += _n_failed(outcome)
        self._answer_due(outcome.records, np.where(outcome.error == 0, outcome.last_used_ms, 0))

    # --- marks --------------------------------------------------------------------------------------------------------

    def _identity(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows.astype(np.int64, copy=False), self._known.generation[rows].astype(np.int64)

    def _watch(self, rows: np.ndarray) -> None:
        if len(rows):
            self._table.watch_replies(*self._identity(rows))

    def _release(self, rows: np.ndarray) -> None:
        self.holder[rows] = 0
        if len(rows):
            self._table.release(*self._identity(rows))

    def publish(self, rows: np.ndarray, generations: np.ndarray) -> None:
        """Write the highest mark of each connection, and who forwards it, into the tracker's private slot."""
        if self.slot is None or len(rows) == 0:
            return
        values = self.holder[rows].astype(np.int64) << 8
        for attachment in self._working():
            telling.raise_marks(attachment.told, rows, values)
        self._table.set_slots(self.slot, rows, generations, values)

    def _publish(self, rows: np.ndarray) -> None:
        self.publish(*self._identity(rows))


def _operations(events: np.ndarray, type_: int, *, with_port: bool) -> np.ndarray:
    """OPERATION (n,) of one type about the connections of tracker events, EVENT (n,)."""
    records = np.zeros(len(events), OPERATION)
    telling.write_operations(events, type_, int(with_port), records)
    return records


def _some(records: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Records in these places, int64 (m,) in order; the array itself when that is all."""
    return records if len(places) == len(records) else pick(records, places)


def _n_failed(outcome: Outcome) -> int:
    """Answers that are errors, rather than saying that nothing is known or done."""
    if not outcome.error.any():
        return 0
    harmless = np.isin(outcome.error, (0, errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT))
    return int((~harmless).sum())


def _distinct(records: np.ndarray) -> Iterator[np.ndarray]:
    """Slices of records, in order, in which no row comes twice."""
    if len(np.unique(records["row"])) == len(records):
        yield records
        return
    first, seen = 0, set[int]()
    for place, row in enumerate(records["row"].tolist()):
        if row in seen:
            yield records[first:place]
            first, seen = place, set()
        seen.add(row)
    yield records[first:]

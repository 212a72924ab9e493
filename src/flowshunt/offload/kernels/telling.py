"""The tracker's events become operations, and providers' answers to those become states of their attachments.

Rows of the records of one call differ. What is to be done about some of them comes out as lists of places, int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.schema import (
    EVENT,
    EVENT_CREATED,
    EVENT_DESTROYED,
    EVENT_DUE,
    EVENT_LABEL,
    EVENT_MARK,
    EVENT_REPLY,
    EVENT_STATE,
)
from flowshunt.jit import by_reference, kernel
from flowshunt.offload import attachment as A
from flowshunt.offload import reasons as R
from flowshunt.offload.batch import OPERATION
from flowshunt.offload.kernels.book import example_rows
from flowshunt.offload.kernels.schema import make_book, make_known, make_told


def _example_events() -> np.ndarray:
    events = np.zeros(0, EVENT)
    events.flags.writeable = False  # as observers get them
    return events


def _example_records() -> np.ndarray:
    return np.zeros(0, OPERATION)


def _example_lists() -> np.ndarray:
    return np.zeros((0, 0), np.int64)


# --- events ----------------------------------------------------------------------------------------------------------


@kernel(example=lambda: (make_book(1), _example_events(), example_rows()))
def find_concerned(b: Any, events: Any, places: Any) -> Any:
    """Note changes of marks and labels, and find the events that a path or a flow may end with. Returns how many."""
    b = by_reference(b)
    m = np.int64(0)
    for i in range(len(events)):
        kind, row = np.int64(events["kind"][i]), np.int64(events["row"][i])
        is_change = kind == EVENT_MARK or kind == EVENT_LABEL
        if is_change:
            b.changed["turn"][row] = b.state["turn"][0]
            b.changed["time_ms"][row] = events["time_ms"][i]
        ends = is_change or kind == EVENT_STATE or kind == EVENT_DESTROYED
        if ends and (b.owner[row] != 0 or b.flags[row] != 0):
            places[m] = i
            m += 1
    return m


@kernel(example=lambda: (_example_events(),))
def count_kinds(events: Any) -> Any:
    """How many events are created, reply, due, destroyed, and others; whether a creation comes behind an end."""
    n_created, n_replies, n_due, n_destroyed = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    begins_again = False
    for i in range(len(events)):
        kind = np.int64(events["kind"][i])
        n_created += np.int64(kind == EVENT_CREATED)
        n_replies += np.int64(kind == EVENT_REPLY)
        n_due += np.int64(kind == EVENT_DUE)
        n_destroyed += np.int64(kind == EVENT_DESTROYED)
        begins_again = begins_again or (kind == EVENT_CREATED and n_destroyed != 0)
    n_others = len(events) - n_created - n_replies - n_due - n_destroyed
    return n_created, n_replies, n_due, n_destroyed, n_others, np.int64(begins_again)


@kernel(example=lambda: (make_known(1), _example_events(), np.zeros(0, np.bool_)))
def find_last(k: Any, events: Any, last: Any) -> Any:
    """Write which events, bool (n,), are the last of their row. Returns how many."""
    k = by_reference(k)
    for i in range(len(events)):
        k.scratch[np.int64(events["row"][i])] = i
    m = np.int64(0)
    for i in range(len(events)):
        last[i] = k.scratch[np.int64(events["row"][i])] == i
        m += np.int64(last[i])
    return m


@kernel(example=lambda: (_example_events(), 0, 0, _example_records()))
def write_operations(events: Any, type_: Any, with_port: Any, records: Any) -> Any:
    """Fill in OPERATION (n,), zeros, about the connections of EVENT (n,)."""
    for i in range(len(events)):
        records["type"][i] = type_
        records["now_ms"][i] = events["time_ms"][i]
        for half in range(2):
            records["source"][i, half] = events["source"][i, half]
            records["destination"][i, half] = events["destination"][i, half]
        records["tuple"][i] = events["tuple"][i]
        records["row"][i] = events["row"][i]
        records["generation"][i] = events["generation"][i]
        if with_port:
            records["in_port"][i] = events["in_port"][i]


# --- telling ---------------------------------------------------------------------------------------------------------


@kernel(example=lambda: (make_known(1), _example_records()))
def meet(k: Any, records: Any) -> Any:
    """From now on events are about these connections."""
    k = by_reference(k)
    for i in range(len(records)):
        row = np.int64(records["row"][i])
        k.alive[row] = 1
        k.generation[row] = records["generation"][i]


@kernel(example=lambda: (make_known(1), _example_records(), example_rows()))
def find_strangers(k: Any, records: Any, places: Any) -> Any:
    """Find those that events were not about before. Returns how many."""
    k = by_reference(k)
    m = np.int64(0)
    for i in range(len(records)):
        row = np.int64(records["row"][i])
        if k.alive[row] == 0 or k.generation[row] != records["generation"][i]:
            places[m] = i
            m += 1
    return m


@kernel(example=lambda: (make_told(1), _example_records(), 0))
def offer(a: Any, records: Any, state: Any) -> Any:
    """New connections are about to be told; `state`: what they are in meanwhile."""
    a = by_reference(a)
    for i in range(len(records)):
        row = np.int64(records["row"][i])
        a.state[row] = state
        a.reason[row] = R.NONE
        a.asks[row] = 0


@kernel(example=lambda: (make_told(1), _example_records(), 0, _example_lists()))
def note_replies(a: Any, records: Any, establishes: Any, lists: Any) -> Any:
    """Replies were seen of these: they are ANSWERED, where ADD waits for its answer.

    `lists`, int64 (2, n): places of those where ADD must come before EST, and, if the provider `establishes` at all, of
    those that it has and has not agreed to yet, which are ESTABLISHING from now on. Returns how many of each.
    """
    a = by_reference(a)
    n_owed, n_ready = np.int64(0), np.int64(0)
    for i in range(len(records)):
        row = np.int64(records["row"][i])
        state, reason = np.int64(a.state[row]), np.int64(a.reason[row])
        if state & A.ADDING:
            a.state[row] = state | A.ANSWERED
            a.reply_port[row] = records["in_port"][i]
        elif state == 0 and (reason == R.QUEUE_FULL or reason == R.NOT_TOLD or reason == R.NONE):
            a.reply_port[row] = records["in_port"][i]
            lists[0, n_owed] = i
            n_owed += 1
        elif establishes and state & (A.TAKEN | A.ESTABLISHED | A.ESTABLISHING) == A.TAKEN:
            a.state[row] = state | A.ESTABLISHING
            lists[1, n_ready] = i
            n_ready += 1
    return n_owed, n_ready


# --- answers ---------------------------------------------------------------------------------------------------------


@kernel
def _is_current(k: Any, records: Any, i: Any) -> Any:
    row = np.int64(records["row"][i])
    return k.alive[row] != 0 and k.generation[row] == records["generation"][i]


@kernel(example=lambda: (make_known(1), make_told(1), _example_records(), np.zeros(0, np.int32), _example_lists()))
def take_added(k: Any, a: Any, records: Any, errors: Any, lists: Any) -> Any:
    """ADD was answered, errors int32 (n,). Answers about connections that have ended are late.

    `lists`, int64 (3, n): rows that were taken, places of those refused, places of those whose EST is owed. Returns how
    many of each, and how many are late.
    """
    k = by_reference(k)
    a = by_reference(a)
    n_taken, n_refused, n_owed, n_late = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for i in range(len(records)):
        row = np.int64(records["row"][i])
        if not _is_current(k, records, i):
            n_late += 1
        elif errors[i]:
            a.state[row] = 0
            lists[1, n_refused] = i
            n_refused += 1
        else:
            if a.state[row] & A.ANSWERED:
                lists[2, n_owed] = i
                n_owed += 1
            a.state[row] = A.TAKEN
            lists[0, n_taken] = row
            n_taken += 1
    return n_taken, n_refused, n_owed, n_late


@kernel(example=lambda: (make_known(1), make_told(1), _example_records(), np.zeros(0, np.int32), 0, _example_lists()))
def take_established(k: Any, a: Any, records: Any, errors: Any, reason: Any, lists: Any) -> Any:
    """EST was answered, errors int32 (n,). Answers about connections that have ended are late.

    `lists`, int64 (2, n): rows that were agreed to, which get this reason, and places of the others. Returns how many
    of each, and how many are late.
    """
    k = by_reference(k)
    a = by_reference(a)
    n_agreed, n_later, n_late = np.int64(0), np.int64(0), np.int64(0)
    for i in range(len(records)):
        row = np.int64(records["row"][i])
        if not _is_current(k, records, i):
            n_late += 1
            continue
        state = np.int64(a.state[row]) & ~A.ESTABLISHING
        if errors[i]:
            lists[1, n_later] = i
            n_later += 1
        else:
            state |= A.ESTABLISHED
            a.asks[row] = 0
            a.reason[row] = reason
            lists[0, n_agreed] = row
            n_agreed += 1
        a.state[row] = state
    return n_agreed, n_later, n_late


@kernel(example=lambda: (make_told(1), example_rows(), example_rows()))
def raise_marks(a: Any, rows: Any, marks: Any) -> Any:
    """Raise `marks`, int64 (n,), whose low 8 bits are MARK_*, to what a provider makes of connections, int64 (n,)."""
    a = by_reference(a)
    for i in range(len(rows)):
        state = np.int64(a.state[rows[i]])
        mark = A.MARK_ESTABLISHED if state & A.ESTABLISHED else A.MARK_ADDED if state & A.TAKEN else A.MARK_NONE
        if mark > marks[i] & 0xFF:
            marks[i] = marks[i] & ~0xFF | mark

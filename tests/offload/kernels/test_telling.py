"""Events become operations, and answers become states, against the same one by one."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.conntrack import schema as C
from flowshunt.offload import attachment as A
from flowshunt.offload import reasons as R
from flowshunt.offload.answers import answer
from flowshunt.offload.batch import ADD, DEL, EST, FLUSH, OPERATION, POLICY, UPD, Batch
from flowshunt.offload.kernels import telling
from flowshunt.offload.kernels.schema import KnownArrays, ToldArrays, make_known, make_told
from flowshunt.packet.schema import PROTO_SCTP, PROTO_TCP, PROTO_UDP
from tests.offload.test_order import drained, event

ROWS = 8

states = st.sampled_from(
    [0, A.TAKEN, A.TAKEN | A.ESTABLISHED, A.TAKEN | A.ESTABLISHING, A.ADDING, A.ADDING | A.ANSWERED]
)
reasons = st.sampled_from([R.NONE, R.QUEUE_FULL, R.NOT_TOLD, R.DECLINED])
connections = st.lists(st.tuples(states, reasons, st.booleans(), st.booleans()), min_size=1, max_size=ROWS)
"""By row: state, reason, whether it is the one that events are about, and whether the provider refuses."""


def situation(drawn: list[Any]) -> tuple[KnownArrays, ToldArrays, np.ndarray, np.ndarray]:
    known, told, records = make_known(ROWS), make_told(ROWS), np.zeros(len(drawn), OPERATION)
    for row, (state, reason, is_current, _) in enumerate(drawn):
        known.alive[row], known.generation[row] = row % 4 != 3, 5
        told.state[row], told.reason[row], told.asks[row] = state, reason, 9
        records["row"][row], records["generation"][row], records["in_port"][row] = row, 5 if is_current else 4, 40 + row
    return known, told, records, np.array([errno.EPERM if refuses else 0 for *_, refuses in drawn], np.int32)


def parts(lists: np.ndarray, counts: tuple[int, ...]) -> list[list[int]]:
    return [places[:n].tolist() for places, n in zip(lists, counts, strict=False)]


@given(connections)
def test_answers_to_add(drawn: list[Any]) -> None:
    known, told, records, errors = situation(drawn)
    lists = np.zeros((3, len(drawn)), np.int64)
    counts = telling.take_added(known, told, records, errors, lists)
    taken, refused, owed, late = [], [], [], 0
    for row, (state, reason, is_current, refuses) in enumerate(drawn):
        if row % 4 == 3 or not is_current:
            late += 1
            assert told.state[row] == state
        elif refuses:
            refused.append(row)
            assert told.state[row] == 0
        else:
            taken.append(row)
            assert told.state[row] == A.TAKEN
            if state & A.ANSWERED:
                owed.append(row)
        assert told.reason[row] == reason
    assert (parts(lists, counts), counts[3]) == ([taken, refused, owed], late)


@given(connections)
def test_answers_to_established(drawn: list[Any]) -> None:
    known, told, records, errors = situation(drawn)
    lists = np.zeros((2, len(drawn)), np.int64)
    counts = telling.take_established(known, told, records, errors, R.PATH_UNKNOWN, lists)
    agreed, later, late = [], [], 0
    for row, (state, reason, is_current, refuses) in enumerate(drawn):
        waits_no_more = state & ~A.ESTABLISHING
        if row % 4 == 3 or not is_current:
            late += 1
            expected = (state, reason, 9)
        elif refuses:
            later.append(row)
            expected = (waits_no_more, reason, 9)
        else:
            agreed.append(row)
            expected = (waits_no_more | A.ESTABLISHED, R.PATH_UNKNOWN, 0)
        assert (told.state[row], told.reason[row], told.asks[row]) == expected
    assert (parts(lists, counts), counts[2]) == ([agreed, later], late)


@given(connections, st.booleans())
def test_replies(drawn: list[Any], establishes: bool) -> None:
    _, told, records, _ = situation(drawn)
    lists = np.zeros((2, len(drawn)), np.int64)
    counts = telling.note_replies(told, records, int(establishes), lists)
    owed, ready = [], []
    for row, (state, reason, _, _) in enumerate(drawn):
        expected, port = state, 0
        if state & A.ADDING:
            expected, port = state | A.ANSWERED, 40 + row
        elif state == 0 and reason != R.DECLINED:
            port = 40 + row
            owed.append(row)
        elif state == A.TAKEN and establishes:
            expected = A.TAKEN | A.ESTABLISHING
            ready.append(row)
        assert (told.state[row], told.reply_port[row]) == (expected, port)
    assert parts(lists, counts) == [owed, ready]


@given(st.lists(states, min_size=ROWS, max_size=ROWS), st.lists(states, min_size=ROWS, max_size=ROWS))
def test_the_mark_is_the_highest_of_all_providers(one: list[int], other: list[int]) -> None:
    marks = np.arange(ROWS) << 8  # who forwards it
    for given_states in (one, other):
        told = make_told(ROWS)
        told.state[:] = given_states
        telling.raise_marks(told, np.arange(ROWS), marks)
    for row, both in enumerate(zip(one, other, strict=True)):
        highest = max(2 if s & A.ESTABLISHED else 1 if s & A.TAKEN else 0 for s in both)
        assert marks[row] == row << 8 | highest


def test_who_is_met_is_a_stranger_no_more() -> None:
    known, records = make_known(ROWS), np.zeros(3, OPERATION)
    records["row"], records["generation"] = [1, 2, 3], [1, 7, 1]
    known.alive[1], known.generation[1] = 1, 1
    known.alive[2], known.generation[2] = 1, 6
    places = np.zeros(3, np.int64)
    assert places[: telling.find_strangers(known, records, places)].tolist() == [1, 2]
    telling.meet(known, records)
    assert telling.find_strangers(known, records, places) == 0


@given(st.lists(st.tuples(st.sampled_from(range(len(C.EVENT_KINDS))), st.integers(0, 3)), max_size=12))
def test_events_are_counted(drawn: list[tuple[int, int]]) -> None:
    events = drained([event(kind, row, 1, row) for kind, row in drawn])
    kinds = [kind for kind, _ in drawn]
    *counts, n_others, begins_again = telling.count_kinds(events)
    told = (C.EVENT_CREATED, C.EVENT_REPLY, C.EVENT_DUE, C.EVENT_DESTROYED)
    assert counts == [kinds.count(kind) for kind in told]
    assert n_others == len(kinds) - sum(counts)
    ends = kinds.index(C.EVENT_DESTROYED) if C.EVENT_DESTROYED in kinds else len(kinds)
    assert bool(begins_again) == (C.EVENT_CREATED in kinds[ends:])
    last = np.zeros(len(events), np.bool_)
    rows = [row for _, row in drawn]
    expected = [row not in rows[place + 1 :] for place, row in enumerate(rows)]
    assert telling.find_last(make_known(ROWS), events, last) == sum(expected)
    assert last.tolist() == expected


def test_an_operation_has_what_the_event_says() -> None:
    events = np.zeros(2, C.EVENT)
    events["time_ms"], events["row"], events["generation"], events["in_port"] = [5, 6], [1, 2], [3, 4], [7, 8]
    events["source"], events["destination"], events["tuple"] = [[1, 2], [3, 4]], [[5, 6], [7, 8]], [9, 10]
    events.flags.writeable = False
    for with_port in range(2):
        records = np.zeros(2, OPERATION)
        telling.write_operations(events, EST, with_port, records)
        for name in ("source", "destination", "tuple", "row", "generation"):
            assert records[name].tolist() == events[name].tolist()
        assert records["now_ms"].tolist() == [5, 6]
        assert records["in_port"].tolist() == ([7, 8] if with_port else [0, 0])
        assert records["type"].tolist() == [EST, EST]


def test_a_provider_that_forwards_tcp_and_udp_answers() -> None:
    kinds = (ADD, POLICY, EST, UPD, DEL, FLUSH, 77)
    for declines in (False, True):
        for protocol in (PROTO_TCP, PROTO_UDP, PROTO_SCTP):
            batch = Batch(np.zeros(len(kinds), OPERATION))
            batch.records["type"], batch.records["tuple"] = kinds, protocol << 8
            flushed, ended = answer(batch, declines=declines)
            assert (flushed, ended["type"].tolist()) == (True, [DEL])
            is_ours = protocol != PROTO_SCTP
            no, not_now = 0 if is_ours else errno.EOPNOTSUPP, errno.EPERM if declines and not is_ours else 0
            assert batch.records["error"].tolist() == [no, not_now, 0, errno.ENODATA, 0, 0, errno.EINVAL]
            reason = R.number_of("protocol")
            assert batch.records["reason"].tolist()[:2] == [reason if no else 0, reason if not_now else 0]

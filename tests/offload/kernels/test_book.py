"""What packets have shown, and what becomes of it, against a book of dictionaries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.conntrack.schema import EVENT_DESTROYED, EVENT_LABEL, EVENT_MARK, EVENT_REPLY
from flowshunt.datapath.paths.records import FLOW, LEARNED, UNFIT
from flowshunt.offload.book import BUSY, HELD, LEAVING, Book
from flowshunt.offload.kernels import offering, pairing
from flowshunt.offload.kernels.telling import find_concerned
from tests.offload.test_order import drained, event

ROWS = 6
LEADERS = 3
NUMBER = 3

Way = tuple[tuple[int, int], ...]
"""Rows and generations of the connections that a packet passed."""


@dataclass(frozen=True)
class Shown:
    """What one packet has shown. `path`: an output port, which is what paths differ in here."""

    way: Way
    d: int
    path: int
    epoch: int
    chain: int
    unfit: bool
    limit: int
    time_ms: int


@dataclass
class Entry:
    way: Way
    paths: dict[int, Shown] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)
    waits: set[int] = field(default_factory=set)
    held: bool = False
    leaving: bool = False

    @property
    def busy(self) -> bool:
        return self.held or self.leaving


class Plain:
    """The same as the kernels, one path after the other."""

    def __init__(self) -> None:
        self.turn = 1
        self.entries: dict[int, Entry] = {}
        self.changed: dict[int, tuple[int, int]] = {}

    def is_outdated(self, shown: Shown) -> bool:
        changes = (self.changed.get(row, (0, 0)) for row, _ in shown.way)
        return any(turn == self.turn and time_ms >= shown.time_ms for turn, time_ms in changes)

    def judge(self, batch: list[Shown]) -> list[int]:
        verdicts = [pairing.OUTDATED if self.is_outdated(shown) else 0 for shown in batch]
        last = {}
        for place, shown in enumerate(batch):
            leaving = shown.way[0][0] in self.entries and self.entries[shown.way[0][0]].leaving
            if not verdicts[place] and shown.limit and not leaving:
                last[shown.way[0][0], shown.d] = place
        for place in last.values():
            shown = batch[place]
            entry = self.entries.get(shown.way[0][0])
            verdicts[place] = pairing.TAKEN
            if entry is not None and entry.way != shown.way and entry.busy:
                verdicts[place] |= pairing.STRANGE
            if shown.unfit:
                verdicts[place] |= pairing.UNFIT
            elif entry is not None and entry.held and entry.way == shown.way:
                verdicts[place] |= pairing.OTHER_RULES * (entry.paths[shown.d].chain != shown.chain)
        return verdicts

    def note(self, batch: list[Shown], verdicts: list[int]) -> set[int]:
        noted = set()
        taken = [shown for shown, verdict in zip(batch, verdicts, strict=True) if verdict & pairing.TAKEN]
        for shown in sorted(taken, key=lambda shown: shown.d):
            leader = shown.way[0][0]
            entry = self.entries.get(leader)
            if entry is not None and entry.leaving:
                continue
            if entry is None or entry.way != shown.way:
                entry = Entry(shown.way)
            if shown.unfit:
                entry.paths.pop(shown.d, None)
                entry.waits.discard(shown.d)
            else:
                before = entry.paths.get(shown.d)
                if before is None or before.path != shown.path or not entry.held:
                    entry.waits.add(shown.d)
                entry.paths[shown.d], entry.turns[shown.d] = shown, self.turn
                noted.add(leader)
            if entry.paths:
                self.entries[leader] = entry
            else:
                self.entries.pop(leader, None)
        return noted

    def pair(self, leader: int) -> int:
        entry = self.entries.get(leader)
        if entry is None or len(entry.paths) < 2 or entry.paths[0].epoch != entry.paths[1].epoch:
            return 0
        told = min(entry.turns.values())
        if not entry.busy and any(self.changed.get(row, (0, 0))[0] > told for row, _ in entry.way):
            return pairing.CHANGED
        if len(entry.waits) == 2:
            return pairing.OFFER
        if entry.held:
            return pairing.WITHDRAW if entry.waits else pairing.RENEW
        return 0


def learned_of(batch: list[Shown]) -> np.ndarray:
    learned = np.zeros(len(batch), LEARNED)
    for record, shown in zip(learned, batch, strict=True):
        record["time_ms"], record["epoch"], record["chain"] = shown.time_ms, shown.epoch, shown.chain
        record["n_zones"] = len(shown.way)
        for zone, (row, generation) in enumerate(shown.way):
            record["rows"][zone], record["generations"][zone] = row, generation
        record["turned"] = (1 << len(shown.way)) - 1 if shown.d else 0
        record["unfit"] = UNFIT.index("controller") if shown.unfit else 0
        record["path"]["out_port"], record["ct_state"] = shown.path, 10 + shown.d
    return learned


leaders_and_others = st.integers(0, LEADERS - 1).flatmap(
    lambda leader: st.sampled_from([(leader,), (leader,), (leader, LEADERS), (leader, LEADERS, LEADERS + 1)])
)
ways = st.builds(
    lambda rows, generation: tuple((row, generation) for row in rows), leaders_and_others, st.sampled_from([1, 1, 1, 2])
)
packets = st.builds(
    Shown,
    way=ways,
    d=st.integers(0, 1),
    path=st.sampled_from([1, 1, 1, 2]),
    epoch=st.sampled_from([1] * 7 + [2]),
    chain=st.sampled_from([1, 1, 1, 2]),
    unfit=st.sampled_from([False] * 7 + [True]),
    limit=st.sampled_from([0] + [100] * 9),
    time_ms=st.integers(1, 3),
)
changes = st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(1, 3)), max_size=1)
exchanges = st.builds(
    lambda shown, both: [shown, replace(shown, d=1 - shown.d)] if both else [shown], packets, st.booleans()
)
batches = st.lists(exchanges, min_size=1, max_size=5).map(lambda parts: [shown for part in parts for shown in part])
steps = st.lists(st.tuples(changes, batches, st.integers(0, 8)), min_size=3, max_size=12)


def forget(book: Book, plain: Plain, leaders: Iterable[int]) -> None:
    gone = sorted(set(leaders))
    book.forget(np.array(gone, np.int64))
    for leader in gone:
        plain.entries.pop(leader, None)


def compare(book: Book, plain: Plain) -> None:
    for leader in range(LEADERS):
        entry, flags = plain.entries.get(leader), int(book.flags[leader])
        if entry is None:
            assert flags == 0
        else:
            assert [bool(flags & fit) for fit in (1, 2)] == [d in entry.paths for d in range(2)]
            assert [bool(flags & waits) for waits in (4, 8)] == [d in entry.waits for d in range(2)]
            assert (bool(flags & HELD), bool(flags & LEAVING)) == (entry.held, entry.leaving)
    assert book.n_waiting == sum(len(entry.waits) for entry in plain.entries.values())


def offer(book: Book, plain: Plain, holder: Any, leaders: np.ndarray, decision: int) -> None:
    """Of each flow that is offered: it is taken, refused, or taken and then left, by its row and `decision`."""
    clean = np.zeros(len(leaders), np.bool_)
    offering.find_clean(book.arrays, leaders, clean)
    for leader, is_clean in zip(leaders.tolist(), clean.tolist(), strict=True):
        rows = {row for row, _ in plain.entries[leader].way}
        busy = [entry for at, entry in plain.entries.items() if entry.busy and at != leader]
        later = [plain.entries[at] for at in leaders.tolist() if at > leader]
        assert is_clean == (not any(rows & {row for row, _ in other.way} for other in busy + later))
    leaders = leaders[clean]
    if len(leaders) == 0:
        return
    flows, limits = np.zeros(len(leaders), FLOW), np.arange(7, 7 + len(leaders))
    offering.write_flows(book.arrays, leaders, limits, 99, flows)
    for flow, leader in zip(flows, leaders.tolist(), strict=True):
        entry = plain.entries[leader]
        n = len(entry.way)
        assert flow["paths"]["out_port"].tolist() == [entry.paths[d].path for d in range(2)]
        assert list(zip(flow["rows"].tolist(), flow["generations"].tolist(), strict=True))[:n] == list(entry.way)
        assert (int(flow["n_zones"]), int(flow["epoch"])) == (n, entry.paths[0].epoch)
        assert (flow["ct_state"].tolist(), int(flow["now_ms"])) == ([10, 11], 99)
        entry.waits.clear()
    assert flows["max_idle_ms"].tolist() == limits.tolist()
    generations, verdicts = book.generations(leaders), np.zeros(len(leaders), np.uint8)
    offering.ask(book.arrays, holder, leaders, NUMBER)
    errors = ((leaders + decision) % 3 == 0).astype(np.int32)
    offering.take_answer(book.arrays, holder, leaders, generations, errors, NUMBER, verdicts)
    assert verdicts.tolist() == [offering.REFUSED if error else offering.TAKEN for error in errors]
    for leader, error in zip(leaders.tolist(), errors.tolist(), strict=True):
        members = book.members(np.array([leader]))
        assert members.rows.tolist() == [row for row, _ in plain.entries[leader].way]
        assert (book.owner[members.rows] == leader + 1).all() and (holder[members.rows] == NUMBER).all()
        if error and not plain.entries[leader].held:
            book.owner[members.rows] = 0
        plain.entries[leader].held |= not error
    refused = [at for at in leaders[errors != 0].tolist() if plain.entries[at].held]
    let_go(book, plain, refused)


def let_go(book: Book, plain: Plain, leaders: Iterable[int]) -> None:
    gone = sorted(set(leaders))
    book.owner[book.members(np.array(gone, np.int64)).rows] = 0
    forget(book, plain, gone)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_kernels_do_what_the_plain_book_does(history: list[Any]) -> None:
    book, plain, holder = Book(ROWS), Plain(), np.zeros(ROWS, np.uint8)
    for marked, batch, decision in history:
        change(book, plain, marked)
        learned, limits = learned_of(batch), np.array([shown.limit for shown in batch])
        verdicts = np.zeros(len(batch), np.uint8)
        found = pairing.judge(book.arrays, learned, limits, verdicts)
        assert verdicts.tolist() == plain.judge(batch)
        assert found == np.bitwise_or.reduce(verdicts)
        over = [shown.way[0][0] for shown, v in zip(batch, verdicts.tolist(), strict=True) if v & pairing.STRANGE]
        unfit = [shown.way[0][0] for shown, v in zip(batch, verdicts.tolist(), strict=True) if v & pairing.UNFIT]
        let_go(book, plain, [at for at in over + unfit if at in plain.entries and plain.entries[at].busy])
        leave(book, plain, decision)
        leaders = book.note(learned, limits, verdicts)
        assert set(leaders.tolist()) == plain.note(batch, [v & ~pairing.NOTED for v in verdicts.tolist()])
        assert leaders.tolist() == sorted(set(leaders.tolist()))
        compare(book, plain)
        verdicts = np.zeros(len(leaders), np.uint8)
        pairing.pair(book.arrays, leaders, verdicts)
        assert verdicts.tolist() == [plain.pair(leader) for leader in leaders.tolist()]
        forget(book, plain, leaders[verdicts == pairing.CHANGED].tolist())
        let_go(book, plain, leaders[verdicts == pairing.WITHDRAW].tolist())
        offer(book, plain, holder, leaders[verdicts == pairing.OFFER], decision)
        compare(book, plain)
        arrive(book, plain)
        book.begin_turn()
        plain.turn += 1


def change(book: Book, plain: Plain, marked: list[tuple[int, int]]) -> None:
    """Connections get another mark or label."""
    events = []
    for row, time_ms in marked:
        plain.changed[row] = plain.turn, time_ms
        events.append(event(EVENT_MARK if row % 2 else EVENT_LABEL, row, 1, row))
        events[-1]["time_ms"] = time_ms
    find_concerned(book.arrays, drained(events), np.zeros(len(events), np.int64))


def leave(book: Book, plain: Plain, leader: int) -> None:
    """A flow that is held is being withdrawn, and the answer takes time."""
    entry = plain.entries.get(leader)
    if entry is not None and entry.held:
        book.stop_waiting(np.array([leader]))
        entry.waits.clear()
        entry.paths.clear()
        book.flags[leader] = LEAVING
        entry.held, entry.leaving = False, True


def arrive(book: Book, plain: Plain) -> None:
    """What was being withdrawn is gone."""
    let_go(book, plain, [at for at, entry in plain.entries.items() if entry.leaving])


def test_an_answer_that_is_behind_a_newer_offer_does_not_count() -> None:
    book, holder = Book(ROWS), np.zeros(ROWS, np.uint8)
    batch = [Shown(((0, 1),), d, 1, 1, 1, False, 100, 1) for d in range(2)]
    verdicts, limits = np.zeros(2, np.uint8), np.full(2, 100)
    pairing.judge(book.arrays, learned_of(batch), limits, verdicts)
    leaders = book.note(learned_of(batch), limits, verdicts)
    generations, errors, found = book.generations(leaders), np.zeros(1, np.int32), np.zeros(1, np.uint8)
    for _ in range(2):
        offering.ask(book.arrays, holder, leaders, NUMBER)
    answers = [offering.take_answer(book.arrays, holder, leaders, generations, errors, NUMBER, found) for _ in range(3)]
    assert answers == [0, offering.TAKEN, 0]
    assert book.flags[0] & BUSY == HELD


def test_events_that_end_a_known_flow_are_found() -> None:
    book = Book(ROWS)
    book.owner[2], book.flags[3] = 1, 1
    kinds = [EVENT_REPLY, EVENT_MARK, EVENT_DESTROYED]
    events = drained([event(kind, row, 1, row) for row in (1, 2, 3) for kind in kinds])
    places = np.zeros(len(events), np.int64)
    n = find_concerned(book.arrays, events, places)
    assert places[:n].tolist() == [4, 5, 7, 8]


def test_the_shortest_limit_on_the_way_counts() -> None:
    limits = np.full(3, 30)
    offering.lower(limits, np.array([0, 1, 1, 2]), np.array([40, 20, 0, 30]))
    assert limits.tolist() == [30, 0, 30]

"""The rules of all tables, for Python: adding, changing, deleting, listing.

Every change costs what it touches: the mask's subtable is found in a dictionary, the rest is done by kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.memory import commit
from flowshunt.datapath import changes
from flowshunt.datapath import program as P
from flowshunt.datapath import schema as D
from flowshunt.datapath.feed import Feed, Mask, arranged, feeds_of, place_of
from flowshunt.datapath.freezing import instructions
from flowshunt.datapath.linking import Linker, Token
from flowshunt.datapath.listing import (
    ADDED,
    DELETED,
    EXPIRED_HARD,
    EXPIRED_IDLE,
    MODIFIED,
    ExpiredRule,
    FlowStatistics,
    Listing,
    TableStatistics,
)
from flowshunt.datapath.program import CompiledRule
from flowshunt.datapath.timers import Timers

MAX_PRIORITY = 0xFFFF
"""Rules of a higher priority are the switch's own: changes and deletions mean them only strictly."""

_ROOM_SIZE = 1 << 20
"""Bytes of memory that are made ready in one step."""

_Linked = tuple[list[int], list[Token]]
_NOTHING_LINKED: _Linked = ([], [])


class TablesFullError(UsageError):
    """There is no memory for another rule, mask or program."""


class OverlapError(UsageError):
    """A rule that asked for it overlaps with another one of its table and priority."""


class Rules:
    """The rules of one switch. `version` counts the changes of rules, of whatever kind.

    `on_change(what, rule, before, why)`, where it is set, hears of rules that came, went or changed (ADDED and
    so on): the rule as it is or was at the end, what the one before was compiled from (None: there was none), and why
    one went, EXPIRED_* or as given to `remove`.
    """

    def __init__(self) -> None:
        """No rules yet."""
        self.arrays = D.make_tables()
        self.arrays.pool[D.RUN_SET_PC] = P.OP_RUN_SET
        self._subtables: dict[tuple[int, Mask], int] = {}
        self._masks: dict[int, tuple[int, Mask]] = {}
        self._rules: dict[int, CompiledRule] = {}
        self._per_table = [0] * D.N_TABLES
        self._n_clauses = 0
        self._timers = Timers()
        self.linker = Linker(self.arrays)
        self._tokens: dict[int, list[Token]] = {}
        self._modified_ms: dict[int, int] = {}  # of rules that were changed since they came
        self.version = 0
        self.on_change: Callable[[str, CompiledRule, Any, str], None] | None = None

    def __len__(self) -> int:
        """Rules in all tables."""
        return len(self._rules)

    # --- adding ----------------------------------------------------------------------------------------------------

    def add(
        self,
        rules: Iterable[CompiledRule],
        now_ms: int = 0,
        replaced: list[CompiledRule] | None = None,
        *,
        refuses_overlaps: bool = True,
    ) -> int:
        """Add rules in order; one of equal table, match and priority is replaced and counts from zero.

        Returns how many; those that were replaced are added to `replaced`. Raises TablesFullError when memory for
        rules is used up, and OverlapError (not without `refuses_overlaps`); those before stay.
        """
        waiting: list[CompiledRule] = []
        n = 0
        for rule in rules:
            checks = rule.checks_overlap and refuses_overlaps
            if checks:
                n += self._add_all(waiting, now_ms, replaced)
                waiting = []
            if checks:
                self._refuse_overlap(rule)
            waiting.append(rule)
        return n + self._add_all(waiting, now_ms, replaced)

    def make_room(self, feeds: Sequence[Feed]) -> Iterator[None]:
        """Have memory ready for rules that will be added soon, a slice at each step, in any thread.

        New memory is the largest part of what it takes to add many rules.
        """
        state = self.arrays.state
        n, n_rules = sum(len(feed.rules) for feed in feeds), int(state["n_rules"][0])
        n_more = n - (n_rules - int(state["live_rules"][0]))
        if n_more <= 0:
            return
        n_words = sum(len(feed.words) for feed in feeds) * n_more // n
        for array, first, more in (
            (self.arrays.rules, n_rules, n_more), (self.arrays.pool, int(state["pool_used"][0]), n_words),
        ):  # fmt: skip
            step = _ROOM_SIZE // array.itemsize
            for start in range(first, first + more, step):
                commit(array, start, min(start + step, first + more))
                yield

    def _add_all(self, rules: Sequence[CompiledRule], now_ms: int, replaced: list[CompiledRule] | None) -> int:
        return sum(self.add_feed(feed, now_ms, replaced) for feed in feeds_of(rules))

    def _refuse_overlap(self, rule: CompiledRule) -> None:
        words = {word: (mask, value) for word, mask, value in rule.match}
        for other in self._rules.values():
            if (other.table, other.priority) != (rule.table, rule.priority) or other.match == rule.match:
                continue
            if all(
                not (value ^ words[word][1]) & mask & words[word][0]
                for word, mask, value in other.match
                if word in words
            ):
                raise OverlapError("a flow of the same priority overlaps", hint="give it another priority")

    def add_feed(self, feed: Feed, now_ms: int = 0, replaced: list[CompiledRule] | None = None) -> int:
        """`add` of rules that were made ready before, none of which is to be refused for overlapping."""
        linked = {} if feed.is_plain else self._link_all(feed.rules)
        try:
            return self._insert(feed, linked, now_ms, replaced)
        finally:
            self._unlink_all(linked)  # what is left there was not added

    def _insert(self, feed: Feed, linked: dict[int, _Linked], now_ms: int, replaced: list[CompiledRule] | None) -> int:
        fresh: list[int] = []
        subtables = [self._subtable(table, mask, fresh) for table, mask in feed.masks]
        words = feed.addressed(subtables, {index: program for index, (program, _) in linked.items()})
        n = len(feed.rules)
        self.version += 1
        results = np.zeros(n, np.int64)
        done = int(changes.insert_rules(self.arrays, words, 0, n, results, now_ms))
        if done == n and feed.is_plain and not self._n_clauses and self.on_change is None:
            self._note_all(feed, results, replaced)
        else:
            self._note_each(feed.rules, results[:done].tolist(), linked, replaced)
        if done < n:
            self._drop_unused(fresh)
            raise TablesFullError("the flow tables are full", hint="delete flows first")
        return done

    def _note_all(self, feed: Feed, results: np.ndarray, replaced: list[CompiledRule] | None) -> None:
        """`_note_each` of plain rules, in one go. One that came twice replaces what was there before both."""
        numbers = results & (changes.REPLACED - 1)
        was_there = results >= changes.REPLACED
        if not was_there.any():
            for table, added in feed.per_table.items():
                self._per_table[table] += added
        else:
            kept = feed.words[feed.heads + changes.FEED_HEADER - 1] & changes.KEEPS_COUNTERS != 0
            self.arrays.rules["generation"][numbers[was_there & ~kept]] += 1
            held = self.arrays.rules["subtable"][numbers[~was_there]]
            for table, added in enumerate(np.bincount(self.arrays.subtables["table"][held]).tolist()):
                self._per_table[table] += added
            self._forget_notes(places := numbers[was_there].tolist())
            if replaced is not None:
                replaced += filter(None, map(self._rules.get, places))
        self._rules.update(zip(numbers.tolist(), feed.rules, strict=True))

    def _forget_notes(self, numbers: Iterable[int]) -> None:
        """Forget what is only known of some rules: times, and what their programs have taken."""
        if self._timers or self._modified_ms or self._tokens:
            for number in numbers:
                self._timers.forget(number)
                self._modified_ms.pop(number, None)
                self._keep_tokens(number, [])

    def _note_each(
        self,
        rules: Sequence[CompiledRule],
        results: Sequence[int],
        linked: dict[int, _Linked],
        replaced: list[CompiledRule] | None,
    ) -> None:
        for index, (rule, result) in enumerate(zip(rules, results, strict=False)):
            number = result & (changes.REPLACED - 1)
            if linked or self._tokens:
                self._keep_tokens(number, linked.pop(index, _NOTHING_LINKED)[1])
            before = None
            if not result & changes.REPLACED:
                self._per_table[rule.table] += 1
                self._n_clauses += rule.is_clause
                if self._n_clauses:
                    before = self._retire_twin(number, rule)
            else:
                before = self._rules[number]
                if not rule.keeps_counters:
                    self._begin_generation(number)
            if before is not None and replaced is not None:
                replaced.append(before)
            self._rules[number] = rule
            self._note_times(number, rule)
            if self.on_change is not None:
                self.on_change(ADDED, rule, None if before is None else before.source, "")

    def _retire_twin(self, number: int, rule: CompiledRule) -> CompiledRule | None:
        """An equal rule that is a clause where the new one is none, or the other way round, goes in its favour."""
        twin = self._find_at(rule.table if rule.is_clause else rule.table + D.CLAUSES, rule)
        if twin is None:
            return None
        if rule.keeps_counters:
            for counter in ("packets", "bytes"):
                self.arrays.rules[counter][number] = self.arrays.rules[counter][twin]
        with self._unheard():
            return self.remove([twin])[0]

    @contextmanager
    def _unheard(self) -> Iterator[None]:
        """Changes that are parts of another one are not told."""
        on_change, self.on_change = self.on_change, None
        try:
            yield
        finally:
            self.on_change = on_change

    def _link_all(self, rules: Sequence[CompiledRule]) -> dict[int, _Linked]:
        """The programs that have numbers filled in, by place in `rules`; all of them or MissingError."""
        linked: dict[int, _Linked] = {}
        try:
            for index, rule in enumerate(rules):
                if rule.late:
                    linked[index] = self.linker.link(rule.program, rule.late)
        except UsageError:
            self._unlink_all(linked)
            raise
        return linked

    def _unlink_all(self, linked: Mapping[int, _Linked]) -> None:
        for _, tokens in linked.values():
            self.linker.unlink(tokens)

    def _begin_generation(self, number: int) -> None:
        """A rule counts from zero: what was forwarded elsewhere until now, and is told later, is not of its packets."""
        self.arrays.rules["generation"][number] += 1

    def _keep_tokens(self, number: int, tokens: list[Token]) -> None:
        """Remember what the program of a rule has taken, and give back what the one before had."""
        before = self._tokens.pop(number, None)
        if before:
            self.linker.unlink(before)
        if tokens:
            self._tokens[number] = tokens

    def _note_times(self, number: int, rule: CompiledRule) -> None:
        """Forget when the rule before in this place was changed, and note when this one is due."""
        if self._modified_ms:
            self._modified_ms.pop(number, None)
        self._watch(number, rule)

    def _watch(self, number: int, rule: CompiledRule) -> None:
        if rule.idle_ms or rule.hard_ms:
            self._timers.watch(number, self._deadline(number)[0])
        elif self._timers:
            self._timers.forget(number)

    def _subtable(self, table: int, mask: Mask, fresh: list[int]) -> int:
        """The subtable of a mask, made (and added to `fresh`) when there is none."""
        subtable = self._subtables.get((table, mask))
        if subtable is None:
            pairs = np.array([number for pair in mask for number in pair], np.int64)
            subtable = int(changes.add_subtable(self.arrays, table, pairs))
            if subtable < 0:
                self._drop_unused(fresh)
                raise TablesFullError("the flow tables hold too many masks", hint="delete flows first")
            self._subtables[table, mask] = subtable
            self._masks[subtable] = (table, mask)
            self._note_clauses(table)
            fresh.append(subtable)
        return subtable

    def _note_clauses(self, table: int) -> None:
        """Have lookups consider the clauses of a table, or not any more."""
        if table >= D.CLAUSES:
            tables = self.arrays.tables
            tables["has_clauses"][table - D.CLAUSES] = tables["n_subtables"][table] > 0

    def _forget_subtable(self, subtable: int) -> None:
        table, mask = self._masks.pop(subtable)
        del self._subtables[table, mask]
        self._note_clauses(table)

    def _drop_unused(self, fresh: Iterable[int]) -> None:
        for subtable in fresh:
            if changes.drop_subtable(self.arrays, subtable):
                self._forget_subtable(subtable)

    # --- finding ---------------------------------------------------------------------------------------------------

    def that_refer_to(self, things: Iterable[Any]) -> list[int]:
        """Numbers of the rules whose programs refer to one of these groups or meters."""
        wanted = set(things)
        return [number for number in self._tokens if any(late.thing in wanted for late in self._rules[number].late)]

    def find(self, rule: CompiledRule) -> int | None:
        """Number of the rule with exactly this table, match and priority."""
        found = self._find_at(rule.table, rule)
        return self._find_at(rule.table + D.CLAUSES, rule) if found is None and self._n_clauses else found

    def _find_at(self, table: int, rule: CompiledRule) -> int | None:
        mask, values = arranged(rule)
        subtable = self._subtables.get((table, mask))
        if subtable is None:
            return None
        found = int(changes.find_rule(self.arrays, subtable, rule.priority, np.array(values, np.int64)))
        return found if found >= 0 else None

    def find_all(self, feed: Feed) -> list[int | None]:
        """`find` of many rules, which were made ready before; their programs don't count."""
        if self._n_clauses:  # which an equal one may be of another kind
            return [self.find(rule) for rule in feed.rules]
        subtables = [self._subtables.get(each, -1) for each in feed.masks]
        found = np.zeros(len(feed.rules), np.int64)
        changes.find_rules(self.arrays, feed.addressed(subtables, {}), found)
        return [number if number >= 0 else None for number in found.tolist()]

    def select(self, rule: CompiledRule, *, strict: bool = False) -> list[int]:
        """Numbers of the rules that a change means, in its table or, when that is ALL_TABLES, in all.

        Strict: the one of equal match and priority. Otherwise all whose packets the match covers, whatever their
        priority (OpenFlow's non-strict selection), but for those of the switch itself (beyond MAX_PRIORITY).
        """
        tables = [rule.table]
        if rule.table == D.ALL_TABLES:
            tables = [table for table, n in enumerate(self._per_table) if n]
        if strict:
            numbers = (self.find(rule._replace(table=table)) for table in tables)
            return [number for number in numbers if number is not None]
        tables += [table + D.CLAUSES for table in tables if self.arrays.tables["has_clauses"][table]]
        triples = np.array([number for triple in rule.match for number in triple], np.int64)
        found = np.zeros(len(self._rules), np.int64)
        n = 0
        for table in tables:
            n = int(changes.select_rules(self.arrays, table, triples, n, found))
        selected = found[:n]
        return np.sort(selected[self.arrays.rules["priority"][selected] <= MAX_PRIORITY]).tolist()

    def has(self, number: int) -> bool:
        """Whether there is a rule of that number."""
        return number in self._rules

    def looking_at(self, bits: Mapping[int, int]) -> dict[int, list[int]]:
        """Numbers of the rules whose match looks at any of these bits (masks by word), by table."""
        found: dict[int, list[int]] = {}
        held = self.arrays.rules["subtable"][: int(self.arrays.state["n_rules"][0])]
        for subtable, (table, mask) in self._masks.items():
            if any(bits.get(word, 0) & part for word, part in mask):
                found.setdefault(table, []).extend(np.flatnonzero(held == subtable).tolist())
        return found

    # --- changing --------------------------------------------------------------------------------------------------

    def take_back(self, rules: Iterable[CompiledRule]) -> None:
        """Remove those of `rules` that are in the tables: these very ones, not equal ones of before or after."""
        going = {}
        for feed in feeds_of(list(rules)):
            for number, rule in zip(self.find_all(feed), feed.rules, strict=True):
                if number is not None and self._rules[number] is rule:
                    going[number] = True
        if going:
            self.remove(list(going))

    def remove(self, numbers: Sequence[int], why: str = "") -> list[CompiledRule]:
        """Remove rules by number; returns them."""
        if self.on_change is not None:
            for number in numbers:
                self.on_change(DELETED, self._rules[number], None, why)
        self.version += 1
        emptied = np.zeros(len(numbers), np.int64)
        changes.remove_rules(self.arrays, np.array(numbers, np.int64), emptied)
        for subtable in emptied[emptied >= 0].tolist():
            self._forget_subtable(subtable)
        removed = list(map(self._rules.pop, numbers))
        for table, n in Counter(map(attrgetter("table"), removed)).items():
            self._per_table[table] -= n
        if self._n_clauses:
            self._n_clauses -= sum(rule.is_clause for rule in removed)
        self._forget_notes(numbers)
        return removed

    def change(self, number: int, rule: CompiledRule, now_ms: int = 0, *, resets_counters: bool = False) -> None:
        """Give a rule the program, the source and the timeouts of another; match, priority and age stay.

        It counts from zero if `resets_counters` is set.

        Raises TablesFullError and MissingError, and changes nothing then.
        """
        if rule.is_clause != self._rules[number].is_clause:
            self._move(number, rule, now_ms, resets_counters)
            return
        words, tokens = self.linker.link(rule.program, rule.late)
        if not changes.set_program(self.arrays, number, np.array(words, np.int64)):
            self.linker.unlink(tokens)
            raise TablesFullError("the flow tables are full", hint="delete flows first")
        self.version += 1
        before = self._rules[number].source
        self._rules[number] = self._rules[number]._replace(
            program=rule.program,
            source=rule.source,
            idle_ms=rule.idle_ms,
            hard_ms=rule.hard_ms,
            late=rule.late,
        )
        self._modified_ms[number] = now_ms
        self._keep_tokens(number, tokens)
        if resets_counters:
            for counter in ("packets", "bytes"):
                self.arrays.rules[counter][number] = 0
            self._begin_generation(number)
        self._watch(number, rule)
        if self.on_change is not None:
            self.on_change(MODIFIED, self._rules[number], before, "")

    def _move(self, number: int, rule: CompiledRule, now_ms: int, resets_counters: bool) -> None:
        """Put a rule that becomes a clause, or is one no longer, in the place of the one before."""
        created, used = (int(self.arrays.rules[name][number]) for name in ("created_ms", "used_ms"))
        before = self._rules[number].source
        with self._unheard():
            self.add((rule._replace(keeps_counters=not resets_counters),), created, refuses_overlaps=False)
        moved = self._find_at(place_of(rule), rule)
        assert moved is not None
        self.arrays.rules["used_ms"][moved] = used
        self._modified_ms[moved] = now_ms
        self._watch(moved, rule)
        if self.on_change is not None:
            self.on_change(MODIFIED, rule, before, "")

    def store(self, words: Sequence[int]) -> int:
        """Keep a program of no rule in the pool; returns its offset. Raises TablesFullError."""
        at = int(changes.store_words(self.arrays, np.array(words, np.int64)))
        if not at:
            raise TablesFullError("the flow tables are full", hint="delete flows first")
        return at

    @contextmanager
    def stored(self, words: Sequence[int]) -> Iterator[int]:
        """A program of no rule in the pool while it is needed: its offset. Raises TablesFullError."""
        at = self.store(words)
        try:
            yield at
        finally:
            changes.free_words(self.arrays, at, len(words))

    def touch(self, number: int, now_ms: int) -> None:
        """Let the hard timeout of a rule begin anew."""
        self._modified_ms[number] = now_ms

    def retime(self, number: int, source: Any, idle_ms: int, hard_ms: int) -> None:
        """Give a rule other timeouts, and the source that says so; its age stays."""
        self._rules[number] = self._rules[number]._replace(source=source, idle_ms=idle_ms, hard_ms=hard_ms)
        self._watch(number, self._rules[number])

    # --- expiring --------------------------------------------------------------------------------------------------

    def _deadline(self, number: int) -> tuple[int, str]:
        """When a rule with timeouts is due, if nobody uses or changes it, and why."""
        rule, record = self._rules[number], self.arrays.rules[number]
        created = int(record["created_ms"])
        hard = self._modified_ms.get(number, created) + rule.hard_ms
        idle = int(record["used_ms"]) + rule.idle_ms
        if rule.hard_ms and (not rule.idle_ms or hard <= idle):
            return hard, EXPIRED_HARD
        return idle, EXPIRED_IDLE

    def expire(self, now_ms: int, most: int, synchronise: Callable[[], None] | None = None) -> list[ExpiredRule]:
        """Remove the rules whose time is up, looking at no more than `most`; returns them.

        `synchronise` is called before that when there are rules to look at: it may bring `used_ms` up to date. A rule
        that was added at time 0, when there was no clock yet, counts from the first call on.
        """
        due = self._timers.take_due(now_ms, most)
        if not due:
            return []
        if synchronise is not None:
            synchronise()
        gone: dict[int, str] = {}
        for number in due:
            record = self.arrays.rules[number]
            if not record["created_ms"]:
                record["created_ms"] = now_ms
                record["used_ms"] = max(int(record["used_ms"]), now_ms)
            when, reason = self._deadline(number)
            if when <= now_ms:
                gone[number] = reason
            else:
                self._timers.watch(number, when)
        expired = [ExpiredRule(self.statistics_of(number), reason) for number, reason in gone.items()]
        for reason in (EXPIRED_IDLE, EXPIRED_HARD):
            numbers = [number for number, why in gone.items() if why == reason]
            if numbers:
                self.remove(numbers, reason)
        return expired

    # --- listing ---------------------------------------------------------------------------------------------------

    def rule(self, number: int) -> CompiledRule:
        """A rule by number."""
        return self._rules[number]

    def rules(self, numbers: Iterable[int]) -> list[CompiledRule]:
        """Rules by number."""
        return list(map(self._rules.__getitem__, numbers))

    def numbers(self) -> list[int]:
        """Numbers of all rules, by table, then highest priority first."""
        return self.in_order(self._rules)

    def zones_read(self, number: int) -> list[int | None]:
        """Of each ct action that takes its zone from a field, in order: the zone of the last packet; None: none yet.

        Those within clones and groups are left out.
        """
        pool = self.arrays.pool
        places = (
            place + 1
            for op, place in instructions(pool, int(self.arrays.rules["program"][number]))
            if op == P.OP_CT and int(pool[place]) >> 8 & P.CT_ZONE_FIELD
        )
        words = [int(pool[place]) for place in places]
        return [word >> 32 & 0xFFFF if word & P.CT_ZONE_READ else None for word in words]

    def statistics_of(self, number: int) -> FlowStatistics:
        """One rule with its counters."""
        record = self.arrays.rules[number]
        return FlowStatistics(
            self._rules[number].source,
            int(record["packets"]),
            int(record["bytes"]),
            int(record["used_ms"]),
            int(record["created_ms"]),
            self._modified_ms.get(number) or int(record["created_ms"]),
        )

    def listing(self, numbers: Sequence[int] | None = None, is_wanted: Callable[[Any], bool] | None = None) -> Listing:
        """Some rules, or all, as they are now; of those the ones are listed whose sources are wanted."""
        known = self._rules
        rules = list(known.values()) if numbers is None else [known[number] for number in numbers]
        places = np.fromiter(known if numbers is None else numbers, np.int64, len(rules))
        records = self.arrays.rules
        counted = tuple(records[name][places] for name in ("packets", "bytes", "used_ms", "created_ms"))
        return Listing(places, rules, counted, dict(self._modified_ms), is_wanted)

    def statistics(self) -> Iterator[FlowStatistics]:
        """All rules with their counters, by table, then highest priority first."""
        yield from self.listing().lines()

    def statistics_of_all(self, numbers: Sequence[int]) -> list[FlowStatistics]:
        """Rules by number with their counters, much faster than one by one."""
        places = np.array(numbers, np.int64)
        counted = (self.arrays.rules[name][places].tolist() for name in ("packets", "bytes", "used_ms", "created_ms"))
        modified, rules = self._modified_ms, self._rules
        return [
            FlowStatistics(rules[number].source, packets, size, used, created, modified.get(number) or created)
            for number, packets, size, used, created in zip(numbers, *counted, strict=True)
        ]

    def in_order(self, numbers: Iterable[int]) -> list[int]:
        """Numbers of rules by table, then highest priority first."""
        rules = self._rules
        return sorted(numbers, key=lambda number: (rules[number].table, -rules[number].priority, number))

    def tables(self) -> dict[int, TableStatistics]:
        """Tables that hold rules or were looked at. Many masks in a table make its lookups slow."""
        return {
            number: TableStatistics(
                self._per_table[number], self._n_masks(number), int(table["lookups"]), int(table["matches"])
            )
            for number, table in enumerate(self.arrays.tables[: D.N_TABLES])
            if self._per_table[number] or table["lookups"]
        }

    def _n_masks(self, table: int) -> int:
        n_subtables = self.arrays.tables["n_subtables"]
        return int(n_subtables[table] + n_subtables[table + D.CLAUSES])

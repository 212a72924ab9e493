"""The rules of all tables, for Python: adding, changing, deleting, listing.

Every change costs what it touches: the mask's subtable is found in a dictionary, the rest is done by kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.datapath import changes
from flowshunt.datapath import schema as D
from flowshunt.datapath.program import CompiledRule
from flowshunt.packet import schema as K

Mask = tuple[tuple[int, int], ...]

_FEED_RULES = 4096
"""Rules handed to the kernel at a time."""


class TablesFullError(UsageError):
    """There is no memory for another rule, mask or program."""


class FlowStatistics(NamedTuple):
    """A rule and what it saw. `flow`: what it was compiled from; times are milliseconds since the epoch."""

    flow: Any
    packets: int
    bytes: int
    used_ms: int
    created_ms: int


class TableStatistics(NamedTuple):
    """A table: rules and masks in it, lookups, and how many of those found a rule."""

    rules: int
    masks: int
    lookups: int
    matches: int


# Words in the order in which they are expected to tell rules apart; the first one decides most probes.
_ORDER = (
    K.W_NW_DST + 1,
    K.W_NW_SRC + 1,
    K.W_NW_DST,
    K.W_NW_SRC,
    K.W_ND_TARGET + 1,
    K.W_CT_DST + 1,
    K.W_CT_SRC + 1,
    K.W_L4,
    K.W_ETH_DST,
    K.W_ETH_SRC,
    K.W_ARP_SHA,
    K.W_ARP_THA,
    *range(K.W_REG, K.W_REG + 8),
    K.W_PORT,
    K.W_CT_LABEL + 1,
    K.W_METADATA,
)
_RANKS = {word: rank for rank, word in enumerate(_ORDER)}
_LAST = len(_ORDER)
# Parts of words that are much the same for all rules: types and protocol.
_COMMON = {K.W_ETH_DST: 0xFFFF, K.W_L4: 0xFFFFFFFF}


def _rank(triple: tuple[int, int, int]) -> tuple[int, int]:
    word, mask, _ = triple
    return (_RANKS.get(word, _LAST) if mask & ~_COMMON.get(word, 0) else _LAST), word


def _ordered(rule: CompiledRule) -> tuple[tuple[int, int, int], ...]:
    """The match of a rule, in the order that all rules of its mask have."""
    return tuple(sorted(rule.match, key=_rank))


class Rules:
    """The rules of one switch. `version` counts the changes of rules, of whatever kind."""

    def __init__(self) -> None:
        """No rules yet."""
        self.arrays = D.make_tables()
        self._subtables: dict[tuple[int, Mask], int] = {}
        self._masks: dict[int, tuple[int, Mask]] = {}
        self._rules: dict[int, CompiledRule] = {}
        self._per_table = [0] * D.N_TABLES
        self.version = 0

    def __len__(self) -> int:
        """Rules in all tables."""
        return len(self._rules)

    # --- adding ----------------------------------------------------------------------------------------------------

    def add(self, rules: Iterable[CompiledRule], now_ms: int = 0, replaced: list[CompiledRule] | None = None) -> int:
        """Add rules in order; one of equal table, match and priority is replaced and counts from zero.

        Returns how many; those that were replaced are added to `replaced`. Raises TablesFullError when memory for
        rules is used up; those before stay.
        """
        waiting: list[CompiledRule] = []
        n = 0
        for rule in rules:
            waiting.append(rule)
            if len(waiting) == _FEED_RULES:
                n += self._feed(waiting, now_ms, replaced)
                waiting = []
        return n + self._feed(waiting, now_ms, replaced)

    def _feed(self, rules: Sequence[CompiledRule], now_ms: int, replaced: list[CompiledRule] | None) -> int:
        feed: list[int] = []
        fresh: list[int] = []
        for rule in rules:
            match = _ordered(rule)
            subtable = self._subtable(rule.table, tuple((word, mask) for word, mask, _ in match), fresh)
            feed += (subtable, rule.priority, len(match), len(rule.program))
            feed.extend(value for _, _, value in match)
            feed += rule.program
        self.version += 1
        results = np.zeros(len(rules), np.int64)
        done = int(changes.insert_rules(self.arrays, np.array(feed, np.int64), 0, len(rules), results, now_ms))
        for rule, result in zip(rules, results[:done].tolist(), strict=False):
            number = result & (changes.REPLACED - 1)
            if not result & changes.REPLACED:
                self._per_table[rule.table] += 1
            elif replaced is not None:
                replaced.append(self._rules[number])
            self._rules[number] = rule
        if done < len(rules):
            self._drop_unused(fresh)
            raise TablesFullError("the flow tables are full", hint="delete flows first")
        return done

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
            fresh.append(subtable)
        return subtable

    def _drop_unused(self, fresh: Iterable[int]) -> None:
        for subtable in fresh:
            if changes.drop_subtable(self.arrays, subtable):
                del self._subtables[self._masks.pop(subtable)]

    # --- finding ---------------------------------------------------------------------------------------------------

    def find(self, rule: CompiledRule) -> int | None:
        """Number of the rule with exactly this table, match and priority."""
        match = _ordered(rule)
        subtable = self._subtables.get((rule.table, tuple((word, mask) for word, mask, _ in match)))
        if subtable is None:
            return None
        values = np.array([value for _, _, value in match], np.int64)
        found = int(changes.find_rule(self.arrays, subtable, rule.priority, values))
        return found if found >= 0 else None

    def select(self, rule: CompiledRule, *, strict: bool = False) -> list[int]:
        """Numbers of the rules that a change means, in its table or, when that is ALL_TABLES, in all.

        Strict: the one of equal match and priority. Otherwise all whose packets the match covers, whatever their
        priority (OpenFlow's non-strict selection).
        """
        tables = [rule.table]
        if rule.table == D.ALL_TABLES:
            tables = [table for table, n in enumerate(self._per_table) if n]
        if strict:
            numbers = (self.find(rule._replace(table=table)) for table in tables)
            return [number for number in numbers if number is not None]
        triples = np.array([number for triple in rule.match for number in triple], np.int64)
        found = np.zeros(len(self._rules), np.int64)
        n = 0
        for table in tables:
            n = int(changes.select_rules(self.arrays, table, triples, n, found))
        return sorted(found[:n].tolist())

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
        for rule in rules:
            number = self.find(rule)
            if number is not None and self._rules[number] is rule:
                self.remove([number])

    def remove(self, numbers: Sequence[int]) -> list[CompiledRule]:
        """Remove rules by number; returns them."""
        self.version += 1
        emptied = np.zeros(len(numbers), np.int64)
        changes.remove_rules(self.arrays, np.array(numbers, np.int64), emptied)
        for subtable in emptied.tolist():
            if subtable >= 0:
                del self._subtables[self._masks.pop(subtable)]
        removed = [self._rules.pop(number) for number in numbers]
        for rule in removed:
            self._per_table[rule.table] -= 1
        return removed

    def change(self, number: int, rule: CompiledRule) -> None:
        """Give a rule the program and source of another; match, priority and counters stay.

        Raises TablesFullError, and changes nothing, when memory for programs is used up.
        """
        if not changes.set_program(self.arrays, number, np.array(rule.program, np.int64)):
            raise TablesFullError("the flow tables are full", hint="delete flows first")
        self.version += 1
        self._rules[number] = self._rules[number]._replace(program=rule.program, source=rule.source)

    # --- listing ---------------------------------------------------------------------------------------------------

    def rule(self, number: int) -> CompiledRule:
        """A rule by number."""
        return self._rules[number]

    def statistics_of(self, number: int) -> FlowStatistics:
        """One rule with its counters."""
        record = self.arrays.rules[number]
        return FlowStatistics(
            self._rules[number].source,
            int(record["packets"]),
            int(record["bytes"]),
            int(record["used_ms"]),
            int(record["created_ms"]),
        )

    def statistics(self) -> Iterator[FlowStatistics]:
        """All rules with their counters, by table, then highest priority first."""
        for number in self.in_order(self._rules):
            yield self.statistics_of(number)

    def in_order(self, numbers: Iterable[int]) -> list[int]:
        """Numbers of rules by table, then highest priority first."""
        rules = self._rules
        return sorted(numbers, key=lambda number: (rules[number].table, -rules[number].priority, number))

    def tables(self) -> dict[int, TableStatistics]:
        """Tables that hold rules or were looked at. Many masks in a table make its lookups slow."""
        return {
            number: TableStatistics(
                self._per_table[number], int(table["n_subtables"]), int(table["lookups"]), int(table["matches"])
            )
            for number, table in enumerate(self.arrays.tables)
            if self._per_table[number] or table["lookups"]
        }

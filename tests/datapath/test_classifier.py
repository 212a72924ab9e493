from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.base.errors import UsageError
from flowshunt.datapath import changes
from flowshunt.datapath import schema as D
from flowshunt.datapath.program import CompiledRule
from flowshunt.datapath.rules import Rules
from flowshunt.packet.schema import KEY_WORDS

PROGRAM = (0,)
WORDS = (0, 1, 3, 5, 6, 12, 13, 17, 20)
MASKS = (-1, 0xFFFF, 0xFF << 32, np.int64(-1) << 48, 1, -(1 << 63))
VALUES = (0, 1, -1, 2 << 48, 0x0A000001, 7 << 32)


class Naive:
    """Rules in a list; the best match by looking at all of them."""

    def __init__(self) -> None:
        self.rules: dict[tuple[int, Any], CompiledRule] = {}

    def best(self, key: list[int]) -> int:
        fits = [
            priority
            for (priority, match), _ in self.rules.items()
            if all(key[word] & mask == value for word, mask, value in match)
        ]
        return max(fits, default=-1)


@st.composite
def matches(draw: st.DrawFn) -> tuple[tuple[int, int, int], ...]:
    words = sorted(draw(st.sets(st.sampled_from(WORDS), max_size=7)))
    masks = [int(draw(st.sampled_from(MASKS))) for _ in words]
    return tuple((word, mask, draw(st.sampled_from(VALUES)) & mask) for word, mask in zip(words, masks, strict=True))


rules_of_any_kind = st.builds(
    lambda match, priority: CompiledRule(3, priority, match, PROGRAM), matches(), st.integers(0, 6)
)


def key_for(match: tuple[tuple[int, int, int], ...], filler: int) -> list[int]:
    key = [filler] * KEY_WORDS
    for word, mask, value in match:
        key[word] = key[word] & ~mask | value
    return key


def search(rules: Rules, key: list[int], table: int = 3) -> int:
    return int(changes.find_match(rules.arrays, table, np.array([key], np.int64), 0))


@given(
    steps=st.lists(st.tuples(st.booleans(), rules_of_any_kind), min_size=1, max_size=40),
    fillers=st.lists(st.sampled_from(VALUES), min_size=1, max_size=2),
)
def test_finds_what_a_linear_search_finds_through_any_churn(steps: list[Any], fillers: list[int]) -> None:
    rules, naive = Rules(), Naive()
    for remove, rule in steps:
        known = (rule.priority, rule.match) in naive.rules
        if remove:
            number = rules.find(rule)
            assert (number is not None) == known
            if number is not None:
                rules.remove([number])
                del naive.rules[rule.priority, rule.match]
        else:
            rules.add([rule])
            naive.rules[rule.priority, rule.match] = rule
        assert len(rules) == len(naive.rules)
    for _, probe in steps:
        for filler in fillers:
            key = key_for(probe.match, filler)
            number = search(rules, key)
            best = naive.best(key)
            assert (number >= 0) == (best >= 0)
            if number >= 0:
                found = rules.rule(number)
                assert found.priority == best
                assert all(key[word] & mask == value for word, mask, value in found.match)
    rules.remove(rules.select(CompiledRule(3, 0, (), PROGRAM)))
    assert len(rules) == 0
    assert rules.arrays.tables["n_subtables"][3] == 0


def many(n: int, table: int = 0, priority: int = 5) -> list[CompiledRule]:
    return [CompiledRule(table, priority, ((5, 0xFFFFFFFF, n),), PROGRAM) for n in range(n)]


def test_finds_each_of_many_rules_of_one_mask() -> None:
    rules = Rules()
    rules.add(many(500))
    for n in range(500):
        assert rules.rule(search(rules, key_for(((5, -1, n),), 0), 0)).match[0][2] == n
    assert search(rules, key_for(((5, -1, 500),), 0), 0) == -1


def test_rules_that_differ_only_in_the_top_bits_of_a_word_spread() -> None:
    rules = Rules()
    rules.add(CompiledRule(0, 1, ((6, np.int64(-1) << 48, np.int64(port) << 48),), PROGRAM) for port in range(256))
    slots = int(rules.arrays.subtables["slots"][0])
    n_slots = 1 << int(rules.arrays.subtables["slots_class"][0])
    used = rules.arrays.pool[slots : slots + n_slots] != 0
    longest = max(len(run) for run in "".join("x" if slot else " " for slot in used).split())
    assert longest < 40


def test_the_higher_priority_wins_within_a_mask_and_across_masks() -> None:
    rules = Rules()
    wide = CompiledRule(0, 10, (), PROGRAM)
    narrow = CompiledRule(0, 20, ((5, 0xFF, 7),), PROGRAM)
    same = narrow._replace(priority=5)
    rules.add([wide, same])
    key = key_for(narrow.match, 0)
    assert rules.rule(search(rules, key, 0)).priority == 10
    rules.add([narrow])
    assert rules.rule(search(rules, key, 0)).priority == 20
    rules.remove([rules.find(narrow)])
    assert rules.rule(search(rules, key, 0)).priority == 10


def test_subtables_stay_in_order_of_their_highest_priority() -> None:
    rules = Rules()
    rules.add(CompiledRule(0, priority, ((word, -1, 1),), PROGRAM) for word, priority in enumerate([5, 9, 1, 7, 9, 3]))
    rules.remove([rules.find(CompiledRule(0, 9, ((1, -1, 1),), PROGRAM))])
    first = int(rules.arrays.tables["order"][0])
    order = rules.arrays.pool[first : first + 5] >> 32
    assert order.tolist() == [9, 7, 5, 3, 1]


def test_a_stale_highest_priority_is_put_right_after_a_few_removals() -> None:
    rules = Rules()
    rules.add(many(64))
    rules.add([CompiledRule(0, 1000, ((5, 0xFFFFFFFF, 1),), PROGRAM)])
    rules.remove([rules.find(CompiledRule(0, 1000, ((5, 0xFFFFFFFF, 1),), PROGRAM))])
    rules.remove([rules.find(rule) for rule in many(40)])
    first = int(rules.arrays.tables["order"][0])
    assert rules.arrays.pool[first] >> 32 == 5


def test_a_flow_changed_often_takes_no_more_memory() -> None:
    rules = Rules()
    rules.add(many(10))
    rule = CompiledRule(0, 5, tuple((word, -1, 1) for word in range(7)), (1, 2, 3, 0))

    def change(times: int) -> None:
        for n in range(times):
            rules.add([rule._replace(program=(1,) * (1 + n % 4))])
            rules.add([rule])
            rules.remove([rules.find(rule)])

    change(4)
    used = rules.arrays.state["pool_used"][0], rules.arrays.state["n_rules"][0], rules.arrays.state["n_subtables"][0]
    change(50)
    assert used == (
        rules.arrays.state["pool_used"][0],
        rules.arrays.state["n_rules"][0],
        rules.arrays.state["n_subtables"][0],
    )


@pytest.mark.parametrize("words", [1, 6])
@pytest.mark.parametrize(("n_rules", "n_subtables", "n_words"), [(3, 9, 4096), (99, 2, 4096), (99, 9, 64)])
def test_full_tables_say_so_and_keep_working(n_rules: int, n_subtables: int, n_words: int, words: int) -> None:
    rules = Rules()
    rules.arrays = D.make_tables(n_rules, n_subtables, n_words)
    added = []
    with pytest.raises(UsageError, match=r"full|too many masks"):
        for n in range(99):
            match = tuple((word, -1 << (n // 3), 1 << 62) for word in range(words))
            rule = CompiledRule(0, n, match, PROGRAM)
            rules.add([rule])
            added.append(rule)
    assert 0 < len(added) == len(rules)
    key = [1 << 62] * KEY_WORDS
    assert rules.rule(search(rules, key, 0)) == added[-1]
    rules.remove([rules.find(added[-1])])
    rules.add([added[-1]])
    assert rules.rule(search(rules, key, 0)) == added[-1]


def test_all_tables_can_be_used() -> None:
    rules = Rules()
    rules.add(CompiledRule(table, table, (), PROGRAM) for table in range(D.N_TABLES))
    assert [rules.rule(search(rules, [0] * KEY_WORDS, table)).priority for table in range(D.N_TABLES)] == list(
        range(255)
    )
    assert rules.tables()[254].masks == 1


def test_an_empty_table_matches_nothing() -> None:
    assert search(Rules(), [0] * KEY_WORDS, 0) == -1


# --- selection -------------------------------------------------------------------------------------------------------


def test_selection_by_a_wider_match() -> None:
    rules = Rules()
    inside = CompiledRule(0, 1, ((5, 0xFFFF, 0x1234), (6, 0xFF, 1)), PROGRAM)
    outside = CompiledRule(0, 1, ((5, 0xFFFF, 0x2234), (6, 0xFF, 1)), PROGRAM)
    coarser = CompiledRule(0, 1, ((5, 0xF000, 0x1000),), PROGRAM)
    elsewhere = inside._replace(table=1)
    many_words = CompiledRule(0, 2, tuple((word, -1, 0x1234) for word in range(7)), PROGRAM)
    rules.add([inside, outside, coarser, elsewhere, many_words])
    wanted = CompiledRule(0, 0, ((5, 0xFF00, 0x1200),), PROGRAM)
    assert {rules.rule(n) for n in rules.select(wanted)} == {inside, many_words}
    assert {rules.rule(n) for n in rules.select(wanted._replace(table=D.ALL_TABLES))} == {inside, elsewhere, many_words}
    assert rules.select(wanted, strict=True) == []
    assert [rules.rule(n) for n in rules.select(inside, strict=True)] == [inside]
    assert rules.select(inside._replace(priority=2), strict=True) == []
    last = CompiledRule(0, 0, ((6, -1, 0x1234),), PROGRAM)
    assert [rules.rule(n) for n in rules.select(last)] == [many_words]


def test_a_replaced_rule_counts_from_zero_and_a_changed_one_goes_on() -> None:
    rules = Rules()
    rule = CompiledRule(0, 1, (), (1, 0), "first")
    rules.add([rule], now_ms=5)
    number = rules.find(rule)
    rules.arrays.rules["packets"][number] = 7
    rules.change(number, rule._replace(source="second", program=(1, 2, 3, 4, 5, 0)))
    assert rules.statistics_of(number)[:5] == ("second", 7, 0, 5, 5)
    program = int(rules.arrays.rules["program"][number])
    assert rules.arrays.pool[program : program + 6].tolist() == [1, 2, 3, 4, 5, 0]
    rules.add([rule._replace(source="third")], now_ms=9)
    assert [entry[:5] for entry in rules.statistics()] == [("third", 0, 0, 9, 9)]

"""Changing rules: the kernels that Python calls.

Rules come as one array of int64, the *feed*: per rule subtable, priority, number of match values, number of program
words (with KEEPS_COUNTERS where the rule does not count anew), the values in the order of the subtable's words, the
program.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath import classifier, conjunctions, subtables
from flowshunt.datapath.pool import allocate, release, size_class
from flowshunt.datapath.schema import make_tables
from flowshunt.jit import kernel

FEED_HEADER = 4
KEEPS_COUNTERS = 1 << 40
"""Beside the number of program words: in the place of an equal rule, this one goes on counting."""
REPLACED = 1 << 40
"""Bit of a result of `insert_rules`: the rule was there, with other actions and counters."""


def _feed_example() -> tuple[Any, ...]:
    return make_tables(1, 1, 8), np.zeros(8, np.int64), 0, 1, np.zeros(1, np.int64), 0


@kernel
def _begin_counting(c: Any, rule: Any, keeps: Any, now_ms: Any) -> Any:
    if not keeps:
        c.rules["packets"][rule] = 0
        c.rules["bytes"][rule] = 0
    c.rules["used_ms"][rule] = now_ms
    c.rules["created_ms"][rule] = now_ms


@kernel(inline=False)
def _store_program(c: Any, words: Any, at: Any, n: Any) -> Any:
    """A copy of a program in the pool: its offset, or 0 when the pool is full."""
    program = allocate(c, size_class(n))
    if program != 0:
        for j in range(n):
            c.pool[program + j] = words[at + j]
    return program


@kernel
def _replace_program(c: Any, rule: Any, program: Any, n: Any) -> Any:
    release(c, c.rules["program"][rule], np.int64(c.rules["program_class"][rule]))
    c.rules["program"][rule] = program
    c.rules["program_class"][rule] = size_class(n)


@kernel(example=_feed_example)
def insert_rules(c: Any, feed: Any, first: Any, n: Any, results: Any, now_ms: Any) -> Any:
    """Insert the rules `[first, n)` of a feed; one of equal match and priority gets the new actions, counters of zero
    unless the feed says KEEPS_COUNTERS.

    `results`: int64 (n,), the rule's number, with REPLACED where it was there. Returns how many rules are done: less
    than n when memory ran out, and the rule that did not fit left nothing behind.
    """
    at = np.int64(0)
    for index in range(n):
        subtable, priority, n_values = feed[at], feed[at + 1], feed[at + 2]
        n_program = feed[at + 3] & ~KEEPS_COUNTERS
        keeps = feed[at + 3] & KEEPS_COUNTERS != 0
        values = at + FEED_HEADER
        at = values + n_values + n_program
        if index < first:
            continue
        program = _store_program(c, feed, values + n_values, n_program)
        if program == 0:
            return index
        rule = subtables.find_rule(c, subtable, priority, feed, values)
        replaced = rule >= 0
        if not replaced:
            rule = subtables.link_rule(c, subtable, priority, feed, values)
            if rule < 0:
                release(c, program, size_class(n_program))
                return index
            c.rules["program"][rule] = 0
            c.rules["generation"][rule] = (np.int64(c.rules["generation"][rule]) + 1) & 0xFFFFFFFF
        _replace_program(c, rule, program, n_program)
        _begin_counting(c, rule, replaced and keeps, now_ms)
        results[index] = rule | (REPLACED if replaced else 0)
    return np.int64(n)


@kernel(example=lambda: (make_tables(1, 1, 8), 0, np.zeros(1, np.int64)))
def set_program(c: Any, rule: Any, words: Any) -> Any:
    """Give a rule another program; its counters stay. False, and nothing changed, when memory ran out."""
    program = _store_program(c, words, np.int64(0), np.int64(len(words)))
    if program == 0:
        return False
    _replace_program(c, rule, program, np.int64(len(words)))
    return True


@kernel(example=lambda: (make_tables(1, 1, 8), np.zeros(1, np.int64), np.zeros(1, np.int64)))
def remove_rules(c: Any, rules: Any, emptied: Any) -> Any:
    """Remove rules. `emptied`: int64, as long; per rule the subtable that went with it, or -1."""
    for index in range(len(rules)):
        rule = rules[index]
        _replace_program(c, rule, np.int64(0), np.int64(0))
        emptied[index] = subtables.unlink_rule(c, rule)


@kernel(example=lambda: (make_tables(1, 1, 8), 0, np.zeros(1, np.int64)))
def add_subtable(c: Any, table: Any, pairs: Any) -> Any:
    """A subtable of `table` for a mask that has none: word, mask, word, mask...; -1 when memory ran out."""
    return subtables.add_subtable(c, table, pairs, np.int64(0), np.int64(len(pairs) // 2))


@kernel(example=lambda: (make_tables(1, 1, 8), 0))
def drop_subtable(c: Any, subtable: Any) -> Any:
    """Remove a subtable when it has no rules; whether it had none."""
    if c.subtables["n_slots"][subtable] != 0:
        return False
    subtables.remove_subtable(c, subtable)
    return True


@kernel(example=lambda: (make_tables(1, 1, 8), 0, 0, np.zeros(1, np.int64)))
def find_rule(c: Any, subtable: Any, priority: Any, values: Any) -> Any:
    """The rule of a subtable with exactly these match values and priority, or -1."""
    return subtables.find_rule(c, subtable, priority, values, np.int64(0))


@kernel(example=lambda: (make_tables(1, 1, 8), np.zeros(8, np.int64), np.zeros(1, np.int64)))
def find_rules(c: Any, feed: Any, found: Any) -> Any:
    """`find_rule` of every rule of a feed, whose subtable may be -1: none. `found`: int64 (n,), the numbers or -1."""
    at = np.int64(0)
    for index in range(len(found)):
        subtable, priority, n_values = feed[at], feed[at + 1], feed[at + 2]
        found[index] = -1
        if subtable >= 0:
            found[index] = subtables.find_rule(c, subtable, priority, feed, at + FEED_HEADER)
        at += FEED_HEADER + n_values + (feed[at + 3] & ~KEEPS_COUNTERS)


@kernel(example=lambda: (make_tables(1, 1, 8), 0, np.zeros(1, np.int64), 0, np.zeros(1, np.int64)))
def select_rules(c: Any, table: Any, triples: Any, n_found: Any, found: Any) -> Any:
    """Append to `found` (from n_found on) the rules of `table` whose packets all match word, mask, value triples.

    `found`: int64, room for every rule. Returns the new count.
    """
    order = c.tables["order"][table]
    n = np.int64(len(triples) // 3)
    for at in range(order, order + np.int64(c.tables["n_subtables"][table])):
        n_found = subtables.select_subtable(c, c.pool[at] & 0xFFFFFFFF, triples, n, found, n_found)
    return n_found


@kernel(example=lambda: (make_tables(1, 1, 8), 0, np.zeros((1, 1), np.int64), 0))
def find_match(c: Any, table: Any, keys: Any, k: Any) -> Any:
    """The rule of `table` that keys[k] matches, be it by a conjunction, or -1. Counts nothing."""
    rule = classifier.lookup(c, table, keys, k)
    if np.int64(c.tables["has_clauses"][table]) != 0:
        rule = conjunctions.resolve(c, table, keys, k, rule)
    return rule


@kernel(example=lambda: (make_tables(1, 1, 8), np.zeros(1, np.int64)))
def store_words(c: Any, words: Any) -> Any:
    """A copy of words in the pool, for whom it belongs to: its offset, or 0 when memory ran out."""
    return _store_program(c, words, np.int64(0), np.int64(len(words)))


@kernel(example=lambda: (make_tables(1, 1, 8), 0, 0))
def free_words(c: Any, at: Any, n: Any) -> Any:
    """Give back n words that `store_words` stored; offset 0 is none."""
    release(c, at, size_class(n))

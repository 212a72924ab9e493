"""Subtables and rules: how they are made, linked, found by value and taken apart again.

Every change touches what it names and its neighbours: a slot, a chain, an entry of the table's order. What cannot be
kept exact so cheaply (bloom words, the highest priority after a removal) may say too much for a while, which costs
probes and never a match.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.classifier import K0, K1, K2, K3, KX, U32, bloom_bit, first_bit, home, times
from flowshunt.datapath.pool import MIN_CLASS, allocate, release, size_class
from flowshunt.datapath.schema import BLOOM_WORDS, INLINE_WORDS
from flowshunt.jit import kernel

MIN_SLOTS_CLASS = 2


@kernel
def _clear_bloom(c: Any, s: Any) -> Any:
    for j in range(BLOOM_WORDS):
        c.subtables["first_bloom"][s, j] = 0
        c.subtables["bloom"][s, j] = 0


@kernel
def _mark_bloom(c: Any, s: Any, rule: Any) -> Any:
    bit = first_bit(times(c.rules["values"][rule, 0], K0))
    c.subtables["first_bloom"][s, bit >> 6] |= np.int64(1) << (bit & 63)
    bit = bloom_bit(np.int64(c.rules["hash"][rule]))
    c.subtables["bloom"][s, bit >> 6] |= np.int64(1) << (bit & 63)


@kernel
def _put_slot(c: Any, slots: Any, of_class: Any, slot: Any) -> Any:
    last = (np.int64(1) << of_class) - 1
    place = home((slot >> 32) & U32, of_class)
    while c.pool[slots + place] != 0:
        place = (place + 1) & last
    c.pool[slots + place] = slot


@kernel(inline=False)
def _grow_slots(c: Any, s: Any) -> Any:
    """Double the slots of subtable s when one more would fill them by half; False when the pool is full."""
    old_class = np.int64(c.subtables["slots_class"][s])
    if 2 * (np.int64(c.subtables["n_slots"][s]) + 1) <= np.int64(1) << old_class:
        return True
    new = allocate(c, old_class + 1)
    if new == 0:
        return False
    for at in range(new, new + (np.int64(2) << old_class)):
        c.pool[at] = 0
    old = np.int64(c.subtables["slots"][s])
    for at in range(old, old + (np.int64(1) << old_class)):
        if c.pool[at] != 0:
            _put_slot(c, new, old_class + 1, c.pool[at])
    release(c, old, old_class)
    c.subtables["slots"][s] = new
    c.subtables["slots_class"][s] = old_class + 1
    return True


@kernel
def _find_slot(c: Any, s: Any, rule: Any) -> Any:
    """Place in the pool of the slot whose chain begins with `rule`; it must be there."""
    hashed = np.int64(c.rules["hash"][rule])
    slots = np.int64(c.subtables["slots"][s])
    slots_class = np.int64(c.subtables["slots_class"][s])
    last = (np.int64(1) << slots_class) - 1
    place = home(hashed, slots_class)
    while c.pool[slots + place] & U32 != rule + 1:
        place = (place + 1) & last
    return slots + place


@kernel
def _replace_head(c: Any, s: Any, old: Any, new: Any) -> Any:
    """Let a chain begin with another rule."""
    c.pool[_find_slot(c, s, old)] = np.int64(c.rules["hash"][old]) << 32 | new + 1
    if c.subtables["only"][s] == old:
        c.subtables["only"][s] = new


@kernel
def _remove_slot(c: Any, s: Any, at: Any) -> Any:
    """Free a slot, and move those behind it that could no longer be found."""
    slots = np.int64(c.subtables["slots"][s])
    slots_class = np.int64(c.subtables["slots_class"][s])
    last = (np.int64(1) << slots_class) - 1
    hole = at - slots
    place = hole
    while True:
        place = (place + 1) & last
        slot = c.pool[slots + place]
        if slot == 0:
            break
        if (place - home((slot >> 32) & U32, slots_class)) & last >= (place - hole) & last:
            c.pool[slots + hole] = slot
            hole = place
    c.pool[slots + hole] = 0
    c.subtables["n_slots"][s] -= 1
    _note_only(c, s)


@kernel
def _note_only(c: Any, s: Any) -> Any:
    """Find the chain of a subtable that has just one."""
    c.subtables["only"][s] = -1
    if c.subtables["n_slots"][s] == 1:
        at = np.int64(c.subtables["slots"][s])
        while c.pool[at] == 0:
            at += 1
        c.subtables["only"][s] = (c.pool[at] & U32) - 1


@kernel
def _order_place(c: Any, s: Any) -> Any:
    """Where subtable s stands in its table's order."""
    at = c.tables["order"][np.int64(c.subtables["table"][s])]
    while c.pool[at] & U32 != s:
        at += 1
    return at


@kernel(inline=False)
def _set_priority(c: Any, s: Any, priority: Any) -> Any:
    """Give subtable s this highest priority, and its place in the order."""
    table = np.int64(c.subtables["table"][s])
    first = c.tables["order"][table]
    last = first + np.int64(c.tables["n_subtables"][table]) - 1
    at = _order_place(c, s)
    while at > first and c.pool[at - 1] >> 32 < priority:
        c.pool[at] = c.pool[at - 1]
        at -= 1
    while at < last and c.pool[at + 1] >> 32 > priority:
        c.pool[at] = c.pool[at + 1]
        at += 1
    c.pool[at] = priority << 32 | s


@kernel(inline=False)
def _refresh(c: Any, s: Any) -> Any:
    """Make bloom words and highest priority exact again: they may say too much after removals, never too little.

    Done when an eighth of the slots' number was removed, so that a removal costs a few slots on average.
    """
    n_slots = np.int64(1) << np.int64(c.subtables["slots_class"][s])
    if np.int64(c.subtables["stale"][s]) * 8 < n_slots:
        return
    c.subtables["stale"][s] = 0
    _clear_bloom(c, s)
    highest = np.int64(-1)
    slots = np.int64(c.subtables["slots"][s])
    for at in range(slots, slots + n_slots):
        slot = c.pool[at]
        if slot != 0:
            head = (slot & U32) - 1
            _mark_bloom(c, s, head)
            highest = max(highest, np.int64(c.rules["priority"][head]))
    _set_priority(c, s, highest)


@kernel
def _grow_order(c: Any, table: Any) -> Any:
    """Room for one more subtable in the table's order; False when the pool is full."""
    n = np.int64(c.tables["n_subtables"][table])
    old_class = np.int64(c.tables["order_class"][table])
    if old_class >= 0 and n < np.int64(1) << old_class:
        return True
    new_class = max(old_class + 1, np.int64(MIN_CLASS))
    new = allocate(c, new_class)
    if new == 0:
        return False
    old = c.tables["order"][table]
    for j in range(n):
        c.pool[new + j] = c.pool[old + j]
    if old_class >= 0:
        release(c, old, old_class)
    c.tables["order"][table] = new
    c.tables["order_class"][table] = new_class
    return True


@kernel
def _set_mask(c: Any, s: Any, j: Any, mask: Any) -> Any:
    if j == 0:
        c.subtables["first_mask"][s] = mask
    else:
        c.subtables["masks"][s, j - 1] = mask


@kernel
def _get_pair(c: Any, s: Any, i: Any) -> Any:
    """Word and mask number i of subtable s."""
    if i == 0:
        return np.int64(c.subtables["words"][s, 0]), c.subtables["first_mask"][s]
    if i < INLINE_WORDS:
        return np.int64(c.subtables["words"][s, i]), c.subtables["masks"][s, i - 1]
    at = np.int64(c.subtables["extra"][s]) + 2 * (i - INLINE_WORDS)
    return c.pool[at], c.pool[at + 1]


@kernel
def _get_value(c: Any, rule: Any, i: Any) -> Any:
    """Match value number i of a rule."""
    return c.rules["values"][rule, i] if i < INLINE_WORDS else c.pool[c.rules["extra"][rule] + i - INLINE_WORDS]


@kernel
def add_subtable(c: Any, table: Any, pairs: Any, at: Any, n_words: Any) -> Any:
    """A new subtable, without rules, of `table`; -1 when there is no room.

    `pairs`: int64 array that holds word, mask, word, mask... from `at` on; the words differ, the masks are not 0.
    """
    s = c.state["free_subtable"][0]
    if s < 0:
        s = c.state["n_subtables"][0]
    if s >= len(c.subtables) or not _grow_order(c, table):
        return np.int64(-1)
    slots = allocate(c, np.int64(MIN_SLOTS_CLASS))
    extra = np.int64(0)
    if n_words > INLINE_WORDS and slots != 0:
        extra = allocate(c, size_class(2 * (n_words - INLINE_WORDS)))
        if extra == 0:
            release(c, slots, np.int64(MIN_SLOTS_CLASS))
    if slots == 0 or (n_words > INLINE_WORDS and extra == 0):
        return np.int64(-1)
    if s == c.state["n_subtables"][0]:
        c.state["n_subtables"][0] += 1
    else:
        c.state["free_subtable"][0] = np.int64(c.subtables["slots"][s])
    for j in range(np.int64(1) << np.int64(MIN_SLOTS_CLASS)):
        c.pool[slots + j] = 0
    for j in range(INLINE_WORDS):
        c.subtables["words"][s, j] = pairs[at + 2 * j] if j < n_words else 0
        _set_mask(c, s, j, pairs[at + 2 * j + 1] if j < n_words else 0)
    for j in range(2 * INLINE_WORDS, 2 * n_words):
        c.pool[extra + j - 2 * INLINE_WORDS] = pairs[at + j]
    _clear_bloom(c, s)
    c.subtables["n_words"][s] = n_words
    c.subtables["table"][s] = table
    c.subtables["slots"][s] = slots
    c.subtables["slots_class"][s] = MIN_SLOTS_CLASS
    c.subtables["extra"][s] = extra
    c.subtables["n_slots"][s] = 0
    c.subtables["only"][s] = -1
    c.subtables["stale"][s] = 0
    place = c.tables["order"][table] + np.int64(c.tables["n_subtables"][table])
    c.pool[place] = np.int64(-1) << 32 | s
    c.tables["n_subtables"][table] += 1
    return s


@kernel(inline=False)
def remove_subtable(c: Any, s: Any) -> Any:
    """Remove a subtable that has no rules."""
    table = np.int64(c.subtables["table"][s])
    end = c.tables["order"][table] + np.int64(c.tables["n_subtables"][table]) - 1
    for at in range(_order_place(c, s), end):
        c.pool[at] = c.pool[at + 1]
    c.tables["n_subtables"][table] -= 1
    release(c, np.int64(c.subtables["slots"][s]), np.int64(c.subtables["slots_class"][s]))
    release(c, np.int64(c.subtables["extra"][s]), size_class(2 * (np.int64(c.subtables["n_words"][s]) - INLINE_WORDS)))
    c.subtables["slots"][s] = c.state["free_subtable"][0]
    c.state["free_subtable"][0] = s


@kernel
def _value(values: Any, at: Any, j: Any, n: Any) -> Any:
    return values[at + j] if j < n else np.int64(0)


@kernel
def _hash_values(c: Any, s: Any, values: Any, at: Any) -> Any:
    """`_hash_rest` of match values, given in the order of the subtable's words."""
    n = np.int64(c.subtables["n_words"][s])
    h = (
        times(_value(values, at, np.int64(0), n), K0)
        ^ times(_value(values, at, np.int64(1), n), K1)
        ^ times(_value(values, at, np.int64(2), n), K2)
        ^ times(_value(values, at, np.int64(3), n), K3)
    )
    for j in range(INLINE_WORDS, n):
        h = times(h ^ values[at + j], KX)
    return (h >> 32) & U32


@kernel
def _has_values(c: Any, s: Any, rule: Any, values: Any, at: Any) -> Any:
    difference = np.int64(0)
    for j in range(np.int64(c.subtables["n_words"][s])):
        difference |= _get_value(c, rule, j) ^ values[at + j]
    return difference == 0


@kernel(inline=False)
def find_chain(c: Any, s: Any, values: Any, at: Any) -> Any:
    """Head of the chain of subtable s with exactly these match values, or -1."""
    hashed = _hash_values(c, s, values, at)
    slots = np.int64(c.subtables["slots"][s])
    slots_class = np.int64(c.subtables["slots_class"][s])
    last = (np.int64(1) << slots_class) - 1
    place = home(hashed, slots_class)
    while c.pool[slots + place] != 0:
        slot = c.pool[slots + place]
        if (slot >> 32) & U32 == hashed and _has_values(c, s, (slot & U32) - 1, values, at):
            return (slot & U32) - 1
        place = (place + 1) & last
    return np.int64(-1)


@kernel
def find_rule(c: Any, s: Any, priority: Any, values: Any, at: Any) -> Any:
    """The rule of subtable s with exactly these match values and this priority, or -1."""
    rule = find_chain(c, s, values, at)
    if rule >= 0 and np.int64(c.rules["priority"][np.int64(c.rules["previous"][rule])]) > priority:
        return np.int64(-1)
    while rule >= 0 and np.int64(c.rules["priority"][rule]) > priority:
        rule = np.int64(c.rules["next"][rule])
    if rule >= 0 and np.int64(c.rules["priority"][rule]) == priority:
        return rule
    return np.int64(-1)


@kernel(inline=False)
def link_rule(c: Any, s: Any, priority: Any, values: Any, at: Any) -> Any:
    """A new rule of subtable s, which has none of this match and priority; -1 when there is no room.

    The caller fills in program, counters and generation.
    """
    rule = c.state["free_rule"][0]
    if rule < 0:
        rule = c.state["n_rules"][0]
    if rule >= len(c.rules) or not _grow_slots(c, s):
        return np.int64(-1)
    n_words = np.int64(c.subtables["n_words"][s])
    extra = np.int64(0)
    if n_words > INLINE_WORDS:
        extra = allocate(c, size_class(n_words - INLINE_WORDS))
        if extra == 0:
            return np.int64(-1)
    if rule == c.state["n_rules"][0]:
        c.state["n_rules"][0] += 1
    else:
        c.state["free_rule"][0] = np.int64(c.rules["next"][rule])
    c.state["live_rules"][0] += 1
    for j in range(INLINE_WORDS):
        c.rules["values"][rule, j] = values[at + j] if j < n_words else 0
    for j in range(INLINE_WORDS, n_words):
        c.pool[extra + j - INLINE_WORDS] = values[at + j]
    c.rules["extra"][rule] = extra
    c.rules["priority"][rule] = priority
    c.rules["subtable"][rule] = s
    c.rules["hash"][rule] = _hash_values(c, s, values, at)
    _link(c, s, rule, find_chain(c, s, values, at))
    if c.pool[_order_place(c, s)] >> 32 < priority:
        _set_priority(c, s, priority)
    return rule


@kernel
def _link(c: Any, s: Any, rule: Any, head: Any) -> Any:
    """Put a rule into the chain that begins with `head`, or make it a chain when that is -1."""
    hashed = np.int64(c.rules["hash"][rule])
    priority = np.int64(c.rules["priority"][rule])
    if head < 0:
        c.rules["next"][rule] = -1
        c.rules["previous"][rule] = rule
        _put_slot(c, c.subtables["slots"][s], np.int64(c.subtables["slots_class"][s]), hashed << 32 | rule + 1)
        c.subtables["n_slots"][s] += 1
        c.subtables["only"][s] = rule if c.subtables["n_slots"][s] == 1 else -1
        _mark_bloom(c, s, rule)
        return
    tail = np.int64(c.rules["previous"][head])
    if np.int64(c.rules["priority"][head]) < priority:
        c.rules["next"][rule] = head
        c.rules["previous"][rule] = tail
        c.rules["previous"][head] = rule
        _replace_head(c, s, head, rule)
    elif np.int64(c.rules["priority"][tail]) > priority:
        c.rules["next"][rule] = -1
        c.rules["previous"][rule] = tail
        c.rules["next"][tail] = rule
        c.rules["previous"][head] = rule
    else:
        after = np.int64(c.rules["next"][head])
        while np.int64(c.rules["priority"][after]) > priority:
            after = np.int64(c.rules["next"][after])
        before = np.int64(c.rules["previous"][after])
        c.rules["next"][rule] = after
        c.rules["previous"][rule] = before
        c.rules["next"][before] = rule
        c.rules["previous"][after] = rule


@kernel
def _unlink(c: Any, s: Any, rule: Any) -> Any:
    """Take a rule out of its chain, and the chain out of its slot when that was all."""
    after = np.int64(c.rules["next"][rule])
    before = np.int64(c.rules["previous"][rule])
    if np.int64(c.rules["next"][before]) >= 0:  # only the last one has none, and it stands before the first
        c.rules["next"][before] = after
        c.rules["previous"][_head_before(c, s, rule) if after < 0 else after] = before
    elif after >= 0:
        c.rules["previous"][after] = before
        _replace_head(c, s, rule, after)
    else:
        _remove_slot(c, s, _find_slot(c, s, rule))


@kernel
def _head_before(c: Any, s: Any, tail: Any) -> Any:
    """Head of the chain whose last rule is `tail`."""
    hashed = np.int64(c.rules["hash"][tail])
    slots = np.int64(c.subtables["slots"][s])
    slots_class = np.int64(c.subtables["slots_class"][s])
    last = (np.int64(1) << slots_class) - 1
    place = home(hashed, slots_class)
    while True:
        slot = c.pool[slots + place]
        head = (slot & U32) - 1
        if (slot >> 32) & U32 == hashed and head >= 0 and np.int64(c.rules["previous"][head]) == tail:
            return head
        place = (place + 1) & last


@kernel(inline=False)
def unlink_rule(c: Any, rule: Any) -> Any:
    """Remove a rule; the subtable that became empty and went with it, or -1. Its program is the caller's to free."""
    s = np.int64(c.rules["subtable"][rule])
    _unlink(c, s, rule)
    n_extra = np.int64(c.subtables["n_words"][s]) - INLINE_WORDS
    release(c, c.rules["extra"][rule], size_class(n_extra))
    c.rules["subtable"][rule] = -1
    c.rules["next"][rule] = c.state["free_rule"][0]
    c.state["free_rule"][0] = rule
    c.state["live_rules"][0] -= 1
    if c.subtables["n_slots"][s] == 0:
        remove_subtable(c, s)
        return s
    c.subtables["stale"][s] += 1
    _refresh(c, s)
    return np.int64(-1)


@kernel
def _is_covered(c: Any, s: Any, rule: Any, triples: Any, n: Any) -> Any:
    """Whether each packet that matches `rule` matches n (word, mask, value) triples too."""
    for j in range(n):
        seen = False
        for i in range(np.int64(c.subtables["n_words"][s])):
            word, mask = _get_pair(c, s, i)
            if word == triples[3 * j] and mask & triples[3 * j + 1] == triples[3 * j + 1]:
                seen = _get_value(c, rule, i) & triples[3 * j + 1] == triples[3 * j + 2]
        if not seen:
            return False
    return True


@kernel
def select_subtable(c: Any, s: Any, triples: Any, n: Any, found: Any, n_found: Any) -> Any:
    """Append the rules of subtable s that the match of n (word, mask, value) triples covers; returns the new count."""
    slots = np.int64(c.subtables["slots"][s])
    for at in range(slots, slots + (np.int64(1) << np.int64(c.subtables["slots_class"][s]))):
        if c.pool[at] != 0:
            rule = (c.pool[at] & U32) - 1
            if _is_covered(c, s, rule, triples, n):
                while rule >= 0:
                    found[n_found] = rule
                    n_found += 1
                    rule = np.int64(c.rules["next"][rule])
    return n_found

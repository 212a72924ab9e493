"""Tuple-space search: which rule of a table has the highest priority among those that match a flow key.

A table is a list of subtables, one per distinct mask, ordered by the highest priority in them; a subtable is a hash
table from the masked words of the key to a chain of rules of equal match, highest priority first. A search probes
subtable after subtable and ends at the first whose best cannot beat what was found. A probe that misses touches
the subtable's two cache lines: its masks, and 512 bits that say which hashes it may hold.

Which of several matching rules of equal priority wins is undefined in OpenFlow; here it depends on nothing but the
rules and the order of the changes that led to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.pool import MIN_CLASS, allocate, release, size_class
from flowshunt.datapath.schema import INLINE_WORDS
from flowshunt.jit import kernel, mix

_U32 = 0xFFFFFFFF

# Odd constants, one per inline word, and one for all others.
_K0 = np.int64(0x1E3779B97F4A7C15)
_K1 = np.int64(0x3F58476D1CE4E5B9)
_K2 = np.int64(0x14D049BB133111EB)
_K3 = np.int64(0x2545F4914F6CDD1D)
_KX = np.int64(0x5851F42D4C957F2D)

MIN_SLOTS_CLASS = 2


@kernel
def _fold(h: Any) -> Any:
    return (h ^ (h >> 32)) & _U32


@kernel
def _hash_extra(c: Any, extra: Any, n: Any, keys: Any, k: Any, h: Any) -> Any:
    for _ in range(n):
        h = mix(h ^ keys[k, c.pool[extra]] & c.pool[extra + 1], _KX)
        extra += 2
    return h


@kernel
def _hash_key(c: Any, s: Any, keys: Any, k: Any) -> Any:
    """Hash of the words of keys[k] that subtable s looks at, 32 bits."""
    subtables = c.subtables
    h = (
        mix(keys[k, subtables["words"][s, 0]] & subtables["masks"][s, 0], _K0)
        ^ mix(keys[k, subtables["words"][s, 1]] & subtables["masks"][s, 1], _K1)
        ^ mix(keys[k, subtables["words"][s, 2]] & subtables["masks"][s, 2], _K2)
        ^ mix(keys[k, subtables["words"][s, 3]] & subtables["masks"][s, 3], _K3)
    )
    if subtables["extra"][s] != 0:
        h = _hash_extra(c, subtables["extra"][s], np.int64(subtables["n_words"][s]) - INLINE_WORDS, keys, k, h)
    return _fold(h)


@kernel
def _rule_matches(c: Any, s: Any, rule: Any, keys: Any, k: Any) -> Any:
    """Whether keys[k] has the match values of `rule`, which belongs to subtable s."""
    difference = np.int64(0)
    for j in range(INLINE_WORDS):
        word = keys[k, c.subtables["words"][s, j]] & c.subtables["masks"][s, j]
        difference |= word ^ c.rules["values"][rule, j]
    extra = c.subtables["extra"][s]
    if extra != 0:
        values = c.rules["extra"][rule]
        for j in range(np.int64(c.subtables["n_words"][s]) - INLINE_WORDS):
            word = keys[k, c.pool[extra + 2 * j]] & c.pool[extra + 2 * j + 1]
            difference |= word ^ c.pool[values + j]
    return difference == 0


@kernel
def _probe(c: Any, s: Any, hashed: Any, keys: Any, k: Any) -> Any:
    """Head of the chain of subtable s that keys[k] matches, or -1."""
    slots = c.subtables["slots"][s]
    last = (np.int64(1) << np.int64(c.subtables["slots_class"][s])) - 1
    place = hashed & last
    while True:
        slot = c.pool[slots + place]
        if slot == 0:
            return np.int64(-1)
        if (slot >> 32) & _U32 == hashed:
            rule = (slot & _U32) - 1
            if _rule_matches(c, s, rule, keys, k):
                return rule
        place = (place + 1) & last


@kernel(inline=False)
def lookup(c: Any, table: Any, keys: Any, k: Any) -> Any:
    """The rule of `table` with the highest priority that matches keys[k], or -1.

    `c`: TableArrays, unchanged. `keys`: int64 (n, KEY_WORDS).
    """
    best = np.int64(-1)
    best_priority = np.int64(-1)
    order = c.tables["order"][table]
    for at in range(order, order + np.int64(c.tables["n_subtables"][table])):
        entry = c.pool[at]
        if entry >> 32 <= best_priority:
            break
        s = entry & _U32
        hashed = _hash_key(c, s, keys, k)
        bit = hashed >> 23
        if (c.subtables["bloom"][s, bit >> 6] >> (bit & 63)) & 1:
            rule = _probe(c, s, hashed, keys, k)
            if rule >= 0:
                priority = np.int64(c.rules["priority"][rule])
                if priority > best_priority:
                    best = rule
                    best_priority = priority
    return best


@kernel
def _mark_bloom(c: Any, s: Any, hashed: Any) -> Any:
    bit = hashed >> 23
    c.subtables["bloom"][s, bit >> 6] |= np.int64(1) << (bit & 63)


@kernel
def _put_slot(c: Any, slots: Any, of_class: Any, slot: Any) -> Any:
    last = (np.int64(1) << of_class) - 1
    place = (slot >> 32) & last
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
    old = c.subtables["slots"][s]
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
    slots = c.subtables["slots"][s]
    last = (np.int64(1) << np.int64(c.subtables["slots_class"][s])) - 1
    place = hashed & last
    while c.pool[slots + place] & _U32 != rule + 1:
        place = (place + 1) & last
    return slots + place


@kernel
def _remove_slot(c: Any, s: Any, at: Any) -> Any:
    """Free a slot, and move those behind it that could no longer be found."""
    slots = c.subtables["slots"][s]
    last = (np.int64(1) << np.int64(c.subtables["slots_class"][s])) - 1
    hole = at - slots
    place = hole
    while True:
        place = (place + 1) & last
        slot = c.pool[slots + place]
        if slot == 0:
            break
        if (place - ((slot >> 32) & last)) & last >= (place - hole) & last:
            c.pool[slots + hole] = slot
            hole = place
    c.pool[slots + hole] = 0
    c.subtables["n_slots"][s] -= 1


@kernel
def _order_place(c: Any, s: Any) -> Any:
    """Where subtable s stands in its table's order."""
    at = c.tables["order"][np.int64(c.subtables["table"][s])]
    while c.pool[at] & _U32 != s:
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
    for j in range(c.subtables["bloom"].shape[1]):
        c.subtables["bloom"][s, j] = 0
    highest = np.int64(-1)
    slots = c.subtables["slots"][s]
    for at in range(slots, slots + n_slots):
        slot = c.pool[at]
        if slot != 0:
            _mark_bloom(c, s, (slot >> 32) & _U32)
            highest = max(highest, np.int64(c.rules["priority"][(slot & _U32) - 1]))
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
        c.state["free_subtable"][0] = c.subtables["slots"][s]
    for j in range(np.int64(1) << np.int64(MIN_SLOTS_CLASS)):
        c.pool[slots + j] = 0
    for j in range(INLINE_WORDS):
        c.subtables["words"][s, j] = pairs[at + 2 * j] if j < n_words else 0
        c.subtables["masks"][s, j] = pairs[at + 2 * j + 1] if j < n_words else 0
    for j in range(2 * INLINE_WORDS, 2 * n_words):
        c.pool[extra + j - 2 * INLINE_WORDS] = pairs[at + j]
    for j in range(c.subtables["bloom"].shape[1]):
        c.subtables["bloom"][s, j] = 0
    c.subtables["n_words"][s] = n_words
    c.subtables["table"][s] = table
    c.subtables["slots"][s] = slots
    c.subtables["slots_class"][s] = MIN_SLOTS_CLASS
    c.subtables["extra"][s] = extra
    c.subtables["n_slots"][s] = 0
    c.subtables["stale"][s] = 0
    place = c.tables["order"][table] + np.int64(c.tables["n_subtables"][table])
    c.pool[place] = np.int64(-1) << 32 | s
    c.tables["n_subtables"][table] += 1
    return s


@kernel
def _remove_subtable(c: Any, s: Any) -> Any:
    table = np.int64(c.subtables["table"][s])
    end = c.tables["order"][table] + np.int64(c.tables["n_subtables"][table]) - 1
    for at in range(_order_place(c, s), end):
        c.pool[at] = c.pool[at + 1]
    c.tables["n_subtables"][table] -= 1
    release(c, c.subtables["slots"][s], np.int64(c.subtables["slots_class"][s]))
    release(c, c.subtables["extra"][s], size_class(2 * (np.int64(c.subtables["n_words"][s]) - INLINE_WORDS)))
    c.subtables["slots"][s] = c.state["free_subtable"][0]
    c.state["free_subtable"][0] = s


@kernel
def _hash_values(c: Any, s: Any, values: Any, at: Any) -> Any:
    """`_hash_key` of match values, given in the order of the subtable's words."""
    n = np.int64(c.subtables["n_words"][s])
    h = (
        mix(values[at] if n > 0 else np.int64(0), _K0)
        ^ mix(values[at + 1] if n > 1 else np.int64(0), _K1)
        ^ mix(values[at + 2] if n > 2 else np.int64(0), _K2)
        ^ mix(values[at + 3] if n > 3 else np.int64(0), _K3)
    )
    for j in range(INLINE_WORDS, n):
        h = mix(h ^ values[at + j], _KX)
    return _fold(h)


@kernel
def _has_values(c: Any, s: Any, rule: Any, values: Any, at: Any) -> Any:
    n = np.int64(c.subtables["n_words"][s])
    for j in range(n):
        if j < INLINE_WORDS:
            value = c.rules["values"][rule, j]
        else:
            value = c.pool[c.rules["extra"][rule] + j - INLINE_WORDS]
        if value != values[at + j]:
            return False
    return True


@kernel(inline=False)
def find_chain(c: Any, s: Any, values: Any, at: Any) -> Any:
    """Head of the chain of subtable s with exactly these match values, or -1."""
    hashed = _hash_values(c, s, values, at)
    slots = c.subtables["slots"][s]
    last = (np.int64(1) << np.int64(c.subtables["slots_class"][s])) - 1
    place = hashed & last
    while c.pool[slots + place] != 0:
        slot = c.pool[slots + place]
        if (slot >> 32) & _U32 == hashed and _has_values(c, s, (slot & _U32) - 1, values, at):
            return (slot & _U32) - 1
        place = (place + 1) & last
    return np.int64(-1)


@kernel
def find_rule(c: Any, s: Any, priority: Any, values: Any, at: Any) -> Any:
    """The rule of subtable s with exactly these match values and this priority, or -1."""
    rule = find_chain(c, s, values, at)
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
        _put_slot(c, c.subtables["slots"][s], np.int64(c.subtables["slots_class"][s]), hashed << 32 | rule + 1)
        c.subtables["n_slots"][s] += 1
        _mark_bloom(c, s, hashed)
    elif np.int64(c.rules["priority"][head]) < priority:
        c.rules["next"][rule] = head
        c.pool[_find_slot(c, s, head)] = hashed << 32 | rule + 1
    else:
        before = head
        after = np.int64(c.rules["next"][before])
        while after >= 0 and np.int64(c.rules["priority"][after]) > priority:
            before = after
            after = np.int64(c.rules["next"][before])
        c.rules["next"][rule] = after
        c.rules["next"][before] = rule


@kernel
def _unlink(c: Any, s: Any, rule: Any) -> Any:
    """Take a rule out of its chain, and the chain out of its slot when that was all."""
    after = np.int64(c.rules["next"][rule])
    head = _chain_head(c, s, rule)
    if head != rule:
        before = head
        while np.int64(c.rules["next"][before]) != rule:
            before = np.int64(c.rules["next"][before])
        c.rules["next"][before] = after
    elif after >= 0:
        c.pool[_find_slot(c, s, rule)] = np.int64(c.rules["hash"][rule]) << 32 | after + 1
    else:
        _remove_slot(c, s, _find_slot(c, s, rule))


@kernel
def _chain_head(c: Any, s: Any, rule: Any) -> Any:
    """Head of the chain that `rule` is in."""
    hashed = np.int64(c.rules["hash"][rule])
    slots = c.subtables["slots"][s]
    last = (np.int64(1) << np.int64(c.subtables["slots_class"][s])) - 1
    place = hashed & last
    while True:
        slot = c.pool[slots + place]
        if (slot >> 32) & _U32 == hashed:
            head = (slot & _U32) - 1
            member = head
            while member >= 0:
                if member == rule:
                    return head
                member = np.int64(c.rules["next"][member])
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
        _remove_subtable(c, s)
        return s
    c.subtables["stale"][s] += 1
    _refresh(c, s)
    return np.int64(-1)


@kernel
def _is_covered(c: Any, s: Any, rule: Any, pairs: Any, at: Any, n: Any) -> Any:
    """Whether each packet that matches `rule` matches (word, mask, value) triples too."""
    n_words = np.int64(c.subtables["n_words"][s])
    extra = c.subtables["extra"][s]
    for j in range(n):
        word = pairs[at + 3 * j]
        mask = pairs[at + 3 * j + 1]
        seen = False
        for i in range(n_words):
            if i < INLINE_WORDS:
                own_word = np.int64(c.subtables["words"][s, i])
                own_mask = c.subtables["masks"][s, i]
                value = c.rules["values"][rule, i]
            else:
                own_word = c.pool[extra + 2 * (i - INLINE_WORDS)]
                own_mask = c.pool[extra + 2 * (i - INLINE_WORDS) + 1]
                value = c.pool[c.rules["extra"][rule] + i - INLINE_WORDS]
            if own_word == word and own_mask & mask == mask and value & mask == pairs[at + 3 * j + 2]:
                seen = True
        if not seen:
            return False
    return True


@kernel
def select_subtable(c: Any, s: Any, triples: Any, n: Any, found: Any, n_found: Any) -> Any:
    """Append the rules of subtable s that the match of n (word, mask, value) triples covers; returns the new count."""
    slots = c.subtables["slots"][s]
    for at in range(slots, slots + (np.int64(1) << np.int64(c.subtables["slots_class"][s]))):
        if c.pool[at] != 0:
            rule = (c.pool[at] & _U32) - 1
            if _is_covered(c, s, rule, triples, np.int64(0), n):
                while rule >= 0:
                    found[n_found] = rule
                    n_found += 1
                    rule = np.int64(c.rules["next"][rule])
    return n_found

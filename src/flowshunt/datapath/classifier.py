"""Tuple-space search: which rule of a table has the highest priority among those that match a flow key.

A table is a list of subtables, one per distinct mask, ordered by the highest priority in them; a subtable is a hash
table from the masked words of the key to a chain of rules of equal match, highest priority first. A search probes
subtable after subtable and ends at the first whose best cannot beat what was found. Most probes miss, and most of those
read one cache line: the first word is looked up in 256 bits that say which hashes occur there, then all
words in 256 others; only what passes both is searched for. So the first word should be the one that tells rules apart.

Which of several matching rules of equal priority wins is undefined in OpenFlow; here it depends on nothing but the
rules and the order of the changes that led to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.pool import MIN_CLASS, allocate, release, size_class
from flowshunt.datapath.schema import BLOOM_WORDS, INLINE_WORDS
from flowshunt.jit import JIT, kernel

_U32 = 0xFFFFFFFF

# Odd constants, one per inline word, and one for all others.
_K0 = np.int64(0x1E3779B97F4A7C15)
_K1 = np.int64(0x3F58476D1CE4E5B9)
_K2 = np.int64(0x14D049BB133111EB)
_K3 = np.int64(0x2545F4914F6CDD1D)
_KX = np.int64(0x5851F42D4C957F2D)

MIN_SLOTS_CLASS = 2


def _times_twin(a: Any, b: Any) -> np.int64:
    product = int(a) * int(b) & 0xFFFFFFFFFFFFFFFF
    return np.int64(product - (1 << 64) if product >> 63 else product)


@kernel
def _times_compiled(a: Any, b: Any) -> Any:
    return a * b


# The product of two words, modulo 2**64, which numpy would warn of. Its high bits depend on all bits of a word, so the
# hash is its high half, and a place is taken from the top of that.
_times = _times_compiled if JIT else _times_twin


@kernel
def _first_bit(h: Any) -> Any:
    """Which bit of first_bloom stands for a product of the first word."""
    return (h >> 56) & 0xFF


@kernel
def _bit(hashed: Any) -> Any:
    """Which bit of bloom stands for a hash."""
    return (hashed >> 16) & 0xFF


@kernel
def _home(hashed: Any, slots_class: Any) -> Any:
    """The slot at which the search for a hash begins."""
    return hashed >> (32 - slots_class)


@kernel
def _masked(c: Any, s: Any, j: Any, keys: Any, k: Any) -> Any:
    """Inline word j of subtable s, beyond the first, in keys[k]."""
    return keys[k, c.subtables["words"][s, j]] & c.subtables["masks"][s, j - 1]


# What few masks need is kept out of line: inlined, its loops cost every lookup their preparations.
@kernel(inline=False)
def _hash_extra(pool: Any, extra: Any, n: Any, keys: Any, k: Any, h: Any) -> Any:
    """Take n (word, mask) pairs at `extra` into a hash."""
    for at in range(extra, extra + 2 * n, 2):
        h = _times(h ^ keys[k, pool[at]] & pool[at + 1], _KX)
    return h


@kernel(inline=False)
def _extra_differs(pool: Any, extra: Any, n: Any, keys: Any, k: Any, values: Any) -> Any:
    """Whether keys[k] lacks one of n values, those of the (word, mask) pairs at `extra`."""
    difference = np.int64(0)
    for j in range(n):
        difference |= keys[k, pool[extra + 2 * j]] & pool[extra + 2 * j + 1] ^ pool[values + j]
    return difference != 0


@kernel
def _hash_rest(c: Any, s: Any, keys: Any, k: Any, h: Any) -> Any:
    """Hash, 32 bits, of all words of subtable s in keys[k], given the product of the first."""
    h ^= _times(_masked(c, s, np.int64(1), keys, k), _K1)
    h ^= _times(_masked(c, s, np.int64(2), keys, k), _K2)
    h ^= _times(_masked(c, s, np.int64(3), keys, k), _K3)
    extra = np.int64(c.subtables["extra"][s])
    if extra != 0:
        h = _hash_extra(c.pool, extra, np.int64(c.subtables["n_words"][s]) - INLINE_WORDS, keys, k, h)
    return (h >> 32) & _U32


@kernel
def _rule_matches(c: Any, s: Any, rule: Any, keys: Any, k: Any) -> Any:
    """Whether keys[k] has the match values of `rule`, which belongs to subtable s."""
    first = keys[k, c.subtables["words"][s, 0]] & c.subtables["first_mask"][s]
    difference = first ^ c.rules["values"][rule, 0]
    for j in range(1, INLINE_WORDS):
        difference |= _masked(c, s, j, keys, k) ^ c.rules["values"][rule, j]
    if difference != 0:
        return False
    extra = np.int64(c.subtables["extra"][s])
    n = np.int64(c.subtables["n_words"][s]) - INLINE_WORDS
    return extra == 0 or not _extra_differs(c.pool, extra, n, keys, k, c.rules["extra"][rule])


@kernel
def _probe(c: Any, s: Any, hashed: Any, keys: Any, k: Any) -> Any:
    """Head of the chain of subtable s that keys[k] matches, or -1."""
    slots = np.int64(c.subtables["slots"][s])
    slots_class = np.int64(c.subtables["slots_class"][s])
    place = _home(hashed, slots_class)
    while True:
        slot = c.pool[slots + place]
        if slot == 0:
            return np.int64(-1)
        if (slot >> 32) & _U32 == hashed:
            rule = (slot & _U32) - 1
            if _rule_matches(c, s, rule, keys, k):
                return rule
        place = (place + 1) & ((np.int64(1) << slots_class) - 1)


@kernel
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
        only = np.int64(c.subtables["only"][s])
        if only >= 0:
            # A subtable of one match is compared with it, which is shorter than to search for it.
            if _rule_matches(c, s, only, keys, k):
                priority = np.int64(c.rules["priority"][only])
                if priority > best_priority:
                    best = only
                    best_priority = priority
            continue
        h = _times(keys[k, c.subtables["words"][s, 0]] & c.subtables["first_mask"][s], _K0)
        bit = _first_bit(h)
        if (c.subtables["first_bloom"][s, bit >> 6] >> (bit & 63)) & 1 == 0:
            continue
        hashed = _hash_rest(c, s, keys, k, h)
        bit = _bit(hashed)
        if (c.subtables["bloom"][s, bit >> 6] >> (bit & 63)) & 1:
            rule = _probe(c, s, hashed, keys, k)
            if rule >= 0:
                priority = np.int64(c.rules["priority"][rule])
                if priority > best_priority:
                    best = rule
                    best_priority = priority
    return best


@kernel
def _clear_bloom(c: Any, s: Any) -> Any:
    for j in range(BLOOM_WORDS):
        c.subtables["first_bloom"][s, j] = 0
        c.subtables["bloom"][s, j] = 0


@kernel
def _mark_bloom(c: Any, s: Any, rule: Any) -> Any:
    bit = _first_bit(_times(c.rules["values"][rule, 0], _K0))
    c.subtables["first_bloom"][s, bit >> 6] |= np.int64(1) << (bit & 63)
    bit = _bit(np.int64(c.rules["hash"][rule]))
    c.subtables["bloom"][s, bit >> 6] |= np.int64(1) << (bit & 63)


@kernel
def _put_slot(c: Any, slots: Any, of_class: Any, slot: Any) -> Any:
    last = (np.int64(1) << of_class) - 1
    place = _home((slot >> 32) & _U32, of_class)
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
    place = _home(hashed, slots_class)
    while c.pool[slots + place] & _U32 != rule + 1:
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
        if (place - _home((slot >> 32) & _U32, slots_class)) & last >= (place - hole) & last:
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
        c.subtables["only"][s] = (c.pool[at] & _U32) - 1


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
    _clear_bloom(c, s)
    highest = np.int64(-1)
    slots = np.int64(c.subtables["slots"][s])
    for at in range(slots, slots + n_slots):
        slot = c.pool[at]
        if slot != 0:
            head = (slot & _U32) - 1
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
        _times(_value(values, at, np.int64(0), n), _K0)
        ^ _times(_value(values, at, np.int64(1), n), _K1)
        ^ _times(_value(values, at, np.int64(2), n), _K2)
        ^ _times(_value(values, at, np.int64(3), n), _K3)
    )
    for j in range(INLINE_WORDS, n):
        h = _times(h ^ values[at + j], _KX)
    return (h >> 32) & _U32


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
    place = _home(hashed, slots_class)
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
        c.subtables["only"][s] = rule if c.subtables["n_slots"][s] == 1 else -1
        _mark_bloom(c, s, rule)
    elif np.int64(c.rules["priority"][head]) < priority:
        c.rules["next"][rule] = head
        _replace_head(c, s, head, rule)
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
        _replace_head(c, s, rule, after)
    else:
        _remove_slot(c, s, _find_slot(c, s, rule))


@kernel
def _chain_head(c: Any, s: Any, rule: Any) -> Any:
    """Head of the chain that `rule` is in."""
    hashed = np.int64(c.rules["hash"][rule])
    slots = np.int64(c.subtables["slots"][s])
    slots_class = np.int64(c.subtables["slots_class"][s])
    last = (np.int64(1) << slots_class) - 1
    place = _home(hashed, slots_class)
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
            rule = (c.pool[at] & _U32) - 1
            if _is_covered(c, s, rule, triples, n):
                while rule >= 0:
                    found[n_found] = rule
                    n_found += 1
                    rule = np.int64(c.rules["next"][rule])
    return n_found

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

from flowshunt.datapath.schema import INLINE_WORDS
from flowshunt.jit import JIT, kernel

U32 = 0xFFFFFFFF

# Odd constants, one per inline word, and one for all others.
K0 = np.int64(0x1E3779B97F4A7C15)
K1 = np.int64(0x3F58476D1CE4E5B9)
K2 = np.int64(0x14D049BB133111EB)
K3 = np.int64(0x2545F4914F6CDD1D)
KX = np.int64(0x5851F42D4C957F2D)


def _times_twin(a: Any, b: Any) -> np.int64:
    product = int(a) * int(b) & 0xFFFFFFFFFFFFFFFF
    return np.int64(product - (1 << 64) if product >> 63 else product)


@kernel
def _times_compiled(a: Any, b: Any) -> Any:
    return a * b


# The product of two words, modulo 2**64, which numpy would warn of. Its high bits depend on all bits of a word, so the
# hash is its high half, and a place is taken from the top of that.
times = _times_compiled if JIT else _times_twin


@kernel
def first_bit(h: Any) -> Any:
    """Which bit of first_bloom stands for a product of the first word."""
    return (h >> 56) & 0xFF


@kernel
def bloom_bit(hashed: Any) -> Any:
    """Which bit of bloom stands for a hash."""
    return (hashed >> 16) & 0xFF


@kernel
def home(hashed: Any, slots_class: Any) -> Any:
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
        h = times(h ^ keys[k, pool[at]] & pool[at + 1], KX)
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
    h ^= times(_masked(c, s, np.int64(1), keys, k), K1)
    h ^= times(_masked(c, s, np.int64(2), keys, k), K2)
    h ^= times(_masked(c, s, np.int64(3), keys, k), K3)
    extra = np.int64(c.subtables["extra"][s])
    if extra != 0:
        h = _hash_extra(c.pool, extra, np.int64(c.subtables["n_words"][s]) - INLINE_WORDS, keys, k, h)
    return (h >> 32) & U32


@kernel
def _rule_matches(c: Any, s: Any, rule: Any, keys: Any, k: Any) -> Any:
    """Whether keys[k] has the match values of `rule`, which belongs to subtable s."""
    first = keys[k, c.subtables["words"][s, 0]] & c.subtables["first_mask"][s]
    difference = first ^ c.rules["values"][rule, 0]
    difference |= _masked(c, s, 1, keys, k) ^ c.rules["values"][rule, 1]
    n = np.int64(c.subtables["n_words"][s])
    if n <= 2 or difference != 0:
        return difference == 0
    for j in range(2, INLINE_WORDS):
        difference |= _masked(c, s, j, keys, k) ^ c.rules["values"][rule, j]
    if difference != 0:
        return False
    extra = np.int64(c.subtables["extra"][s])
    return extra == 0 or not _extra_differs(c.pool, extra, n - INLINE_WORDS, keys, k, c.rules["extra"][rule])


@kernel
def _probe(c: Any, s: Any, hashed: Any, keys: Any, k: Any) -> Any:
    """Head of the chain of subtable s that keys[k] matches, or -1."""
    slots = np.int64(c.subtables["slots"][s])
    slots_class = np.int64(c.subtables["slots_class"][s])
    place = home(hashed, slots_class)
    while True:
        slot = c.pool[slots + place]
        if slot == 0:
            return np.int64(-1)
        if (slot >> 32) & U32 == hashed:
            rule = (slot & U32) - 1
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
        s = entry & U32
        only = np.int64(c.subtables["only"][s])
        if only >= 0:
            # A subtable of one match is compared with it, which is shorter than to search for it.
            if _rule_matches(c, s, only, keys, k):
                priority = np.int64(c.rules["priority"][only])
                if priority > best_priority:
                    best = only
                    best_priority = priority
            continue
        h = times(keys[k, c.subtables["words"][s, 0]] & c.subtables["first_mask"][s], K0)
        bit = first_bit(h)
        if (c.subtables["first_bloom"][s, bit >> 6] >> (bit & 63)) & 1 == 0:
            continue
        hashed = _hash_rest(c, s, keys, k, h)
        bit = bloom_bit(hashed)
        if (c.subtables["bloom"][s, bit >> 6] >> (bit & 63)) & 1:
            rule = _probe(c, s, hashed, keys, k)
            if rule >= 0:
                priority = np.int64(c.rules["priority"][rule])
                if priority > best_priority:
                    best = rule
                    best_priority = priority
    return best


@kernel
def matching_chain(c: Any, s: Any, keys: Any, k: Any) -> Any:
    """Head of the chain of rules of subtable s that keys[k] matches, or -1."""
    only = np.int64(c.subtables["only"][s])
    if only >= 0:
        return only if _rule_matches(c, s, only, keys, k) else np.int64(-1)
    h = times(keys[k, c.subtables["words"][s, 0]] & c.subtables["first_mask"][s], K0)
    return _probe(c, s, _hash_rest(c, s, keys, k, h), keys, k)

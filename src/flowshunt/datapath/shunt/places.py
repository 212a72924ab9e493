"""The hash table of entries: buckets as the tracker's (`conntrack.kernels.buckets`), with the same hash.

A word is `tag << 32 | entry + 1`. The hash is the same for both directions of a connection without NAT, which therefore
lie in one bucket; the lowest bit of the tag tells them apart, so that a packet asks for the right one's memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels.buckets import put, record_hash, take
from flowshunt.conntrack.schema import BUCKET_ENTRIES
from flowshunt.datapath.shunt.schema import GROW_AT, MAX_CHAIN
from flowshunt.jit import kernel, lowest_bit, match_words, prefetch

_PASSED = BUCKET_ENTRIES
_WORDS = (1 << BUCKET_ENTRIES) - 1
_ENTRY = 0xFFFFFFFF

ABSENT = -1
ELSEWHERE = -2
"""Not where it should be, but perhaps further on."""


@kernel
def entry_tag(hashed: Any, source_low: Any, destination_low: Any, word: Any) -> Any:
    """31 bits of the hash, and which end the packet comes from."""
    turned = source_low > destination_low or (
        source_low == destination_low and (word >> 48) & 0xFFFF > (word >> 32) & 0xFFFF
    )
    return (hashed >> 32) & 0xFFFFFFFE | np.int64(1 if turned else 0)


@kernel
def prefetch_place(s: Any, hashed: Any) -> Any:
    """Ask for the bucket that `hashed` begins in."""
    base = s.state["base"][0]
    prefetch(s.buckets, base + (hashed & (base - 1)), 0)


@kernel
def suggest_entry(s: Any, hashed: Any, tag: Any) -> Any:
    """An entry that has this tag, now on its way into the cache; ABSENT, ELSEWHERE."""
    base = s.state["base"][0]
    index = hashed & (base - 1)
    bucket = base + index
    matches = match_words(s.buckets, bucket, 32, tag) & _WORDS
    if matches == 0 and s.buckets[bucket, _PASSED] != 0:
        bucket = base + ((index + 1) & (base - 1))
        matches = match_words(s.buckets, bucket, 32, tag) & _WORDS
    if matches == 0:
        return np.int64(ELSEWHERE if s.buckets[bucket, _PASSED] != 0 or s.state["old_base"][0] != 0 else ABSENT)
    entry = (s.buckets[bucket, lowest_bit(matches)] & _ENTRY) - 1
    prefetch(s.entries, entry, 0)
    prefetch(s.entries, entry, 64)
    return entry


@kernel
def _meet_in(
    s: Any, base: Any, hashed: Any, tag: Any, keys: Any, k: Any, source: Any, destination: Any, word: Any, n: Any
) -> Any:
    e = s.entries
    index = hashed & (base - 1)
    for _ in range(base):
        bucket = base + index
        matches = match_words(s.buckets, bucket, 32, tag) & _WORDS
        while matches != 0:
            entry = (s.buckets[bucket, lowest_bit(matches)] & _ENTRY) - 1
            matches &= matches - 1
            if (
                e["tuple"][entry] == word
                and e["source"][entry, 1] == keys[k, source + 1]
                and e["destination"][entry, 1] == keys[k, destination + 1]
                and e["source"][entry, 0] == keys[k, source]
                and e["destination"][entry, 0] == keys[k, destination]
                and n < len(s.met)
            ):
                s.met[n] = entry
                n += 1
        if s.buckets[bucket, _PASSED] == 0:
            break
        index = (index + 1) & (base - 1)
    return n


@kernel(inline=False)
def meet_entries(s: Any, hashed: Any, keys: Any, k: Any, source: Any, destination: Any, word: Any) -> Any:
    """All entries of a tuple into `met`; returns how many.

    The addresses are those in words `source` and `destination` of keys[k], `word` the tuple word, zone 0.
    """
    tag = entry_tag(hashed, keys[k, source + 1], keys[k, destination + 1], word)
    n = _meet_in(s, s.state["base"][0], hashed, tag, keys, k, source, destination, word, np.int64(0))
    if s.state["old_base"][0] != 0:
        n = _meet_in(s, s.state["old_base"][0], hashed, tag, keys, k, source, destination, word, n)
    return n


@kernel
def hash_entry(t: Any, s: Any, entry: Any) -> Any:
    """The tuple hash of an entry's packets."""
    return record_hash(t.state, s.entries, entry)


@kernel
def _word_of(s: Any, hashed: Any, entry: Any) -> Any:
    e = s.entries
    tag = entry_tag(hashed, e["source"][entry, 1], e["destination"][entry, 1], e["tuple"][entry])
    return tag << 32 | (entry + 1)


@kernel(inline=False)
def _migrate(t: Any, s: Any, n_buckets: Any) -> Any:
    """Move up to `n_buckets` buckets of the old table into the current one; their counts stay until the end."""
    state = s.state
    old = state["old_base"][0]
    for _ in range(n_buckets):
        at = state["migrated"][0]
        if at == old:
            state["old_base"][0] = 0
            return
        for j in range(BUCKET_ENTRIES):
            word = s.buckets[old + at, j]
            if word != 0:
                s.buckets[old + at, j] = 0
                put(s, state["base"][0], hash_entry(t, s, (word & _ENTRY) - 1), word)
        state["migrated"][0] = at + 1


@kernel
def has_place(s: Any, hashed: Any) -> Any:
    """Whether two more entries of this hash can be found within MAX_CHAIN buckets."""
    base = s.state["base"][0]
    free = np.int64(0)
    for n in range(MAX_CHAIN):
        matches = match_words(s.buckets, base + ((hashed + n) & (base - 1)), 0, 0) & _WORDS
        while matches != 0:
            matches &= matches - 1
            free += 1
        if free >= 2:
            return True
    return False


@kernel(inline=False)
def insert_entry(t: Any, s: Any, hashed: Any, entry: Any) -> Any:
    """Make an entry found; grows the table by a step where that is due."""
    state = s.state
    base = state["base"][0]
    if state["old_base"][0] != 0:
        _migrate(t, s, np.int64(2))
    elif state["n_entries"][0] >= base * GROW_AT and base < state["max_base"][0]:
        state["old_base"][0] = base
        state["migrated"][0] = 0
        state["base"][0] = base * 2
    put(s, state["base"][0], hashed, _word_of(s, hashed, entry))
    state["n_entries"][0] += 1


@kernel(inline=False)
def remove_entry(t: Any, s: Any, entry: Any) -> Any:
    """Take an entry out of the table."""
    hashed = hash_entry(t, s, entry)
    word = _word_of(s, hashed, entry)
    if not take(s, s.state["base"][0], hashed, word) and s.state["old_base"][0] != 0:
        take(s, s.state["old_base"][0], hashed, word)
    s.state["n_entries"][0] -= 1

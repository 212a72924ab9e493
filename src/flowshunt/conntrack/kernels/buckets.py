"""The hash table: buckets of tagged entries that grow by doubling, a little at every insertion.

An entry is `tag << 48 | zone << 32 | row + 1`, 0 when free; tag and bucket come from the tuple hash, which knows no
zone, so that one prefetch serves a packet in every zone. A connection whose reply tuple is not its original one turned
round has a second entry, for the reply tuple, with the bit SECOND set. A full bucket passes entries on to the next one
and counts them in its last word; a search goes on exactly as far as that count says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels.tuples import hash_tuple, match_row
from flowshunt.conntrack.schema import BUCKET_ENTRIES
from flowshunt.conntrack.states import F_NAT
from flowshunt.jit import kernel, lowest_bit, match_words, prefetch

_PASSED = BUCKET_ENTRIES
_ENTRIES = (1 << BUCKET_ENTRIES) - 1
"""The words of a bucket that are entries, as bits."""
ENTRY_ROW = 0x7FFFFFFF
SECOND = 1 << 31
"""Bit of an entry: it stands for the reply tuple in the connection's extension."""
_GROW_AT = 5
"""Average entries per bucket at which the table doubles."""


@kernel
def entry_tag(hashed: Any, word: Any) -> Any:
    """Upper half of an entry: 16 bits of the hash, and the zone of a tuple word."""
    return ((hashed >> 48) & 0xFFFF) << 16 | (word >> 16) & 0xFFFF


@kernel
def prefetch_bucket(t: Any, hashed: Any) -> Any:
    """Ask for the bucket that `hashed` begins in."""
    base = t.state["base"][0]
    prefetch(t.buckets, base + (hashed & (base - 1)), 0)


@kernel
def suggest_row(t: Any, hashed: Any) -> Any:
    """A row whose entry has the tag of `hashed`, in whatever zone, and on its way into the cache; -1: none in sight.

    Second stage of a batch: the bucket should be there already. When it passed entries on, the next one is looked into
    as well, which need not be there, but which the packet would have to wait for in any case.
    """
    base = t.state["base"][0]
    index = hashed & (base - 1)
    tag = (hashed >> 48) & 0xFFFF
    matches = match_words(t.buckets, base + index, 48, tag) & _ENTRIES
    if matches == 0 and t.buckets[base + index, _PASSED] != 0:
        index = (index + 1) & (base - 1)
        matches = match_words(t.buckets, base + index, 48, tag) & _ENTRIES
    if matches == 0:
        return np.int64(-1)
    row = (t.buckets[base + index, lowest_bit(matches)] & ENTRY_ROW) - 1
    prefetch(t.conns, row, 0)
    prefetch(t.conns, row, 64)
    return row


@kernel
def _find_in(t: Any, base: Any, hashed: Any, tag: Any, keys: Any, k: Any, word: Any) -> Any:
    index = hashed & (base - 1)
    for _ in range(base):
        bucket = base + index
        matches = match_words(t.buckets, bucket, 32, tag) & _ENTRIES
        while matches != 0:
            row = (t.buckets[bucket, lowest_bit(matches)] & ENTRY_ROW) - 1
            matches &= matches - 1
            direction = match_row(t, row, keys, k, word) if row >= 0 else np.int64(-1)
            if direction >= 0:
                return row << 1 | direction
        if t.buckets[bucket, _PASSED] == 0:
            break
        index = (index + 1) & (base - 1)
    return np.int64(-1)


@kernel(inline=False)
def find(t: Any, hashed: Any, keys: Any, k: Any, word: Any) -> Any:
    """Row << 1 | direction of the connection that the packet in keys[k] belongs to, or -1.

    `word` is the packet's tuple word, zone included.
    """
    tag = entry_tag(hashed, word)
    found = _find_in(t, t.state["base"][0], hashed, tag, keys, k, word)
    if found < 0 and t.state["old_base"][0] != 0:
        found = _find_in(t, t.state["old_base"][0], hashed, tag, keys, k, word)
    return found


@kernel
def put(t: Any, base: Any, hashed: Any, entry: Any) -> Any:
    """Write `entry` into the table of `base` buckets, which has room. Any `t` that has `buckets` like these will do."""
    index = hashed & (base - 1)
    while True:
        bucket = base + index
        free = match_words(t.buckets, bucket, 0, 0) & _ENTRIES
        if free != 0:
            t.buckets[bucket, lowest_bit(free)] = entry
            return
        t.buckets[bucket, _PASSED] += 1
        index = (index + 1) & (base - 1)


@kernel
def record_hash(state: Any, records: Any, n: Any) -> Any:
    """Hash of the tuple in records[n], of CONNECTION or EXT."""
    return hash_tuple(
        state, records["source"][n, 0], records["source"][n, 1], records["destination"][n, 0],
        records["destination"][n, 1], records["tuple"][n],
    )  # fmt: skip


@kernel
def _row_hash(t: Any, row: Any) -> Any:
    return record_hash(t.state, t.conns, row)


@kernel(inline=False)
def reply_hash(t: Any, row: Any) -> Any:
    """Hash of the reply tuple of a connection that has an extension."""
    return record_hash(t.state, t.exts, np.int64(t.conns["ext"][row]) - 1)


@kernel(inline=False)
def migrate(t: Any, n_buckets: Any) -> Any:
    """Move up to `n_buckets` buckets of the old table into the current one; their counts stay until the end."""
    state = t.state
    old = state["old_base"][0]
    for _ in range(n_buckets):
        at = state["migrated"][0]
        if at == old:
            state["old_base"][0] = 0
            return
        for j in range(BUCKET_ENTRIES):
            entry = t.buckets[old + at, j]
            if entry != 0:
                t.buckets[old + at, j] = 0
                row = (entry & ENTRY_ROW) - 1
                hashed = reply_hash(t, row) if entry & SECOND else _row_hash(t, row)
                put(t, state["base"][0], hashed, entry)
        state["migrated"][0] = at + 1


@kernel
def insert(t: Any, hashed: Any, row: Any) -> Any:
    """Add an entry for a row that has none; grows the table by a step where that is due."""
    _insert(t, hashed, entry_tag(hashed, t.conns["tuple"][row]) << 32 | (row + 1))


@kernel(inline=False)
def insert_reply(t: Any, hashed: Any, row: Any) -> Any:
    """Add the second entry of a row; `hashed`: its `reply_hash`."""
    _insert(t, hashed, entry_tag(hashed, t.conns["tuple"][row]) << 32 | SECOND | (row + 1))


@kernel
def _insert(t: Any, hashed: Any, entry: Any) -> Any:
    state = t.state
    base = state["base"][0]
    if state["old_base"][0] != 0:
        migrate(t, 2)
    elif state["n_entries"][0] >= base * _GROW_AT and base < state["max_base"][0]:
        state["old_base"][0] = base
        state["migrated"][0] = 0
        state["base"][0] = base * 2
    put(t, state["base"][0], hashed, entry)
    state["n_entries"][0] += 1


@kernel
def take(t: Any, base: Any, hashed: Any, entry: Any) -> Any:
    """Remove `entry` from the table of `base` buckets; False when it is not there. Of `t` only `buckets` is used."""
    home = hashed & (base - 1)
    index = home
    for _ in range(base):
        bucket = base + index
        place = match_words(t.buckets, bucket, 0, entry) & _ENTRIES
        if place != 0:
            t.buckets[bucket, lowest_bit(place)] = 0
            while home != index:
                t.buckets[base + home, _PASSED] -= 1
                home = (home + 1) & (base - 1)
            return True
        if t.buckets[bucket, _PASSED] == 0:
            break
        index = (index + 1) & (base - 1)
    return False


@kernel
def _remove(t: Any, row: Any, hashed: Any, which: Any) -> Any:
    entry = entry_tag(hashed, t.conns["tuple"][row]) << 32 | which | (row + 1)
    if not take(t, t.state["base"][0], hashed, entry) and t.state["old_base"][0] != 0:
        take(t, t.state["old_base"][0], hashed, entry)
    t.state["n_entries"][0] -= 1


@kernel(inline=False)
def remove(t: Any, row: Any) -> Any:
    """Take the entries of `row` out of the table."""
    _remove(t, row, _row_hash(t, row), 0)
    if t.conns["flags"][row] & F_NAT:
        _remove(t, row, reply_hash(t, row), SECOND)

"""Records of the fragment store: found, taken, linked, given back; and the bounds.

A datagram is in a chain of the hash table and in two lists by age, its family's (for expiry) and its zone's (for making
room). Rows are stored + 1, so that zeroed memory is an empty store.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.fragments.schema import (
    BLOCK_SIZE,
    BY_FAMILY,
    BY_ZONE,
    MAX_CHAIN,
    N_EXPIRED,
    N_PURGED,
    UNIT,
    UNITS_PER_WORD,
)
from flowshunt.jit import kernel, mix
from flowshunt.packet.emit import copy_bytes
from flowshunt.packet.schema import W_NW_DST, W_NW_SRC

# --- finding ---------------------------------------------------------------------------------------------------------


@kernel
def hash_datagram(f: Any, keys: Any, k: Any, key: Any) -> Any:
    """Keyed hash of the addresses in keys[k] and of a datagram's key."""
    secret = f.state["key"]
    a = mix(keys[k, W_NW_SRC + 1] ^ secret[0, 0], keys[k, W_NW_SRC] ^ secret[0, 1])
    b = mix(keys[k, W_NW_DST + 1] ^ secret[0, 2], keys[k, W_NW_DST] ^ secret[0, 3])
    return mix(a ^ key, b ^ secret[0, 1])


@kernel
def find(f: Any, keys: Any, k: Any, key: Any, hashed: Any) -> Any:
    """Row of the datagram with the addresses in keys[k] and this key; -1: none."""
    d = f.datagrams
    row = np.int64(f.buckets[hashed & (len(f.buckets) - 1)]) - 1
    while row >= 0:
        if (
            d["key"][row] == key
            and d["source"][row, 1] == keys[k, W_NW_SRC + 1]
            and d["destination"][row, 1] == keys[k, W_NW_DST + 1]
            and d["source"][row, 0] == keys[k, W_NW_SRC]
            and d["destination"][row, 0] == keys[k, W_NW_DST]
        ):
            return row
        row = np.int64(d["chain"][row]) - 1
    return row


@kernel
def family_of(f: Any, row: Any) -> Any:
    """0 for IPv4, 1 for IPv6."""
    return (f.datagrams["key"][row] >> 40) & 1


@kernel
def zone_of(f: Any, row: Any) -> Any:
    """The zone of a datagram."""
    return (f.datagrams["key"][row] >> 48) & 0xFFFF


# --- lists -----------------------------------------------------------------------------------------------------------


@kernel
def _append(d: Any, crowds: Any, crowd: Any, by: Any, row: Any) -> Any:
    before = np.int64(crowds["newest"][crowd])
    d["older"][row, by] = before
    d["newer"][row, by] = 0
    if before != 0:
        d["newer"][before - 1, by] = row + 1
    else:
        crowds["oldest"][crowd] = row + 1
    crowds["newest"][crowd] = row + 1


@kernel
def _leave(d: Any, crowds: Any, crowd: Any, by: Any, row: Any) -> Any:
    older = np.int64(d["older"][row, by])
    newer = np.int64(d["newer"][row, by])
    if older != 0:
        d["newer"][older - 1, by] = newer
    else:
        crowds["oldest"][crowd] = newer
    if newer != 0:
        d["older"][newer - 1, by] = older
    else:
        crowds["newest"][crowd] = older


# --- datagrams -------------------------------------------------------------------------------------------------------


@kernel(inline=False)
def take_datagram(f: Any, keys: Any, k: Any, key: Any, hashed: Any, now: Any, packet: Any) -> Any:
    """A new datagram without fragments; those in its way make room."""
    state = f.state
    if state["n_datagrams"][0] == len(f.datagrams):
        destroy(f, _oldest(f, np.int64(-1)), N_PURGED)
    row = state["free_datagram"][0] - 1
    d = f.datagrams
    if row >= 0:
        state["free_datagram"][0] = d["chain"][row]
    else:
        row = state["fresh_datagram"][0]
        state["fresh_datagram"][0] = row + 1
    state["n_datagrams"][0] += 1
    for half in range(2):
        d["source"][row, half] = keys[k, W_NW_SRC + half]
        d["destination"][row, half] = keys[k, W_NW_DST + half]
    d["key"][row] = key
    d["hash"][row] = hashed
    d["created_ms"][row] = now
    d["packet"][row] = packet
    _clear(d, row)
    d["refused"][row] = 0
    _append(d, f.families, family_of(f, row), BY_FAMILY, row)
    _append(d, f.zones, zone_of(f, row), BY_ZONE, row)
    _enter_chain(f, row)
    return row


@kernel
def _clear(d: Any, row: Any) -> Any:
    d["units"][row] = 0
    d["end"][row] = 0
    d["total"][row] = 0
    d["mru"][row] = 0
    d["mru_df"][row] = 0
    d["n_fragments"][row] = 0
    d["n_blocks"][row] = 0
    d["first"][row] = 0
    d["fragments"][row] = 0
    d["congested"][row] = 0


@kernel
def _enter_chain(f: Any, row: Any) -> Any:
    """Put a datagram at the head of its chain; the last one of a full chain, the oldest, goes."""
    d = f.datagrams
    place = d["hash"][row] & (len(f.buckets) - 1)
    last = np.int64(f.buckets[place]) - 1
    d["chain"][row] = last + 1
    f.buckets[place] = row + 1
    length = 1
    while last >= 0 and d["chain"][last] != 0:
        last = np.int64(d["chain"][last]) - 1
        length += 1
    if length >= MAX_CHAIN:
        destroy(f, last, N_PURGED)


@kernel
def _leave_chain(f: Any, row: Any) -> Any:
    d = f.datagrams
    place = d["hash"][row] & (len(f.buckets) - 1)
    following = np.int64(d["chain"][row])
    before = np.int64(f.buckets[place]) - 1
    if before == row:
        f.buckets[place] = following
        return
    while d["chain"][before] != row + 1:
        before = np.int64(d["chain"][before]) - 1
    d["chain"][before] = following


@kernel(inline=False)
def destroy(f: Any, row: Any, counter: Any) -> Any:
    """Give a datagram and its fragments back, counting the fragments."""
    empty(f, row, counter)
    _leave_chain(f, row)
    _leave(f.datagrams, f.families, family_of(f, row), BY_FAMILY, row)
    _leave(f.datagrams, f.zones, zone_of(f, row), BY_ZONE, row)
    f.datagrams["chain"][row] = f.state["free_datagram"][0]
    f.state["free_datagram"][0] = row + 1
    f.state["n_datagrams"][0] -= 1


@kernel(inline=False)
def empty(f: Any, row: Any, counter: Any) -> Any:
    """Give a datagram's fragments back, counting them."""
    d = f.datagrams
    n = np.int64(d["n_fragments"][row])
    f.counters[family_of(f, row), counter] += n
    _count(f, row, -n, -np.int64(d["n_blocks"][row]))
    fragment = np.int64(d["fragments"][row]) - 1
    while fragment >= 0:
        following = np.int64(f.fragments["next"][fragment]) - 1
        start = np.int64(f.fragments["start"][fragment])
        end = start + np.int64(f.fragments["size"][fragment])
        for word in range(start // UNIT // UNITS_PER_WORD, (end - 1) // UNIT // UNITS_PER_WORD + 1):
            f.bits[row, word] = 0
        _release_blocks(f, np.int64(f.fragments["block"][fragment]) - 1)
        f.fragments["next"][fragment] = f.state["free_fragment"][0]
        f.state["free_fragment"][0] = fragment + 1
        fragment = following
    _clear(d, row)


@kernel
def _count(f: Any, row: Any, n_fragments: Any, n_blocks: Any) -> Any:
    f.state["n_fragments"][0] += n_fragments
    f.state["n_blocks"][0] += n_blocks
    family = family_of(f, row)
    f.families["n_fragments"][family] += n_fragments
    f.families["n_blocks"][family] += n_blocks
    zone = zone_of(f, row)
    f.zones["n_fragments"][zone] += n_fragments
    f.zones["n_blocks"][zone] += n_blocks
    if f.zones["n_blocks"][zone] > f.zones["n_blocks"][f.state["largest_zone"][0]]:
        f.state["largest_zone"][0] = zone


# --- time and room ---------------------------------------------------------------------------------------------------


@kernel(inline=False)
def expire_due(f: Any, now: Any) -> Any:
    """Destroy the datagrams whose time is over at `now`; returns how many fragments went.

    A datagram from the future goes as well: the clock was set back.
    """
    before = f.state["n_fragments"][0]
    d = f.datagrams
    for family in range(2):
        row = np.int64(f.families["oldest"][family]) - 1
        while row >= 0 and not 0 <= now - d["created_ms"][row] < f.state["timeout_ms"][0, family]:
            destroy(f, row, N_EXPIRED)
            row = np.int64(f.families["oldest"][family]) - 1
    return before - f.state["n_fragments"][0]


@kernel
def _oldest(f: Any, spared: Any) -> Any:
    """The oldest datagram but `spared`; -1: there is none."""
    d = f.datagrams
    found = np.int64(-1)
    for family in range(2):
        row = np.int64(f.families["oldest"][family]) - 1
        if row >= 0 and row == spared:
            row = np.int64(d["newer"][row, BY_FAMILY]) - 1
        if row >= 0 and (found < 0 or d["packet"][row] < d["packet"][found]):
            found = row
    return found


@kernel
def _oldest_of_zone(f: Any, zone: Any, spared: Any) -> Any:
    row = np.int64(f.zones["oldest"][zone]) - 1
    if row >= 0 and row == spared:
        row = np.int64(f.datagrams["newer"][row, BY_ZONE]) - 1
    return row


@kernel(inline=False)
def make_room(f: Any, zone: Any, n_blocks: Any, spared: Any) -> Any:
    """Make room for one more fragment of `n_blocks` in `zone`: the oldest datagrams go, never `spared` (-1: none).

    A zone at its own limit loses its own; otherwise the zone that takes the most memory does. Returns False when
    nothing is left that could go.
    """
    state = f.state
    while True:
        n_zone = np.int64(f.zones["n_fragments"][zone])
        size_zone = np.int64(f.zones["n_blocks"][zone])
        if n_zone >= state["max_zone_fragments"][0] or size_zone + n_blocks > state["max_zone_blocks"][0]:
            row = _oldest_of_zone(f, zone, spared)
        elif state["n_fragments"][0] >= min(state["max_fragments"][0], len(f.fragments)) or state["n_blocks"][
            0
        ] + n_blocks > len(f.next_block):
            largest = state["largest_zone"][0]
            row = _oldest_of_zone(f, largest if f.zones["n_blocks"][largest] > size_zone else zone, spared)
            if row < 0:  # the zone that was the largest is so no more
                row = _oldest(f, spared)
            if row >= 0:
                state["largest_zone"][0] = zone_of(f, row)
        else:
            return True
        if row < 0:
            return False
        destroy(f, row, N_PURGED)


# --- fragments and their bytes ---------------------------------------------------------------------------------------


@kernel
def _release_blocks(f: Any, first: Any) -> Any:
    last = first
    while f.next_block[last] != 0:
        last = np.int64(f.next_block[last]) - 1
    f.next_block[last] = f.state["free_block"][0]
    f.state["free_block"][0] = first + 1


@kernel
def _take_block(f: Any) -> Any:
    block = f.state["free_block"][0] - 1
    if block >= 0:
        f.state["free_block"][0] = np.int64(f.next_block[block])
    else:
        block = f.state["fresh_block"][0]
        f.state["fresh_block"][0] = block + 1
    f.next_block[block] = 0
    return block


@kernel
def blocks_for(size: Any) -> Any:
    """How many blocks hold so many bytes; at least one."""
    return max((size + BLOCK_SIZE - 1) // BLOCK_SIZE, 1)


@kernel(inline=False)
def add_fragment(f: Any, row: Any, data: Any, at: Any, size: Any) -> Any:
    """Keep data[at:at + size] as a fragment of a datagram; there is room. Returns the fragment, to be filled in."""
    state = f.state
    fragment = state["free_fragment"][0] - 1
    if fragment >= 0:
        state["free_fragment"][0] = np.int64(f.fragments["next"][fragment])
    else:
        fragment = state["fresh_fragment"][0]
        state["fresh_fragment"][0] = fragment + 1
    n_blocks = blocks_for(size)
    before = np.int64(-1)
    for n in range(n_blocks):
        block = _take_block(f)
        if before < 0:
            f.fragments["block"][fragment] = block + 1
        else:
            f.next_block[before] = block + 1
        done = n * BLOCK_SIZE
        copy_bytes(data, at + done, f.blocks, block * BLOCK_SIZE, min(size - done, BLOCK_SIZE))
        before = block
    d = f.datagrams
    f.fragments["next"][fragment] = d["fragments"][row]
    d["fragments"][row] = fragment + 1
    d["n_fragments"][row] += 1
    d["n_blocks"][row] += n_blocks
    _count(f, row, np.int64(1), n_blocks)
    return fragment


@kernel(inline=False)
def copy_out(f: Any, fragment: Any, skip: Any, size: Any, out: Any, to: Any) -> Any:
    """Copy `size` bytes of a fragment, from byte `skip` of what was kept, to out[to:]."""
    block = np.int64(f.fragments["block"][fragment]) - 1
    while skip >= BLOCK_SIZE:
        skip -= BLOCK_SIZE
        block = np.int64(f.next_block[block]) - 1
    while size > 0:
        n = min(size, BLOCK_SIZE - skip)
        copy_bytes(f.blocks, block * BLOCK_SIZE + skip, out, to, n)
        to += n
        size -= n
        skip = np.int64(0)
        block = np.int64(f.next_block[block]) - 1


# --- units -----------------------------------------------------------------------------------------------------------


@kernel
def _word_mask(word: Any, first: Any, last: Any) -> Any:
    """The bits of units [first, last) that lie in this word."""
    low = max(first - word * UNITS_PER_WORD, 0)
    high = min(last - word * UNITS_PER_WORD, UNITS_PER_WORD)
    return (1 << high) - (1 << low)


@kernel
def count_units(f: Any, row: Any, start: Any, end: Any) -> Any:
    """How many units of the payload bytes [start, end), end > start, are there already: 0, all of them (1), or -1."""
    first = start // UNIT
    last = (end + UNIT - 1) // UNIT
    any_set = np.int64(0)
    any_clear = np.int64(0)
    for word in range(first // UNITS_PER_WORD, (last - 1) // UNITS_PER_WORD + 1):
        mask = _word_mask(word, first, last)
        bits = np.int64(f.bits[row, word])
        any_set |= bits & mask
        any_clear |= ~bits & mask
    if any_set == 0:
        return np.int64(0)
    return np.int64(1) if any_clear == 0 else np.int64(-1)


@kernel
def set_units(f: Any, row: Any, start: Any, end: Any) -> Any:
    """Note that the payload bytes [start, end) are there."""
    first = start // UNIT
    last = (end + UNIT - 1) // UNIT
    for word in range(first // UNITS_PER_WORD, (last - 1) // UNITS_PER_WORD + 1):
        f.bits[row, word] = np.int64(f.bits[row, word]) | _word_mask(word, first, last)
    f.datagrams["units"][row] += last - first

"""Pools: which ports of a crowded range are taken.

Where few ports of a range are free, trying them one by one takes long, and most of all when none is. So a range in
which a number of tries found nothing gets a pool: a bit for each of the 65536 ports, and for each word of 64 the
earliest time at which one of its connections may expire. A pool belongs to all that is fixed while ports are tried: the
rest of the reply tuple, the zone, and the side that the port is at. Its words are filled when they are first looked at
(64 lookups) and kept right from then on, by every connection that begins, ends, or gets a shorter life.

A bit says *taken* only if that is so; a bit that is clear is tried before it is used. Expired connections that were not
swept yet count as gone, so what is found does not depend on when that is done. So that no packet has to wait for all
words at once, each port that is found pays for one word more, and of the words in which something may have expired only
so many are filled again for one packet; the others count as taken until the next. There is a fixed number of pools; the
one used longest ago gives way. A tracker that never had a crowded range has none, and pays one test per connection.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.kernels.trial import SIDE_DESTINATION, SIDE_SOURCE, occupant, port_of, with_port
from flowshunt.conntrack.kernels.tuples import KIND_ICMP, has_ports, turn_word
from flowshunt.conntrack.states import F_NAT, WATCH_HELD
from flowshunt.jit import kernel, lowest_bit, mix
from flowshunt.packet.schema import W_NW_DST, W_NW_SRC

NEVER_MS = 1 << 62

_DUE_AT_ONCE = 64
"""Words that are filled again, since a connection may have expired, for one packet; 4096 ports."""

BEGAN = 0
ENDED = 1
SHORTENED = 2
"""What `note_ports` is told about a connection."""

_RIGHT, _UNKNOWN, _DUE = range(3)


@kernel
def _pool_key(state: Any, high_a: Any, low_a: Any, high_b: Any, low_b: Any, word: Any, side: Any) -> Any:
    """Hash of a tuple without the port at `side`; the zone counts, and so does the order of the ends."""
    key = state["key"]
    fixed = with_port(word, side, 0)
    a = mix(low_a ^ key[0, 0], high_a ^ key[0, 1])
    b = mix(low_b ^ key[0, 2], high_b ^ key[0, 3])
    side = np.int64(0) if word & KIND_ICMP else side
    return mix(a ^ key[0, 3] ^ side, b ^ fixed) | 1


@kernel
def _set_of(key: Any) -> Any:
    return ((key >> 8) & (C.POOL_SETS - 1)) * C.POOL_WAYS


@kernel
def _find_pool(t: Any, key: Any) -> Any:
    first = _set_of(key)
    for n in range(first, first + C.POOL_WAYS):
        if t.pools["key"][n] == key:
            return np.int64(n)
    return np.int64(-1)


@kernel(inline=False)
def find_pool(t: Any, word: Any, side: Any) -> Any:
    """The pool of the tuple in `nat_key` and `word`, or -1."""
    if t.state["n_pools"][0] == 0:
        return np.int64(-1)
    k = t.nat_key
    return _find_pool(
        t, _pool_key(t.state, k[0, W_NW_SRC], k[0, W_NW_SRC + 1], k[0, W_NW_DST], k[0, W_NW_DST + 1], word, side)
    )


@kernel(inline=False)
def make_pool(t: Any, word: Any, side: Any) -> Any:
    """A pool that knows nothing yet for that tuple, which has none; of its set, the one used longest ago gives way."""
    p, k = t.pools, t.nat_key
    key = _pool_key(t.state, k[0, W_NW_SRC], k[0, W_NW_SRC + 1], k[0, W_NW_DST], k[0, W_NW_DST + 1], word, side)
    first = _set_of(key)
    chosen = first
    for n in range(first, first + C.POOL_WAYS):
        if p["used"][n] < p["used"][chosen]:
            chosen = np.int64(n)
    if p["key"][chosen] == 0:
        t.state["n_pools"][0] += 1
    p["key"][chosen] = key
    p["full_range"][chosen] = -1
    p["ahead"][chosen] = 0
    for n in range(C.POOL_WORDS // 64):
        p["known"][chosen, n] = 0
    return chosen


@kernel(inline=False)
def _fill(t: Any, pool: Any, n: Any, word: Any, side: Any, now: Any) -> Any:
    """Find out who has the 64 ports of word n."""
    taken = np.int64(0)
    soonest = np.int64(NEVER_MS)
    for bit in range(64):
        row = occupant(t, with_port(word, side, n * 64 + bit))
        # one that is held is asked before it ends (rows.is_over, which imports this module)
        if row >= 0 and (t.conns["expires_ms"][row] > now or t.conns["watch"][row] & WATCH_HELD):
            taken |= np.int64(1) << bit
            soonest = min(soonest, max(t.conns["expires_ms"][row], now + 1))
    t.pool_ports[pool, n] = taken
    t.pool_expiry[pool, n] = soonest
    t.pools["known"][pool, n >> 6] |= np.int64(1) << (n & 63)


@kernel
def _look(t: Any, pool: Any, n: Any, now: Any) -> Any:
    """What word n is worth: _RIGHT, _UNKNOWN, or _DUE when one of its connections may have expired."""
    if (t.pools["known"][pool, n >> 6] >> (n & 63)) & 1 == 0:
        return np.int64(_UNKNOWN)
    return np.int64(_DUE if t.pool_expiry[pool, n] <= now else _RIGHT)


@kernel
def _fill_ahead(t: Any, pool: Any, first: Any, last: Any, word: Any, side: Any, now: Any) -> Any:
    """Fill the next word of the range that nobody has looked at yet."""
    n = max(t.pools["ahead"][pool], first >> 6)
    if n <= last >> 6:
        if _look(t, pool, n, now) == _UNKNOWN:
            _fill(t, pool, n, word, side, now)
        t.pools["ahead"][pool] = n + 1


@kernel
def _in_range(n: Any, first: Any, last: Any) -> Any:
    """The bits of word n that are ports of `[first, last]`."""
    low = max(first - n * 64, 0)
    high = min(last - n * 64, 63)
    mask = np.int64(-1) << low
    return mask if high == 63 else mask & ~(np.int64(-1) << (high + 1))


@kernel(inline=False)
def search_pool(t: Any, pool: Any, word: Any, side: Any, first: Any, last: Any, start: Any, now: Any) -> Any:
    """A port of `[first, last]` that seems free, from `start` on by words of 64, or -1: all are taken at `now`.

    The caller tries the port, says so by `mark_taken` if it is not free after all, and asks again.
    """
    p = t.pools
    t.state["pool_uses"][0] += 1
    p["used"][pool] = t.state["pool_uses"][0]
    ports = first << 16 | last
    if p["full_range"][pool] == ports and now < p["full_until"][pool]:
        return np.int64(-1)
    n_words = (last >> 6) - (first >> 6) + 1
    n = start >> 6
    n_due = np.int64(0)
    soonest = np.int64(NEVER_MS)
    for _ in range(n_words):
        state = _look(t, pool, n, now)
        n_due += state == _DUE
        if state == _UNKNOWN or (state == _DUE and n_due <= _DUE_AT_ONCE):
            _fill(t, pool, n, word, side, now)
            state = np.int64(_RIGHT)
        free = ~t.pool_ports[pool, n] & _in_range(n, first, last)
        if state == _RIGHT and free != 0:
            _fill_ahead(t, pool, first, last, word, side, now)
            return n * 64 + lowest_bit(free)
        soonest = min(soonest, t.pool_expiry[pool, n])
        n = first >> 6 if n == last >> 6 else n + 1
    if n_due > _DUE_AT_ONCE:
        return np.int64(-1)
    p["full_range"][pool] = ports
    p["full_until"][pool] = soonest
    return np.int64(-1)


@kernel(inline=False)
def mark_taken(t: Any, pool: Any, port: Any, expires: Any) -> Any:
    """A port belongs to a connection that expires then, at the earliest."""
    n = port >> 6
    t.pool_ports[pool, n] |= np.int64(1) << (port & 63)
    if expires < t.pool_expiry[pool, n]:
        t.pool_expiry[pool, n] = expires
        t.pools["full_until"][pool] = min(t.pools["full_until"][pool], expires)


@kernel
def _note(t: Any, pool: Any, port: Any, what: Any, expires: Any) -> Any:
    if what == ENDED:
        t.pool_ports[pool, port >> 6] &= ~(np.int64(1) << (port & 63))
        t.pools["full_range"][pool] = -1
    else:
        mark_taken(t, pool, port, expires)


@kernel
def _note_tuple(t: Any, high_a: Any, low_a: Any, high_b: Any, low_b: Any, word: Any, what: Any, expires: Any) -> Any:
    for side in range(SIDE_SOURCE, SIDE_DESTINATION + 1):
        if side == SIDE_SOURCE or word & KIND_ICMP == 0:
            pool = _find_pool(t, _pool_key(t.state, high_a, low_a, high_b, low_b, word, np.int64(side)))
            if pool >= 0:
                _note(t, pool, port_of(word, side), what, expires)


@kernel(inline=False)
def note_ports(t: Any, row: Any, what: Any) -> Any:
    """Tell the pools that a connection began, is about to end, or got a shorter life."""
    c, e = t.conns, t.exts
    word = c["tuple"][row]
    if not has_ports((word >> 8) & 0xFF) and word & KIND_ICMP == 0:
        return
    a, b = c["source"], c["destination"]
    expires = c["expires_ms"][row]
    _note_tuple(t, a[row, 0], a[row, 1], b[row, 0], b[row, 1], word, what, expires)
    if c["flags"][row] & F_NAT:
        ext = np.int64(c["ext"][row]) - 1
        a, b = e["source"], e["destination"]
        _note_tuple(t, a[ext, 0], a[ext, 1], b[ext, 0], b[ext, 1], e["tuple"][ext], what, expires)
    else:
        _note_tuple(t, b[row, 0], b[row, 1], a[row, 0], a[row, 1], turn_word(word), what, expires)

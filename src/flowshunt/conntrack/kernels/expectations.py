"""Expectations: connections that others announced, known before their first packet.

A bounded table beside that of the connections, looked at only by packets without a connection, and not even by those
while it is empty. An expectation is in three lists: the chain of its hash, those of its parent, and all of them by age,
from whose old end what has expired is taken; all live equally long.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack import states as S
from flowshunt.conntrack.kernels.extensions import take_ext
from flowshunt.conntrack.kernels.statistics import count
from flowshunt.jit import kernel, mix
from flowshunt.packet.schema import W_NW_DST, W_NW_SRC

_BUT_SOURCE_PORT = (1 << 48) - 1


@kernel
def expected_word(word: Any) -> Any:
    """A tuple word, zone included, without the port of the source."""
    return word & _BUT_SOURCE_PORT


@kernel
def _count(t: Any, place: Any, counter: Any) -> Any:
    """Count for the zone and protocol of an expectation, also of one that has just been dropped."""
    word = t.expectations["tuple"][place]
    count(t, (word >> 16) & 0xFFFF, (word >> 8) & 0xFF, counter)


@kernel
def _chain(t: Any, high: Any, low: Any, word: Any) -> Any:
    """Place in `expected` for a destination and its expected word."""
    key = t.state["key"]
    hashed = mix(low ^ key[0, 0], high ^ key[0, 1]) ^ mix(word ^ key[0, 2], key[0, 3])
    return hashed & (len(t.expected) - 1)


@kernel
def _parent_lives(t: Any, place: Any, now: Any) -> Any:
    """Whether the connection that made an expectation goes on, swept or not (rows.is_over, which imports this)."""
    row = np.int64(t.expectations["parent_row"][place])
    return t.conns["expires_ms"][row] > now or t.conns["watch"][row] & S.WATCH_HELD != 0


@kernel
def _is_valid(t: Any, place: Any, now: Any) -> Any:
    """Whether an expectation's time is not over; one from far ahead is from before the clock was set back."""
    return 0 < t.expectations["expires_ms"][place] - now <= C.EXPECTATION_MS


@kernel(inline=False)
def find_expectation(t: Any, keys: Any, k: Any, word: Any, now: Any) -> Any:
    """The expectation that a packet without a connection fulfils, or -1. `word`: its tuple word, zone included."""
    x = t.expectations
    wanted = expected_word(word)
    found = np.int64(t.expected[_chain(t, keys[k, W_NW_DST], keys[k, W_NW_DST + 1], wanted)]) - 1
    while found >= 0:
        if (
            x["tuple"][found] == wanted
            and x["destination"][found, 0] == keys[k, W_NW_DST]
            and x["destination"][found, 1] == keys[k, W_NW_DST + 1]
            and (
                np.int64(x["flags"][found]) & C.EXPECT_ANY_SOURCE
                or (x["source"][found, 0] == keys[k, W_NW_SRC] and x["source"][found, 1] == keys[k, W_NW_SRC + 1])
            )
            and _is_valid(t, found, now)
            and _parent_lives(t, found, now)
        ):
            return found
        found = np.int64(x["next"][found]) - 1
    return found


@kernel
def _same(x: Any, a: Any, b: Any) -> Any:
    """Whether two expectations let the same connections in."""
    return (
        x["tuple"][a] == x["tuple"][b]
        and x["destination"][a, 0] == x["destination"][b, 0]
        and x["destination"][a, 1] == x["destination"][b, 1]
        and x["source"][a, 0] == x["source"][b, 0]
        and x["source"][a, 1] == x["source"][b, 1]
        and (np.int64(x["flags"][a]) ^ np.int64(x["flags"][b])) & C.EXPECT_ANY_SOURCE == 0
    )


@kernel
def _unchain(t: Any, place: Any) -> Any:
    x = t.expectations
    chain = _chain(t, x["destination"][place, 0], x["destination"][place, 1], x["tuple"][place])
    before = np.int64(t.expected[chain]) - 1
    if before == place:
        t.expected[chain] = x["next"][place]
        return
    while np.int64(x["next"][before]) - 1 != place:
        before = np.int64(x["next"][before]) - 1
    x["next"][before] = x["next"][place]


@kernel
def _leave_parent(t: Any, place: Any) -> Any:
    x = t.expectations
    ext = np.int64(t.conns["ext"][np.int64(x["parent_row"][place])]) - 1
    before = np.int64(t.exts["expected"][ext]) - 1
    if before == place:
        t.exts["expected"][ext] = x["sibling"][place]
        return
    while np.int64(x["sibling"][before]) - 1 != place:
        before = np.int64(x["sibling"][before]) - 1
    x["sibling"][before] = x["sibling"][place]


@kernel(inline=False)
def drop_expectation(t: Any, place: Any) -> Any:
    """Remove an expectation, whose parent lives."""
    x = t.expectations
    state = t.state
    _unchain(t, place)
    _leave_parent(t, place)
    older = np.int64(x["older"][place])
    newer = np.int64(x["newer"][place])
    if older:
        x["newer"][older - 1] = newer
    else:
        state["oldest_expected"][0] = newer
    if newer:
        x["older"][newer - 1] = older
    else:
        state["newest_expected"][0] = older
    x["next"][place] = state["free_expected"][0]
    state["free_expected"][0] = place + 1
    state["n_expected"][0] -= 1


@kernel(inline=False)
def drop_expectations_of(t: Any, row: Any) -> Any:
    """Remove all expectations of a connection that ends and has an extension record."""
    ext = np.int64(t.conns["ext"][row]) - 1
    while t.exts["expected"][ext] != 0:
        place = np.int64(t.exts["expected"][ext]) - 1
        drop_expectation(t, place)
        _count(t, place, np.int64(C.C_EXPECT_ENDED))


@kernel(inline=False)
def drop_expired(t: Any, now: Any) -> Any:
    """Remove the expectations that have expired at `now`."""
    while t.state["oldest_expected"][0] != 0:
        oldest = t.state["oldest_expected"][0] - 1
        if _is_valid(t, oldest, now):
            return
        drop_expectation(t, oldest)
        _count(t, oldest, np.int64(C.C_EXPECT_EXPIRED))


@kernel
def _take_place(t: Any) -> Any:
    """A free record, or -1."""
    state = t.state
    if state["free_expected"][0] != 0:
        place = state["free_expected"][0] - 1
        state["free_expected"][0] = np.int64(t.expectations["next"][place])
        return place
    place = state["fresh_expected"][0]
    if place >= len(t.expectations):
        return np.int64(-1)
    state["fresh_expected"][0] = place + 1
    return place


@kernel
def _find_same(t: Any, place: Any) -> Any:
    """The expectation in the table that lets the same connections in as the one at `place`, which is not in it."""
    x = t.expectations
    chain = _chain(t, x["destination"][place, 0], x["destination"][place, 1], x["tuple"][place])
    found = np.int64(t.expected[chain]) - 1
    while found >= 0 and not _same(x, found, place):
        found = np.int64(x["next"][found]) - 1
    return found


@kernel
def _evict_siblings(t: Any, ext: Any, most: Any) -> Any:
    """Make room for one more of `most` expectations of a parent: its oldest go."""
    x = t.expectations
    n = 0
    place = np.int64(t.exts["expected"][ext]) - 1
    while place >= 0:
        following = np.int64(x["sibling"][place]) - 1
        n += 1
        if n >= most:
            drop_expectation(t, place)
            _count(t, place, np.int64(C.C_EXPECT_EVICTED))
        place = following


@kernel
def _link(t: Any, place: Any, ext: Any) -> Any:
    x = t.expectations
    state = t.state
    chain = _chain(t, x["destination"][place, 0], x["destination"][place, 1], x["tuple"][place])
    x["next"][place] = t.expected[chain]
    t.expected[chain] = place + 1
    x["sibling"][place] = t.exts["expected"][ext]
    t.exts["expected"][ext] = place + 1
    newest = state["newest_expected"][0]
    x["newer"][place] = 0
    x["older"][place] = newest
    if newest:
        x["newer"][newest - 1] = place + 1
    else:
        state["oldest_expected"][0] = place + 1
    state["newest_expected"][0] = place + 1
    state["n_expected"][0] += 1


@kernel(inline=False)
def add_expectation(t: Any, wanted: Any, most: Any, now: Any) -> Any:
    """Expect what wanted[0] (EXPECTATION, lists aside) says of a living parent. Returns whether it is expected now.

    One of the same parent that lets the same connections in is replaced; another's stays, and the new one is refused,
    as it is when the table is full. A parent has at most `most`; its oldest make room.
    """
    drop_expired(t, now)
    row = np.int64(wanted["parent_row"][0])
    ext = take_ext(t, row)
    place = _take_place(t)
    if place < 0:
        word = wanted["tuple"][0]
        count(t, (word >> 16) & 0xFFFF, (word >> 8) & 0xFF, np.int64(C.C_EXPECT_REFUSED))
        return False
    x = t.expectations
    x[place] = wanted[0]
    same = _find_same(t, place)
    if same >= 0 and np.int64(x["parent_row"][same]) != row:
        x["next"][place] = t.state["free_expected"][0]
        t.state["free_expected"][0] = place + 1
        _count(t, place, np.int64(C.C_EXPECT_REFUSED))
        return False
    if same >= 0:
        drop_expectation(t, same)
    _evict_siblings(t, ext, most)
    _link(t, place, ext)
    _count(t, place, np.int64(C.C_EXPECT_MADE))
    return True


@kernel(inline=False)
def adopt(t: Any, row: Any, place: Any) -> Any:
    """Make a new connection that fulfils an expectation its parent's: mark and label, and whose it is.

    The expectation is used up, unless it stays.
    """
    x = t.expectations
    c = t.conns
    parent = np.int64(x["parent_row"][place])
    if x["parent_generation"][place] != c["generation"][parent]:
        return  # it had to make room for this one
    ext = take_ext(t, row)
    t.exts["parent_row"][ext] = parent
    t.exts["parent_generation"][ext] = x["parent_generation"][place]
    c["mark"][row] = c["mark"][parent]
    if c["flags"][parent] & S.F_HAS_LABEL:
        c["flags"][row] = np.int64(c["flags"][row]) | S.F_HAS_LABEL
        for half in range(2):
            c["label"][row, half] = c["label"][parent, half]
    if np.int64(x["flags"][place]) & C.EXPECT_STAYS == 0:
        drop_expectation(t, place)
    _count(t, place, np.int64(C.C_EXPECTED))


@kernel(inline=False)
def shown_origin(t: Any, row: Any) -> Any:
    """Row whose original tuple packets of `row` show, which has an extension record: its living parent, or itself."""
    ext = np.int64(t.conns["ext"][row]) - 1
    parent = np.int64(t.exts["parent_row"][ext])
    if parent == C.NO_PARENT or t.exts["parent_generation"][ext] != t.conns["generation"][parent]:
        return row
    return parent


@kernel
def attach_helper(t: Any, row: Any, helper: Any) -> Any:
    """Give a new connection a helper (states.HELPER_NAMES)."""
    t.exts["helper"][take_ext(t, row)] = helper


@kernel(inline=False)
def helper_by_port(t: Any, word: Any) -> Any:
    """The helper that a connection of this tuple word gets without being told; 0: none."""
    wanted = (word >> 8 & 0xFF) << 16 | (word >> 32) & 0xFFFF
    for helper in range(1, C.N_HELPER_PORTS):
        if t.state["helper_ports"][0, helper] == wanted:
            return np.int64(helper)
    return np.int64(0)


@kernel(inline=False)
def shown_state(t: Any, row: Any, state: Any) -> Any:
    """The ct_state bits of a packet of connection `row`, which has an extension record: related, when it was expected.

    Open vSwitch keeps that for the life of the connection, Linux until it is answered, in the place of new.
    """
    if np.int64(t.exts["parent_row"][np.int64(t.conns["ext"][row]) - 1]) == C.NO_PARENT:
        return state
    return related_state(t, state)


@kernel
def related_state(t: Any, state: Any) -> Any:
    """What `state` becomes for a connection that was expected."""
    if t.state["linux"][0] == 0:
        return state | S.CS_RELATED
    return state & ~S.CS_NEW | S.CS_RELATED if state & S.CS_NEW else state

"""What packets have shown is noted in the book, and paired.

Leaders are int64 (n,), each once. What has to be done about a path or a flow is a *verdict*, uint8 (n,).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.paths.records import LEARNED
from flowshunt.jit import by_reference, kernel
from flowshunt.offload.kernels.book import (
    example_rows,
    fit_flag,
    give_place,
    give_places,
    member,
    take_place,
    waits_flag,
)
from flowshunt.offload.kernels.schema import ASKED, BOTH_WAIT, BUSY, FIT, HELD, LEAVING, WORDS_PER_PATH, make_book

TAKEN = 1
"""Of a path: it is looked at. Of several of one connection and direction only the last is."""
OUTDATED = 2
"""It was told before a connection on the way got another mark or label: it has to be told anew."""
STRANGE = 4
"""A flow of other connections is held, or asked about, under the same leader: it has to be withdrawn first."""
UNFIT = 8
"""Later packets may not be forwarded."""
OTHER_RULES = 16
"""The flow is held, and its packets go by other rules than before: its counters have to be read first."""
NOTED = 32
"""It is in the book."""

CHANGED = 1
"""Of a flow: a path was told before a mark or label changed; both have to be told anew."""
RENEW = 2
"""Both paths are what they were."""
WITHDRAW = 4
"""One path is another one, and the other is known by its digest alone."""
OFFER = 8
"""Both paths are there, to be taken or to replace others."""


def _place_of_path() -> int:
    assert LEARNED.fields is not None
    return int(LEARNED.fields["path"][1])


_BOTH_FIT = FIT[0] | FIT[1]
_FIRST_WORD = _place_of_path() // 8
_U16, _U32 = 0xFFFF, 0xFFFFFFFF


@kernel
def _is_outdated(b: Any, learned: Any, i: Any) -> Any:
    """Whether the path, told in this turn, may have been told before a change of a mark or label.

    Records of paths come behind the events of the same part of a batch, whichever was first there; within a turn times
    tell.
    """
    for zone in range(np.int64(learned["n_zones"][i])):
        row = np.int64(learned["rows"][i, zone])
        if b.changed["turn"][row] == b.state["turn"][0] and b.changed["time_ms"][row] >= learned["time_ms"][i]:
            return True
    return False


@kernel
def _is_same_way(b: Any, learned: Any, i: Any, leader: Any) -> Any:
    """Whether what the book has under the leader is of the very connections of the path."""
    if b.flags[leader] == 0 or b.entries["n_zones"][leader] != learned["n_zones"][i]:
        return False
    for zone in range(np.int64(learned["n_zones"][i])):
        row, generation = member(b, leader, np.int64(zone))
        if row != np.int64(learned["rows"][i, zone]) or generation != np.int64(learned["generations"][i, zone]):
            return False
    return True


@kernel
def _verdict(b: Any, learned: Any, i: Any, d: Any, leader: Any) -> Any:
    flags = np.int64(b.flags[leader])
    is_same = _is_same_way(b, learned, i, leader)
    verdict = np.int64(TAKEN)
    if not is_same and flags & BUSY:
        verdict |= STRANGE
    if learned["unfit"][i] != 0:
        verdict |= UNFIT
    elif is_same and flags & HELD and b.entries["chains"][leader, d] != learned["chain"][i]:
        verdict |= OTHER_RULES
    return verdict


def _example_learned() -> np.ndarray:
    return np.zeros(0, LEARNED)


def _example_verdicts() -> np.ndarray:
    return np.zeros(0, np.uint8)


@kernel(example=lambda: (make_book(1), _example_learned(), example_rows(), _example_verdicts()))
def judge(b: Any, learned: Any, limits: Any, verdicts: Any) -> Any:
    """Write what has to be done about paths, LEARNED (n,); 0: nothing.

    `limits`: int64 (n,), how long each leader may be silent, see `Table.idle_limits`. Returns all verdicts in one.
    """
    b = by_reference(b)
    found = np.int64(0)
    for i in range(len(learned)):
        leader = np.int64(learned["rows"][i, 0])
        verdicts[i] = 0
        if _is_outdated(b, learned, np.int64(i)):
            verdicts[i] = OUTDATED
            found |= OUTDATED
        elif limits[i] > 0 and b.flags[leader] & LEAVING == 0:
            verdicts[i] = TAKEN
            b.scratch[leader, learned["turned"][i] & 1] = i
    for i in range(len(learned)):
        leader, d = np.int64(learned["rows"][i, 0]), np.int64(learned["turned"][i] & 1)
        if verdicts[i] == TAKEN:
            is_last = b.scratch[leader, d] == i
            verdict = _verdict(b, learned, np.int64(i), d, leader) if is_last else np.int64(0)
            verdicts[i] = verdict
            found |= verdict
    return found


# --- noting ----------------------------------------------------------------------------------------------------------


@kernel
def _begin(b: Any, learned: Any, i: Any, leader: Any) -> Any:
    """A new entry, without a path."""
    give_places(b, leader)
    b.flags[leader] = 0
    entries = b.entries
    entries["generation"][leader] = learned["generations"][i, 0]
    entries["n_asked"][leader] = 0
    entries["n_zones"][leader] = learned["n_zones"][i]
    for zone in range(1, np.int64(learned["n_zones"][i])):
        b.other_rows[leader, zone - 1] = learned["rows"][i, zone]
        b.other_generations[leader, zone - 1] = learned["generations"][i, zone]


@kernel
def _digest(b: Any, words: Any, i: Any) -> Any:
    """A number for the path in words[i], equal for equal paths.

    Different ones are equal by chance once in 2**40 at most, whoever chose them: the sum, of 16 bits at a time and
    never too large, is weighed with numbers that nobody outside knows, and a path has fields that senders choose.
    """
    total = np.int64(0)
    for n in range(WORDS_PER_PATH):
        word = words[i, _FIRST_WORD + n]
        for part in range(4):
            shift = np.int64(16 * part)
            total += (word >> shift & _U16) * b.keys[4 * n + part]
    return total


@kernel(inline=False)
def _copy(target: Any, to: Any, source: Any, at: Any) -> Any:
    target[to] = source[at]


@kernel
def _note(b: Any, learned: Any, words: Any, limits: Any, i: Any, d: Any, leader: Any) -> Any:
    """A fit path of direction d. It waits unless it is what the holder has already."""
    entries = b.entries
    digest = _digest(b, words, i)
    flags = np.int64(b.flags[leader])
    is_same = flags & fit_flag(d) != 0 and entries["digests"][leader, d] == digest
    if not is_same or flags & (HELD | ASKED | waits_flag(d)) == 0:
        if flags & waits_flag(d) == 0:
            entries["places"][leader, d] = take_place(b)
            flags |= waits_flag(d)
        _copy(b.pool, np.int64(entries["places"][leader, d]), learned["path"], i)
    b.flags[leader] = flags | fit_flag(d)
    entries["limit_ms"][leader] = min(limits[i], _U32)
    entries["digests"][leader, d] = digest
    entries["epochs"][leader, d] = learned["epoch"][i]
    entries["turns"][leader, d] = b.state["turn"][0]
    entries["chains"][leader, d] = learned["chain"][i]
    entries["turned"][leader, d] = learned["turned"][i]
    entries["ct_states"][leader, d] = learned["ct_state"][i]
    path = learned["path"]
    entries["in_ports"][leader, d] = path["in_port"][i]
    entries["eth_srcs"][leader, d] = path["eth_src"][i]
    entries["vlans"][leader, d] = path["vlan_tci"][i]


def _example_note() -> tuple[Any, ...]:
    words = np.zeros((0, LEARNED.itemsize // 8), np.int64)
    return make_book(1), _example_learned(), words, example_rows(), _example_verdicts(), example_rows()


@kernel
def _note_one(b: Any, learned: Any, words: Any, limits: Any, i: Any, d: Any, leader: Any) -> Any:
    """Note a path that is to be looked at; whether it may be taken."""
    if b.flags[leader] & LEAVING:
        return False
    if not _is_same_way(b, learned, i, leader):
        if b.flags[leader] & BUSY:
            return False
        _begin(b, learned, i, leader)
    if learned["unfit"][i] == 0:
        _note(b, learned, words, limits, i, d, leader)
        return True
    if b.flags[leader] & BUSY == 0:
        give_place(b, leader, d)
        b.flags[leader] = np.int64(b.flags[leader]) & ~fit_flag(d)
    return False


@kernel(example=_example_note)
def note(b: Any, learned: Any, words: Any, limits: Any, verdicts: Any, leaders: Any) -> Any:
    """Note paths that `judge` has looked at, the original direction first, after what had to be withdrawn was.

    `words`: the same records as int64 (n, 8 bytes each). `limits`: as for `judge`. Returns how many `leaders`, int64
    (n,), now have a path from this turn, each once; its record is NOTED.
    """
    b = by_reference(b)
    turn = b.state["turn"][0]
    m = np.int64(0)
    for d in range(2):
        for i in range(len(learned)):
            leader = np.int64(learned["rows"][i, 0])
            if verdicts[i] & TAKEN == 0 or learned["turned"][i] & 1 != d:
                continue
            is_new = d == 0 or b.entries["turns"][leader, 0] != turn
            if _note_one(b, learned, words, limits, np.int64(i), np.int64(d), leader):
                verdicts[i] |= NOTED
                b.state["top"][0] = max(b.state["top"][0], leader + 1)
                if is_new:
                    leaders[m] = leader
                    m += 1
    return m


# --- pairing ---------------------------------------------------------------------------------------------------------


@kernel
def _is_paired(b: Any, leader: Any) -> Any:
    """Whether paths of both directions are known, in one epoch, and of the same connections."""
    flags, entries = np.int64(b.flags[leader]), b.entries
    if flags & _BOTH_FIT != _BOTH_FIT or flags & LEAVING:
        return False
    everyone = (np.int64(1) << np.int64(entries["n_zones"][leader])) - 1
    turned = np.int64(entries["turned"][leader, 0]) ^ np.int64(entries["turned"][leader, 1])
    return entries["epochs"][leader, 0] == entries["epochs"][leader, 1] and turned == everyone


@kernel
def _has_changed(b: Any, leader: Any) -> Any:
    """Whether a connection on the way got another mark or label after the turn in which a path was told."""
    turn = min(b.entries["turns"][leader, 0], b.entries["turns"][leader, 1])
    for zone in range(np.int64(b.entries["n_zones"][leader])):
        row, _ = member(b, leader, np.int64(zone))
        if b.changed["turn"][row] > turn:
            return True
    return False


@kernel(example=lambda: (make_book(1), example_rows(), _example_verdicts()))
def pair(b: Any, leaders: Any, verdicts: Any) -> Any:
    """Write what has to be done about the flows of leaders; 0: nothing. Returns all verdicts in one."""
    b = by_reference(b)
    found = np.int64(0)
    for i in range(len(leaders)):
        leader = leaders[i]
        flags = np.int64(b.flags[leader])
        verdict = np.int64(0)
        if _is_paired(b, leader):
            waits = flags & BOTH_WAIT
            if flags & BUSY == 0 and _has_changed(b, leader):
                verdict = np.int64(CHANGED)
            elif waits == BOTH_WAIT:
                verdict = np.int64(OFFER)
            elif flags & (HELD | ASKED):
                verdict = np.int64(WITHDRAW if waits else RENEW)
        verdicts[i] = verdict
        found |= verdict
    return found

"""Action sets: what rules write there goes along with the packet, and is carried out where its way ends.

The set of a packet, or of a copy of it that goes its own way (clone, and ct with a table), is carried out by a frame
below all others of that way, which the first write puts there. A write adds to a chain that the frame knows the end of,
so that a copy's set costs nothing and goes on by itself.

What is carried out, and in which order, is that of OpenFlow 1.3, section 5.10, as Open vSwitch has it: a tag off, a tag
on and the TTL once each, as written last; then all that is set and moved; then one action that says where the packet
goes. Without such an action nothing is done.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.fields import change, decrement_ttl
from flowshunt.datapath.program import (
    OP_CLEAR,
    OP_END,
    OP_RUN_SET,
    OP_WRITE,
    WRITE_CHANGES,
    WRITE_LAST,
    WRITE_POP,
    WRITE_PUSH,
    WRITE_RANK,
    WRITE_TTL,
)
from flowshunt.datapath.schema import (
    F_DEPTH,
    F_PC,
    F_SET,
    F_SNAPSHOT,
    F_TABLE,
    F_TX_MARK,
    FATE_TTL,
    FRAME_WORDS,
    OF_BUCKET,
    RUN_SET_PC,
    S_NEXT,
    S_PC,
    S_PREVIOUS,
)
from flowshunt.jit import kernel


@kernel
def _runs_set(w: Any, c: Any, at: Any) -> Any:
    return c.pool[w.frames[at, F_PC]] & 0xFF == OP_RUN_SET


@kernel(inline=False)
def _find_set(w: Any, c: Any, sp: Any) -> Any:
    """The frame below `sp` that carries out the set of what runs now, or where there has to be one: `(place, found)`.

    A group's bucket writes to the set of the packet that came to the group.
    """
    for at in range(sp - 1, -1, -1):
        if _runs_set(w, c, at):
            return np.int64(at), True
        if w.frames[at, F_SNAPSHOT] >= 0 and w.frames[at, F_TX_MARK] != OF_BUCKET:
            return np.int64(at + 1), False
    return np.int64(0), False


@kernel
def _put_frame(w: Any, at: Any, head: Any) -> Any:
    """Make the frame at `at` one that carries out a set."""
    frames = w.frames
    frames[at, F_PC] = RUN_SET_PC
    frames[at, F_TABLE] = frames[at - 1, F_TABLE] if at > 0 else 0
    frames[at, F_DEPTH] = frames[at - 1, F_DEPTH] + 1 if at > 0 else 0
    frames[at, F_SNAPSHOT] = -1
    frames[at, F_TX_MARK] = -1
    frames[at, F_SET] = head


@kernel
def _any_set(w: Any, c: Any, sp: Any) -> Any:
    while sp > 0 and not _runs_set(w, c, sp - 1):
        sp -= 1
    return sp > 0


@kernel
def _write(w: Any, c: Any, pc: Any, sp: Any) -> Any:
    """Add the write instruction at `pc` to the set; returns the number of frames.

    There is room for all that a packet can meet. Nothing is added while the set is being carried out.
    """
    frames, sets = w.frames, w.sets
    place, found = _find_set(w, c, sp)
    if not found:
        if not _any_set(w, c, sp):
            sets[0, 0] = 0
        for at in range(sp, place, -1):
            for column in range(FRAME_WORDS):
                frames[at, column] = frames[at - 1, column]
        _put_frame(w, place, np.int64(0))
        sp += 1
    head = frames[place, F_SET]
    n = sets[0, 0] + 1
    if head >= 0 and n < len(sets):
        sets[0, 0] = n
        sets[n, S_PC] = pc
        sets[n, S_PREVIOUS] = head
        frames[place, F_SET] = n
    return sp


@kernel
def _clear(w: Any, c: Any, sp: Any) -> Any:
    place, found = _find_set(w, c, sp)
    if found and w.frames[place, F_SET] > 0:
        w.frames[place, F_SET] = 0


@kernel(inline=False)
def copy_set(w: Any, c: Any, sp: Any, is_bucket: Any) -> Any:
    """A copy begins, behind which the topmost of `sp` frames goes on; returns the number of frames.

    It gets a set as that of what it is a copy of. A group's bucket (`is_bucket` is not 0) gets none.
    """
    if is_bucket != 0:
        w.frames[sp - 1, F_TX_MARK] = OF_BUCKET
        return sp
    place, found = _find_set(w, c, sp - 1)
    if not found or w.frames[place, F_SET] <= 0:
        return sp
    _put_frame(w, sp, w.frames[place, F_SET])
    return sp + 1


@kernel(inline=False)
def run_set(w: Any, c: Any, head: Any) -> Any:
    """Do what the set that ends with the write `head` does to the key; returns where the action lies that ends it."""
    pool, sets = c.pool, w.sets
    pop = push = ttl = last = following = np.int64(0)
    rank = np.int64(-1)
    at = head
    while at > 0:
        pc = sets[at, S_PC]
        if pop == 0 and pool[pc + WRITE_POP] != 0:
            pop = pc + pool[pc + WRITE_POP]
        if push == 0 and pool[pc + WRITE_PUSH] != 0:
            push = pc + pool[pc + WRITE_PUSH]
        if ttl == 0 and pool[pc + WRITE_TTL] != 0:
            ttl = pc + pool[pc + WRITE_TTL]
        if pool[pc + WRITE_LAST] != 0 and pool[pc + WRITE_RANK] > rank:
            last = pc + pool[pc + WRITE_LAST]
            rank = pool[pc + WRITE_RANK]
        sets[at, S_NEXT] = following
        following = at
        at = sets[at, S_PREVIOUS]
    if last == 0:
        return np.int64(0)
    w.machine["dirty"][0] = 1
    if pop != 0:
        change(pool, pop, w.keys, np.int64(0))
    if push != 0:
        change(pool, push, w.keys, np.int64(0))
    if ttl != 0 and not decrement_ttl(w.keys, 0):
        w.machine["fate"][0] = FATE_TTL
        return ttl + 1 if pool[ttl] >> 8 != 0 else c.state["ttl_over"][0]
    while following > 0:
        pc = sets[following, S_PC]
        if pool[pc + WRITE_CHANGES] != 0:
            pc += pool[pc + WRITE_CHANGES]
            while pool[pc] & 0xFF != OP_END:
                pc = change(pool, pc, w.keys, np.int64(0))
        following = sets[following, S_NEXT]
    return last


@kernel(inline=False)
def apply_to_set(w: Any, c: Any, pc: Any, sp: Any) -> Any:
    """Run OP_WRITE, OP_CLEAR or OP_RUN_SET: `(where to go on, number of frames)`.

    The frame that a set was carried out for stays, and is done, so that what the set leads to has none to write to.
    Anything else is an instruction of a broken program, which ends there.
    """
    instruction = c.pool[pc]
    op = instruction & 0xFF
    if op == OP_WRITE:
        return pc + (instruction >> 8), _write(w, c, pc, sp)
    if op == OP_CLEAR:
        _clear(w, c, sp)
        return pc + 1, sp
    if op != OP_RUN_SET:
        return np.int64(0), sp
    head = w.frames[sp, F_SET]
    if head <= 0:
        return np.int64(0), sp
    w.frames[sp, F_SET] = -1
    return run_set(w, c, head), sp + 1

"""Conjunctions: a match that several rules make together.

A rule may be a *clause* of conjunctions instead of having actions: its program lists which. A packet meets a
conjunction when, among the clauses of one priority, it matches one of each number; then it is looked up again with the
conjunction's id as `conj_id`. Clauses lie in tables of their own (`schema.CLAUSES`), so that a lookup where there are
none costs nothing. Whether one is met is tallied in a cell for each table, priority and id, which the clauses name.

As in Open vSwitch (ovs-actions(7), "The conjunction action"): clauses count where no other rule of their priority or a
higher one matches; conjunctions do not nest; where the second lookup finds nothing, lower priorities are tried.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.classifier import U32, lookup, matching_chain
from flowshunt.datapath.schema import CLAUSES
from flowshunt.jit import kernel
from flowshunt.packet.schema import W_CT_L4

CELL_WORDS = 2
"""A cell: the pass that it was used in last; a bit for each clause that was met in it."""
CLAUSE_WORDS = 3
"""In a clause's program, per conjunction: the cell; id << 8 | clause, from 0; the bits of all clauses. One word, the
number of conjunctions, stands in front.
"""

_MAX_TRIES = 64
_HIGHEST = 1 << 16


@kernel
def _tally(c: Any, at: Any, current: Any) -> Any:
    """Note that a clause is met (its words are at pool[at]) in a pass; whether its conjunction is complete by that."""
    cell = c.pool[at]
    if c.pool[cell] != current:
        c.pool[cell] = current
        c.pool[cell + 1] = 0
    c.pool[cell + 1] |= np.int64(1) << (c.pool[at + 1] & 0xFF)
    return c.pool[cell + 1] == c.pool[at + 2]


@kernel(inline=False)
def _find_met(c: Any, table: Any, keys: Any, k: Any, above: Any, below: Any) -> Any:
    """Of the conjunctions that keys[k] meets with priorities in (above, below), the id << 16 | priority of one of the
    highest priority; -1: there is none.
    """
    c.state["tally"][0] += 1
    current = c.state["tally"][0]
    best = np.int64(-1)
    order = c.tables["order"][table]
    for place in range(order, order + np.int64(c.tables["n_subtables"][table])):
        entry = c.pool[place]
        if entry >> 32 <= above:
            break
        rule = matching_chain(c, entry & U32, keys, k)
        while rule >= 0 and np.int64(c.rules["priority"][rule]) > above:
            priority = np.int64(c.rules["priority"][rule])
            if priority < below:
                program = c.rules["program"][rule]
                for n in range(c.pool[program]):
                    at = program + 1 + CLAUSE_WORDS * n
                    if _tally(c, at, current):
                        above = priority
                        best = (c.pool[at + 1] >> 8) << 16 | priority
            rule = np.int64(c.rules["next"][rule])
    return best


@kernel(inline=False)
def resolve(c: Any, table: Any, keys: Any, k: Any, rule: Any) -> Any:
    """The rule for keys[k] in a table that has clauses, where `lookup` has found `rule` (-1: none) without them.

    `c`: TableArrays, of which only tallies change. `keys`: int64 (n, KEY_WORDS), unchanged at the end.
    """
    above = np.int64(-1)
    if rule >= 0:
        above = np.int64(c.rules["priority"][rule])
    below = np.int64(_HIGHEST)
    for _ in range(_MAX_TRIES):
        met = _find_met(c, table + CLAUSES, keys, k, above, below)
        if met < 0:
            break
        word = keys[k, W_CT_L4]
        keys[k, W_CT_L4] = word & ~U32 | met >> 16
        found = lookup(c, table, keys, k)
        keys[k, W_CT_L4] = word
        if found >= 0:
            return found
        below = met & (_HIGHEST - 1)
    return rule

"""Flows are made for forwarders, and it is noted who was asked for them and who holds them.

Leaders are int64 (n,), each once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.paths.records import FLOW
from flowshunt.jit import by_reference, kernel
from flowshunt.offload.kernels.book import example_rows, give_places, member
from flowshunt.offload.kernels.schema import ASKED, BOTH_WAIT, HELD, make_book

TAKEN, REFUSED = 1, 2
"""An answer to an offer that still counts."""


def _example_holder() -> np.ndarray:
    return np.zeros(0, np.uint8)


@kernel(example=lambda: (make_book(1), example_rows(), np.zeros(0, np.bool_)))
def find_clean(b: Any, leaders: Any, clean: Any) -> Any:
    """Write on whose ways, bool (n,), no connection is another flow's, held or among these; returns how many.

    Of several among these that share one, the last is clean. One whose paths do not wait any more is not.
    """
    b = by_reference(b)
    for i in range(len(leaders)):
        for zone in range(np.int64(b.entries["n_zones"][leaders[i]])):
            row, _ = member(b, leaders[i], np.int64(zone))
            b.scratch[row, 0] = i
    n_clean = np.int64(0)
    for i in range(len(leaders)):
        clean[i] = np.int64(b.flags[leaders[i]]) & BOTH_WAIT == BOTH_WAIT
        for zone in range(np.int64(b.entries["n_zones"][leaders[i]])):
            row, _ = member(b, leaders[i], np.int64(zone))
            owner = np.int64(b.owner[row])
            if (owner != 0 and owner != leaders[i] + 1) or b.scratch[row, 0] != i:
                clean[i] = False
        n_clean += np.int64(clean[i])
    return n_clean


@kernel(example=lambda: (make_book(1), example_rows(), 0, example_rows()))
def own_limits(b: Any, leaders: Any, most_ms: Any, limits: Any) -> Any:
    """Write how long the connections of leaders, whose paths were told in this turn, may be silent, int64 (n,).

    Returns how many of the flows have further connections on their ways.
    """
    b = by_reference(b)
    m = np.int64(0)
    for i in range(len(leaders)):
        limits[i] = min(np.int64(b.entries["limit_ms"][leaders[i]]), most_ms)
        m += np.int64(b.entries["n_zones"][leaders[i]] > 1)
    return m


@kernel(example=lambda: (example_rows(), example_rows(), example_rows()))
def lower(limits: Any, which: Any, own: Any) -> Any:
    """Lower `limits`, int64 (n,), of flows to those that connections on their ways have, `own`, int64 (m,)."""
    for i in range(len(which)):
        limits[which[i]] = min(limits[which[i]], own[i])


@kernel(inline=False)
def _copy_path(flows: Any, i: Any, d: Any, pool: Any, place: Any) -> Any:
    flows["paths"][i, d] = pool[place]


@kernel(example=lambda: (make_book(1), example_rows(), example_rows(), 0, np.zeros(0, FLOW)))
def write_flows(b: Any, leaders: Any, limits: Any, now_ms: Any, flows: Any) -> Any:
    """Fill in FLOW (n,), zeros, of leaders whose paths both wait; they need not any longer.

    `limits`: int64 (n,), how long each may be silent.
    """
    b = by_reference(b)
    entries = b.entries
    for i in range(len(leaders)):
        leader = leaders[i]
        flows["now_ms"][i] = now_ms
        flows["epoch"][i] = entries["epochs"][leader, 0]
        flows["max_idle_ms"][i] = limits[i]
        flows["n_zones"][i] = entries["n_zones"][leader]
        for d in range(2):
            _copy_path(flows, np.int64(i), np.int64(d), b.pool, np.int64(entries["places"][leader, d]))
            flows["ct_state"][i, d] = entries["ct_states"][leader, d]
        for zone in range(np.int64(entries["n_zones"][leader])):
            row, generation = member(b, leader, np.int64(zone))
            flows["rows"][i, zone] = row
            flows["generations"][i, zone] = generation
        give_places(b, leader)


@kernel(example=lambda: (make_book(1), _example_holder(), example_rows(), 0))
def ask(b: Any, holder: Any, leaders: Any, number: Any) -> Any:
    """The attachment of this number is being offered the flows of leaders. `holder`: uint8 by row."""
    b = by_reference(b)
    for i in range(len(leaders)):
        leader = leaders[i]
        for zone in range(np.int64(b.entries["n_zones"][leader])):
            row, _ = member(b, leader, np.int64(zone))
            holder[row] = number
            b.owner[row] = leader + 1
        b.flags[leader] = np.int64(b.flags[leader]) | ASKED
        b.entries["n_asked"][leader] += 1


def _example_answer() -> tuple[Any, ...]:
    verdicts = np.zeros(0, np.uint8)
    return make_book(1), _example_holder(), example_rows(), example_rows(), np.zeros(0, np.int32), 0, verdicts


@kernel(example=_example_answer)
def take_answer(b: Any, holder: Any, leaders: Any, generations: Any, errors: Any, number: Any, verdicts: Any) -> Any:
    """The attachment of this number has answered an offer, errors int32 (n,); `generations`: of leaders, as they were.

    Writes whether flows are TAKEN or REFUSED now, uint8 (n,); 0: the answer decides nothing, since the flow has ended,
    or was offered again. What was taken before the last answer is HELD all the same: should the last be a refusal, it
    has to be withdrawn. Returns all verdicts in one.
    """
    b = by_reference(b)
    entries = b.entries
    found = np.int64(0)
    for i in range(len(leaders)):
        leader = leaders[i]
        verdicts[i] = 0
        flags = np.int64(b.flags[leader])
        is_current = np.int64(entries["generation"][leader]) == generations[i] and holder[leader] == number
        if flags & ASKED == 0 or not is_current:
            continue
        if errors[i] == 0:
            flags |= HELD
        entries["n_asked"][leader] -= 1
        if entries["n_asked"][leader] == 0:
            flags &= ~ASKED
            verdicts[i] = REFUSED if errors[i] else TAKEN
            found |= np.int64(verdicts[i])
        b.flags[leader] = flags
    return found

"""The book, connection by connection: places of waiting paths, and who is on the way."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import by_reference, kernel
from flowshunt.offload.kernels.schema import FIT, WAITS, make_book

_FIT_0, _FIT_1 = FIT
_WAITS_0, _WAITS_1 = WAITS


def example_rows() -> np.ndarray:
    """Rows, places or numbers by connection."""
    return np.zeros(0, np.int64)


@kernel
def fit_flag(d: Any) -> Any:
    """FIT[d]."""
    return np.int64(_FIT_1 if d else _FIT_0)


@kernel
def waits_flag(d: Any) -> Any:
    """WAITS[d]."""
    return np.int64(_WAITS_1 if d else _WAITS_0)


@kernel
def take_place(b: Any) -> Any:
    """A place in the pool; there are two for each row."""
    state = b.state
    if state["n_free"][0] == 0:
        state["n_fresh"][0] += 1
        return np.int64(state["n_fresh"][0] - 1)
    state["n_free"][0] -= 1
    return np.int64(b.free[state["n_free"][0]])


@kernel
def give_place(b: Any, leader: Any, d: Any) -> Any:
    """The path of direction d waits no longer, if it did."""
    flags = np.int64(b.flags[leader])
    if flags & waits_flag(d) == 0:
        return
    b.flags[leader] = flags & ~waits_flag(d)
    b.free[b.state["n_free"][0]] = b.entries["places"][leader, d]
    b.state["n_free"][0] += 1


@kernel
def give_places(b: Any, leader: Any) -> Any:
    """The paths of both directions wait no longer."""
    for d in range(2):
        give_place(b, leader, np.int64(d))


@kernel
def member(b: Any, leader: Any, zone: Any) -> Any:
    """Row and generation of a connection on the way, by its place there; the first is the leader itself."""
    if zone == 0:
        return leader, np.int64(b.entries["generation"][leader])
    return np.int64(b.other_rows[leader, zone - 1]), np.int64(b.other_generations[leader, zone - 1])


@kernel(example=lambda: (make_book(1), example_rows()))
def stop_waiting(b: Any, leaders: Any) -> Any:
    """The paths of leaders, int64 (n,), need not wait any longer."""
    b = by_reference(b)
    for i in range(len(leaders)):
        give_places(b, leaders[i])


@kernel(example=lambda: (make_book(1), example_rows()))
def forget(b: Any, leaders: Any) -> Any:
    """Know nothing of leaders, int64 (n,); flows that nobody holds (any more)."""
    b = by_reference(b)
    for i in range(len(leaders)):
        give_places(b, leaders[i])
        b.flags[leaders[i]] = 0


@kernel(example=lambda: (make_book(1), example_rows(), np.zeros((0, 0), np.int64)))
def list_members(b: Any, leaders: Any, members: Any) -> Any:
    """Write the connections on the ways of leaders, int64 (n,), way by way. Returns how many.

    `members`: int64 (4, N_ZONES * n), the columns of `book.Members`.
    """
    b = by_reference(b)
    m = np.int64(0)
    for i in range(len(leaders)):
        leader = leaders[i]
        for zone in range(np.int64(b.entries["n_zones"][leader])):
            row, generation = member(b, leader, np.int64(zone))
            members[0, m] = i
            members[1, m] = row
            members[2, m] = generation
            members[3, m] = np.int64(b.entries["turned"][leader, 0]) >> zone & 1
            m += 1
    return m

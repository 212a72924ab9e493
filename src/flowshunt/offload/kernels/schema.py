"""The framework's memory by row, as its kernels get it."""

from __future__ import annotations

import secrets
from typing import NamedTuple

import numpy as np

from flowshunt.conntrack.memory import reserve
from flowshunt.datapath.paths.records import N_ZONES, PATH

FIT = (1, 2)
"""Flags of the book. By direction: its path is known, and may be taken without asking."""
WAITS = (4, 8)
"""By direction: its path lies in the pool, and is another than the one that is installed, if one is."""
BOTH_WAIT = WAITS[0] | WAITS[1]
ASKED = 16
"""Offered to the holder, which has not answered yet, or more often than it has answered."""
HELD = 32
"""The holder (see `Dispatcher.holder`) has it."""
LEAVING = 64
"""Being withdrawn from the holder, which has not answered yet."""
BUSY = ASKED | HELD | LEAVING

ENTRY = np.dtype(
    [
        ("digests", np.int64, 2),  # of the paths, by direction of the leader; likewise all pairs
        ("epochs", np.int64, 2),
        ("turns", np.int64, 2),  # in which the paths were told
        ("eth_srcs", np.int64, 2),
        ("generation", np.uint32),  # the leader's
        ("n_asked", np.uint32),  # installations that wait for their answer
        ("places", np.uint32, 2),  # in the pool
        ("chains", np.uint32, 2),
        ("in_ports", np.uint32, 2),
        ("vlans", np.uint16, 2),
        ("ct_states", np.uint16, 2),
        ("turned", np.uint8, 2),
        ("n_zones", np.uint8),
        ("limit_ms", np.uint32),  # how long the leader's connection could be silent when a path was told last
    ],
    align=True,
)

CHANGED = np.dtype([("turn", np.int64), ("time_ms", np.int64)])
"""When mark or label of a connection changed last."""

BOOK_STATE = np.dtype(
    [
        ("turn", np.int64),  # the present one: parts of batches whose events or paths were taken, counted
        ("top", np.int64),  # rows with an entry are below
        ("n_free", np.int64),  # places of the pool in `free`
        ("n_fresh", np.int64),  # places that were ever used
    ]
)

WORDS_PER_PATH = PATH.itemsize // 8
_KEYS = 4 * WORDS_PER_PATH
_KEY_BITS = 40


class BookArrays(NamedTuple):
    """What packets have shown, and who holds what, by row.

    `flags`: uint8, see above. `entries`: ENTRY, meaningful where a flag is set. `owner`: uint32, the leader + 1 of the
    flow that is held, or asked about, on whose way that connection is; 0: none. `other_rows`, `other_generations`:
    uint32 (capacity, N_ZONES - 1), by leader, further connections on the way. `changed`: CHANGED. `scratch`: uint32
    (capacity, 2), means nothing between calls.

    `pool`: PATH (2 * capacity,), paths that wait, in `places`; `free`: uint32, a stack of places. `keys`: int64, of
    digests. `state`: BOOK_STATE (1,).
    """

    flags: np.ndarray
    entries: np.ndarray
    owner: np.ndarray
    other_rows: np.ndarray
    other_generations: np.ndarray
    changed: np.ndarray
    scratch: np.ndarray
    pool: np.ndarray
    free: np.ndarray
    keys: np.ndarray
    state: np.ndarray


def make_book(capacity: int) -> BookArrays:
    """Memory for connections in rows below `capacity`; committed as it is used."""
    state = np.zeros(1, BOOK_STATE)
    state["turn"] = 1
    return BookArrays(
        flags=reserve(np.uint8, capacity),
        entries=reserve(ENTRY, capacity),
        owner=reserve(np.uint32, capacity),
        other_rows=reserve(np.uint32, capacity, N_ZONES - 1, huge=False),
        other_generations=reserve(np.uint32, capacity, N_ZONES - 1, huge=False),
        changed=reserve(CHANGED, capacity),
        scratch=reserve(np.uint32, capacity, 2),
        pool=reserve(PATH, 2 * capacity),
        free=reserve(np.uint32, 2 * capacity),
        keys=np.frombuffer(secrets.token_bytes(8 * _KEYS), np.int64) & ((1 << _KEY_BITS) - 1),
        state=state,
    )


class ToldArrays(NamedTuple):
    """What one provider has been told, and how it answered, by row.

    `state`: uint8, flags of `attachment`. `reason`: uint16, see `reasons`. `asks`: uint8, answers without success since
    the last one with. `reply_port`: uint32, where ANSWERED.
    """

    state: np.ndarray
    reason: np.ndarray
    asks: np.ndarray
    reply_port: np.ndarray


def make_told(capacity: int) -> ToldArrays:
    """Nothing was told of connections in rows below `capacity`."""
    return ToldArrays(
        state=reserve(np.uint8, capacity),
        reason=reserve(np.uint16, capacity),
        asks=reserve(np.uint8, capacity),
        reply_port=reserve(np.uint32, capacity),
    )


class KnownArrays(NamedTuple):
    """Which connections the events are at, by row: `alive`, uint8, and `generation`, uint32. `scratch`: uint32."""

    alive: np.ndarray
    generation: np.ndarray
    scratch: np.ndarray


def make_known(capacity: int) -> KnownArrays:
    """None is known in rows below `capacity`."""
    return KnownArrays(reserve(np.uint8, capacity), reserve(np.uint32, capacity), reserve(np.uint32, capacity))

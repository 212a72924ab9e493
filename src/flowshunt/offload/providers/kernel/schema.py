"""The provider's memory, as its kernels get it: which flow has which slot, and which key is whose."""

from __future__ import annotations

import secrets
from typing import NamedTuple

import numpy as np

from flowshunt.conntrack.memory import reserve
from flowshunt.offload.providers.kernel.records import NATIVE_KEY, NATIVE_VALUE, STATE

AT_ONCE = 512
"""Flows that one system call adds or removes: what lies between fits into the cache."""
PORT_SUMS = 1024
_KEYS = 6

SLOTS_STATE = np.dtype(
    [
        ("n_free", np.int64),
        ("turn", np.int64),  # of installing; a connection comes once in each
        ("n_gone", np.int64),  # keys in `gone_keys`
        ("n_stale", np.int64),  # slots in `stale`
    ]
)

TOLD = np.dtype(
    [
        ("packets", np.int64),  # likewise in STATE, as they were told last
        ("bytes", np.int64),
        ("extra_bytes", np.int64),
        ("ports", np.uint32, 2),  # where the path begins and ends, as paths name them
        ("link_sizes", np.uint8, 2),  # of the link layer's header there
    ],
    align=True,
)
"""What is known here of an entry."""

PORT_SUM = np.dtype([("ports", np.uint32, 2), ("packets", np.int64), ("bytes_in", np.int64), ("bytes_out", np.int64)])
"""What went from one port to another one, by their numbers in paths."""


class Slots(NamedTuple):
    """A flow has a slot, and both its entries in the map are known by it: 2 * slot and the next.

    `rows`, `generations`: uint32 (limit,), of the connection that names the flow. `is_used`: uint8 (limit,). `keys`:
    NATIVE_KEY (2 * limit,). `heads`: int32 (power of two,), entry + 1 at the head of a chain, by the hash of keys;
    `nexts`: int32 (2 * limit,), the one behind. `secrets`: int64, of the hash. `told`: TOLD (2 * limit,). `free`: int32
    (limit,), a stack. `states`: STATE (2 * limit,), shared with the programs. `state`: SLOTS_STATE (1,).

    For whoever changes the map: `new_keys`, `new_values`, `which`: what is to be added, NATIVE_KEY and NATIVE_VALUE by
    entry, int64 by flow. `gone_keys`: what is to be removed. `stale`: int64, slots that have to go first.
    `port_sums`: PORT_SUM (PORT_SUMS,), scratch.
    """

    rows: np.ndarray
    generations: np.ndarray
    is_used: np.ndarray
    keys: np.ndarray
    heads: np.ndarray
    nexts: np.ndarray
    secrets: np.ndarray
    told: np.ndarray
    free: np.ndarray
    states: np.ndarray
    new_keys: np.ndarray
    new_values: np.ndarray
    which: np.ndarray
    gone_keys: np.ndarray
    stale: np.ndarray
    port_sums: np.ndarray
    state: np.ndarray


def make_slots(limit: int, states: np.ndarray | None = None) -> Slots:
    """Memory for `limit` flows, all free; committed as it is used. `states`: without, some that nobody shares."""
    state = np.zeros(1, SLOTS_STATE)
    state["n_free"] = limit
    free = reserve(np.int32, limit)
    free[:] = np.arange(limit - 1, -1, -1)
    return Slots(
        rows=reserve(np.uint32, limit),
        generations=reserve(np.uint32, limit),
        is_used=reserve(np.uint8, limit),
        keys=reserve(NATIVE_KEY, 2 * limit),
        heads=reserve(np.int32, 1 << (2 * limit).bit_length()),
        nexts=reserve(np.int32, 2 * limit),
        secrets=np.frombuffer(bytearray(secrets.token_bytes(8 * _KEYS)), np.int64) | 1,
        told=reserve(TOLD, 2 * limit),
        free=free,
        states=np.zeros(2 * limit, STATE) if states is None else states,
        new_keys=np.zeros(2 * AT_ONCE, NATIVE_KEY),
        new_values=np.zeros(2 * AT_ONCE, NATIVE_VALUE),
        which=np.zeros(AT_ONCE, np.int64),
        gone_keys=np.zeros(2 * AT_ONCE, NATIVE_KEY),
        stale=np.zeros(AT_ONCE, np.int64),
        port_sums=np.zeros(PORT_SUMS, PORT_SUM),
        state=state,
    )

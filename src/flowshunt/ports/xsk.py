"""The rings of an AF_XDP socket, as kernels: frames come and go in chunks of memory that is shared with the kernel."""

from __future__ import annotations

import errno as E
import socket
from typing import Any, NamedTuple

import numpy as np

from flowshunt.jit import by_reference, errno, kernel, load_acquire, sendmmsg, store_release
from flowshunt.packet.emit import copy_bytes
from flowshunt.packet.schema import CHECKSUM_PARTIAL, CHECKSUM_UNKNOWN, PACKET, TX
from flowshunt.ports.live import V_CHECKSUM_OFFSET, V_CHECKSUM_START, V_FLAGS, VNET_NEEDS_CHECKSUM, VNET_WORDS
from flowshunt.ports.receiving import BATCH
from flowshunt.ports.segments import find_partial

CHUNK_SIZE = 2048
"""A frame's room."""

_U32 = 0xFFFFFFFF
_IN_CHUNK = CHUNK_SIZE - 1
_DONTWAIT = int(socket.MSG_DONTWAIT)
_EAGAIN, _EBUSY, _ENOBUFS = E.EAGAIN, E.EBUSY, E.ENOBUFS

XSK_COUNTERS = ("tx_dropped", "tx_errors")
_N_DROPPED, _N_ERRORS = range(len(XSK_COUNTERS))

XSK_STATE = np.dtype(
    [
        ("fd", np.int64),
        ("in_port", np.int64),
        ("taken", np.int64),  # received frames that were not given back
        ("n_free", np.int64),  # chunks for sending that are free, on top of `free`
    ]
)


class XskArrays(NamedTuple):
    """A socket's memory. `data`: uint8, all chunks, first those for receiving. Of each ring its indices, uint32 (1,),
    and slots: `rx`, `tx` int64 (n, 2), place and length of a frame; `fill`, `done` int64 (n,), places of chunks to
    receive into and of those that were sent. `free`: int64, a stack. `state`: XSK_STATE (1,). `packets`: PACKET
    (BATCH,). `vnet`: uint16 (BATCH, VNET_WORDS). `message`: int64 (8,), an empty struct mmsghdr. `counters`: int64.
    """

    data: np.ndarray
    rx_made: np.ndarray
    rx_used: np.ndarray
    rx: np.ndarray
    fill_made: np.ndarray
    fill: np.ndarray
    tx_made: np.ndarray
    tx_used: np.ndarray
    tx: np.ndarray
    done_made: np.ndarray
    done_used: np.ndarray
    done: np.ndarray
    free: np.ndarray
    state: np.ndarray
    packets: np.ndarray
    vnet: np.ndarray
    message: np.ndarray
    counters: np.ndarray


def make_xsk_arrays(data: np.ndarray, rings: tuple[Any, ...], fd: int, in_port: int, n: int) -> XskArrays:
    """`data`: 2 * n chunks. `rings`: the arrays from `rx_made` to `done`. All chunks are free, none is to be filled."""
    state = np.zeros(1, XSK_STATE)
    state["fd"], state["in_port"], state["n_free"] = fd, in_port, n
    free = (n + np.arange(n, dtype=np.int64)) * CHUNK_SIZE
    rest = np.zeros(BATCH, PACKET), np.zeros((BATCH, VNET_WORDS), np.uint16), np.zeros(8, np.int64)
    return XskArrays._make((data, *rings, free, state, *rest, np.zeros(len(XSK_COUNTERS), np.int64)))


def plain_rings(n: int) -> tuple[np.ndarray, ...]:
    """Rings in memory of our own, in the order of XskArrays."""

    def index() -> np.ndarray:
        return np.zeros(1, np.uint32)

    frames, places = np.zeros((2, n, 2), np.int64), np.zeros((2, n), np.int64)
    return (
        index(), index(), frames[0], index(), places[0], index(), index(), frames[1], index(), index(), places[1],
    )  # fmt: skip


def _example() -> tuple[Any, ...]:
    arrays = make_xsk_arrays(np.zeros(2 * CHUNK_SIZE, np.uint8), plain_rings(1), 0, 0, 1)
    return arrays, 0


@kernel(example=_example)
def receive_xsk(x: Any, now_ns: Any) -> Any:
    """Take up to BATCH frames, as they lie there; returns how many. Their chunks stay taken until `release_xsk`."""
    x = by_reference(x)
    used = np.int64(x.rx_used[0])
    n = (np.int64(load_acquire(x.rx_made, 0)) - used) & _U32
    if n > BATCH:
        n = np.int64(BATCH)
    kept = np.int64(0)
    for k in range(n):
        slot = (used + k) & (len(x.rx) - 1)
        at, length = x.rx[slot, 0], x.rx[slot, 1] & _U32
        if length < 14:
            continue
        start, offset = find_partial(x.data, at, at + length)
        x.vnet[kept, V_FLAGS] = VNET_NEEDS_CHECKSUM if start != 0 else 0
        x.vnet[kept, V_CHECKSUM_START] = start
        x.vnet[kept, V_CHECKSUM_OFFSET] = offset
        x.packets["data"][kept] = at
        x.packets["time_ns"][kept] = now_ns
        x.packets["length"][kept] = length
        x.packets["wire_length"][kept] = length
        x.packets["in_port"][kept] = x.state["in_port"][0]
        x.packets["checksum"][kept] = CHECKSUM_PARTIAL if start != 0 else CHECKSUM_UNKNOWN
        kept += 1
    x.state["taken"][0] = n
    return kept


@kernel(example=lambda: _example()[:1])
def release_xsk(x: Any) -> Any:
    """Give the chunks of the last batch back, to be received into; returns how many."""
    x = by_reference(x)
    used, made, n = np.int64(x.rx_used[0]), np.int64(x.fill_made[0]), x.state["taken"][0]
    for k in range(n):
        place = x.rx[(used + k) & (len(x.rx) - 1), 0] & ~_IN_CHUNK
        x.fill[(made + k) & (len(x.fill) - 1)] = place
    store_release(x.fill_made, 0, np.uint32((made + n) & _U32))
    store_release(x.rx_used, 0, np.uint32((used + n) & _U32))
    x.state["taken"][0] = 0
    return n


@kernel
def _take_back(x: Any) -> Any:
    """Chunks of what was sent are free again."""
    used = np.int64(x.done_used[0])
    n = (np.int64(load_acquire(x.done_made, 0)) - used) & _U32
    free = x.state["n_free"][0]
    for k in range(n):
        x.free[free + k] = x.done[(used + k) & (len(x.done) - 1)] & ~_IN_CHUNK
    x.state["n_free"][0] = free + n
    store_release(x.done_used, 0, np.uint32((used + n) & _U32))


@kernel
def _kick(x: Any) -> Any:
    """Have the kernel send what lies in the ring; it takes some at a time. Returns 0 or an errno."""
    while True:
        before = np.int64(load_acquire(x.tx_used, 0))
        if before == np.int64(x.tx_made[0]):
            return np.int64(0)
        if np.int64(sendmmsg(x.state["fd"][0], x.message.ctypes.data, np.int64(1), np.int64(_DONTWAIT))) >= 0:
            return np.int64(0)
        problem = np.int64(errno())
        if problem != _EAGAIN and problem != _EBUSY and problem != _ENOBUFS:
            return problem
        if np.int64(load_acquire(x.tx_used, 0)) == before:
            return np.int64(0)  # it has no memory; they go with the next ones


def _example_send() -> tuple[Any, ...]:
    data = np.zeros(64, np.uint8)
    return _example()[0], 0, np.zeros(1, TX), data, data


@kernel(example=_example_send)
def send_xsk(x: Any, port: Any, tx: Any, data: Any, own: Any) -> Any:
    """Send the plain frames of `tx` that are for `port`; returns 0 or an errno. What does not fit is counted.

    `tx`: TX. `data`, `own`: uint8, what source 0 and 1 mean.
    """
    x = by_reference(x)
    _take_back(x)
    made = np.int64(x.tx_made[0])
    for k in range(len(tx)):
        if np.int64(tx["port"][k]) != port:
            continue
        length = np.int64(tx["length"][k])
        if length > CHUNK_SIZE:
            x.counters[_N_ERRORS] += 1
            continue
        free = x.state["n_free"][0]
        if free == 0:
            x.counters[_N_DROPPED] += 1
            continue
        x.state["n_free"][0] = free - 1
        at = x.free[free - 1]
        frame = own if tx["source"][k] != 0 else data
        copy_bytes(frame, tx["data"][k], x.data, at, length)
        slot = made & (len(x.tx) - 1)
        x.tx[slot, 0] = at
        x.tx[slot, 1] = length
        made += 1
    store_release(x.tx_made, 0, np.uint32(made & _U32))
    return _kick(x)

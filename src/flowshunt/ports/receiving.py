"""Receiving frames with their virtio-net headers: from the ring of a packet socket, or by reading a device.

The ring is TPACKET_V2, of small slots. A slot wakes a sleeper as soon as it is filled (TPACKET_V3 wakes it when a block
is full or a millisecond has passed), and packets that a slot is too small for come whole by recvmsg in the order of
their slots (PACKET_COPY_THRESH), so that room for 64 kB packets need not be mapped for each of them.
"""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

import numpy as np

from flowshunt.jit import (
    by_reference,
    kernel,
    load_acquire,
    load_be16,
    readv,
    recvmsg,
    store_be16,
    store_release,
)
from flowshunt.packet.schema import (
    CHECKSUM_PARTIAL,
    CHECKSUM_UNKNOWN,
    CHECKSUM_VERIFIED,
    ETH_IPV4,
    ETH_IPV6,
    ETH_VLAN,
    PACKET,
    PROTO_TCP,
    PROTO_UDP,
)
from flowshunt.ports.live import (
    V_CHECKSUM_START,
    V_FLAGS,
    V_GSO_SIZE,
    V_HEADER_SIZE,
    VNET_CHECKSUM_VALID,
    VNET_NEEDS_CHECKSUM,
    VNET_SIZE,
    VNET_WORDS,
)
from flowshunt.ports.segments import link_size

SLOT_SIZE = 2048
LARGE_SIZE = 1 << 17
"""Room for one large packet: IP allows 64 kB, GSO packets of IPv6 may be larger but are not asked for."""
HEADROOM = 64
BATCH = 256

IN_TAG = -1
"""In place of a port's number: packets have theirs in a tag, which is not part of them; those without one are lost."""

_SLOT_WORDS = SLOT_SIZE // 4
_STATUS_USER = 1 << 0
_STATUS_COPY = 1 << 1
_STATUS_VLAN = 1 << 4
_STATUS_TPID = 1 << 6
_DONTWAIT = int(socket.MSG_DONTWAIT)
_TRUNCATED = int(socket.MSG_TRUNC)

RECEIVE_COUNTERS = ("rx_truncated", "rx_lost")
N_TRUNCATED, N_LOST = range(len(RECEIVE_COUNTERS))

RECEIVE_STATE = np.dtype(
    [
        ("fd", np.int64),
        ("in_port", np.int64),  # or IN_TAG
        ("head", np.int64),  # first slot of the ring that was not given back
        ("taken", np.int64),  # slots behind it that the last batch lies in
        ("n_slots", np.int64),
        ("large", np.int64),  # where the room for large packets begins
        ("n_large", np.int64),
    ]
)


class ReceiveArrays(NamedTuple):
    """A port's memory. `data`: uint8, the ring (if there is one) and then room for large packets; `words`: uint32, the
    same memory. `state`: RECEIVE_STATE (1,). `packets`: PACKET (BATCH,). `vnet`: uint16 (BATCH, VNET_WORDS). `message`:
    int64 (8,), a struct msghdr; `vector`: int64 (2, 2), its struct iovec. `counters`: int64.
    """

    data: np.ndarray
    words: np.ndarray
    state: np.ndarray
    packets: np.ndarray
    vnet: np.ndarray
    message: np.ndarray
    vector: np.ndarray
    counters: np.ndarray


def make_receive_arrays(data: np.ndarray, fd: int, in_port: int, n_slots: int, n_large: int) -> ReceiveArrays:
    """`data`: n_slots * SLOT_SIZE bytes of ring, and n_large * LARGE_SIZE bytes."""
    state = np.zeros(1, RECEIVE_STATE)
    state["fd"], state["in_port"], state["n_slots"] = fd, in_port, n_slots
    state["large"], state["n_large"] = n_slots * SLOT_SIZE, n_large
    arrays = ReceiveArrays(
        data, data.view(np.uint32), state, np.zeros(BATCH, PACKET), np.zeros((BATCH, VNET_WORDS), np.uint16),
        np.zeros(8, np.int64), np.zeros((2, 2), np.int64), np.zeros(len(RECEIVE_COUNTERS), np.int64),
    )  # fmt: skip
    arrays.message[2], arrays.message[3] = arrays.vector.ctypes.data, 2
    arrays.vector[0, 1] = VNET_SIZE
    arrays.vector[1, 1] = LARGE_SIZE - HEADROOM
    return arrays


def _example() -> tuple[Any, ...]:
    return (make_receive_arrays(np.zeros(SLOT_SIZE + LARGE_SIZE, np.uint8), 0, 0, 1, 1), 0)


@kernel
def _read_header(r: Any, n: Any, at: Any) -> Any:
    """Take packet n's virtio-net header from the bytes before data[at]."""
    for word in range(VNET_WORDS):
        place = at - VNET_SIZE + 2 * word
        r.vnet[n, word] = np.int64(r.data[place]) | np.int64(r.data[place + 1]) << 8


@kernel
def _insert_tag(r: Any, n: Any, at: Any, tpid: Any, tci: Any) -> Any:
    """Put the tag that the device took off back into packet n at data[at:]; returns where it begins then."""
    for k in range(12):
        r.data[at - 4 + k] = r.data[at + k]
    store_be16(r.data, at + 8, tpid)
    store_be16(r.data, at + 10, tci)
    if r.vnet[n, V_CHECKSUM_START] != 0:
        r.vnet[n, V_CHECKSUM_START] = (np.int64(r.vnet[n, V_CHECKSUM_START]) + 4) & 0xFFFF
    if r.vnet[n, V_HEADER_SIZE] != 0:
        r.vnet[n, V_HEADER_SIZE] = (np.int64(r.vnet[n, V_HEADER_SIZE]) + 4) & 0xFFFF
    return at - 4


@kernel
def _checksum(r: Any, n: Any, at: Any) -> Any:
    """What packet n's header says of the checksum of its outermost transport header (CHECKSUM_*).

    A tunnel's packet may leave the checksum of the packet inside to be computed; its own is whole.
    """
    flags = np.int64(r.vnet[n, V_FLAGS])
    if flags & VNET_NEEDS_CHECKSUM == 0:
        return np.int64(CHECKSUM_VERIFIED if flags & VNET_CHECKSUM_VALID else CHECKSUM_UNKNOWN)
    start = np.int64(r.vnet[n, V_CHECKSUM_START])
    l3 = link_size(r.data, at)
    kind = load_be16(r.data, at + l3 - 2)
    if kind == ETH_IPV4 and start != l3 + 4 * (np.int64(r.data[at + l3]) & 0xF):
        return np.int64(CHECKSUM_UNKNOWN)
    if kind == ETH_IPV6 and start != l3 + 40:
        protocol = np.int64(r.data[at + l3 + 6])
        if protocol == PROTO_TCP or protocol == PROTO_UDP:
            return np.int64(CHECKSUM_UNKNOWN)
    return np.int64(CHECKSUM_PARTIAL)


@kernel
def _fill(r: Any, n: Any, at: Any, length: Any, in_port: Any, now_ns: Any) -> Any:
    packets = r.packets
    packets["data"][n] = at
    packets["time_ns"][n] = now_ns
    packets["length"][n] = length
    packets["wire_length"][n] = length
    packets["in_port"][n] = in_port
    packets["gso_size"][n] = r.vnet[n, V_GSO_SIZE]
    packets["gso_type"][n] = np.int64(r.vnet[n, V_FLAGS]) >> 8
    packets["checksum"][n] = _checksum(r, n, at)


@kernel(inline=False)
def _receive_large(r: Any, n: Any, large: Any) -> Any:
    """Receive the large packet that comes next as packet n, into place `large`; returns its size, -1: it is lost."""
    r.vector[0, 0] = r.vnet.ctypes.data + VNET_SIZE * n
    r.vector[1, 0] = r.data.ctypes.data + r.state["large"][0] + large * LARGE_SIZE + HEADROOM
    size = np.int64(recvmsg(r.state["fd"][0], r.message.ctypes.data, np.int64(_DONTWAIT))) - VNET_SIZE
    if size < 0 or r.message[6] & _TRUNCATED:
        r.counters[N_LOST] += 1
        return np.int64(-1)
    return size


@kernel(example=_example)
def receive_ring(r: Any, now_ns: Any) -> Any:
    """Take up to BATCH packets from the ring, in order, as they lie there; returns how many.

    Their slots stay taken until `release_ring`. Truncated ones and those that were lost are counted.
    """
    r = by_reference(r)
    n_slots = r.state["n_slots"][0]
    n = np.int64(0)
    large = np.int64(0)
    taken = np.int64(0)
    while n < BATCH and taken < n_slots:
        slot = (r.state["head"][0] + taken) % n_slots
        words = slot * _SLOT_WORDS
        status = np.int64(load_acquire(r.words, words))
        if status & _STATUS_USER == 0 or (status & _STATUS_COPY != 0 and large == r.state["n_large"][0]):
            break
        taken += 1
        length = np.int64(r.words[words + 1])
        at = slot * SLOT_SIZE + (np.int64(r.words[words + 3]) & 0xFFFF)
        if status & _STATUS_COPY:
            length = _receive_large(r, n, large)
            at = r.state["large"][0] + large * LARGE_SIZE + HEADROOM
            large += 1
        elif np.int64(r.words[words + 2]) < length:
            r.counters[N_TRUNCATED] += 1
            length = np.int64(-1)
        else:
            _read_header(r, n, at)
        if length < 14:
            continue
        tag = np.int64(r.words[words + 6])
        in_port = r.state["in_port"][0]
        if in_port == IN_TAG:
            if status & _STATUS_VLAN == 0:
                r.counters[N_LOST] += 1
                continue
            in_port = tag & 0xFFFF
        elif status & _STATUS_VLAN:
            tpid = (tag >> 16) & 0xFFFF if status & _STATUS_TPID else np.int64(ETH_VLAN)
            at = _insert_tag(r, n, at, tpid, tag & 0xFFFF)
            length += 4
        _fill(r, n, at, length, in_port, now_ns)
        n += 1
    r.state["taken"][0] = taken
    return n


@kernel(example=lambda: _example()[:1])
def release_ring(r: Any) -> Any:
    """Give the slots of the last batch back; returns how many."""
    r = by_reference(r)
    n_slots = r.state["n_slots"][0]
    head, taken = r.state["head"][0], r.state["taken"][0]
    for k in range(taken):
        store_release(r.words, ((head + k) % n_slots) * _SLOT_WORDS, np.uint32(0))
    r.state["head"][0] = (head + taken) % n_slots
    r.state["taken"][0] = 0
    return taken


@kernel(example=_example)
def read_frames(r: Any, now_ns: Any) -> Any:
    """Read packets one by one, as many as there is room for large ones; returns how many."""
    r = by_reference(r)
    n = np.int64(0)
    while n < r.state["n_large"][0]:
        at = n * LARGE_SIZE + HEADROOM
        r.vector[0, 0] = r.vnet.ctypes.data + VNET_SIZE * n
        r.vector[1, 0] = r.data.ctypes.data + at
        length = np.int64(readv(r.state["fd"][0], r.vector.ctypes.data, np.int64(2))) - VNET_SIZE
        if length < 14:
            break
        _fill(r, n, at, length, r.state["in_port"][0], now_ns)
        n += 1
    return n

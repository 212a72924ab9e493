"""Sending small frames by a ring that is shared with the kernel: no message has to be copied and looked at for each.

A packet socket with a ring (PACKET_TX_RING, TPACKET_V2) sends nothing but what lies in it, so it is one of its own.
Each slot begins with a struct tpacket2_hdr, behind which lie the virtio-net header and the frame. The kernel takes as
many bytes of a frame into memory of its own as that header gives as the headers' size, and leaves the rest where it is
even when the frame has long been handed on; so we say that all of it is headers.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

import numpy as np

from flowshunt.base.sockets import set_option
from flowshunt.jit import by_reference, kernel, load_acquire, sendmmsg, store_release
from flowshunt.packet.emit import copy_bytes
from flowshunt.packet.parse import ETHERNET_SIZE
from flowshunt.packet.schema import PACKET, TX
from flowshunt.ports.devices import mtu_of
from flowshunt.ports.live import V_GSO_SIZE, V_HEADER_SIZE, VNET_SIZE, VNET_WORDS, Frames
from flowshunt.ports.mapping import map_ring
from flowshunt.ports.sending import write_header

N_SLOTS = 128
SLOT_SIZE = 2048
_BLOCK_SIZE = 1 << 16
_SLOT_WORDS, _SLOT_HALVES = SLOT_SIZE // 4, SLOT_SIZE // 2
_HEADER_AT = 32
"""Bytes of struct tpacket2_hdr, aligned."""
_FRAME_AT = _HEADER_AT + VNET_SIZE
LONGEST = SLOT_SIZE - _FRAME_AT
"""Bytes of a frame that a slot has room for."""
_DONTWAIT = int(socket.MSG_DONTWAIT)

# linux/if_packet.h
_SOL_PACKET = 263
_VERSION, _TX_RING, _VNET_HDR = 10, 13, 15
_TPACKET_V2 = 1
_AVAILABLE, _SEND_REQUEST, _WRONG_FORMAT = 0, 1 << 0, 1 << 2
_SO_SNDBUFFORCE = 32
_SOCKET_BUFFER = 32 << 20

_STATE = np.dtype(
    [
        ("fd", np.int64),
        ("next", np.int64),  # slot that the kernel looks at next
        ("longest", np.int64),  # bytes of a frame that the device takes, or a slot
    ]
)


class RingArrays(NamedTuple):
    """A ring's memory. `data`: uint8 (N_SLOTS * SLOT_SIZE,); `halves`: uint16, `words`: uint32, the same memory.
    `state`: (1,). `message`: int64 (8,), an empty struct mmsghdr.
    """

    data: np.ndarray
    halves: np.ndarray
    words: np.ndarray
    state: np.ndarray
    message: np.ndarray


def make_ring_arrays(data: np.ndarray, fd: int) -> RingArrays:
    """`data`: uint8 (N_SLOTS * SLOT_SIZE,), all slots free."""
    state = np.zeros(1, _STATE)
    state["fd"], state["longest"] = fd, LONGEST
    return RingArrays(data, data.view(np.uint16), data.view(np.uint32), state, np.zeros(8, np.int64))


def _example() -> tuple[Any, ...]:
    data = np.zeros(64, np.uint8)
    vnet = np.zeros((1, VNET_WORDS), np.uint16)
    ring = make_ring_arrays(np.zeros(N_SLOTS * SLOT_SIZE, np.uint8), -1)
    return ring, 0, np.zeros(1, TX), data, data, np.zeros(1, PACKET), vnet


@kernel(inline=False)
def _flush(r: Any, n: Any) -> Any:
    """Have the kernel send n slots; returns how many it took. The others are free again."""
    sendmmsg(r.state["fd"][0], r.message.ctypes.data, np.int64(1), np.int64(_DONTWAIT))
    first = r.state["next"][0]
    taken = np.int64(0)
    while taken < n:
        status = np.int64(load_acquire(r.words, ((first + taken) % N_SLOTS) * _SLOT_WORDS))
        if status & (_SEND_REQUEST | _WRONG_FORMAT) != 0:
            break
        taken += 1
    for k in range(taken, n):
        store_release(r.words, ((first + k) % N_SLOTS) * _SLOT_WORDS, np.uint32(_AVAILABLE))
    r.state["next"][0] = (first + taken) % N_SLOTS
    return taken


@kernel
def _fill(r: Any, slot: Any, tx: Any, k: Any, data: Any, own: Any, packets: Any, vnet: Any) -> Any:
    """Put frame k in a slot."""
    frame = own if tx["source"][k] != 0 else data
    length = np.int64(tx["length"][k])
    at = slot * SLOT_SIZE
    copy_bytes(frame, tx["data"][k], r.data, at + _FRAME_AT, length)
    halves = slot * _SLOT_HALVES + _HEADER_AT // 2
    write_header(r.halves, halves, tx, k, frame, data, packets, vnet)
    r.halves[halves + V_HEADER_SIZE] = length
    r.words[slot * _SLOT_WORDS + 1] = length + VNET_SIZE
    store_release(r.words, slot * _SLOT_WORDS, np.uint32(_SEND_REQUEST))


@kernel
def _fits(r: Any, slot: Any, tx: Any, k: Any, vnet: Any) -> Any:
    """Whether frame k can be sent by a slot, and that one is free."""
    if np.int64(tx["length"][k]) > r.state["longest"][0]:
        return False
    if np.int64(load_acquire(r.words, slot * _SLOT_WORDS)) != _AVAILABLE:
        return False
    return np.int64(tx["cut"][k]) != 0 or np.int64(vnet[np.int64(tx["packet"][k]), V_GSO_SIZE]) == 0


@kernel
def _skip(tx: Any, port: Any, first: Any, n: Any) -> Any:
    """The number of the frame that n frames for `port` from frame `first` on come before."""
    k = np.int64(first)
    left = np.int64(n)
    while np.int64(tx["port"][k]) != port or left > 0:
        if np.int64(tx["port"][k]) == port:
            left -= 1
        k += 1
    return k


@kernel(example=_example)
def send_by_ring(r: Any, port: Any, tx: Any, data: Any, own: Any, packets: Any, vnet: Any) -> Any:
    """Send frames of `tx` that are for `port`, in order; returns the number of the first that is left, len(tx): none.

    `r`: RingArrays; the rest as for `sending.send_frames`, which is for what is left: it begins with a GSO packet, or
    with one that is longer than a slot, or that the device refuses.
    """
    r = by_reference(r)
    k = np.int64(0)
    first, n = np.int64(0), np.int64(0)  # those that wait in the ring
    while k < len(tx):
        if np.int64(tx["port"][k]) == port:
            if n == N_SLOTS:
                taken = _flush(r, n)
                if taken < n:
                    return _skip(tx, port, first, taken)
                first, n = k, np.int64(0)
            slot = (r.state["next"][0] + n) % N_SLOTS
            if not _fits(r, slot, tx, k, vnet):
                break
            _fill(r, slot, tx, k, data, own, packets, vnet)
            n += 1
        k += 1
    taken = _flush(r, n) if n > 0 else n
    return k if taken == n else _skip(tx, port, first, taken)


class SendRing:
    """A packet socket with a ring for sending on one device. Used by one thread."""

    def __init__(self, opened: socket.socket, device: str) -> None:
        """Make a ring of a packet socket that is bound to `device` with protocol 0, which takes some milliseconds.

        The socket remains the caller's. Raises OSError.
        """
        self._socket, self._device = opened, device
        opened.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
        opened.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SOCKET_BUFFER)
        size = N_SLOTS * SLOT_SIZE
        request = struct.pack("@4I", _BLOCK_SIZE, size // _BLOCK_SIZE, SLOT_SIZE, N_SLOTS)
        set_option(opened, _SOL_PACKET, _TX_RING, request)
        self._arrays = make_ring_arrays(map_ring(opened.fileno(), size), opened.fileno())

    def send(self, frames: Frames, port: int) -> Frames:
        """Send the first of those that are for `port`; returns what is left, in which there may be more of them."""
        batch, vnet = frames.received
        self._arrays.state["longest"] = self._longest()
        left = send_by_ring(self._arrays, port, frames.tx, batch.data, frames.tx_data, batch.packets, vnet)
        return frames._replace(tx=frames.tx[left:])

    def _longest(self) -> int:
        """The kernel lets a ring with virtio-net headers send what is longer than the MTU; messages it does not."""
        try:
            return min(ETHERNET_SIZE + mtu_of(self._socket, self._device), LONGEST)
        except OSError:  # it is gone, or has another name
            return 0

"""A network device as a port, by a packet socket: GSO packets and partial checksums come and go whole."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
import weakref
from contextlib import ExitStack, suppress

import numpy as np

from flowshunt.base.background import in_background
from flowshunt.base.sockets import set_option
from flowshunt.packet.schema import Batch
from flowshunt.ports.api import PortError
from flowshunt.ports.devices import look_up
from flowshunt.ports.live import Frames, LiveBatch
from flowshunt.ports.mapping import map_ring
from flowshunt.ports.receiving import (
    IN_TAG,
    LARGE_SIZE,
    RECEIVE_COUNTERS,
    SLOT_SIZE,
    make_receive_arrays,
    receive_ring,
    release_ring,
)
from flowshunt.ports.send_ring import SendRing
from flowshunt.ports.sending import SEND_COUNTERS, make_send_arrays, send_frames

N_SLOTS, MIN_SLOTS = 2048, 256
"""Of a ring, as many as its share of RING_BUDGET is."""
RING_BUDGET = 128 << 20
"""Bytes that the rings of all ports share. They are the kernel's, and cannot be swapped out."""
N_LARGE = 64
"""Packets in a batch that a slot is too small for."""

_MANY = 32
"""Frames at once that make a ring for sending worth its memory."""
_BLOCK_SIZE = 1 << 16
_SOCKET_BUFFER = 32 << 20
_ETH_P_ALL = 0x0003
# linux/if_packet.h; Python's socket module names none of them
_SOL_PACKET = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _COPY_THRESHOLD, _VERSION, _VNET_HDR, _IGNORE_OUTGOING = 1, 5, 6, 7, 10, 15, 23
_MR_PROMISC = 1
_TPACKET_V2 = 1
_SO_ATTACH_FILTER, _SO_DETACH_FILTER, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 26, 27, 32, 33
_RETURN_0 = struct.pack("@HBBI", 0x06, 0, 0, 0)
"""linux/filter.h: one instruction, take nothing of the packet."""


class AfPacketPort:
    """See `LivePort`. Packet sockets on one device; numbered `receiving.IN_TAG` it receives for several.

    Frames are sent on one that nobody waits for: with each frame that has left, the kernel wakes whoever waits for
    its socket, which costs a tenth of what sending costs.
    """

    def __init__(self, device: str, in_port: int, *, n_ports: int = 1) -> None:
        """Open the device and make it promiscuous. Raises PortError when there is none, or it cannot be had.

        `n_ports`: with how many it will share the memory for rings, where there are to be more than there are now.
        """
        self.device = device
        self.in_port = in_port
        self._sockets = ExitStack()
        self._ring: SendRing | None = None
        self._opening = threading.Lock()  # held while the ring is opened or everything is closed
        self._has_asked = False
        _OPEN.add(self)
        self._n_ports = max(n_ports, len(_OPEN))
        try:
            self._socket, self._sender, self._ring_socket = (self._sockets.enter_context(_open()) for _ in range(3))
            self._set_up()
        except OSError as problem:
            self.close()
            raise PortError(f"could not open network device {device} ({problem.strerror})") from None
        self._send = make_send_arrays()
        self._dropped = 0
        self._is_open = True

    def _set_up(self) -> None:
        opened = self._socket
        self._ifindex = look_up(self.device).ifindex
        for option, value in ((_VERSION, _TPACKET_V2), (_VNET_HDR, 1), (_IGNORE_OUTGOING, 1), (_COPY_THRESHOLD, 1)):
            opened.setsockopt(_SOL_PACKET, option, value)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _SOCKET_BUFFER)
        self._sender.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
        self._sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SOCKET_BUFFER)
        for sending in (self._sender, self._ring_socket):
            sending.bind((self.device, 0))
        n_slots = self._make_ring()
        memory = map_ring(opened.fileno(), n_slots * SLOT_SIZE, N_LARGE * LARGE_SIZE)
        self._receive = make_receive_arrays(memory, opened.fileno(), self.in_port, n_slots, N_LARGE)
        opened.bind((self.device, _ETH_P_ALL))
        membership = struct.pack("@iHH8x", self._ifindex, _MR_PROMISC, 0)
        set_option(opened, _SOL_PACKET, _ADD_MEMBERSHIP, membership)

    def _make_ring(self) -> int:
        """As many slots as the system has memory for, which is the kernel's; returns how many."""
        n_slots = N_SLOTS if self.in_port == IN_TAG else ring_slots(self._n_ports)
        while True:
            request = struct.pack("@4I", _BLOCK_SIZE, n_slots * SLOT_SIZE // _BLOCK_SIZE, SLOT_SIZE, n_slots)
            try:
                set_option(self._socket, _SOL_PACKET, _RX_RING, request)
            except OSError as problem:
                if problem.errno != errno.ENOMEM or n_slots <= MIN_SLOTS:
                    raise
                n_slots = max(_whole_blocks(n_slots // 2), MIN_SLOTS)
            else:
                return n_slots

    def renumber(self, in_port: int) -> None:
        """Give the port another OpenFlow number, before anything was received."""
        self.in_port = in_port
        self._receive.state["in_port"] = in_port

    def pause(self) -> None:
        """Receive nothing from now on, since someone else does; what has come already is still there. Sending goes on.

        Raises OSError.
        """
        # A filter that takes nothing stops packets at once; to be no receiver at all takes some milliseconds.
        nothing = ctypes.create_string_buffer(_RETURN_0, len(_RETURN_0))
        program = struct.pack("@HxxxxxxP", 1, ctypes.addressof(nothing))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        self._socket.bind((self.device, 0))

    def resume(self) -> None:
        """Receive again. Raises OSError."""
        self._socket.bind((self.device, _ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    @property
    def counters(self) -> dict[str, int]:
        """What went wrong, by name."""
        if self._is_open:
            # The kernel's numbers begin anew each time they are asked for.
            self._dropped += struct.unpack("@2I", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))[1]
        received = dict(zip(RECEIVE_COUNTERS, self._receive.counters.tolist(), strict=True))
        sent = dict(zip(SEND_COUNTERS, self._send.counters.tolist(), strict=True))
        return {"rx_dropped": self._dropped} | received | sent

    def fileno(self) -> int:
        """The socket; -1 once it is closed."""
        return self._socket.fileno() if self._is_open else -1

    def receive(self, now_ns: int) -> LiveBatch | None:
        """What lies in the ring. Raises PortError when the device is gone."""
        n = receive_ring(self._receive, now_ns)
        if n == 0:
            self.release()
            if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._check_device()
            return None
        return LiveBatch(Batch(self._receive.data, self._receive.packets[:n]), self._receive.vnet)

    def _check_device(self) -> None:
        """An error may mean that the device is down, which passes, or gone. Raises PortError."""
        try:
            is_same = look_up(self.device).ifindex == self._ifindex
        except OSError:
            is_same = False
        if not is_same:
            raise PortError(f"{self.device}: the device is gone")

    def release(self) -> None:
        """Give the slots back."""
        release_ring(self._receive)

    def send(self, frames: Frames) -> None:
        """Send; see `LivePort`. Many frames at once are sent by a ring, from when it is there on."""
        if self._ring is not None:
            frames = self._ring.send(frames, self.in_port)
            if not len(frames.tx):
                return
        elif not self._has_asked and len(frames.tx) >= _MANY <= np.count_nonzero(frames.tx["port"] == self.in_port):
            self._has_asked = True
            in_background(self._open_ring)
        batch, vnet = frames.received
        problem = send_frames(
            self._send, self._sender.fileno(), self.in_port, frames.tx, batch.data, frames.tx_data, batch.packets, vnet
        )
        if problem:
            raise PortError(f"{self.device}: {os.strerror(problem)}")

    def _open_ring(self) -> None:
        """Have a ring for sending, unless the system refuses: then messages have to do."""
        with self._opening, suppress(OSError):
            if self._is_open:
                self._ring = SendRing(self._ring_socket, self.device)

    def close(self) -> None:
        """Close the sockets, soon: the kernel has whoever closes one wait until no processor can be using it."""
        self._is_open = False
        _OPEN.discard(self)
        in_background(self._close)

    def _close(self) -> None:
        with self._opening:
            self._sockets.close()


_OPEN: weakref.WeakSet[AfPacketPort] = weakref.WeakSet()
"""Ports that have a ring, or are about to."""


def n_open() -> int:
    """Ports that there are now."""
    return len(_OPEN)


def ring_slots(n_ports: int) -> int:
    """Slots of a ring where so many ports share the memory for all."""
    return min(max(_whole_blocks(RING_BUDGET // SLOT_SIZE // n_ports), MIN_SLOTS), N_SLOTS)


def _whole_blocks(n_slots: int) -> int:
    """As many slots, or somewhat fewer, as fill whole blocks."""
    return n_slots - n_slots % (_BLOCK_SIZE // SLOT_SIZE)


def _open() -> socket.socket:
    """A packet socket. Protocol 0: nothing comes before all is set up and it is bound to another."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)

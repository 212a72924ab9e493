"""A network device as a port, by an AF_XDP socket in copy mode: plain frames, past much of the kernel.

An XDP program of a few instructions hands the frames of the device's one queue to the socket. It goes with the port.
There are no offloads: GSO packets do not come, those to be sent are cut here. Senders in the same machine leave
checksums undone all the same, unmarked; `segments.find_partial` finds them.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowshunt.base import bpf
from flowshunt.jit import map_memory, unmap_memory
from flowshunt.packet.schema import Batch
from flowshunt.ports.api import PortError
from flowshunt.ports.devices import look_up
from flowshunt.ports.finishing import Finisher
from flowshunt.ports.live import Frames, LiveBatch
from flowshunt.ports.xsk import (
    CHUNK_SIZE,
    XSK_COUNTERS,
    XskArrays,
    make_xsk_arrays,
    receive_xsk,
    release_xsk,
    send_xsk,
)

# linux/if_xdp.h
_AF_XDP, _SOL_XDP = 44, 283
_MMAP_OFFSETS, _RX_RING, _TX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING, _STATISTICS = 1, 2, 3, 4, 5, 6, 7
_PGOFF = {_RX_RING: 0, _TX_RING: 0x80000000, _FILL_RING: 0x100000000, _COMPLETION_RING: 0x180000000}
_COPY = 1 << 1
N_CHUNKS, MIN_CHUNKS = 512, 256
"""Chunks for each direction, and slots of each ring: as many as RLIMIT_MEMLOCK lets us have. It is 8 MB for all ports
together where nobody has lifted it.
"""
_RETRIES, _RETRY_S = 10, 0.02
"""The memory of a socket that was closed comes back a moment later."""
_SO_SNDBUFFORCE = 32
_SEND_BUFFER = 32 << 20
_SOL_PACKET, _ADD_MEMBERSHIP, _MR_PROMISC = 263, 1, 1
_REDIRECT_MAP, _XDP_PASS = 51, 2
_GONE = (errno.ENODEV, errno.ENXIO, errno.EBADF)

_libc = ctypes.CDLL(None, use_errno=True)


class _Ring(NamedTuple):
    """A mapped ring: its two indices, and its slots as int64."""

    made: np.ndarray
    used: np.ndarray
    slots: np.ndarray


class AfXdpPort:
    """See `LivePort`. One AF_XDP socket on the one receive queue of a device."""

    def __init__(self, device: str, in_port: int) -> None:
        """Open the device and make it promiscuous. Raises PortError when it cannot be had so."""
        self.device = device
        self.in_port = in_port
        self._finisher = Finisher()
        self._opened = ExitStack()
        try:
            ifindex = look_up(device).ifindex
            n_queues = len(list(Path(f"/sys/class/net/{device}/queues").glob("rx-*")))
            if n_queues > 1:
                raise PortError(f"{device} has {n_queues} receive queues, AF_XDP takes one: ethtool -L {device} rx 1")
            self._arrays = self._set_up(ifindex)
            self._attach(ifindex)
        except (OSError, PortError) as problem:
            self.close()
            if isinstance(problem, PortError):
                raise
            hint = "; RLIMIT_MEMLOCK is too low" if problem.errno == errno.ENOBUFS else ""
            raise PortError(f"could not open network device {device} ({problem.strerror}{hint})") from None

    def _set_up(self, ifindex: int) -> XskArrays:
        """The socket, bound to the device, with its memory and rings, of fewer slots where memory is short."""
        for n in (N_CHUNKS, *[MIN_CHUNKS] * _RETRIES):
            try:
                return self._bind_rings(ifindex, n)
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:
                    raise
            self._opened.close()
            time.sleep(_RETRY_S)
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    def _bind_rings(self, ifindex: int, n: int) -> XskArrays:
        self._socket = self._opened.enter_context(socket.socket(_AF_XDP, socket.SOCK_RAW | socket.SOCK_NONBLOCK))
        size = 2 * n * CHUNK_SIZE
        address = map_memory(size)
        memory = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(memory, unmap_memory, address, size)
        data = np.ctypeslib.as_array(memory)
        opened = self._socket
        opened.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        opened.setsockopt(_SOL_XDP, _UMEM_REG, struct.pack("=QQIIII", address, size, CHUNK_SIZE, 0, 0, 0))
        for ring in _PGOFF:
            opened.setsockopt(_SOL_XDP, ring, n)
        rings = self._map_rings(n)
        fill = rings[_FILL_RING]
        fill.slots[:] = np.arange(n) * CHUNK_SIZE
        fill.made[0] = n
        self._bind(ifindex)
        rx, tx, done = (rings[ring] for ring in (_RX_RING, _TX_RING, _COMPLETION_RING))
        arrays = (
            rx.made, rx.used, rx.slots.reshape(-1, 2), fill.made, fill.slots, tx.made, tx.used,
            tx.slots.reshape(-1, 2), done.made, done.used, done.slots,
        )  # fmt: skip
        return make_xsk_arrays(data, arrays, opened.fileno(), self.in_port, n)

    def _map_rings(self, n: int) -> dict[int, _Ring]:
        offsets = struct.unpack("=16Q", self._socket.getsockopt(_SOL_XDP, _MMAP_OFFSETS, 128))
        rings = {}
        for place, ring in enumerate((_RX_RING, _TX_RING, _FILL_RING, _COMPLETION_RING)):
            made, used, slots, _ = offsets[4 * place : 4 * place + 4]
            n_words = n * (2 if ring in (_RX_RING, _TX_RING) else 1)
            memory = mmap.mmap(self._socket.fileno(), slots + 8 * n_words, offset=_PGOFF[ring])
            rings[ring] = _Ring(
                np.frombuffer(memory, np.uint32, 1, made),
                np.frombuffer(memory, np.uint32, 1, used),
                np.frombuffer(memory, np.int64, n_words, slots),
            )
        return rings

    def _bind(self, ifindex: int) -> None:
        """Python's sockets know no addresses of this family."""
        address = struct.pack("=HHIII", _AF_XDP, _COPY, ifindex, 0, 0)
        if _libc.bind(self._socket.fileno(), address, len(address)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _attach(self, ifindex: int) -> None:
        """Have the device's frames go to the socket, in the driver where it can do that, else behind it."""
        sockets = self._keep(bpf.create_map(bpf.XSK_MAP, 4, 4, 1))
        bpf.update(sockets, bytes(4), struct.pack("=I", self._socket.fileno()))
        step = bpf.instruction
        code = (
            step(0x61, 2, 1, 16)  # r2 = queue; r1 = the map
            + step(0x18, 1, 1, value=sockets)
            + step(0x00)
            + step(0xB7, 3, value=_XDP_PASS)
            + step(0x85, value=_REDIRECT_MAP)
            + step(0x95)
        )
        program = self._keep(bpf.load_program(code, "GPL", "frames", bpf.XDP))
        try:
            self._keep(bpf.link_xdp(program, ifindex, bpf.XDP_NATIVE))
        except OSError as problem:
            if problem.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE):
                raise
            self._keep(bpf.link_xdp(program, ifindex, bpf.XDP_GENERIC))
        # A socket of another family keeps the device promiscuous; nothing comes to it.
        watching = self._opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        watching.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("@iHH8x", ifindex, _MR_PROMISC, 0))

    def _keep(self, fd: int) -> int:
        close: Callable[[int], None] = os.close
        self._opened.callback(close, fd)
        return fd

    @property
    def counters(self) -> dict[str, int]:
        """What went wrong, by name."""
        sent = dict(zip(XSK_COUNTERS, self._arrays.counters.tolist(), strict=True))
        sent["tx_errors"] += self._finisher.n_refused
        return {"rx_dropped": self._n_lost()} | sent

    def _n_lost(self) -> int:
        """Frames that found no chunk or no slot."""
        if self._socket.fileno() < 0:
            return 0
        said = struct.unpack("=6Q", self._socket.getsockopt(_SOL_XDP, _STATISTICS, 48))
        return int(said[0] + said[3])

    def fileno(self) -> int:
        """The socket."""
        return self._socket.fileno()

    def receive(self, now_ns: int) -> LiveBatch | None:
        """What lies in the ring."""
        n = receive_xsk(self._arrays, now_ns)
        if n == 0:
            self.release()
            return None
        return LiveBatch(Batch(self._arrays.data, self._arrays.packets[:n]), self._arrays.vnet)

    def release(self) -> None:
        """Give the chunks back."""
        release_xsk(self._arrays)

    def send(self, frames: Frames) -> None:
        """Send, as plain frames; see `LivePort`."""
        for plain in self._finisher(frames, self.in_port):
            problem = send_xsk(self._arrays, self.in_port, plain.tx, plain.received.batch.data, plain.tx_data)
            if problem in _GONE:
                raise PortError(f"{self.device}: {os.strerror(problem)}")

    def close(self) -> None:
        """Take the program from the device and close the socket."""
        self._opened.close()

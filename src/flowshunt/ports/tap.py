"""Internal ports: a tap device, through which the machine's own network stack takes part in the bridge."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from concurrent.futures import Future
from functools import partial

import numpy as np

from flowshunt.base.background import in_background
from flowshunt.packet.schema import Batch
from flowshunt.ports.api import PortError
from flowshunt.ports.devices import NAME_SIZE, set_up
from flowshunt.ports.live import Frames, LiveBatch
from flowshunt.ports.receiving import LARGE_SIZE, make_receive_arrays, read_frames
from flowshunt.ports.sending import SEND_COUNTERS, make_send_arrays, write_frames

N_PACKETS = 64
"""Packets in a batch."""

# linux/if_tun.h
_SET_INTERFACE, _SET_OFFLOAD, _SET_HEADER_SIZE = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0002, 0x1000, 0x4000, 0x8000
_F_CSUM, _F_TSO4, _F_TSO6 = 0x01, 0x02, 0x04
_HEADER_SIZE = 10


class TapPort:
    """See `LivePort`. The device lives as long as the port."""

    def __init__(self, device: str, in_port: int, mtu: int | None = None) -> None:
        """Make the device and bring it up. Raises PortError, for one when there is a device of that name."""
        self.device = device
        self.in_port = in_port
        self._fd = -1
        wait_until_gone(device)
        try:
            if len(device.encode()) >= NAME_SIZE:  # the kernel would cut it, and the device be another one
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL
            fcntl.ioctl(self._fd, _SET_INTERFACE, struct.pack("@16sH22x", device.encode(), flags))
            fcntl.ioctl(self._fd, _SET_HEADER_SIZE, struct.pack("@i", _HEADER_SIZE))
            fcntl.ioctl(self._fd, _SET_OFFLOAD, _F_CSUM | _F_TSO4 | _F_TSO6)
            set_up(device, mtu)
        except OSError as problem:
            self.close()
            what = f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror
            raise PortError(f"could not create internal port {device} ({what})") from None
        self._receive = make_receive_arrays(np.zeros(N_PACKETS * LARGE_SIZE, np.uint8), self._fd, in_port, 0, N_PACKETS)
        self._send = make_send_arrays(1)

    @property
    def counters(self) -> dict[str, int]:
        """What went wrong, by name."""
        return dict(zip(SEND_COUNTERS, self._send.counters.tolist(), strict=True))

    def fileno(self) -> int:
        """The tap."""
        return self._fd

    def receive(self, now_ns: int) -> LiveBatch | None:
        """What the host has sent."""
        n = read_frames(self._receive, now_ns)
        if n == 0:
            return None
        return LiveBatch(Batch(self._receive.data, self._receive.packets[:n]), self._receive.vnet)

    def release(self) -> None:
        """The next batch overwrites this one."""

    def send(self, frames: Frames) -> None:
        """Send; see `LivePort`."""
        batch, vnet = frames.received
        problem = write_frames(
            self._send, self._fd, self.in_port, frames.tx, batch.data, frames.tx_data, batch.packets, vnet
        )
        if problem:
            raise PortError(f"{self.device}: {os.strerror(problem)}")

    def close(self) -> None:
        """Close the tap, soon, and the device goes with it: that takes the kernel long, and packets do not wait."""
        if self._fd >= 0:
            _GOING[self.device] = in_background(partial(os.close, self._fd))
            self._fd = -1


_GOING: dict[str, Future[None]] = {}
"""Devices that are being closed."""


def wait_until_gone(device: str | None = None) -> None:
    """Wait until a device that was closed is gone; without a name, until all are."""
    for name in [device] if device is not None else list(_GOING):
        if (going := _GOING.pop(name, None)) is not None:
            going.result()

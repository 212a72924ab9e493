"""The ports that are attached: their devices, and what flows through them need to know."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowshunt.offload.providers.kernel.devices import Ingress, UpDevice
from flowshunt.offload.providers.kernel.frames import FrameHook
from flowshunt.offload.providers.kernel.records import DEVICE, LARGE_FRAMES, SMALL_FRAMES
from flowshunt.offload.providers.kernel.slots import ANY_PORT

_LARGEST = 0xFFFF
"""MTU that a flow can say."""


class Attached(NamedTuple):
    """A port that the program is attached to. `number`: as what goes up is marked. `peer`: see `peers`.

    `wants_frames`: it is to do without packets, see `frames`; `hook`: it does; `why`: it cannot; neither: it does not
    yet. `takes_large`: it sends frames of several buffers.
    `ingress`: None while the programs of the process before forward.
    """

    number: int
    ifindex: int
    mtu: int
    ingress: Ingress | None
    up: UpDevice
    peer: int = 0
    wants_frames: bool = False
    hook: FrameHook | None = None
    takes_large: bool = False
    why: str = ""

    @property
    def frames(self) -> int:
        """See DEVICE."""
        works = self.wants_frames and not self.why and (self.hook is not None or self.ingress is None)
        return (LARGE_FRAMES if self.takes_large else SMALL_FRAMES) if works else 0


class Ports:
    """The ports that are attached, by their numbers in paths. `devices`: DEVICE (n,), in the order of numbers."""

    def __init__(self) -> None:
        self.attached: dict[int, Attached] = {}
        self._sort()

    def _sort(self) -> None:
        rows = [_device_of(number, self.attached[number]) for number in sorted(self.attached)]
        self.devices = np.array(rows, DEVICE)

    def add(self, port: int, attached: Attached) -> None:
        """One more."""
        self.attached[port] = attached
        self._sort()

    def remove(self, port: int) -> Attached | None:
        """One less, if it is there."""
        found = self.attached.pop(port, None)
        self._sort()
        return found

    def change(self, port: int, changed: Attached) -> bool:
        """Note what a port that is there is now; whether that makes a difference to flows."""
        before = self.attached[port]
        self.add(port, changed)
        return _device_of(port, before) != _device_of(port, changed)

    def at(self, ifindex: int) -> int | None:
        """The port that a device is; None: it is none."""
        return next((port for port, known in self.attached.items() if known.ifindex == ifindex), None)

    def numbers_of(self, ifindexes: np.ndarray) -> np.ndarray:
        """The ports that these devices are now, int64 (n, m), -1: none of them is attached."""
        ports = {known.ifindex: port for port, known in self.attached.items()}
        found = [ports.get(ifindex, -1) for ifindex in ifindexes.reshape(-1).tolist()]
        return np.array(found, np.int64).reshape(ifindexes.shape)


def _device_of(number: int, port: Attached) -> tuple[int, ...]:
    """A port as DEVICE has it."""
    return number, port.ifindex, min(port.mtu, _LARGEST), port.peer, port.frames


class EveryPort(Ports):
    """Every number is a port, for checks without any: of the device of the same index, or all of one device.

    `has_frames`: they all do without packets.
    """

    def __init__(self, ifindex: int = 0, *, has_frames: bool = False) -> None:
        super().__init__()
        self.devices = np.array([(ANY_PORT, ifindex, 0, 0, LARGE_FRAMES if has_frames else 0)], DEVICE)

    def numbers_of(self, ifindexes: np.ndarray) -> np.ndarray:
        """See Ports; where there is no one device, numbers of ports are those of devices."""
        return ifindexes.astype(np.int64)

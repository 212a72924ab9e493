"""Memory that is shared with a packet socket: its ring."""

from __future__ import annotations

import ctypes
import weakref
from functools import partial

import numpy as np

from flowshunt.base.background import in_background
from flowshunt.jit import map_memory, unmap_memory


def map_ring(fd: int, ring_size: int, more: int = 0) -> np.ndarray:
    """The ring of a packet socket, and `more` bytes of our own behind it: uint8. Raises OSError.

    It goes with the last array that refers to it, which may be later than the socket is closed.
    """
    size = ring_size + more
    address = map_memory(size)
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, _unmap, address, size).atexit = False
    map_memory(ring_size, address, fd)
    return np.ctypeslib.as_array(memory)


def _unmap(address: int, size: int) -> None:
    """Give a ring back, soon: with it goes the socket, and the kernel waits until no processor can be using that."""
    in_background(partial(unmap_memory, address, size))

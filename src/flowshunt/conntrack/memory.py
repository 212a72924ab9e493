"""Memory for tables that grow without moving.

A table is reserved at its maximum size; the system commits pages as they are first written. Kernels keep one array
for life, and what was never used costs address space only.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from typing import Any

import numpy as np

_HUGE = 1 << 21
_MAP_NORESERVE = 0x4000  # Linux; Python 3.11 does not name it
_POPULATE_WRITE = 23
_LIBC = ctypes.CDLL(None)
_LIBC.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]


def reserve(dtype: Any, *shape: int, huge: bool = True) -> np.ndarray:
    """A zeroed, page-aligned array of `shape` whose memory is committed on first touch.

    Arrays of at least 2 MiB ask for huge pages, which random access needs to stay out of TLB misses; not so with
    `huge=False`, for arrays of which only scattered parts are ever touched, and for stacks, which need one page at a
    time: the first touch of a huge one clears 2 MiB, for which a packet or a slice of a sweep would wait.
    Raises MemoryError when the address space cannot be reserved.
    """
    dtype = np.dtype(dtype)
    n = int(np.prod(shape, dtype=np.int64))
    size = max(n * dtype.itemsize, 1)
    try:
        region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except OSError as error:
        raise MemoryError(f"cannot reserve {size} bytes: {error.strerror}") from error
    if huge and size >= _HUGE:
        with contextlib.suppress(OSError):  # a kernel without transparent huge pages; it works without them
            region.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(region, dtype=dtype, count=n).reshape(shape)


def commit(array: np.ndarray, start: int, stop: int) -> None:
    """Have the memory of rows `[start, stop)` of a reserved array committed now, from any thread; nothing else changes.

    A kernel that cannot (Linux before 5.14) commits it on first touch, as ever.
    """
    stop = min(stop, len(array))
    if start < stop:
        row = array.strides[0]
        first = (array.ctypes.data + start * row) // mmap.PAGESIZE * mmap.PAGESIZE
        _LIBC.madvise(first, array.ctypes.data + stop * row - first, _POPULATE_WRITE)


def release(array: np.ndarray, start: int, stop: int) -> None:
    """Give the pages of rows `[start, stop)` of a reserved array back; they read as zero afterwards."""
    region = array
    while isinstance(region, np.ndarray):
        region = region.base  # type: ignore[assignment]
    if not isinstance(region, (mmap.mmap, memoryview)):
        raise TypeError("not an array from reserve()")
    owner = region.obj if isinstance(region, memoryview) else region
    page = mmap.PAGESIZE
    row = array.strides[0]
    first, last = -(-start * row // page) * page, stop * row // page * page
    if last > first:
        owner.madvise(mmap.MADV_DONTNEED, first, last - first)

"""Chunks of int64 words of any length, given back and used again.

Sizes are rounded up to powers of two; each size has a list of free chunks, linked through their first word. A million
changes of rules need no more memory than the most that lived at once, per size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import kernel

MIN_CLASS = 2


@kernel
def size_class(n: Any) -> Any:
    """The smallest class whose chunks hold `n` words."""
    found = np.int64(MIN_CLASS)
    while (np.int64(1) << found) < n:
        found += 1
    return found


@kernel
def allocate(c: Any, wanted: Any) -> Any:
    """Pool offset of a chunk of class `wanted`; 0 when the pool is full. Its contents are undefined."""
    head = c.state["pool_free"][0, wanted]
    if head != 0:
        c.state["pool_free"][0, wanted] = c.pool[head]
        return head
    used = c.state["pool_used"][0]
    if used + (np.int64(1) << wanted) > len(c.pool):
        return np.int64(0)
    c.state["pool_used"][0] = used + (np.int64(1) << wanted)
    return used


@kernel
def release(c: Any, at: Any, of_class: Any) -> Any:
    """Give a chunk back; offset 0 is none."""
    if at != 0:
        c.pool[at] = c.state["pool_free"][0, of_class]
        c.state["pool_free"][0, of_class] = at

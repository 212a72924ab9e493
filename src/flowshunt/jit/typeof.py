"""Numba types of values, as `numba.typeof` has them.

That takes 1 ms for a tuple of structured arrays, since it builds their record types anew, and it imports numpy.ma. Here
each dtype is looked at once per process.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
from numba.np.numpy_support import from_dtype, map_layout

_of_dtype = functools.cache(from_dtype)


def typeof(value: Any) -> Any:
    """The Numba type of an argument. Raises a NumbaError for what has none."""
    if type(value) is np.ndarray:
        layout, is_readonly = map_layout(value), not value.flags.writeable
        return numba.types.Array(_of_dtype(value.dtype), value.ndim, layout, readonly=is_readonly)
    if isinstance(value, tuple):
        return numba.types.BaseTuple.from_types([typeof(item) for item in value], type(value))
    return numba.typeof(value)

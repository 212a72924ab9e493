from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import pytest
from numba.core.errors import NumbaError

from flowshunt.jit.typeof import typeof

RECORD = np.dtype([("a", np.int64), ("b", np.uint8, 3)], align=True)


class Pair(NamedTuple):
    first: np.ndarray
    second: np.ndarray


def _read_only() -> np.ndarray:
    array = np.zeros(3, np.int64)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "value",
    [
        1,
        np.int64(1),
        2.5,
        True,
        None,
        np.zeros(3, np.uint8),
        np.zeros((3, 4), np.int64)[:, 1:],
        np.asfortranarray(np.zeros((3, 4))),
        np.zeros(2, RECORD),
        _read_only(),
        Pair(np.zeros(2, RECORD), np.zeros(2, RECORD)),
        Pair(np.zeros(2, RECORD), np.zeros((2, 2), np.int64)),
        (np.zeros(2, RECORD), 1),
    ],
)
def test_types_are_those_of_numba(value: object) -> None:
    assert typeof(value) == numba.typeof(value)


def test_what_has_no_type_is_refused() -> None:
    with pytest.raises(NumbaError):
        typeof(np.ma.masked_array([1]))

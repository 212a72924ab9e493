"""Entry points for helpers: what they tell the tracker."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.arrays import example_arrays
from flowshunt.conntrack.kernels.adjust import note_change
from flowshunt.conntrack.kernels.expectations import add_expectation, drop_expired
from flowshunt.jit import by_reference, kernel


@kernel(example=lambda: (example_arrays(), np.zeros(1, C.EXPECTATION), 0, 0))
def expect(t: Any, wanted: Any, most: Any, now_ms: Any) -> Any:
    """`add_expectation` from Python."""
    t = by_reference(t)
    return add_expectation(t, wanted, np.int64(most), np.int64(now_ms))


@kernel(example=lambda: (example_arrays(), 0))
def expire_expectations(t: Any, now_ms: Any) -> Any:
    """`drop_expired` from Python."""
    t = by_reference(t)
    drop_expired(t, np.int64(now_ms))


@kernel(example=lambda: (example_arrays(), 0, 0, 0, 0))
def change_sequence(t: Any, row: Any, d: Any, seq: Any, by: Any) -> Any:
    """`note_change` from Python."""
    t = by_reference(t)
    return note_change(t, np.int64(row), np.int64(d), np.int64(seq), np.int64(by))

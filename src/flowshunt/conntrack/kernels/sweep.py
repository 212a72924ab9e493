"""Expiry beyond the wheel's grain: what has expired within the current slot."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.arrays import example_arrays
from flowshunt.conntrack.kernels.rows import expire
from flowshunt.jit import by_reference, kernel

FROM_THE_START = -2
AT_THE_END = -1


@kernel(example=lambda: (example_arrays(), 0, 0, 0))
def sweep_slot(t: Any, now_ms: Any, row: Any, budget: Any) -> Any:
    """Expire what is due at `now_ms` in the slot that the wheel comes to next, looking at up to `budget` connections.

    `row`: FROM_THE_START, or what the last call returned: the row to go on with, or AT_THE_END. Stops early when the
    events are full.
    """
    t = by_reference(t)
    if row == FROM_THE_START:
        row = np.int64(t.wheel[t.state["wheel_tick"][0] & (C.WHEEL_SLOTS - 1)])
    while row >= 0 and budget > 0:
        if t.state["events_on"][0] and t.state["n_events"][0] >= len(t.events):
            return row
        following = np.int64(t.conns["next"][row])
        if t.conns["expires_ms"][row] <= now_ms:
            expire(t, row, now_ms)
        row = following
        budget -= 1
    return row

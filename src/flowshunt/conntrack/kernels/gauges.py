"""Gauges: how many connections each translated address carries, and how many it had to refuse.

The table is a hash of its own, in place. An address is looked for in a window of a few places; one whose gauge is at
zero gives its place up to another. Addresses that find no place share gauge 0, so the sum is always right.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.schema import N_GAUGES
from flowshunt.jit import kernel, mix

_WINDOW = 16
_OTHERS = 0


@kernel(inline=False)
def find_gauge(t: Any, family: Any, high: Any, low: Any) -> Any:
    """The gauge of an address, which gets one if there is a place."""
    g = t.gauges
    key = t.state["key"]
    home = mix(low ^ key[0, 0], high ^ key[0, 1]) & (N_GAUGES - 1)
    place = np.int64(-1)
    for n in range(_WINDOW):
        at = (home + n) & (N_GAUGES - 1)
        if at == _OTHERS:
            continue
        if g["family"][at] == family and g["address"][at, 1] == low and g["address"][at, 0] == high:
            return at
        if place < 0 and g["used"][at] == 0 and g["exhausted"][at] == 0:
            place = at
    for n in range(_WINDOW):
        at = (home + n) & (N_GAUGES - 1)
        if place < 0 and at != _OTHERS and g["used"][at] == 0:
            g["exhausted"][_OTHERS] += g["exhausted"][at]
            place = at
    if place < 0:
        return np.int64(_OTHERS)
    g["family"][place] = family
    g["address"][place, 0] = high
    g["address"][place, 1] = low
    g["exhausted"][place] = 0
    return place

"""Extension records: taken and given back with their connection."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels.tuples import turn_word
from flowshunt.conntrack.schema import NO_PARENT
from flowshunt.jit import kernel


@kernel
def new_ext(t: Any, row: Any) -> Any:
    """The number of an extension for a row that has none; there is one for every row. Its reply tuple is not filled."""
    c, e, state = t.conns, t.exts, t.state
    if state["n_ext_free"][0] > 0:
        state["n_ext_free"][0] -= 1
        ext = np.int64(t.ext_free[state["n_ext_free"][0]])
    else:
        ext = state["n_ext_fresh"][0]
        state["n_ext_fresh"][0] = ext + 1
    c["ext"][row] = ext + 1
    e["parent_row"][ext] = NO_PARENT
    e["parent_generation"][ext] = 0
    e["nat"][ext] = 0
    e["helper"][ext] = 0
    e["adjust"][ext] = 0
    e["gauge"][ext] = 0
    e["expected"][ext] = 0
    return ext


@kernel(inline=False)
def take_ext(t: Any, row: Any) -> Any:
    """The number of the extension of `row`; a new one has the original tuple turned round as its reply tuple."""
    c, e = t.conns, t.exts
    if c["ext"][row]:
        return np.int64(c["ext"][row]) - 1
    ext = new_ext(t, row)
    for half in range(2):
        e["source"][ext, half] = c["destination"][row, half]
        e["destination"][ext, half] = c["source"][row, half]
    e["tuple"][ext] = turn_word(c["tuple"][row])
    return ext


@kernel(inline=False)
def release_ext(t: Any, row: Any) -> Any:
    """Give the extension of a connection that ends back."""
    ext = np.int64(t.conns["ext"][row]) - 1
    gauge = np.int64(t.exts["gauge"][ext])
    if gauge:
        t.gauges["used"][gauge - 1] -= 1
    n = t.state["n_ext_free"][0]
    t.ext_free[n] = ext
    t.state["n_ext_free"][0] = n + 1
    t.conns["ext"][row] = 0

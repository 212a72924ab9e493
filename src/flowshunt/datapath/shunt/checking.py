"""Checked flows: the tracker's opinion on a hit, without its bookkeeping."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import states as S
from flowshunt.conntrack.kernels import protocols
from flowshunt.conntrack.kernels.step import checksums_ok
from flowshunt.jit import kernel
from flowshunt.packet.schema import PROTO_TCP


@kernel(inline=False)
def is_plainly_valid(s: Any, t: Any, b: Any, i: Any, entry: Any, now: Any) -> Any:
    """Whether packet i is what the tracker would call established, with no change of state; its windows move then.

    Otherwise the connection is as it was.
    """
    if not checksums_ok(t, b.data, b.packets, i, b.original, i):
        s.owners["refused"][np.int64(s.entries["owner"][entry])] += 1
        return False
    proto = (s.entries["tuple"][entry] >> 8) & 0xFF
    if proto != PROTO_TCP:
        return True
    row = np.int64(s.entries["row"][entry])
    s.saved[0] = t.conns[row]
    t.conns["flags"][row] = np.int64(t.conns["flags"][row]) & ~S.F_SEQ_CHECK_OFF
    verdict = protocols.update(t, row, entry & 1, b.data, b.packets, i, b.original, i, proto, now)
    plain = (
        verdict & S.RESULT_MASK == S.UPDATE_VALID
        and verdict & S.STATE_CHANGED == 0
        and (verdict >> 8) & 0xFF != S.KEEP_TIMER
    )
    if not plain:
        t.conns[row] = s.saved[0]
        s.owners["refused"][np.int64(s.entries["owner"][entry])] += 1
    return plain

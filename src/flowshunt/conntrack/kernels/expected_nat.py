"""NAT of connections that were expected: they are translated as their parent is, whatever the ct action asks for."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.kernels.nat_choice import EXHAUSTED, UNCHANGED, choose_like
from flowshunt.conntrack.kernels.trial import SIDE_SOURCE, with_port
from flowshunt.conntrack.kernels.tuples import turn_word
from flowshunt.jit import kernel
from flowshunt.packet.schema import W_NW_DST, W_NW_SRC


@kernel(inline=False)
def choose_expected(t: Any, keys: Any, k: Any, word: Any, place: Any, hashed: Any, now: Any) -> Any:
    """The reply tuple of a new connection of the packet in keys[k], which fulfils the expectation at `place`.

    Leaves it where `nat_choice.choose` does, and returns what that returns.
    """
    x = t.expectations
    turned = turn_word(word)
    wanted = with_port(turned, np.int64(SIDE_SOURCE), x["nat_port"][place])
    moved_to = wanted != turned
    moved_from = False
    for half in range(2):
        t.nat_key[0, W_NW_SRC + half] = x["nat_destination"][place, half]
        t.nat_key[0, W_NW_DST + half] = x["nat_source"][place, half]
        moved_to |= x["nat_destination"][place, half] != keys[k, W_NW_DST + half]
        moved_from |= x["nat_source"][place, half] != keys[k, W_NW_SRC + half]
    found = choose_like(t, wanted, hashed, now)
    if found == EXHAUSTED:
        return np.int64(EXHAUSTED)
    t.state["nat_word"][0] = found
    if moved_to:
        return np.int64(C.NAT_DST)
    return np.int64(C.NAT_SRC if moved_from or found != wanted else UNCHANGED)

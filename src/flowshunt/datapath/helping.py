"""Connections with a helper: packets with payload are shown to it, and sequence numbers follow what it changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels.adjust import adjust_segment
from flowshunt.conntrack.states import CS_INVALID, CS_REPLY
from flowshunt.datapath.program import PUNT_HELPER
from flowshunt.jit import kernel
from flowshunt.packet.schema import PROTO_TCP, VERDICT_OK, W_FLAGS, W_L4

_TCP_SYN = 0x02
TRANSLATED = 1 << 32
"""In a punt's argument, beside the sequence number: the ct action applies NAT."""


@kernel(inline=False)
def concerns_helper(w: Any, t: Any, b: Any, i: Any, row: Any, translated: Any) -> Any:
    """Whether packet i of `b`, taken into connection `row` with an extension record, needs `attend`.

    A packet that comes back to the same connection needs it again only to be translated.
    """
    ext = np.int64(t.conns["ext"][row]) - 1
    if t.exts["helper"][ext] == 0 and (t.exts["adjust"][ext] == 0 or not translated):
        return False
    if w.machine["helped"][0] >> 1 == row + 1 and (w.machine["helped"][0] & 1 or not translated):
        return False
    if np.int64(t.tracked["state"][0]) & CS_INVALID:
        return False
    proto = (w.keys[0, W_L4] >> 24) & 0xFF  # of an ICMP error it is not the connection's
    if proto != (t.conns["tuple"][row] >> 8) & 0xFF or b.packets["verdict"][i] != VERDICT_OK:
        return False
    return t.exts["adjust"][ext] != 0 or _payload_size(b, i) > 0


@kernel
def _payload_size(b: Any, i: Any) -> Any:
    start = np.int64(b.packets["payload"][i])
    return np.int64(b.packets["l3_end"][i]) - start if start != 0 else np.int64(0)


@kernel(inline=False)
def attend(w: Any, t: Any, own: Any, row: Any, translated: Any) -> Any:
    """For the own packet, when it `concerns_helper`: adjust a translated segment's sequence numbers.

    Returns whether it must be punted to the helper; then reason and argument are set.
    """
    ext = np.int64(t.conns["ext"][row]) - 1
    w.machine["helped"][0] = (row + 1) << 1 | (1 if translated else 0)
    seq = np.int64(0)
    if (w.keys[0, W_L4] >> 24) & 0xFF == PROTO_TCP:
        seq = np.int64(own.packets["seq"][0])
        if translated:
            d = np.int64(1 if np.int64(t.tracked["state"][0]) & CS_REPLY else 0)
            seq = adjust_segment(t, row, d, own.data, own.packets, np.int64(0))
        if (w.keys[0, W_FLAGS] >> 48) & _TCP_SYN:
            seq = (seq + 1) & 0xFFFFFFFF
    if t.exts["helper"][ext] == 0 or _payload_size(own, np.int64(0)) <= 0:
        return False
    w.machine["reason"][0] = PUNT_HELPER
    w.machine["argument"][0] = seq | (TRANSLATED if translated else 0)
    return True

"""Who may have a connection: limits of the table and of zones, headroom, early drop."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.kernels.rows import destroy, is_over, take_row
from flowshunt.conntrack.states import F_ASSURED, F_SEEN_REPLY
from flowshunt.jit import kernel

EVICTION_BUCKETS = 64
"""Buckets that are searched for a connection to drop early, at most; they lie side by side."""
EVICTION_ROWS = 32
"""Connections that are looked at in them, about as many as Linux does; entries of other zones cost nothing."""

_ROW = 0xFFFFFFFF


@kernel
def take_admitted_row(t: Any, hashed: Any, zone: Any, is_known: Any, now: Any) -> Any:
    """A row for a new connection in `zone`, or minus the counter (`schema.C_*`) that says why there is none.

    `hashed`: the connection's tuple hash. `is_known`: another zone has accepted the packet, so headroom is for it.
    May end another connection (early drop), one at most.
    """
    state = t.state
    limit = t.zones["limit"][zone]
    if limit == 0:
        limit = state["zone_limit"][0]
    if t.zones["live"][zone] >= limit or state["n_live"][0] >= state["limit"][0] - state["headroom"][0]:
        refused = _make_room(t, hashed, zone, limit, is_known, now)
        if refused != 0:
            return -refused
    return take_row(t, zone)


@kernel
def _shortage(t: Any, zone: Any, limit: Any, is_known: Any) -> Any:
    """The counter of what is missing for one more connection, or 0; the zone is asked first, as in Open vSwitch."""
    state = t.state
    if t.zones["live"][zone] >= limit:
        return np.int64(C.C_ZONE_LIMIT)
    if state["n_live"][0] >= state["limit"][0]:
        return np.int64(C.C_FULL)
    if not is_known and state["n_live"][0] >= state["limit"][0] - state["headroom"][0]:
        return np.int64(C.C_HEADROOM)
    return np.int64(0)


@kernel(inline=False)
def _make_room(t: Any, hashed: Any, zone: Any, limit: Any, is_known: Any, now: Any) -> Any:
    short = _shortage(t, zone, limit, is_known)
    if short == 0 or t.state["early_drop"][0] == 0:
        return short
    if not _drop_early(t, hashed, zone if short == C.C_ZONE_LIMIT else np.int64(-1), now):
        return short
    return _shortage(t, zone, limit, is_known)


@kernel
def _drop_early(t: Any, hashed: Any, zone: Any, now: Any) -> Any:
    """End a connection of `zone` (-1: any) that was never answered, or has expired. Returns whether there was one.

    The first bucket from that of `hashed` on which holds one decides; in it, the one that would expire first.
    """
    base = t.state["base"][0]
    looked_at = np.int64(0)
    for n in range(EVICTION_BUCKETS):
        row, n_rows = _least_worth(t, base + ((hashed + n) & (base - 1)), zone, now)
        if row >= 0:
            expired = is_over(t, row, now)
            destroy(t, row, np.int64(C.REASON_EXPIRED if expired else C.REASON_EARLY_DROP), now)
            return True
        looked_at += n_rows
        if looked_at >= EVICTION_ROWS:
            break
    return False


@kernel
def _least_worth(t: Any, bucket: Any, zone: Any, now: Any) -> Any:
    """Of the connections in a bucket that may be dropped early the one that would expire first, or -1.

    And how many there were to look at.
    """
    least = np.int64(-1)
    n_rows = np.int64(0)
    for j in range(C.BUCKET_ENTRIES):
        entry = t.buckets[bucket, j]
        if entry == 0 or (zone >= 0 and (entry >> 32) & 0xFFFF != zone):
            continue
        n_rows += 1
        row = (entry & _ROW) - 1
        expires = t.conns["expires_ms"][row]
        if t.conns["flags"][row] & (F_SEEN_REPLY | F_ASSURED) and not is_over(t, row, now):
            continue
        if least < 0 or expires < t.conns["expires_ms"][least]:
            least = row
    return least, n_rows

"""What the tracker must know of packets that it did not see, before it sees one again; and when entries die.

Had a connection's packets all come through the tracker, its timer would stand where the last of them set it. Settling
moves it there, and where that is past, the connection is held no longer: the tracker finds it over.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack import states as S
from flowshunt.conntrack.kernels.protocols import current_timeout
from flowshunt.conntrack.kernels.rows import set_timer
from flowshunt.datapath.shunt.schema import E_CHECKED, E_DEAD, E_UNASSURED, E_UNSETTLED, NOWHERE
from flowshunt.jit import kernel


@kernel
def member(s: Any, flow: Any, z: Any) -> Any:
    """Row and generation of connection `z` of a flow."""
    if z == 0:
        return np.int64(s.entries["row"][2 * flow]), np.int64(s.entries["generation"][2 * flow])
    return np.int64(s.followers[flow, z - 1, 0]), np.int64(s.followers[flow, z - 1, 1])


@kernel
def lives(t: Any, row: Any, generation: Any) -> Any:
    """Whether the tracker still has this connection."""
    return t.conns["generation"][row] == generation and t.conns["flags"][row] & S.F_LIVE != 0


@kernel
def flow_used(s: Any, flow: Any) -> Any:
    """When a flow was last used, in whichever direction."""
    return max(s.entries["used_ms"][2 * flow], s.entries["used_ms"][2 * flow + 1])


@kernel(inline=False)
def settle(s: Any, t: Any, flow: Any, now: Any) -> Any:
    """Set the timers of a flow's connections as if its packets had been tracked, if there were any since last time.

    What the tracker saw came before them, since a packet of the connection that it sees settles first.
    """
    used = flow_used(s, flow)
    e = s.entries
    first, second = np.int64(e["flags"][2 * flow]), np.int64(e["flags"][2 * flow + 1])
    unsettled = (first | second) & E_UNSETTLED
    if unsettled:
        e["flags"][2 * flow] = first & ~E_UNSETTLED
        e["flags"][2 * flow + 1] = second & ~E_UNSETTLED
    for z in range(s.entries["n_zones"][2 * flow]):
        row, generation = member(s, flow, z)
        if not lives(t, row, generation):
            continue
        expires = t.conns["expires_ms"][row]
        if unsettled:
            as_used = used + current_timeout(t, row)
            # the connection may have been used by way of another tuple since, but linux keeps what is held for longer
            expires = as_used if t.state["linux"][0] else max(expires, as_used)
        watch = np.int64(t.conns["watch"][row])
        if expires <= now and watch & S.WATCH_HELD:
            t.conns["watch"][row] = watch & ~S.WATCH_HELD
        if unsettled:
            set_timer(t, row, expires)
    if first & E_CHECKED:
        _judge_windows(s, t, flow)


@kernel
def _judge_windows(s: Any, t: Any, flow: Any) -> Any:
    """Nothing of a flow that is checked went unseen, though its connection is held."""
    row, generation = member(s, flow, 0)
    if lives(t, row, generation):
        t.conns["flags"][row] = np.int64(t.conns["flags"][row]) & ~S.F_SEQ_CHECK_OFF


@kernel(inline=False)
def certain_use(s: Any, t: Any, flow: Any, now: Any) -> Any:
    """When all connections of a flow were used, as their timers tell; and the least of their timeouts."""
    used = now
    timeout = np.int64(C.UNLIMITED)
    for z in range(s.entries["n_zones"][2 * flow]):
        row = member(s, flow, z)[0]
        own = current_timeout(t, row)
        used = min(used, t.conns["expires_ms"][row] - own)
        timeout = min(timeout, own)
    return used, timeout


@kernel(inline=False)
def refresh(s: Any, t: Any, entry: Any) -> Any:
    """A packet of this entry took the long way: what the tracker made of it counts as what it makes of a hit."""
    e = s.entries
    flags = np.int64(e["flags"][entry])
    if flags & E_DEAD:
        return
    used = certain_use(s, t, entry >> 1, t.state["now_ms"][0])[0]
    e["used_ms"][entry] = max(e["used_ms"][entry], used)
    row = np.int64(e["row"][entry])
    e["seen"][entry] = t.conns["tcp_flags"][row, entry & 1]
    if flags & E_UNASSURED and t.conns["flags"][row] & S.F_ASSURED:
        e["flags"][entry] = flags & ~E_UNASSURED


@kernel(inline=False)
def kill(s: Any, row: Any, generation: Any) -> Any:
    """No packet is a hit of the flow that this connection is in, until it is installed anew."""
    flow = np.int64(s.flow_of[row]) - 1
    if flow < 0 or s.entries["flags"][2 * flow] & E_DEAD:
        return
    for z in range(s.entries["n_zones"][2 * flow]):
        own_row, own_generation = member(s, flow, z)
        if own_row == row and own_generation == generation:
            for entry in range(2 * flow, 2 * flow + 2):
                s.entries["flags"][entry] = np.int64(s.entries["flags"][entry]) | E_DEAD
                s.entries["port_epoch"][entry] = NOWHERE
            s.state["n_killed"][0] += 1
            return


@kernel(inline=False)
def bury(s: Any, t: Any, first: Any) -> Any:
    """Kill what the tracker's events from `first` on are about."""
    for n in range(first, t.state["n_events"][0]):
        kind = t.events["kind"][n]
        if kind == C.EVENT_DESTROYED or kind == C.EVENT_STATE or kind == C.EVENT_MARK or kind == C.EVENT_LABEL:
            kill(s, np.int64(t.events["row"][n]), np.int64(t.events["generation"][n]))

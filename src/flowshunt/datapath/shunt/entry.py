"""Entry points: what owners do to their flows.

`rows`, `generations`: int64 (n,), the connections that name the flows. `usage`: USAGE (n,), filled in.
"""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from flowshunt.conntrack import states as S
from flowshunt.conntrack.arrays import example_arrays
from flowshunt.conntrack.kernels.tuples import KIND_IPV6, hash_tuple
from flowshunt.datapath.paths.records import (
    FLOW,
    MATCH_TOS,
    N_ZONES,
    REWRITE_DESTINATION,
    REWRITE_ETH_DST,
    REWRITE_ETH_SRC,
    REWRITE_PORTS,
    REWRITE_SOURCE,
    REWRITE_TOS,
    REWRITE_VLAN,
    USAGE,
)
from flowshunt.datapath.schema import PORT_NUMBERS
from flowshunt.datapath.shunt.places import has_place, insert_entry, meet_entries, prefetch_place, remove_entry
from flowshunt.datapath.shunt.schema import (
    E_CHANGED,
    E_CHECKED,
    E_DEAD,
    E_MATCH_TOS,
    E_MATCH_TPID,
    E_RETAG,
    E_SET_TOS,
    E_UNASSURED,
    NOWHERE,
    make_shunt,
)
from flowshunt.datapath.shunt.settle import certain_use, flow_used, kill, lives, member, settle
from flowshunt.jit import by_reference, kernel, prefetch
from flowshunt.packet.schema import ETH_IPV4, ETH_IPV6, PROTO_TCP, PROTO_UDP, VLAN_PRESENT

_TAKEN = errno.EEXIST
_FULL = errno.ENOSPC
_GONE = errno.ENOENT
_SHARED = errno.EBUSY
_WRONG = errno.EINVAL
_AHEAD = 8
_U32 = 0xFFFFFFFF
_REWRITES = 0xFF & ~MATCH_TOS


def _example_rows() -> np.ndarray:
    return np.zeros(0, np.int64)


# --- installing ------------------------------------------------------------------------------------------------------


@kernel
def _hash_path(t: Any, paths: Any, i: Any, d: Any) -> Any:
    return hash_tuple(
        t.state, paths["source"][i, d, 0], paths["source"][i, d, 1], paths["destination"][i, d, 0],
        paths["destination"][i, d, 1], paths["tuple"][i, d],
    )  # fmt: skip


@kernel
def _why_wrong(t: Any, s: Any, flows: Any, i: Any) -> Any:
    """An errno when a flow is none that the shunt could have, or 0."""
    n_zones = np.int64(flows["n_zones"][i])
    if n_zones < 1 or n_zones > N_ZONES:
        return np.int64(_WRONG)
    for d in range(2):
        word = flows["paths"]["tuple"][i, d]
        proto = (word >> 8) & 0xFF
        if proto != PROTO_TCP and proto != PROTO_UDP:
            return np.int64(_WRONG)
        if np.int64(flows["paths"]["out_port"][i, d] ^ flows["paths"]["in_port"][i, d]) >= PORT_NUMBERS:
            return np.int64(_WRONG)  # the ports are of two homes
    for z in range(n_zones):
        row = np.int64(flows["rows"][i, z])
        if row >= len(s.flow_of) or not lives(t, row, np.int64(flows["generations"][i, z])):
            return np.int64(_GONE)
    return np.int64(0)


@kernel
def _clear_rows(t: Any, s: Any, flows: Any, i: Any, owner: Any) -> Any:
    """Make sure that no other flow has one of the connections: 0 or an errno.

    What is dead and was not withdrawn goes; the same flow from before is left.
    """
    for z in range(flows["n_zones"][i]):
        flow = np.int64(s.flow_of[np.int64(flows["rows"][i, z])]) - 1
        if flow < 0:
            continue
        own = (
            s.entries["row"][2 * flow] == flows["rows"][i, 0]
            and s.entries["generation"][2 * flow] == flows["generations"][i, 0]
        )
        if own and s.entries["owner"][2 * flow] == owner:
            continue
        if s.entries["flags"][2 * flow] & E_DEAD == 0:
            return np.int64(_TAKEN if own else _SHARED)
        _remove_flow(t, s, flow)
    return np.int64(0)


@kernel
def _words(paths: Any, i: Any, d: Any) -> Any:
    """A path's link-layer words, as the flow key has them."""
    eth_type = np.int64(ETH_IPV6 if paths["tuple"][i, d] & KIND_IPV6 else ETH_IPV4)
    return (
        paths["eth_src"][i, d] << 16 | np.int64(paths["vlan_tci"][i, d]),
        paths["eth_dst"][i, d] << 16 | eth_type,
    )


@kernel(inline=False)
def _is_taken(t: Any, s: Any, flows: Any, i: Any, d: Any, hashed: Any, flow: Any) -> Any:
    """Whether another flow than `flow` gets the packets of path d already."""
    paths = flows["paths"]
    keys = t.nat_key
    for half in range(2):
        keys[0, half] = paths["source"][i, d, half]
        keys[0, 2 + half] = paths["destination"][i, d, half]
    eth_src, eth_dst = _words(paths, i, d)
    for j in range(meet_entries(s, hashed, keys, np.int64(0), np.int64(0), np.int64(2), paths["tuple"][i, d])):
        entry = s.met[j]
        if (
            entry >> 1 != flow
            and s.entries["flags"][entry] & E_DEAD == 0
            and s.entries["eth_src"][entry] == eth_src
            and s.entries["eth_dst"][entry] == eth_dst
            and (s.entries["port_epoch"][entry] >> 32) & _U32 == np.int64(paths["in_port"][i, d])
        ):
            return True
    return False


@kernel
def _take_flow(s: Any, owner: Any) -> Any:
    """A free flow record, or -1."""
    state = s.state
    if s.owners["n_flows"][owner] >= s.owners["limit"][owner]:
        return np.int64(-1)
    if state["n_free"][0] > 0:
        state["n_free"][0] -= 1
        flow = np.int64(s.free[state["n_free"][0]])
    elif state["n_fresh"][0] < len(s.free):
        flow = state["n_fresh"][0]
        state["n_fresh"][0] = flow + 1
    else:
        return np.int64(-1)
    state["n_flows"][0] += 1
    s.owners["n_flows"][owner] += 1
    for entry in range(2 * flow, 2 * flow + 2):
        s.entries["packets"][entry] = 0
        s.entries["bytes"][entry] = 0
        s.entries["frame_bytes"][entry] = 0
    return flow


@kernel(inline=False)
def _write_match(s: Any, flows: Any, i: Any, d: Any, entry: Any) -> Any:
    e, paths = s.entries, flows["paths"]
    for half in range(2):
        e["source"][entry, half] = paths["source"][i, d, half]
        e["destination"][entry, half] = paths["destination"][i, d, half]
    e["tuple"][entry] = paths["tuple"][i, d]
    eth_src, eth_dst = _words(paths, i, d)
    e["eth_src"][entry] = eth_src
    e["eth_dst"][entry] = eth_dst
    e["port_epoch"][entry] = np.int64(paths["in_port"][i, d]) << 32 | flows["epoch"][i] & _U32


@kernel(inline=False)
def _write_change(s: Any, flows: Any, i: Any, d: Any, entry: Any) -> Any:
    """What the path makes of a packet; returns the E_* that say so."""
    paths = flows["paths"]
    rewrites = np.int64(paths["flags"][i, d])
    if rewrites & _REWRITES == 0 and paths["ttl_decrements"][i, d] == 0:
        return np.int64(0)
    _copy_match(s, entry)
    c = s.changes
    flags = np.int64(E_CHANGED)
    for half in range(2):
        if rewrites & REWRITE_SOURCE:
            c["source"][entry, half] = paths["new_source"][i, d, half]
        if rewrites & REWRITE_DESTINATION:
            c["destination"][entry, half] = paths["new_destination"][i, d, half]
    if rewrites & REWRITE_ETH_SRC:
        c["eth_src"][entry] = paths["new_eth_src"][i, d] << 16 | c["eth_src"][entry] & 0xFFFF
    if rewrites & REWRITE_ETH_DST:
        c["eth_dst"][entry] = paths["new_eth_dst"][i, d] << 16 | c["eth_dst"][entry] & 0xFFFF
    if rewrites & REWRITE_PORTS:
        source_port, destination_port = paths["new_source_port"][i, d], paths["new_destination_port"][i, d]
        c["ports"][entry] = np.int64(source_port) << 48 | np.int64(destination_port) << 32
    if rewrites & REWRITE_VLAN:
        new, old = np.int64(paths["new_vlan_tci"][i, d]), np.int64(paths["vlan_tci"][i, d])
        c["eth_src"][entry] = c["eth_src"][entry] & ~0xFFFF | new
        s.entries["tpid"][entry] = paths["new_vlan_tpid"][i, d]
        flags |= E_RETAG | (E_MATCH_TPID if new & old & VLAN_PRESENT else 0)
    if rewrites & REWRITE_TOS:
        s.entries["new_tos"][entry] = paths["new_tos"][i, d]
        flags |= E_SET_TOS
    return flags


@kernel
def _copy_match(s: Any, entry: Any) -> Any:
    """Begin with a change of nothing."""
    e, c = s.entries, s.changes
    for half in range(2):
        c["source"][entry, half] = e["source"][entry, half]
        c["destination"][entry, half] = e["destination"][entry, half]
    c["eth_src"][entry] = e["eth_src"][entry]
    c["eth_dst"][entry] = e["eth_dst"][entry]
    c["ports"][entry] = e["tuple"][entry] & ~_U32


@kernel(inline=False)
def _write_entry(t: Any, s: Any, flows: Any, i: Any, d: Any, entry: Any, owner: Any, kept: Any) -> Any:
    """Fill one entry of a flow. `kept`: flags of the entry that it was before."""
    e, paths = s.entries, flows["paths"]
    row = np.int64(flows["rows"][i, 0])
    _write_match(s, flows, i, d, entry)
    flags = _write_change(s, flows, i, d, entry) | kept
    if paths["flags"][i, d] & MATCH_TOS:
        flags |= E_MATCH_TOS
    if t.state["linux"][0] and (paths["tuple"][i, d] >> 8) & 0xFF == PROTO_UDP:
        flags |= 0 if t.conns["flags"][row] & S.F_ASSURED else E_UNASSURED
    e["row"][entry] = row
    e["generation"][entry] = flows["generations"][i, 0]
    e["out_port"][entry] = np.int64(paths["out_port"][i, d]) & (PORT_NUMBERS - 1)
    e["max_size"][entry] = paths["mtu"][i, d]
    e["ct_state"][entry] = flows["ct_state"][i, d]
    e["flags"][entry] = flags
    e["tos"][entry] = paths["tos"][i, d]
    e["ttl_decrements"][entry] = paths["ttl_decrements"][i, d]
    e["owner"][entry] = owner
    e["n_zones"][entry] = flows["n_zones"][i]
    e["seen"][entry] = t.conns["tcp_flags"][row, d]


@kernel
def _place(t: Any, s: Any, flows: Any, i: Any, flow: Any, owner: Any, kept: Any, hashes: Any) -> Any:
    """Write a flow into its record and make it found."""
    for z in range(flows["n_zones"][i]):
        s.flow_of[np.int64(flows["rows"][i, z])] = flow + 1
        if z > 0:
            s.followers[flow, z - 1, 0] = flows["rows"][i, z]
            s.followers[flow, z - 1, 1] = flows["generations"][i, z]
    for d in range(2):
        _write_entry(t, s, flows, i, np.int64(d), 2 * flow + d, owner, kept)
        insert_entry(t, s, hashes[d], 2 * flow + d)
    used, timeout = certain_use(s, t, flow, t.state["now_ms"][0])
    idle = min(np.int64(flows["max_idle_ms"][i]), timeout)
    for entry in range(2 * flow, 2 * flow + 2):
        s.entries["used_ms"][entry] = used
        s.entries["max_idle_ms"][entry] = idle


@kernel(inline=False)
def _install_one(t: Any, s: Any, flows: Any, i: Any, owner: Any) -> Any:
    """Install flow i: 0 or an errno; nothing has changed then, but dead flows in its way may be gone."""
    error = _why_wrong(t, s, flows, i)
    if error == 0:
        error = _clear_rows(t, s, flows, i, owner)
    if error != 0:
        return error
    flow = np.int64(s.flow_of[np.int64(flows["rows"][i, 0])]) - 1
    first = _hash_path(t, flows["paths"], i, 0)
    second = _hash_path(t, flows["paths"], i, 1)
    if _is_taken(t, s, flows, i, np.int64(0), first, flow) or _is_taken(t, s, flows, i, np.int64(1), second, flow):
        return np.int64(_TAKEN)
    if not has_place(s, first) or not has_place(s, second):
        return np.int64(_FULL)
    kept = np.int64(E_CHECKED if s.owners["check"][owner] else 0)
    if flow >= 0:
        settle(s, t, flow, t.state["now_ms"][0])
        kept = np.int64(s.entries["flags"][2 * flow]) & E_CHECKED
        _unlink(t, s, flow)
    else:
        flow = _take_flow(s, owner)
        if flow < 0:
            return np.int64(_FULL)
    _place(t, s, flows, i, flow, owner, kept, (first, second))
    return np.int64(0)


@kernel(example=lambda: (example_arrays(), make_shunt(1, 1), np.zeros(0, FLOW), 0))
def install(t: Any, s: Any, flows: Any, owner: Any) -> Any:
    """Install flows, FLOW (n,), for an owner; writes `error` of each."""
    t = by_reference(t)
    s = by_reference(s)
    n = len(flows)
    for i in range(n):
        if i + _AHEAD < n:
            row = np.int64(flows["rows"][i + _AHEAD, 0])
            if row < len(s.flow_of):
                prefetch(t.conns, row, 0)
                prefetch(t.conns, row, 64)
            prefetch_place(s, _hash_path(t, flows["paths"], i + _AHEAD, 0))
        flows["error"][i] = _install_one(t, s, flows, i, owner)


# --- asking and removing ---------------------------------------------------------------------------------------------


@kernel
def _unlink(t: Any, s: Any, flow: Any) -> Any:
    """Make a flow not found, nor its connections lead to it."""
    for entry in range(2 * flow, 2 * flow + 2):
        remove_entry(t, s, entry)
    for z in range(s.entries["n_zones"][2 * flow]):
        row = member(s, flow, z)[0]
        if np.int64(s.flow_of[row]) == flow + 1:
            s.flow_of[row] = 0


@kernel(inline=False)
def _remove_flow(t: Any, s: Any, flow: Any) -> Any:
    """Settle and remove a flow."""
    settle(s, t, flow, t.state["now_ms"][0])
    _unlink(t, s, flow)
    for entry in range(2 * flow, 2 * flow + 2):
        s.entries["n_zones"][entry] = 0
        s.entries["port_epoch"][entry] = NOWHERE
    state = s.state
    s.free[state["n_free"][0]] = flow
    state["n_free"][0] += 1
    state["n_flows"][0] -= 1
    s.owners["n_flows"][np.int64(s.entries["owner"][2 * flow])] -= 1


@kernel
def _flow_at(s: Any, row: Any, generation: Any, owner: Any) -> Any:
    """The owner's flow that this connection names, or -1."""
    if row < 0 or row >= len(s.flow_of):
        return np.int64(-1)
    flow = np.int64(s.flow_of[row]) - 1
    e = s.entries
    if flow < 0 or e["row"][2 * flow] != row or e["generation"][2 * flow] != generation:
        return np.int64(-1)
    return flow if e["owner"][2 * flow] == owner else np.int64(-1)


@kernel
def _tell(s: Any, flow: Any, usage: Any, i: Any, now_ms: Any) -> Any:
    """What passed on a flow since it was told last."""
    usage["counted_ms"][i] = now_ms
    for d in range(2):
        entry = 2 * flow + d
        usage["last_used_ms"][i, d] = s.entries["used_ms"][entry]
        usage["packets"][i, d] = s.entries["packets"][entry]
        usage["bytes"][i, d] = s.entries["bytes"][entry]
        usage["frame_bytes"][i, d] = s.entries["frame_bytes"][entry]
        s.entries["packets"][entry] = 0
        s.entries["bytes"][entry] = 0
        s.entries["frame_bytes"][entry] = 0


def _example_usage() -> tuple[Any, ...]:
    return example_arrays(), make_shunt(1, 1), _example_rows(), _example_rows(), np.zeros(0, USAGE), 0, 0


@kernel(example=_example_usage)
def read_usage(t: Any, s: Any, rows: Any, generations: Any, usage: Any, owner: Any, now_ms: Any) -> Any:
    """Tell what passed; zeros are left for flows that are not the owner's."""
    t = by_reference(t)
    s = by_reference(s)
    n = len(rows)
    for i in range(n):
        flow = _flow_at(s, rows[i], generations[i], owner)
        if flow >= 0:
            _tell(s, flow, usage, i, now_ms)


@kernel(example=_example_usage)
def withdraw(t: Any, s: Any, rows: Any, generations: Any, usage: Any, owner: Any, now_ms: Any) -> Any:
    """Remove flows and tell what passed; zeros are left for those that are not the owner's."""
    t = by_reference(t)
    s = by_reference(s)
    for i in range(len(rows)):
        flow = _flow_at(s, rows[i], generations[i], owner)
        if flow >= 0:
            _tell(s, flow, usage, i, now_ms)
            _remove_flow(t, s, flow)


@kernel(example=lambda: (make_shunt(1, 1), _example_rows(), _example_rows(), 0, 0))
def renew(s: Any, rows: Any, generations: Any, owner: Any, epoch: Any) -> Any:
    """Flows that live go on in another epoch."""
    s = by_reference(s)
    for i in range(len(rows)):
        flow = _flow_at(s, rows[i], generations[i], owner)
        if flow < 0 or s.entries["flags"][2 * flow] & E_DEAD:
            continue
        for entry in range(2 * flow, 2 * flow + 2):
            s.entries["port_epoch"][entry] = s.entries["port_epoch"][entry] & ~_U32 | epoch & _U32


def _example_idle() -> tuple[Any, ...]:
    return *_example_usage(), 0, 0


@kernel(example=_example_idle)
def remove_idle(
    t: Any, s: Any, rows: Any, generations: Any, usage: Any, owner: Any, now_ms: Any, timeout_ms: Any, budget: Any
) -> Any:
    """Remove the owner's flows that were not used for `timeout_ms`, looking at up to `budget` records.

    `rows` and the others have room for as many. Goes on where the last call ended, and round. Returns how many.
    """
    t = by_reference(t)
    s = by_reference(s)
    n = np.int64(0)
    flow = s.owners["hand"][owner]
    n_fresh = s.state["n_fresh"][0]
    for _ in range(min(budget, n_fresh)):
        flow = flow + 1 if flow + 1 < n_fresh else np.int64(0)
        e = s.entries
        if e["n_zones"][2 * flow] == 0 or e["owner"][2 * flow] != owner:
            continue
        if now_ms - flow_used(s, flow) < timeout_ms:
            continue
        rows[n] = np.int64(e["row"][2 * flow])
        generations[n] = np.int64(e["generation"][2 * flow])
        _tell(s, flow, usage, n, now_ms)
        _remove_flow(t, s, flow)
        n += 1
    s.owners["hand"][owner] = flow
    return n


@kernel(example=lambda: (make_shunt(1, 1), _example_rows(), _example_rows()))
def kill_rows(s: Any, rows: Any, generations: Any) -> Any:
    """No packet is a hit of the flows that these connections are in."""
    s = by_reference(s)
    for i in range(len(rows)):
        kill(s, rows[i], generations[i])

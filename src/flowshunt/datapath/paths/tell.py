"""The end of a noted packet: its chain of rules is found, and what it has shown is told.

A chain is judged by Python (`verdicts`) when a packet meets it for the first time after a change of the rules; the loop
stops behind that packet until it is. All else is done here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import states as S
from flowshunt.conntrack.arrays import example_arrays
from flowshunt.conntrack.kernels.tuples import tuple_word
from flowshunt.datapath.fdb import find_station
from flowshunt.datapath.paths.records import (
    MATCH_TOS,
    REWRITE_DESTINATION,
    REWRITE_ETH_DST,
    REWRITE_ETH_SRC,
    REWRITE_PORTS,
    REWRITE_SOURCE,
    REWRITE_TOS,
    REWRITE_VLAN,
)
from flowshunt.datapath.paths.schema import (
    C_FIELD,
    C_MATCH,
    C_POSITION,
    C_TOS_MASK,
    C_TOS_VALUE,
    C_TRIPLES,
    CHAIN_BITS,
    CHAIN_TAGS,
    CHAIN_TOS,
    ENTRY_WORDS,
    N_WORDS,
    NOTED_FLOOD,
    NOTED_NORMAL,
    R_DIRECTION,
    R_GENERATION,
    R_ROW,
    TELL_AGAIN_MS,
    TOS_ALONE,
    UNFIT_OUTPUTS,
    UNFIT_REWRITE,
    UNFIT_VARYING,
)
from flowshunt.datapath.schema import STATION_ON_PATH, make_ports, make_work
from flowshunt.datapath.vlans import vid_of
from flowshunt.jit import by_reference, kernel, mix
from flowshunt.packet.schema import (
    ETH_IPV6,
    PROTO_TCP,
    VLAN_PRESENT,
    W_ARP_SHA,
    W_ARP_THA,
    W_ETH_DST,
    W_ETH_SRC,
    W_FLAGS,
    W_L4,
    W_ND_TARGET,
    W_NW_DST,
    W_NW_SRC,
    W_PORT,
)

STOP_JUDGE = 1
"""The last packet's chain must be judged, then the packet can be told (`settle_last`)."""
STOP_CHAINS = 2
"""There is no room for another chain."""
STOP_LEARNED = 4
"""There is no room for another record."""

_U32 = 0xFFFFFFFF
_MAC = 0xFFFFFFFFFFFF
_K = np.int64(0x5851F42D4C957F2D)
_LINUX_ESTABLISHED = S.LINUX_NAMES.index("ESTABLISHED")
_PLACE = (1 << CHAIN_BITS) - 1
_FIELDS_OF_FLAGS = ~0xFFFF


FRESH, LATER, PASSING, UNTOLD = range(4)
"""A path was told in this epoch, and lately; not lately; lately a packet was told that says nothing of later ones; none
of that.
"""


@kernel
def _mark_of(generation: Any, epoch: Any) -> Any:
    return mix(generation ^ _K, epoch) & 0xFFFFFFFE


@kernel
def when_told(w: Any, row: Any, d: Any, generation: Any, now: Any) -> Any:
    """When direction d of a connection was told last: FRESH, LATER, PASSING, UNTOLD."""
    mark = np.int64(w.told["mark"][row, d])
    if mark & ~1 != _mark_of(generation, w.paths["epoch"][0]):
        return np.int64(UNTOLD)
    is_fresh = (now - np.int64(w.told["time_ms"][row, d])) & _U32 < TELL_AGAIN_MS
    if mark & 1:
        return np.int64(PASSING if is_fresh else UNTOLD)
    return np.int64(FRESH if is_fresh else LATER)


@kernel
def is_settled(t: Any, row: Any) -> Any:
    """Whether plain packets of a connection change its state no more: handshake done, or answered, and not closing."""
    flags = np.int64(t.conns["flags"][row])
    if flags & (S.F_LIVE | S.F_SEEN_REPLY | S.F_DYING) != S.F_LIVE | S.F_SEEN_REPLY:
        return False
    if (t.conns["tuple"][row] >> 8) & 0xFF == PROTO_TCP:
        if t.state["linux"][0]:
            return t.conns["state"][row] == _LINUX_ESTABLISHED
        both = t.conns["peer"][row, 0] == S.PEER_ESTABLISHED
        return both and t.conns["peer"][row, 1] == S.PEER_ESTABLISHED
    return t.state["linux"][0] != 0 or t.conns["state"][row] == S.OTHER_BIDIRECTIONAL


@kernel(inline=False)
def conclude(w: Any, p: Any, o: Any, t: Any, packet: Any) -> Any:
    """Tell what the packet that ends has shown, if it has shown anything."""
    s = w.paths
    s["noting"][0] = 0
    n = s["n_rows"][0]
    now = w.machine["now_ms"][0]
    row = np.int64(-1)
    for z in range(n):
        row = w.passed[z, R_ROW]
        if w.passed[z, R_GENERATION] != t.conns["generation"][row] or not is_settled(t, row):
            return
    if n == 0 or s["n_lookups"][0] == 0:
        return
    if o.sent[0] - w.machine["tx_start"][0] != 1:
        s["outputs"][0] = 2
    if s["noted"][0] & NOTED_FLOOD:
        # The next packet may find that the station has been learned; this one's verdict is not repeated until then.
        s["passing"][0] = UNFIT_OUTPUTS
        if when_told(w, row, w.passed[n - 1, R_DIRECTION], w.passed[n - 1, R_GENERATION], now) != UNTOLD:
            return
    _sort_passed(w)
    chain = _find_chain(w)
    if chain < 0:
        s["stop"][0] |= STOP_CHAINS
        return
    _write_record(w, chain, np.int64(o.ct_state[packet]))
    if s["unfit"][0] | s["passing"][0] == 0 and w.chains["judged"][chain & _PLACE] != s["verdicts"][0]:
        s["stop"][0] |= STOP_JUDGE
    else:
        _settle(w, p)


@kernel
def _sort_passed(w: Any) -> Any:
    """By row: the first connection names the flow, in whatever order its packets pass."""
    for last in range(1, w.paths["n_rows"][0]):
        z = last
        while z > 0 and w.passed[z - 1, R_ROW] > w.passed[z, R_ROW]:
            for word in range(3):
                value = w.passed[z, word]
                w.passed[z, word] = w.passed[z - 1, word]
                w.passed[z - 1, word] = value
            z -= 1


@kernel(inline=False)
def _find_chain(w: Any) -> Any:
    """Number of the chain of the packet's lookups, a new one if it was not met before; -1 when there is no room."""
    s = w.paths
    by_normal = s["noted"][0] & NOTED_NORMAL
    mixed = mix(s["mix"][0] ^ by_normal, _K)
    n = s["n_lookups"][0]
    last = len(w.chain_slots) - 1
    place = mixed & last
    while w.chain_slots[place] != 0:
        chain = np.int64(w.chain_slots[place]) - 1
        if w.chains["mix"][chain] == mixed and np.int64(w.chains["n_entries"][chain]) == n:
            return _use(w, chain)
        place = (place + 1) & last
    first = s["n_entries"][0]
    chain = _take_place(w) if first + n <= len(w.chain_entries) else np.int64(-1)
    if chain < 0:
        return chain
    for lookup in range(n):
        for word in range(ENTRY_WORDS):
            w.chain_entries[first + lookup, word] = w.lookups[lookup, word]
    w.chains["mix"][chain] = mixed
    w.chains["judged"][chain] = 0
    w.chains["new_eth_src"][chain] = -1
    w.chains["new_vid"][chain] = -1
    w.chains["entries"][chain] = first
    w.chains["n_entries"][chain] = n
    w.chains["uses_normal"][chain] = 1 if by_normal else 0
    w.chain_slots[place] = chain + 1
    s["n_entries"][0] = first + n
    s["chains_added"][0] += 1
    return _use(w, chain)


@kernel
def _take_place(w: Any) -> Any:
    """A free place for a chain, or -1."""
    s = w.paths
    if s["n_free_chains"][0] > 0:
        s["n_free_chains"][0] -= 1
        return np.int64(w.chain_free[s["n_free_chains"][0]])
    chain = s["n_chains"][0]
    if chain == len(w.chains):
        return np.int64(-1)
    s["n_chains"][0] = chain + 1
    return chain


@kernel
def _use(w: Any, chain: Any) -> Any:
    w.chains["used_ms"][chain] = w.machine["now_ms"][0]
    return np.int64(w.chains["life"][chain]) << CHAIN_BITS | chain


@kernel(inline=False)
def _write_record(w: Any, chain: Any, ct_state: Any) -> Any:
    """Everything of the next record but the verdict and what becomes of the packet."""
    s = w.paths
    n = s["n_learned"][0]
    record = w.learned
    record["time_ms"][n] = w.machine["now_ms"][0]
    record["epoch"][n] = s["epoch"][0]
    record["chain"][n] = chain
    record["ct_state"][n] = ct_state
    record["n_zones"][n] = s["n_rows"][0]
    turned = np.int64(0)
    for z in range(4):
        passed = z < s["n_rows"][0]
        record["rows"][n, z] = w.passed[z, R_ROW] if passed else 0
        record["generations"][n, z] = w.passed[z, R_GENERATION] if passed else 0
        turned |= w.passed[z, R_DIRECTION] << z if passed else 0
    record["turned"][n] = turned
    keys = w.lookup_keys  # the first one is that of the packet as it came
    path = record["path"]
    for half in range(2):
        path["source"][n, half] = keys[0, W_NW_SRC + half]
        path["destination"][n, half] = keys[0, W_NW_DST + half]
        path["new_source"][n, half] = 0
        path["new_destination"][n, half] = 0
    family = np.int64(6 if keys[0, W_ETH_DST] & 0xFFFF == ETH_IPV6 else 4)
    path["tuple"][n] = tuple_word(keys, 0, family, np.int64(0))
    path["eth_src"][n] = (keys[0, W_ETH_SRC] >> 16) & _MAC
    path["eth_dst"][n] = (keys[0, W_ETH_DST] >> 16) & _MAC
    path["in_port"][n] = s["home"][0] | (keys[0, W_PORT] >> 32) & _U32
    path["vlan_tci"][n] = keys[0, W_ETH_SRC] & 0xFFFF
    path["tos"][n] = 0
    path["ttl_decrements"][n] = 0
    path["new_eth_src"][n] = 0
    path["new_eth_dst"][n] = 0
    path["out_port"][n] = 0
    path["new_source_port"][n] = 0
    path["new_destination_port"][n] = 0
    path["new_vlan_tci"][n] = 0
    path["new_vlan_tpid"][n] = 0
    path["mtu"][n] = 0
    path["new_tos"][n] = 0
    path["flags"][n] = 0


@kernel(inline=False)
def _settle(w: Any, p: Any) -> Any:
    """Add verdict and path to the record of the packet that has ended, and tell it."""
    s = w.paths
    n = s["n_learned"][0]
    chain = np.int64(w.learned["chain"][n]) & _PLACE
    unfit = s["passing"][0]
    if unfit == 0:
        unfit = s["unfit"][0]
    parameter = np.int64(0)
    if unfit == 0:
        verdict = _judge(w, chain)
        unfit = verdict & 0xFF
        parameter = (verdict >> 8) & 0xFF
        if unfit == 0:
            unfit = _write_path(w, n, np.int64(w.chains["decrements"][chain]), verdict >> 16)
            w.learned["path"]["mtu"][n] = _mtu_of(p, w.paths["out_port"][0])
        if unfit == 0 and s["noted"][0] & NOTED_NORMAL:
            _mark_stations(w, p, chain)
    w.learned["unfit"][n] = unfit
    w.learned["parameter"][n] = parameter
    for z in range(s["n_rows"][0]):
        row, d = w.passed[z, R_ROW], w.passed[z, R_DIRECTION]
        w.told["mark"][row, d] = _mark_of(w.passed[z, R_GENERATION], s["epoch"][0]) | (1 if s["passing"][0] else 0)
        w.told["time_ms"][row, d] = w.machine["now_ms"][0] & _U32
    s["n_learned"][0] = n + 1
    s["told"][0] += 1
    if n + 1 == len(w.learned):
        s["stop"][0] |= STOP_LEARNED


@kernel
def _mtu_of(p: Any, number: Any) -> Any:
    """A port's MTU, as far as a path can say it."""
    index = np.int64(p.index[number])
    return min(np.int64(p.ports["mtu"][index]), 0xFFFF) if index >= 0 else np.int64(0)


@kernel
def _judge(w: Any, chain: Any) -> Any:
    """What the chain says of this packet: UNFIT_* | parameter << 8 | CHAIN_* << 16."""
    unfit = np.int64(w.chains["unfit"][chain])
    if unfit != 0:
        return unfit | np.int64(w.chains["parameter"][chain]) << 8
    by_normal = np.int64(1 if w.paths["noted"][0] & NOTED_NORMAL else 0)
    if w.paths["outputs"][0] != 1 or np.int64(w.chains["normals"][chain]) != by_normal:
        return np.int64(UNFIT_OUTPUTS)
    flags = np.int64(w.chains["flags"][chain])
    at = np.int64(w.chains["candidates"][chain])
    for _ in range(np.int64(w.chains["n_candidates"][chain])):
        if _fits(w, at):
            differs = w.lookup_keys[w.candidates[at + C_POSITION], W_L4] ^ w.candidates[at + C_TOS_VALUE]
            field = w.candidates[at + C_FIELD]
            if field != TOS_ALONE and differs & w.candidates[at + C_TOS_MASK] == 0:
                return np.int64(UNFIT_VARYING) | field << 8
            flags |= CHAIN_TOS
        at += C_TRIPLES + N_WORDS * w.candidates[at + C_MATCH]
    return flags << 16


@kernel
def _fits(w: Any, at: Any) -> Any:
    """Whether a candidate matches everything of the packet that does not vary."""
    difference = np.int64(0)
    first = at + C_TRIPLES
    for j in range(first, first + N_WORDS * w.candidates[at + C_MATCH], N_WORDS):
        word = w.lookup_keys[w.candidates[at + C_POSITION], w.candidates[j]]
        difference |= (word ^ w.candidates[j + 2]) & w.candidates[j + 1]
    return difference == 0


@kernel
def _changed_beyond(w: Any, ttl_decrements: Any) -> Any:
    """Whether the packet was changed in a way that no path can say."""
    was, now = w.lookup_keys, w.final_key
    difference = (was[0, W_ETH_DST] ^ now[0, W_ETH_DST]) & 0xFFFF
    difference |= (was[0, W_L4] ^ now[0, W_L4]) & 0xFF0000FF
    difference |= (was[0, W_FLAGS] ^ now[0, W_FLAGS]) & _FIELDS_OF_FLAGS
    difference |= (was[0, W_ND_TARGET] ^ now[0, W_ND_TARGET]) | (was[0, W_ND_TARGET + 1] ^ now[0, W_ND_TARGET + 1])
    difference |= (was[0, W_ARP_SHA] ^ now[0, W_ARP_SHA]) | (was[0, W_ARP_THA] ^ now[0, W_ARP_THA])
    difference |= ((was[0, W_L4] >> 8) & 0xFF) - ((now[0, W_L4] >> 8) & 0xFF) - ttl_decrements
    return difference != 0


@kernel(inline=False)
def _write_path(w: Any, n: Any, ttl_decrements: Any, chain_flags: Any) -> Any:
    """The difference between the packet that came and the one that left, given CHAIN_*; 0, or UNFIT_REWRITE."""
    if _changed_beyond(w, ttl_decrements):
        return np.int64(UNFIT_REWRITE)
    was, now = w.lookup_keys, w.final_key
    path = w.learned["path"]
    flags = np.int64(0)
    path["out_port"][n] = w.paths["home"][0] | w.paths["out_port"][0]
    path["ttl_decrements"][n] = ttl_decrements
    if (was[0, W_ETH_SRC] ^ now[0, W_ETH_SRC]) >> 16:
        flags |= REWRITE_ETH_SRC
        path["new_eth_src"][n] = (now[0, W_ETH_SRC] >> 16) & _MAC
    if (was[0, W_ETH_DST] ^ now[0, W_ETH_DST]) >> 16:
        flags |= REWRITE_ETH_DST
        path["new_eth_dst"][n] = (now[0, W_ETH_DST] >> 16) & _MAC
    tags = ((was[0, W_ETH_SRC] ^ now[0, W_ETH_SRC]) | (was[0, W_FLAGS] ^ now[0, W_FLAGS])) & 0xFFFF
    if tags != 0 or chain_flags & CHAIN_TAGS:
        flags |= REWRITE_VLAN
        if now[0, W_ETH_SRC] & VLAN_PRESENT:
            path["new_vlan_tci"][n] = now[0, W_ETH_SRC] & 0xFFFF
            path["new_vlan_tpid"][n] = now[0, W_FLAGS] & 0xFFFF
    if (was[0, W_NW_SRC] ^ now[0, W_NW_SRC]) | (was[0, W_NW_SRC + 1] ^ now[0, W_NW_SRC + 1]):
        flags |= REWRITE_SOURCE
        for half in range(2):
            path["new_source"][n, half] = now[0, W_NW_SRC + half]
    if (was[0, W_NW_DST] ^ now[0, W_NW_DST]) | (was[0, W_NW_DST + 1] ^ now[0, W_NW_DST + 1]):
        flags |= REWRITE_DESTINATION
        for half in range(2):
            path["new_destination"][n, half] = now[0, W_NW_DST + half]
    if (was[0, W_L4] ^ now[0, W_L4]) >> 32:
        flags |= REWRITE_PORTS
        path["new_source_port"][n] = (now[0, W_L4] >> 48) & 0xFFFF
        path["new_destination_port"][n] = (now[0, W_L4] >> 32) & 0xFFFF
    if chain_flags & CHAIN_TOS:
        flags |= MATCH_TOS
        path["tos"][n] = (was[0, W_L4] >> 16) & 0xFF
    if (was[0, W_L4] ^ now[0, W_L4]) & 0xFF0000:
        if chain_flags & CHAIN_TOS == 0:
            return np.int64(UNFIT_REWRITE)
        flags |= REWRITE_TOS
        path["new_tos"][n] = (now[0, W_L4] >> 16) & 0xFF
    path["flags"][n] = flags
    return np.int64(0)


@kernel
def _mark_stations(w: Any, p: Any, chain: Any) -> Any:
    """The path depends on where `normal` found the destination, and on nobody else claiming to be its source."""
    was, now = w.lookup_keys, w.final_key
    vlan = w.paths["normal_vlan"][0]
    tci = w.paths["normal_tci"][0]
    sender = (now[0, W_ETH_SRC] >> 16) & _MAC
    if sender != (was[0, W_ETH_SRC] >> 16) & _MAC:
        w.chains["new_eth_src"][chain] = sender
    if (tci ^ was[0, W_ETH_SRC]) & 0xFFFF:
        w.chains["new_vid"][chain] = vid_of(tci)
    source = find_station(p, sender << 12 | vlan)
    if source >= 0:
        p.stations["flags"][source] = STATION_ON_PATH
    destination = find_station(p, ((now[0, W_ETH_DST] >> 16) & _MAC) << 12 | vlan)
    if destination >= 0:
        p.stations["flags"][destination] = STATION_ON_PATH
        due = p.stations["used_ms"][destination] + p.state["age_ms"][0]
        w.paths["station_due_ms"][0] = min(w.paths["station_due_ms"][0], due)


def _example() -> tuple[Any, ...]:
    return make_work(1, example_arrays().quotes, 1), make_ports(1, 1)


@kernel(example=_example)
def settle_last(w: Any, p: Any) -> Any:
    """Tell the packet that the loop stopped behind (STOP_JUDGE), now that its chain is judged."""
    w = by_reference(w)
    p = by_reference(p)
    _settle(w, p)

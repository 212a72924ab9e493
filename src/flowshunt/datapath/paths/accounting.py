"""What others forwarded, added to the rules and stations of its path: as if the packets had taken the long way."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.arrays import example_arrays
from flowshunt.datapath.fdb import find_station
from flowshunt.datapath.paths.schema import CHAIN_BITS, E_GENERATION, E_RULE, MISS
from flowshunt.datapath.schema import make_ports, make_tables, make_work
from flowshunt.datapath.vlans import vid_of, vlan_behind
from flowshunt.jit import by_reference, kernel

_PLACE = (1 << CHAIN_BITS) - 1


def _example() -> tuple[Any, ...]:
    column = np.zeros(0, np.int64)
    work = make_work(1, example_arrays().quotes, 1)
    return work, make_tables(1, 1, 8), make_ports(1, 1), column, column, column, column, column, column, column


@kernel(example=_example)
def add_usage(
    w: Any, c: Any, p: Any, chains: Any, in_ports: Any, packets: Any, size: Any, last_used_ms: Any, eth_srcs: Any,
    vlans: Any,
) -> Any:  # fmt: skip
    """Add to rules, tables and stations; the columns, int64 (n,), are those of `Paths.account`.

    Returns how many chains were forgotten, whose rules miss what was forwarded.
    """
    w = by_reference(w)
    c = by_reference(c)
    p = by_reference(p)
    n_forgotten = np.int64(0)
    for i in range(len(chains)):
        chain = chains[i] & _PLACE
        alive = w.chains["mix"][chain] != 0 and np.int64(w.chains["life"][chain]) == chains[i] >> CHAIN_BITS
        if not alive:
            n_forgotten += 1
            continue
        used = last_used_ms[i]
        w.chains["used_ms"][chain] = max(w.chains["used_ms"][chain], used)
        _count(w, c, chain, packets[i], size[i], used)
        if w.chains["uses_normal"][chain]:
            _refresh_station(w, p, chain, in_ports[i], used, eth_srcs[i], vlans[i])
    return n_forgotten


@kernel
def _count(w: Any, c: Any, chain: Any, packets: Any, size: Any, used: Any) -> Any:
    first = np.int64(w.chains["entries"][chain])
    for entry in range(first, first + np.int64(w.chains["n_entries"][chain])):
        table = w.chain_entries[entry, E_RULE] >> 32
        rule = w.chain_entries[entry, E_RULE] & MISS
        c.tables["lookups"][table] += packets
        if rule == MISS:
            continue
        c.tables["matches"][table] += packets
        if np.int64(c.rules["generation"][rule]) == w.chain_entries[entry, E_GENERATION]:
            c.rules["packets"][rule] += packets
            c.rules["bytes"][rule] += size
            c.rules["used_ms"][rule] = max(c.rules["used_ms"][rule], used)


@kernel
def _refresh_station(w: Any, p: Any, chain: Any, in_port: Any, used: Any, eth_src: Any, tci: Any) -> Any:
    """The sender was heard, if it is still where it was."""
    index = np.int64(p.index[in_port])
    if index < 0:
        return
    if w.chains["new_eth_src"][chain] >= 0:
        eth_src = w.chains["new_eth_src"][chain]
    vid = np.int64(w.chains["new_vid"][chain])
    vlan = vlan_behind(p, index, vid if vid >= 0 else vid_of(tci))
    station = find_station(p, eth_src << 12 | vlan)
    if station >= 0 and np.int64(p.stations["port"][station]) == in_port:
        p.stations["used_ms"][station] = max(p.stations["used_ms"][station], used)

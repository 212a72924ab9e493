"""The shunt: established traffic of a million connections past the tables, one thread (its CPU seconds).

The rules are those of the BlueField page (REQUIREMENTS row C1), packets lie in memory, batches of 256, calls of 16,384.
`shunt.random_1m`, `shunt.random_1m_nat`: every connection's packet once, in random order, all of them hits; with source
and destination translated and the TTL decremented in the latter. `shunt.roofline_ratio`: against a loop that reads,
with prefetch and nothing else, as many random cache lines of the same arrays as a hit touches: its bytes, its record,
its bucket and two lines of its entry. `shunt.to_tables`: against the same packets through tables and tracker.
`shunt.walk_ratio`: time through the tables with a full shunt of another epoch against an empty one, which is what a
change of the rules costs until flows are renewed. `insert.shunt`: flows a second taken by a share.
`shunt.framework`: percent by which the framework without a provider slows `pipeline.established` down, the upper 95 %
bound of the median of PAIRS interleaved pairs.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from benchmarks import traffic
from benchmarks.pipeline import C1_RULES
from flowshunt import Switch
from flowshunt.cli.bench.figures import Record
from flowshunt.datapath.paths import records as R
from flowshunt.datapath.shunt.schema import ShuntArrays, make_shunt
from flowshunt.datapath.shunt.table import Share
from flowshunt.jit import kernel, prefetch, warm_up
from flowshunt.offload.registry import Settings
from flowshunt.packet.schema import PACKET, PROTO_TCP, Batch

N = 1_000_000
PAIRS = 30
_CALL = 1 << 14
_AHEAD = 32
_PAIR_PACKETS = 1 << 16
_NAT_ADDRESS = 0xC0000201


def _roofline_example() -> tuple[Any, ...]:
    order = np.zeros(1, np.int64)
    return make_shunt(1, 1), np.zeros(1, np.uint8), np.zeros(1, PACKET), order, order, order


@kernel(example=_roofline_example)
def roofline(s: Any, data: Any, packets: Any, order: Any, buckets: Any, entries: Any) -> Any:
    """Read a line of each bucket, two of each entry, and one each of a packet's bytes and its record."""
    total = 0
    n = len(entries)
    for i in range(n):
        if i + 2 * _AHEAD < n:
            prefetch(s.buckets, buckets[i + 2 * _AHEAD], 0)
        if i + _AHEAD < n:
            prefetch(s.entries, entries[i + _AHEAD], 0)
            prefetch(s.entries, entries[i + _AHEAD], 64)
            prefetch(data, order[i + _AHEAD] * traffic.STRIDE, 0)
            prefetch(packets, order[i + _AHEAD], 0)
        total += s.buckets[buckets[i], 0] + s.entries["tuple"][entries[i]] + s.entries["used_ms"][entries[i]]
        total += np.int64(data[order[i] * traffic.STRIDE]) + packets["time_ns"][order[i]]
    return total


def _switch(n: int) -> tuple[Switch, Batch]:
    """A switch with `n` established connections, and a packet of each."""
    switch = Switch(max_connections=1 << 20, seed=1)
    switch.add_port("inside")
    switch.add_port("outside")
    switch.add_flows(C1_RULES)
    clients, ports = traffic.flows(n)
    established = traffic.frames(PROTO_TCP, clients, ports)
    reply = traffic.frames(PROTO_TCP, clients, ports, reply=True, flags=traffic.SYN_ACK, first=True)
    _run(switch, traffic.frames(PROTO_TCP, clients, ports, flags=traffic.SYN, first=True))
    _run(switch, reply)
    _run(switch, established)
    return switch, established


def _run(switch: Switch, batch: Batch) -> float:
    """Seconds for a batch, in calls of _CALL packets."""
    parts = [Batch(batch.data, batch.packets[at : at + _CALL]) for at in range(0, len(batch.packets), _CALL)]
    began = time.thread_time()
    for part in parts:
        switch.datapath.process(part)
    return time.thread_time() - began


def flows(switch: Switch, nat: bool = False) -> np.ndarray:
    """A FLOW for every connection of `_switch`, FLOW (n,), client on port 1, server on port 2."""
    conns = switch.tracker.arrays.conns[: len(switch.tracker)]
    found = np.zeros(len(conns), R.FLOW)
    found["rows"][:, 0], found["generations"][:, 0] = np.arange(len(conns)), conns["generation"]
    found["n_zones"], found["max_idle_ms"], found["ct_state"] = 1, 30_000, (0x22, 0x2A)
    there, back = found["paths"][:, 0], found["paths"][:, 1]
    there["source"], there["destination"] = conns["source"], conns["destination"]
    back["source"], back["destination"] = conns["destination"], conns["source"]
    word = conns["tuple"]
    there["tuple"] = word
    back["tuple"] = ((word >> 48) & 0xFFFF) << 32 | ((word >> 32) & 0xFFFF) << 48 | word & 0xFFFFFFFF
    macs = 0x020202020202, 0x020303030303
    there["eth_dst"], there["eth_src"] = macs
    back["eth_src"], back["eth_dst"] = macs
    there["in_port"] = back["out_port"] = 1
    there["out_port"] = back["in_port"] = 2
    if nat:
        for path, name, flag in (
            (there, "new_source", R.REWRITE_SOURCE),
            (back, "new_destination", R.REWRITE_DESTINATION),
        ):
            path["flags"] = flag
            path[name][:, 1] = _NAT_ADDRESS
            path["ttl_decrements"] = 1
    return found


def _install(share: Share, wanted: np.ndarray) -> float:
    """Seconds to install flows, in calls of _CALL; all are taken."""
    began = time.thread_time()
    for at in range(0, len(wanted), _CALL):
        share.install(wanted[at : at + _CALL])
    seconds = time.thread_time() - began
    if wanted["error"].any():
        raise AssertionError("flows were refused")
    return seconds


def _measure_roofline(arrays: ShuntArrays, batch: Batch, rng: np.random.Generator) -> float:
    base = int(arrays.state["base"][0])
    order, entries = rng.permutation(N), rng.permutation(2 * N)[:N]
    buckets = base + rng.integers(0, base, N)
    began = time.thread_time()
    roofline(arrays, batch.data, batch.packets, order, buckets, entries)
    return time.thread_time() - began


def _hits(switch: Switch, share: Share, batch: Batch) -> float:
    before = share.hits
    seconds = _run(switch, batch)
    if share.hits - before != len(batch.packets):
        raise AssertionError(f"only {share.hits - before} packets of {len(batch.packets)} were shunted")
    return seconds


def _random(record: Record, rounds: int) -> None:
    switch, established = _switch(N)
    share = switch.datapath.shunt.share("benchmark")
    rng = np.random.default_rng(7)
    plain, translated = flows(switch), flows(switch, nat=True)
    _install(share, plain)
    for number in range(rounds):
        batch = traffic.select(established, rng.permutation(N))
        seconds = _hits(switch, share, batch)
        floor = _measure_roofline(switch.datapath.shunt.arrays, established, rng)
        switch.datapath.shunt.set_epoch(1)
        walked = _run(switch, batch)
        switch.datapath.shunt.set_epoch(0)
        share.flush()
        tables = _run(switch, batch)
        taken = _install(share, translated)
        translating = _hits(switch, share, batch)
        share.flush()
        if number:  # the first one pays for fresh memory
            record.add("insert.shunt", "flows/s", N / taken)
        record.add("shunt.random_1m", "Mpps", N / seconds / 1e6)
        record.add("shunt.random_1m_nat", "Mpps", N / translating / 1e6)
        record.add("shunt.roofline", "Mpps", N / floor / 1e6)
        record.add("shunt.roofline_ratio", "ratio", floor / seconds)
        record.add("shunt.to_tables", "ratio", tables / seconds)
        record.add("shunt.walk_ratio", "ratio", walked / tables)
        _install(share, plain)


def median_bound(values: list[float]) -> float:
    """The upper end of a 95 % confidence interval of the median, whatever the distribution (order statistics)."""
    n = len(values)
    below = 0.0
    for place in range(n):
        below += math.comb(n, place) / 2**n
        if below >= 0.975:
            return sorted(values)[min(place, n - 1)]
    return max(values)


def _framework(record: Record) -> None:
    """Both switches see the same packets; which one goes first alternates."""
    switches = []
    for enabled in (False, True):
        switch, established = _switch(1000)
        switch.offload.configure(Settings(enabled=enabled))
        switches.append(switch)
    batch = Batch(established.data, np.tile(established.packets, -(-_PAIR_PACKETS // 1000)))
    for switch in switches:
        _run(switch, batch)
    slower = []
    for pair in range(PAIRS):
        order = (0, 1) if pair % 2 else (1, 0)
        seconds = [0.0, 0.0]
        for which in order:
            seconds[which] = _run(switches[which], batch)
        slower.append((seconds[1] / seconds[0] - 1) * 100)
    record.add("shunt.framework", "percent", median_bound(slower))


def measure(record: Record, rounds: int) -> None:
    """All figures named shunt.* and insert.shunt."""
    warm_up()
    _random(record, rounds)
    _framework(record)

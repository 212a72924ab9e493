"""The tracker alone: full parsing, checksums verified, zones, counters and TCP windows, one thread, batches of 256.

Seconds are CPU seconds of the thread, so that what else runs on the machine counts less; on an idle one they are the
clock's. A million packets lie in memory one behind the other.

The roofline reads, with prefetch and nothing else, as many random cache lines of the same arrays as the tracker touches
for one packet: its bytes, its record, its bucket and two lines of its connection. The stricter
`roofline_table_ratio` counts the table's three alone, since the tracker meets packets in order.
"""

from __future__ import annotations

import gc
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import traffic
from flowshunt.cli.bench.figures import Record
from flowshunt.conntrack.arrays import example_arrays
from flowshunt.conntrack.kernels import entry
from flowshunt.conntrack.kernels.step import COMMIT, NAT
from flowshunt.conntrack.nat import Nat
from flowshunt.conntrack.states import CS_INVALID
from flowshunt.conntrack.table import SWEEP_SLICE, Tracker
from flowshunt.jit import kernel, prefetch, warm_up
from flowshunt.packet.schema import KEY_WORDS, PACKET, PROTO_TCP, PROTO_UDP, Batch

N = 1_000_000
SWEEP_ENTRIES = SWEEP_SLICE
_AHEAD = 32


def _roofline_example() -> tuple[Any, ...]:
    order = np.zeros(1, np.int64)
    return example_arrays(), np.zeros(1, np.uint8), np.zeros(1, PACKET), order, order, order, 1


@kernel(example=_roofline_example)
def roofline(t: Any, data: Any, packets: Any, order: Any, buckets: Any, rows: Any, with_packets: Any) -> Any:
    """Read a line of each bucket and two of each row, and one of a packet's bytes and its record if `with_packets`.

    All are prefetched `_AHEAD` items before, rows that many after their buckets.
    """
    total = 0
    n = len(rows)
    for i in range(n):
        if i + 2 * _AHEAD < n:
            prefetch(t.buckets, buckets[i + 2 * _AHEAD], 0)
        if i + _AHEAD < n:
            prefetch(t.conns, rows[i + _AHEAD], 0)
            prefetch(t.conns, rows[i + _AHEAD], 64)
            if with_packets:
                prefetch(data, order[i + _AHEAD] * traffic.STRIDE, 0)
                prefetch(packets, order[i + _AHEAD], 0)
        total += t.buckets[buckets[i], 0] + t.conns["tuple"][rows[i]] + t.conns["expires_ms"][rows[i]]
        if with_packets:
            total += np.int64(data[order[i] * traffic.STRIDE]) + packets["time_ns"][order[i]]
    return total


def _run(tracker: Tracker, batch: Batch, flags: int = 0, nat: Nat | None = None) -> float:
    """Seconds to track all packets of a batch, 256 at a time, in one call."""
    if nat is not None:
        flags |= NAT
        tracker.arrays.nat_spec[:] = nat.words()
    states = np.zeros(len(batch.packets), np.uint16)
    keys = np.zeros((entry.RING_ROWS, KEY_WORDS), np.int64)
    began = time.thread_time()
    entry.track_packets(tracker.arrays, batch.data, batch.packets, keys, 0, 0, flags, states, 256)
    seconds = time.thread_time() - began
    if (states & CS_INVALID).any():
        raise AssertionError("the tracker finds these packets invalid")
    return seconds


def _resident() -> int:
    """Bytes of memory in use."""
    gc.collect()  # a tracker of before may still wait for it
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _fill(proto: int) -> tuple[Tracker, Batch]:
    """A tracker with N established connections and a packet of each."""
    tracker = Tracker(max_connections=1 << 20, seed=1)
    clients, ports = traffic.flows(N)
    _run(tracker, traffic.frames(proto, clients, ports, flags=traffic.SYN, first=True), COMMIT)
    _run(tracker, traffic.frames(proto, clients, ports, reply=True, flags=traffic.SYN_ACK, first=True))
    established = traffic.frames(proto, clients, ports)
    _run(tracker, established)
    return tracker, established


def _measure_roofline(tracker: Tracker, batch: Batch, rng: np.random.Generator, with_packets: int) -> float:
    base = int(tracker.arrays.state["base"][0])
    order, rows = rng.permutation(N), rng.permutation(N)
    buckets = base + rng.integers(0, base, N)
    began = time.thread_time()
    roofline(tracker.arrays, batch.data, batch.packets, order, buckets, rows, with_packets)
    return time.thread_time() - began


def _random(record: Record, rounds: int, proto: int, name: str) -> None:
    tracker, established = _fill(proto)
    rng = np.random.default_rng(7)
    one = traffic.select(established, np.zeros(N // 4, np.int64))
    for _ in range(rounds):
        seconds = _run(tracker, traffic.select(established, rng.permutation(N)))
        record.add(f"tracker.random_1m_{name}", "Mpps", N / seconds / 1e6)
        if proto == PROTO_TCP:
            floor = _measure_roofline(tracker, established, rng, 1)
            record.add("tracker.roofline", "Mpps", N / floor / 1e6)
            record.add("tracker.roofline_ratio", "ratio", floor / seconds)
            floor = _measure_roofline(tracker, established, rng, 0)
            record.add("tracker.roofline_table_ratio", "ratio", floor / seconds)
        else:
            record.add("tracker.one_udp", "Mpps", N / 4 / _run(tracker, one) / 1e6)


def _new(record: Record, rounds: int, proto: int, name: str) -> None:
    tracker = Tracker(max_connections=1 << 20, seed=1)
    first = traffic.frames(proto, *traffic.flows(N), flags=traffic.SYN, first=True)
    _run(tracker, first, COMMIT)  # memory is there from now on
    for _ in range(rounds):
        tracker.flush()
        record.add(f"tracker.new_{name}", "Mpps", N / _run(tracker, first, COMMIT) / 1e6)


def _new_nat(record: Record, rounds: int) -> None:
    """Connections of many clients, with ports all over the range, to one server, behind 256 addresses."""
    index = np.arange(N)
    clients = (0x0A000001 + index // 50).astype(np.uint32)
    ports = (1024 + index * 7919 % 64512).astype(np.uint16)
    first = traffic.frames(PROTO_UDP, clients, ports)
    nat = Nat("src", IPv4Address("192.0.2.0"), IPv4Address("192.0.2.255"))
    before = _resident()
    tracker = Tracker(max_connections=1 << 20, seed=1)
    _run(tracker, first, COMMIT, nat)
    tracker.sweep(0)
    record.add("tracker.bytes_per_nat_connection", "bytes", (_resident() - before) / N)
    for _ in range(rounds):
        tracker.flush()
        plain = _run(tracker, first, COMMIT)
        tracker.flush()
        seconds = _run(tracker, first, COMMIT, nat)
        record.add("tracker.new_nat", "Mpps", N / seconds / 1e6)
        record.add("tracker.nat_ratio", "ratio", seconds / plain)


def _memory(record: Record) -> None:
    clients, ports = traffic.flows(N)
    first = traffic.frames(PROTO_TCP, clients, ports, flags=traffic.SYN, first=True)
    tracker = Tracker(max_connections=N, seed=1)
    before = _resident()
    _run(tracker, first, COMMIT)
    tracker.sweep(0)
    record.add("tracker.bytes_per_connection", "bytes", (_resident() - before) / N)


def _sweep(record: Record, rounds: int) -> None:
    """Worst slice of a sweep of N expired connections, in thread CPU time.

    Some slices meet another process or a neighbour of the virtual machine, whose time counts as theirs: the slice
    that one in a thousand exceeds tells of the sweep alone.
    """
    first = traffic.frames(PROTO_TCP, *traffic.flows(N), flags=traffic.SYN, first=True)
    tracker = Tracker(max_connections=1 << 20, seed=1)
    now_ms = 0
    for _ in range(rounds):
        first.packets["time_ns"] = now_ms * 1_000_000
        _run(tracker, first, COMMIT)
        now_ms += 40_000
        slices, left = [], 0
        while left <= 0:
            began = time.thread_time_ns()
            left = entry.sweep(tracker.arrays, now_ms, SWEEP_ENTRIES)
            slices.append(time.thread_time_ns() - began)
        if len(tracker):
            raise AssertionError(f"{len(tracker)} connections outlived their sweep")
        record.add("tracker.sweep_worst_batch", "us", max(slices) / 1000)
        record.add("tracker.sweep_p999_batch", "us", float(np.percentile(slices, 99.9)) / 1000)
        record.add("tracker.sweep_median_batch", "us", float(np.median(slices)) / 1000)
    record.add("tracker.sweep_entries", "entries", SWEEP_ENTRIES)


def measure(record: Record, rounds: int) -> None:
    """All figures named tracker.*."""
    warm_up()
    _memory(record)
    _random(record, rounds, PROTO_UDP, "udp")
    _random(record, rounds, PROTO_TCP, "tcp")
    _new(record, rounds, PROTO_UDP, "udp")
    _new(record, rounds, PROTO_TCP, "tcp")
    _new_nat(record, rounds)
    _sweep(record, rounds)

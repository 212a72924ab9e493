"""Insertion into the providers that come with the switch, the shunt below them, one thread (its CPU seconds).

`insert.flowtable`, `insert.eswitch`: connections a second, offered in the numbers in which a batch of packets may show
them.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks import traffic
from flowshunt.cli.bench.figures import Record
from flowshunt.conntrack.table import Tracker
from flowshunt.datapath.paths.records import FLOW
from flowshunt.datapath.shunt.table import Shunt
from flowshunt.jit import warm_up
from flowshunt.offload.eswitch.provider import Eswitch
from flowshunt.offload.providers.flowtable import Flowtable
from flowshunt.packet.schema import PROTO_UDP, Batch

N = 300_000
_TOGETHER = 128
_CALL = 4096


def flows_of(tracker: Tracker, n: int) -> np.ndarray:
    """FLOW (n,) of n new connections, as if their packets came in on ports 1 and 2 and left on the other one."""
    clients, ports = traffic.flows(n)
    for reply in (False, True):
        batch = traffic.frames(PROTO_UDP, clients, ports, reply=reply)
        for start in range(0, n, _CALL):
            tracker.track(Batch(batch.data, batch.packets[start : start + _CALL]), commit=not reply)
    conns = tracker.arrays.conns
    rows = np.array([connection.id for connection in tracker.connections()])
    words = conns["tuple"][rows]
    flows = np.zeros(len(rows), FLOW)
    flows["now_ms"], flows["n_zones"], flows["max_idle_ms"] = tracker.now_ms, 1, 30_000
    flows["rows"][:, 0], flows["generations"][:, 0] = rows, conns["generation"][rows]
    paths = flows["paths"]
    for d, (source, destination) in enumerate((("source", "destination"), ("destination", "source"))):
        paths["source"][:, d], paths["destination"][:, d] = conns[source][rows], conns[destination][rows]
        paths["in_port"][:, d], paths["out_port"][:, d] = 1 + d, 2 - d
    paths["tuple"][:, 0] = words
    paths["tuple"][:, 1] = words & 0xFFFFFFFF | (words >> 32 & 0xFFFF) << 48 | (words >> 48 & 0xFFFF) << 32
    return flows


def _insert(flows: np.ndarray, provider: Flowtable | Eswitch) -> float:
    """Seconds for all of them."""
    began = time.thread_time()
    for start in range(0, len(flows), _TOGETHER):
        provider.install(flows[start : start + _TOGETHER])
    seconds = time.thread_time() - began
    if flows["error"].any():
        raise AssertionError("not all connections were taken")
    return seconds


def measure(record: Record, rounds: int) -> None:
    """Add the figures."""
    warm_up()
    tracker = Tracker(max_connections=N + 1024, seed=1)
    flows = flows_of(tracker, N)
    shunt = Shunt(tracker)
    for provider in (Flowtable(shunt), Eswitch(shunt)):
        for turn in range(rounds + 1):
            seconds = _insert(flows, provider)
            if len(shunt) != N:
                raise AssertionError("the table does not have all connections")
            provider.flush()
            if turn:  # the first one touches memory for the first time
                record.add(f"insert.{provider.name}", "connections/s", N / seconds)

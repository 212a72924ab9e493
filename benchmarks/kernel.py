"""The offload provider `kernel` with a million flows, one thread (its CPU seconds). It needs what the provider needs.

`insert.kernel`: connections a second, 128 at a time, from paths to the map; the provider is empty, and its memory was
used before. `update.kernel_1m`: a turn through the last uses of a million flows, in the slices in which the packet
thread does it; `update.kernel_slice`: the longest of these. `read.kernel_1m`: counters and last uses of all of them,
each of which had packets, told in slices of 4096; `read.kernel_slice`: the longest. `remove.kernel`: flows a second.
`insert.kernel_events`: connections a second from the tracker's events and learned paths to the map, of 100,000 that
begin in batches of 256 packets.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks import traffic
from benchmarks.pipeline import C1_RULES
from flowshunt import Switch
from flowshunt.cli.bench.figures import Record
from flowshunt.datapath.paths.records import FLOW
from flowshunt.jit import warm_up
from flowshunt.offload.providers.kernel.flows import TURNS
from flowshunt.offload.providers.kernel.objects import missing_privileges
from flowshunt.offload.providers.kernel.options import TIMEOUT_MS
from flowshunt.offload.providers.kernel.ports import EveryPort
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.offload.registry import Settings
from flowshunt.packet.schema import PROTO_UDP, Batch

N = 1_000_000
_TOGETHER = 128
_N_BEGUN = 100_000
_BATCH = 256
_SLICE = 4096
_STEP_MS = 50
_NOW_MS = 1_000_000_000
_IPV4 = 0xFFFF << 32
_SERVER, _SERVER_PORT = 0x0A800001, 80


def _flows(n: int) -> np.ndarray:
    """FLOW (n,): many clients of one server, in by port 1 and out by port 2."""
    clients, ports = (column.astype(np.int64) for column in traffic.flows(n))
    flows = np.zeros(n, FLOW)
    flows["now_ms"], flows["n_zones"], flows["max_idle_ms"] = _NOW_MS, 1, TIMEOUT_MS
    flows["rows"][:, 0], flows["generations"][:, 0] = np.arange(n), 1
    there, back = flows["paths"][:, 0], flows["paths"][:, 1]
    there["source"][:, 1] = back["destination"][:, 1] = _IPV4 | clients
    there["destination"][:, 1] = back["source"][:, 1] = _IPV4 | _SERVER
    there["tuple"] = ports << 48 | _SERVER_PORT << 32 | PROTO_UDP << 8
    back["tuple"] = _SERVER_PORT << 48 | ports << 32 | PROTO_UDP << 8
    there["in_port"] = back["out_port"] = 1
    there["out_port"] = back["in_port"] = 2
    return flows


def _timed(steps: list[Callable[[], object]]) -> tuple[float, float]:
    """Seconds of all steps, and of the longest."""
    seconds = []
    for step in steps:
        began = time.thread_time()
        step()
        seconds.append(time.thread_time() - began)
    return sum(seconds), max(seconds)


def _insert(provider: Kernel, flows: np.ndarray) -> float:
    """Seconds for all of them."""
    began = time.thread_time()
    for start in range(0, len(flows), _TOGETHER):
        provider.install(flows[start : start + _TOGETHER])
    seconds = time.thread_time() - began
    if flows["error"].any() or provider.flows.n_flows != len(flows):
        raise AssertionError("not all connections were taken")
    return seconds


def _use(provider: Kernel) -> None:
    """As if a packet had passed by each path."""
    assert provider.objects is not None
    states = provider.objects.states
    states["packets"] += 1
    states["bytes"] += 100


def _begin(rounds: int) -> list[float]:
    """Seconds, by round, that connections from their first packets on take the offload framework and the provider."""
    switch = Switch(max_connections=_N_BEGUN + 1024, seed=1)
    for port in ("inside", "outside"):
        switch.add_port(port)
    switch.add_flows(C1_RULES)
    dispatcher, seconds = switch.offload._dispatcher, [0.0]

    def timed(take: Callable[[np.ndarray], None], records: np.ndarray) -> None:
        began = time.thread_time()
        take(records)
        seconds[0] += time.thread_time() - began

    switch._joined._observers.clear()
    switch._joined.observe(partial(timed, dispatcher.on_learned))
    dispatcher.on_events = partial(timed, dispatcher.on_events)  # type: ignore[method-assign]
    provider = Kernel(EveryPort(), limit=_N_BEGUN)
    switch.offload.register(provider)
    switch.offload.configure(Settings(enabled=True, priority=("kernel",)))
    clients, ports = traffic.flows(_N_BEGUN)
    there = traffic.frames(PROTO_UDP, clients, ports, first=True)
    back = traffic.frames(PROTO_UDP, clients, ports, reply=True, first=True)
    found = []
    for _ in range(rounds):
        seconds[0] = 0.0
        for first in range(0, _N_BEGUN, _BATCH):
            for frames in (there, back, there):
                switch.process(Batch(frames.data, frames.packets[first : first + _BATCH]))
        found.append(seconds[0])
        if provider.flows.n_flows < 0.999 * _N_BEGUN:
            raise AssertionError("not all connections were taken")
        switch.tracker.flush()
    switch.offload.close()
    return found


def measure(record: Record, rounds: int) -> None:
    """Add the figures."""
    if lacking := missing_privileges():
        print(f"without the provider kernel, which needs {', '.join(lacking)}", file=sys.stderr)
        return
    warm_up()
    for seconds in _begin(rounds + 1)[1:]:  # the first one touches memory for the first time
        record.add("insert.kernel_events", "connections/s", _N_BEGUN / seconds)
    flows = _flows(N)
    rows, generations = flows["rows"][:, 0].copy(), flows["generations"][:, 0].copy()
    provider = Kernel(EveryPort(), limit=N)
    provider.init()
    slices = [slice(start, start + _SLICE) for start in range(0, N, _SLICE)]
    now_ms = _NOW_MS
    for turn in range(rounds + 1):
        inserted = _insert(provider, flows)
        _use(provider)
        read = _timed([lambda s=s: provider.statistics(rows[s], generations[s], _NOW_MS) for s in slices])  # type: ignore[misc]
        provider.handed_back(now_ms)
        times = range(now_ms + _STEP_MS, now_ms + TIMEOUT_MS // TURNS + _STEP_MS, _STEP_MS)
        updated = _timed([lambda t=t: provider.handed_back(t) for t in times])  # type: ignore[misc]
        now_ms = times[-1]
        removed, _ = _timed([lambda s=s: provider.withdraw(rows[s], generations[s]) for s in slices])  # type: ignore[misc]
        if provider.flows.n_flows:
            raise AssertionError("flows are left")
        if turn:  # the first one touches memory for the first time
            record.add("insert.kernel", "connections/s", N / inserted)
            record.add("remove.kernel", "flows/s", N / removed)
            for name, (total, longest) in (("update", updated), ("read", read)):
                record.add(f"{name}.kernel_1m", "ms", 1000 * total)
                record.add(f"{name}.kernel_slice", "ms", 1000 * longest)
    provider.close()

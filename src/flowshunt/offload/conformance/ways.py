"""A datapath of the kit's own: its paths are told when a scenario says so. And a watcher between it and a forwarder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flowshunt.datapath.paths.records import LEARNED
from flowshunt.offload.conformance.framework import Watcher
from flowshunt.offload.conformance.stage import Stage
from flowshunt.offload.conformance.subject import Factory, NotApplicableError
from flowshunt.offload.errors import MAX_ERRNO
from flowshunt.offload.framework import Offload
from flowshunt.offload.installing import FLOW, USAGE
from flowshunt.offload.registry import Settings
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP

_FROM_FRAMEWORK = tuple(name for name in FLOW.names or () if name not in ("error", "reason"))
_PORTS = (1, 2)


class Ways:
    """Implements `table.Paths`. Connection `n` lives in row n, as on a `Stage`."""

    def __init__(self, stage: Stage) -> None:
        self.epoch = 1
        self._stage = stage
        self._observers: list[Callable[[np.ndarray], None]] = []

    def show(self, rows: np.ndarray, d: int, *, out_port: int | None = None) -> None:
        """A packet of each connection has shown its path in direction d."""
        learned = np.zeros(len(rows), LEARNED)
        learned["time_ms"] = self._stage.now_ms
        learned["epoch"] = self.epoch
        learned["rows"][:, 0] = rows
        learned["generations"][:, 0] = self._stage.generation[rows]
        learned["n_zones"] = 1
        learned["turned"] = d
        path = learned["path"]
        path["in_port"], path["out_port"] = _PORTS[d], out_port or _PORTS[1 - d]
        path["eth_src"], path["eth_dst"] = 0x020000000001 + d, 0x020000000002 - d
        ports = [1024 + rows.astype(np.int64) % 60000, np.full(len(rows), 443)]
        path["tuple"] = ports[d] << 48 | ports[1 - d] << 32 | np.where(rows % 2, PROTO_UDP, PROTO_TCP) << 8
        ends = ("source", "destination") if d == 0 else ("destination", "source")
        path[ends[0]][:, 1], path[ends[1]][:, 1] = 0x0A000000 | rows // 60000, 0x0A630001
        for part in np.array_split(learned, -(-len(rows) // 4096) or 1):
            for observer in self._observers:
                observer(part.copy())

    def enable(self, on: bool) -> None:
        """See `Paths`; likewise all below."""

    def observe(self, observer: Callable[[np.ndarray], None]) -> None:
        """See `Paths`."""
        self._observers.append(observer)

    def forget(self, rows: np.ndarray) -> None:
        """See `Paths`. Paths are told when a scenario says so."""

    def account(self, *columns: np.ndarray) -> None:
        """See `Paths`. There are no rules."""


class ForwardWatcher(Watcher):
    """Passes the calls of a forwarder on, and notes what it answered.

    `held`: by row, generation + 1 of the flow that it took, 0: none. `n_refused`: flows that it did not.
    """

    def __init__(self, provider: Any, queue_limit: int, capacity: int) -> None:
        super().__init__(provider, queue_limit, capacity)
        self.mark = getattr(provider, "mark", None)
        self.held = np.zeros(capacity, np.int64)
        self.n_refused = 0
        self.calls: list[str] = []

    def install(self, flows: np.ndarray) -> None:
        """See Forwarder; likewise all below."""
        self.calls.append("install")
        before = flows.copy()
        self._forwarder.install(flows)
        self._check_flows(before, flows)
        rows, done = flows["rows"][:, 0], flows["error"] == 0
        self.held[rows[done]] = flows["generations"][done, 0] + np.int64(1)
        self.n_refused += int((~done).sum())

    def _check_flows(self, before: np.ndarray, flows: np.ndarray) -> None:
        written = [name for name in _FROM_FRAMEWORK if not np.array_equal(before[name], flows[name])]
        if written:
            self.wrong.append(f"install writes {', '.join(written)}; only error and reason are the provider's")
        if ((flows["error"] < 0) | (flows["error"] > MAX_ERRNO)).any():
            self.wrong.append(f"install sets errors outside of 0 to {MAX_ERRNO}")

    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int) -> None:
        """See Forwarder."""
        self.calls.append("renew")
        self._forwarder.renew(rows, generations, epoch)

    def begin_epoch(self, epoch: int) -> None:
        """See Forwarder."""
        self.calls.append("begin_epoch")
        self._forwarder.begin_epoch(epoch)

    def withdraw(self, rows: np.ndarray, generations: np.ndarray) -> Any:
        """See Forwarder."""
        self.calls.append("withdraw")
        known = self.held[rows] == generations + np.int64(1)
        self.held[rows[known]] = 0
        return self._usage("withdraw", self._forwarder.withdraw(rows, generations), len(rows))

    def statistics(self, rows: np.ndarray, generations: np.ndarray, now_ms: int) -> Any:
        """See Forwarder."""
        return self._usage("statistics", self._forwarder.statistics(rows, generations, now_ms), len(rows))

    def _usage(self, call: str, usage: Any, n: int) -> Any:
        if not isinstance(usage, np.ndarray) or usage.dtype != USAGE or usage.shape != (n,):
            self.wrong.append(f"{call} must return USAGE ({n},)")
        elif any((usage[name] < 0).any() for name in ("packets", "bytes", "frame_bytes", "last_used_ms")):
            self.wrong.append(f"{call} returns negative counters")
        return usage

    def handed_back(self, now_ms: int) -> Any:
        """See Forwarder."""
        answer = self._forwarder.handed_back(now_ms)
        rows, generations, _, usage = answer
        self._usage("handed_back", usage, len(rows))
        known = self.held[rows] == generations + np.int64(1)
        if not known.all():
            self.wrong.append("handed_back names connections that it did not take")
        self.held[rows[known]] = 0
        return answer

    @property
    def _forwarder(self) -> Any:
        return self._provider

    def passes(self, rows: np.ndarray, epoch: int, generation: int = 0) -> np.ndarray:
        """`is_forwarding`. Raises NotApplicableError without it."""
        if not hasattr(self._provider, "is_forwarding"):
            raise NotApplicableError("it has no is_forwarding, so nobody can see whether packets would pass")
        wanted = rows.astype(np.uint32), np.full(len(rows), generation, np.uint32)
        answer: np.ndarray = self._forwarder.is_forwarding(*wanted, epoch)
        return answer


def stand(factory: Factory, capacity: int = 1000, queue_limit: int = 0) -> tuple[Stage, Ways, Offload, ForwardWatcher]:
    """A stage with paths, and the framework with a fresh forwarder. Raises NotApplicableError for other providers."""
    provider = factory()
    if not hasattr(provider, "install"):
        raise NotApplicableError("it forwards no packets: it has no install")
    watcher = ForwardWatcher(provider, queue_limit, capacity)
    if hasattr(provider, "init"):
        provider.init()
    stage = Stage(capacity)
    ways = Ways(stage)
    offload = Offload(stage, devices=lambda n: f"p{n}", clock_ns=lambda: 0, paths=ways)
    offload.register(watcher)  # type: ignore[arg-type]
    offload.configure(Settings(enabled=True))
    return stage, ways, offload, watcher

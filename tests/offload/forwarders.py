"""A forwarder that forwards nothing and does as it is told, and a datapath whose paths are made by hand."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence

import numpy as np

from flowshunt.datapath.paths.records import LEARNED, REWRITE_ETH_DST, UNFIT
from flowshunt.offload.api import ArrayProvider
from flowshunt.offload.batch import ConnectionId
from flowshunt.offload.framework import Offload
from flowshunt.offload.installing import USAGE
from flowshunt.offload.providers.dummy import ArrayDummy
from flowshunt.offload.reasons import number_of
from flowshunt.offload.registry import Settings
from tests.offload.traffic import CLIENT_PORT, SERVER_PORT, START_MS, Bench

__all__ = ["ArrayProvider", "FakePaths", "Forwarding", "PathBench"]

_CHAINS = (7, 8)


class Forwarding(ArrayDummy):
    """Takes every flow, up to `limit`.

    `flows`: by leader's row and generation, what was installed. `calls`: names of the calls in order. `used`: the USAGE
    that the next reading of a flow tells, by row. `gone`: what it has given up. `failing`: calls that raise.
    `gate`: while it is cleared, calls do not return.
    """

    def __init__(
        self, name: str = "forwarding", *, limit: int = 1 << 30, mark: str = "OFFLOAD", queue_limit: int | None = 0
    ) -> None:
        super().__init__(name, queue_limit=queue_limit)
        self.limit = limit
        self.mark = mark
        self.flows: dict[tuple[int, int], np.void] = {}
        self.calls: list[str] = []
        self.epochs: dict[tuple[int, int], int] = {}
        self.epoch = -1
        self.used: dict[int, np.void] = {}
        self.gone: list[tuple[int, int, str]] = []
        self.failing: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def _begin(self, name: str) -> None:
        assert self.gate.wait(10)
        self.calls.append(name)
        if name in self.failing:
            raise ZeroDivisionError(f"a bug in {name}")

    def install(self, flows: np.ndarray, /) -> None:
        self._begin("install")
        for flow in flows:
            identity = int(flow["rows"][0]), int(flow["generations"][0])
            if identity not in self.flows and len(self.flows) >= self.limit:
                flow["error"], flow["reason"] = errno.ENOSPC, number_of("table-full")
            else:
                self.flows[identity] = flow.copy()
                self.epochs[identity] = int(flow["epoch"])

    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> None:
        self._begin("renew")
        for identity in zip(rows.tolist(), generations.tolist(), strict=True):
            if identity in self.flows:
                self.epochs[identity] = epoch

    def begin_epoch(self, epoch: int, /) -> None:
        self._begin("begin_epoch")
        self.epoch = epoch

    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> np.ndarray:
        self._begin("withdraw")
        for identity in zip(rows.tolist(), generations.tolist(), strict=True):
            self.flows.pop(identity, None)
        return self._usage(rows)

    def statistics(self, rows: np.ndarray, generations: np.ndarray, now_ms: int, /) -> np.ndarray:
        self._begin("statistics")
        return self._usage(rows)

    def _usage(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        usage = np.zeros(len(rows), USAGE)
        for place, row in enumerate(rows):
            if int(row) in self.used:
                usage[place] = self.used.pop(int(row))
        return usage

    def handed_back(self, now_ms: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        self._begin("handed_back")
        gone, self.gone = self.gone, []
        for row, generation, _ in gone:
            self.flows.pop((row, generation), None)
        rows = np.array([row for row, _, _ in gone], np.uint32)
        generations = np.array([generation for _, generation, _ in gone], np.uint32)
        reasons = np.array([number_of(code) for _, _, code in gone], np.uint16)
        return rows, generations, reasons, self._usage(rows)

    def forwarded(
        self, row: int, packets: tuple[int, int], last_used_ms: int, size: int = 100, frame: int = 114
    ) -> None:
        """It has forwarded so many packets of the flow, which it will tell."""
        usage = np.zeros(1, USAGE)[0]
        usage["packets"] = packets
        usage["bytes"] = [n * size for n in packets]
        usage["frame_bytes"] = [n * frame for n in packets]
        usage["last_used_ms"] = [last_used_ms if n else 0 for n in packets]
        self.used[row] = usage

    def n_calls_of(self, name: str) -> int:
        return self.calls.count(name)


class FakePaths:
    """Implements `table.Paths`. `forgotten`: rows; `accounted`: (chain, port, packets, bytes, last use)."""

    def __init__(self) -> None:
        self.epoch = 1
        self.is_on = False
        self.forgotten: list[int] = []
        self.accounted: list[tuple[int, ...]] = []
        self._observer: Callable[[np.ndarray], None] | None = None

    def enable(self, on: bool) -> None:
        self.is_on = on

    def observe(self, observer: Callable[[np.ndarray], None]) -> None:
        self._observer = observer

    def forget(self, rows: np.ndarray) -> None:
        self.forgotten += rows.tolist()

    def account(self, *columns: np.ndarray) -> None:
        self.accounted += [tuple(row) for row in zip(*(column.tolist() for column in columns[:5]), strict=True)]

    def tell(self, learned: np.ndarray) -> None:
        assert self._observer is not None
        self._observer(learned)


class PathBench(Bench):
    """A bench whose packets' paths are told by hand: `show` says what a packet of a connection would have shown."""

    def __init__(self, *providers: object, enabled: bool = True, **tracker: object) -> None:
        super().__init__(enabled=False, **tracker)
        self.paths = FakePaths()
        self.offload = Offload(self.holding, devices=lambda n: f"p{n}", paths=self.paths)
        for provider in providers:
            self.offload.register(provider)  # type: ignore[arg-type]
        self.offload.configure(Settings(enabled=enabled))

    def show(self, *ways: Sequence[ConnectionId], d: int | None = None, unfit: str = "none", **path: int) -> None:
        """Packets of these connections (one for each zone) have shown their path in direction d (None: both)."""
        directions = range(2) if d is None else (d,)
        records = [self.record(way, direction, unfit, **path) for way in ways for direction in directions]
        self.paths.tell(np.concatenate(records))
        self.offload.poll(self.now_ms)

    def record(self, way: Sequence[ConnectionId], d: int, unfit: str = "none", **path: int) -> np.ndarray:
        learned = np.zeros(1, LEARNED)
        learned["time_ms"] = self.now_ms
        learned["epoch"] = self.paths.epoch
        learned["n_zones"] = len(way)
        learned["chain"] = path.pop("chain", _CHAINS[d])
        learned["unfit"] = UNFIT.index(unfit)
        learned["turned"] = (1 << len(way)) - 1 if d else 0
        for zone, (row, generation) in enumerate(sorted(way)):
            learned["rows"][0, zone] = row
            learned["generations"][0, zone] = generation
        if unfit == "none":
            values = {"in_port": (CLIENT_PORT, SERVER_PORT)[d], "out_port": (SERVER_PORT, CLIENT_PORT)[d]} | path
            for name, value in values.items():
                learned["path"][name] = value
            if "new_eth_dst" in path:
                learned["path"]["flags"] = REWRITE_ETH_DST
        return learned

    def established(self, *ports: int) -> list[ConnectionId]:
        """UDP connections of these ports of the client, answered; in the order of their rows."""
        self.ask(*ports)
        self.answer(*ports)
        return self.identities()[-len(ports) :]


__all__ += ["START_MS"]

"""A naive table of entries, flows as providers get them, and an e-switch on both."""

from __future__ import annotations

import errno

import numpy as np

from flowshunt.datapath.paths.records import FLOW, USAGE
from flowshunt.offload.eswitch.provider import Eswitch
from flowshunt.offload.eswitch.settings import EswitchSettings
from flowshunt.packet.schema import VLAN_PRESENT

START_MS = 1_700_000_000_000
TCP, UDP, ICMP = 6, 17, 1


def flows_of(
    rows, *, generation: int = 1, protocol: int = TCP, ipv6: bool = False, vlan=(False, False), now_ms: int = START_MS
) -> np.ndarray:
    """FLOW (n,) of connections in these rows; `vlan` says which direction comes in with a tag."""
    rows = np.asarray(rows)
    flows = np.zeros(len(rows), FLOW)
    flows["rows"][:, 0] = rows
    flows["generations"][:, 0] = generation
    flows["now_ms"] = now_ms
    flows["n_zones"] = 1
    flows["epoch"] = 1
    flows["paths"]["tuple"] = protocol << 8 | (0x80 if ipv6 else 0)
    flows["paths"]["vlan_tci"] = np.where(vlan, VLAN_PRESENT | 5, 0)
    return flows


class FakeShare:
    """Entries in a dict, by row; `hit` is traffic."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.capacity = 1 << 30
        self.n_hits = 0
        self.flows: dict[int, tuple[int, int]] = {}  # generation and epoch
        self.counters: dict[int, np.ndarray] = {}
        self.taken_elsewhere: set[int] = set()

    def install(self, flows):
        for flow in flows:
            row = int(flow["rows"][0])
            if row in self.taken_elsewhere:
                flow["error"] = errno.EEXIST
            elif row not in self.flows and len(self.flows) >= min(self.limit, self.capacity):
                flow["error"] = errno.ENOSPC
            else:
                self.flows[row] = int(flow["generations"][0]), int(flow["epoch"])
                usage = self.counters.setdefault(row, np.zeros((), USAGE))
                usage["last_used_ms"] = max(int(usage["last_used_ms"].max()), int(flow["now_ms"]))

    def _has(self, row, generation):
        return row in self.flows and self.flows[row][0] == generation

    def hit(self, row: int, now_ms: int, direction: int = 0, size: int = 100) -> bool:
        if row not in self.flows:
            return False
        usage = self.counters[row]
        usage["packets"][direction] += 1
        usage["bytes"][direction] += size
        usage["frame_bytes"][direction] += size + 14
        usage["last_used_ms"][direction] = now_ms
        self.n_hits += 1
        return True

    def renew(self, rows, generations, epoch):
        for row, generation in zip(rows.tolist(), generations.tolist(), strict=True):
            if self._has(row, generation):
                self.flows[row] = generation, epoch

    def _read(self, row):
        told = self.counters[row].copy()
        for name in ("packets", "bytes", "frame_bytes"):
            self.counters[row][name] = 0
        return told

    def withdraw(self, rows, generations):
        usage = np.zeros(len(rows), USAGE)
        for place, (row, generation) in enumerate(zip(rows.tolist(), generations.tolist(), strict=True)):
            if self._has(row, generation):
                usage[place] = self._read(row)
                del self.flows[row], self.counters[row]
        return usage

    def usage(self, rows, generations, now_ms):
        usage = np.zeros(len(rows), USAGE)
        for place, (row, generation) in enumerate(zip(rows.tolist(), generations.tolist(), strict=True)):
            if self._has(row, generation):
                usage[place] = self._read(row)
                usage[place]["counted_ms"] = now_ms
        return usage

    def idle(self, now_ms, timeout_ms, budget):
        rows = [row for row, usage in self.counters.items() if now_ms - usage["last_used_ms"].max() >= timeout_ms]
        rows = np.array(rows[:budget], np.uint32)
        generations = np.array([self.flows[row][0] for row in rows.tolist()], np.uint32)
        return rows, generations, self.withdraw(rows, generations)

    def flush(self):
        self.flows.clear()
        self.counters.clear()

    def statistics(self):
        return {"hits": self.n_hits, "hit_bytes": 0, "limit": self.limit}


class FakeShares:
    def __init__(self) -> None:
        self.parts: dict[str, FakeShare] = {}

    def share(self, name, limit):
        return self.parts.setdefault(name, FakeShare(limit))


class Nic:
    """`eswitch` and its `share`; settings are as given, else small: 3 groups of 10 entries."""

    def __init__(self, **settings) -> None:
        shares = FakeShares()
        values = {"table_entries": 40, "num_of_groups": 3, "ct_max_offloaded_conns": None, **settings}
        self.eswitch = Eswitch(shares, EswitchSettings(**values))
        self.share = shares.parts["eswitch"]
        self.now_ms = START_MS

    def install(self, rows, **flow) -> list[int]:
        """Errors of installing connections."""
        return self.offer(rows, **flow)["error"].tolist()

    def offer(self, rows, **flow) -> np.ndarray:
        flows = flows_of(rows, now_ms=self.now_ms, **flow)
        self.eswitch.install(flows)
        return flows

    def withdraw(self, rows, generation: int = 1) -> np.ndarray:
        rows = np.array(rows, np.uint32)
        return self.eswitch.withdraw(rows, np.full(len(rows), generation, np.uint32))

    def told(self, rows, generation: int = 1) -> np.ndarray:
        rows = np.array(rows, np.uint32)
        return self.eswitch.statistics(rows, np.full(len(rows), generation, np.uint32), self.now_ms)

    def pass_time(self, ms: int) -> tuple[list[int], list[int]]:
        """Rows and reasons that are handed back afterwards."""
        self.now_ms += ms
        rows, generations, reasons, usage = self.eswitch.handed_back(self.now_ms)
        assert len(rows) == len(generations) == len(reasons) == len(usage)
        return rows.tolist(), reasons.tolist()

    def count(self, name: str) -> int:
        return self.eswitch.counters()[name]

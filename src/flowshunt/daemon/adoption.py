"""Flows that the kernel forwards for a process that is gone: connections are rebuilt, and the flows taken over."""

from __future__ import annotations

import time

import numpy as np

from flowshunt.base.picking import as_bytes, pick
from flowshunt.conntrack import schema as C
from flowshunt.conntrack.holding import Holding
from flowshunt.conntrack.snapshot import NAT_NAMES, connection
from flowshunt.conntrack.states import HELPER_NAMES, LINUX_NAMES, PEER_NAMES
from flowshunt.conntrack.table import Tracker
from flowshunt.datapath.paths.records import N_ZONES
from flowshunt.offload.framework import Offload
from flowshunt.offload.handover import KEPT
from flowshunt.offload.providers.kernel.pinned import LeftBehind
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP

_NS_PER_MS = 1_000_000
_NUMBER_IN_BRIDGE = 0xFFFF


class Adoption:
    """One takeover, step by step. The packet thread alone uses it, and nothing else happens on it in between.

    1. `rebuild`, before connections from elsewhere are put into the tracker, and again after: those that a helper has
       announced come from there if they can, since what is left of a flow does not say who announced them.
    2. `install`, when ports are known and rules are there, and before the programs of before end.
    3. `settle`, after that.
    """

    def __init__(self, left: LeftBehind, tracker: Tracker, offload: Offload, provider: Kernel, now_ms: int) -> None:
        """`left`: what the process before has left."""
        self._left = left
        self._tracker = tracker
        self._offload = offload
        self._provider = provider
        self._holding = Holding(tracker)
        self._now_ms = now_ms
        self._ahead_ms = now_ms - time.monotonic_ns() // _NS_PER_MS
        flows = left.notes["flow"]
        self._is_wanted = np.arange(N_ZONES) < flows["n_zones"][:, None]
        self._is_wanted &= ((flows["is_linux"] == self._holding.is_linux) & (flows["n_zones"] <= N_ZONES))[:, None]
        for zone, kept in enumerate(left.kept):
            self._is_wanted[:, zone] &= _makes_sense(kept, self._holding.is_linux)
        self._is_wanted[:, len(left.kept) :] = False
        self._rows = np.full(self._is_wanted.shape, -1, np.int64)
        self._generations = np.zeros(self._is_wanted.shape, np.int64)
        self._is_new = np.zeros(self._is_wanted.shape, bool)

    @property
    def n_rebuilt(self) -> int:
        """Connections that are back by now."""
        return int((self._rows >= 0).sum())

    def rebuild(self, *, announced: bool) -> None:
        """Put connections into the tracker: those that a helper has `announced`, unless they are there, or all others.

        They age from the last packet of their flow on; those that have expired by now are left out.
        """
        for zone, kept in enumerate(self._left.kept):
            known = (kept["connection"]["ext"] != 0) & (kept["ext"]["parent_row"] != C.NO_PARENT)
            flows = np.flatnonzero(self._is_wanted[:, zone] & (known == announced))
            if announced:
                flows = flows[[not self._find(flow, zone) for flow in flows.tolist()]]
            self._rebuild(pick(kept, flows), flows, zone)

    def _rebuild(self, kept: np.ndarray, flows: np.ndarray, zone: int) -> None:
        records, exts = (_contents(kept, name) for name in ("connection", "ext"))
        used_ms = self._left.last_used_ns().max(axis=1)[flows] // _NS_PER_MS + self._ahead_ms
        records["expires_ms"] = np.minimum(used_ms, self._now_ms) + kept["idle_limit_ms"]
        records["in_port"] &= _NUMBER_IN_BRIDGE
        lives = np.flatnonzero(records["expires_ms"] > self._now_ms)
        rows = self._tracker.restore_records(pick(records, lives), pick(exts, lives), self._now_ms)
        there = rows >= 0
        self._note(flows[lives[there]], zone, rows[there])
        self._is_new[flows[lives[there]], zone] = True

    def _note(self, flows: np.ndarray, zone: int, rows: np.ndarray) -> None:
        self._rows[flows, zone] = rows
        self._generations[flows, zone] = self._holding.records(rows)[0]["generation"]

    def _find(self, flow: int, zone: int) -> bool:
        """Note the connection that is there already, if it is."""
        kept = self._left.kept[zone][flow]
        was = connection(kept["connection"], kept["ext"], kept["connection"], 0, self._now_ms, self._holding.is_linux)
        found = self._tracker.find(was.original, was.protocol, was.zone)
        if found is None or found.original != was.original or found.reply != was.reply:
            return False
        self._rows[flow, zone], self._generations[flow, zone] = found.id, found.generation
        return True

    def install(self) -> None:
        """Have the flows forwarded whose ports are there and whose connections are all back."""
        notes, provider = self._left.notes, self._provider
        numbers_of = provider.devices.ports.numbers_of
        ends = numbers_of(notes["in_ifindexes"]), numbers_of(notes["out_ifindexes"])
        is_back = (self._is_wanted == (self._rows >= 0)).all(axis=1) & self._is_wanted[:, 0]
        chosen = np.flatnonzero(is_back & (ends[0] >= 0).all(axis=1) & (ends[1] >= 0).all(axis=1))
        flows = notes["flow"][chosen]
        for name, ports in zip(("in_port", "out_port"), ends, strict=True):
            flows["paths"][name] = ports[chosen]
        rows, generations = (np.maximum(which[chosen], 0) for which in (self._rows, self._generations))
        self._offload.adopt(self._holding, flows, rows, generations, self._now_ms)
        leaders = np.argmin(np.where(self._is_wanted[chosen], rows, np.iinfo(np.int64).max), axis=1)[:, None]
        first_rows, first_generations = (np.take_along_axis(which, leaders, 1)[:, 0] for which in (rows, generations))
        provider.go_on(first_rows, first_generations, self._left.last_used_ns()[chosen])

    def settle(self) -> None:
        """Count what the programs of before have forwarded since the flows were installed, now that they have ended."""
        counters, used_ns = self._left.counters(), self._left.last_used_ns()
        used_ms = np.minimum(used_ns // _NS_PER_MS + self._ahead_ms, self._now_ms)
        for zone in range(N_ZONES):
            flows = np.flatnonzero(self._is_new[:, zone])
            identity = self._rows[flows, zone], self._generations[flows, zone]
            turned = self._left.notes["flow"]["turned"][flows, 0].astype(np.int64) >> zone & 1
            counted = counters[flows]
            self._holding.add_usage(*identity, turned, counted[:, :, 0], counted[:, :, 1], used_ms[flows])


def _contents(kept: np.ndarray, field: str) -> np.ndarray:
    """A copy of one of the records in KEPT (n,)."""
    dtype = KEPT[field]
    return np.ascontiguousarray(as_bytes(kept, field)).reshape(-1).view(dtype)


def _makes_sense(kept: np.ndarray, is_linux: bool) -> np.ndarray:
    """Whether numbers in KEPT have a meaning: bool, as the shape of it."""
    record, ext = kept["connection"], kept["ext"]
    sense: np.ndarray = np.isin(record["tuple"] >> 8 & 0xFF, (PROTO_TCP, PROTO_UDP))
    sense &= record["state"] < len(LINUX_NAMES)
    if not is_linux:
        sense &= (record["peer"] < len(PEER_NAMES)).all(axis=-1)
    return sense & (ext["nat"] < len(NAT_NAMES)) & (ext["helper"] < len(HELPER_NAMES))

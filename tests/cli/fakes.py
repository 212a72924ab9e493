"""Stand-ins for the switch and for a capture, so that what the command does with them can be told from what they do."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from flowshunt.conntrack.connection import Connection
from flowshunt.datapath.fragments.schema import JOINED
from flowshunt.datapath.schema import FATES, TX
from flowshunt.packet.schema import PACKET, Batch
from flowshunt.ports.api import CaptureError


class FakeResult(NamedTuple):
    ct_state: np.ndarray
    fate: np.ndarray
    tx: np.ndarray
    tx_data: np.ndarray
    joined: np.ndarray


def make_batch(frames: Sequence[bytes], first_ns: int = 0, in_port: int = 1, cut: int = 0) -> Batch:
    """Frames one microsecond apart; on the wire each was `cut` bytes longer."""
    packets = np.zeros(len(frames), PACKET)
    at = 0
    for i, frame in enumerate(frames):
        packets["data"][i], packets["length"][i], packets["wire_length"][i] = at, len(frame), len(frame) + cut
        packets["in_port"][i], packets["time_ns"][i] = in_port, first_ns + 1000 * i
        at += len(frame)
    return Batch(np.frombuffer(bytearray().join(frames), np.uint8), packets)


def cross_over(batch: Batch, states: Sequence[int], drop_every: int = 0) -> FakeResult:
    """Every packet leaves port 2 unchanged, but every `drop_every`th, which no rule matched."""
    n = len(batch.packets)
    kept = [i for i in range(n) if not drop_every or (i + 1) % drop_every]
    tx = np.zeros(len(kept), TX)
    for name in ("data", "time_ns", "length"):
        tx[name] = batch.packets[name][kept]
    tx["port"], tx["packet"] = 2, kept
    fate = np.full(n, FATES.index("drop.no-match"), np.uint8)
    fate[kept] = FATES.index("output")
    return FakeResult(np.array(states, np.uint16), fate, tx, np.zeros(0, np.uint8), np.zeros(0, JOINED))


class FakeTracker:
    now_ms = 0

    def __init__(self, connections: Iterable[Connection] = (), counters: dict[str, int] | None = None) -> None:
        self._connections = list(connections)
        self._counters = counters or {}
        self.zones: dict[int, Any] = {}

    def connections(self, now_ms: int | None = None, zone: int | None = None) -> Iterable[Connection]:
        return iter(self._connections)

    def census(self, now_ms: int | None = None) -> Iterable[tuple[Connection, int]]:
        return ((connection, 1) for connection in self._connections)

    def statistics(self) -> dict[str, int]:
        return self._counters

    def zone_statistics(self) -> dict[int, Any]:
        return self.zones

    def zone_count(self, zone: int) -> int:
        return len(self._connections)

    def sweep(self, now_ms: int, budget: int | None = None) -> int:
        return 0


class FakeFragments:
    def expire(self, now_ms: int) -> int:
        return 0


class FakeOffload:
    """Nothing is offloaded."""

    def synchronise(self) -> None:
        pass


class FakeSwitch:
    """All packets get the same state and cross over; the n-th of each `drop_every` is dropped."""

    def __init__(self, state: int = 0x21, drop_every: int = 0, tracker: FakeTracker | None = None) -> None:
        self.ports = {"p0": 1, "p1": 2}
        self.tracker = tracker or FakeTracker()
        self.fragments = FakeFragments()
        self.offload = FakeOffload()
        self.sizes: list[int] = []
        self.counters: dict[str, int] = {}
        self._state = state
        self._drop_every = drop_every

    def process(self, batch: Batch) -> Any:
        self.sizes.append(len(batch.packets))
        return cross_over(batch, [self._state] * len(batch.packets), self._drop_every)

    def statistics(self) -> dict[str, int]:
        return self.counters

    def flows(self) -> list[Any]:
        return []


class FakeSource:
    """Hands out frames; then ends, or does what `finally_do` does."""

    def __init__(self, n_packets: int, finally_do: Any = None, errors: Sequence[CaptureError] = ()) -> None:
        self.errors = list(errors)
        self.is_holding = False
        self.size = 60 * n_packets
        self.offset = 0
        self._frames = deque(bytes([i % 256]) * 60 for i in range(n_packets))
        self._finally_do = finally_do

    def receive(self, limit: int) -> Batch | None:
        if not self._frames:
            return self._finally_do() if self._finally_do else None
        frames = [self._frames.popleft() for _ in range(min(limit, len(self._frames)))]
        batch = make_batch(frames, first_ns=self.offset // 60 * 1000)
        self.offset += 60 * len(frames)
        return batch

"""Counters of everything that a switch counts, and how fast they have moved of late, as `coverage/show` tells."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flowshunt.control.unixctl.node import Node

INTERVAL_MS = 5000
"""How often counters are looked at."""
_A_MINUTE = 60_000 // INTERVAL_MS
_AN_HOUR = 60

# Counters of Open vSwitch that scripts read, and that cannot move here.
_STILL = ("dp_packet_batch_grow", "datapath_drop_upcall_error", "upcall_ukey_contention", "handler_duplicate_upcall")


def counters_of(node: Node) -> dict[str, int]:
    """Counters of all bridges and of the tracker, by name."""
    total = dict.fromkeys(_STILL, 0)
    parts = [bridge.switch.datapath.statistics() for bridge in node.bridges.values()]
    for part in [*parts, {f"conntrack_{name}": value for name, value in node.tracker.statistics().items()}]:
        for name, value in part.items():
            key = name.replace("-", "_").replace(".", "_")
            total[key] = total.get(key, 0) + value
    return total


class Rates(NamedTuple):
    """Events per second, on average over the last INTERVAL_MS, minute and hour."""

    lately: float
    minute: float
    hour: float


class Coverage:
    """What counters were every INTERVAL_MS of the last minute, and every minute of the last hour.

    What did not run for a while has its events spread evenly over the time since, as in Open vSwitch.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._before: Mapping[str, int] | None = None
        self._looked_ms = 0
        self._lately: deque[Mapping[str, float]] = deque(maxlen=_A_MINUTE)
        self._minutes: deque[Mapping[str, float]] = deque(maxlen=_AN_HOUR)
        self._n = 0

    def look(self, node: Node, now_ms: int) -> None:
        """Look at the counters if it is time to; on the packet thread, at least every INTERVAL_MS."""
        if self._before is None or now_ms < self._looked_ms:
            self._before, self._looked_ms = counters_of(node), now_ms
        n_intervals = (now_ms - self._looked_ms) // INTERVAL_MS
        if not n_intervals:
            return
        now = counters_of(node)
        # A bridge that goes takes its counters along.
        moved = {name: value - self._before.get(name, 0) for name, value in now.items()}
        share = {name: value / n_intervals for name, value in moved.items() if value > 0}
        for _ in range(min(n_intervals, _AN_HOUR * _A_MINUTE)):
            self._lately.append(share)
            self._n += 1
            if self._n % _A_MINUTE == 0:
                self._minutes.append(_sum(self._lately))
        self._before = now
        self._looked_ms += n_intervals * INTERVAL_MS

    def rates(self, names: Iterable[str]) -> dict[str, Rates]:
        """The rates of counters by name."""
        last = self._lately[-1] if self._lately else {}
        minute, hour = _sum(self._lately), _sum(self._minutes)
        seconds = INTERVAL_MS / 1000
        return {
            name: Rates(last.get(name, 0) / seconds, minute.get(name, 0) / 60, hour.get(name, 0) / 3600)
            for name in names
        }


def _sum(parts: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total

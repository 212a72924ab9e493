"""What the framework needs of a tracker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from flowshunt.conntrack.keeper import Keeper


class Table(Protocol):
    """A tracker whose connections are observed and held; `conntrack.holding.Holding` is one.

    Rows and generations are int64 (n,), rows of one call differ; connections that are gone are left alone.
    """

    @property
    def capacity(self) -> int:
        """Rows are below this."""

    def refuse_observers(self) -> None:
        """Raise UsageError while an observer is being called, this one's framework or another's."""

    def observe(self, observer: Callable[[np.ndarray], None]) -> None:
        """Call `observer(events)` with every array of drained events."""

    def unobserve(self, observer: Callable[[np.ndarray], None]) -> None:
        """Stop that."""

    def allocate_slot(self, name: str) -> int:
        """A private slot per connection. Raises UsageError when none is left."""

    def set_slots(self, slot: int, rows: np.ndarray, generations: np.ndarray, values: np.ndarray) -> None:
        """Set connections' private values, int64 (n,)."""

    def get_slot(self, slot: int, row: int, generation: int) -> int | None:
        """A connection's private value; None when it is gone."""

    def in_ports(self, rows: np.ndarray) -> np.ndarray:
        """The port of each connection's first packet, uint32 (n,)."""

    def watch_replies(self, rows: np.ndarray, generations: np.ndarray) -> None:
        """Make the next reply packet of each a `reply` event again."""

    def watch_all_replies(self) -> None:
        """The same for all connections."""

    def hold(self, rows: np.ndarray, generations: np.ndarray) -> None:
        """From now on packets may pass unseen: no window checks, a `due` event in place of expiry."""

    def release(self, rows: np.ndarray, generations: np.ndarray, *, is_settled: bool = False) -> None:
        """Undo that: the next segment sets the windows anew. `is_settled`: `add_usage` has told what went unseen."""

    def answer_due(
        self, rows: np.ndarray, generations: np.ndarray, last_used_ms: np.ndarray, asked_ms: np.ndarray
    ) -> None:
        """Answer `due` events of `asked_ms` with the last uses (0: unknown): they live on, or expire."""

    def idle_limits(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """How long each connection may be silent before it expires, int64 (n,); 0: not established, closing, gone."""

    def add_usage(
        self,
        rows: np.ndarray,
        generations: np.ndarray,
        turned: np.ndarray,
        packets: np.ndarray,
        sizes: np.ndarray,
        last_used_ms: np.ndarray,
    ) -> None:
        """Add what passed unseen to counters and timers; see `Holding.add_usage`."""

    def show(self, keeper: Keeper | None) -> None:
        """Have listings say who holds connections."""


class Records(Protocol):
    """A tracker's connections as they are in memory; `conntrack.holding.Holding` has them."""

    @property
    def is_linux(self) -> bool:
        """Whether the tracker's profile is linux."""

    def records(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copies of connections, CONNECTION (n,) and EXT (n,); see `Holding.records`."""

    def idle_limits(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """See `Table`."""


class Paths(Protocol):
    """What the framework needs of a datapath that learns paths; `Datapath.paths` is one."""

    @property
    def epoch(self) -> int:
        """Of the tables, ports and stations; it grows whenever one of them changes."""

    def enable(self, on: bool) -> None:
        """Learn paths from packets of established connections, or stop it."""

    def observe(self, observer: Callable[[np.ndarray], None]) -> None:
        """Call `observer(learned)` with what each batch has shown, LEARNED (n,), after the tracker's events of it."""

    def forget(self, rows: np.ndarray) -> None:
        """Have the next packets of connections tell their paths again, also where that was done a moment ago."""

    def account(
        self, chains: np.ndarray, in_ports: np.ndarray, packets: np.ndarray, frame_bytes: np.ndarray,
        last_used_ms: np.ndarray, eth_srcs: np.ndarray, vlans: np.ndarray,
    ) -> None:  # fmt: skip
        """Count forwarded packets for the rules of chains, and keep rules and stations in use; all arrays (n,)."""

"""A tracker of the kit's own: makes events in bulk, and keeps what the framework sets. No packets, no Numba."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.keeper import Keeper
from flowshunt.offload.conformance.subject import START_MS
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP

IDLE_MS = 60_000
"""How long a connection may be silent here."""


class Stage:
    """Implements `table.Table`. Connection `n` lives in row n; even ones are TCP, odd ones UDP.

    `now_ms` moves only when it is set. By row: `watched`: whose next reply packet is to be told; `held`; `closing`: has
    seen a FIN; `packets`: that were forwarded, in both directions.
    """

    def __init__(self, capacity: int) -> None:
        self.now_ms = START_MS
        self.generation = np.zeros(capacity, np.uint32)
        self.watched = np.zeros(capacity, bool)
        self.held = np.zeros(capacity, bool)
        self.closing = np.zeros(capacity, bool)
        self.packets = np.zeros(capacity, np.int64)
        self._answered = np.zeros(capacity, bool)
        self._slots = np.zeros((capacity, C.N_SLOTS), np.int64)
        self._n_slots = 0
        self._observers: list[Callable[[np.ndarray], None]] = []

    # --- what happens ------------------------------------------------------------------------------------------------

    def create(self, rows: np.ndarray) -> None:
        """New connections in these rows."""
        for flag in (self._answered, self.watched, self.held, self.closing):
            flag[rows] = False
        self.packets[rows] = 0
        self._tell(C.EVENT_CREATED, rows, in_port=1)

    def reply(self, rows: np.ndarray) -> None:
        """A packet in the reply direction of each; an event where it is the first, or is watched for."""
        told = rows[~self._answered[rows] | self.watched[rows]]
        self._answered[told] = True
        self.watched[told] = False
        self._tell(C.EVENT_REPLY, told, in_port=2)

    def close(self, rows: np.ndarray) -> None:
        """A FIN of each."""
        self.closing[rows] = True
        self._tell(C.EVENT_STATE, rows, in_port=1)

    def destroy(self, rows: np.ndarray) -> None:
        """The end of each; its row is of the next generation."""
        self._tell(C.EVENT_DESTROYED, rows, in_port=1, moves_on=True)

    def _tell(self, kind: int, rows: np.ndarray, in_port: int, moves_on: bool = False) -> None:
        for part in np.array_split(rows, -(-len(rows) // 8192) or 1):
            events = np.zeros(len(part), C.EVENT)
            events["kind"] = kind
            events["time_ms"] = self.now_ms
            events["row"] = part
            events["generation"] = self.generation[part]
            events["in_port"] = in_port
            ports = (1024 + part % 60000).astype(np.int64) << 48 | 443 << 32
            events["tuple"] = ports | np.where(part % 2, PROTO_UDP, PROTO_TCP) << 8
            events["source"][:, 1] = 0x0A000000 | part // 60000
            events["destination"][:, 1] = 0x0A630001
            if moves_on:
                self.generation[part] += 1
                self._slots[part] = 0
                self.held[part] = False
            if len(events):
                for observer in list(self._observers):
                    observer(events)

    # --- what the framework asks for ---------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Rows are below this."""
        return len(self.generation)

    def refuse_observers(self) -> None:
        """See `Table`; likewise all below. Nobody else observes here."""

    def observe(self, observer: Callable[[np.ndarray], None]) -> None:
        """See `Table`."""
        self._observers.append(observer)

    def unobserve(self, observer: Callable[[np.ndarray], None]) -> None:
        """See `Table`."""
        self._observers.remove(observer)

    def allocate_slot(self, name: str) -> int:
        """See `Table`."""
        self._n_slots += 1
        return self._n_slots - 1

    def set_slots(self, slot: int, rows: np.ndarray, generations: np.ndarray, values: np.ndarray) -> None:
        """See `Table`."""
        lives = self.generation[rows] == generations
        self._slots[rows[lives], slot] = values[lives]

    def get_slot(self, slot: int, row: int, generation: int) -> int | None:
        """See `Table`."""
        return int(self._slots[row, slot]) if int(self.generation[row]) == generation else None

    def in_ports(self, rows: np.ndarray) -> np.ndarray:
        """See `Table`."""
        return np.ones(len(rows), np.uint32)

    def watch_replies(self, rows: np.ndarray, generations: np.ndarray) -> None:
        """See `Table`."""
        self.watched[rows[self.generation[rows] == generations]] = True

    def watch_all_replies(self) -> None:
        """See `Table`."""
        self.watched[:] = True

    def hold(self, rows: np.ndarray, generations: np.ndarray) -> None:
        """See `Table`. There are no windows here."""
        self.held[rows[self.generation[rows] == generations]] = True

    def release(self, rows: np.ndarray, generations: np.ndarray, *, is_settled: bool = False) -> None:
        """See `Table`."""
        self.held[rows[self.generation[rows] == generations]] = False

    def answer_due(
        self, rows: np.ndarray, generations: np.ndarray, last_used_ms: np.ndarray, asked_ms: np.ndarray
    ) -> None:
        """See `Table`. Nothing is ever due here."""

    def idle_limits(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """See `Table`. What was answered is established, unless it is in `closing`."""
        fit = (self.generation[rows] == generations) & self._answered[rows] & ~self.closing[rows]
        return np.where(fit, IDLE_MS, 0)

    def add_usage(
        self,
        rows: np.ndarray,
        generations: np.ndarray,
        turned: np.ndarray,
        packets: np.ndarray,
        sizes: np.ndarray,
        last_used_ms: np.ndarray,
    ) -> None:
        """See `Table`."""
        lives = self.generation[rows] == generations
        self.packets[rows[lives]] += packets[lives].sum(axis=1)

    def show(self, keeper: Keeper | None) -> None:
        """See `Table`. There are no listings here."""

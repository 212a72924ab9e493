"""Counting what happened to the packets of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from flowshunt.conntrack.states import CS_HELD

if TYPE_CHECKING:
    from flowshunt.datapath.tables import Result
    from flowshunt.packet.schema import Batch

_ROOM = 1 << 15
_N_STATES = 2 * CS_HELD


@dataclass(slots=True)
class PortCount:
    """What one port received and sent."""

    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0


class Tally:
    """Totals over all packets: bytes, time span, ct_state, fate, and per port.

    Counting costs more per call than per packet, so packets are collected and counted in large pieces; the attributes
    are valid after `flush`.

    `ct_states`: int64 (2 * CS_HELD,) and `fates`: int64 (256,), packets per value. `ports`: by OpenFlow port number.
    """

    def __init__(self) -> None:
        self.packets = 0
        self.bytes = 0
        self.n_cut = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.ct_states = np.zeros(_N_STATES, np.int64)
        self.fates = np.zeros(256, np.int64)
        self.ports: dict[int, PortCount] = {}
        self._rx = _Pending(("in_port", "length", "wire_length", "time_ns", "ct_state", "fate"))
        self._tx = _Pending(("port", "length"))

    def add(self, batch: Batch, result: Result) -> None:
        """Take note of a batch that went through the switch."""
        packets = batch.packets
        self.packets += len(packets)
        columns = [packets[name] for name in ("in_port", "length", "wire_length", "time_ns")]
        if self._rx.add((*columns, result.ct_state, result.fate)):
            self._count_received()
        if len(result.tx) and self._tx.add((result.tx["port"], result.tx["length"])):
            self._count_sent()

    def flush(self) -> None:
        """Count what was collected so far."""
        self._count_received()
        self._count_sent()

    def _count_received(self) -> None:
        in_port, length, wire_length, time_ns, ct_state, fate = self._rx.take()
        if not len(in_port):
            return
        self.bytes += int(wire_length.sum())
        self.n_cut += int(np.count_nonzero(length < wire_length))
        first, last = int(time_ns.min()), int(time_ns.max())
        self.first_ns = first if self.first_ns is None else min(self.first_ns, first)
        self.last_ns = last if self.last_ns is None else max(self.last_ns, last)
        self.ct_states += np.bincount(ct_state & (_N_STATES - 1), minlength=_N_STATES)
        self.fates += np.bincount(fate, minlength=256)
        for number, packets, n_bytes in _by_port(in_port, wire_length):
            port = self.ports.setdefault(number, PortCount())
            port.rx_packets += packets
            port.rx_bytes += n_bytes

    def _count_sent(self) -> None:
        for number, packets, n_bytes in _by_port(*self._tx.take()):
            port = self.ports.setdefault(number, PortCount())
            port.tx_packets += packets
            port.tx_bytes += n_bytes


def _by_port(ports: np.ndarray, lengths: np.ndarray) -> list[tuple[int, int, int]]:
    """Port number, packets and bytes."""
    numbers, index = np.unique(ports, return_inverse=True)
    packets = np.bincount(index, minlength=len(numbers))
    n_bytes = np.bincount(index, weights=lengths, minlength=len(numbers))
    return [(int(number), int(packets[i]), int(n_bytes[i])) for i, number in enumerate(numbers)]


@dataclass
class _Pending:
    """Columns of int64 that wait to be counted."""

    names: tuple[str, ...]
    n: int = 0
    columns: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.columns = np.zeros((len(self.names), _ROOM), np.int64)

    def add(self, columns: tuple[np.ndarray, ...]) -> bool:
        """Append; True when there should be a `take` before the next one."""
        end = self.n + len(columns[0])
        if end > self.columns.shape[1]:
            self.columns = np.concatenate([self.columns, np.zeros((len(self.names), end), np.int64)], axis=1)
        for column, values in zip(self.columns, columns, strict=True):
            column[self.n : end] = values
        self.n = end
        return end > _ROOM // 2

    def take(self) -> np.ndarray:
        """What has been appended since the last time; valid until the next `add`."""
        n, self.n = self.n, 0
        return self.columns[:, :n]

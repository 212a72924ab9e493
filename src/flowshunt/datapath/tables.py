"""The facade of the datapath: what Python outside this package uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.schema import BATCH_MAX
from flowshunt.conntrack.table import Tracker
from flowshunt.datapath import changes
from flowshunt.datapath import schema as D
from flowshunt.datapath.loop import MAX_EVENTS, run_batch
from flowshunt.datapath.program import CompiledRule
from flowshunt.packet.schema import VERDICTS, Batch

_FREE_FRAMES = 4 * D.MAX_OUTPUTS
_FREE_SIZE = 4 * D.MAX_OUTPUT_SIZE
_FEED_RULES = 4096
"""Rules handed to the kernel at a time."""


class Result(NamedTuple):
    """What became of a batch; the arrays are valid until the next `process`.

    `ct_state`: uint16 (n,), the last one of each packet, 0 when it was never tracked. `fate`: uint8 (n,), index into
    `schema.FATES`. `tx`: TX records, by packet and then in order of emission. `tx_data`: uint8; source 0 is the batch's own
    buffer, source 1 this one.
    """

    ct_state: np.ndarray
    fate: np.ndarray
    tx: np.ndarray
    tx_data: np.ndarray


class FlowStatistics(NamedTuple):
    """A rule and what it saw. `flow`: what it was compiled from. Times are milliseconds since the epoch."""

    flow: Any
    packets: int
    bytes: int
    used_ms: int
    created_ms: int


class TableStatistics(NamedTuple):
    """A table: rules and masks in it, lookups, and how many of those found a rule."""

    rules: int
    masks: int
    lookups: int
    matches: int


class Station(NamedTuple):
    """A learned address."""

    port: int
    vlan: int
    mac: str
    age_s: int


class Datapath:
    """Tables, ports and the batch loop, with one tracker.

    Rules are `CompiledRule`s, or whatever `compile_flow` makes one of. One thread uses a datapath.
    """

    def __init__(
        self,
        tracker: Tracker | None = None,
        batch_size: int = BATCH_MAX,
        *,
        compile_flow: Callable[[Any], CompiledRule] | None = None,
    ) -> None:
        """Make a datapath without rules and ports. Raises UsageError for a batch size outside `[1, 256]`."""
        if not 1 <= batch_size <= BATCH_MAX:
            raise UsageError(f"batch size {batch_size} is out of range", hint=f"1 to {BATCH_MAX}")
        self.tracker = tracker or Tracker()
        self.batch_size = batch_size
        if len(self.tracker.arrays.events) < MAX_EVENTS:
            raise UsageError(f"the tracker keeps too few events for one packet", hint=f"at least {MAX_EVENTS}")
        self._compile = compile_flow
        self._tables = D.make_tables()
        self._ports = D.make_ports()
        self._work = D.make_work(batch_size)
        self._output = D.make_output(0)
        self._subtables: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
        self._masks: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {}
        self._rules: dict[int, CompiledRule] = {}

    # --- ports -----------------------------------------------------------------------------------------------------

    def add_port(self, number: int, *, no_flood: bool = False) -> None:
        """Add a port by OpenFlow number (1 to 65279, or 65534 for LOCAL). Raises UsageError when it is taken or wrong."""
        if not 1 <= number < 0xFF00 and number != D.PORT_LOCAL:
            raise UsageError(f"port number {number} is out of range", hint="1 to 65279")
        if self._ports.index[number] >= 0:
            raise UsageError(f"port number {number} is taken")
        port = np.zeros(1, D.PORT)
        port["number"] = number
        port["flags"] = D.FLAG_NO_FLOOD if no_flood else 0
        self._ports = self._ports._replace(ports=np.concatenate([self._ports.ports, port]))
        self._ports.index[number] = len(self._ports.ports) - 1

    def remove_port(self, number: int) -> None:
        """Remove a port, and forget the stations behind it. Raises UsageError when there is none."""
        if not 0 <= number < D.PORT_NUMBERS or self._ports.index[number] < 0:
            raise UsageError(f"there is no port number {number}")
        keep = self._ports.ports["number"] != number
        self.flush_stations(number)
        self._ports = self._ports._replace(ports=self._ports.ports[keep].copy())
        self._ports.index[:] = -1
        self._ports.index[self._ports.ports["number"]] = np.arange(len(self._ports.ports))

    def port_statistics(self) -> dict[int, dict[str, int]]:
        """Per port number: rx_packets, rx_bytes, tx_packets, tx_bytes."""
        names = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")
        return {int(port["number"]): {name: int(port[name]) for name in names} for port in self._ports.ports}

    # --- stations --------------------------------------------------------------------------------------------------

    def configure_stations(self, *, age_ms: int | None = None, forward_bpdu: bool | None = None) -> None:
        """Change how long a silent station is remembered, and whether `normal` forwards reserved multicast."""
        if age_ms is not None:
            self._ports.state["age_ms"] = age_ms
        if forward_bpdu is not None:
            self._ports.state["forward_bpdu"] = forward_bpdu

    def stations(self, now_ms: int) -> list[Station]:
        """Stations that `normal` knows at `now_ms`, longest silent last."""
        known = self._ports.stations[self._ports.stations["key"] >= 0]
        ages = now_ms - known["used_ms"]
        order = np.argsort(ages, kind="stable")
        return [
            Station(
                int(known["port"][i]),
                int(known["key"][i]) & 0xFFF,
                int(known["key"][i] >> 12).to_bytes(6, "big").hex(":"),
                int(ages[i]) // 1000,
            )
            for i in order
            if ages[i] <= self._ports.state["age_ms"][0]
        ]

    def flush_stations(self, port: int | None = None) -> int:
        """Forget the stations behind a port, or all. Returns how many."""
        stations = self._ports.stations[: int(self._ports.state["n_stations"][0])]
        kept = stations[stations["port"] != port].copy() if port is not None else stations[:0].copy()
        flushed = len(stations) - len(kept)
        age_ms, forward_bpdu = self._ports.state["age_ms"][0], self._ports.state["forward_bpdu"][0]
        empty = D.make_ports(0, len(self._ports.stations), int(age_ms))
        empty.state[:] = self._ports.state
        self._ports.ports["n_stations"] = 0
        self._ports = empty._replace(ports=self._ports.ports, index=self._ports.index)
        self._ports.state["n_stations"] = 0
        self._ports.state["hand"] = 0
        self._ports.state["forward_bpdu"] = forward_bpdu
        return flushed

    # --- rules -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Rules in all tables."""
        return len(self._rules)

"""Ports and the stations behind them, for Python."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.datapath import fdb
from flowshunt.datapath import schema as D

_LAST_PORT = 0xFEFF


class Station(NamedTuple):
    """An address: the port that it is behind, its VLAN, MAC address as text, and how long it was silent.

    `is_static`: it was not learned but put there, and its age is 0.
    """

    port: int
    vlan: int
    mac: str
    age_ms: int
    is_static: bool = False


class Ports:
    """The ports of one switch, and its learned stations. `version` counts the changes of ports and settings."""

    def __init__(self) -> None:
        """No ports yet."""
        self.arrays = D.make_ports()
        self.version = 0

    def __contains__(self, number: int) -> bool:
        """Whether there is a port of this OpenFlow number."""
        return 0 <= number < D.PORT_NUMBERS and bool(self.arrays.index[number] >= 0)

    def add(self, number: int, *, no_flood: bool = False) -> None:
        """Add a port by OpenFlow number; 65534 is LOCAL. `no_flood`: only `all` and `normal`'s known stations reach it.

        Raises UsageError when the number is taken or out of range.
        """
        if not 1 <= number <= _LAST_PORT and number != D.PORT_LOCAL:
            raise UsageError(f"port number {number} is out of range", hint=f"1 to {_LAST_PORT}")
        if number in self:
            raise UsageError(f"port number {number} is taken")
        port = np.zeros(1, D.PORT)
        port["number"] = number
        port["flags"] = D.FLAG_NO_FLOOD if no_flood else 0
        self._replace(np.concatenate([self.arrays.ports, port]))

    def remove(self, number: int) -> None:
        """Remove a port, and forget the stations behind it. Raises UsageError when there is none."""
        if number not in self:
            raise UsageError(f"there is no port number {number}")
        fdb.flush(self.arrays, number)
        ports = self.arrays.ports
        self._replace(ports[ports["number"] != number].copy())

    def _replace(self, ports: np.ndarray) -> None:
        self.version += 1
        self.arrays = self.arrays._replace(ports=ports)
        self.arrays.index[:] = -1
        self.arrays.index[ports["number"]] = np.arange(len(ports))

    def counters(self, number: int) -> dict[str, int]:
        """What `statistics` says of one port; nothing when there is none."""
        if number not in self:
            return {}
        port = self.arrays.ports[int(self.arrays.index[number])]
        return {name: int(port[name]) for name in ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")}

    def statistics(self) -> dict[int, dict[str, int]]:
        """Per port number: rx_packets, rx_bytes, tx_packets, tx_bytes."""
        names = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")
        return {int(port["number"]): {name: int(port[name]) for name in names} for port in self.arrays.ports}

    def configure(self, *, age_ms: int | None = None, forward_bpdu: bool | None = None) -> None:
        """Change how long a silent station is remembered, and whether `normal` forwards reserved multicast."""
        self.version += 1
        if age_ms is not None:
            self.arrays.state["age_ms"] = age_ms
        if forward_bpdu is not None:
            self.arrays.state["forward_bpdu"] = forward_bpdu

    def stations(self, now_ms: int) -> list[Station]:
        """Stations that are remembered at `now_ms`, those heard last first."""
        known = self.arrays.stations[: int(self.arrays.state["n_stations"][0])]
        found = []
        for record in known:
            key, used_ms = int(record["key"]), int(record["used_ms"])
            mac, is_static = (key >> 12).to_bytes(6, "big").hex(":"), used_ms == fdb.STATIC_MS
            age_ms = 0 if is_static else now_ms - used_ms
            found.append(Station(int(record["port"]), key & 0xFFF, mac, age_ms, is_static))
        limit = int(self.arrays.state["age_ms"][0])
        return sorted((s for s in found if s.age_ms <= limit), key=lambda s: (s.age_ms, s.vlan, s.mac))

    def flush_stations(self, port: int | None = None) -> int:
        """Forget the stations behind a port, or all. Returns how many."""
        self.version += 1
        return int(fdb.flush(self.arrays, -1 if port is None else port))

    def add_station(self, mac: int, vlan: int, port: int) -> None:
        """Put an address behind a port for good. Raises UsageError when there is no such port."""
        if port not in self:
            raise UsageError(f"there is no port number {port}")
        fdb.put(self.arrays, mac << 12 | vlan, port)

    def del_station(self, mac: int, vlan: int) -> bool:
        """Take away what `add_station` put. Returns whether there was such an address."""
        return bool(fdb.take(self.arrays, mac << 12 | vlan))

    def station_statistics(self) -> dict[str, int]:
        """Counters of learning: learned, moved, evicted for want of space, expired (noticed as such)."""
        names = ("learned", "moved", "evicted", "expired")
        return {f"station.{name}": int(self.arrays.state[name][0]) for name in names}

"""Ports and the stations behind them, for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.datapath import fdb
from flowshunt.datapath import schema as D
from flowshunt.datapath.vlan_modes import MODES
from flowshunt.datapath.vlans import NATIVE_TAGGED, NATIVE_UNTAGGED, TRUNK_WORDS
from flowshunt.packet.schema import ETH_QINQ, ETH_VLAN

_LAST_PORT = 0xFEFF
_N_VLANS = 4096
SERVICE_TYPES = {"802.1ad": ETH_QINQ, "802.1q": ETH_VLAN}
"""Types of a service tag, by the names of `qinq-ethtype`."""


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
        nothing = np.zeros((1, TRUNK_WORDS), np.int64)
        self._replace(np.concatenate([self.arrays.ports, port]), np.concatenate([self.arrays.trunks, nothing]))

    def remove(self, number: int) -> None:
        """Remove a port, and forget the stations behind it. Raises UsageError when there is none."""
        if number not in self:
            raise UsageError(f"there is no port number {number}")
        fdb.flush(self.arrays, number)
        others = self.arrays.ports["number"] != number
        self._replace(self.arrays.ports[others].copy(), self.arrays.trunks[others].copy())

    def set_up(self, number: int, up: bool) -> None:
        """Say whether bundles may choose a port; they may at first. Nothing happens when there is no such port."""
        self._set_flag(number, D.FLAG_DOWN, not up)

    def set_flooded(self, number: int, flooded: bool) -> None:
        """Say whether what is flooded goes to a port. Nothing happens when there is no such port."""
        self._set_flag(number, D.FLAG_NO_FLOOD, not flooded)

    def _set_flag(self, number: int, flag: int, on: bool) -> None:
        if number not in self:
            return
        flags = self.arrays.ports["flags"]
        index = int(self.arrays.index[number])
        if bool(flags[index] & flag) != on:
            flags[index] ^= flag
            self.version += 1

    def set_vlans(
        self, number: int, mode: str, tag: int = 0, trunks: Iterable[int] = (), *, tpid: int = ETH_QINQ
    ) -> None:
        """Say how `normal` treats VLANs on a port: a mode of `vlans.MODES`, its own VLAN, and those that it carries.

        No `trunks`: all. A port with a native VLAN carries that one, and not 0. Those of dot1q-tunnel are customers'
        VLANs, 0 for packets without a tag, and `tpid` is the type of the service tag. What is known of stations behind
        the port is forgotten. Raises UsageError for what cannot be.
        """
        if number not in self:
            raise UsageError(f"there is no port number {number}")
        carried = {*trunks}
        if mode not in MODES:
            raise UsageError(f"VLAN mode {mode!r} is not supported", hint=", ".join(MODES))
        if not all(0 <= vlan < _N_VLANS for vlan in (tag, *carried)):
            raise UsageError("a VLAN is a number from 0 to 4095")
        if tpid not in SERVICE_TYPES.values():
            raise UsageError(f"{tpid:#06x} is no type of a service tag", hint=" or ".join(SERVICE_TYPES))
        carried = carried or set(range(_N_VLANS))
        if tag and MODES.index(mode) in (NATIVE_TAGGED, NATIVE_UNTAGGED):
            carried = (carried | {tag}) - {0}
        fdb.flush(self.arrays, number)
        index = int(self.arrays.index[number])
        self.arrays.trunks[index] = _bits(carried)
        self.arrays.ports["vlan_mode"][index] = MODES.index(mode)
        self.arrays.ports["vlan_tag"][index] = tag
        self.arrays.ports["vlan_tpid"][index] = tpid
        self._count_vlans()
        self.version += 1

    def set_mtu(self, number: int, mtu: int | None) -> None:
        """Say how many bytes of layer 3 leave on a port in one piece (None: not known): larger packets take no paths.

        Raises UsageError when there is no such port.
        """
        if number not in self:
            raise UsageError(f"there is no port number {number}")
        port = self.arrays.ports[self.arrays.index[number]]
        if port["mtu"] != (mtu or 0):
            port["mtu"] = mtu or 0
            self.version += 1

    def _count_vlans(self) -> None:
        self.arrays.state["vlan_ports"] = np.count_nonzero(self.arrays.ports["vlan_mode"])

    def _replace(self, ports: np.ndarray, trunks: np.ndarray) -> None:
        self.version += 1
        self.arrays = self.arrays._replace(ports=ports, trunks=trunks)
        self._count_vlans()
        self.arrays.index[:] = -1
        self.arrays.index[ports["number"]] = np.arange(len(ports))

    def statistics(self) -> dict[int, dict[str, int]]:
        """Per port number: rx_packets, rx_bytes, tx_packets, tx_bytes."""
        return {int(port["number"]): _counters(port) for port in self.arrays.ports}

    def statistics_of(self, number: int) -> dict[str, int]:
        """The same of one port; nothing when there is none."""
        return _counters(self.arrays.ports[self.arrays.index[number]]) if number in self else {}

    def add_usage(self, end: str, numbers: np.ndarray, packets: np.ndarray, sizes: np.ndarray) -> None:
        """Count packets that passed elsewhere: `end` is rx or tx, the others (n,); ports that are gone are left out."""
        places = self.arrays.index[numbers]
        there = places >= 0
        np.add.at(self.arrays.ports[f"{end}_packets"], places[there], packets[there])
        np.add.at(self.arrays.ports[f"{end}_bytes"], places[there], sizes[there])

    def configure(
        self, *, age_ms: int | None = None, forward_bpdu: bool | None = None, vlan_limit: int | None = None
    ) -> None:
        """Change how long a silent station is remembered, and whether `normal` forwards reserved multicast.

        `vlan_limit`: VLAN tags of a packet that are read, 1 or 2; what follows them is payload.
        """
        self.version += 1
        if vlan_limit is not None:
            self.arrays.state["vlan_limit"] = vlan_limit
        if age_ms is not None:
            self.arrays.state["age_ms"] = age_ms
        if forward_bpdu is not None:
            self.arrays.state["forward_bpdu"] = forward_bpdu

    def set_flood_vlans(self, vlans: Iterable[int]) -> None:
        """Have `normal` learn nothing in these VLANs, and flood there.

        Raises UsageError for a number that is no VLAN's.
        """
        flooded = {*vlans}
        if not all(0 <= vlan < _N_VLANS for vlan in flooded):
            raise UsageError("a VLAN is a number from 0 to 4095")
        self.arrays.flooded[:] = _bits(flooded)
        self.arrays.state["flood_vlans"] = len(flooded)
        self.flush_stations()

    def stations(self, now_ms: int) -> list[Station]:
        """Stations that are remembered at `now_ms`, those heard last first."""
        return self.listing_stations()(now_ms)

    def listing_stations(self) -> Callable[[int], list[Station]]:
        """What lists those of now, in any thread and at any time; this only copies them."""
        known = self.arrays.stations[: int(self.arrays.state["n_stations"][0])].copy()
        return partial(_listed, known, int(self.arrays.state["age_ms"][0]))

    def flush_stations(self, port: int | None = None) -> int:
        """Forget the stations behind a port, or all. Returns how many."""
        self.version += 1
        return int(fdb.flush(self.arrays, -1 if port is None else port))

    def add_station(self, mac: int, vlan: int, port: int) -> None:
        """Put an address behind a port for good. Raises UsageError when there is no such port."""
        if port not in self:
            raise UsageError(f"there is no port number {port}")
        fdb.put(self.arrays, mac << 12 | vlan, port)

    def restore_stations(self, stations: Iterable[Station], now_ms: int) -> int:
        """Know again what was learned before a restart, each silent for its age.

        Those of ports that are not there, that are known already, or have been silent for too long are left out, as is
        what there is no room for. Returns how many came.
        """
        known = self.arrays.stations
        n, limit_ms = int(self.arrays.state["n_stations"][0]), int(self.arrays.state["age_ms"][0])
        keys = set(known["key"][:n].tolist())
        fresh: dict[int, Station] = {}
        for one in stations:
            key = int(one.mac.replace(":", ""), 16) << 12 | one.vlan
            if one.port in self and key not in keys and one.age_ms <= limit_ms and n + len(fresh) < len(known):
                fresh.setdefault(key, one)
        for key, one in fresh.items():
            fdb.put(self.arrays, key, one.port)
        known["used_ms"][n : n + len(fresh)] = [now_ms - one.age_ms for one in fresh.values()]
        return len(fresh)

    def del_station(self, mac: int, vlan: int) -> bool:
        """Take away what `add_station` put. Returns whether there was such an address."""
        return bool(fdb.take(self.arrays, mac << 12 | vlan))

    def station_statistics(self) -> dict[str, int]:
        """Counters of learning: learned, moved, evicted for want of space, expired (noticed as such)."""
        names = ("learned", "moved", "evicted", "expired")
        return {f"station.{name}": int(self.arrays.state[name][0]) for name in names}


def _listed(known: np.ndarray, limit_ms: int, now_ms: int) -> list[Station]:
    found = []
    for key, used_ms, port in zip(*(known[name].tolist() for name in ("key", "used_ms", "port")), strict=True):
        mac, is_static = (key >> 12).to_bytes(6, "big").hex(":"), used_ms == fdb.STATIC_MS
        found.append(Station(port, key & 0xFFF, mac, 0 if is_static else now_ms - used_ms, is_static))
    return sorted((s for s in found if s.age_ms <= limit_ms), key=lambda s: (s.age_ms, s.vlan, s.mac))


def _bits(vlans: Iterable[int]) -> np.ndarray:
    bits = np.zeros(_N_VLANS, np.uint8)
    bits[sorted(vlans)] = 1
    return np.packbits(bits, bitorder="little").view(np.int64)


def _counters(port: Any) -> dict[str, int]:
    return {name: int(port[name]) for name in ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")}

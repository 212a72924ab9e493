"""`fdb/*` and `mdb/*`: the addresses that a bridge has learned."""

from __future__ import annotations

import re
from itertools import chain, repeat

from flowshunt.control.unixctl.node import Bridge, Node
from flowshunt.control.unixctl.registry import CommandError, command, on_worker
from flowshunt.datapath.schema import PORT_LOCAL

_MAC = re.compile(r"([0-9a-fA-F]{1,2})" + r":([0-9a-fA-F]{1,2})" * 5)
_FIGURES = ("learned", "expired", "evicted", "moved")
_WORDS = {"moved": "Total number of port moved MAC entries  "}


class Baselines:
    """What counters stood at when they were last cleared, by bridge."""

    def __init__(self) -> None:
        self._by_bridge: dict[str, dict[str, int]] = {}

    def clear(self, bridge: Bridge) -> None:
        """Count from here."""
        self._by_bridge[bridge.name] = dict(bridge.switch.datapath.ports.station_statistics())

    def since(self, bridge: Bridge) -> dict[str, int]:
        """Counters since they were cleared."""
        base = self._by_bridge.get(bridge.name, {})
        now = bridge.switch.datapath.ports.station_statistics()
        return {name: value - min(base.get(name, 0), value) for name, value in now.items()}


_BASELINES = Baselines()


def _bridge(node: Node, name: str) -> Bridge:
    found = node.bridges.get(name)
    if found is None:
        raise CommandError("no such bridge")
    return found


def _rows(node: Node, bridge: Bridge) -> list[str]:
    rows = []
    for one in reversed(bridge.switch.datapath.ports.stations(node.now_ms())):
        port = "LOCAL" if one.port == PORT_LOCAL else str(one.port)
        age = "static" if one.is_static else f"{max(one.age_ms, 0) // 1000:3}"
        rows.append(f"{port:>5}  {one.vlan:4}  {one.mac}  {age}")
    return rows


@on_worker
def show(node: Node, arguments: list[str]) -> str:
    """Learned and static addresses: of one bridge as Open vSwitch 3.1 has it, of several, or all, as 4.0 does."""
    bridges = [_bridge(node, name) for name in arguments] or list(node.bridges.values())
    if len(bridges) == 1:
        lines = [f" {'port' if arguments else 'Port'}  VLAN  MAC                Age", *_rows(node, bridges[0])]
        return "\n".join(lines) + "\n"
    width = max((len(bridge.name) for bridge in bridges), default=0)
    width = max(width, len("Bridge")) + 1
    lines = [f" {'Bridge':{width}} Port  VLAN  MAC                Age"]
    for bridge in bridges:
        names = chain((bridge.name,), repeat(""))
        lines += [f" {name:{width}}{row}" for name, row in zip(names, _rows(node, bridge), strict=False)] or [
            f" {bridge.name}"
        ]
    return "\n".join(lines) + "\n"


@on_worker
def flush(node: Node, arguments: list[str]) -> str:
    """Forget what was learned, on one bridge or on all."""
    for bridge in [_bridge(node, arguments[0])] if arguments else node.bridges.values():
        bridge.switch.datapath.ports.flush_stations()
    return "table successfully flushed\n"


@on_worker
def show_statistics(node: Node, arguments: list[str]) -> str:
    """Counters of learning."""
    bridge = _bridge(node, arguments[0])
    ports = bridge.switch.datapath.ports
    stations = ports.stations(node.now_ms())
    figures = _BASELINES.since(bridge)
    lines = [
        f'Statistics for bridge "{bridge.name}":',
        f"  Current/maximum MAC entries in the table: {len(stations)}/{len(ports.arrays.stations)}",
        f"  Current static MAC entries in the table : {sum(one.is_static for one in stations)}",
    ]
    for name in _FIGURES:
        words = _WORDS.get(name, f"Total number of {name} MAC entries     ")
        lines.append(f"  {words}: {figures[f'station.{name}']}")
    return "\n".join(lines) + "\n"


@on_worker
def clear_statistics(node: Node, arguments: list[str]) -> str:
    """Count from here."""
    for bridge in [_bridge(node, arguments[0])] if arguments else node.bridges.values():
        _BASELINES.clear(bridge)
    return "statistics successfully cleared\n"


def _address(text: str) -> int:
    found = _MAC.fullmatch(text)
    if found is None:
        raise CommandError("bad MAC address")
    return int("".join(part.zfill(2) for part in found.groups()), 16)


def _vlan(text: str) -> int:
    """As atoi(3), like Open vSwitch: what is no number is VLAN 0."""
    found = re.match(r"[0-9]{1,9}", text)
    return int(found.group()) & 0xFFF if found else 0


@on_worker
def add(node: Node, arguments: list[str]) -> str:
    """Say where a station is, for good."""
    name, port_text, vlan, mac = arguments
    bridge = _bridge(node, name)
    port = bridge.ports.get(port_text)
    number = port.ofport if port is not None else int(port_text) if port_text.isdecimal() else -1
    address = _address(mac)
    if number not in bridge.switch.datapath.ports:
        raise CommandError("software error, odp port is present but no ofp port")
    bridge.switch.datapath.ports.add_station(address, _vlan(vlan), number)
    return ""


@on_worker
def delete(node: Node, arguments: list[str]) -> str:
    """Forget a station of `add`."""
    name, vlan, mac = arguments
    bridge = _bridge(node, name)
    if not bridge.switch.datapath.ports.del_station(_address(mac), _vlan(vlan)):
        raise CommandError("could not find static mac entry")
    return ""


@on_worker
def show_groups(node: Node, arguments: list[str]) -> str:
    """Multicast groups: they are flooded."""
    _bridge(node, arguments[0])
    raise CommandError("multicast snooping is disabled")


@on_worker
def flush_groups(node: Node, arguments: list[str]) -> str:
    """Nothing was learned of multicast groups."""
    if arguments:
        _bridge(node, arguments[0])
        raise CommandError("multicast snooping is disabled")
    return "table successfully flushed\n"


COMMANDS = (
    command("fdb/show", "[bridge...]", 0, None, show),
    command("fdb/flush", "[bridge]", 0, 1, flush),
    command("fdb/stats-show", "bridge", 1, 1, show_statistics),
    command("fdb/stats-clear", "[bridge]", 0, 1, clear_statistics),
    command("fdb/add", "bridge port vlan mac", 4, 4, add),
    command("fdb/del", "bridge vlan mac", 3, 3, delete),
    command("mdb/show", "bridge", 1, 1, show_groups),
    command("mdb/flush", "[bridge]", 0, 1, flush_groups),
)

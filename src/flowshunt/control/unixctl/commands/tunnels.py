"""`tnl/*`, `ovs/route/*`: tables of tunnels, which are kept as they are set and which nothing here looks into."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from weakref import WeakKeyDictionary

from flowshunt.control.unixctl.node import Node
from flowshunt.control.unixctl.registry import CommandError, answers, command

MAX_NEIGHBOURS = 4096
_HEAD = "IP                                            MAC                 Bridge\n" + "=" * 74 + "\n"
_MAC = re.compile(r"([0-9a-fA-F]{1,2})" + ":([0-9a-fA-F]{1,2})" * 5)
_AGING_S = range(1, 3601)
_NAME_WIDTH = 45


@dataclass
class _State:
    """What was set. `neighbours`: MAC by address and bridge."""

    neighbours: dict[tuple[str, str], str] = field(default_factory=dict)
    aging_s: int = 900
    ports: tuple[int, int] = (32768, 61000)


_STATES: WeakKeyDictionary[Node, _State] = WeakKeyDictionary()


def _state(node: Node) -> _State:
    return _STATES.setdefault(node, _State())


async def show_neighbours(node: Node, arguments: list[str]) -> str:
    """Neighbours that were set."""
    rows = _state(node).neighbours.items()
    return _HEAD + "".join(f"{address:<{_NAME_WIDTH}} {mac}   {bridge}\n" for (address, bridge), mac in rows)


async def set_neighbour(node: Node, arguments: list[str]) -> str:
    """A neighbour: bridge, address, MAC."""
    bridge, text, mac = arguments
    try:
        address = str(ip_address(text))
    except ValueError:
        raise CommandError("bad IP address") from None
    found = _MAC.fullmatch(mac)
    if found is None:
        raise CommandError("bad MAC address")
    neighbours = _state(node).neighbours
    if len(neighbours) >= MAX_NEIGHBOURS:
        neighbours.pop(next(iter(neighbours)))
    neighbours[address, bridge] = ":".join(part.zfill(2).lower() for part in found.groups())
    return "OK\n"


async def flush_neighbours(node: Node, arguments: list[str]) -> str:
    """None any more."""
    _state(node).neighbours.clear()
    return "OK\n"


async def age(node: Node, arguments: list[str]) -> str:
    """After how many seconds they would be forgotten."""
    if not arguments:
        return f"{_state(node).aging_s}\n"
    text = arguments[0]
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) in _AGING_S):
        raise CommandError("bad aging value")
    _state(node).aging_s = int(text)
    return "OK\n"


async def egress_ports(node: Node, arguments: list[str]) -> str:
    """The range of source ports of tunnels."""
    if len(arguments) < 2:
        return "Tunnel UDP source port range: {}-{}\n".format(*_state(node).ports)
    found = []
    for text, word in zip(arguments, ("min", "max"), strict=True):
        if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 1 << 16):
            raise CommandError(f"Invalid {word}.")
        found.append(int(text))
    _state(node).ports = min(found), max(found)
    return "OK\n"


def _is_network(text: str) -> bool:
    address, _, length = text.partition("/")
    try:
        most = ip_address(address).max_prefixlen
        return not length or 0 <= int(length) <= most
    except ValueError:
        return False


async def add_route(node: Node, arguments: list[str]) -> str:
    """Routes cannot be added: there are no tunnels to take them."""
    raise CommandError("Error while inserting route." if _is_network(arguments[0]) else "Invalid parameters")


async def no_route(node: Node, arguments: list[str]) -> str:
    """There is no such route."""
    raise CommandError("Not found" if _is_network(arguments[0]) else "Invalid parameters")


COMMANDS = (
    command("tnl/ports/show", "-v", 0, 1, answers("Listening ports:\n")),
    *(
        one
        for kind in ("arp", "neigh")
        for one in (
            command(f"tnl/{kind}/show", "", 0, 0, show_neighbours),
            command(f"tnl/{kind}/set", "BRIDGE IP MAC", 3, 3, set_neighbour),
            command(f"tnl/{kind}/flush", "", 0, 0, flush_neighbours),
            command(f"tnl/{kind}/aging", "[SECS]", 0, 1, age),
        )
    ),
    command("tnl/egress_port_range", "min max", 0, 2, egress_ports),
    command("ovs/route/show", "", 0, 0, answers("Route Table:\n")),
    command("ovs/route/add", "ip_addr/prefix_len out_br_name [gw] [pkt_mark=mark]", 2, 4, add_route),
    command("ovs/route/del", "ip_addr/prefix_len [pkt_mark=mark]", 1, 2, no_route),
    command("ovs/route/lookup", "ip_addr [pkt_mark=mark]", 1, 2, no_route),
)

"""A path in words: from port to port, what changes on the way, and by which rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flowshunt.conntrack.snapshot import address_of
from flowshunt.datapath.paths import records as P
from flowshunt.packet.schema import VLAN_PRESENT
from flowshunt.rules.openflow.format import format_flow

if TYPE_CHECKING:
    import numpy as np

    from flowshunt.conntrack.table import Tracker
    from flowshunt.datapath.tables import Datapath
    from flowshunt.offload.framework import Offload

_KIND_IPV6 = 0x80


class Switch(Protocol):
    """What stories are told of; `app.Switch` is one."""

    tracker: Tracker
    datapath: Datapath
    offload: Offload

    @property
    def ports(self) -> Mapping[str, int]:
        """OpenFlow port numbers by name."""

    def at_home(self, port: int) -> Switch | None:
        """The switch that a port of a path belongs to, this one or one beside it; None: it is gone."""

    def device_at(self, port: int) -> str | None:
        """Name of a port of a path; None: it is gone."""

    def observe_paths(self, observer: Callable[[np.ndarray], None]) -> None:
        """Have `observer` get what is learned here and in switches beside this one, LEARNED (n,)."""


@dataclass(frozen=True, slots=True)
class PathText:
    """`changes`: name and new value of each field that leaves otherwise; `rules`: in the order in which they apply."""

    in_port: str
    out_port: str
    changes: tuple[tuple[str, str], ...]
    rules: tuple[str, ...]


def path_text(record: Any, switch: Switch) -> PathText:
    """What a LEARNED record says."""
    path = record["path"]
    home = switch.at_home(int(path["in_port"]))
    flows = [] if home is None else home.datapath.paths.chain_rules(int(record["chain"]))
    ports = {} if home is None else home.ports
    rules = tuple(f"{'' if flow.table else 'table=0, '}{format_flow(flow, ports)}" for flow in flows)
    in_port, out_port = (_port(switch, int(path[name])) for name in ("in_port", "out_port"))
    return PathText(in_port, out_port, _changes(path), rules)


def _port(switch: Switch, port: int) -> str:
    return switch.device_at(port) or str(port & (1 << P.HOME_BITS) - 1)


def _changes(path: Any) -> tuple[tuple[str, str], ...]:
    flags, is_ipv6 = int(path["flags"]), bool(int(path["tuple"]) & _KIND_IPV6)
    ports = f"{int(path['new_source_port'])} -> {int(path['new_destination_port'])}"
    tci = int(path["new_vlan_tci"])
    candidates = (
        (P.REWRITE_ETH_SRC, "eth_src", _mac(path["new_eth_src"])),
        (P.REWRITE_ETH_DST, "eth_dst", _mac(path["new_eth_dst"])),
        (P.REWRITE_VLAN, "vlan", str(tci & 0xFFF) if tci & VLAN_PRESENT else "none"),
        (P.REWRITE_SOURCE, "nw_src", str(address_of(path["new_source"], is_ipv6))),
        (P.REWRITE_DESTINATION, "nw_dst", str(address_of(path["new_destination"], is_ipv6))),
        (P.REWRITE_PORTS, "ports", ports),
        (P.REWRITE_TOS, "nw_tos", str(int(path["new_tos"]))),
    )
    changes = [(name, value) for flag, name, value in candidates if flags & flag]
    if path["ttl_decrements"]:
        changes.append(("nw_ttl", f"-{int(path['ttl_decrements'])}"))
    return tuple(changes)


def _mac(value: Any) -> str:
    return (int(value) & (1 << 48) - 1).to_bytes(6, "big").hex(":")

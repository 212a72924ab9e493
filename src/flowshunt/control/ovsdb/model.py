"""What the database asks for, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_ZONE = 65_535
_SELF = ("netdev", "system")
"""Datapath types, all of which are the one datapath here; what is said first counts."""


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of a port."""

    name: str
    type: str
    options: tuple[tuple[str, str], ...] = ()
    ofport_request: int | None = None
    mtu_request: int | None = None
    mac: str | None = None
    is_policed: bool = False
    last_ofport: int | None = field(default=None, compare=False)
    """Its number when the switch last ran; it should keep it."""

    @property
    def kind(self) -> str:
        """Its type, where the empty one is system."""
        return self.type or "system"


@dataclass(frozen=True, slots=True)
class Vlans:
    """How a port treats VLANs: Open vSwitch's `vlan_mode`, its own VLAN and those that it carries."""

    mode: str
    tag: int = 0
    trunks: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a bridge: one interface, or several in a bond."""

    name: str
    interfaces: tuple[Interface, ...]
    vlans: Vlans | None = None
    """None: it carries all VLANs as they are."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge."""

    name: str
    ports: tuple[Port, ...] = ()
    datapath_type: str = ""
    fail_mode: str = "standalone"
    protocols: frozenset[str] = frozenset()
    """Versions of OpenFlow; empty: all."""
    other_config: tuple[tuple[str, str], ...] = ()
    unsupported: tuple[str, ...] = ()
    """What it asks for and does not get."""

    @property
    def config(self) -> dict[str, str]:
        """`other_config` as a dictionary."""
        return dict(self.other_config)

    def interfaces(self) -> dict[str, tuple[Port, Interface]]:
        """Its interfaces by name, with their ports."""
        return {one.name: (port, one) for port in self.ports for one in port.interfaces}


@dataclass(frozen=True, slots=True)
class Zone:
    """What a zone of connection tracking is given; None: nothing of its own."""

    limit: int | None = None
    timeouts: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that the database asks for."""

    bridges: Mapping[str, Bridge] = field(default_factory=dict)
    zones: Mapping[int, Zone] = field(default_factory=dict)
    default_limit: int | None = None
    other_config: tuple[tuple[str, str], ...] = ()

    @property
    def config(self) -> dict[str, str]:
        """`other_config` as a dictionary."""
        return dict(self.other_config)

    @property
    def waits_for_flows(self) -> bool:
        """Whether packets are to wait until flows have been restored."""
        return self.config.get("flow-restore-wait") == "true"


def read(root: Any) -> Wanted:
    """What the row of Open_vSwitch and all that hangs on it say."""
    zones, default_limit = _zones(dict(root.datapaths))
    bridges = {row.name: _bridge(row) for row in root.bridges}
    return Wanted(bridges, zones, default_limit, _sorted(root.other_config))


def _sorted(pairs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(pairs.items()))


def first(values: Any) -> Any | None:
    """The value of an optional column, which reads as a list; None: it is empty."""
    return next(iter(values), None)


def _bridge(row: Any) -> Bridge:
    asked = {
        "STP": row.stp_enable,
        "RSTP": row.rstp_enable,
        "multicast snooping": row.mcast_snooping_enable,
        "mirrors": row.mirrors,
        "NetFlow": row.netflow,
        "sFlow": row.sflow,
        "IPFIX": row.ipfix,
        "flood_vlans": row.flood_vlans,
        "connections to controllers": row.controller,
        "datapath type " + row.datapath_type: row.datapath_type not in ("", "netdev", "system", "dummy"),
    }
    return Bridge(
        name=row.name,
        ports=tuple(sorted((_port(port) for port in row.ports), key=lambda port: port.name)),
        datapath_type=row.datapath_type,
        fail_mode=first(row.fail_mode) or "standalone",
        protocols=frozenset(row.protocols),
        other_config=_sorted(row.other_config),
        unsupported=tuple(name for name, wanted in asked.items() if wanted),
    )


def _port(row: Any) -> Port:
    interfaces = tuple(sorted((_interface(one) for one in row.interfaces), key=lambda one: one.name))
    return Port(row.name, interfaces, _vlans(first(row.tag), row.trunks, first(row.vlan_mode)))


def _vlans(tag: int | None, trunks: Iterable[int], mode: str | None) -> Vlans | None:
    """As ovs-vswitchd.conf.db(5): without a mode a port with a tag is an access port, one without is a trunk."""
    carried = frozenset(trunks)
    if mode is None:
        mode = "access" if tag is not None else "trunk"
    if mode == "trunk" and not carried:
        return None
    return Vlans(mode, 0 if mode == "trunk" else tag or 0, frozenset() if mode == "access" else carried)


def _interface(row: Any) -> Interface:
    ofport = first(row.ofport)
    return Interface(
        name=row.name,
        type=row.type,
        options=_sorted(row.options),
        ofport_request=first(row.ofport_request),
        mtu_request=first(row.mtu_request),
        mac=first(row.mac),
        is_policed=bool(row.ingress_policing_rate),
        last_ofport=ofport if ofport and ofport > 0 else None,
    )


def _zones(datapaths: Mapping[str, Any]) -> tuple[dict[int, Zone], int | None]:
    found: dict[int, Zone] = {}
    default = None
    for kind in reversed(_SELF):
        row = datapaths.get(kind)
        if row is None:
            continue
        limit = first(getattr(row, "ct_zone_default_limit", ()))
        default = limit if limit is not None else default
        for number, zone in dict(row.ct_zones).items():
            policy = first(zone.timeout_policy)
            timeouts = None if policy is None else _sorted(policy.timeouts)
            found[number] = Zone(first(getattr(zone, "limit", ())), timeouts)
    return {number: zone for number, zone in sorted(found.items()) if 0 <= number <= MAX_ZONE}, default

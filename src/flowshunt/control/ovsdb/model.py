"""What the database asks for, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowshunt.control.openflow.controllers import MAX_BACKOFF_S, PROBE_S, ControllerSettings

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
    unsupported: tuple[str, ...] = ()
    """What it asks for and does not get; it works without."""
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
    """Of dot1q-tunnel: the customers' VLANs."""
    ethtype: str = "802.1ad"
    """Type of the service tag, by the names of `qinq-ethtype`."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a bridge: one interface, or several in a bond."""

    name: str
    interfaces: tuple[Interface, ...]
    vlans: Vlans | None = None
    """None: it carries all VLANs as they are."""
    unsupported: tuple[str, ...] = ()
    """What it asks for and does not get; it works without."""


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
    flood_vlans: frozenset[int] = frozenset()
    controllers: tuple[ControllerSettings, ...] = ()

    @property
    def config(self) -> dict[str, str]:
        """`other_config` as a dictionary."""
        return dict(self.other_config)

    def notes(self) -> dict[str, str]:
        """By interface, what is asked for there and not had; of the bridge as a whole, at its own interface."""
        found = {}
        for name, (port, one) in self.interfaces().items():
            own = self.unsupported if name == self.name else ()
            asked = (*own, *port.unsupported, *one.unsupported)
            if asked:
                found[name] = f"{', '.join(asked)}: not supported"
        return found

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
    """What the row of Open_vSwitch and all that hangs on it say; columns that are not there say nothing."""
    zones, default_limit = _zones(_pairs(root, "datapaths"))
    bridges = {row.name: _bridge(row) for row in root.bridges}
    return Wanted(bridges, zones, default_limit, _sorted(_pairs(root, "other_config")))


def _sorted(pairs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(pairs.items()))


def _pairs(row: Any, column: str) -> dict[Any, Any]:
    return dict(getattr(row, column, {}))


def _values(row: Any, column: str) -> list[Any]:
    return list(getattr(row, column, ()))


def _one(row: Any, column: str) -> Any | None:
    """The value of an optional column, which reads as a list; None: it is empty."""
    return next(iter(_values(row, column)), None)


def _asked(row: Any, names: Mapping[str, str]) -> tuple[str, ...]:
    """Names of what the columns of a row ask for, where they say anything but "off"."""
    found = []
    for column, name in names.items():
        value = getattr(row, column, None)
        if value and value != ["off"]:
            found.append(name)
    return tuple(found)


_OF_BRIDGES = {
    "stp_enable": "STP",
    "rstp_enable": "RSTP",
    "mcast_snooping_enable": "multicast snooping",
    "mirrors": "mirrors",
    "netflow": "NetFlow",
    "sflow": "sFlow",
    "ipfix": "IPFIX",
    "flow_tables": "settings of flow tables",
    "auto_attach": "auto-attach",
}
_OF_PORTS = {"qos": "QoS", "lacp": "LACP", "protected": "protected ports"}
_OF_INTERFACES = {"cfm_mpid": "CFM"}
_SWITCHED = {"bfd": "BFD", "lldp": "LLDP"}
"""Columns of settings, of which `enable` switches them on."""


def _bridge(row: Any) -> Bridge:
    kind = getattr(row, "datapath_type", "")
    controllers = _values(row, "controller")
    strange = () if kind in ("", "netdev", "system", "dummy") else (f"datapath type {kind}",)
    return Bridge(
        name=row.name,
        ports=tuple(sorted((_port(port) for port in row.ports), key=lambda port: port.name)),
        datapath_type=kind,
        fail_mode=_one(row, "fail_mode") or "standalone",
        protocols=frozenset(_values(row, "protocols")),
        other_config=_sorted(_pairs(row, "other_config")),
        unsupported=_asked(row, _OF_BRIDGES) + strange + _asked_of(controllers),
        flood_vlans=frozenset(_values(row, "flood_vlans")),
        controllers=tuple(sorted({_controller(one) for one in controllers}, key=lambda c: c.target)),
    )


def _asked_of(controllers: list[Any]) -> tuple[str, ...]:
    """What controllers are asked for beyond a connection."""
    in_band = any(_one(row, "connection_mode") == "in-band" for row in controllers)
    limited = any(_one(row, "controller_rate_limit") for row in controllers)
    return ("in-band control",) * in_band + ("rate limits of controllers",) * limited


def _controller(row: Any) -> ControllerSettings:
    """`inactivity_probe` and `max_backoff` are in milliseconds."""
    probe_ms, backoff_ms = _one(row, "inactivity_probe"), _one(row, "max_backoff")
    return ControllerSettings(
        row.target,
        PROBE_S if probe_ms is None or probe_ms < 0 else probe_ms / 1000,
        MAX_BACKOFF_S if backoff_ms is None or backoff_ms <= 0 else backoff_ms / 1000,
        hears_events=_one(row, "enable_async_messages") is not False,
    )


def _port(row: Any) -> Port:
    interfaces = tuple(sorted((_interface(one) for one in row.interfaces), key=lambda one: one.name))
    tags = _pairs(row, "other_config").get("priority-tags", "no") not in ("no", "false", "never")
    return Port(row.name, interfaces, _vlans(row), _asked(row, _OF_PORTS) + ("priority tags",) * tags)


def _vlans(row: Any) -> Vlans | None:
    """As ovs-vswitchd.conf.db(5): without a mode a port with a tag is an access port, one without is a trunk."""
    tag, mode = _one(row, "tag"), _one(row, "vlan_mode")
    carried = frozenset(_values(row, "trunks"))
    if mode is None:
        mode = "access" if tag is not None else "trunk"
    if mode == "trunk" and not carried:
        return None
    if mode == "dot1q-tunnel":
        ethtype = _pairs(row, "other_config").get("qinq-ethtype", "802.1ad")
        return Vlans(mode, tag or 0, frozenset(_values(row, "cvlans")), ethtype)
    return Vlans(mode, 0 if mode == "trunk" else tag or 0, frozenset() if mode == "access" else carried)


def _interface(row: Any) -> Interface:
    ofport = _one(row, "ofport")
    switched = (name for column, name in _SWITCHED.items() if _pairs(row, column).get("enable") == "true")
    return Interface(
        name=row.name,
        type=row.type,
        options=_sorted(_pairs(row, "options")),
        ofport_request=_one(row, "ofport_request"),
        mtu_request=_one(row, "mtu_request"),
        mac=_one(row, "mac"),
        is_policed=bool(getattr(row, "ingress_policing_rate", 0) or getattr(row, "ingress_policing_kpkts_rate", 0)),
        unsupported=(*_asked(row, _OF_INTERFACES), *switched),
        last_ofport=ofport if ofport and ofport > 0 else None,
    )


def _zones(datapaths: Mapping[str, Any]) -> tuple[dict[int, Zone], int | None]:
    found: dict[int, Zone] = {}
    default = None
    for kind in reversed(_SELF):
        row = datapaths.get(kind)
        if row is None:
            continue
        limit = _one(row, "ct_zone_default_limit")
        default = limit if limit is not None else default
        for number, zone in _pairs(row, "ct_zones").items():
            policy = _one(zone, "timeout_policy")
            timeouts = None if policy is None else _sorted(_pairs(policy, "timeouts"))
            found[number] = Zone(_one(zone, "limit"), timeouts)
    return {number: zone for number, zone in sorted(found.items()) if 0 <= number <= MAX_ZONE}, default

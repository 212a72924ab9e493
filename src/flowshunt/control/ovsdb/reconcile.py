"""What has to be done so that a switch that was as `before` asks becomes as `after` asks: a list of actions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from flowshunt.control.ovsdb.model import Bridge, Interface, Port, Vlans, Wanted, Zone

VLAN_MODES = ("access", "trunk", "native-tagged", "native-untagged", "dot1q-tunnel")
"""Values of `vlan_mode` that can be had."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Let packets wait, or no longer."""

    on: bool


@dataclass(frozen=True, slots=True)
class DelBridge:
    """Remove a bridge."""

    name: str


@dataclass(frozen=True, slots=True)
class AddBridge:
    """Make a bridge, with no port but its own, if that is among its ports."""

    bridge: Bridge


@dataclass(frozen=True, slots=True)
class SetBridge:
    """Change the settings of a bridge."""

    before: Bridge
    after: Bridge


@dataclass(frozen=True, slots=True)
class DelPort:
    """Remove an interface from a bridge."""

    bridge: str
    name: str


@dataclass(frozen=True, slots=True)
class AddPort:
    """Add an interface to a bridge. `kind`: what to open. `refusal`: why it gets no number, if so."""

    bridge: str
    interface: Interface
    kind: str
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class SetVlans:
    """Change how a port treats VLANs."""

    bridge: str
    name: str
    vlans: Vlans | None


@dataclass(frozen=True, slots=True)
class SetConfig:
    """Change settings of the switch as a whole."""

    config: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SetDefaultLimit:
    """Limit the connections of zones without a limit; None: no limit."""

    limit: int | None


@dataclass(frozen=True, slots=True)
class SetZone:
    """Give a zone what it is to have, in place of what it had."""

    number: int
    before: Zone
    after: Zone


Action = Hold | DelBridge | AddBridge | SetBridge | DelPort | AddPort | SetVlans | SetConfig | SetDefaultLimit | SetZone


def plan(before: Wanted, after: Wanted) -> list[Action]:
    """The actions, in an order in which they can be carried out: names are free before they are taken."""
    actions: list[Action] = []
    if after.waits_for_flows and not before.waits_for_flows:
        actions.append(Hold(True))
    actions += _zones(before, after)
    if before.other_config != after.other_config:
        actions.append(SetConfig(after.other_config))
    actions += [DelBridge(name) for name in before.bridges if name not in after.bridges]
    kept = [(before.bridges[name], bridge) for name, bridge in after.bridges.items() if name in before.bridges]
    for old, new in kept:
        actions += _gone(old, new)
    for name, bridge in after.bridges.items():
        if name not in before.bridges:
            actions.append(AddBridge(bridge))
    for old, new in kept:
        if replace(old, ports=()) != replace(new, ports=()) or old.notes() != new.notes():
            actions.append(SetBridge(old, new))
    for name, bridge in after.bridges.items():
        actions += _come(before.bridges.get(name, Bridge(name)), bridge)
    if before.waits_for_flows and not after.waits_for_flows:
        actions.append(Hold(False))
    return actions


def _zones(before: Wanted, after: Wanted) -> Iterator[Action]:
    if before.default_limit != after.default_limit:
        yield SetDefaultLimit(after.default_limit)
    for number in sorted(before.zones.keys() | after.zones.keys()):
        old, new = before.zones.get(number, Zone()), after.zones.get(number, Zone())
        if old != new:
            yield SetZone(number, old, new)


def _refusal(port: Port, interface: Interface) -> str | None:
    """Why an interface cannot be had, as Open vSwitch's users read it in its `error`."""
    if len(port.interfaces) > 1:
        return f"port {port.name}: bonds are not supported"
    if port.vlans is not None and port.vlans.mode not in VLAN_MODES:
        return f"port {port.name}: VLAN mode {port.vlans.mode} is not supported"
    if interface.is_policed:
        return f"{interface.name}: ingress policing is not supported"
    return None


def _kind(bridge: Bridge, interface: Interface) -> str:
    """The type that a port is opened as; bridges of the type for tests have no devices of their own."""
    kind = "internal" if interface.name == bridge.name else interface.kind
    return "dummy" if kind == "internal" and bridge.datapath_type == "dummy" else kind


def _same(one: tuple[Port, Interface], other: tuple[Port, Interface]) -> bool:
    """Whether a port can stay open."""
    interfaces = (replace(each[1], unsupported=()) for each in (one, other))
    return next(interfaces) == next(interfaces) and _refusal(*one) == _refusal(*other)


def _gone(old: Bridge, new: Bridge) -> Iterator[Action]:
    """Ports that are no more, or not as they were."""
    there = new.interfaces()
    for name, entry in old.interfaces().items():
        if name not in there or not _same(entry, there[name]):
            yield DelPort(old.name, name)


def _come(old: Bridge, new: Bridge) -> Iterator[Action]:
    """New ports: those that ask for a number first, then those that had one."""
    there = old.interfaces()
    entries = new.interfaces()
    fresh = [entry for name, entry in entries.items() if name not in there or not _same(entry, there[name])]
    for port, one in sorted(fresh, key=lambda entry: (entry[1].ofport_request is None, entry[1].last_ofport is None)):
        yield AddPort(new.name, one, _kind(new, one), _refusal(port, one))
    for name, (port, _) in entries.items():
        known = there.get(name)
        if port.vlans != (known[0].vlans if known is not None and _same(known, entries[name]) else None):
            yield SetVlans(new.name, name, port.vlans)

"""How things are, written back into the database, `cur_cfg` in the same transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from flowshunt.base.version import VERSION
from flowshunt.control.openflow.controllers import ControllerStatus
from flowshunt.control.ovsdb.idl import Replica
from flowshunt.control.ovsdb.node import Node, PortInfo

DATAPATH_VERSION = "<built-in>"
DATAPATH_TYPES = ("netdev", "system")
IFACE_TYPES = ("afxdp", "internal", "patch", "system")
CAPABILITIES = {
    "max_vlan_headers": "2",
    "max_mpls_depth": "0",
    "recirc": "true",
    "lb_output_action": "false",
    "ct_state": "true",
    "ct_zone": "true",
    "ct_mark": "true",
    "ct_label": "true",
    "ct_state_nat": "true",
    "ct_orig_tuple": "true",
    "ct_orig_tuple6": "true",
    "masked_set_action": "true",
    "tnl_push_pop": "false",
    "ufid": "false",
    "trunc": "false",
    "nd_ext": "false",
    "clone": "true",
    "sample_nesting": "10",
    "ct_eventmask": "true",
    "ct_clear": "true",
    "max_hash_alg": "1",
    "check_pkt_len": "false",
    "ct_timeout": "true",
    "explicit_drop_action": "false",
    "ct_zero_snat": "true",
    "add_mpls": "false",
}
"""What `Datapath.capabilities` says, by Open vSwitch's names (ovs-vswitchd.conf.db(5))."""
STATISTICS = (
    "collisions", "rx_bytes", "rx_crc_err", "rx_dropped", "rx_errors", "rx_frame_err", "rx_over_err", "rx_packets",
    "tx_bytes", "tx_dropped", "tx_errors", "tx_packets",
)  # fmt: skip
"""Counters of an interface that have a name in the database."""
_SLICE = 16
"""Ports between two batches of packets."""


@dataclass(slots=True)
class Facts:
    """How the node stands, each port as it was at one moment."""

    ports: dict[tuple[str, str], PortInfo] = field(default_factory=dict)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)
    datapath_ids: dict[str, int] = field(default_factory=dict)
    controllers: dict[tuple[str, str], ControllerStatus] = field(default_factory=dict)
    """By bridge and target."""
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    """By bridge and interface, what it asks for and does not get although it works."""


async def gather(
    node: Node, errors: Mapping[tuple[str, str], str], notes: Mapping[tuple[str, str], str] | None = None
) -> Facts:
    """The facts; on the thread of control, with packets in between."""
    facts = Facts()
    names = iter(await node.call(partial(_take_bridges, node, facts, errors, notes or {})))
    while part := list(islice(names, _SLICE)):
        await node.call(partial(_take_ports, node, facts, part))
    return facts


def _take_bridges(
    node: Node, facts: Facts, errors: Mapping[tuple[str, str], str], notes: Mapping[tuple[str, str], str]
) -> list[tuple[str, str]]:
    """What is not about ports; returns the names of those, behind their bridges'."""
    facts.errors, facts.notes = dict(errors), dict(notes)
    for name, bridge in node.bridges.items():
        facts.datapath_ids[name] = bridge.service.datapath_id
        for target, status in bridge.controllers.statuses.copy().items():
            facts.controllers[name, target] = status
    return [(name, port) for name, bridge in node.bridges.items() for port in bridge.ports]


def _take_ports(node: Node, facts: Facts, names: Iterable[tuple[str, str]]) -> None:
    for name, port in names:
        if name in node.bridges and port in node.bridges[name].ports:
            facts.ports[name, port] = node.bridges[name].port_info(port)


def write(
    replica: Replica,
    facts: Facts,
    iface_types: Iterable[str],
    cur_cfg: int | None,
    done: Callable[[bool], None],
) -> None:
    """Write what differs. `cur_cfg`: the `next_cfg` that all of it is about; None: leave it."""
    root = replica.root()
    if root is None:
        done(False)
        return
    transaction = replica.begin()
    _root(replica, root, iface_types)
    for bridge in root.bridges:
        _bridge(bridge, facts)
        for controller in getattr(bridge, "controller", ()):
            _controller(controller, facts.controllers.get((bridge.name, controller.target)))
        for port in bridge.ports:
            for interface in port.interfaces:
                _interface(bridge.name, interface, facts)
    for row in dict(getattr(root, "datapaths", {})).values():
        _set(row, "capabilities", CAPABILITIES)
        _set(row, "datapath_version", DATAPATH_VERSION)
    if cur_cfg is not None:
        _set(root, "cur_cfg", cur_cfg)
    replica.commit(transaction, done)


def _set(row: Any, column: str, value: Any) -> None:
    """Write a column if it is there and says something else."""
    if hasattr(row, column) and _plain(getattr(row, column)) != _plain(value):
        setattr(row, column, value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return sorted(value) if isinstance(value, list | tuple | set) else value


def _root(replica: Replica, root: Any, iface_types: Iterable[str]) -> None:
    _set(root, "ovs_version", [VERSION])
    _set(root, "db_version", [replica.version])
    _set(root, "iface_types", sorted(iface_types))
    _set(root, "datapath_types", list(DATAPATH_TYPES))
    _set(root, "dpdk_initialized", False)


def _bridge(row: Any, facts: Facts) -> None:
    number = facts.datapath_ids.get(row.name)
    _set(row, "datapath_id", [] if number is None else [f"{number:016x}"])
    _set(row, "datapath_version", DATAPATH_VERSION if number is not None else "<unknown>")


def _controller(row: Any, status: ControllerStatus | None) -> None:
    if status is None:
        status = ControllerStatus(False, None, "VOID")
    _set(row, "is_connected", status.is_connected)
    _set(row, "role", [] if status.role is None else [status.role])
    told = {"state": status.state}
    if status.last_error:
        told["last_error"] = status.last_error
    if status.changed_s:
        name = "sec_since_connect" if status.is_connected else "sec_since_disconnect"
        told[name] = str(int(max(time.monotonic() - status.changed_s, 0)))
    _set(row, "status", told)


def _interface(bridge: str, row: Any, facts: Facts) -> None:
    info = facts.ports.get((bridge, row.name))
    error = facts.errors.get((bridge, row.name)) or (info.error if info is not None else None)
    if info is None or info.ofport < 0:
        _set(row, "ofport", [-1])
        _set(row, "error", [error or "not opened"])
        for column in ("admin_state", "link_state", "link_speed", "duplex", "mac_in_use", "mtu", "ifindex"):
            _set(row, column, [])
        _set(row, "statistics", {})
        return
    note = facts.notes.get((bridge, row.name)) or info.note
    _set(row, "ofport", [info.ofport])
    _set(row, "error", [] if note is None else [note])
    _set(row, "admin_state", ["up" if info.admin_up else "down"])
    _set(row, "link_state", ["up" if info.link_up else "down"])
    _set(row, "link_resets", [info.link_resets])
    _set(row, "link_speed", [] if info.link is None else [info.link.speed])
    _set(row, "duplex", [] if info.link is None else ["full" if info.link.full_duplex else "half"])
    _set(row, "mac_in_use", [info.mac.hex(":")])
    _set(row, "mtu", [] if info.mtu is None else [info.mtu])
    _set(row, "ifindex", [info.ifindex])
    _set(row, "statistics", {name: info.statistics[name] for name in STATISTICS if name in info.statistics})

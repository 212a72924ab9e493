"""`dpctl/*` and `dpif/*`: the one datapath, its ports and features."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from itertools import count

from flowshunt.control.unixctl.commands.dpctl import refusal, split, without_datapath
from flowshunt.control.unixctl.node import DATAPATH_NAME, Node, PortInfo
from flowshunt.control.unixctl.registry import CommandError, answers, command, on_worker

_KINDS = {"internal": "tap", "system": ""}
"""What the types of ports are called on a userspace datapath; the others by their own name."""
_FEATURES = """\
Masked set action: Yes
Tunnel push pop: No
Ufid: No
Truncate action: No
Clone action: Yes
Sample nesting: 10
Conntrack eventmask: Yes
Conntrack clear: Yes
Max dp_hash algorithm: 1
Check pkt length action: No
Conntrack timeout policy: Yes
Explicit Drop action: No
Optimized Balance TCP mode: No
Conntrack all-zero IP SNAT: Yes
MPLS Label add: No
Max VLAN headers: 2
Max MPLS depth: 0
Recirc: Yes
CT state: Yes
CT zone: Yes
CT mark: Yes
CT label: Yes
CT state NAT: Yes
CT orig tuple: Yes
CT orig tuple for IPv6: Yes
IPv6 ND Extension: No
"""
_FEATURE_NAMES = {
    "masked_set_action": "Masked set action",
    "tnl_push_pop": "Tunnel push pop",
    "ufid": "Ufid",
    "trunc": "Truncate action",
    "clone": "Clone action",
    "sample_nesting": "Sample nesting",
    "ct_eventmask": "Conntrack eventmask",
    "ct_clear": "Conntrack clear",
    "max_hash_alg": "Max dp_hash algorithm",
    "check_pkt_len": "Check pkt length action",
    "ct_timeout": "Conntrack timeout policy",
    "explicit_drop_action": "Explicit Drop action",
    "lb_output_action": "Optimized Balance TCP mode",
    "ct_zero_snat": "Conntrack all-zero IP SNAT",
    "add_mpls": "MPLS Label add",
    "max_vlan_headers": "Max VLAN headers",
    "max_mpls_depth": "Max MPLS depth",
    "recirc": "Recirc",
    "ct_state": "CT state",
    "ct_zone": "CT zone",
    "ct_mark": "CT mark",
    "ct_label": "CT label",
    "ct_state_nat": "CT state NAT",
    "ct_orig_tuple": "CT orig tuple",
    "ct_orig_tuple6": "CT orig tuple for IPv6",
    "nd_ext": "IPv6 ND Extension",
}


def numbered(node: Node) -> Iterator[tuple[str, int, PortInfo]]:
    """Every port with the bridge that it belongs to and its number in the datapath; 0 is the datapath's own.

    Dummy ports have the number in their name, those named br… 100 more, so that tests know them.
    """
    entries = [
        (name, port)
        for name, bridge in node.bridges.items()
        for port in sorted(bridge.ports.values(), key=lambda port: (port.name != name, port.ofport))
        if port.ofport > 0
    ]
    places: dict[int, int] = {}
    for place, (_, port) in enumerate(entries):
        places.setdefault(_number_in_name(port), place)
    named = {place: number for number, place in places.items() if number}
    free = (number for number in count(1) if number not in places)
    for place, (name, port) in enumerate(entries):
        yield name, named[place] if place in named else next(free), port


def _number_in_name(port: PortInfo) -> int:
    """The number that a dummy port's name wants; 0: none."""
    digits = re.search("[0-9]+", port.name) if port.type == "dummy" else None
    return int(digits.group()) % (1 << 16) + 100 * port.name.startswith("br") if digits else 0


def _place(number: int, port: PortInfo) -> str:
    """Where a port is in the datapath, which knows nothing of patches."""
    return "none" if port.type == "patch" else str(number)


def _suffix(port: PortInfo) -> str:
    kind = _KINDS.get(port.type, port.type)
    if port.type == "patch":
        kind += f": peer={port.options.get('peer', '')}"
    return f" ({kind})" if kind else ""


def _lookups(node: Node) -> tuple[int, int]:
    """Packets that found a flow in the first table, and those that did not."""
    hits = misses = 0
    for bridge in node.bridges.values():
        first = bridge.switch.datapath.tables().get(0)
        if first is not None:
            hits += first.matches
            misses += first.lookups - first.matches
    return hits, misses


@on_worker
def dump_datapaths(node: Node, arguments: list[str]) -> str:
    """The datapath, while it has a bridge."""
    return f"{DATAPATH_NAME}\n" if node.bridges else ""


@on_worker
def show(node: Node, arguments: list[str]) -> str:
    """The datapath with its ports, with -s their counters."""
    rest, options = split(arguments)
    for name in rest:
        if name != DATAPATH_NAME:
            raise refusal(f"opening datapath {name} failed", errno.ENODEV)
    if not node.bridges:
        return ""
    hits, misses = _lookups(node)
    n_flows = sum(len(bridge.switch.datapath.rules) for bridge in node.bridges.values())
    lines = [f"{DATAPATH_NAME}:", f"  lookups: hit:{hits} missed:{misses} lost:0", f"  flows: {n_flows}"]
    lines.append("  port 0: ovs-netdev (tap)")
    for bridge, number, port in numbered(node):
        if port.type == "patch":
            continue
        lines.append(f"  port {number}: {port.name}{_suffix(port)}")
        if "statistics" in options:
            lines += _counters(node.bridges[bridge].port_info(port.name).statistics)
    return "\n".join(lines) + "\n"


def _counters(figures: dict[str, int]) -> list[str]:
    def of(*names: str) -> list[int | str]:
        return [figures.get(name, "?") for name in names]

    received = of("rx_packets", "rx_errors", "rx_dropped", "rx_over_errors", "rx_frame_errors")
    sent = of("tx_packets", "tx_errors", "tx_dropped", "tx_aborted_errors", "tx_carrier_errors")
    return [
        "    RX packets:{} errors:{} dropped:{} overruns:{} frame:{}".format(*received),
        "    TX packets:{} errors:{} dropped:{} aborted:{} carrier:{}".format(*sent),
        "    collisions:{}".format(*of("collisions")),
        "    RX bytes:{}  TX bytes:{}".format(*of("rx_bytes", "tx_bytes")),
    ]


async def set_features(node: Node, arguments: list[str]) -> str:
    """Features by the names that they are set by: bridge [name [value]]. What there is, is there for good."""
    if arguments[0] not in node.bridges:
        raise CommandError("no such bridge")
    lines = dict(line.split(": ") for line in _FEATURES.splitlines())
    wanted = _FEATURE_NAMES if len(arguments) < 2 else {arguments[1]: _FEATURE_NAMES.get(arguments[1], "")}
    if "" in wanted.values():
        raise CommandError("Unexpected support field")
    if len(arguments) > 2:
        return ""
    said = []
    for name, title in wanted.items():
        value = {"Yes": "true", "No": "false"}.get(lines[title], lines[title])
        said.append(f"{name} ({title}) : [run time]:{value}, [boot time]:{value}\n")
    return "".join(said)


async def datapath_only(node: Node, arguments: list[str]) -> str:
    """A command that has nothing to do but to check its argument."""
    without_datapath(split(arguments).rest, 1)
    return ""


async def refuse_datapath(node: Node, arguments: list[str]) -> str:
    """Datapaths come and go with bridges, and cannot be made otherwise."""
    raise refusal("opening datapath", errno.EOPNOTSUPP)


@on_worker
def show_bridges(node: Node, arguments: list[str]) -> str:
    """Bridges and ports with both of their numbers."""
    if not node.bridges:
        return ""
    hits, misses = _lookups(node)
    lines = [f"{DATAPATH_NAME}: hit:{hits} missed:{misses}"]
    for name in sorted(node.bridges):
        lines.append(f"  {name}:")
        for bridge, number, port in sorted(numbered(node), key=lambda entry: entry[2].name):
            if bridge == name:
                lines.append(f"    {port.name} {port.ofport}/{_place(number, port)}:{_suffix(port)}")
    return "\n".join(lines) + "\n"


@on_worker
def dump_bridges(node: Node, arguments: list[str]) -> str:
    """Bridges by datapath."""
    return "".join(f"netdev@{name}\n" for name in sorted(node.bridges))


def _check_bridge(node: Node, arguments: list[str]) -> None:
    if not arguments or arguments[-1] not in node.bridges:
        raise CommandError("no such bridge")


@on_worker
def show_features(node: Node, arguments: list[str]) -> str:
    """What the datapath can do, in the words of Open vSwitch."""
    _check_bridge(node, arguments)
    return _FEATURES


@on_worker
def list_bridges(node: Node, arguments: list[str]) -> str:
    """Names of the bridges."""
    return "".join(f"{name}\n" for name in sorted(node.bridges))


COMMANDS = (
    command("dpctl/dump-dps", "", 0, 0, dump_datapaths),
    command("dpctl/show", "[-s] [dp...]", 0, None, show),
    command("dpctl/del-flows", "[dp] [file]", 0, 2, datapath_only),
    command("dpctl/cache-get-size", "[dp]", 0, 1, datapath_only),
    command("dpctl/add-dp", "dp [iface...]", 1, None, refuse_datapath),
    command("dpctl/del-dp", "dp", 1, 1, refuse_datapath),
    command("dpif/dump-dps", "", 0, 0, dump_bridges),
    command("dpif/show", "", 0, 0, show_bridges),
    command("dpif/show-dp-features", "bridge", 1, 1, show_features),
    command("dpif/set-dp-features", "bridge", 1, 3, set_features),
    command("ofproto/list", "", 0, 0, list_bridges),
    command("ofproto/list-tunnels", "", 0, 0, answers("")),
)

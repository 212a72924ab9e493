"""`dpctl/dump-flows`, `dpif/dump-flows`: the flows of the datapath.

There is no cache of flows: packets walk the rules themselves. So the rules that packets have met lately are listed, in
the notation of a datapath: what a rule matches, its counters since `revalidator/purge`, its actions. A zone that an
action takes from a field is part of a datapath flow's match; here it is that of the last packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from flowshunt.control.unixctl.commands.dpctl import refusal, split, without_datapath
from flowshunt.control.unixctl.node import Bridge, Node
from flowshunt.control.unixctl.registry import CommandError, command, on_worker
from flowshunt.datapath.listing import FlowStatistics
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.format import format_actions
from flowshunt.rules.openflow.values import write_ipv4, write_ipv6, write_mac, write_port

FLOW_TYPES = ("ovs", "tc", "dpdk", "offloaded", "non-offloaded", "partially-offloaded", "all")
IDLE_MS = 10_000
"""After so long without a packet a flow is listed no more, as Open vSwitch forgets it then."""

_WALKED = ("ovs", "non-offloaded", "all")
_CT_STATES = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")
_TRANSPORTS = {6: "tcp", 17: "udp", 132: "sctp", 1: "icmp", 58: "icmpv6"}
_PURGED_MS: WeakKeyDictionary[Bridge, int] = WeakKeyDictionary()
"""When flows were last purged; a rule that no packet has met since is not listed."""

Match = Mapping[str, tuple[int, int]]


def _masked(value: int, mask: int, width: int) -> str:
    return f"{value:#x}" if mask == (1 << width) - 1 else f"{value:#x}/{mask:#x}"


def _key(match: Match, table: int, names: Mapping[int, str]) -> str:
    """What a rule matches, in the notation of `ovs-dpctl`."""
    parts = [f"recirc_id({table:#x})" if table else "recirc_id(0)"]
    if "in_port" in match:
        number = match["in_port"][0]
        parts.append(f"in_port({names.get(number, write_port(number))})")
    if "ct_state" in match:
        value, mask = match["ct_state"]
        bits = [("+" if value >> n & 1 else "-") + name for n, name in enumerate(_CT_STATES) if mask >> n & 1]
        parts.append(f"ct_state({''.join(bits)})")
    for name, width in (("ct_zone", 16), ("ct_mark", 32), ("ct_label", 128)):
        if name in match:
            parts.append(f"{name}({_masked(*match[name], width)})")
    parts += _link(match)
    parts += _network(match)
    return ",".join(parts)


def _inner(match: Match, names: tuple[tuple[str, str, Any], ...]) -> str:
    return ",".join(f"{word}={write(*match[name])}" for name, word, write in names if name in match)


def _link(match: Match) -> Iterator[str]:
    if addresses := _inner(match, (("eth_src", "src", write_mac), ("eth_dst", "dst", write_mac))):
        yield f"eth({addresses})"
    if "eth_type" in match:
        yield f"eth_type({match['eth_type'][0]:#06x})"


def _network(match: Match) -> Iterator[str]:
    kind = match.get("eth_type", (0, 0))[0]
    protocol = match.get("nw_proto", (0, 0))[0]
    if kind in (0x0800, 0x86DD):
        write = write_ipv4 if kind == 0x0800 else write_ipv6
        prefix = "nw" if kind == 0x0800 else "ipv6"
        fields = _inner(match, ((f"{prefix}_src", "src", write), (f"{prefix}_dst", "dst", write)))
        middle = [fields] if fields else []
        middle += [f"proto={protocol}"] if protocol else []
        yield f"{'ipv4' if kind == 0x0800 else 'ipv6'}({','.join([*middle, 'frag=no'])})"
    transport = _TRANSPORTS.get(protocol)
    if transport is not None:
        words = ("type", "code") if transport.startswith("icmp") else ("src", "dst")
        ports = [
            f"{word}={value[0]}"
            for word, name in zip(words, ("tp_src", "tp_dst"), strict=True)
            if (value := match.get(name)) is not None
        ]
        if ports:
            yield f"{transport}({','.join(ports)})"


class Lately(NamedTuple):
    """A rule that packets have met lately. `zones`: those that its actions read, see `Rules.zones_read`."""

    rule: FlowStatistics
    zones: list[int | None]


def _match(flow: F.Flow, zones: Iterable[int | None]) -> Match:
    """What a rule matches, and as if it did, what its actions go by: the fields that zones were taken from."""
    match = {name: (value, mask) for name, value, mask in flow.match}
    fields = (
        action.zone for action in flow.actions if isinstance(action, F.Ct) and isinstance(action.zone, F.Subfield)
    )
    for field, zone in zip(fields, zones, strict=False):
        if zone is not None:
            value, mask = match.get(field.field, (0, 0))
            read = ((1 << field.width) - 1) << field.start
            match[field.field] = value & ~read | zone << field.start, mask | read
    return match


def _line(lately: Lately, names: Mapping[int, str], more: bool, now_ms: int) -> str:
    one = lately.rule
    used = f"{max(now_ms - one.used_ms, 0) / 1000:.3f}s"
    extra = ", dp:ovs" if more else ""
    key = _key(_match(one.flow, lately.zones), one.flow.table, names)
    actions = format_actions(one.flow, names)
    return f"{key}, packets:{one.packets}, bytes:{one.bytes}, used:{used}{extra}, actions:{actions}\n"


def _lately(node: Node, bridge: Bridge, in_port: int | None = None) -> Iterator[Lately]:
    """Rules that packets have met lately, those of port `in_port` or of any."""
    now_ms = node.now_ms()
    since_ms = max(now_ms - IDLE_MS, _PURGED_MS.get(bridge, 0) + 1)
    rules = bridge.switch.datapath.rules
    numbers = rules.numbers()
    for number, one in zip(numbers, rules.statistics_of_all(numbers), strict=True):
        if not one.packets or one.used_ms < since_ms:
            continue
        asked = next((value for name, value, _ in one.flow.match if name == "in_port"), None)
        if in_port is None or asked in (None, in_port):
            yield Lately(one, rules.zones_read(number))


def _names(bridge: Bridge) -> dict[int, str]:
    return {port.ofport: port.name for port in bridge.ports.values() if port.ofport > 0}


def _filtered_port(node: Node, text: str) -> tuple[Bridge, int] | None:
    """Bridge and number of the port in `in_port=NAME`, which is the one filter there is."""
    key, _, name = text.partition("=")
    if key != "in_port":
        raise CommandError(f"ovs-vswitchd: Failed to parse filter ({text}: unknown field {key})")
    for bridge in node.bridges.values():
        if name in bridge.ports:
            return bridge, bridge.ports[name].ofport
    return None


@on_worker
def dump(node: Node, arguments: list[str]) -> str:
    """Flows of the datapath: [-m] [--names] [dp] [filter=in_port=NAME] [type=TYPE] [pmd=N]."""
    rest, options = split(arguments)
    asked: dict[str, str] = {}
    for word in list(rest):
        key, sign, value = word.partition("=")
        if sign and key in ("type", "filter", "pmd"):
            asked[key] = value
            rest.remove(word)
    types = asked.get("type", "all").split(",")
    for kind in types:
        if kind not in FLOW_TYPES:
            raise refusal(f"Failed to parse type ({kind})")
    without_datapath(rest, 1)
    pairs = [(bridge, None) for bridge in node.bridges.values()]
    if "filter" in asked:
        only = _filtered_port(node, asked["filter"])
        pairs = [] if only is None else [only]  # type: ignore[list-item]
    if not any(kind in _WALKED for kind in types):
        pairs = []
    lines = ["flow-dump from the main thread:\n"]
    for bridge, in_port in pairs:
        names = _names(bridge) if "names" in options or "more" in options else {}
        lines += [_line(one, names, "more" in options, node.now_ms()) for one in _lately(node, bridge, in_port)]
    return "".join(lines)


@on_worker
def dump_bridge(node: Node, arguments: list[str]) -> str:
    """Flows of one bridge: [-m] [--names | --no-names] bridge."""
    bridge = node.bridges.get(arguments[-1])
    if bridge is None:
        raise CommandError("no such bridge")
    options = split(arguments).options
    names = _names(bridge) if options & {"names", "more"} else {}
    return "".join(_line(one, names, "more" in options, node.now_ms()) for one in _lately(node, bridge))


@on_worker
def purge(node: Node, arguments: list[str]) -> str:
    """List no flow until a packet meets it again."""
    for bridge in node.bridges.values():
        _PURGED_MS[bridge] = node.now_ms()
    return ""


COMMANDS = (
    command("dpctl/dump-flows", "[-m] [--names] [dp] [filter=..] [type=..] [pmd=..]", 0, 6, dump),
    command("dpif/dump-flows", "[-m] [--names | --no-names] bridge", 1, 4, dump_bridge),
    command("revalidator/purge", "", 0, 0, purge),
)

"""The options of conntrack(8) that a switch can follow."""

from __future__ import annotations

import socket
from typing import Any

import click

from flowshunt.cli.commands import Option

ACTIONS = {
    "dump": ("-L", "List connections."),
    "get": ("-G", "Show one connection."),
    "delete": ("-D", "Forget connections."),
    "update": ("-U", "Change marks and labels."),
    "create": ("-I", "Make a connection."),
    "flush": ("-F", "Forget all."),
    "count": ("-C", "Say how many there are."),
    "stats": ("-S", "Show counters."),
    "event": ("-E", "Show what happens, until Ctrl-C."),
}
_ACTIONS, _FILTERS = "Actions (one of them)", "Which connections"
_FAMILIES = {"ipv4": 4, "ipv6": 6, "inet": 4, "inet6": 6}
_PROTOCOLS = {"icmpv6": 58, "ipv6-icmp": 58, "icmp": 1, "tcp": 6, "udp": 17, "sctp": 132, "udplite": 136, "dccp": 33}
_PORTS = ("orig_port_src", "orig_port_dst", "reply_port_src", "reply_port_dst")


def _filter(*names: str, **more: Any) -> Option:
    return Option(names, group=_FILTERS, **more)


FILTERS = [
    _filter("-s", "--orig-src", "--src", "orig_src", metavar="NET", help="Source, original direction."),
    _filter("-d", "--orig-dst", "--dst", "orig_dst", metavar="NET", help="Destination, original direction."),
    _filter("-r", "--reply-src", metavar="NET", help="Source of replies."),
    _filter("-q", "--reply-dst", metavar="NET", help="Destination of replies."),
    _filter("-f", "--family", metavar="FAMILY", help="ipv4 or ipv6."),
    _filter("-p", "--proto", "protocol", metavar="PROTO", help="Protocol, by name or number."),
    _filter("--sport", "--orig-port-src", "orig_port_src", type=int, metavar="PORT", help="Source port."),
    _filter("--dport", "--orig-port-dst", "orig_port_dst", type=int, metavar="PORT", help="Destination port."),
    _filter("--reply-port-src", type=int, metavar="PORT", help="Source port of replies."),
    _filter("--reply-port-dst", type=int, metavar="PORT", help="Destination port of replies."),
    _filter("--icmp-type", type=int, metavar="N", help="ICMP type."),
    _filter("--icmp-code", type=int, metavar="N", help="ICMP code."),
    _filter("--icmp-id", type=int, metavar="N", help="ICMP id."),
    _filter("--state", metavar="STATE", help="State, as listed."),
    _filter("-u", "--status", metavar="LIST", help="ASSURED, SEEN_REPLY, UNREPLIED, OFFLOAD, HW_OFFLOAD."),
    _filter("-m", "--mark", metavar="MARK[/MASK]", help="Mark; with -U and -I the one to set."),
    _filter("-l", "--label", metavar="LABEL[/MASK]", help="Label; with -U and -I the one to set."),
    _filter("-w", "--zone", type=int, metavar="ZONE", help="Zone."),
    _filter("--orig-zone", "orig_zone", type=int, metavar="ZONE", help="The same: both directions share a zone."),
    _filter("--reply-zone", "reply_zone", type=int, metavar="ZONE", help="The same."),
    _filter("-n", "--src-nat", is_flag=False, flag_value="", metavar="[NET]", help="With source NAT, to NET."),
    _filter("-g", "--dst-nat", is_flag=False, flag_value="", metavar="[NET]", help="With destination NAT, from NET."),
    _filter("-j", "--any-nat", is_flag=False, flag_value="", metavar="[NET]", help="With NAT of either kind."),
]
"""Options that choose connections."""

PARAMS = [
    *(
        Option([short, f"--{name}", name], is_flag=True, group=_ACTIONS, help=text)
        for name, (short, text) in ACTIONS.items()
    ),
    *FILTERS,
    Option(["-z", "--zero"], is_flag=True, help="With -L: let counters begin again."),
    Option(["-e", "--event-mask"], metavar="LIST", help="With -E: NEW, UPDATES, DESTROY, ALL."),
    Option(
        ["-b", "--buffer-size"],
        type=click.IntRange(1, 1 << 20),
        metavar="N",
        help="With -E: how many events may wait here; more are lost, and counted.",
    ),
    Option(["-t", "--timeout"], type=int, metavar="SECONDS", help="With -I: how long it lives."),
    Option(
        ["-o", "--output"],
        metavar="LIST",
        help="extended, id, ktimestamp, labels, json, xml, save; with -E also timestamp, not xml and save.",
    ),
    Option(["--socket"], metavar="PATH", help="Socket of the switch, or its directory."),
    click.Argument(["table"], required=False, type=click.Choice(["conntrack"])),
]


def action_of(values: dict[str, Any]) -> str:
    """The one action that was asked for. Raises click.UsageError."""
    asked = [name for name in ACTIONS if values.pop(name)]
    if len(asked) != 1:
        raise click.UsageError(f"say one of {' '.join(short for short, _ in ACTIONS.values())}")
    return asked[0]


def pair_of(text: str, width: int, option: str) -> list[int]:
    """VALUE[/MASK]. Raises click.BadParameter."""
    value, slash, mask = text.partition("/")
    full = (1 << width) - 1
    try:
        found = [int(value, 0), int(mask, 0) if slash else full]
    except ValueError:
        found = [-1]
    if not all(0 <= part <= full for part in found):
        raise click.BadParameter(f"{text!r} is no value, with or without a mask, of {width} bits", param_hint=option)
    return found


def filter_of(values: dict[str, Any], *, with_marks: bool) -> dict[str, Any]:
    """The filter that the options mean, by the names that the switch has for it. Raises click.BadParameter.

    `with_marks`: mark and label are part of it.
    """
    plain = (*_PORTS, "orig_src", "orig_dst", "reply_src", "reply_dst", "icmp_type", "icmp_code", "icmp_id", "zone")
    found: dict[str, Any] = {name: values[name] for name in (*plain, "state", "status") if values[name] is not None}
    found |= {name: values[name] or True for name in ("src_nat", "dst_nat", "any_nat") if values[name] is not None}
    zones = {values[name] for name in ("zone", "orig_zone", "reply_zone") if values[name] is not None}
    if len(zones) > 1:
        raise click.BadParameter("both directions of a connection are in one zone", param_hint="--orig-zone")
    if zones:
        found["zone"] = zones.pop()
    if values["family"] is not None:
        if values["family"] not in _FAMILIES:
            raise click.BadParameter(f"{values['family']} is neither ipv4 nor ipv6", param_hint="-f")
        found["family"] = _FAMILIES[values["family"]]
    if values["protocol"] is not None:
        found["protocol"] = protocol_of(values["protocol"])
    if with_marks:
        for name, width in (("mark", 32), ("label", 128)):
            if values[name] is not None:
                found[name] = pair_of(values[name], width, f"--{name}")
    return found


EVENTS = ("NEW", "UPDATES", "DESTROY")


def events_of(text: str | None) -> list[str]:
    """Kinds of events. Raises click.BadParameter."""
    words = (text or "ALL").split(",")
    wrong = next((word for word in words if word not in (*EVENTS, "ALL")), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is none of {', '.join(EVENTS)}, ALL", param_hint="-e")
    return list(EVENTS) if "ALL" in words else words


def protocol_of(text: str) -> int:
    """A protocol by name or number. Raises click.BadParameter."""
    if text.isdecimal() and int(text) < 256:
        return int(text)
    try:
        return _PROTOCOLS.get(text) or socket.getprotobyname(text)
    except OSError:
        raise click.BadParameter(f"{text!r} is no protocol", param_hint="-p") from None

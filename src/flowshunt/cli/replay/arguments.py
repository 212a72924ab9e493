"""The arguments of `flowshunt replay`: types for its command function, with their help."""

from __future__ import annotations

from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

import typer

from flowshunt.cli.replay.options import PortFile, Profile, TableStyle, Timeout, ZoneLimit

_FROM = "Packets from"
_SWITCH = "The switch"
_OUTPUT = "Output"


def port_file(text: str) -> PortFile:
    """`NAME=FILE`."""
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise typer.BadParameter(f"{text!r} is not NAME=FILE, such as p0=wire.pcap")
    return PortFile(name, path)


def network(text: str) -> IPv4Network | IPv6Network:
    """A network, or the address of one host in it."""
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; a network looks like 192.168.0.0/16 or 2001:db8::/32") from None


def pair_of_names(text: str | None) -> str | None:
    """`NAME,NAME`, checked."""
    if text is None:
        return None
    inner, _, outer = text.partition(",")
    if not inner or not outer or "," in outer:
        raise typer.BadParameter(f"{text!r} is not NAME,NAME, such as pf0hpf,p0")
    return text


def _number(text: str, most: int, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise typer.BadParameter(f"{text!r} is no {what}: use 0 to {most}")
    return int(text)


def zone_limit(text: str) -> ZoneLimit:
    """`ZONE=N`, or `default=N`."""
    from flowshunt.conntrack.policies import MAX_LIMIT
    from flowshunt.conntrack.schema import N_ZONES

    zone, separator, limit = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"{text!r} is not ZONE=N, such as 5=1000 or default=1000")
    return ZoneLimit(
        None if zone == "default" else _number(zone, N_ZONES - 1, "zone"), _number(limit, MAX_LIMIT, "limit")
    )


def timeout(text: str) -> Timeout:
    """`NAME=SECONDS`, or `ZONE:NAME=SECONDS`."""
    from flowshunt.config.model import TIMEOUT_NAMES
    from flowshunt.conntrack.schema import N_ZONES
    from flowshunt.conntrack.timeouts import MAX_TIMEOUT_S

    left, separator, seconds = text.partition("=")
    zone, colon, name = left.rpartition(":")
    if not separator:
        raise typer.BadParameter(f"{text!r} is not [ZONE:]NAME=SECONDS, such as udp_first=10 or 5:tcp_established=600")
    if name not in TIMEOUT_NAMES:
        near = get_close_matches(name, TIMEOUT_NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TIMEOUT_NAMES)}"
        raise typer.BadParameter(f"there is no timeout {name!r}: {hint}")
    number = _number(zone, N_ZONES - 1, "zone") if colon else None
    return Timeout(number, name, _number(seconds, MAX_TIMEOUT_S, "number of seconds"))


def _option(panel: str, help_text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, help=help_text, **more)


Capture = Annotated[
    str | None,
    typer.Argument(metavar="CAPTURE", show_default=False, help="Capture of both sides; - for standard input."),
]
Ports = Annotated[
    list[PortFile] | None,
    _option(
        _FROM,
        "A port of the switch, and the capture of what came in there; repeat it. They are merged by time.",
        "--port",
        metavar="NAME=FILE",
        parser=port_file,
    ),
]
Inside = Annotated[
    list[IPv4Network] | None,  # IPv6 too: typer refuses a union, and the parser decides anyway
    _option(
        _FROM,
        "A network on the inner side of CAPTURE; repeat it. Without: inferred.",
        "--inside",
        metavar="CIDR",
        parser=network,
    ),
]
Sides = Annotated[
    str | None,
    _option(
        _FROM,
        "Names of the inner and the outer port of CAPTURE, for rules that name ports; without: inside,outside.",
        metavar="NAME,NAME",
        callback=pair_of_names,
    ),
]
Limit = Annotated[int | None, _option(_FROM, "Stop after N packets.", metavar="N", min=1)]
Flows = Annotated[
    list[str] | None,
    _option(
        _SWITCH,
        "Rules, one per line, as ovs-ofctl add-flows reads them; - for standard input; repeat it. "
        "Without any: track and forward everything.",
        "--flows",
        metavar="FILE",
    ),
]
SetFlows = Annotated[
    list[str] | None, _option(_SWITCH, "One rule, after those of --flows; repeat it.", "--set-flow", metavar="FLOW")
]
ConfigFile = Annotated[
    str | None,
    _option(
        _SWITCH,
        "Settings as a TOML file; options given here come first. `flowshunt config show` prints all there are.",
        "--config",
        metavar="FILE",
    ),
]
ProfileChoice = Annotated[
    Profile | None, _option(_SWITCH, "Track as Open vSwitch does (default), or as Linux does.", "--profile")
]
NoChecksum = Annotated[bool, _option(_SWITCH, "Take all checksums as good.", "--no-checksum")]
NoSequenceCheck = Annotated[
    bool, _option(_SWITCH, "Take TCP packets outside their window as good.", "--no-sequence-check")
]
Helpers = Annotated[
    bool, _option(_SWITCH, "Attach the FTP and TFTP helpers to new connections to ports 21 and 69.", "--helpers")
]
MaxConnections = Annotated[
    int | None, _option(_SWITCH, "Size limit of the connection table; without: 3000000.", metavar="N", min=1)
]
ZoneLimits = Annotated[
    list[ZoneLimit] | None,
    _option(
        _SWITCH,
        "Most connections in a zone, 0: no limit; default=N: in each zone without a limit of its own; repeat it.",
        "--zone-limit",
        metavar="ZONE=N",
        parser=zone_limit,
    ),
]
Timeouts = Annotated[
    list[Timeout] | None,
    _option(
        _SWITCH,
        "A timeout in all zones, or in one, by its name in Open vSwitch: tcp_syn_sent, tcp_established, udp_first, "
        "udp_single, udp_multiple, icmp_first, ...; repeat it.",
        "--timeout",
        metavar="[ZONE:]NAME=SECONDS",
        parser=timeout,
    ),
]
BatchSize = Annotated[
    int,
    _option(_SWITCH, "Packets per batch; changes the speed, never the result.", "--batch", metavar="N", min=1, max=256),
]
LoadTable = Annotated[
    str | None,
    _option(
        _SWITCH,
        "Begin with the connections of FILE, which --json wrote; entries that cannot be are refused one by one.",
        "--load-table",
        metavar="FILE",
    ),
]
Table = Annotated[
    TableStyle | None, _option(_OUTPUT, f"List the connections; STYLE is {', '.join(TableStyle)}.", metavar="STYLE")
]
States = Annotated[
    str | None,
    _option(_OUTPUT, "Write the ct_state of every packet, as lines N: state; - for standard output.", metavar="FILE"),
]
Json = Annotated[str | None, _option(_OUTPUT, "Write everything as JSON; - for standard output.", metavar="FILE")]
Write = Annotated[str | None, _option(_OUTPUT, "Write what left each port to DIR/PORT.pcap.", metavar="DIR")]
WritePorts = Annotated[
    list[PortFile] | None,
    _option(
        _OUTPUT,
        "Write what left one port: .pcap or .pcapng, with .gz or .zst compressed; repeat it.",
        "--write-port",
        metavar="NAME=FILE",
        parser=port_file,
    ),
]
Quiet = Annotated[bool, _option(_OUTPUT, "No summary and no progress.", "--quiet", "-q")]

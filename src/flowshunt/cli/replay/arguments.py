"""The arguments of `flowshunt replay`, with their help; their values are what its command function takes."""

from __future__ import annotations

from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network

import click

from flowshunt.cli.commands import FILE, OneOf, Option
from flowshunt.cli.replay.options import Offload, PortFile, Profile, TableStyle, Timeout, ZoneLimit

_FROM = "Packets from"
_SWITCH = "The switch"
_OFFLOAD = "Offload"
_OUTPUT = "Output"


def port_file(text: str) -> PortFile:
    """`NAME=FILE`."""
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise click.BadParameter(f"{text!r} is not NAME=FILE, such as p0=wire.pcap")
    return PortFile(name, path)


def network(text: str) -> IPv4Network | IPv6Network:
    """A network, or the address of one host in it."""
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise click.BadParameter(f"{error}; a network looks like 192.168.0.0/16 or 2001:db8::/32") from None


def pair_of_names(text: str) -> str:
    """`NAME,NAME`, checked."""
    inner, _, outer = text.partition(",")
    if not inner or not outer or "," in outer:
        raise click.BadParameter(f"{text!r} is not NAME,NAME, such as pf0hpf,p0")
    return text


def _number(text: str, most: int, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise click.BadParameter(f"{text!r} is no {what}: use 0 to {most}")
    return int(text)


def zone_limit(text: str) -> ZoneLimit:
    """`ZONE=N`, or `default=N`."""
    from flowshunt.conntrack.policies import MAX_LIMIT
    from flowshunt.conntrack.schema import N_ZONES

    zone, separator, limit = text.partition("=")
    if not separator:
        raise click.BadParameter(f"{text!r} is not ZONE=N, such as 5=1000 or default=1000")
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
        raise click.BadParameter(f"{text!r} is not [ZONE:]NAME=SECONDS, such as udp_first=10 or 5:tcp_established=600")
    if name not in TIMEOUT_NAMES:
        near = get_close_matches(name, TIMEOUT_NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TIMEOUT_NAMES)}"
        raise click.BadParameter(f"there is no timeout {name!r}: {hint}")
    number = _number(zone, N_ZONES - 1, "zone") if colon else None
    return Timeout(number, name, _number(seconds, MAX_TIMEOUT_S, "number of seconds"))


def offload(text: str) -> Offload:
    """`NAME`, `NAME:PROFILE` or `module:class`, and options behind commas."""
    head, *words = text.split(",")
    name, colon, profile = head.partition(":")
    if name and profile and not _is_provider(name):
        name, colon = head, ""
    options = [("profile", profile)] if colon else []
    for word in words:
        key, separator, value = word.partition("=")
        if not (key and separator):
            raise click.BadParameter(f"{word!r} is not KEY=VALUE, such as flowtable,timeout=60")
        options.append((key, value))
    if not name or (colon and not profile):
        raise click.BadParameter(
            f"{text!r} is not NAME[:PROFILE][,KEY=VALUE], such as flowtable or eswitch:bluefield-2"
        )
    return Offload(name, tuple(options))


def _is_provider(name: str) -> bool:
    """Whether what stands before a colon is a provider, and so its profile behind it; else they are module:class."""
    from flowshunt.offload.providers import available

    return any(entry.name == name for entry in available())


_SOURCES: tuple[click.Parameter, ...] = (
    click.Argument(["capture"], required=False, type=FILE, help="Capture of both sides; - for standard input."),
    Option(
        ["--port", "ports"],
        group=_FROM,
        multiple=True,
        metavar="NAME=FILE",
        type=port_file,
        help="A port of the switch, and the capture of what came in there; repeat it. They are merged by time.",
    ),
    Option(
        ["--inside"],
        group=_FROM,
        multiple=True,
        metavar="CIDR",
        type=network,
        help="A network on the inner side of CAPTURE; repeat it. Without: inferred.",
    ),
    Option(
        ["--sides"],
        group=_FROM,
        metavar="NAME,NAME",
        type=pair_of_names,
        help="Names of the inner and the outer port of CAPTURE, for rules that name ports; without: inside,outside.",
    ),
    Option(["--limit"], group=_FROM, metavar="N", type=click.IntRange(min=1), help="Stop after N packets."),
)

_OF_THE_SWITCH: tuple[click.Parameter, ...] = (
    Option(
        ["--flows", "flow_files"],
        group=_SWITCH,
        multiple=True,
        metavar="FILE",
        type=FILE,
        help="Rules, one per line, as ovs-ofctl add-flows reads them; - for standard input; repeat it. "
        "Without any: track and forward everything.",
    ),
    Option(
        ["--set-flow", "flows"],
        group=_SWITCH,
        multiple=True,
        metavar="FLOW",
        help="One rule, after those of --flows; repeat it.",
    ),
    Option(
        ["--config", "config_file"],
        group=_SWITCH,
        metavar="FILE",
        type=FILE,
        help="Settings as a TOML file; options given here come first. `flowshunt config show` prints all there are.",
    ),
    Option(
        ["--profile"],
        group=_SWITCH,
        type=OneOf(Profile),
        help="Track as Open vSwitch does (default), or as Linux does.",
    ),
    Option(["--no-checksum"], group=_SWITCH, is_flag=True, help="Take all checksums as good."),
    Option(["--no-sequence-check"], group=_SWITCH, is_flag=True, help="Take TCP packets outside their window as good."),
    Option(
        ["--helpers"],
        group=_SWITCH,
        is_flag=True,
        help="Attach the FTP and TFTP helpers to new connections to ports 21 and 69.",
    ),
    Option(
        ["--max-connections"],
        group=_SWITCH,
        metavar="N",
        type=click.IntRange(min=1),
        help="Size limit of the connection table; without: 3000000.",
    ),
    Option(
        ["--zone-limit", "zone_limits"],
        group=_SWITCH,
        multiple=True,
        metavar="ZONE=N",
        type=zone_limit,
        help="Most connections in a zone, 0: no limit; default=N: in each zone without a limit of its own; repeat it.",
    ),
    Option(
        ["--timeout", "timeouts"],
        group=_SWITCH,
        multiple=True,
        metavar="[ZONE:]NAME=SECONDS",
        type=timeout,
        help="A timeout in all zones, or in one, by its name in Open vSwitch: tcp_syn_sent, tcp_established, "
        "udp_first, udp_single, udp_multiple, icmp_first, ...; repeat it.",
    ),
    Option(
        ["--batch", "batch_size"],
        group=_SWITCH,
        metavar="N",
        type=click.IntRange(1, 256),
        default=256,
        show_default=True,
        help="Packets per batch; changes the speed, never the result; with --offload also how soon a provider hears of "
        "a connection, and so how many packets are shunted.",
    ),
    Option(
        ["--load-table"],
        group=_SWITCH,
        metavar="FILE",
        type=FILE,
        help="Begin with the connections of FILE, which --json wrote; entries that cannot be are refused one by one.",
    ),
)

OFFLOAD: tuple[click.Parameter, ...] = (
    Option(
        ["--offload", "offloads"],
        group=_OFFLOAD,
        multiple=True,
        metavar="NAME[:PROFILE][,KEY=VALUE]",
        type=offload,
        help="Offload established connections to a provider: flowtable, eswitch, one of `flowshunt provider list`, or "
        "module:class. Repeat it, the one to be asked first first. `flowshunt provider list` shows their options.",
    ),
)

_COMPARISON: tuple[click.Parameter, ...] = (
    Option(
        ["--compare"],
        group=_OFFLOAD,
        is_flag=True,
        help="Run the same packets beside it without offload, and fail if any packet is treated differently.",
    ),
    Option(
        ["--unchecked"],
        group=_OFFLOAD,
        metavar="FILE",
        type=FILE,
        help="With --compare, list the packets that passed unchecked and would have been inv, as lines N: state; "
        "- for standard output.",
    ),
)

_RESULTS: tuple[click.Parameter, ...] = (
    Option(
        ["--table"],
        group=_OUTPUT,
        metavar="STYLE",
        type=OneOf(TableStyle),
        help=f"List the connections; STYLE is {', '.join(TableStyle)}.",
    ),
    Option(
        ["--states"],
        group=_OUTPUT,
        metavar="FILE",
        type=FILE,
        help="Write the ct_state of every packet, as lines N: state; - for standard output.",
    ),
    Option(
        ["--json"],
        group=_OUTPUT,
        metavar="FILE",
        type=FILE,
        help="Write everything as JSON; - for standard output.",
    ),
    Option(
        ["--write"],
        group=_OUTPUT,
        metavar="DIR",
        type=click.Path(),
        help="Write what left each port to DIR/PORT.pcap.",
    ),
    Option(
        ["--write-port", "write_ports"],
        group=_OUTPUT,
        multiple=True,
        metavar="NAME=FILE",
        type=port_file,
        help="Write what left one port: .pcap or .pcapng, with .gz or .zst compressed; repeat it.",
    ),
    Option(["--quiet", "-q"], group=_OUTPUT, is_flag=True, help="No summary and no progress."),
)

SWITCH = (*_SOURCES, *_OF_THE_SWITCH)
"""What makes a run: packets, and a switch for them."""
PARAMETERS = (*SWITCH, *OFFLOAD, *_COMPARISON, *_RESULTS)
"""In the order of the help."""

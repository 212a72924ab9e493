"""`dpctl/ct-*`: how many connections there may be, how strictly TCP is judged, how often is swept."""

from __future__ import annotations

import errno
import re

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.policies import MAX_LIMIT
from flowshunt.conntrack.schema import N_ZONES
from flowshunt.control.unixctl.commands.dpctl import decimal, operands, refusal, split, without_datapath
from flowshunt.control.unixctl.node import DATAPATH_NAME, Node
from flowshunt.control.unixctl.registry import command, on_worker

_DEFAULT = re.compile(r"default=([0-9]{1,10})")
DEFAULT_SWEEP_MS = 20_000


def _without(rest: list[str]) -> list[str]:
    return rest[1:] if rest and rest[0] == DATAPATH_NAME else rest


@on_worker
def set_maximum(node: Node, arguments: list[str]) -> str:
    """How many connections there may be."""
    (text,) = operands(arguments, 1)
    number = decimal(text)
    if number is None:
        raise refusal("maxconns missing or malformed")
    try:
        node.tracker.set_max_connections(number)
    except UsageError as error:
        raise refusal("maxconns could not be set") from error
    return "setting maxconns successful\n"


@on_worker
def get_maximum(node: Node, arguments: list[str]) -> str:
    """How many connections there may be."""
    without_datapath(split(arguments).rest, 1)
    return f"{node.tracker.max_connections}\n"


@on_worker
def set_limits(node: Node, arguments: list[str]) -> str:
    """Limits of zones, all of them or none."""
    rest = _without(split(arguments).rest)
    default = None
    if rest and rest[0].startswith("default="):
        found = _DEFAULT.match(rest.pop(0))
        default = int(found.group(1)) if found else None
        if default is None or default > MAX_LIMIT:
            raise refusal("invalid default limit")
    limits = [_zone_limit(text) for text in rest]
    _leave_to_database(node, "set")
    if default is not None:
        node.tracker.set_zone_limit(None, default)
    for zone, limit in limits:
        if limit:
            node.tracker.set_zone_limit(zone, limit)
        else:  # the database has no word for it: there, 0 is unlimited
            node.tracker.close_zone(zone)
    return ""


def _leave_to_database(node: Node, verb: str) -> None:
    """Refuse to change limits while the database has some."""
    if node.limits_are_of_database:
        hint = f"use 'ovs-vsctl {verb}-zone-limit <...>' instead."
        raise refusal(f"the zone limits are set via database, {hint}", errno.EPERM)


def _zone_limit(text: str) -> tuple[int, int]:
    """`zone=N,limit=L`."""
    found: dict[str, int] = {}
    for field in filter(None, re.split(r"[,\s]+", text)):
        key, sign, value = field.partition("=")
        if not sign:
            raise refusal(f"field {key} missing value")
        if key not in ("zone", "limit"):
            raise refusal(f"invalid zone limit field: {key}")
        number = decimal(value)
        if number is None or (key == "zone" and number >= N_ZONES):
            raise refusal(f"failed to parse field {key}")
        found[key] = number
    if len(found) < 2:
        raise refusal("failed to parse zone limit")
    return found["zone"], found["limit"]


@on_worker
def del_limits(node: Node, arguments: list[str]) -> str:
    """Have zones go by the default again, and with `default` that one be none."""
    rest = split(arguments).rest
    if len(rest) > 1 and rest[0] != "default":
        rest = without_datapath(rest, 2)
    has_default = bool(rest) and rest[0] == "default"
    rest = rest[1:] if has_default else rest
    zones = _zones(rest[0]) if rest else []
    _leave_to_database(node, "del")
    if has_default:
        node.tracker.set_zone_limit(None, 0)
    for zone in zones:
        node.tracker.del_zone_limit(zone)
    return ""


@on_worker
def get_limits(node: Node, arguments: list[str]) -> str:
    """Limits of zones and how many connections those have."""
    rest = _without(split(arguments).rest)
    tracker = node.tracker
    limits = tracker.zone_limits()
    default = limits.pop(None)
    zones = _zones(rest[0]) if rest else [zone for zone in limits if zone is not None]
    lines = [f"default limit={default}"]
    for zone in zones:
        lines.append(f"zone={zone},limit={limits.get(zone, default)},count={tracker.zone_count(zone)}")
    return "\n".join(lines) + "\n"


def _zones(text: str) -> list[int]:
    """`zone=N1[,N2]...`."""
    if not text.startswith("zone="):
        raise refusal(f"invalid argument {text}")
    zones = [decimal(word) for word in text.removeprefix("zone=").split(",")]
    found = [zone for zone in zones if zone is not None and zone < N_ZONES]
    if len(found) < len(zones):
        raise refusal("invalid zone")
    return found


@on_worker
def get_sequence_check(node: Node, arguments: list[str]) -> str:
    """Whether TCP windows are checked."""
    without_datapath(split(arguments).rest, 1)
    return f"TCP sequence checking: {'enabled' if node.tracker.check_sequence else 'disabled'}\n"


@on_worker
def enable_sequence_check(node: Node, arguments: list[str]) -> str:
    """Check TCP windows."""
    without_datapath(split(arguments).rest, 1)
    node.tracker.set_check_sequence(True)
    return "enabling TCP sequence checking successful\n"


@on_worker
def disable_sequence_check(node: Node, arguments: list[str]) -> str:
    """Do not check TCP windows."""
    without_datapath(split(arguments).rest, 1)
    node.tracker.set_check_sequence(False)
    return "disabling TCP sequence checking successful\n"


class SweepInterval:
    """`ct-set-sweep-interval`: kept for those who ask; expiry here is exact and does not go by intervals."""

    def __init__(self) -> None:
        self.milliseconds = DEFAULT_SWEEP_MS

    async def set(self, node: Node, arguments: list[str]) -> str:
        """Remember an interval in milliseconds."""
        (text,) = operands(arguments, 1)
        number = decimal(text)
        if number is None:
            raise refusal("interval missing or malformed")
        self.milliseconds = number
        return "setting sweep interval successful\n"

    async def get(self, node: Node, arguments: list[str]) -> str:
        """What was set."""
        without_datapath(split(arguments).rest, 1)
        return f"{self.milliseconds}\n"


_SWEEP = SweepInterval()

COMMANDS = (
    command("dpctl/ct-set-maxconns", "[dp] maxconns", 1, 2, set_maximum),
    command("dpctl/ct-get-maxconns", "[dp]", 0, 1, get_maximum),
    command("dpctl/ct-set-limits", "[dp] [default=L] [zone=N,limit=L]...", 1, None, set_limits),
    command("dpctl/ct-del-limits", "[dp] [default] zone=N1[,N2]...", 1, 3, del_limits),
    command("dpctl/ct-get-limits", "[dp] [zone=N1[,N2]...]", 0, 2, get_limits),
    command("dpctl/ct-get-tcp-seq-chk", "[dp]", 0, 1, get_sequence_check),
    command("dpctl/ct-enable-tcp-seq-chk", "[dp]", 0, 1, enable_sequence_check),
    command("dpctl/ct-disable-tcp-seq-chk", "[dp]", 0, 1, disable_sequence_check),
    command("dpctl/ct-set-sweep-interval", "[dp] ms", 1, 2, _SWEEP.set),
    command("dpctl/ct-get-sweep-interval", "[dp]", 0, 1, _SWEEP.get),
)

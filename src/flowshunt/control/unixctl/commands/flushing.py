"""What `dpctl/flush-conntrack` is to forget: reading its arguments, and doing it."""

from __future__ import annotations

import errno
import re
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.flushing import Wanted, Way
from flowshunt.conntrack.schema import N_ZONES
from flowshunt.control.unixctl.commands.dpctl import in_slices, refusal
from flowshunt.control.unixctl.node import DATAPATH_NAME, Node

_ICMP = (1, 58)
_ADDRESSES = {
    "ct_nw_src": ("source", IPv4Address),
    "ct_nw_dst": ("destination", IPv4Address),
    "ct_ipv6_src": ("source", IPv6Address),
    "ct_ipv6_dst": ("destination", IPv6Address),
}
_NUMBERS = {
    "ct_tp_src": ("source_port", 16),
    "ct_tp_dst": ("destination_port", 16),
    "icmp_id": ("icmp_id", 16),
    "icmp_type": ("icmp_type", 8),
    "icmp_code": ("icmp_code", 8),
}
_ZONE = re.compile(r"zone=\s*([0-9]{1,9})")
_AT_ONCE = 256
"""Connections that are forgotten between two batches of packets."""


def read(arguments: list[str]) -> Wanted:
    """What the arguments ask for: [dp] [zone=N] [mark=X[/M]] [labels=Y[/N]] [orig [reply]]. Raises CommandError."""
    rest = list(arguments)
    if rest and rest[0] == DATAPATH_NAME:
        del rest[0]
    zone = None
    if rest and rest[0].startswith("zone="):
        found = _ZONE.match(rest.pop(0))
        zone = int(found.group(1)) if found else N_ZONES
        if zone >= N_ZONES:
            raise refusal("failed to parse zone")
    mark = _masked(rest, "mark", 32)
    labels = _masked(rest, "labels", 128)
    if len(rest) > 2:
        raise refusal("invalid arguments")
    ways = [_read_way(text) for text in rest]
    protocols = {protocol for _, protocol in ways if protocol}
    if len(protocols) > 1:
        raise refusal("the L4 protocols of the two tuples do not match")
    original, reply = ([way for way, _ in ways] + [Way(), Way()])[:2]
    return Wanted(zone, mark, labels, protocols.pop() if protocols else 0, original, reply)


def _masked(rest: list[str], key: str, width: int) -> tuple[int, int]:
    """Take `key=VALUE[/MASK]` off the front of the arguments."""
    if not rest or not rest[0].startswith(f"{key}="):
        return 0, 0
    value_text, slash, mask_text = rest.pop(0).removeprefix(f"{key}=").partition("/")
    value, full = _number(value_text, width), (1 << width) - 1
    mask = _number(mask_text, width) if slash else full
    if value is None or mask is None:
        raise refusal(f"failed to parse {key}")
    return value & mask, mask


def _number(text: str, width: int) -> int | None:
    try:
        value = int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        return None
    return value if text[:1].isdigit() and value < 1 << width else None


def _read_way(text: str) -> tuple[Way, int]:
    """A tuple and its protocol; an empty text is one without fields."""
    found: dict[str, Any] = {}
    protocol = 0
    for field in filter(None, re.split(r"[,\s]+", text)):
        key, sign, value = field.partition("=")
        if not sign:
            raise refusal(f"field {key} missing value")
        if key in _ADDRESSES:
            _set_address(found, key, value)
        elif key == "ct_nw_proto":
            number = _number(value, 8)
            if number is None:
                raise refusal(f"failed to parse field {key}")
            protocol = number
        elif key in _NUMBERS:
            _set_number(found, protocol, key, value)
        else:
            raise refusal(f"invalid conntrack tuple field: {key}")
    return Way(**found), protocol


def _set_address(found: dict[str, Any], key: str, value: str) -> None:
    name, kind = _ADDRESSES[key]
    other = found.get("destination" if name == "source" else "source")
    try:
        address = ip_address(value)
    except ValueError:
        raise refusal(f"failed to parse field {key}") from None
    if not isinstance(address, kind):
        raise refusal(f"failed to parse field {key}")
    if other is not None and other.version != address.version:
        raise refusal(f"the L3 protocol does not match {value}")
    found[name] = address


def _set_number(found: dict[str, Any], protocol: int, key: str, value: str) -> None:
    if not protocol:
        raise refusal("port is set without protocol")
    if (protocol in _ICMP) != key.startswith("icmp"):
        raise refusal("invalid L4 fields")
    name, width = _NUMBERS[key]
    number = _number(value, width)
    if number is None:
        raise refusal(f"failed to parse field {key}")
    found[name] = number


async def carry_out(node: Node, wanted: Wanted) -> None:
    """Forget what is wanted. Raises CommandError when one connection alone was named and is not there."""
    tracker = node.tracker
    if not wanted.is_selective:
        await node.call(lambda: tracker.flush(wanted.zone))
        return
    if (named := wanted.named) is not None:
        try:
            n = await node.call(lambda: tracker.flush(wanted.zone or 0, wanted=named, protocol=wanted.protocol))
        except UsageError:  # a type of ICMP that no connection begins with
            n = 0
        if not n:
            raise refusal("failed to flush conntrack", errno.ENOENT)
        return
    found = wanted.among(await in_slices(node, lambda: tracker.connections(node.now_ms(), wanted.zone)))
    for first in range(0, len(found), _AT_ONCE):
        part = found[first : first + _AT_ONCE]
        await node.call(partial(_forget, node, part))


def _forget(node: Node, part: list[Connection]) -> None:
    for one in part:
        node.tracker.flush(one.zone, wanted=one.original, protocol=one.protocol)

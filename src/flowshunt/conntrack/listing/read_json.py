"""Connections from the dicts that `listing.json` makes: every field checked, nothing trusted.

What `listing.json` writes, this reads back as the same snapshot. Someone who writes entries by hand needs `protocol`,
`original` (with ports, or the ICMP fields), `timeout_ms` and, where the protocol has one, `state`; all else has a
default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from flowshunt.conntrack.connection import STATUS_NAMES, Connection, Tuple

MAX_MS = 1 << 50
MAX_COUNT = 1 << 62
MAX_TIMEOUT_MS = ((1 << 32) - 1) * 1000
_U16, _U32, _U128 = (1 << 16) - 1, (1 << 32) - 1, (1 << 128) - 1

FIELDS = frozenset(
    (
        "id", "generation", "family", "protocol", "protocol_name", "zone", "original", "reply", "state", "status",
        "offload", "timeout_ms", "start_ms", "mark", "label", "in_port", "profile", "nat", "helper", "parent",
        "machine",
    )
)  # fmt: skip
"""Fields of an entry."""
_TUPLE_FIELDS = frozenset(
    ("source", "destination", "source_port", "destination_port", "icmp_type", "icmp_code", "icmp_id")
)
_DIRECTION_FIELDS = _TUPLE_FIELDS | {"packets", "bytes", "state", "tcp_flags", "wscale", "liberal"}
_ICMP = {4: 1, 6: 58}
_WITH_PORTS = frozenset((6, 17, 132))
_REVERSED = {4: {0: 8, 8: 0, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}, 6: {128: 129, 129: 128}}


class EntryError(ValueError):
    """An entry that cannot be a connection: which field (`original.source`), and what is wrong with it."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(f"{field}: {what}")
        self.field = field
        self.what = what


def connection_of(entry: Any, profile: str) -> Connection:
    """The snapshot that an entry describes, for a tracker of `profile`. Raises EntryError for the first mistake."""
    top = _Fields(entry, "", FIELDS)
    if top.text("profile", profile) != profile:
        raise EntryError("profile", f"made by profile {entry['profile']}, but this tracker's is {profile}")
    protocol = top.number("protocol", 255)
    original, ways = _directions(top, protocol)
    family = original.source.version
    if top.number("family", 6, family) != family:
        raise EntryError("family", f"{entry['family']}, but the addresses are IPv{family}")
    status = top.texts("status", STATUS_NAMES)
    if top.get("offload") is not None:
        raise EntryError("offload", "its time is with whom it is offloaded to; only others can be loaded")
    states = [way.text("state", None) for way in ways]
    return Connection(
        id=top.number("id", MAX_COUNT, 0),
        generation=top.number("generation", _U32, 0),
        family=family,
        protocol=protocol,
        original=original,
        reply=_reply(ways[1], original, protocol),
        zone=top.number("zone", _U16, 0),
        mark=top.number("mark", _U32, 0),
        label=_label(top),
        profile=profile,
        states=None if states[0] is None or states[1] is None else (states[0], states[1]),
        state=top.text("state", None),
        seen_reply="SEEN_REPLY" in status,
        assured="ASSURED" in status,
        timeout_ms=top.number("timeout_ms", MAX_TIMEOUT_MS),
        start_ms=top.number("start_ms", MAX_MS, 0),
        packets=_pair(ways, "packets", MAX_COUNT),
        bytes=_pair(ways, "bytes", MAX_COUNT),
        in_port=top.number("in_port", _U32, 0),
        tcp_flags=_pair(ways, "tcp_flags", 0xFF),
        nat=top.text("nat", None),
        helper=top.text("helper", None),
        parent=None if top.get("parent") is None else top.number("parent", MAX_COUNT),
        machine=_machine(top),
    )


class _Fields:
    """An object of the entry, whose fields are asked for one by one."""

    def __init__(self, value: Any, name: str, known: frozenset[str]) -> None:
        if not isinstance(value, dict):
            raise EntryError(name or "entry", f"{_shown(value)} is not an object")
        self.values: Mapping[str, Any] = value
        self.prefix = f"{name}." if name else ""
        for key in value:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                raise EntryError(self.prefix + key[:40], f"no such field{f'; did you mean {near[0]}?' if near else ''}")

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def number(self, key: str, most: int, default: int | None = None) -> int:
        """A whole number from 0 to `most`; without a default it must be there."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int:
            raise EntryError(self.prefix + key, "missing" if value is None else f"{_shown(value)} is no whole number")
        if not 0 <= value <= most:
            raise EntryError(self.prefix + key, f"{_shown(value)} is out of range: 0 to {most}")
        return value

    def text(self, key: str, default: str | None) -> str | None:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise EntryError(self.prefix + key, f"{_shown(value)} is no text")
        return value

    def texts(self, key: str, known: Sequence[str]) -> list[str]:
        """A list of words out of `known`."""
        values = self.values.get(key) or []
        if not isinstance(values, list):
            raise EntryError(self.prefix + key, f"{_shown(values)} is no list")
        for value in values:
            if value not in known:
                raise EntryError(self.prefix + key, f"{_shown(value)} is none of {', '.join(known)}")
        return values

    def address(self, key: str) -> IPv4Address | IPv6Address:
        value = self.text(key, None)
        if value is None:
            raise EntryError(self.prefix + key, "missing")
        try:
            return ip_address(value)
        except ValueError:
            raise EntryError(self.prefix + key, f"{_shown(value)} is no address") from None


def _directions(top: _Fields, protocol: int) -> tuple[Tuple, tuple[_Fields, _Fields]]:
    original = _Fields(top.get("original"), "original", _DIRECTION_FIELDS)
    reply = _Fields(top.get("reply") or {}, "reply", _DIRECTION_FIELDS)
    return _tuple(original, protocol), (original, reply)


def _tuple(way: _Fields, protocol: int) -> Tuple:
    ends = way.address("source"), way.address("destination")
    if ends[0].version != ends[1].version:
        raise EntryError(f"{way.prefix}destination", "not of the same family as the source")
    if any(isinstance(end, IPv6Address) and end.scope_id for end in ends):
        raise EntryError(f"{way.prefix}source", "an address without a scope is needed")
    if protocol in _ICMP.values():
        return _icmp_tuple(way, ends, protocol)
    if protocol in _WITH_PORTS:
        return Tuple(*ends, way.number("source_port", _U16), way.number("destination_port", _U16))
    for key in ("source_port", "destination_port", "icmp_type", "icmp_code", "icmp_id"):
        if way.get(key):
            raise EntryError(way.prefix + key, f"protocol {protocol} has none")
    return Tuple(*ends)


def _icmp_tuple(
    way: _Fields, ends: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address], protocol: int
) -> Tuple:
    family = ends[0].version
    if protocol != _ICMP[family]:
        raise EntryError("protocol", f"{protocol} is not tracked over IPv{family}")
    icmp_type = way.number("icmp_type", 255)
    if icmp_type not in _REVERSED[family]:
        raise EntryError(f"{way.prefix}icmp_type", f"{icmp_type} is no query")
    way.number("icmp_code", 0, 0)
    return Tuple(*ends, icmp_type=icmp_type, icmp_code=0, icmp_id=way.number("icmp_id", _U16))


def turned(way: Tuple) -> Tuple:
    """The tuple of the other direction where nothing is translated."""
    ends = way.destination, way.source
    if way.icmp_type is not None:
        icmp_type = _REVERSED[way.source.version][way.icmp_type]
        return Tuple(*ends, icmp_type=icmp_type, icmp_code=way.icmp_code, icmp_id=way.icmp_id)
    return Tuple(*ends, way.destination_port, way.source_port)


def _reply(way: _Fields, original: Tuple, protocol: int) -> Tuple:
    """The reply tuple; without one of its own the original turned round."""
    if not _TUPLE_FIELDS & way.values.keys():
        return turned(original)
    reply = _tuple(way, protocol)
    if reply.source.version != original.source.version:
        raise EntryError("reply.source", "not of the same family as the original tuple")
    return reply


def _pair(ways: tuple[_Fields, _Fields], key: str, most: int) -> tuple[int, int]:
    return ways[0].number(key, most, 0), ways[1].number(key, most, 0)


def _label(top: _Fields) -> int:
    text = top.text("label", "0x0") or "0x0"
    digits = text.removeprefix("0x")
    if not text.startswith("0x") or not 1 <= len(digits) <= 32 or set(digits) - set("0123456789abcdefABCDEF"):
        raise EntryError("label", f"{_shown(text)} is no hexadecimal number of up to 128 bits, such as 0x1f")
    return int(digits, 16)


def _machine(top: _Fields) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The machine's numbers, not yet compared with what its profile and protocol want."""
    fields = top.get("machine")
    if fields is None:
        return ()
    if not isinstance(fields, dict) or len(fields) > 32:
        raise EntryError("machine", f"{_shown(fields)} is no object of a few lists of numbers")
    machine = []
    for name, values in fields.items():
        if not isinstance(values, list) or not 1 <= len(values) <= 2 or any(type(value) is not int for value in values):
            raise EntryError(f"machine.{name[:40]}", f"{_shown(values)} is no list of one or two whole numbers")
        machine.append((name, tuple(values)))
    return tuple(machine)


def _shown(value: Any) -> str:
    """A value in a message, cut when it is long."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = hex(value) if isinstance(value, int) and value.bit_length() > 100 else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

"""A TOML file to a `Config`, or to all of its mistakes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from flowshunt.base.errors import UsageError
from flowshunt.config import model
from flowshunt.config.model import Choice, Config, Range
from flowshunt.config.positions import line_of, lines_of
from flowshunt.conntrack.schema import N_ZONES

MAX_SIZE = 1 << 20
"""Bytes of a file that is still read."""

_SECTIONS = ("tracker", "zone", "timeout", "fragments", "switch", "replay", "offload", "run", "bridge")
_DATAPATH_ID = re.compile(r"[0-9A-Fa-f]{16}")
_NAMES = {bool: "true or false", int: "a whole number", str: "a text", tuple: "a list of texts"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where (`site.toml:3`), what, and what would be right."""

    where: str
    what: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}{f' ({self.hint})' if self.hint else ''}"


class ConfigError(UsageError):
    """A configuration with mistakes; `problems` holds all of them, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def read_config(path: str | Path) -> Config:
    """The configuration in a file. Raises ConfigError with all mistakes, OSError when it cannot be opened."""
    with open(path, "rb") as file:
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise ConfigError([Problem(str(path), f"larger than {MAX_SIZE} bytes", "a configuration is a short text")])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), f"byte {error.start} is not UTF-8 text")]) from None
    return parse_config(text, str(path))


def parse_config(text: str, name: str = "<config>") -> Config:
    """The configuration in a text; `name` is for messages. Raises ConfigError."""
    import tomllib  # here, since most runs read none

    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([_syntax(name, error)]) from None
    reader = _Reader(name, text)
    config = reader.config(document)
    if reader.problems:
        raise ConfigError([problem for _, problem in sorted(reader.problems, key=lambda item: item[0])])
    return config


def _syntax(name: str, error: Exception) -> Problem:
    """tomllib tells the line in its message only."""
    what, _, place = str(error).partition(" (at ")
    words = place.replace(",", " ").split()
    line = f":{words[1]}" if len(words) > 1 and words[0] == "line" else ""
    return Problem(f"{name}{line}", f"not TOML: {what[:1].lower()}{what[1:]}")


class _Reader:
    """Collects mistakes while it builds what can be built."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.lines = lines_of(text)
        self.problems: list[tuple[int, Problem]] = []

    def refuse(self, path: tuple[str, ...], what: str, hint: str | None = None) -> None:
        line = line_of(self.lines, path)
        where = f"{self.name}:{line}" if line else self.name
        self.problems.append((line or 0, Problem(where, what, hint)))

    def config(self, document: dict[str, Any]) -> Config:
        for name in document:
            if name not in _SECTIONS:
                self.refuse((name,), f"there is no section [{name}]", _nearest(name, _SECTIONS))
        timeouts = self.timeouts(document.get("timeout", {}))
        bridges, ports = self.bridges(document.get("bridge", {}))
        config = Config(
            tracker=self.section(model.TrackerSection, document.get("tracker", {}), ("tracker",)),
            zones=self.zones(document.get("zone", {})),
            timeouts=timeouts,
            fragments=self.section(model.FragmentsSection, document.get("fragments", {}), ("fragments",)),
            switch=self.section(model.SwitchSection, document.get("switch", {}), ("switch",)),
            replay=self.section(model.ReplaySection, document.get("replay", {}), ("replay",)),
            offload=self.section(model.OffloadSection, document.get("offload", {}), ("offload",)),
            run=self.section(model.RunSection, document.get("run", {}), ("run",)),
            bridges=bridges,
            ports=ports,
        )
        self.check_whole(config)
        return config

    def section(self, kind: type[Any], table: Any, path: tuple[str, ...]) -> Any:
        """A section's dataclass from its table; what is wrong stays at its default."""
        values: dict[str, Any] = {}
        types = settings_of(kind)
        for key, value in self.table(table, path).items():
            if key not in types:
                self.refuse((*path, key), f"[{'.'.join(path)}] has no setting {key}", _nearest(key, types))
            elif problem := _mismatch(types[key], value):
                self.refuse((*path, key), f"[{'.'.join(path)}] {key}: {problem}")
            else:
                values[key] = tuple(value) if isinstance(value, list) else value
        return kind(**values)

    def table(self, value: Any, path: tuple[str, ...]) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        self.refuse(path, f"{'.'.join(path)} is a section, not {_text(value)}", f"[{'.'.join(path)}]")
        return {}

    def zones(self, tables: Any) -> dict[int | None, model.ZoneSection]:
        zones: dict[int | None, model.ZoneSection] = {}
        for name, table in self.table(tables, ("zone",)).items():
            zone = self.section(model.ZoneSection, table, ("zone", name))
            if name == "default":
                zones[None] = zone
            elif name.isdecimal() and name.isascii() and str(int(name[:9])) == name and int(name) < N_ZONES:
                zones[int(name)] = zone
            else:
                hint = "zones are 0 to 65535 without leading zeros, and default"
                self.refuse(("zone", name), f"[zone.{name}]: {name} is no zone", hint)
        return zones

    def bridges(self, tables: Any) -> tuple[dict[str, model.BridgeSection], dict[str, dict[str, model.PortSection]]]:
        """The bridges, and the ports of each, by name."""
        bridges: dict[str, model.BridgeSection] = {}
        ports: dict[str, dict[str, model.PortSection]] = {}
        for name, table in self.table(tables, ("bridge",)).items():
            path = ("bridge", name)
            settings = dict(self.table(table, path))
            details = self.table(settings.pop("port", {}), (*path, "port"))
            bridges[name] = bridge = self.section(model.BridgeSection, settings, path)
            ports[name] = dict.fromkeys(bridge.ports, model.PortSection())
            for port, section in details.items():
                ports[name][port] = self.section(model.PortSection, section, (*path, "port", port))
                if ports[name][port].type == "patch" and not ports[name][port].peer:
                    self.refuse((*path, "port", port), f"[{'.'.join((*path, 'port', port))}]: a patch port has a peer")
                self.check_vlans((*path, "port", port), ports[name][port])
            identity = bridge.datapath_id
            if identity is not None and not _DATAPATH_ID.fullmatch(identity):
                what = f"[bridge.{name}] datapath_id: {_text(identity)} is not 16 hexadecimal digits"
                self.refuse((*path, "datapath_id"), what)
        return bridges, ports

    def check_vlans(self, path: tuple[str, ...], port: model.PortSection) -> None:
        """Settings of VLANs that belong together."""
        name = ".".join(path)
        if port.vlan_mode in ("access", "native-tagged", "native-untagged", "dot1q-tunnel") and port.tag is None:
            self.refuse(path, f"[{name}]: a port of vlan_mode {port.vlan_mode} has a tag")
        if port.cvlans and port.vlan_mode != "dot1q-tunnel":
            self.refuse((*path, "cvlans"), f"[{name}] cvlans: only ports of vlan_mode dot1q-tunnel have customers")

    def timeouts(self, tables: Any) -> dict[str, dict[str, int]]:
        policies: dict[str, dict[str, int]] = {}
        for name, table in self.table(tables, ("timeout",)).items():
            path = ("timeout", name)
            policies[name] = {}
            for key, value in self.table(table, path).items():
                if key not in model.TIMEOUT_NAMES:
                    hint = _nearest(key, model.TIMEOUT_NAMES)
                    self.refuse((*path, key), f"[timeout.{name}] has no timeout {key}", hint)
                elif problem := _mismatch(model.Seconds, value):
                    self.refuse((*path, key), f"[timeout.{name}] {key}: {problem}")
                else:
                    policies[name][key] = value
        return policies

    def check_whole(self, config: Config) -> None:
        """What concerns several settings."""
        for zone, section in config.zones.items():
            path = ("zone", "default" if zone is None else str(zone), "timeout")
            if section.timeout is not None and section.timeout not in config.timeouts:
                what = f"[{'.'.join(path[:2])}] timeout: there is no [timeout.{section.timeout}]"
                self.refuse(path, what, _nearest(section.timeout, config.timeouts))
        if config.zones.get(None, model.ZoneSection()).liberal is not None:
            what = "[zone.default] liberal: what holds in all zones is not said here"
            self.refuse(("zone", "default", "liberal"), what, "[tracker] liberal")
        if config.tracker.headroom >= config.tracker.max_connections:
            what = f"[tracker] headroom: {config.tracker.headroom} leaves no place for any other connection"
            self.refuse(("tracker", "headroom"), what, f"max_connections is {config.tracker.max_connections}")
        for option in config.offload.options:
            if not option.partition("=")[1]:
                what = f"[offload] options: {_text(option)} sets nothing"
                self.refuse(("offload", "options"), what, "eswitch-num-of-groups=8")
        sides = config.replay.sides
        if sides is not None and (len(sides) != 2 or sides[0] == sides[1]):
            self.refuse(("replay", "sides"), "[replay] sides: not two different names", '["pf0hpf", "p0"]')
        for text in config.replay.inside:
            try:
                ip_network(text, strict=False)
            except ValueError:
                what = f"[replay] inside: {_text(text)} is no network"
                self.refuse(("replay", "inside"), what, "10.0.0.0/8, 2001:db8::/32")


def settings_of(kind: type[Any]) -> dict[str, Any]:
    """The settings of a section and their types, in order."""
    return get_type_hints(kind, include_extras=True)


def _mismatch(wanted: Any, value: Any) -> str | None:
    """What is wrong with a value of a setting of this type; None: nothing."""
    if get_origin(wanted) in (Union, UnionType):
        (wanted,) = (part for part in get_args(wanted) if part is not NoneType)
    limits: tuple[Any, ...] = ()
    if get_origin(wanted) is Annotated:
        wanted, *rest = get_args(wanted)
        limits = tuple(rest)
    plain = get_origin(wanted) or wanted
    given = tuple if isinstance(value, list) else type(value)
    if plain is tuple and get_args(wanted)[0] is int:
        return _mismatch_of_numbers(value, limits)
    if given is not plain or (given is tuple and not all(isinstance(item, str) for item in value)):
        return f"{_text(value)} is not {_NAMES[plain]}"
    if any("\0" in text for text in ([value] if plain is str else value if plain is tuple else ())):
        return f"{_text(value)} holds a NUL character"
    for limit in limits:
        if isinstance(limit, Range) and not limit.least <= value <= limit.most:
            return f"{_text(value)} is out of range: use {limit.least} to {limit.most}"
        if isinstance(limit, Choice) and value not in limit.words:
            return f"{_text(value)} is unknown: use {' or '.join(limit.words)}"
    return None


def _mismatch_of_numbers(value: Any, limits: tuple[Any, ...]) -> str | None:
    if not isinstance(value, list):
        return f"{_text(value)} is not a list of whole numbers"
    kind = Annotated[(int, *limits)]
    return next((problem for item in value if (problem := _mismatch(kind, item))), None)


def _text(value: Any) -> str:
    """A value in a message, cut when it is long."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    text = hex(value) if isinstance(value, int) and abs(value) >> 64 else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _nearest(word: str, known: Any) -> str | None:
    near = get_close_matches(word, list(known), n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"there are {', '.join(known)}" if 0 < len(known) <= 20 else None

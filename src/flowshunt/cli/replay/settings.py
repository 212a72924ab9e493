"""The command line over the configuration file: one `Config` of both.

Apart from the arguments' own module, because settings bring NumPy, for which `--help` shall not wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_network

from flowshunt.base.errors import UsageError
from flowshunt.cli.replay.options import Given, Timeout
from flowshunt.config.model import Config, ZoneSection

DEFAULT_SIDES = ("inside", "outside")


def overlay(config: Config, given: Given) -> Config:
    """`config` with what was given in its place."""
    tracker = {
        "profile": None if given.profile is None else given.profile.value,
        "checksums": False if given.no_checksum else None,
        "sequence_checks": False if given.no_sequence_check else None,
        "helpers": True if given.helpers else None,
        "max_connections": given.max_connections,
    }
    said = {name: value for name, value in tracker.items() if value is not None}
    config = replace(config, tracker=replace(config.tracker, **said))  # type: ignore[arg-type]
    if config.tracker.headroom >= config.tracker.max_connections:
        what = f"--max-connections {config.tracker.max_connections} leaves no place beside the headroom"
        raise UsageError(what, hint=f"the configuration keeps {config.tracker.headroom} free")
    for limit in given.zone_limits:
        section = config.zones.get(limit.zone, ZoneSection())
        config = replace(config, zones={**config.zones, limit.zone: replace(section, limit=limit.limit)})
    return _with_timeouts(config, given.timeouts)


def _with_timeouts(config: Config, given: Iterable[Timeout]) -> Config:
    """Every zone that is meant gets a policy of its own, made of the one it had."""
    for timeout in given:
        zones = {timeout.zone}
        if timeout.zone is None:
            zones |= {zone for zone, section in config.zones.items() if section.timeout is not None}
        for zone in zones:
            section = config.zones.get(zone, ZoneSection())
            before = {} if section.timeout is None else config.timeouts[section.timeout]
            name = f"--timeout {'default' if zone is None else zone}"
            config = replace(
                config,
                timeouts={**config.timeouts, name: {**before, timeout.name: timeout.seconds}},
                zones={**config.zones, zone: replace(section, timeout=name)},
            )
    return config


def flow_files(config: Config, file: str | None) -> tuple[str, ...]:
    """The configuration's files of rules, found from the directory of the file that names them."""
    directory = os.path.dirname(file or "") or os.curdir  # kept in front: a file called - is not standard input
    return tuple(os.path.join(directory, path) for path in config.switch.flow_files)


def inside(config: Config) -> tuple[IPv4Network | IPv6Network, ...]:
    """The configuration's inner networks."""
    return tuple(ip_network(text, strict=False) for text in config.replay.inside)


def sides(config: Config, given: str | None) -> tuple[str, str]:
    """Names of the inner and the outer port."""
    if given is not None:
        inner, outer = given.split(",")
        return inner, outer
    inner, outer = config.replay.sides or DEFAULT_SIDES
    return inner, outer

"""From the command line and a configuration file to the options of a run."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from flowshunt.cli.replay import settings
from flowshunt.cli.replay.options import (
    Given,
    Offload,
    PortFile,
    Profile,
    ReplayOptions,
    Timeout,
    ZoneLimit,
)
from flowshunt.config import Config, read_config


def gather(
    *,
    ports: tuple[PortFile, ...] = (),
    inside: tuple[IPv4Network | IPv6Network, ...] = (),
    sides: str | None = None,
    flow_files: tuple[str, ...] = (),
    flows: tuple[str, ...] = (),
    config_file: str | None = None,
    profile: Profile | None = None,
    no_checksum: bool = False,
    no_sequence_check: bool = False,
    helpers: bool = False,
    max_connections: int | None = None,
    zone_limits: tuple[ZoneLimit, ...] = (),
    timeouts: tuple[Timeout, ...] = (),
    offloads: tuple[Offload, ...] = (),
    compare: bool = False,
    unchecked: str | None = None,
    write: str | None = None,
    **as_they_are: Any,
) -> ReplayOptions:
    """The options of a run, by the names of the parameters in `arguments`; what is not given here, the file says.

    Raises UsageError and OSError for a configuration that cannot be read.
    """
    given = Given(
        profile=profile,
        no_checksum=no_checksum,
        no_sequence_check=no_sequence_check,
        helpers=helpers,
        max_connections=max_connections,
        zone_limits=zone_limits,
        timeouts=timeouts,
    )
    config = settings.overlay(read_config(config_file) if config_file is not None else Config(), given)
    has_rules = bool(flow_files or flows)
    return ReplayOptions(
        ports=ports,
        inside=inside or (() if ports else settings.inside(config)),
        sides=settings.sides(config, sides),
        flow_files=flow_files if has_rules else settings.flow_files(config, config_file),
        flows=flows if has_rules else config.switch.flows,
        flows_source="--set-flow" if has_rules else f"{config_file}: [switch] flows",
        config=config,
        config_file=config_file,
        offloads=offloads,
        compare=compare or unchecked is not None,
        unchecked=unchecked,
        write_directory=write,
        **as_they_are,
    )

"""What the user asked `flowshunt replay` for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from flowshunt.base.errors import UsageError

if TYPE_CHECKING:
    from flowshunt.config.model import Config

STDOUT = "-"

DEFAULT_FLOWS = """\
table=0,priority=0,actions=ct(commit,table=1)
table=1,priority=0,actions=normal
"""
"""Rules of a run that was given none: all is tracked and committed, then forwarded as a learning switch does."""


class Profile(StrEnum):
    """Whose tracker to behave like."""

    DEFAULT = "default"
    LINUX = "linux"


class TableStyle(StrEnum):
    """Whose listing of connections to print."""

    CONNTRACK = "conntrack"
    CONNTRACK_EXTENDED = "conntrack-extended"
    PROC = "proc"
    DPCTL = "dpctl"
    DPCTL_MORE = "dpctl-more"
    OFFLOAD = "offload"


@dataclass(frozen=True, slots=True)
class PortFile:
    """A switch port and the file that stands for it."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class ZoneLimit:
    """`--zone-limit`: zone None is every zone without a limit of its own."""

    zone: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class Timeout:
    """`--timeout`: zone None is every zone."""

    zone: int | None
    name: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Offload:
    """`--offload`: a provider's name, and its options in the order in which they were given."""

    name: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says about things that a configuration file can say too; None or empty: nothing."""

    profile: Profile | None = None
    no_checksum: bool = False
    no_sequence_check: bool = False
    helpers: bool = False
    max_connections: int | None = None
    zone_limits: tuple[ZoneLimit, ...] = ()
    timeouts: tuple[Timeout, ...] = ()


def _defaults() -> Config:
    from flowshunt.config.model import Config

    return Config()


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """One run. File names may be `-` for standard input or output where it says so."""

    capture: str | None = None
    """One capture of both sides, or `-`; None when `ports` are given."""
    ports: tuple[PortFile, ...] = ()
    """One capture per switch port."""
    inside: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks on the inner side of `capture`; none: inferred."""
    sides: tuple[str, str] = ("inside", "outside")
    """Names of the two ports of `capture`."""
    flow_files: tuple[str, ...] = ()
    flows: tuple[str, ...] = ()
    flows_source: str = "--set-flow"
    """What messages call the place where `flows` come from."""
    config: Config = field(default_factory=_defaults)
    """How the switch is set; its rules, sides and networks are among the other options already."""
    config_file: str | None = None
    batch_size: int = 256
    limit: int | None = None
    """Stop after so many packets."""
    load_table: str | None = None
    """A connection table as JSON, to begin with."""
    offloads: tuple[Offload, ...] = ()
    """The one that is asked first is first; none: nothing is offloaded."""
    compare: bool = False
    """Run a switch without offload beside it."""
    unchecked: str | None = None
    """Where to list what passed unchecked; may be `-`."""
    table: TableStyle | None = None
    states: str | None = None
    """Where to write the state of every packet; may be `-`."""
    json: str | None = None
    """Where to write the report as JSON; may be `-`."""
    write_directory: str | None = None
    write_ports: tuple[PortFile, ...] = ()
    quiet: bool = False
    """Neither summary nor progress."""

    @property
    def sources(self) -> dict[str, str]:
        """The capture that each port's packets come from, by the port's name."""
        return {port.name: port.path for port in self.ports} or dict.fromkeys(self.sides, self.capture or "")

    @property
    def stdout_users(self) -> tuple[str, ...]:
        """Options whose output goes to standard output."""
        users = (
            ("--table", self.table is not None),
            ("--states", self.states == STDOUT),
            ("--json", self.json == STDOUT),
            ("--unchecked", self.unchecked == STDOUT),
        )
        return tuple(name for name, uses in users if uses)

    def check(self) -> None:
        """Raise UsageError for options that do not go together."""
        if self.capture is None and not self.ports:
            raise UsageError("no capture given", hint="give CAPTURE, or --port NAME=FILE for each port")
        if self.capture is not None and self.ports:
            raise UsageError("CAPTURE and --port exclude each other", hint="give every capture its --port NAME=FILE")
        if self.ports and self.inside:
            raise UsageError("--inside is about the sides of one CAPTURE", hint="with --port the sides are known")
        names = [port.name for port in self.ports] or [*self.sides]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two ports are called {name}", hint="give every port its own name")
        if len(self.stdout_users) > 1:
            users = " and ".join(self.stdout_users)
            raise UsageError(f"{users} cannot share standard output", hint="send all but one to a file")
        self._check_offload()
        for port in self.write_ports:
            if port.name not in names:
                raise UsageError(f"--write-port: no port {port.name}", hint=f"the ports are {', '.join(names)}")

    def _check_offload(self) -> None:
        if (self.compare or self.unchecked is not None) and not self.offloads:
            raise UsageError("--compare and --unchecked need --offload", hint="for example --offload flowtable")
        providers = [offload.name for offload in self.offloads]
        for name in providers:
            if providers.count(name) > 1:
                raise UsageError(f"the provider {name} is named twice", hint="each can be there once")
        if self.table is TableStyle.OFFLOAD and not self.offloads:
            raise UsageError("--table offload needs --offload", hint="for example --offload flowtable")

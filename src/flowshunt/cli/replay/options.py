"""What the user asked `flowshunt replay` for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

STDOUT = "-"

DEFAULT_FLOWS = """\
table=0,priority=0,actions=ct(commit,table=1)
table=1,priority=0,actions=normal
"""
"""Rules of a run that was given none: every packet is tracked and committed, then forwarded as a learning switch does."""


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


@dataclass(frozen=True, slots=True)
class PortFile:
    """A switch port and the file that stands for it."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """One run. File names may be `-` for standard input or output where it says so."""

    capture: str | None = None
    """One capture of both sides, or `-`; None when `ports` are given."""
    ports: tuple[PortFile, ...] = ()
    """One capture per switch port."""
    inside: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks on the inner side of `capture`; none: inferred."""
    flow_files: tuple[str, ...] = ()
    flows: tuple[str, ...] = ()
    profile: Profile = Profile.DEFAULT
    check_checksums: bool = True
    check_sequence: bool = True
    batch_size: int = 256
    max_connections: int = 3_000_000
    limit: int | None = None
    """Stop after so many packets."""
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
    def stdout_users(self) -> tuple[str, ...]:
        """Options whose output goes to standard output."""
        users = (("--table", self.table is not None), ("--states", self.states == STDOUT), ("--json", self.json == STDOUT))
        return tuple(name for name, uses in users if uses)

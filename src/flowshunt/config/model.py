"""What can be set: a frozen dataclass per section, whose fields carry type, range, default and description.

The text under a field is its description wherever settings are shown. `Annotated[type, ...]` adds a `Range` or a
`Choice` to a type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from flowshunt.conntrack.arrays import MAX_CAPACITY
from flowshunt.conntrack.policies import MAX_LIMIT
from flowshunt.conntrack.timeouts import MAX_TIMEOUT_S, POLICY_CLASSES
from flowshunt.datapath.fragments.schema import MAX_FRAGMENTS, MAX_IP_SIZE
from flowshunt.datapath.vlan_modes import MODES


class Range(NamedTuple):
    """The least and the largest value of a number, both allowed."""

    least: int
    most: int


class Choice(NamedTuple):
    """The words that a setting knows."""

    words: tuple[str, ...]


TIMEOUT_NAMES = tuple(POLICY_CLASSES)
"""Timeouts as Open vSwitch's CT_Timeout_Policy names them."""

MAX_FRAGMENT_TIMEOUT_S = 2_000_000
"""About 23 days."""

VLAN_MODES = tuple(mode for mode in MODES if mode != "all")
"""Modes of ports as Open vSwitch's table Port names them."""

Vlan = Annotated[int, Range(0, 4095)]
"""A VLAN."""

Seconds = Annotated[int, Range(0, MAX_TIMEOUT_S)]
"""A timeout."""


@dataclass(frozen=True, slots=True)
class TrackerSection:
    """The connection tracker as a whole."""

    profile: Annotated[str, Choice(("default", "linux"))] = "default"
    """Track as Open vSwitch's userspace does (`default`), or as nf_conntrack does (`linux`). Fixed at the start."""
    max_connections: Annotated[int, Range(1, MAX_CAPACITY)] = 3_000_000
    """Size limit of the connection table. Fixed at the start; memory is used as connections come."""
    checksums: bool = True
    """Verify checksums; a packet whose checksum is wrong is invalid."""
    sequence_checks: bool = True
    """TCP segments outside of their window are invalid."""
    liberal: bool = False
    """TCP segments outside of their window are valid, except resets, in every zone that does not say otherwise."""
    loose: bool = True
    """A TCP connection may begin in mid-stream."""
    early_drop: bool = False
    """When the table or a zone is full, a connection that was never answered makes room for a new one."""
    headroom: Annotated[int, Range(0, MAX_CAPACITY)] = 0
    """Of max_connections, kept for packets that have a connection in another zone already."""
    helpers: bool = False
    """New connections to ports 21 and 69 get the FTP or TFTP helper by themselves. Fixed at the start."""


@dataclass(frozen=True, slots=True)
class ZoneSection:
    """Policy of one zone, or of all others (zone.default)."""

    limit: Annotated[int, Range(0, MAX_LIMIT)] | None = None
    """Most connections at a time; 0: no limit. Absent: the limit of zone.default, or else none."""
    timeout: str | None = None
    """Name of the [timeout.NAME] that holds here. What that leaves out, or all, is as zone.default has it."""
    liberal: bool | None = None
    """TCP segments outside of their window are valid, except resets. Absent: as [tracker] says."""


@dataclass(frozen=True, slots=True)
class FragmentsSection:
    """IP fragments that wait at ct. What is absent is as the profile has it."""

    ipv4: bool = True
    """Put IPv4 fragments together; if not, the tracker calls them invalid."""
    ipv6: bool = True
    """Put IPv6 fragments together; if not, the tracker calls them invalid."""
    min_size_ipv4: Annotated[int, Range(0, MAX_IP_SIZE)] | None = None
    """Least size in bytes, IP header included, of an IPv4 fragment that is not the last; smaller ones are refused."""
    min_size_ipv6: Annotated[int, Range(0, MAX_IP_SIZE)] | None = None
    """The same for IPv6."""
    max_fragments: Annotated[int, Range(0, MAX_FRAGMENTS)] | None = None
    """Fragments held at a time."""
    max_zone_fragments: Annotated[int, Range(0, MAX_FRAGMENTS)] | None = None
    """Of those, the most for one zone."""
    timeout_ipv4: Annotated[int, Range(1, MAX_FRAGMENT_TIMEOUT_S)] | None = None
    """Seconds that an IPv4 datagram may take, from the first fragment that comes."""
    timeout_ipv6: Annotated[int, Range(1, MAX_FRAGMENT_TIMEOUT_S)] | None = None
    """The same for IPv6."""


@dataclass(frozen=True, slots=True)
class SwitchSection:
    """Rules of the switch."""

    flow_files: tuple[str, ...] = ()
    """Files of rules, one per line, as ovs-ofctl add-flows reads them. Relative to this file's directory."""
    flows: tuple[str, ...] = ()
    """Rules, after those of the files."""


@dataclass(frozen=True, slots=True)
class ReplaySection:
    """Captures and their two sides (flowshunt replay)."""

    sides: tuple[str, ...] | None = None
    """Names of the inner and the outer port of a capture."""
    inside: tuple[str, ...] = ()
    """Networks on the inner side of a capture."""


@dataclass(frozen=True, slots=True)
class BridgeSection:
    """A bridge of the running switch (flowshunt run)."""

    ports: tuple[str, ...] = ()
    """Network devices of the bridge, numbered from 1 in this order unless their [bridge.NAME.port.DEVICE] says more."""
    local_port: bool = True
    """Make a device named as the bridge, by which this machine takes part in it."""
    datapath_id: str | None = None
    """What controllers know the bridge by: 16 hexadecimal digits. Absent: one that is made up."""
    flow_files: tuple[str, ...] = ()
    """Files of rules, as in [switch]. A bridge that names no rules at all has those of [switch], or
    else forwards as a learning switch does."""
    flows: tuple[str, ...] = ()
    """Rules, after those of the files."""


@dataclass(frozen=True, slots=True)
class PortSection:
    """A port of a bridge; it need not be listed in the bridge's ports."""

    type: Annotated[str, Choice(("system", "afxdp", "internal", "patch", "dummy"))] = "system"
    """A network device that is there, by a packet socket or by AF_XDP; one that is made; one end of a patch between two
    bridges; or one in memory."""
    number: Annotated[int, Range(1, 65279)] | None = None
    """OpenFlow port number. Absent: the lowest that is free."""
    peer: str | None = None
    """The port that a patch port leads to, which names this one as its peer."""
    mtu: Annotated[int, Range(68, 65521)] | None = None
    """MTU of a device that is made."""
    vlan_mode: Annotated[str, Choice(VLAN_MODES)] | None = None
    """How it treats VLANs. Absent: access with a tag, trunk with trunks, or else all pass as they are."""
    tag: Vlan | None = None
    """The VLAN of packets without a tag; of dot1q-tunnel that of the service tag."""
    trunks: Annotated[tuple[int, ...], Range(0, 4095)] = ()
    """VLANs that it carries; none: all."""
    cvlans: Annotated[tuple[int, ...], Range(0, 4095)] = ()
    """Customers' VLANs of dot1q-tunnel; none: all."""
    qinq_ethtype: Annotated[str, Choice(("802.1ad", "802.1q"))] = "802.1ad"
    """Type of the service tag of dot1q-tunnel."""
    kernel_mode: Annotated[str, Choice(("tc", "xdp"))] | None = None
    """How the offload provider kernel works on it, if otherwise than its option kernel-mode says."""
    pcap: str | None = None
    """File to record in what the port receives and sends, as pcap. One that is there is appended to."""
    pcap_mb: Annotated[int, Range(1, 1_000_000)] = 100
    """Megabytes that the file may have; no more is recorded then."""


@dataclass(frozen=True, slots=True)
class OffloadSection:
    """Offloading of established connections (flowshunt run; a replay has --offload)."""

    enabled: bool = False
    """Tell offload providers of connections, as other_config:hw-offload does."""
    priority: tuple[str, ...] = ()
    """Names of providers, first asked first."""
    options: tuple[str, ...] = ()
    """Options of providers, as other_config has them, such as eswitch-num-of-groups=8."""


@dataclass(frozen=True, slots=True)
class RunSection:
    """The program (flowshunt run)."""

    rundir: str | None = None
    """Directory of the sockets, open to this user alone. Absent: /run/flowshunt, or in the user's own run directory."""
    pid_file: str | None = None
    """File to write the process number to, locked while the switch runs."""
    busy_poll: bool = False
    """Never sleep while there are no packets: a whole processor for a lower latency."""


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration."""

    tracker: TrackerSection = field(default_factory=TrackerSection)
    zones: Mapping[int | None, ZoneSection] = field(default_factory=dict)
    """By zone; None: zone.default."""
    timeouts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Named timeout policies: seconds by name (`TIMEOUT_NAMES`)."""
    fragments: FragmentsSection = field(default_factory=FragmentsSection)
    switch: SwitchSection = field(default_factory=SwitchSection)
    replay: ReplaySection = field(default_factory=ReplaySection)
    offload: OffloadSection = field(default_factory=OffloadSection)
    run: RunSection = field(default_factory=RunSection)
    bridges: Mapping[str, BridgeSection] = field(default_factory=dict)
    ports: Mapping[str, Mapping[str, PortSection]] = field(default_factory=dict)
    """By bridge and name, those that a bridge lists included, in the order in which they are numbered."""

"""Immutable snapshots of connections, for everyone outside the tracker.

A snapshot says how one connection stood at one moment. It holds plain Python values, refers to no row, and stays as
it is while the tracker goes on. `flowshunt.conntrack.listing` prints it the way other tools do.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET6, inet_ntop

from flowshunt.conntrack.states import PEER_NAMES

Address = IPv4Address | IPv6Address

PROTOCOL_NAMES = {
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    89: "ospf",
    103: "pim",
    112: "vrrp",
    132: "sctp",
    136: "udplite",
}
"""IP protocol numbers (IANA) that are called by name in summaries."""

_SCTP = 132

STATUS_NAMES = ("SEEN_REPLY", "ASSURED", "CONFIRMED", "DYING", "OFFLOAD", "HW_OFFLOAD")
"""What `Connection.status` may hold, in the order of the Linux status bits."""


@dataclass(frozen=True, slots=True)
class Tuple:
    """One direction of a connection: who sends to whom.

    Ports are host integers, 0 where the protocol has none. The three `icmp_*` fields are set for ICMP and ICMPv6
    queries and None for every other protocol.
    """

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int | None = None
    icmp_code: int | None = None
    icmp_id: int | None = None

    @property
    def sort_key(self) -> tuple[int, ...]:
        """Orders tuples of one protocol by source, destination, then ports or ICMP fields; IPv4 before IPv6."""
        return (
            self.source.version,
            int(self.source),
            int(self.destination),
            self.source_port,
            self.destination_port,
            self.icmp_type or 0,
            self.icmp_code or 0,
            self.icmp_id or 0,
        )


@dataclass(frozen=True, slots=True)
class Connection:
    """One tracked connection.

    Pairs are indexed by direction: 0 is original, 1 is reply.
    """

    id: int
    """Unique among the living connections of one tracker."""
    generation: int
    """How often the place of this connection was used; (id, generation) never names two connections."""
    family: int
    """4 or 6."""
    protocol: int
    """IP protocol number."""
    original: Tuple
    reply: Tuple
    """What replies look like; the original tuple turned round unless there is NAT."""
    zone: int
    mark: int
    """32 bits."""
    label: int
    """128 bits."""
    profile: str
    """`default` or `linux`: whose TCP machine made `state`."""
    states: tuple[str, str] | None
    """TCP: the state of each peer as Open vSwitch names it (profile linux: `state` twice). None for the others."""
    state: str | None
    """One name for both peers as the profile's own tools print it; None where the protocol has no states."""
    seen_reply: bool
    assured: bool
    """Not to be dropped early when memory is short."""
    timeout_ms: int
    """Milliseconds left at the moment of the snapshot."""
    start_ms: int
    """When the connection was created, in milliseconds since the epoch; 0: unknown."""
    packets: tuple[int, int]
    bytes: tuple[int, int]
    """Bytes of those packets."""
    in_port: int
    """OpenFlow port on which the first packet came in."""
    tcp_flags: tuple[int, int] = (0, 0)
    """TCP header flags seen so far, or'ed together."""
    helper: str | None = None
    """Name of the helper (`ftp`, `tftp`) that watches this connection."""
    parent: int | None = None
    """`id` of the connection that announced this one."""
    confirmed: bool = True
    """Whether the connection is in the table; always so for snapshots that a tracker hands out."""
    parent_tuple: Tuple | None = None
    """Original tuple of the connection that announced this one."""
    parent_protocol: int | None = None
    wscale: tuple[int | None, int | None] = (None, None)
    """TCP: the window shift that each peer announced; None: it announced none."""
    liberal: tuple[bool, bool] = (False, False)
    """TCP: the windows of this peer are not checked: its handshake was not seen, so that its window scale is unknown,
    or the connection was made liberal (`Tracker.set_liberal`)."""
    dying: bool = False
    """Removed from the table, kept only until the last user lets go."""
    offload: str | None = None
    """`OFFLOAD` (software fast path), `HW_OFFLOAD`, or None."""
    use: int = 1
    """References to the connection: 1 for the table, one more for each holder."""
    nat: str | None = None
    """`src` or `dst`: the end that the first packet was translated at. None: no NAT."""
    machine: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """What else the protocol's state machine remembers, by field of `schema.CONNECTION` (`snapshot.MACHINES`)."""

    @property
    def protocol_name(self) -> str:
        """`tcp`, `udp`, …, or the protocol number in digits where it has no common name."""
        return PROTOCOL_NAMES.get(self.protocol, str(self.protocol))

    @property
    def is_icmp(self) -> bool:
        """Whether this is an ICMP or ICMPv6 query, identified by type, code and id in place of ports."""
        return self.original.icmp_type is not None

    @property
    def verification_tags(self) -> tuple[int, int] | None:
        """SCTP in profile linux: the tag that packets of each direction carry, 0 where it is not known."""
        if self.protocol != _SCTP:
            return None
        tags = dict(self.machine).get("lo")
        return None if tags is None else (tags[0], tags[1])

    @property
    def timeout_s(self) -> int:
        """Whole seconds left, never negative."""
        return max(self.timeout_ms // 1000, 0)

    @property
    def status(self) -> tuple[str, ...]:
        """Names out of `STATUS_NAMES` that hold, in their order."""
        held = (
            self.seen_reply,
            self.assured,
            self.confirmed,
            self.dying,
            self.offload == "OFFLOAD",
            self.offload == "HW_OFFLOAD",
        )
        return tuple(name for name, holds in zip(STATUS_NAMES, held, strict=True) if holds)

    @property
    def sort_key(self) -> tuple[int | tuple[int, ...], ...]:
        """The order of listings: by start time, then protocol, zone and original tuple. No two living ones share it."""
        return (self.start_ms, self.protocol, self.zone, self.original.sort_key)


_COALESCED = {"SYN_RECV": "ESTABLISHED", "FIN_WAIT_2": "TIME_WAIT"}


def combined_tcp_state(original: str, reply: str) -> str:
    """The one state that Open vSwitch prints for two peers: the one further on, with two states merged.

    SYN_RECV counts as ESTABLISHED and FIN_WAIT_2 as TIME_WAIT (`dpctl/dump-conntrack` without -m), so that its
    listings look alike over its own tracker and over the kernel's. Raises ValueError for an unknown name.
    """
    for name in (original, reply):
        if name not in PEER_NAMES:
            raise ValueError(f"{name} is not a state of a TCP peer; those are {', '.join(PEER_NAMES)}")
    state = PEER_NAMES[max(PEER_NAMES.index(original), PEER_NAMES.index(reply))]
    return _COALESCED.get(state, state)


def address_text(address: IPv4Address | IPv6Address) -> str:
    """An address as inet_ntop(3) writes it, which is what the other tools print.

    Python's own `str` differs by version in how it writes IPv6 addresses that hold an IPv4 one.
    """
    return str(address) if address.version == 4 else inet_ntop(AF_INET6, address.packed)

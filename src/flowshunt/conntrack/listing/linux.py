"""What the two listings of the Linux tracker share: `conntrack8` and `proc`."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from flowshunt.conntrack.connection import Connection

PROTOCOLS = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    47: "gre",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
}
"""Protocols that the Linux tracker calls by name; the others are `unknown`."""

_WITH_PORTS = frozenset({6, 17, 33, 132, 136})
_GRE = 47
_FAMILIES = {4: ("ipv4", 2), 6: ("ipv6", 10)}
_STATES = {"CLOSED": "CLOSE", "FIN_WAIT_1": "FIN_WAIT", "CLOSING": "FIN_WAIT", "FIN_WAIT_2": "TIME_WAIT"}


def family_words(connection: Connection) -> str:
    """Name and number of the address family, in their columns."""
    name, number = _FAMILIES[connection.family]
    return f"{name:<8} {number}"


def protocol_words(connection: Connection) -> str:
    """Name and number of the protocol, in their columns."""
    return f"{PROTOCOLS.get(connection.protocol, 'unknown'):<8} {connection.protocol}"


def time_and_state(connection: Connection) -> list[str]:
    """Seconds left and the state, where there is one; nothing for an offloaded connection.

    Its packets pass the tracker by, so Linux shows neither. The state is in Linux's words, whatever the profile: the
    two-peer machine says CLOSING while one FIN waits for its ACK, which Linux calls FIN_WAIT, and FIN_WAIT_2 when both
    are acknowledged, which Linux calls TIME_WAIT.
    """
    if connection.offload is not None:
        return []
    words = [str(connection.timeout_s)]
    if connection.state is not None:
        words.append(connection.state if connection.protocol != 6 else _STATES.get(connection.state, connection.state))
    return words


def direction(
    connection: Connection, d: int, address: Callable[[IPv4Address | IPv6Address], str], counters: bool
) -> list[str]:
    """Tuple and counters of direction `d` (0 original, 1 reply)."""
    way = connection.reply if d else connection.original
    words = [f"src={address(way.source)}", f"dst={address(way.destination)}"]
    if way.icmp_type is not None:
        words += [f"type={way.icmp_type}", f"code={way.icmp_code}", f"id={way.icmp_id}"]
    elif connection.protocol in _WITH_PORTS:
        words += [f"sport={way.source_port}", f"dport={way.destination_port}"]
    elif connection.protocol == _GRE:
        words += [f"srckey=0x{way.source_port:x}", f"dstkey=0x{way.destination_port:x}"]
    if counters:
        words += [f"packets={connection.packets[d]}", f"bytes={connection.bytes[d]}"]
    return words


def parent_words(connection: Connection, address: Callable[[IPv4Address | IPv6Address], str]) -> list[str]:
    """The original tuple of the connection that announced this one, if any."""
    way = connection.parent_tuple
    if way is None:
        return []
    words = [f"src={address(way.source)}", f"dst={address(way.destination)}"]
    words += [f"sport={way.source_port}", f"dport={way.destination_port}"]
    return [f"master-{word}" for word in words]


def fast_path_flag(connection: Connection) -> list[str]:
    """The one flag after the reply tuple, if any: offload before assured."""
    if connection.offload is not None:
        return [f"[{connection.offload}]"]
    return ["[ASSURED]"] if connection.assured else []

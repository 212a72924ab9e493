"""What the counters mean, and what to do about them."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """`what` happened, and a `hint` at what to do; the hint may be empty."""

    what: str
    hint: str = ""


INVALID = {
    "not-ip": Reason("neither IPv4 nor IPv6", "match ip and ipv6 in front of ct() to keep ARP and the like out"),
    "malformed": Reason("headers cut off or contradictory", "capture whole packets (tcpdump -s 0)"),
    "fragment": Reason("IP fragment", "fragments are not reassembled yet"),
    "checksum": Reason(
        "wrong checksum", "captures on the sending host see checksums before the card fills them in: try --no-checksum"
    ),
    "icmp-type": Reason("ICMP message that no connection is made of (neighbour discovery, router adverts)"),
    "icmp-error": Reason("ICMP error whose quoted packet cannot be read"),
    "icmp-error-unknown": Reason("ICMP error about a connection that is not in the table"),
    "first-packet": Reason("cannot open a connection (SYN with FIN, RST, a reply nobody asked for)"),
    "tcp": Reason("TCP outside the window or not in this state", "try --no-sequence-check if the capture has gaps"),
    "full": Reason("new connection, but the table is full", "raise --max-connections"),
}
"""Why the tracker calls a packet invalid, by counter."""

DROPS = {
    "no-match": Reason("no rule matched", "add a rule with priority=0 for the rest"),
    "action": Reason("the rule says so (drop, or no output)"),
    "resubmit-depth": Reason("resubmit or goto_table too deep", "look for rules that resubmit in a circle"),
}
"""Why the switch let a packet go without an output, by counter."""

VERDICTS = {
    "short-ethernet": Reason("frame shorter than an Ethernet header"),
    "short-vlan": Reason("frame ends within a VLAN tag"),
    "short-arp": Reason("frame ends within ARP"),
    "short-ipv4": Reason("frame ends within the IPv4 packet"),
    "bad-ipv4": Reason("impossible IPv4 header"),
    "short-ipv6": Reason("frame ends within the IPv6 packet"),
    "bad-ipv6": Reason("impossible IPv6 header"),
    "bad-extension": Reason("impossible chain of IPv6 extension headers"),
    "short-l4": Reason("packet ends within the TCP, UDP, ICMP or SCTP header"),
    "bad-tcp": Reason("impossible TCP header"),
    "bad-udp": Reason("impossible UDP header"),
}
"""What the parser stopped at, by counter."""


def split(counters: dict[str, int], prefix: str) -> dict[str, int]:
    """The counters that start with `prefix` and are not zero, without it, the largest first."""
    found = {name.removeprefix(prefix): n for name, n in counters.items() if name.startswith(prefix) and n}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

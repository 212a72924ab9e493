"""What the counters mean, and what to do about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Reason(NamedTuple):
    """`what` happened, and a `hint` at what to do; the hint may be empty."""

    what: str
    hint: str = ""


INVALID = {
    "not-ip": Reason("neither IPv4 nor IPv6", "send only ip and ipv6 through ct() to keep ARP and the like out"),
    "malformed": Reason("headers cut off or contradictory"),
    "fragment": Reason("IP fragment that cannot be put together: its own fault, or switched off"),
    "checksum": Reason(
        "wrong checksum",
        "a sender's own capture has them unfinished (its network card fills them in): use --no-checksum",
    ),
    "icmp-type": Reason("ICMP message that opens no connection, such as neighbour discovery"),
    "icmp-error": Reason("ICMP error whose quoted packet cannot be read"),
    "icmp-error-unknown": Reason("ICMP error about a connection that is not in the table"),
    "first-packet": Reason("cannot open a connection: the answer to nothing, such as a SYN-ACK or an ICMP reply"),
    "mid-stream": Reason("TCP in mid-stream, which was not to be picked up"),
    "state": Reason("not allowed in the state that its connection is in"),
    "tcp-flags": Reason("TCP flags that make no sense"),
    "tcp-sequence": Reason("TCP outside its window", "use --no-sequence-check if the capture has gaps"),
    "tcp-ack": Reason("TCP acknowledges what was not sent", "use --no-sequence-check if the capture has gaps"),
    "tcp-reset": Reason("TCP reset that its receiver would not believe either"),
    "nat-exhausted": Reason(
        "no free port left for a new connection to translate", "give nat() more addresses or ports"
    ),
    "sctp-chunks": Reason("SCTP without chunks, or with chunks that are empty or stand where they must not"),
    "sctp-tag": Reason("SCTP with the verification tag of another association"),
    "reply-taken": Reason(
        "a translated connection has the tuple of its replies already",
        "commit with nat: it then gets another source port",
    ),
}
"""Why the tracker calls a packet invalid, by counter."""

UNTRACKED = Reason("no rule sent it through ct()")

REFUSED = {
    "full": Reason("the connection table was full", "raise --max-connections"),
    "zone-limit": Reason("their zone had as many as its limit allows", "raise the limit"),
    "headroom": Reason("what was left is kept for connections known in another zone", "raise --max-connections"),
}
"""Why a connection was not stored, by counter."""

DROPS = {
    "no-match": Reason("no rule matched", "add a rule with priority=0 for the rest"),
    "action": Reason("the rule says so: drop, or no output in its actions"),
    "resubmit-depth": Reason("resubmits nested too deep", "look for rules that resubmit in a circle"),
    "resubmit-limit": Reason("too many resubmits", "look for rules that resubmit in a circle"),
    "snapshot-limit": Reason("too many clones and ct(table=…) copies", "look for rules that resubmit in a circle"),
    "ct-limit": Reason("too many passes through the tracker", "look for rules that return to ct() in a circle"),
    "ttl": Reason("TTL or hop limit used up"),
    "output-in-port": Reason(
        "only output was the port that it came from",
        "use in_port to send back; if both sides are on one port, tell them apart with --inside",
    ),
    "no-port": Reason("output to a port that does not exist", "add it with --port NAME=FILE"),
    "reserved-multicast": Reason("link-local multicast, which switches do not forward (spanning tree, LACP, LLDP)"),
    "learned-on-in-port": Reason("destination is on the port that it came from"),
    "invalid-packet": Reason("too damaged to forward"),
    "fragment": Reason("IP fragment that cannot be put together, which Linux drops"),
    "vlan": Reason("VLAN that its port does not carry"),
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


FRAGMENTS = {
    "expired": Reason("the rest of their datagram did not come in time"),
    "purged": Reason("made room for later ones"),
    "dropped": Reason("went with a datagram that was refused"),
    "too-small": Reason("smaller than a fragment that is not the last may be"),
    "overlapping": Reason("overlap what is there of their datagram, which is dropped"),
    "duplicate": Reason("came twice"),
    "inconsistent": Reason("contradict where their datagram ends, which is dropped"),
    "misaligned": Reason("length is not a multiple of 8"),
    "too-long": Reason("reach beyond the longest packet"),
    "empty": Reason("carry nothing"),
    "malformed": Reason("headers cut off or contradictory"),
    "wrong-checksum": Reason("IPv4 header with a wrong checksum"),
    "too-many": Reason("their datagram has too many, and is dropped"),
    "no-room": Reason("no room for them"),
    "of-refused-datagram": Reason("belong to a datagram that has been refused"),
}
"""Why fragments did not become part of a packet, by counter."""


def split(counters: Mapping[str, int], prefix: str) -> dict[str, int]:
    """The counters that start with `prefix` and are not zero, without it, the largest first."""
    found = {name.removeprefix(prefix): n for name, n in counters.items() if name.startswith(prefix) and n}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

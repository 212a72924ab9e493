"""A frame for a flow that somebody described."""

from __future__ import annotations

from flowshunt.packet.schema import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    ETH_RARP,
    FRAG_ANY,
    FRAG_LATER,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VLAN_PRESENT,
)
from flowshunt.rules.odp import frame
from flowshunt.rules.openflow.match import ND_ADVERT, ND_SOLICIT
from flowshunt.rules.openflow.tracing.keys import read
from flowshunt.rules.openflow.values import write_ipv4, write_ipv6, write_mac

Key = tuple[int, ...]
_TRANSPORTS = {PROTO_TCP: "tcp", PROTO_UDP: "udp", PROTO_SCTP: "sctp", PROTO_ICMP: "icmp", PROTO_ICMPV6: "icmpv6"}


def compose(key: Key) -> bytes:
    """A frame whose headers are what the key says, with right checksums and some payload."""
    kind = read(key, "eth_type")
    parts = [f"eth(src={write_mac(read(key, 'eth_src'))},dst={write_mac(read(key, 'eth_dst'))})"]
    tci = read(key, "vlan_tci")
    if tci & VLAN_PRESENT:
        parts += ["eth_type(0x8100)", f"vlan(vid={tci & 0xFFF},pcp={tci >> 13})"]
    inner = [f"eth_type({kind:#06x})"]
    if kind in (ETH_ARP, ETH_RARP):
        inner.append(_arp(key))
    elif kind == ETH_IPV4:
        inner += [_ipv4(key), *_transport(key, PROTO_ICMP)]
    elif kind == ETH_IPV6:
        inner += [_ipv6(key), *_transport(key, PROTO_ICMPV6)]
    body = ",".join(inner)
    return frame(",".join([*parts, f"encap({body})" if tci & VLAN_PRESENT else body]))


def _arp(key: Key) -> str:
    return (
        f"arp(sip={write_ipv4(read(key, 'nw_src'))},tip={write_ipv4(read(key, 'nw_dst'))},op={read(key, 'nw_proto')},"
        f"sha={write_mac(read(key, 'arp_sha'))},tha={write_mac(read(key, 'arp_tha'))})"
    )


def _frag(key: Key) -> str:
    bits = read(key, "nw_frag")
    return "later" if bits & FRAG_LATER else "first" if bits & FRAG_ANY else "no"


def _ipv4(key: Key) -> str:
    return (
        f"ipv4(src={write_ipv4(read(key, 'nw_src'))},dst={write_ipv4(read(key, 'nw_dst'))},"
        f"proto={read(key, 'nw_proto')},tos={read(key, 'nw_tos'):#x},ttl={read(key, 'nw_ttl')},frag={_frag(key)})"
    )


def _ipv6(key: Key) -> str:
    return (
        f"ipv6(src={write_ipv6(read(key, 'ipv6_src'))},dst={write_ipv6(read(key, 'ipv6_dst'))},"
        f"label={read(key, 'ipv6_label')},proto={read(key, 'nw_proto')},tclass={read(key, 'nw_tos'):#x},"
        f"hlimit={read(key, 'nw_ttl')},frag={_frag(key)})"
    )


def _transport(key: Key, icmp: int) -> list[str]:
    protocol = read(key, "nw_proto")
    name = _TRANSPORTS.get(protocol)
    if name is None or (protocol in (PROTO_ICMP, PROTO_ICMPV6) and protocol != icmp):
        return []
    first, second = read(key, "tp_src"), read(key, "tp_dst")
    if protocol != icmp:
        found = [f"{name}(src={first},dst={second})"]
        return [*found, f"tcp_flags({read(key, 'tcp_flags'):#x})"] if protocol == PROTO_TCP else found
    found = [f"{name}(type={first & 0xFF},code={second & 0xFF})"]
    if protocol == PROTO_ICMPV6 and first in (ND_SOLICIT, ND_ADVERT):
        option, place = ("sll", "arp_sha") if first == ND_SOLICIT else ("tll", "arp_tha")
        address = f",{option}={write_mac(read(key, place))}" if read(key, place) else ""
        found.append(f"nd(target={write_ipv6(read(key, 'nd_target'))}{address})")
    return found

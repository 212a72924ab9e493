"""A parsed packet as one line of text, for tests and the slow path."""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from flowshunt.packet.schema import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    ETH_RARP,
    FIELDS,
    FRAG_LATER,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VERDICTS,
    VLAN_PRESENT,
)

_PORTS = {PROTO_TCP: "tcp", PROTO_UDP: "udp", PROTO_SCTP: "sctp"}
_TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns")


def field(keys: Any, k: int, name: str) -> int:
    """The value of a field of `schema.FIELDS` in keys[k], as a non-negative int."""
    word, shift, width = FIELDS[name]
    if width > 64:
        high = int(keys[k, word]) & ((1 << 64) - 1)
        return (high << 64) | (int(keys[k, word + 1]) & ((1 << 64) - 1))
    return (int(keys[k, word]) >> shift) & ((1 << width) - 1)


def set_field(keys: Any, k: int, name: str, value: int) -> None:
    """Put `value` into a field of keys[k]; ValueError when it is too big."""
    word, shift, width = FIELDS[name]
    if not 0 <= value < 1 << width:
        raise ValueError(f"{name} has {width} bits, {value:#x} does not fit")
    if width > 64:
        keys[k, word] = _signed(value >> 64)
        keys[k, word + 1] = _signed(value)
        return
    mask = ((1 << width) - 1) << shift
    keys[k, word] = _signed((int(keys[k, word]) & ~mask) | (value << shift))


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def mac_text(value: int) -> str:
    """A MAC address in the usual form."""
    return value.to_bytes(6, "big").hex(":")


def describe(keys: Any, k: int, verdict: int | None = None) -> str:
    """One line for the packet part of keys[k]; fields are named as in a flow's match, other headers' are left out."""
    get = partial(field, keys, k)
    eth_type = get("eth_type")
    parts = [f"eth_src={mac_text(get('eth_src'))}", f"eth_dst={mac_text(get('eth_dst'))}"]
    for name in ("vlan_tci", "vlan2_tci"):
        if get(name) & VLAN_PRESENT:
            parts.append(f"{name}={get(name):#06x}")
    if eth_type in (ETH_ARP, ETH_RARP):
        parts[:0] = ["arp" if eth_type == ETH_ARP else "rarp"]
        parts += _arp(get)
    elif eth_type in (ETH_IPV4, ETH_IPV6):
        parts = _ip(get, parts)
    else:
        parts.append(f"eth_type={eth_type:#06x}")
    if verdict is not None:
        parts.append(f"verdict={VERDICTS[verdict]}")
    return ",".join(parts)


def _arp(get: Any) -> list[str]:
    return [
        f"arp_op={get('nw_proto')}",
        f"arp_spa={IPv4Address(get('nw_src'))}",
        f"arp_tpa={IPv4Address(get('nw_dst'))}",
        f"arp_sha={mac_text(get('arp_sha'))}",
        f"arp_tha={mac_text(get('arp_tha'))}",
    ]


def _ip(get: Any, parts: list[str]) -> list[str]:
    version = 4 if get("eth_type") == ETH_IPV4 else 6
    protocol = get("nw_proto")
    icmp = protocol == (PROTO_ICMP if version == 4 else PROTO_ICMPV6)
    name = f"icmp{'v6' if version == 6 else ''}" if icmp else _PORTS.get(protocol)
    suffix = "6" if version == 6 and not icmp else ""
    parts = [f"{name}{suffix}" if name else ("ip" if version == 4 else "ipv6"), *parts]
    if version == 4:
        parts += [f"nw_src={IPv4Address(get('nw_src'))}", f"nw_dst={IPv4Address(get('nw_dst'))}"]
    else:
        parts += [f"ipv6_src={IPv6Address(get('ipv6_src'))}", f"ipv6_dst={IPv6Address(get('ipv6_dst'))}"]
        parts.append(f"ipv6_label={get('ipv6_label'):#07x}")
    if not name:
        parts.append(f"nw_proto={protocol}")
    parts += [f"nw_tos={get('nw_tos')}", f"nw_ttl={get('nw_ttl')}"]
    if get("nw_frag"):
        parts.append(f"nw_frag={'later' if get('nw_frag') & FRAG_LATER else 'first'}")
    if not name or get("nw_frag") & FRAG_LATER:
        return parts
    return parts + (_icmp(get) if icmp else _ports(get))


def _ports(get: Any) -> list[str]:
    parts = [f"tp_src={get('tp_src')}", f"tp_dst={get('tp_dst')}"]
    if get("nw_proto") == PROTO_TCP:
        flags = [name for bit, name in enumerate(_TCP_FLAGS) if get("tcp_flags") >> bit & 1]
        parts.append(f"tcp_flags={'|'.join(flags) or '0'}")
    return parts


def _icmp(get: Any) -> list[str]:
    parts = [f"icmp_type={get('tp_src')}", f"icmp_code={get('tp_dst')}"]
    if get("nd_target"):
        parts.append(f"nd_target={IPv6Address(get('nd_target'))}")
        parts += [
            f"{name}={mac_text(get(key))}" for name, key in (("nd_sll", "arp_sha"), ("nd_tll", "arp_tha")) if get(key)
        ]
    return parts

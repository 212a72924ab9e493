"""`Datapath actions:`, what a datapath without tables would have to do for such packets, as Open vSwitch writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flowshunt.datapath.tracing.record import Key
from flowshunt.packet.schema import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VLAN_PRESENT,
)
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.nat import write_nat
from flowshunt.rules.openflow.tracing.keys import full, header_places, read
from flowshunt.rules.openflow.values import write_ipv4, write_ipv6, write_mac

_PORTS = {PROTO_TCP: "tcp", PROTO_UDP: "udp", PROTO_SCTP: "sctp"}


class _Group(NamedTuple):
    """Header fields that are set together: its name, and place, name and writer of each field."""

    name: str
    fields: tuple[tuple[str, str, Callable[[int], str]], ...]


_ETH = _Group("eth", (("eth_src", "src", write_mac), ("eth_dst", "dst", write_mac)))
_IPV4 = _Group(
    "ipv4",
    (("nw_src", "src", write_ipv4), ("nw_dst", "dst", write_ipv4), ("nw_tos", "tos", hex), ("nw_ttl", "ttl", str)),
)
_IPV6 = _Group(
    "ipv6",
    (
        ("ipv6_src", "src", write_ipv6),
        ("ipv6_dst", "dst", write_ipv6),
        ("ipv6_label", "label", hex),
        ("nw_tos", "tclass", hex),
        ("nw_ttl", "hlimit", str),
    ),
)
_ARP = _Group(
    "arp",
    (
        ("nw_src", "sip", write_ipv4),
        ("nw_dst", "tip", write_ipv4),
        ("nw_proto", "op", str),
        ("arp_sha", "sha", write_mac),
        ("arp_tha", "tha", write_mac),
    ),
)


def _groups(key: Key) -> list[_Group]:
    """What can be set of a packet with this key."""
    kind, protocol = read(key, "eth_type"), read(key, "nw_proto")
    found = [_ETH]
    if kind == ETH_ARP:
        return [*found, _ARP]
    if kind not in (ETH_IPV4, ETH_IPV6):
        return found
    found.append(_IPV4 if kind == ETH_IPV4 else _IPV6)
    if "tp_src" not in header_places(key):
        return found
    if protocol in _PORTS:
        found.append(_Group(_PORTS[protocol], (("tp_src", "src", str), ("tp_dst", "dst", str))))
    elif protocol in (PROTO_ICMP, PROTO_ICMPV6):
        name = "icmp" if protocol == PROTO_ICMP else "icmpv6"
        found.append(_Group(name, (("tp_src", "type", str), ("tp_dst", "code", str))))
    return found


class DatapathActions:
    """Collects them. The packet has the key `base` when they begin."""

    def __init__(self, base: Key, port_name: Callable[[int], str]) -> None:
        """`port_name`: how the port of this number is written."""
        self._base = base
        self._port_name = port_name
        self.words: list[str] = []

    def commit(self, key: Key) -> None:
        """The packet's headers become those of `key`."""
        base, self._base = self._base, key
        before, after = read(base, "vlan_tci"), read(key, "vlan_tci")
        if before != after:
            if before & VLAN_PRESENT:
                self.words.append("pop_vlan")
            if after & VLAN_PRESENT:
                tpid = read(key, "vlan_tpid")
                kind = f"tpid={tpid:#06x}," if tpid not in (0, 0x8100) else ""
                self.words.append(f"push_vlan({kind}vid={after & 0xFFF},pcp={after >> 13})")
        for group in _groups(key):
            said = [
                f"{name}={write(read(key, place))}"
                for place, name, write in group.fields
                if read(key, place) != read(base, place)
            ]
            if said:
                self.words.append(f"set({group.name}({','.join(said)}))")

    def output(self, key: Key, ports: tuple[int, ...]) -> None:
        """Send to ports."""
        if ports:
            self.commit(key)
            self.words += [self._port_name(port) for port in ports]

    def truncate(self, size: int) -> None:
        """Cut what the next output sends."""
        self.words.append(f"trunc({size})")

    def inside(self, words: list[str]) -> None:
        """What another bridge does with the packet, which is as it was afterwards."""
        self.words += words

    def controller(self, key: Key, action: F.Controller, cookie: int) -> None:
        """Hand a copy to controllers."""
        self.commit(key)
        self.words.append(
            f"userspace(pid=0,controller(reason={action.reason},dont_send=0,continuation={int(action.pause)},"
            f"recirc_id=0,rule_cookie={f'{cookie:#x}' if cookie else '0'},controller_id={action.controller},"
            f"max_len={action.max_len}))"
        )

    def ct(self, key: Key, action: F.Ct, zone: int, marks: list[str], recirc_id: int | None) -> None:
        """Through the tracker, and on with recirculation `recirc_id`. `marks`: what exec writes, as words."""
        self.commit(key)
        said = ["force_commit" if action.force else "commit"] if action.commit else []
        if zone:
            said.append(f"zone={zone}")
        said += marks
        if action.alg is not None:
            said.append(f"helper={action.alg}")
        if action.nat is not None:
            said.append(write_nat(action.nat))
        self.words.append(f"ct({','.join(said)})" if said else "ct")
        if recirc_id is not None:
            self.words.append(f"recirc({recirc_id:#x})")

    def clear_ct(self) -> None:
        """Forget what the tracker said."""
        self.words.append("ct_clear")

    def meter(self, number: int) -> None:
        """Through a meter."""
        self.words.append(f"meter({number})")

    def text(self) -> str:
        """All of them."""
        return ",".join(self.words) or "drop"


def marks_of(exec_actions: tuple[F.SetField | F.Move, ...], after: Key) -> list[str]:
    """What the exec list of a ct action writes: `mark=V/M`, `label=V/M`, with the values that it wrote."""
    found = []
    for place, name in (("ct_mark", "mark"), ("ct_label", "label")):
        mask = 0
        for action in exec_actions:
            if action.dest.field == place:
                bits = action.mask if isinstance(action, F.SetField) else (1 << action.dest.width) - 1
                mask |= bits << action.dest.start
        if mask:
            found.append(f"{name}={read(after, place) & mask:#x}/{mask & full(place):#x}")
    return found

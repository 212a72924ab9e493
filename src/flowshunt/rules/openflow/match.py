"""A flow's match while it is read: fields are put together, then what can't be matched is taken out.

What counts is the last word on each bit: `nw_src` given twice replaces, `dl_vlan` and `dl_vlan_pcp` share vlan_tci.
Fields whose protocol isn't matched say nothing about a packet; like Open vSwitch, they are left out, with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from flowshunt.packet.schema import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    FIELDS,
    FRAG_LATER,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VLAN_PRESENT,
)
from flowshunt.rules.openflow.errors import BadValueError, quote
from flowshunt.rules.openflow.fields import ETH_RARP, PREREQUISITES, UserField
from flowshunt.rules.openflow.scanner import Context, Item
from flowshunt.rules.openflow.values import CT_STATE_FLAGS, PORT_MAX, PORT_UNSET, read_int, read_port

Triples = tuple[tuple[str, int, int], ...]

ND_SOLICIT = 135
ND_ADVERT = 136
_VLAN_NONE = 0xFFFF  # as dl_vlan: no tag
_VLAN_WHOLE = 0xFFFF

_NEW, _EST, _REL, _RPL, _INV, _TRK, _SNAT, _DNAT = (1 << bit for bit in range(len(CT_STATE_FLAGS)))
_TRACKED_WELL = _NEW | _EST | _REL | _RPL | _SNAT | _DNAT


class Facts(NamedTuple):
    """What a match says for sure, None where it leaves it open."""

    eth_type: int | None
    protocol: int | None
    icmp_type: int | None
    icmp_code: int | None
    tagged: bool
    ct_invalid: bool

    def fulfil(self, needs: str) -> bool:
        """Whether packets with these facts have what a field with that prerequisite, other than vlan, needs."""
        return needs in _fulfilled(self.eth_type, self.protocol, self.icmp_type, self.icmp_code)


@lru_cache(maxsize=1024)
def _fulfilled(eth_type: int | None, protocol: int | None, icmp_type: int | None, code: int | None) -> frozenset[str]:
    """Names in PREREQUISITES that a match with these facts fulfils, but for vlan; the empty one always."""
    found = {""}
    if eth_type == ETH_IPV4:
        found |= {"ipv4", "ip"}
    elif eth_type == ETH_IPV6:
        found |= {"ipv6", "ip"}
    elif eth_type in (ETH_ARP, ETH_RARP):
        found.add("arp")
    if "ip" in found:
        name = {PROTO_TCP: "tcp", PROTO_UDP: "udp", PROTO_SCTP: "sctp"}.get(protocol or 0)
        if name:
            found.add(name)
        if protocol == PROTO_ICMP and eth_type == ETH_IPV4:
            found.add("icmp")
        if protocol == PROTO_ICMPV6 and eth_type == ETH_IPV6:
            found.add("icmp6")
            if code in (None, 0) and icmp_type in (ND_SOLICIT, ND_ADVERT):
                found |= {"nd", "nd_solicit" if icmp_type == ND_SOLICIT else "nd_advert"}
    return frozenset(found)


_PLACE_NEEDS = {
    "nw_src": {"ipv4", "arp"},
    "nw_dst": {"ipv4", "arp"},
    "nw_proto": {"ip", "arp"},
    "nw_tos": {"ip"},
    "nw_ttl": {"ip"},
    "nw_frag": {"ip"},
    "ipv6_src": {"ipv6"},
    "ipv6_dst": {"ipv6"},
    "ipv6_label": {"ipv6"},
    "tp_src": {"tcp", "udp", "sctp", "icmp", "icmp6"},
    "tp_dst": {"tcp", "udp", "sctp", "icmp", "icmp6"},
    "tcp_flags": {"tcp"},
    "nd_target": {"nd"},
    "arp_sha": {"arp", "nd_solicit"},
    "arp_tha": {"arp", "nd_advert"},
}
_CT_TUPLE = {
    "ct_nw_src": "ipv4",
    "ct_nw_dst": "ipv4",
    "ct_ipv6_src": "ipv6",
    "ct_ipv6_dst": "ipv6",
    "ct_nw_proto": "",
    "ct_tp_src": "",
    "ct_tp_dst": "",
}


def _registers() -> dict[str, tuple[tuple[str, int], ...]]:
    wide = {f"xreg{n}": ((f"reg{2 * n}", 32), (f"reg{2 * n + 1}", 0)) for n in range(8)}
    return wide | {f"xxreg{n}": tuple((f"reg{4 * n + k}", 96 - 32 * k) for k in range(4)) for n in range(4)}


REGISTERS = _registers()
"""What wider registers are made of: the 32-bit ones and their bit positions in it; matches name those."""


def facts_of(match: Mapping[str, tuple[int, int]]) -> Facts:
    """The facts of a match of places to (value, mask)."""

    def exact(place: str) -> int | None:
        value, mask = match.get(place, (0, 0))
        return value if mask and mask == (1 << FIELDS[place].width) - 1 else None

    tci, tci_mask = match.get("vlan_tci", (0, 0))
    state, state_mask = match.get("ct_state", (0, 0))
    protocol = exact("nw_proto")
    is_icmp = protocol in (PROTO_ICMP, PROTO_ICMPV6)
    return Facts(
        eth_type=exact("eth_type"),
        protocol=protocol,
        icmp_type=exact("tp_src") if is_icmp else None,
        icmp_code=exact("tp_dst") if is_icmp else None,
        tagged=bool(tci & tci_mask & VLAN_PRESENT),
        ct_invalid=bool(state & state_mask & _INV),
    )


def has_connection(state: int, mask: int) -> bool:
    """Whether packets with these bits of ct_state belong to a connection, so that its original tuple is known."""
    return bool(state & _TRACKED_WELL) or bool(state & _TRK and mask & _INV and not state & _INV)


class MatchBuilder:
    """Collects the fields of one flow. `position` is where each place was given last, for messages."""

    __slots__ = ("bits", "context", "position")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.bits: dict[str, tuple[int, int]] = {}
        self.position: dict[str, int] = {}

    def protocol(self, eth_type: int, protocol: int | None, item: Item) -> None:
        """Match a protocol word."""
        self._put("eth_type", eth_type, 0xFFFF, 0xFFFF, item)
        if protocol is not None:
            self._put("nw_proto", protocol, 0xFF, 0xFF, item)

    def field(self, field: UserField, item: Item) -> None:
        """Match a field by the text of its value; `BadValueError` when it can't be read."""
        text = item.value
        if text == "*":
            return
        if not text:
            raise BadValueError(f"{field.name} has no value", f"write {field.name}=VALUE, without spaces")
        if field.place == "in_port":
            self._put("in_port", self._port(text, item), field.exact, field.exact, item)
        elif field.place == "vlan_tci" and field.width < 16:
            self._vlan(field, text, item)
        else:
            value, mask = field.read(text, field.width)
            full = (1 << field.width) - 1
            if not field.maskable and "/" in text and mask != full:
                raise BadValueError(f"{field.name} can't be masked", "leave out the mask")
            if mask == full:
                mask = field.exact
                if value >> field.high:
                    raise BadValueError(
                        f"{quote(text)} does not fit into {field.name}", f"0 to {(1 << field.high) - 1}"
                    )
                if value & ~field.exact >> field.shift:
                    self.context.tell(item.key_at, f"{item.key}={text}: only {field.exact:#x} of it counts")
            else:
                mask <<= field.shift
            self._put(field.place, value << field.shift, mask, field.exact, item)

    def subfield(self, field: UserField, start: int, width: int, item: Item) -> None:
        """Match some bits of a field by a number; the others stay as they are."""
        if not field.maskable and width != field.width:
            raise BadValueError(f"{field.name} can only be matched whole", f"write {field.name}=VALUE")
        value = read_int(item.value, width)
        if width == field.width:
            self._put(field.place, value << field.shift | field.preset, field.exact, field.exact, item)
            return
        mask = ((1 << width) - 1) << start + field.shift
        self._put(field.place, value << start + field.shift, mask, mask, item)

    def _port(self, text: str, item: Item) -> int:
        port = read_port(text, self.context.ports)
        if PORT_MAX < port < PORT_UNSET:
            self.context.tell(item.key_at, f"port {port} is reserved: no packet comes from it")
        return port

    def _vlan(self, field: UserField, text: str, item: Item) -> None:
        """dl_vlan, vlan_vid, vlan_pcp: parts of vlan_tci together with VLAN_PRESENT."""
        value, mask = field.read(text, 16)
        if "/" in text and not field.maskable and mask != 0xFFFF:
            raise BadValueError(f"{field.name} can't be masked", "leave out the mask, or match vlan_tci=VALUE/MASK")
        if field.name == "dl_vlan" and value == _VLAN_NONE:
            self._put("vlan_tci", 0, _VLAN_WHOLE, _VLAN_WHOLE, item)
            return
        region = field.exact
        if field.name == "vlan_vid":
            if value > region:
                raise BadValueError(f"{quote(text)} is not a vlan_vid", f"{VLAN_PRESENT:#x} + VLAN, or dl_vlan=VLAN")
            mask &= region
            if value & mask and mask & VLAN_PRESENT and not value & VLAN_PRESENT:
                self.context.tell(
                    item.key_at,
                    f"vlan_vid={text} has no bit {VLAN_PRESENT:#x}, so no packet matches: "
                    f"write dl_vlan={value} or vlan_vid={value | VLAN_PRESENT:#x}",
                )
        else:
            mask = region
            if value >> field.width:
                raise BadValueError(f"{quote(text)} is not a {item.key}", f"0 to {(1 << field.width) - 1}")
        self._put("vlan_tci", value << field.shift | field.preset, mask, region, item)

    def _put(self, place: str, value: int, mask: int, region: int, item: Item) -> None:
        """Replace the bits of `region` in the place's value and mask."""
        wide = REGISTERS.get(place)
        if wide is not None:
            for register, shift in wide:
                part = region >> shift & 0xFFFFFFFF
                if part:
                    self._put(register, value >> shift & 0xFFFFFFFF, mask >> shift & 0xFFFFFFFF, part, item)
            return
        old = self.bits.get(place)
        if old is not None:
            old_value, old_mask = old
            value |= old_value & ~region
            if (old_value ^ value) & old_mask & region or old_mask & region & ~mask:
                self.context.tell(item.key_at, f"{item.key} replaces what was said before: the last one counts")
            mask |= old_mask & ~region
        self.bits[place] = (value & mask, mask)
        self.position[place] = item.key_at

    def finish(self) -> tuple[Triples, Facts]:
        """The match, and what it says for sure; FlowSyntaxError when parts of it contradict each other."""
        bits = self.bits
        facts = facts_of(bits)
        fulfilled = _fulfilled(facts.eth_type, facts.protocol, facts.icmp_type, facts.icmp_code)
        found = []
        for place in sorted(bits):
            value, mask = bits[place]
            if not mask:
                continue
            needs = _PLACE_NEEDS.get(place)
            if needs is not None and needs.isdisjoint(fulfilled):
                ways = " or ".join(sorted(PREREQUISITES[name] for name in needs))
                self.context.tell(self.position[place], f"{place} is left out: the match has not {ways}")
                continue
            if place in _CT_TUPLE and not self._original_tuple(place, fulfilled):
                continue
            found.append((place, value, mask))
        if "tp_src" in bits or "tp_dst" in bits or "tcp_flags" in bits:
            self._transport(found)
        if len(found) < len(bits):
            facts = facts_of({place: (value, mask) for place, value, mask in found})
        return tuple(found), facts

    def _original_tuple(self, place: str, fulfilled: frozenset[str]) -> bool:
        """Whether this field of the original direction's tuple stays."""
        at = self.position[place]
        if not has_connection(*self.bits.get("ct_state", (0, 0))):
            hint = "add ct_state=+trk+est, +new, +rel, +rpl, or ct_state=+trk-inv"
            self.context.fail(at, place, f"{place} needs a connection in the match", hint)
        if _CT_TUPLE[place] not in fulfilled:
            self.context.fail(at, place, f"{place} needs {PREREQUISITES[_CT_TUPLE[place]]} in the match")
        if place.startswith("ct_tp_") and not self.bits.get("ct_nw_proto", (0, 0))[1]:
            self.context.tell(at, f"{place} is left out: the match has not ct_nw_proto=N")
            return False
        return True

    def _transport(self, found: list[tuple[str, int, int]]) -> None:
        """What is known of ports and flags must be there: not in later fragments, ICMP's types in a byte."""
        frag_value, frag_mask = self.bits.get("nw_frag", (0, 0))
        icmp = self.bits.get("nw_proto", (0, 0))[0] in (PROTO_ICMP, PROTO_ICMPV6)
        for place, value, _ in found:
            if place not in ("tp_src", "tp_dst", "tcp_flags"):
                continue
            if frag_value & frag_mask & FRAG_LATER:
                self.context.fail(self.position[place], place, "later fragments have no ports", "leave out one of both")
            if icmp and value > 0xFF:
                self.context.fail(self.position[place], place, "ICMP types and codes are 0 to 255")

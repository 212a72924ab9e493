"""Flow keys as fields of the flow language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from flowshunt.datapath.program import as_int64
from flowshunt.datapath.spreading import FOLD, PARTS, has_part
from flowshunt.jit import plain
from flowshunt.packet.schema import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    ETH_RARP,
    FIELDS,
    FRAG_ANY,
    FRAG_LATER,
    HEADER_WORDS,
    KEY_WORDS,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VLAN_PRESENT,
)
from flowshunt.rules.openflow.flow import Bundle, Multipath, Subfield
from flowshunt.rules.openflow.format import format_fields
from flowshunt.rules.openflow.links import HASH_FIELDS
from flowshunt.rules.openflow.match import ND_ADVERT, ND_SOLICIT

_WORD = (1 << 64) - 1
_PIPELINE = (
    "ct_state", "ct_zone", "ct_mark", "ct_label", *(f"reg{n}" for n in range(16)), "metadata",
)  # fmt: skip
_TRACKING = frozenset(name for name in FIELDS if name.startswith("ct_"))
_TUPLE_4 = ("ct_nw_src", "ct_nw_dst", "ct_nw_proto", "ct_tp_src", "ct_tp_dst")
_TUPLE_6 = ("ct_ipv6_src", "ct_ipv6_dst", *_TUPLE_4[2:])
_WITH_PORTS = (PROTO_TCP, PROTO_UDP, PROTO_SCTP)
_CT_STATE = 0xFF


def full(place: str) -> int:
    """The mask of a whole field."""
    return (1 << FIELDS[place].width) - 1


def read(key: tuple[int, ...], place: str) -> int:
    """The value of a field in a key, or of its mask in a list of masks."""
    field = FIELDS[place]
    if field.width > 64:
        return (key[field.word] & _WORD) << 64 | key[field.word + 1] & _WORD
    return (key[field.word] & _WORD) >> field.shift & full(place)


def read_part(key: tuple[int, ...], part: Subfield) -> int:
    """The value of some bits of a field in a key."""
    return read(key, part.field) >> part.start & ((1 << part.width) - 1)


def add_to_mask(mask: list[int], part: Subfield, bits: int | None = None) -> None:
    """Add bits of a field (all of `part` unless `bits` says which) to masks by word."""
    field = FIELDS[part.field]
    value = ((1 << part.width) - 1 if bits is None else bits) << part.start
    if field.width > 64:
        mask[field.word] |= as_int64(value >> 64)
        mask[field.word + 1] |= as_int64(value & _WORD)
    else:
        mask[field.word] |= as_int64(value << field.shift & _WORD)


def add_hashed(mask: list[int], action: Multipath | Bundle, key: Sequence[int]) -> None:
    """Add what a choice among links looks at in a packet of this key to masks by word."""
    if action.algorithm == "active_backup":
        return
    keys = np.array([key], np.int64)
    for part, bits in PARTS[HASH_FIELDS.index(action.fields)]:
        if plain(has_part)(keys, part >> 24):
            seen = as_int64((bits | bits >> 16 if part & FOLD else bits) & _WORD)
            mask[part & 0xFF] |= seen
            mask[part >> 8 & 0xFF] |= seen


def write(values: Iterable[tuple[str, int]]) -> tuple[int, ...]:
    """A key with these values in its fields, zeros elsewhere."""
    words = [0] * KEY_WORDS
    for place, value in values:
        field = FIELDS[place]
        if field.width > 64:
            words[field.word] |= value >> 64
            words[field.word + 1] |= value & _WORD
        else:
            words[field.word] |= value << field.shift
    return tuple(as_int64(word & _WORD) for word in words)


def header_places(key: tuple[int, ...]) -> list[str]:
    """The fields that the headers of a packet with this key have."""
    kind, protocol = read(key, "eth_type"), read(key, "nw_proto")
    found = ["vlan_tci", "eth_src", "eth_dst", "eth_type"]
    if kind in (ETH_ARP, ETH_RARP):
        return [*found, "nw_src", "nw_dst", "nw_proto", "arp_sha", "arp_tha"]
    if kind not in (ETH_IPV4, ETH_IPV6):
        return found
    found += ["nw_src", "nw_dst"] if kind == ETH_IPV4 else ["ipv6_src", "ipv6_dst", "ipv6_label"]
    found += ["nw_proto", "nw_tos", "nw_ttl", "nw_frag"]
    if read(key, "nw_frag") & FRAG_LATER:
        return found
    icmp = protocol == (PROTO_ICMP if kind == ETH_IPV4 else PROTO_ICMPV6)
    if protocol in _WITH_PORTS or icmp:
        found += ["tp_src", "tp_dst"]
    if protocol == PROTO_TCP:
        found.append("tcp_flags")
    if icmp and kind == ETH_IPV6 and read(key, "tp_src") in (ND_SOLICIT, ND_ADVERT):
        found += ["nd_target", "arp_sha" if read(key, "tp_src") == ND_SOLICIT else "arp_tha"]
    return found


def _tuple_places(key: tuple[int, ...]) -> tuple[str, ...]:
    """The fields of the original tuple, where there is one."""
    if not read(key, "ct_nw_proto"):
        return ()
    return _TUPLE_6 if read(key, "eth_type") == ETH_IPV6 else _TUPLE_4


def _joined(bits: Mapping[str, tuple[int, int]], recirc_id: int | None, names: Mapping[int, str]) -> str:
    """Fields as text, with the number of the recirculation before them and `eth` before the protocol."""
    if recirc_id is None:
        return format_fields(bits, names)
    tracking = format_fields({place: pair for place, pair in bits.items() if place in _TRACKING}, names)
    rest = format_fields({place: pair for place, pair in bits.items() if place not in _TRACKING}, names)
    head = f"recirc_id={recirc_id:#x}" if recirc_id else "recirc_id=0"
    return ",".join(part for part in (head, tracking, "eth", rest) if part)


def _fragment(key: tuple[int, ...]) -> tuple[int, int]:
    """nw_frag of a packet, as the match that has a name."""
    value = read(key, "nw_frag")
    return (FRAG_LATER, FRAG_LATER) if value & FRAG_LATER else (value & FRAG_ANY, FRAG_ANY | FRAG_LATER)


def flow_text(key: tuple[int, ...], recirc_id: int = 0, names: Mapping[int, str] | None = None) -> str:
    """A key as a flow, every field that its packet has, as Open vSwitch writes flows."""
    places = [place for place in (*_PIPELINE, *_tuple_places(key)) if read(key, place)]
    bits = {place: (read(key, place), full(place)) for place in (*places, "in_port", *header_places(key))}
    if "ct_state" in bits:
        bits["ct_state"] = bits["ct_state"][0] & _CT_STATE, _CT_STATE
    if "nw_frag" in bits:
        bits["nw_frag"] = _fragment(key)
    text = _joined(bits, recirc_id or None, names or {})
    if read(key, "vlan_tci") & VLAN_PRESENT:
        pcp = read(key, "vlan_tci") >> 13
        text = text.replace(f"dl_vlan_pcp={pcp}", f"dl_vlan_pcp={pcp},vlan_tci1={read(key, 'vlan2_tci'):#06x}", 1)
    return text


def megaflow_text(
    key: tuple[int, ...], mask: Iterable[int], recirc_id: int = 0, names: Mapping[int, str] | None = None
) -> str:
    """The part of a key that decided what became of its packet: fields with the bits that were looked at."""
    masks = tuple(mask)
    bits: dict[str, tuple[int, int]] = {}
    for place in (*_PIPELINE[:4], *_tuple_places(key), *header_places(key)):
        wanted = read(masks, place)
        if wanted:
            bits[place] = read(key, place) & wanted, wanted
    bits["in_port"] = read(key, "in_port"), full("in_port")
    bits["eth_type"] = read(key, "eth_type"), full("eth_type")
    if read(key, "eth_type") in (ETH_IPV4, ETH_IPV6):
        bits["nw_frag"] = _fragment(key)
    if "vlan_tci" in bits and not read(key, "vlan_tci") & VLAN_PRESENT:
        bits["vlan_tci"] = 0, bits["vlan_tci"][1] | VLAN_PRESENT
    return _joined(bits, recirc_id, names or {})


def headers_of(key: tuple[int, ...]) -> tuple[int, ...]:
    """The words of a key that come from the packet."""
    return key[:HEADER_WORDS]


def pipeline_of(key: tuple[int, ...]) -> dict[int, int]:
    """The other words of a key, those that are not zero."""
    return {word: key[word] for word in range(HEADER_WORDS, KEY_WORDS) if key[word]}

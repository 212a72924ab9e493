"""Matches of a fixed layout: OpenFlow 1.0 (`ofp_match`) and 1.1 (type 0). What they have no room for is not written.

A field whose protocol is not matched says nothing in OpenFlow 1.0 and is passed over, in both versions, as in Open
vSwitch.
"""

from __future__ import annotations

from struct import Struct

from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.match import Bits, Match, put_bits
from flowshunt.control.openflow.wire import port_from_32, port_to_32
from flowshunt.packet.schema import ETH_IPV4, ETH_IPV6, VLAN_PRESENT
from flowshunt.rules.openflow.fields import ETH_RARP
from flowshunt.rules.openflow.match import Triples, facts_of

_MATCH_10 = Struct("!IH6s6sHBxHBBxxIIHH")
_MATCH_11 = Struct("!HHII6s6s6s6sHBxHBBIIIIHHIB3xQQ")
SIZE_10 = _MATCH_10.size
SIZE_11 = _MATCH_11.size

(_IN_PORT, _DL_VLAN, _DL_SRC, _DL_DST, _DL_TYPE, _NW_PROTO, _TP_SRC, _TP_DST) = (1 << bit for bit in range(8))
_NW_SRC_SHIFT, _NW_DST_SHIFT = 8, 14
_PCP, _TOS = 1 << 20, 1 << 21
ALL_WILDCARDS_10 = 0x3820FF

(_IN_PORT_11, _VLAN_11, _PCP_11, _TYPE_11, _TOS_11, _PROTO_11, _SRC_11, _DST_11, _LABEL_11, _TC_11) = (
    1 << bit for bit in range(10)
)
_ALL_11 = 0x3FF

_VLAN_NONE = 0xFFFF
_VLAN_ANY_11 = 0xFFFE
_VID = 0xFFF
_MAC = (1 << 48) - 1
_ARP_TYPES = (0x0806, ETH_RARP)
_IP_TYPES = (ETH_IPV4, ETH_IPV6)
_PORTS = (6, 17, 132)
_ICMP = {ETH_IPV4: 1, ETH_IPV6: 58}


def _vlan(bits: Bits, vlan: int | None, pcp: int | None, any_vlan: bool) -> None:
    """Match on a tag; None is a wildcard, `any_vlan` says that there is one whatever its number."""
    if vlan == _VLAN_NONE:
        put_bits(bits, "vlan_tci", 0, 0xFFFF)
        return
    if any_vlan:
        put_bits(bits, "vlan_tci", VLAN_PRESENT, VLAN_PRESENT)
    elif vlan is not None:
        put_bits(bits, "vlan_tci", vlan & _VID | VLAN_PRESENT, _VID | VLAN_PRESENT)
    if pcp is not None:
        put_bits(bits, "vlan_tci", (pcp & 7) << 13 | VLAN_PRESENT, 0xE000 | VLAN_PRESENT)


def _network(bits: Bits, eth_type: int, tos: int | None, proto: int | None) -> None:
    if tos is not None and eth_type in _IP_TYPES:
        put_bits(bits, "nw_tos", tos & 0xFC, 0xFC)
    if proto is not None and eth_type in (*_IP_TYPES, *_ARP_TYPES):
        put_bits(bits, "nw_proto", proto, 0xFF)


def _address(bits: Bits, eth_type: int, place: str, value: int, mask: int) -> None:
    if mask and (eth_type == ETH_IPV4 or eth_type in _ARP_TYPES):
        put_bits(bits, place, value & mask, mask)


def _transport(bits: Bits, eth_type: int, proto: int | None, place: str, value: int) -> None:
    icmp = proto is not None and proto == _ICMP.get(eth_type)
    if eth_type in _IP_TYPES and (proto in _PORTS or icmp):
        if icmp and value > 0xFF:
            raise OpenFlowError("OFPBMC_BAD_VALUE", "ICMP types and codes are 0 to 255")
        put_bits(bits, place, value, 0xFFFF)


def _match(bits: Bits) -> Match:
    return Match(tuple(sorted([(place, *pair) for place, pair in bits.items()])), facts_of(bits))


def decode_match_10(data: bytes, at: int) -> Match:
    """The 40 bytes of an OpenFlow 1.0 match at `data[at:]`; the caller has checked that they are there."""
    (wild, in_port, dl_src, dl_dst, vlan, pcp, eth_type, tos, proto, nw_src, nw_dst, tp_src, tp_dst) = (
        _MATCH_10.unpack_from(data, at)
    )
    bits: Bits = {}
    if not wild & _IN_PORT:
        put_bits(bits, "in_port", in_port, 0xFFFFFFFF)
    if not wild & _DL_SRC:
        put_bits(bits, "eth_src", int.from_bytes(dl_src, "big"), _MAC)
    if not wild & _DL_DST:
        put_bits(bits, "eth_dst", int.from_bytes(dl_dst, "big"), _MAC)
    _vlan(bits, None if wild & _DL_VLAN else vlan, None if wild & _PCP else pcp, False)
    if wild & _DL_TYPE:
        return _match(bits)
    put_bits(bits, "eth_type", eth_type, 0xFFFF)
    known = None if wild & _NW_PROTO else proto
    _network(bits, eth_type, None if wild & _TOS else tos, known)
    for place, value, shift in (("nw_src", nw_src, _NW_SRC_SHIFT), ("nw_dst", nw_dst, _NW_DST_SHIFT)):
        free = min(wild >> shift & 0x3F, 32)
        _address(bits, eth_type, place, value, 0xFFFFFFFF >> free << free)
    if not wild & _TP_SRC:
        _transport(bits, eth_type, known, "tp_src", tp_src)
    if not wild & _TP_DST:
        _transport(bits, eth_type, known, "tp_dst", tp_dst)
    return _match(bits)


def decode_match_11(data: bytes, at: int) -> tuple[Match, int]:
    """The OpenFlow 1.1 match at `data[at:]`, and where it ends."""
    if len(data) - at < SIZE_11:
        raise OpenFlowError("OFPBMC_BAD_LEN", "the match is cut off")
    (
        kind, size, in_port, wild, dl_src, src_free, dl_dst, dst_free, vlan, pcp, eth_type, tos, proto,
        nw_src, nw_src_free, nw_dst, nw_dst_free, tp_src, tp_dst, _, _, metadata, metadata_free,
    ) = _MATCH_11.unpack_from(data, at)  # fmt: skip
    if kind != 0:
        raise OpenFlowError("OFPBMC_BAD_TYPE", f"unknown type of match {kind}")
    if size != SIZE_11:
        raise OpenFlowError("OFPBMC_BAD_LEN", f"a match of {size} bytes")
    if not wild & _LABEL_11 or not wild & _TC_11:
        raise OpenFlowError("OFPBMC_BAD_TAG", "MPLS labels can't be matched")
    bits: Bits = {}
    if not wild & _IN_PORT_11:
        port = port_from_32(in_port)
        if port is None:
            raise OpenFlowError("OFPBMC_BAD_VALUE", f"{in_port:#x} is not a port")
        put_bits(bits, "in_port", port, 0xFFFFFFFF)
    for place, address, free in (("eth_src", dl_src, src_free), ("eth_dst", dl_dst, dst_free)):
        mask = _MAC & ~int.from_bytes(free, "big")
        if mask:
            put_bits(bits, place, int.from_bytes(address, "big") & mask, mask)
    known_vlan = None if wild & _VLAN_11 else vlan
    _vlan(bits, known_vlan, None if wild & _PCP_11 else pcp, known_vlan == _VLAN_ANY_11)
    metadata_mask = ~metadata_free & (1 << 64) - 1
    if metadata_mask:
        put_bits(bits, "metadata", metadata & metadata_mask, metadata_mask)
    if not wild & _TYPE_11:
        put_bits(bits, "eth_type", eth_type, 0xFFFF)
        known = None if wild & _PROTO_11 else proto
        _network(bits, eth_type, None if wild & _TOS_11 else tos, known)
        _address(bits, eth_type, "nw_src", nw_src, ~nw_src_free & 0xFFFFFFFF)
        _address(bits, eth_type, "nw_dst", nw_dst, ~nw_dst_free & 0xFFFFFFFF)
        if not wild & _SRC_11:
            _transport(bits, eth_type, known, "tp_src", tp_src)
        if not wild & _DST_11:
            _transport(bits, eth_type, known, "tp_dst", tp_dst)
    return _match(bits), at + SIZE_11


def _tag(value: int, mask: int) -> tuple[int | None, int | None]:
    """VLAN and priority that a match on vlan_tci asks for, None for a wildcard."""
    if mask & VLAN_PRESENT and not value & VLAN_PRESENT:
        return _VLAN_NONE, None
    return (value & _VID if mask & _VID else None), (value >> 13 if mask & 0xE000 else None)


def _free_bits(mask: int) -> int:
    """How many low bits of an address are not compared, in OpenFlow 1.0's way: a prefix."""
    return 32 if not mask else (mask & -mask).bit_length() - 1


def encode_match_10(triples: Triples) -> bytes:
    """A match in the 40 bytes of OpenFlow 1.0."""
    bits = {place: (value, mask) for place, value, mask in triples}
    wild = ALL_WILDCARDS_10
    for place, flag in (
        ("in_port", _IN_PORT), ("eth_src", _DL_SRC), ("eth_dst", _DL_DST), ("eth_type", _DL_TYPE),
        ("nw_proto", _NW_PROTO), ("tp_src", _TP_SRC), ("tp_dst", _TP_DST), ("nw_tos", _TOS),
    ):  # fmt: skip
        if place in bits:
            wild &= ~flag
    vlan, pcp = _tag(*bits.get("vlan_tci", (0, 0)))
    wild &= ~((_DL_VLAN if vlan is not None else 0) | (_PCP if pcp is not None else 0))
    for place, shift in (("nw_src", _NW_SRC_SHIFT), ("nw_dst", _NW_DST_SHIFT)):
        wild = wild & ~(0x3F << shift) | _free_bits(bits.get(place, (0, 0))[1]) << shift

    def value(place: str) -> int:
        return bits.get(place, (0, 0))[0]

    return _MATCH_10.pack(
        wild,
        value("in_port") & 0xFFFF,
        value("eth_src").to_bytes(6, "big"),
        value("eth_dst").to_bytes(6, "big"),
        vlan or 0,
        pcp or 0,
        value("eth_type"),
        value("nw_tos") & 0xFC,
        value("nw_proto"),
        value("nw_src"),
        value("nw_dst"),
        value("tp_src"),
        value("tp_dst"),
    )


_WITH_MASKS = frozenset(("eth_src", "eth_dst", "nw_src", "nw_dst", "metadata"))
_WHOLE = {
    "in_port": 0xFFFFFFFF,
    "eth_type": 0xFFFF,
    "nw_proto": 0xFF,
    "nw_tos": 0xFC,
    "tp_src": 0xFFFF,
    "tp_dst": 0xFFFF,
}


def fits_match_11(triples: Triples) -> bool:
    """Whether OpenFlow 1.1's match has room for all of a match."""
    for place, value, mask in triples:
        if place == "vlan_tci":
            tagless = (value, mask) == (0, 0xFFFF)
            if not tagless and not (value & VLAN_PRESENT and mask & _VID in (0, _VID) and mask >> 13 in (0, 7)):
                return False
        elif place not in _WITH_MASKS and _WHOLE.get(place) != mask:
            return False
    return True


def encode_match_11(triples: Triples) -> bytes:
    """A match in the 88 bytes of OpenFlow 1.1; what does not fit is left out."""
    bits = {place: (value, mask) for place, value, mask in triples}
    wild = _ALL_11
    for place, flag in (
        ("in_port", _IN_PORT_11), ("eth_type", _TYPE_11), ("nw_proto", _PROTO_11), ("tp_src", _SRC_11),
        ("tp_dst", _DST_11), ("nw_tos", _TOS_11),
    ):  # fmt: skip
        if place in bits:
            wild &= ~flag
    vlan, pcp = _tag(*bits.get("vlan_tci", (0, 0)))
    if vlan is None and bits.get("vlan_tci", (0, 0))[1] & VLAN_PRESENT:
        vlan = _VLAN_ANY_11
    wild &= ~((_VLAN_11 if vlan is not None else 0) | (_PCP_11 if pcp is not None else 0))

    def value(place: str) -> int:
        return bits.get(place, (0, 0))[0]

    def free(place: str, width: int) -> int:
        return ~bits.get(place, (0, 0))[1] & (1 << width) - 1

    return _MATCH_11.pack(
        0, SIZE_11, port_to_32(value("in_port")), wild,
        value("eth_src").to_bytes(6, "big"), free("eth_src", 48).to_bytes(6, "big"),
        value("eth_dst").to_bytes(6, "big"), free("eth_dst", 48).to_bytes(6, "big"),
        vlan or 0, pcp or 0, value("eth_type"), value("nw_tos") & 0xFC, value("nw_proto"),
        value("nw_src"), free("nw_src", 32), value("nw_dst"), free("nw_dst", 32),
        value("tp_src"), value("tp_dst"), 0, 0, value("metadata"), free("metadata", 64),
    )  # fmt: skip

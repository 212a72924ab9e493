"""Matches as lists of fields: NXM of Nicira's messages, OXM of OpenFlow 1.2 and later.

Both are one codec, driven by the table in `fields`. Reading a header is one look-up in `_READERS`, and matches that
differ in values only are read by their *layout* (see `layouts`); writing a match looks up the *plan* of its mask: which
header each field gets, and where its value lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.fields import (
    BY_EXPERIMENTER,
    BY_NUMBER,
    COOKIE,
    EXPERIMENTER,
    HAS_MASK,
    IN_PORT_32,
    PACKET_TYPE,
    WIRE_FIELDS,
    WireField,
)
from flowshunt.control.openflow.layouts import Layouts, Seen
from flowshunt.control.openflow.wire import OF10, OF12, align, padded, port_from_32, port_to_32
from flowshunt.packet.schema import FRAG_LATER, VLAN_PRESENT
from flowshunt.rules.openflow.flow import Subfield
from flowshunt.rules.openflow.format import field_of
from flowshunt.rules.openflow.match import REGISTERS, Facts, Triples, facts_of, has_connection

Bits = dict[str, tuple[int, int]]

OXM_TYPE = 1
_VID_AND_PRESENT = 0x1FFF
_PCP = 0xE000
_ORIGINAL_TUPLE = frozenset(place for place in WIRE_FIELDS if place.startswith(("ct_nw_", "ct_ipv6_", "ct_tp_")))


class Match(NamedTuple):
    """What a match says: the triples of `flow.Flow.match`, and the cookie that stands among its fields in NXM."""

    triples: Triples
    facts: Facts
    cookie: int = 0
    cookie_mask: int = 0


class _Reader(NamedTuple):
    """What one header says about the bytes behind it."""

    size: int
    masked: bool
    wire: WireField
    place: str
    shift: int
    held: int  # bits of the value that the switch holds
    exact: int  # mask of an exact match, in the place
    preset: int


def _reader(wire: WireField, masked: bool) -> _Reader:
    field = wire.field
    held = (1 << field.high) - (1 << field.low)
    if field.name == "vlan_vid":
        held = field.exact
    return _Reader(wire.size, masked, wire, field.place, field.shift, held, field.exact, field.preset)


def _readers() -> dict[int, _Reader]:
    found = {}
    for number, wire in BY_NUMBER.items():
        found[number << 9 | wire.size] = _reader(wire, False)
        found[number << 9 | HAS_MASK | 2 * wire.size] = _reader(wire, True)
    return found


_READERS: Mapping[int, _Reader] = _readers()


def find_field(data: bytes, at: int, end: int) -> tuple[WireField, int, bool, int]:
    """The field that the header at `data[at:end)` names: it, its payload's size, whether it has a mask, and where the
    payload starts. Raises OpenFlowError for what is none, has the wrong size, or does not fit.
    """
    if end - at < 4:
        raise OpenFlowError("OFPBMC_BAD_LEN", "a header of a field is cut off")
    header = int.from_bytes(data[at : at + 4], "big")
    at += 4
    number, size = header >> 9, header & 0xFF
    wire = BY_NUMBER.get(number)
    if number >> 7 == EXPERIMENTER:
        if end - at < 4 or size < 4:
            raise OpenFlowError("OFPBMC_BAD_LEN", "an experimenter's field is cut off")
        wire = BY_EXPERIMENTER.get((number, int.from_bytes(data[at : at + 4], "big")))
        at, size = at + 4, size - 4
    if wire is None:
        raise OpenFlowError("OFPBMC_BAD_FIELD", f"unknown field {number >> 7:#06x}:{number & 0x7F}")
    return wire, size, bool(header & HAS_MASK), at


LAYOUTS = Layouts()
"""What is known of the matches that were read."""


def decode_fields(data: bytes) -> Match:
    """The match that a list of fields (without padding) says.

    Prerequisites may stand anywhere in the list. Raises OpenFlowError with OFPBMC_*.
    """
    found = LAYOUTS.find(data)
    if found is not None:
        layout, number = found
        return Match(layout.read(number), layout.facts)
    seen: list[Seen] = []
    match = read_fields(data, seen)
    if len(seen) and not match.cookie_mask:
        LAYOUTS.learn(data, seen, match.triples, match.facts)
    return match


def read_fields(data: bytes, seen: list[Seen]) -> Match:
    """`decode_fields`, field by field; `seen` gets those that say something about packets."""
    bits: Bits = {}
    needs: set[str] = set()
    cookie = cookie_mask = 0
    at, end = 0, len(data)
    readers = _READERS
    while at < end:
        reader = readers.get(int.from_bytes(data[at : at + 4], "big"))
        if reader is None or at + 4 + (size := reader.size) * (2 if reader.masked else 1) > end:
            if int.from_bytes(data[at : at + 4], "big") >> 9 == COOKIE:
                if cookie_mask:
                    raise OpenFlowError("OFPBMC_DUP_FIELD", "the cookie is given twice")
                cookie, cookie_mask, at = _cookie(data, at)
                continue
            reader, at = _odd_reader(data, at, end)
            if reader is None:
                continue
            size = reader.size
        else:
            at += 4
        value = int.from_bytes(data[at : at + size], "big")
        at += size
        value_end = at
        mask = -1
        if reader.masked:
            mask = int.from_bytes(data[at : at + size], "big")
            at += size
        place_mask = _take(bits, reader, value, mask)
        if place_mask:
            seen.append(Seen(reader.place, value_end, reader.held, reader.shift, place_mask, reader.wire.is_port))
        if reader.wire.field.needs:
            needs.add(reader.wire.field.needs)
    return _finish(bits, needs, cookie, cookie_mask)


def _odd_reader(data: bytes, at: int, end: int) -> tuple[_Reader | None, int]:
    """The reader of a rare header and where its payload starts; None for a field that says nothing here."""
    if end - at >= 8 and int.from_bytes(data[at : at + 4], "big") == PACKET_TYPE << 9 | 4:
        if data[at + 4 : at + 8] != bytes(4):
            raise OpenFlowError("OFPBMC_BAD_VALUE", "only Ethernet packets come in")
        return None, at + 8
    wire, size, masked, at = find_field(data, at, end)
    if size != (2 * wire.size if masked else wire.size) or at + size > end:
        raise OpenFlowError("OFPBMC_BAD_LEN", f"{wire.field.name} has {size} bytes")
    return _reader(wire, masked), at


def _cookie(data: bytes, at: int) -> tuple[int, int, int]:
    masked = bool(data[at + 2] & 1)
    size = data[at + 3]
    if size != (16 if masked else 8) or at + 4 + size > len(data):
        raise OpenFlowError("OFPBMC_BAD_LEN", f"the cookie has {size} bytes")
    at += 4
    mask = int.from_bytes(data[at + 8 : at + 16], "big") if masked else (1 << 64) - 1
    value = int.from_bytes(data[at : at + 8], "big")
    if value & ~mask:
        raise OpenFlowError("OFPBMC_BAD_WILDCARDS", "the cookie has bits outside its mask")
    return value, mask, at + size


def _take(bits: Bits, reader: _Reader, value: int, mask: int) -> int:
    """Put a field into the match; a mask of -1 is none. Returns the mask in its place, 0 when it says nothing."""
    if reader.wire.is_port:
        value, mask = _port(value, mask)
    held = reader.held
    if mask >= 0:
        if value & ~mask:
            raise OpenFlowError("OFPBMC_BAD_WILDCARDS", f"{reader.wire.field.name} has bits outside its mask")
        if not mask & held:
            return 0
        if mask & held == held:
            mask = -1
        elif not reader.wire.field.maskable:
            raise OpenFlowError("OFPBMC_BAD_MASK", f"{reader.wire.field.name} can't be masked")
    if value & ~held:
        raise OpenFlowError("OFPBMC_BAD_VALUE", f"{reader.wire.field.name} can't be {value:#x}")
    place_mask = reader.exact if mask < 0 else (mask & held) << reader.shift
    value = value << reader.shift | reader.preset
    wide = REGISTERS.get(reader.place)
    if wide is None:
        put_bits(bits, reader.place, value, place_mask)
        return place_mask
    for register, at in wide:
        part = place_mask >> at & 0xFFFFFFFF
        if part:
            put_bits(bits, register, value >> at & 0xFFFFFFFF, part)
    return place_mask


def _port(value: int, mask: int) -> tuple[int, int]:
    if mask not in (-1, 0xFFFFFFFF):
        raise OpenFlowError("OFPBMC_BAD_MASK", "in_port can't be masked")
    port = port_from_32(value)
    if port is None:
        raise OpenFlowError("OFPBMC_BAD_VALUE", f"{value:#x} is not a port")
    return port, -1


def put_bits(bits: Bits, place: str, value: int, mask: int) -> None:
    """Add bits to a match; OFPBMC_DUP_FIELD when they are there, except that a tag's presence may be said twice."""
    old = bits.get(place)
    if old is not None:
        both = old[1] & mask
        if both & ~(VLAN_PRESENT if place == "vlan_tci" else 0) or (old[0] ^ value) & both:
            raise OpenFlowError("OFPBMC_DUP_FIELD", f"{place} is matched twice")
        value, mask = value | old[0], mask | old[1]
    bits[place] = (value & mask, mask)


def _finish(bits: Bits, needs: set[str], cookie: int, cookie_mask: int) -> Match:
    facts = facts_of(bits)
    for need in needs:
        if need != "vlan" and not facts.fulfil(need):
            raise OpenFlowError("OFPBMC_BAD_PREREQ", f"a field needs {need}")
    check_bits(bits)
    triples = tuple(sorted([(place, value, mask) for place, (value, mask) in bits.items()]))
    return Match(triples, facts, cookie, cookie_mask)


def check_bits(bits: Bits) -> None:
    """What a match may not combine: ports of later fragments, the tuple of a connection without one."""
    if not _ORIGINAL_TUPLE.isdisjoint(bits):
        _check_tuple(bits)
    if "nw_frag" in bits and bits["nw_frag"][0] & FRAG_LATER:
        for place in ("tp_src", "tp_dst", "tcp_flags"):
            if place in bits:
                raise OpenFlowError("OFPBMC_BAD_PREREQ", "later fragments have no ports")


def _check_tuple(bits: Bits) -> None:
    if not has_connection(*bits.get("ct_state", (0, 0))):
        raise OpenFlowError("OFPBMC_BAD_PREREQ", "the original tuple needs a ct_state with a connection")
    if ("ct_tp_src" in bits or "ct_tp_dst" in bits) and not bits.get("ct_nw_proto", (0, 0))[1]:
        raise OpenFlowError("OFPBMC_BAD_PREREQ", "ct_tp_src and ct_tp_dst need ct_nw_proto")


def decode_oxm_match(data: bytes, at: int) -> tuple[Match, int]:
    """The `ofp_match` of OpenFlow 1.2 and later at `data[at:]`, and where it ends with its padding."""
    if len(data) - at < 8:
        raise OpenFlowError("OFPBMC_BAD_LEN", "the match is cut off")
    kind = int.from_bytes(data[at : at + 2], "big")
    size = int.from_bytes(data[at + 2 : at + 4], "big")
    if kind != OXM_TYPE:
        raise OpenFlowError("OFPBMC_BAD_TYPE", f"unknown type of match {kind}")
    end = at + align(size)
    if size < 4 or end > len(data):
        raise OpenFlowError("OFPBMC_BAD_LEN", f"a match of {size} bytes")
    return decode_fields(data[at + 4 : at + size]), end


def decode_nxm_match(data: bytes, at: int, size: int) -> tuple[Match, int]:
    """The NXM fields of `size` bytes at `data[at:]`, and where their padding ends."""
    end = at + align(size)
    if end > len(data):
        raise OpenFlowError("OFPBMC_BAD_LEN", f"a match of {size} bytes")
    return decode_fields(data[at : at + size]), end


# --- writing ----------------------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """One field of a plan: which triple holds its value, how far from the right, and the bytes around it."""

    triple: int
    shift: int
    select: int
    size: int
    header: bytes
    mask: bytes
    is_port: bool


class _Plan(NamedTuple):
    """How matches of one mask are written: as a number of `size` bytes that begins as `frame`, headers and masks.

    `values`: which triple, how far its value moves right, which of its bits count, how far these move left, and whether
    they are a port.
    """

    size: int
    frame: int
    values: tuple[tuple[int, int, int, int, bool], ...]


_ORDER = {name: rank for rank, name in enumerate(WIRE_FIELDS)}


def encode_fields(triples: Triples, version: int) -> bytes:
    """A match as a list of fields: NXM in OpenFlow 1.0, OXM in 1.2 and later."""
    key = tuple([
        (place, mask, value if place in _DECIDING else 0) for place, value, mask in triples
    ])  # fmt: skip
    size, number, values = _plan(key, max(version, OF10))
    for index, right, select, left, is_port in values:
        value = triples[index][1] >> right & select
        number |= (port_to_32(value) if is_port else value) << left
    return number.to_bytes(size, "big")


_DECIDING = frozenset(("eth_type", "nw_proto", "vlan_tci"))
"""Places whose values decide how others are named."""


@lru_cache(maxsize=4096)
def _plan(key: tuple[tuple[str, int, int], ...], version: int) -> _Plan:
    facts = facts_of({place: (value, mask) for place, mask, value in key})
    steps: list[tuple[int, _Step]] = []
    for index, (place, mask, value) in enumerate(key):
        for name, part in _names(place, value, mask, facts, version):
            wire = WIRE_FIELDS[name]
            steps.append((_ORDER[name], _step(index, wire, part, version)))
    in_order = [step for _, step in sorted(steps, key=lambda pair: pair[0])]
    frame = b"".join(step.header + bytes(step.size) + step.mask for step in in_order)
    values = []
    left = 8 * len(frame)
    for step in in_order:
        left -= 8 * (len(step.header) + step.size)
        values.append((step.triple, step.shift, step.select, left, step.is_port))
        left -= 8 * len(step.mask)
    return _Plan(len(frame), int.from_bytes(frame, "big"), tuple(values))


def _names(place: str, value: int, mask: int, facts: Facts, version: int) -> list[tuple[str, int]]:
    """The fields that say `mask` of a place, each with its part of the mask."""
    oxm = version >= OF12
    if place == "in_port":
        return [(IN_PORT_32 if oxm else "in_port", mask)]
    if place == "vlan_tci":
        usual = value & VLAN_PRESENT and mask & _PCP in (0, _PCP)
        if not oxm or (mask & _PCP and not usual):
            return [("vlan_tci", mask)]
        parts = [("vlan_vid", mask & _VID_AND_PRESENT)] if mask & _VID_AND_PRESENT else []
        return parts + ([("vlan_pcp", mask & (_PCP | VLAN_PRESENT))] if mask & _PCP else [])
    if place == "nw_tos":
        tos = [("ip_dscp" if oxm else "nw_tos", mask & 0xFC)] if mask & 0xFC else []
        return tos + ([("nw_ecn", mask & 3)] if mask & 3 else [])
    if place == "nw_frag":
        return [("ip_frag", mask)]
    if place in ("arp_sha", "arp_tha") and not facts.fulfil("arp"):
        return [("nd_sll" if place == "arp_sha" else "nd_tll", mask)]
    return [(field_of(Subfield(place, 0, 8), facts).name, mask)]


def _step(index: int, wire: WireField, part: int, version: int) -> _Step:
    field = wire.field
    exact = wire.is_port or (part | field.preset) == field.exact
    if field.name in ("icmp_type", "icmp_code", "icmpv6_type", "icmpv6_code"):
        exact = True
    select = (1 << 8 * wire.size) - 1
    mask = b""
    if field.name == "vlan_vid":
        select = _VID_AND_PRESENT
    elif field.name == "vlan_pcp":
        select = 7
    elif field.place == "nw_tos":
        select = {"nw_tos": 0xFC, "ip_dscp": 0x3F, "nw_ecn": 3}[field.name]
    if not exact:
        mask = (part >> field.shift).to_bytes(wire.size, "big")
    return _Step(index, field.shift, select, wire.size, wire.header(version, masked=not exact), mask, wire.is_port)


def encode_oxm_match(triples: Triples, version: int) -> bytes:
    """A match as `ofp_match` with a list of fields, padded: OXM, or NXM in OpenFlow 1.1."""
    fields = encode_fields(triples, version)
    return padded(OXM_TYPE.to_bytes(2, "big") + (4 + len(fields)).to_bytes(2, "big") + fields)

"""Actions that read or change fields: set_field, load, move, the mod_* actions, VLAN tags; and parts of fields.

Which fields they may use depends on the flow's match, as in Open vSwitch: what a packet of the flow need not have can't
be set or read. The old mod_* actions are the exception: they pass over packets without their header.
"""

from __future__ import annotations

from typing import NamedTuple

from flowshunt.packet.schema import (
    ETH_IPV4,
    ETH_IPV6,
    ETH_QINQ,
    ETH_VLAN,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VLAN_PRESENT,
)
from flowshunt.rules.openflow import values
from flowshunt.rules.openflow.errors import BadValueError, quote
from flowshunt.rules.openflow.fields import PREREQUISITES, UNSUPPORTED, USER_FIELDS, UserField, field_named
from flowshunt.rules.openflow.flow import Action, Move, PopVlan, PushVlan, SetField, Subfield
from flowshunt.rules.openflow.match import Facts
from flowshunt.rules.openflow.scanner import Context, Item
from flowshunt.rules.openflow.values import nearest, read_int, read_masked_int

Actions = tuple[Action, ...]

_IN_EXEC = ("ct_mark", "ct_label")
_TRANSPORTS = (PROTO_TCP, PROTO_UDP, PROTO_SCTP)
_VID = Subfield("vlan_tci", 0, 12)
_VID_AND_TAG = Subfield("vlan_tci", 0, 13)
_TAG_AND_PCP = Subfield("vlan_tci", 12, 4)
_PCP = Subfield("vlan_tci", 13, 3)
_DSCP = Subfield("nw_tos", 2, 6)
_ECN = Subfield("nw_tos", 0, 2)


class FieldPart(NamedTuple):
    """Bits `[start, start + width)` of a field, as a text names them."""

    field: UserField
    start: int
    width: int

    @property
    def held(self) -> tuple[int, int]:
        """The half-open range of the field's bits in this part that a packet has."""
        return max(self.start, self.field.low), min(self.start + self.width, self.field.high)

    def subfield(self) -> Subfield:
        """Where those bits lie."""
        low, high = self.held
        if low >= high:
            raise BadValueError(f"these bits of {self.field.name} are always zero")
        return Subfield(self.field.place, low + self.field.shift, high - low)


def read_part(text: str) -> FieldPart:
    """`field`, `field[]`, `field[bit]` or `field[first..last]`, by any name of the field."""
    name, bracket, rest = text.partition("[")
    field = field_named(name)
    if field is None:
        if name in UNSUPPORTED:
            raise BadValueError(f"not supported yet: field {name}", word=name)
        hint = nearest(name, list(USER_FIELDS)) or "write reg0[], NXM_NX_REG0[0..15] and the like"
        raise BadValueError(f"unknown field {quote(name)}" if name else "a field is missing", hint, name)
    if not bracket or rest == "]":
        return FieldPart(field, 0, field.width)
    first, dots, last = rest.removesuffix("]").partition("..")
    last = last if dots else first
    if not rest.endswith("]") or not (_is_bit(first) and _is_bit(last)):
        raise BadValueError(f"{quote(text)} is no part of a field", f"write {name}[], {name}[3] or {name}[0..15]", text)
    start, end = int(first), int(last)
    if start > end or end >= field.width:
        raise BadValueError(
            f"{quote(text)} is not within {name}", f"bits 0 to {field.width - 1}, the lowest first", text
        )
    return FieldPart(field, start, end - start + 1)


def _is_bit(text: str) -> bool:
    return text.isdigit() and text.isascii() and len(text) <= 4


def full_mask(width: int) -> int:
    """A mask of `width` ones."""
    return (1 << width) - 1


def set_bits(dest: Subfield, value: int) -> SetField:
    """The action that sets all of `dest`."""
    return SetField(dest, value, full_mask(dest.width))


def set_masked(place: str, value: int, mask: int) -> Actions:
    """The actions that set the bits of `mask`: one for each run of ones, the lowest first."""
    found = []
    start = 0
    while mask:
        gap = (mask & -mask).bit_length() - 1
        start += gap
        mask >>= gap
        width = (~mask & (mask + 1)).bit_length() - 1
        found.append(set_bits(Subfield(place, start, width), value >> start & full_mask(width)))
        start += width
        mask >>= width
    return tuple(found)


def copy_part(source: FieldPart, dest: FieldPart) -> Actions:
    """The actions that copy one part to another of equal width; bits that only the destination has become zero."""
    (low, high), (dest_low, dest_high) = source.held, dest.held
    low, high = low - source.start + dest.start, high - source.start + dest.start
    first, last = max(low, dest_low), min(high, dest_high)
    found: list[Action] = []
    if first < last:
        back = source.start - dest.start + source.field.shift
        found.append(
            Move(
                Subfield(source.field.place, first + back, last - first),
                Subfield(dest.field.place, first + dest.field.shift, last - first),
            )
        )
    else:
        first = last = dest_high
    for start, end in ((dest_low, first), (last, dest_high)):
        if start < end:
            found.append(set_bits(Subfield(dest.field.place, start + dest.field.shift, end - start), 0))
    return tuple(found)


class FieldActions:
    """Reads the field actions of one flow. `in_exec`: within the exec of a ct; `tagged`: packets have a VLAN tag."""

    __slots__ = ("context", "facts", "in_exec", "tagged")

    def __init__(self, context: Context, facts: Facts) -> None:
        self.context = context
        self.facts = facts
        self.tagged = facts.tagged
        self.in_exec = False

    def source(self, text: str) -> FieldPart:
        """The part of a field that an action reads."""
        part = read_part(text)
        self._check_prerequisite(part.field)
        return part

    def dest(self, text: str) -> FieldPart:
        """The part of a field that an action writes."""
        part = read_part(text)
        field = part.field
        if not field.settable:
            raise BadValueError(f"{field.name} is read-only", word=text)
        if self.in_exec and field.place not in _IN_EXEC:
            raise BadValueError(f"{field.name} can't be changed inside exec", "there, set ct_mark or ct_label only")
        if not self.in_exec and field.place in _IN_EXEC:
            raise BadValueError(
                f"{field.name} can only be changed by ct", f"write ct(commit,exec(set_field:VALUE->{field.name}))"
            )
        self._check_prerequisite(field)
        return part

    def _check_prerequisite(self, field: UserField) -> None:
        if not (self.tagged if field.needs == "vlan" else self.facts.fulfil(field.needs)):
            raise BadValueError(f"the flow's packets need not have {field.name}", f"match {PREREQUISITES[field.needs]}")

    def set_field(self, item: Item) -> Actions:
        """`set_field:VALUE[/MASK]->FIELD`."""
        text, arrow, target = item.value.partition("->")
        if not arrow:
            raise BadValueError(f"{quote(item.value)} lacks a destination", "write set_field:VALUE[/MASK]->FIELD")
        part = self.dest(target)
        field = part.field
        if field.place == "in_port" and part.width == field.width:
            value, mask = values.read_port(text, self.context.ports), full_mask(16)
        elif field.place == "vlan_tci" and field.width == 12 and part.width == 12:
            value, mask = read_masked_int(text, 13)
            value, mask = value & 0xFFF, mask & 0xFFF
        elif part.width == field.width:
            value, mask = field.read(text, field.width)
        else:
            value, mask = read_masked_int(text, part.width)
        if not field.maskable and "/" in text and mask != full_mask(part.width):
            raise BadValueError(f"{field.name} can't be masked", "leave out the mask")
        value &= mask
        value, mask = value << part.start, mask << part.start
        held = full_mask(field.high) & ~full_mask(field.low)
        if value & ~held:
            raise BadValueError(f"{quote(text)} is not valid for {field.name}", f"it has the bits {held:#x}")
        return set_masked(field.place, value << field.shift, (mask & held) << field.shift)

    def load(self, item: Item) -> Actions:
        """`load:VALUE->FIELD[FIRST..LAST]`."""
        text, arrow, target = item.value.partition("->")
        if not arrow:
            raise BadValueError(f"{quote(item.value)} lacks a destination", "write load:VALUE->FIELD[FIRST..LAST]")
        part = self.dest(target)
        low, high = part.held
        value = read_int(text, part.width)
        if value >> (high - part.start):
            raise BadValueError(f"{quote(text)} does not fit into {target}", f"0 to {full_mask(high - part.start):#x}")
        return (set_bits(part.subfield(), value >> (low - part.start)),)

    def move(self, item: Item) -> Actions:
        """`move:FIELD[FIRST..LAST]->FIELD[FIRST..LAST]`; bits that only the destination has become zero."""
        text, arrow, target = item.value.partition("->")
        if not arrow:
            raise BadValueError(f"{quote(item.value)} lacks a destination", "write move:FIELD[]->FIELD[]")
        source, dest = self.source(text), self.dest(target)
        if source.width != dest.width:
            raise BadValueError(
                f"{text} has {source.width} bits, but {target} has {dest.width}",
                "name parts of the same width, like reg0[0..15]",
            )
        return copy_part(source, dest)

    def mod_dl(self, item: Item) -> Actions:
        """mod_dl_src and mod_dl_dst."""
        value, mask = values.read_mac(item.value)
        if mask != values.MAC_FULL:
            raise BadValueError(f"{item.key} takes no mask", "write set_field:ADDRESS/MASK->eth_src")
        return (set_bits(Subfield("eth" + item.key[-4:].lower(), 0, 48), value),)

    def mod_nw(self, item: Item) -> Actions:
        """mod_nw_src and mod_nw_dst."""
        value, _ = values.read_ipv4(item.value)
        if "/" in item.value:
            raise BadValueError(f"{item.key} takes no mask", "write set_field:ADDRESS/MASK->ip_src")
        if self._never(item, self.facts.eth_type not in (None, ETH_IPV4)):
            return ()
        return (set_bits(Subfield("nw" + item.key[-4:].lower(), 0, 32), value),)

    def mod_nw_tos(self, item: Item) -> Actions:
        """mod_nw_tos: the six bits of the DSCP, at their place in the byte."""
        value = read_int(item.value, 8)
        if value & 3:
            raise BadValueError(f"{quote(item.value)} is not a TOS without ECN", "a multiple of 4, see mod_nw_ecn")
        if self._never(item, self.facts.eth_type not in (None, ETH_IPV4, ETH_IPV6)):
            return ()
        return (set_bits(_DSCP, value >> 2),)

    def mod_nw_ecn(self, item: Item) -> Actions:
        """mod_nw_ecn."""
        self._check_prerequisite(USER_FIELDS["nw_ecn"])
        return (set_bits(_ECN, read_int(item.value, 2)),)

    def mod_nw_ttl(self, item: Item) -> Actions:
        """mod_nw_ttl."""
        self._check_prerequisite(USER_FIELDS["nw_ttl"])
        return (set_bits(Subfield("nw_ttl", 0, 8), read_int(item.value, 8)),)

    def mod_tp(self, item: Item) -> Actions:
        """mod_tp_src and mod_tp_dst."""
        value = read_int(item.value, 16)
        other = self.facts.eth_type not in (None, ETH_IPV4, ETH_IPV6)
        if self._never(item, other or self.facts.protocol not in (None, *_TRANSPORTS)):
            return ()
        return (set_bits(Subfield("tp" + item.key[-4:].lower(), 0, 16), value),)

    def _never(self, item: Item, never: bool) -> bool:
        """Tell, when so, that an action changes no packet that the flow matches."""
        if never:
            self.context.tell(item.key_at, f"{item.key} is left out: it changes none of the packets that match")
        return never

    def mod_vlan_vid(self, item: Item) -> Actions:
        """mod_vlan_vid: adds a tag where there is none."""
        self.tagged = True
        return (set_bits(_VID_AND_TAG, read_int(item.value, 12) | VLAN_PRESENT),)

    def mod_vlan_pcp(self, item: Item) -> Actions:
        """mod_vlan_pcp: adds a tag where there is none."""
        self.tagged = True
        return (set_bits(_TAG_AND_PCP, read_int(item.value, 3) << 1 | 1),)

    def set_vlan_vid(self, item: Item) -> Actions:
        """set_vlan_vid: packets without a tag stay so."""
        return (set_bits(_VID, read_int(item.value, 12)),)

    def set_vlan_pcp(self, item: Item) -> Actions:
        """set_vlan_pcp: packets without a tag stay so."""
        return (set_bits(_PCP, read_int(item.value, 3)),)

    def push_vlan(self, item: Item) -> Actions:
        """push_vlan."""
        tpid = read_int(item.value, 16)
        if tpid not in (ETH_VLAN, ETH_QINQ):
            raise BadValueError(f"{quote(item.value)} is not the type of a VLAN tag", "0x8100 or 0x88a8")
        self.tagged = True
        return (PushVlan(tpid),)

    def pop_vlan(self, item: Item) -> Actions:
        """pop_vlan and strip_vlan."""
        self.tagged = False
        return (PopVlan(),)

    def write_metadata(self, item: Item) -> Actions:
        """write_metadata:VALUE[/MASK]; as the last action before goto_table it is the same as setting the field."""
        value, mask = read_masked_int(item.value, 64)
        return set_masked("metadata", value & mask, mask)

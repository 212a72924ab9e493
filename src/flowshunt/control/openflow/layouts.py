"""Matches that differ in values only are read at one go.

A list of fields is one large number. Its *layout* says which bits of that number are the same in all lists of its kind
(headers, masks, and values on which depends what others mean), and where the values lie. A layout is learned from a
list that was read field by field; what a layout does not fit is read so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flowshunt.packet.schema import PROTO_ICMP, PROTO_ICMPV6, VLAN_PRESENT
from flowshunt.rules.openflow.match import REGISTERS, Facts, Triples

MAX_LAYOUTS = 32
"""Layouts remembered for lists of one size; the one that was not used for longest goes."""

_ALWAYS_DECIDING = frozenset(("eth_type", "nw_proto", "ct_state", "nw_frag"))
_ICMP_DECIDING = frozenset(("tp_src", "tp_dst"))
_LOW_PORTS = 0x7FFF


class Seen(NamedTuple):
    """A field of a list that was read: its place, and how its value gets there.

    `end`: where in the list the value ends, in bytes. `held`: bits of the value on the wire that there can be.
    """

    place: str
    end: int
    held: int
    shift: int
    mask: int
    is_port: bool


class Layout(NamedTuple):
    """A kind of lists: those of whose bits in `select` are those of `skeleton`.

    `values`: per triple of the match its place, how far from the right its value lies, which bits that are, how far
    they move left, what is added, and its mask.
    """

    select: int
    skeleton: int
    values: tuple[tuple[str, int, int, int, int, int], ...]
    facts: Facts

    def read(self, number: int) -> Triples:
        """The triples of a list of this layout, given as a number."""
        return tuple([
            (place, (number >> at & bits) << shift | preset, mask)
            for place, at, bits, shift, preset, mask in self.values
        ])  # fmt: skip


_Layouts = dict[int, list[Layout]]


class Layouts:
    """Layouts by size of the list."""

    def __init__(self) -> None:
        """None yet."""
        self.by_size: _Layouts = {}

    def find(self, data: bytes) -> tuple[Layout, int] | None:
        """The layout that a list of fields has, and the list as a number."""
        layouts = self.by_size.get(len(data))
        if layouts is None:
            return None
        number = int.from_bytes(data, "big")
        for place, layout in enumerate(layouts):
            if number & layout.select == layout.skeleton:
                if place:
                    layouts.insert(0, layouts.pop(place))
                return layout, number
        return None

    def learn(self, data: bytes, seen: Sequence[Seen], triples: Triples, facts: Facts) -> None:
        """Remember the layout of a list that was read as `seen`, and gave these triples."""
        layout = _layout(data, seen, triples, facts)
        if layout.read(int.from_bytes(data, "big")) == triples:
            layouts = self.by_size.setdefault(len(data), [])
            layouts.insert(0, layout)
            del layouts[MAX_LAYOUTS:]


def _layout(data: bytes, seen: Sequence[Seen], triples: Triples, facts: Facts) -> Layout:
    places = [field.place for field in seen]
    plain = {field.place: field for field in seen if places.count(field.place) == 1 and field.place not in REGISTERS}
    number = int.from_bytes(data, "big")
    select = (1 << 8 * len(data)) - 1
    values = []
    for place, value, mask in triples:
        bits = _free_bits(plain, place, value, facts)
        if not bits:
            values.append((place, 0, 0, 0, value, mask))
            continue
        field = plain[place]
        at = 8 * (len(data) - field.end)
        select &= ~(bits << at)
        fixed = value & ~(bits << field.shift)
        values.append((place, at, bits, field.shift, fixed, mask))
    return Layout(select, number & select, tuple(values), facts)


def _free_bits(plain: Mapping[str, Seen], place: str, value: int, facts: Facts) -> int:
    """The bits of a place's value on the wire that mean nothing but themselves."""
    field = plain.get(place)
    if field is None or place in _ALWAYS_DECIDING:
        return 0
    if place in _ICMP_DECIDING and facts.protocol in (PROTO_ICMP, PROTO_ICMPV6):
        return 0
    bits = field.held & field.mask >> field.shift
    if place == "vlan_tci":
        bits &= ~(VLAN_PRESENT >> field.shift)
    if field.is_port:
        bits = bits & _LOW_PORTS if value <= _LOW_PORTS else 0
    return bits

"""Lists of actions read, and OpenFlow's own actions in them.

Which fields an action may use depends on the flow's match, as in the flow text: `facts` are what the match says, None
skips these checks. The list's own errors are OFPBAC_*. Standard actions are here, Nicira's in `nicira`, ct in `ct`;
each module has one table of its types, sizes and readers, and a new action is a row and a method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from flowshunt.conntrack.nat import Nat
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.fields import WireField
from flowshunt.control.openflow.match import find_field
from flowshunt.control.openflow.wire import NX, OF10, OF12, OF15, ONF, PORT_CONTROLLER, PORT_TABLE, port_from_32
from flowshunt.packet.schema import ETH_IPV4, ETH_IPV6, ETH_QINQ, ETH_VLAN, VLAN_PRESENT
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.errors import BadValueError
from flowshunt.rules.openflow.fields import UserField
from flowshunt.rules.openflow.match import Facts
from flowshunt.rules.openflow.setters import FieldPart, copy_part, set_bits, set_masked

Actions = tuple[F.Action, ...]

EXPERIMENTER = 0xFFFF
MAX_NESTING = 16
"""How deep lists may lie in lists, as in the flow text."""

IN_EXEC = ("ct_mark", "ct_label")
_PORTS: Mapping[int, F.Action] = {
    0xFFF8: F.InPort(),
    PORT_TABLE: F.ToTable(),
    0xFFFA: F.Normal(),
    0xFFFB: F.Flood(),
    0xFFFC: F.All(),
    0xFFFE: F.Local(),
}
_PORT_MAX = 0xFEFF
_TRANSPORTS = (None, 6, 17, 132)


class Row(NamedTuple):
    """How to read one type of action. `size` is exact, or the least when `more` is set."""

    size: int
    read: Callable[[ActionReader, bytes, int, int], Actions]
    more: bool = False


class ActionReader:
    """Reads the lists of one flow.

    `tagged`: its packets have a VLAN tag by now. `in_exec`: the list is that within a ct; `nat`: what stood in it.
    """

    __slots__ = ("depth", "facts", "in_exec", "nat", "tagged", "version")

    def __init__(self, version: int, facts: Facts | None, *, depth: int = 0, in_exec: bool = False) -> None:
        self.version = version
        self.facts = facts
        self.tagged = facts is None or facts.tagged
        self.in_exec = in_exec
        self.nat: Nat | None = None
        self.depth = depth

    def list_of(self, data: bytes, at: int, end: int) -> Actions:
        """The actions in `data[at:end)`, which lies within the data. Raises OpenFlowError."""
        found: list[F.Action] = []
        standard = STANDARD_10 if self.version == OF10 else STANDARD
        while at < end:
            size = int.from_bytes(data[at + 2 : at + 4], "big")
            if end - at < 8 or size < 8 or size % 8 or size > end - at:
                raise OpenFlowError("OFPBAC_BAD_LEN", f"an action of {size} bytes, {end - at} are left")
            kind = int.from_bytes(data[at : at + 2], "big")
            if kind == EXPERIMENTER:
                row = self._experimenter(data, at, size)
            elif kind in standard:
                row = standard[kind]
            else:
                raise OpenFlowError("OFPBAC_BAD_TYPE", f"unknown action {kind}")
            if size != row.size and not (row.more and size > row.size):
                raise OpenFlowError("OFPBAC_BAD_LEN", f"action {kind} has {size} bytes")
            found.extend(row.read(self, data, at, at + size))
            at += size
        return tuple(found)

    def _experimenter(self, data: bytes, at: int, size: int) -> Row:
        vendor = int.from_bytes(data[at + 4 : at + 8], "big")
        if vendor not in EXPERIMENTERS:
            raise OpenFlowError("OFPBAC_BAD_VENDOR", f"unknown experimenter {vendor:#x}")
        if size < 16:
            raise OpenFlowError("OFPBAC_BAD_LEN", f"an experimenter's action of {size} bytes")
        subtype = int.from_bytes(data[at + 8 : at + 10], "big")
        row = EXPERIMENTERS[vendor].get(subtype)
        if row is None:
            raise OpenFlowError("OFPBAC_BAD_VENDOR_TYPE", f"unknown or not supported: action {subtype}")
        return row

    # --- fields ----------------------------------------------------------------------------------------------------

    def part(self, data: bytes, at: int, end: int, start: int, width: int) -> tuple[FieldPart, int]:
        """Bits `[start, start + width)` of the field whose header is at `data[at:end)`, and where the header ends."""
        wire, size, masked, at = find_action_field(data, at, end)
        if masked or size != wire.size:
            raise OpenFlowError("OFPBAC_BAD_SET_TYPE", f"a header of {wire.field.name} with {size} bytes")
        if width == 0 or start + width > wire.field.width:
            raise OpenFlowError("OFPBAC_BAD_SET_LEN", f"bits {start} to {start + width - 1} of {wire.field.name}")
        return FieldPart(wire.field, start, width), at

    def source(self, part: FieldPart) -> FieldPart:
        """A part that is read: what the flow's packets need not have cannot be."""
        self._check_prerequisite(part.field)
        return part

    def dest(self, part: FieldPart) -> FieldPart:
        """A part that is written."""
        field = part.field
        if not field.settable or (field.place in IN_EXEC) != self.in_exec:
            raise OpenFlowError("OFPBAC_BAD_SET_ARGUMENT", f"{field.name} can't be set here")
        self._check_prerequisite(field)
        return part

    def _check_prerequisite(self, field: UserField) -> None:
        if self.facts is None:
            return
        if not (self.tagged if field.needs == "vlan" else self.facts.fulfil(field.needs)):
            raise OpenFlowError("OFPBAC_MATCH_INCONSISTENT", f"the flow's packets need not have {field.name}")

    def set_value(self, wire: WireField, value: int, mask: int) -> Actions:
        """Set the bits of `mask` of a whole field."""
        field = self.dest(FieldPart(wire.field, 0, wire.field.width)).field
        if field.name == "vlan_vid":
            if not value & mask & VLAN_PRESENT:
                raise OpenFlowError("OFPBAC_BAD_SET_ARGUMENT", "vlan_vid is set without its presence bit")
            value, mask = value & ~VLAN_PRESENT, mask & ~VLAN_PRESENT
        held = (1 << field.high) - (1 << field.low)
        if value & ~held:
            raise OpenFlowError("OFPBAC_BAD_SET_ARGUMENT", f"{field.name} can't be {value:#x}")
        mask &= held
        return set_masked(field.place, (value & mask) << field.shift, mask << field.shift)

    def load(self, part: FieldPart, value: int) -> Actions:
        """Give a part of a field a value."""
        low, high = self.dest(part).held
        if value >> part.width:
            raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"{value:#x} has more than {part.width} bits")
        if value >> (high - part.start) if high > part.start else value:
            raise OpenFlowError("OFPBAC_BAD_SET_ARGUMENT", f"{part.field.name} can't be {value:#x}")
        return (set_bits(subfield(part), value >> (low - part.start)),)

    def copy(self, data: bytes, numbers_at: int, at: int, end: int) -> Actions:
        """A move: number of bits and both offsets at `numbers_at`, both headers at `data[at:end)`."""
        width, from_bit, to_bit = (int.from_bytes(data[n : n + 2], "big") for n in range(numbers_at, numbers_at + 6, 2))
        source, at = self.part(data, at, end, from_bit, width)
        dest, at = self.part(data, at, end, to_bit, width)
        check_zero(data, at, end)
        return copy_part(self.source(source), self.dest(dest))

    def output_to(self, port: int | None, max_len: int) -> Actions:
        """Output to a port number of 16 bits; None is one that has none."""
        if port is not None:
            if port in _PORTS:
                return (_PORTS[port],)
            if port == PORT_CONTROLLER:
                return (F.Controller(max_len),)
            if port <= _PORT_MAX:
                return (F.Output(port),)
        raise OpenFlowError("OFPBAC_BAD_OUT_PORT", "not a port to output to")

    # --- standard actions ------------------------------------------------------------------------------------------

    def output_10(self, data: bytes, at: int, end: int) -> Actions:
        """Port and length for the controller."""
        return self.output_to(_u16(data, at + 4), _u16(data, at + 6))

    def output_11(self, data: bytes, at: int, end: int) -> Actions:
        """The same with a port of 32 bits."""
        return self.output_to(port_from_32(_u32(data, at + 4)), _u16(data, at + 8))

    def set_vlan_vid(self, data: bytes, at: int, end: int) -> Actions:
        """In OpenFlow 1.0 a tag is added where there is none."""
        vid = _u16(data, at + 4)
        if vid > 0xFFF:
            raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"VLAN {vid}")
        if self.version > OF10:
            return (set_bits(F.Subfield("vlan_tci", 0, 12), vid),)
        self.tagged = True
        return (set_bits(F.Subfield("vlan_tci", 0, 13), vid | VLAN_PRESENT),)

    def set_vlan_pcp(self, data: bytes, at: int, end: int) -> Actions:
        """In OpenFlow 1.0 a tag is added where there is none."""
        pcp = data[at + 4]
        if pcp > 7:
            raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"priority {pcp}")
        if self.version > OF10:
            return (set_bits(F.Subfield("vlan_tci", 13, 3), pcp),)
        self.tagged = True
        return (set_bits(F.Subfield("vlan_tci", 12, 4), pcp << 1 | 1),)

    def pop_vlan(self, data: bytes, at: int, end: int) -> Actions:
        """Also strip_vlan."""
        self.tagged = False
        return (F.PopVlan(),)

    def push_vlan(self, data: bytes, at: int, end: int) -> Actions:
        """A tag of either type."""
        tpid = _u16(data, at + 4)
        if tpid not in (ETH_VLAN, ETH_QINQ):
            raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"{tpid:#x} is not the type of a VLAN tag")
        self.tagged = True
        return (F.PushVlan(tpid),)

    def _address(self, place: str, data: bytes, at: int) -> Actions:
        return (set_bits(F.Subfield(place, 0, 48), int.from_bytes(data[at + 4 : at + 10], "big")),)

    def _network(self, place: str, value: int) -> Actions:
        """What an old action sets in packets of IPv4; nothing in a flow without any."""
        if self.facts is not None and self.facts.eth_type not in (None, ETH_IPV4):
            return ()
        return (set_bits(F.Subfield(place, 0, 32), value),)

    def _transport(self, place: str, value: int) -> Actions:
        facts = self.facts
        other = facts is not None and facts.eth_type not in (None, ETH_IPV4, ETH_IPV6)
        if other or (facts is not None and facts.protocol not in _TRANSPORTS):
            return ()
        return (set_bits(F.Subfield(place, 0, 16), value),)

    def set_nw_tos(self, data: bytes, at: int, end: int) -> Actions:
        """The DSCP, at its place in the byte."""
        tos = data[at + 4]
        if tos & 3:
            raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"TOS {tos} has bits of ECN")
        if self.facts is not None and self.facts.eth_type not in (None, ETH_IPV4, ETH_IPV6):
            return ()
        return (set_bits(F.Subfield("nw_tos", 2, 6), tos >> 2),)

    def set_nw_ecn(self, data: bytes, at: int, end: int) -> Actions:
        """The two bits of ECN."""
        ecn = data[at + 4]
        if ecn > 3:
            raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"ECN {ecn}")
        return (set_bits(F.Subfield("nw_tos", 0, 2), ecn),)

    def set_nw_ttl(self, data: bytes, at: int, end: int) -> Actions:
        """TTL or hop limit."""
        return (set_bits(F.Subfield("nw_ttl", 0, 8), data[at + 4]),)

    def dec_ttl(self, data: bytes, at: int, end: int) -> Actions:
        """TTL or hop limit, minus one."""
        return (F.DecTtl(),)

    def enqueue(self, data: bytes, at: int, end: int) -> Actions:
        """OpenFlow 1.0's output to a queue."""
        port = _u16(data, at + 4)
        if port > _PORT_MAX and port not in (0xFFF8, 0xFFFE):
            raise OpenFlowError("OFPBAC_BAD_OUT_PORT", f"port {port} has no queues")
        return (F.Enqueue(port, _u32(data, at + 12)),)

    def set_queue(self, data: bytes, at: int, end: int) -> Actions:
        """The queue for outputs that follow."""
        return (F.SetQueue(_u32(data, at + 4)),)

    def group(self, data: bytes, at: int, end: int) -> Actions:
        """Through a group."""
        return (F.Group(_u32(data, at + 4)),)

    def meter(self, data: bytes, at: int, end: int) -> Actions:
        """Through a meter, as an action of OpenFlow 1.5."""
        if self.version < OF15:
            raise OpenFlowError("OFPBAC_BAD_TYPE", "meter is an instruction before OpenFlow 1.5")
        return (F.Meter(_u32(data, at + 4)),)

    def set_field(self, data: bytes, at: int, end: int) -> Actions:
        """A field with its value, and in OpenFlow 1.5 a mask."""
        if self.version < OF12:
            raise OpenFlowError("OFPBAC_BAD_TYPE", "set_field is of OpenFlow 1.2")
        wire, value, mask, at = read_value(data, at + 4, end)
        if mask >= 0 and self.version < OF15:
            raise OpenFlowError("OFPBAC_BAD_SET_MASK", "set_field has a mask")
        check_zero(data, at, end)
        return self.set_value(wire, value, mask if mask >= 0 else (1 << 8 * wire.size) - 1)

    def copy_field(self, data: bytes, at: int, end: int) -> Actions:
        """A move in OpenFlow 1.5."""
        if self.version < OF15:
            raise OpenFlowError("OFPBAC_BAD_TYPE", "copy_field is of OpenFlow 1.5")
        return self.copy(data, at + 4, at + 12, end)

    def copy_field_onf(self, data: bytes, at: int, end: int) -> Actions:
        """A move as the ONF added it to OpenFlow 1.3."""
        return self.copy(data, at + 12, at + 20, end)


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def find_action_field(data: bytes, at: int, end: int) -> tuple[WireField, int, bool, int]:
    """`find_field` with the errors of actions."""
    try:
        return find_field(data, at, end)
    except OpenFlowError as error:
        name = "OFPBAC_BAD_SET_TYPE" if error.name == "OFPBMC_BAD_FIELD" else "OFPBAC_BAD_LEN"
        raise OpenFlowError(name, error.detail) from None


def read_value(data: bytes, at: int, end: int) -> tuple[WireField, int, int, int]:
    """Field, value, mask (-1: none) and end of the field that stands at `data[at:end)` with its header."""
    wire, size, masked, at = find_action_field(data, at, end)
    if size != (2 * wire.size if masked else wire.size):
        raise OpenFlowError("OFPBAC_BAD_SET_LEN", f"{wire.field.name} has {size} bytes")
    if size > end - at:
        raise OpenFlowError("OFPBAC_BAD_LEN", f"{wire.field.name} is cut off")
    value = int.from_bytes(data[at : at + wire.size], "big")
    mask = int.from_bytes(data[at + wire.size : at + size], "big") if masked else -1
    if masked and value & ~mask:
        raise OpenFlowError("OFPBAC_BAD_SET_ARGUMENT", f"{wire.field.name} has bits outside its mask")
    return wire, value, mask, at + size


def subfield(part: FieldPart) -> F.Subfield:
    """Where a part's bits lie; the proper error when packets hold none of them."""
    try:
        return part.subfield()
    except BadValueError as problem:
        raise OpenFlowError("OFPBAC_BAD_SET_ARGUMENT", problem.message) from None


def check_zero(data: bytes, at: int, end: int) -> None:
    """What is reserved has to be zero."""
    if any(data[at:end]):
        raise OpenFlowError("NXBAC_MUST_BE_ZERO", "reserved bytes are not zero")


STANDARD_10: Mapping[int, Row] = {
    0: Row(8, ActionReader.output_10),
    1: Row(8, ActionReader.set_vlan_vid),
    2: Row(8, ActionReader.set_vlan_pcp),
    3: Row(8, ActionReader.pop_vlan),
    4: Row(16, lambda reader, data, at, end: reader._address("eth_src", data, at)),
    5: Row(16, lambda reader, data, at, end: reader._address("eth_dst", data, at)),
    6: Row(8, lambda reader, data, at, end: reader._network("nw_src", _u32(data, at + 4))),
    7: Row(8, lambda reader, data, at, end: reader._network("nw_dst", _u32(data, at + 4))),
    8: Row(8, ActionReader.set_nw_tos),
    9: Row(8, lambda reader, data, at, end: reader._transport("tp_src", _u16(data, at + 4))),
    10: Row(8, lambda reader, data, at, end: reader._transport("tp_dst", _u16(data, at + 4))),
    11: Row(16, ActionReader.enqueue),
}
"""Actions of OpenFlow 1.0 by type."""

STANDARD: Mapping[int, Row] = {
    0: Row(16, ActionReader.output_11),
    1: Row(8, ActionReader.set_vlan_vid),
    2: Row(8, ActionReader.set_vlan_pcp),
    3: Row(16, lambda reader, data, at, end: reader._address("eth_src", data, at)),
    4: Row(16, lambda reader, data, at, end: reader._address("eth_dst", data, at)),
    5: Row(8, lambda reader, data, at, end: reader._network("nw_src", _u32(data, at + 4))),
    6: Row(8, lambda reader, data, at, end: reader._network("nw_dst", _u32(data, at + 4))),
    7: Row(8, ActionReader.set_nw_tos),
    8: Row(8, ActionReader.set_nw_ecn),
    9: Row(8, lambda reader, data, at, end: reader._transport("tp_src", _u16(data, at + 4))),
    10: Row(8, lambda reader, data, at, end: reader._transport("tp_dst", _u16(data, at + 4))),
    17: Row(8, ActionReader.push_vlan),
    18: Row(8, ActionReader.pop_vlan),
    21: Row(8, ActionReader.set_queue),
    22: Row(8, ActionReader.group),
    23: Row(8, ActionReader.set_nw_ttl),
    24: Row(8, ActionReader.dec_ttl),
    25: Row(8, ActionReader.set_field, more=True),
    28: Row(16, ActionReader.copy_field, more=True),
    29: Row(8, ActionReader.meter),
}
"""Actions of OpenFlow 1.1 and later by type; those of set_field's time say so themselves."""

EXPERIMENTERS: dict[int, dict[int, Row]] = {NX: {}, ONF: {3200: Row(24, ActionReader.copy_field_onf, more=True)}}
"""Actions of experimenters by subtype; `actions` puts in those of `nicira` and `ct`."""

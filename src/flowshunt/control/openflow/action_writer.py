"""Lists of actions written: values of `rules.openflow.flow` to bytes, for every version.

The forms are those that Open vSwitch 3.1 chooses, so that ovs-ofctl prints what it prints for a real one: OpenFlow 1.0
and 1.1 have an action per header field and Nicira's load for others, 1.2 to 1.4 set_field for whole fields and load for
parts, 1.5 set_field with masks. goto_table is an instruction, and in 1.0 a resubmit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from struct import Struct, pack
from typing import Any

from flowshunt.base.identity import IdentityCache
from flowshunt.control.openflow.ct import ALG_PORTS, encode_nat
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.fields import IN_PORT_32, WIRE_FIELDS, WireField
from flowshunt.control.openflow.learning import encode_larger, encode_learn, encode_stack
from flowshunt.control.openflow.links import encode_bundle, encode_conjunction, encode_multipath, encode_truncated
from flowshunt.control.openflow.wire import NX, OF10, OF12, OF15, PORT_CONTROLLER, padded, port_to_32
from flowshunt.packet.schema import ETH_VLAN, VLAN_PRESENT
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.format import field_of
from flowshunt.rules.openflow.match import Facts
from flowshunt.rules.openflow.setters import full_mask, set_masked

_NX = Struct("!HHIH")
_OUTPUT_10 = Struct("!HHHH")
_OUTPUT_11 = Struct("!HHIH6x")
_IN_PORT = 0xFFF8
_NO_TABLE = 0xFF
_LOAD_WIDTH = 64
_PORTS: Mapping[type, int] = {
    F.InPort: 0xFFF8,
    F.ToTable: 0xFFF9,
    F.Normal: 0xFFFA,
    F.Flood: 0xFFFB,
    F.All: 0xFFFC,
    F.Local: 0xFFFE,
}
_VID = 0xFFF
_WRITTEN: IdentityCache[bytes] = IdentityCache(8192)


def encode_actions(actions: tuple[F.Action, ...], version: int, facts: Facts) -> bytes:
    """The actions of a flow whose match says `facts`; instructions are left out, but goto_table for OpenFlow 1.0.

    Raises OpenFlowError (OFPBAC_TOO_MANY, OFPBAC_BAD_LEN) for more than a message can hold.
    """
    key = version, facts
    found = _WRITTEN.find(actions, key)
    if found is not None:
        return found
    data = _encode(actions, version, facts)
    return _WRITTEN.keep(actions, key, data, len(data))


def _encode(actions: tuple[F.Action, ...], version: int, facts: Facts) -> bytes:
    writer = _Writer(version, facts)
    data = b"".join([_WRITERS[type(action)](writer, action) for action in actions])
    if len(data) > 0xFFFF:
        raise OpenFlowError("OFPBAC_TOO_MANY", f"{len(data)} bytes of actions")
    return data


def _nx(subtype: int, body: bytes) -> bytes:
    """One of Nicira's actions."""
    body = body + bytes(-(len(body) + 10) % 8)
    if len(body) + 10 > 0xFFFF:
        raise OpenFlowError("OFPBAC_BAD_LEN", f"an action of {len(body)} bytes")
    return _NX.pack(0xFFFF, len(body) + 10, NX, subtype) + body


def _standard(kind: int, body: bytes) -> bytes:
    body = body + bytes(-(len(body) + 4) % 8)
    return pack("!HH", kind, len(body) + 4) + body


def packed_range(start: int, width: int) -> int:
    """First bit and number of bits as Nicira's actions have them. Raises OpenFlowError for more than 64 bits."""
    if width > _LOAD_WIDTH:
        raise OpenFlowError("OFPBAC_BAD_SET_LEN", f"{width} bits in one number")
    return start << 6 | width - 1


class _Writer:
    """Writes the actions of one flow. `tagged`: its packets have a VLAN tag by now."""

    def __init__(self, version: int, facts: Facts) -> None:
        self.version = version
        self.facts = facts
        self.tagged = facts.tagged

    def part(self, place: F.Subfield) -> tuple[WireField, int]:
        """The field that these bits are of, and the first of them in it."""
        name = field_of(place, self.facts).name
        if name == "in_port" and place.start + place.width > 16:
            name = IN_PORT_32
        wire = WIRE_FIELDS[name]
        return wire, place.start - wire.field.shift

    def output(self, action: F.Output) -> bytes:
        if isinstance(action.port, int):
            return self.output_to(action.port)
        wire, start = self.part(action.port)
        return _nx(15, pack("!H4sH6x", packed_range(start, action.port.width), wire.old_header(), 0xFFFF))

    def output_to(self, port: int, max_len: int = 0) -> bytes:
        if self.version == OF10:
            return _OUTPUT_10.pack(0, 8, port, max_len)
        return _OUTPUT_11.pack(0, 16, port_to_32(port), max_len)

    def resubmit(self, action: F.Resubmit) -> bytes:
        port = _IN_PORT if action.port is None else action.port
        if action.ct:
            return _nx(44, pack("!HB3x", port, _NO_TABLE if action.table is None else action.table))
        if action.table is None:
            return _nx(1, pack("!H4x", port))
        return _nx(14, pack("!HB3x", port, action.table))

    def goto_table(self, action: F.GotoTable) -> bytes:
        return _nx(14, pack("!HB3x", _IN_PORT, action.table)) if self.version == OF10 else b""

    # --- setting fields --------------------------------------------------------------------------------------------

    def set(self, action: F.SetField) -> bytes:
        dest = action.dest
        if dest.field == "vlan_tci":
            return self._set(action)
        form = _set_form(self.version, self.facts, dest.field, dest.start, dest.width, action.mask)
        if form is None:
            return self._set(action)
        size, frame, shift = form
        return (frame | action.value << shift).to_bytes(size, "big")

    def _set(self, action: F.SetField) -> bytes:
        dest = action.dest
        if action.mask != full_mask(dest.width):
            parts = set_masked(dest.field, action.value << dest.start, action.mask << dest.start)
            return b"".join(self._set(part) for part in parts if isinstance(part, F.SetField))
        if dest.field == "vlan_tci":
            found = self._tag(dest, action.value)
            if found:
                return found
        if self.version < OF12:
            found = self._old(dest, action.value)
            if found:
                return found
        return self._field(dest, action.value)

    def _tag(self, dest: F.Subfield, value: int) -> bytes:
        """What sets VLAN or priority as a whole; nothing for other parts."""
        shape = (dest.start, dest.width)
        if shape == (0, 13) and value & VLAN_PRESENT:
            return self._push() + self._vid(value & _VID)
        if shape == (12, 4) and value & 1:
            return self._push() + self._pcp(value >> 1)
        if self.version > OF10 or self.tagged:
            if shape == (0, 12):
                return self._vid(value)
            if shape == (13, 3):
                return self._pcp(value)
        return b""

    def _push(self) -> bytes:
        """The tag that OpenFlow 1.0 adds by itself where there is none."""
        tagged, self.tagged = self.tagged, True
        return b"" if tagged or self.version == OF10 else self.push_vlan(F.PushVlan(ETH_VLAN))

    def _vid(self, vid: int) -> bytes:
        if self.version < OF12:
            return _standard(1, pack("!H", vid))
        return self._whole(WIRE_FIELDS["vlan_vid"], vid | VLAN_PRESENT)

    def _pcp(self, pcp: int) -> bytes:
        return _standard(2, pack("!B", pcp)) if self.version < OF12 else self._whole(WIRE_FIELDS["vlan_pcp"], pcp)

    def _old(self, dest: F.Subfield, value: int) -> bytes:
        """An action of OpenFlow 1.0 and 1.1 for a header field; nothing where there is none."""
        place, start, width = dest.field, dest.start, dest.width
        later = self.version > OF10
        if place in ("eth_src", "eth_dst") and width == 48:
            kind = (3 if later else 4) + (place == "eth_dst")
            return _standard(kind, value.to_bytes(6, "big"))
        if place in ("nw_src", "nw_dst") and width == 32 and not self.facts.fulfil("arp"):
            return _standard((5 if later else 6) + (place == "nw_dst"), pack("!I", value))
        if place == "nw_tos" and (start, width) == (2, 6):
            return _standard(7 if later else 8, pack("!B", value << 2))
        if later and place == "nw_tos" and (start, width) == (0, 2):
            return _standard(8, pack("!B", value))
        if place in ("tp_src", "tp_dst") and width == 16:
            return _standard(9 + (place == "tp_dst"), pack("!H", value))
        if later and place == "nw_ttl" and width == 8:
            return _standard(23, pack("!B", value))
        return b""

    def _field(self, dest: F.Subfield, value: int) -> bytes:
        """set_field for a whole field (in 1.5 for any part), load for others."""
        wire, start = self.part(dest)
        field = wire.field
        if self.version >= OF12 and field.name == "nw_tos":
            wire, start = WIRE_FIELDS["ip_dscp"], dest.start - 2
            field = wire.field
        whole = start <= field.low and start + dest.width >= field.high
        if self.version >= OF12 and whole:
            return self._whole(wire, value << start)
        if self.version >= OF15:
            mask = full_mask(dest.width) << start
            body = wire.header(self.version, masked=True)
            return _standard(25, body + (value << start).to_bytes(wire.size, "big") + mask.to_bytes(wire.size, "big"))
        if whole:  # with the bits that packets do not hold
            return self._load(wire, 0, field.width, value << start)
        return self._load(wire, start, dest.width, value)

    def _whole(self, wire: WireField, value: int) -> bytes:
        return _standard(25, wire.header(self.version) + value.to_bytes(wire.size, "big"))

    def _load(self, wire: WireField, start: int, width: int, value: int) -> bytes:
        """Loads of up to 64 bits each, the lowest first."""
        loads = []
        for at in range(0, width, _LOAD_WIDTH):
            n = min(width - at, _LOAD_WIDTH)
            bits = value >> at & full_mask(n)
            loads.append(_nx(7, pack("!H4sQ", packed_range(start + at, n), wire.old_header(), bits)))
        return b"".join(loads)

    def move(self, action: F.Move) -> bytes:
        (source, source_start), (dest, dest_start) = self.part(action.source), self.part(action.dest)
        width = action.dest.width
        if self.version >= OF15:
            headers = source.header(self.version) + dest.header(self.version)
            return _standard(28, pack("!HHH2x", width, source_start, dest_start) + headers)
        headers = source.old_header() + dest.old_header()
        return _nx(6, pack("!HHH", width, source_start, dest_start) + headers)

    # --- the others ------------------------------------------------------------------------------------------------

    def push_vlan(self, action: F.PushVlan) -> bytes:
        """Nothing in 1.0, where setting VLAN or priority adds a tag."""
        self.tagged = True
        if self.version == OF10:
            return b""
        return _standard(17, pack("!H", action.tpid))

    def pop_vlan(self, action: F.PopVlan) -> bytes:
        self.tagged = False
        return _standard(3 if self.version == OF10 else 18, b"")

    def dec_ttl(self, action: F.DecTtl) -> bytes:
        n = len(action.controllers)
        if n:
            return _nx(21, pack(f"!H4x{n}H", n, *action.controllers))
        return _nx(18, b"") if self.version == OF10 else _standard(24, b"")

    def ct(self, action: F.Ct) -> bytes:
        flags = (1 if action.commit else 0) | (2 if action.force else 0)
        header, zone = bytes(4), action.zone
        if isinstance(zone, F.Subfield):
            wire, start = self.part(zone)
            header, zone = wire.old_header(), packed_range(start, zone.width)
        table = _NO_TABLE if action.table is None else action.table
        inner = b"".join([_WRITERS[type(part)](self, part) for part in action.exec])
        if action.nat is not None:
            nat_flags, present, values = encode_nat(action.nat)
            inner = _nx(36, pack("!2xHH", nat_flags, present) + values) + inner
        alg = 0 if action.alg is None else ALG_PORTS[action.alg]
        return _nx(35, pack("!H4sHB3xH", flags, header, zone, table, alg) + inner)

    def clone(self, action: F.Clone) -> bytes:
        tagged = self.tagged
        body = b"".join([_WRITERS[type(part)](self, part) for part in action.actions])
        self.tagged = tagged
        return _nx(42, bytes(6) + body)

    def controller(self, action: F.Controller) -> bytes:
        if action == F.Controller(action.max_len):
            return self.output_to(PORT_CONTROLLER, action.max_len)
        if action == F.Controller(action.max_len, action.controller, action.reason):
            return _nx(20, pack("!HHBx", action.max_len, action.controller, action.reason))
        parts = [pack("!HHH2x", 0, 6, action.max_len), pack("!HHH2x", 1, 6, action.controller)]
        parts.append(pack("!HHB3x", 2, 5, action.reason))
        if action.userdata:
            parts.append(padded(pack("!HH", 3, 4 + len(action.userdata)) + action.userdata))
        if action.pause:
            parts.append(pack("!HH4x", 4, 4))
        if action.meter is not None:
            parts.append(pack("!HHI", 5, 8, action.meter))
        return _nx(37, bytes(6) + b"".join(parts))

    def group(self, action: F.Group) -> bytes:
        if self.version == OF10:
            return _nx(40, pack("!2xI", action.group))
        return _standard(22, pack("!I", action.group))

    def meter(self, action: F.Meter) -> bytes:
        """An action in 1.5, an instruction before it, nothing in 1.0 to 1.2."""
        return _standard(29, pack("!I", action.meter)) if self.version >= OF15 else b""

    def enqueue(self, action: F.Enqueue) -> bytes:
        if self.version == OF10:
            return _standard(11, pack("!H6xI", action.port, action.queue))
        return _standard(21, pack("!I", action.queue)) + self.output_to(action.port) + _nx(5, b"")

    def set_queue(self, action: F.SetQueue) -> bytes:
        if action.queue is None:
            return _nx(5, b"")
        if self.version == OF10:
            return _nx(4, pack("!2xI", action.queue))
        return _standard(21, pack("!I", action.queue))


@lru_cache(maxsize=1024)
def _set_form(version: int, facts: Facts, field: str, start: int, width: int, mask: int) -> tuple[int, int, int] | None:
    """What sets a field as a whole, as a number: its size in bytes, all but the value, how far the value moves left.

    None where it is not as simple.
    """
    if mask != full_mask(width):
        return None
    writer, dest = _Writer(version, facts), F.Subfield(field, start, width)
    empty, full = (writer._set(F.SetField(dest, value, mask)) for value in (0, mask))
    frame, bits = int.from_bytes(empty, "big"), int.from_bytes(empty, "big") ^ int.from_bytes(full, "big")
    shift = (bits & -bits).bit_length() - 1
    return (len(empty), frame, shift) if len(empty) == len(full) and bits == mask << shift else None


def _fixed(data: bytes) -> Callable[[_Writer, Any], bytes]:
    return lambda writer, action: data


_WRITERS: Mapping[type, Callable[[_Writer, Any], bytes]] = {
    F.Output: _Writer.output,
    **dict.fromkeys(_PORTS, lambda writer, action: writer.output_to(_PORTS[type(action)])),
    F.Resubmit: _Writer.resubmit,
    F.GotoTable: _Writer.goto_table,
    F.SetField: _Writer.set,
    F.Move: _Writer.move,
    F.PushVlan: _Writer.push_vlan,
    F.PopVlan: _Writer.pop_vlan,
    F.DecTtl: _Writer.dec_ttl,
    F.Ct: _Writer.ct,
    F.ClearActions: _fixed(b""),
    F.WriteActions: _fixed(b""),
    F.CtClear: _fixed(_nx(43, b"")),
    F.Clone: _Writer.clone,
    F.Note: lambda writer, action: _nx(8, action.data),
    F.Controller: _Writer.controller,
    F.Group: _Writer.group,
    F.Meter: _Writer.meter,
    F.Enqueue: _Writer.enqueue,
    F.SetQueue: _Writer.set_queue,
    F.Exit: _fixed(_nx(17, b"")),
    F.Learn: lambda writer, action: _nx(*encode_learn(writer, action)),
    F.FinTimeout: lambda writer, action: _nx(19, pack("!HH2x", action.idle_timeout, action.hard_timeout)),
    F.Push: lambda writer, action: _nx(27, encode_stack(writer, action.source)),
    F.Pop: lambda writer, action: _nx(28, encode_stack(writer, action.dest)),
    F.CheckLarger: lambda writer, action: _nx(49, encode_larger(writer, action)),
    F.OutputTruncated: lambda writer, action: _nx(39, encode_truncated(action)),
    F.Conjunction: lambda writer, action: _nx(34, encode_conjunction(action)),
    F.Multipath: lambda writer, action: _nx(10, encode_multipath(writer, action)),
    F.Bundle: lambda writer, action: _nx(*encode_bundle(writer, action)),
}

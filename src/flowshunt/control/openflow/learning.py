"""The actions learn, fin_timeout, push, pop and check_pkt_larger on the wire."""

from __future__ import annotations

from struct import Struct, pack
from typing import Protocol

from flowshunt.control.openflow.action_reader import ActionReader, Actions, Row, check_zero, subfield
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.fields import WireField
from flowshunt.control.openflow.wire import OF10
from flowshunt.rules.openflow import flow as F

_LEARN = Struct("!HHHQHBxHH")  # timeouts, priority, cookie, flags, table, timeouts after FIN
_LEARN_2 = Struct("!IH2x")  # limit, offset of the result
_SEND_FLOW_REM, _DELETE_LEARNED, _WRITE_RESULT = (1 << bit for bit in range(3))
_KINDS = ("match", "load", "output")
_WIDTH = (1 << 11) - 1
_IMMEDIATE = 1 << 13
_NO_TABLE = 0xFF


class Writer(Protocol):
    """What writing needs to know of a flow; `action_writer` has it."""

    def part(self, place: F.Subfield) -> tuple[WireField, int]:
        """The field that these bits are of, and the first of them in it."""


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


# --- reading ----------------------------------------------------------------------------------------------------------


def _learn(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return (_read_learn(reader, data, at, at + 32, end),)


def _learn_2(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    limit, offset = _LEARN_2.unpack_from(data, at + 32)
    specs_at, result = at + 40, None
    if _u16(data, at + 24) & _WRITE_RESULT:
        part, specs_at = reader.part(data, specs_at, end, offset, 1)
        result = subfield(reader.dest(part))
    return (_read_learn(reader, data, at, specs_at, end, limit, result),)


def _read_learn(
    reader: ActionReader,
    data: bytes,
    at: int,
    specs_at: int,
    end: int,
    limit: int = 0,
    result: F.Subfield | None = None,
) -> F.Learn:
    idle, hard, priority, cookie, flags, table, fin_idle, fin_hard = _LEARN.unpack_from(data, at + 10)
    known = _SEND_FLOW_REM | _DELETE_LEARNED | (_WRITE_RESULT if specs_at > at + 32 else 0)
    if flags & ~known or table == _NO_TABLE or data[at + 27]:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"learn with flags {flags:#x} into table {table}")
    specs = []
    while end - specs_at >= 2 and _u16(data, specs_at):
        spec, specs_at = _spec(reader, data, specs_at, end)
        specs.append(spec)
    check_zero(data, specs_at, end)
    return F.Learn(
        tuple(specs), table, priority, cookie, idle, hard, fin_idle, fin_hard, bool(flags & _SEND_FLOW_REM),
        bool(flags & _DELETE_LEARNED), limit, result,
    )  # fmt: skip


def _spec(reader: ActionReader, data: bytes, at: int, end: int) -> tuple[F.LearnSpec, int]:
    header = _u16(data, at)
    width, kind = header & _WIDTH, header >> 11 & 3
    if header >> 14 or kind == len(_KINDS) or (header & _IMMEDIATE and kind == _KINDS.index("output")) or not width:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"a part of learn with header {header:#06x}")
    at += 2
    source: F.Subfield | int
    if header & _IMMEDIATE:
        size = (width + 15) // 16 * 2
        if end - at < size:
            raise OpenFlowError("OFPBAC_BAD_LEN", "a number of learn is cut off")
        source, at = int.from_bytes(data[at : at + size], "big"), at + size
        if source >> width:
            raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"{source:#x} has more than {width} bits")
    else:
        source, at = _place(reader, data, at, end, width)
    if kind == _KINDS.index("output"):
        return F.LearnSpec("output", source, None, width), at
    dest, at = _place(reader, data, at, end, width, settable=kind == _KINDS.index("load"))
    return F.LearnSpec(_KINDS[kind], source, dest, dest.width), at


def _place(
    reader: ActionReader, data: bytes, at: int, end: int, width: int, *, settable: bool = False
) -> tuple[F.Subfield, int]:
    """Bits of a field: its header, then the first bit. What the flow's packets need not have may be named here."""
    header_at = at
    part, at = reader.part(data, at, end, 0, 1)
    if end - at < 2:
        raise OpenFlowError("OFPBAC_BAD_LEN", "a field of learn is cut off")
    part, _ = reader.part(data, header_at, end, _u16(data, at), width)
    if settable and not part.field.settable:
        raise OpenFlowError("OFPBAC_BAD_SET_ARGUMENT", f"{part.field.name} can't be set")
    return subfield(part), at + 2


def _fin_timeout(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    check_zero(data, at + 14, end)
    if reader.version > OF10 and reader.facts is not None and reader.facts.protocol != 6:
        raise OpenFlowError("OFPBAC_MATCH_INCONSISTENT", "fin_timeout is about TCP")
    return (F.FinTimeout(_u16(data, at + 10), _u16(data, at + 12)),)


def _stack_part(reader: ActionReader, data: bytes, at: int, end: int) -> F.Subfield:
    _, number_at = reader.part(data, at + 12, end, 0, 1)
    part, _ = reader.part(data, at + 12, end, _u16(data, at + 10), _u16(data, number_at))
    check_zero(data, number_at + 2, end)
    return subfield(reader.source(part))


def _push(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return (F.Push(_stack_part(reader, data, at, end)),)


def _pop(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    part, _ = reader.part(data, at + 12, end, 0, 1)
    reader.dest(part)
    return (F.Pop(_stack_part(reader, data, at, end)),)


def _check_larger(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    part, rest = reader.part(data, at + 14, end, _u16(data, at + 12), 1)
    check_zero(data, rest, end)
    return (F.CheckLarger(_u16(data, at + 10), subfield(reader.dest(part))),)


ROWS = {
    16: Row(32, _learn, more=True),
    19: Row(16, _fin_timeout),
    27: Row(24, _push),
    28: Row(24, _pop),
    45: Row(40, _learn_2, more=True),
    49: Row(24, _check_larger),
}
"""Subtypes of Nicira's actions, with their sizes and readers."""


# --- writing ----------------------------------------------------------------------------------------------------------


def encode_learn(writer: Writer, learn: F.Learn) -> tuple[int, bytes]:
    """Subtype and body of a learn action."""
    flags = _SEND_FLOW_REM * learn.send_flow_rem | _DELETE_LEARNED * learn.delete_learned
    extra = b""
    if learn.limit or learn.result is not None:
        offset, header = 0, b""
        if learn.result is not None:
            flags |= _WRITE_RESULT
            wire, offset = writer.part(learn.result)
            header = wire.old_header()
        extra = _LEARN_2.pack(learn.limit, offset) + header
    head = _LEARN.pack(
        learn.idle_timeout, learn.hard_timeout, learn.priority, learn.cookie, flags, learn.table,
        learn.fin_idle_timeout, learn.fin_hard_timeout,
    )  # fmt: skip
    return 45 if extra else 16, head + extra + b"".join(_encode_spec(writer, spec) for spec in learn.specs)


def _encode_spec(writer: Writer, spec: F.LearnSpec) -> bytes:
    header = spec.width | _KINDS.index(spec.kind) << 11
    if isinstance(spec.source, int):
        body = pack("!H", header | _IMMEDIATE) + spec.source.to_bytes((spec.width + 15) // 16 * 2, "big")
    else:
        body = pack("!H", header) + _encode_place(writer, spec.source)
    return body if spec.dest is None else body + _encode_place(writer, spec.dest)


def _encode_place(writer: Writer, place: F.Subfield) -> bytes:
    wire, start = writer.part(place)
    return wire.old_header() + pack("!H", start)


def encode_stack(writer: Writer, place: F.Subfield) -> bytes:
    """The body of push and pop."""
    wire, start = writer.part(place)
    return pack("!H", start) + wire.old_header() + pack("!H6x", place.width)


def encode_larger(writer: Writer, action: F.CheckLarger) -> bytes:
    """The body of check_pkt_larger."""
    wire, start = writer.part(action.dest)
    return pack("!HH", action.size, start) + wire.old_header() + bytes(6)

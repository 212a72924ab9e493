"""Nicira's actions read, but for ct and learn. Each row of `ROWS` is a subtype, its size and its reader.

Not read, and so refused as unknown: set_tunnel, sample, encap and decap, delete_field and MPLS.
"""

from __future__ import annotations

from dataclasses import replace

from flowshunt.control.openflow.action_reader import (
    MAX_NESTING,
    ActionReader,
    Actions,
    Row,
    check_zero,
    read_value,
    subfield,
)
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.wire import align
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.setters import set_masked

_IN_PORT = 0xFFF8
_NO_TABLE = 0xFF

(_MAX_LEN, _CONTROLLER_ID, _REASON, _USERDATA, _PAUSE, _METER_ID) = range(6)
_PROPERTY_SIZES = {_MAX_LEN: 2, _CONTROLLER_ID: 2, _REASON: 1, _PAUSE: 0, _METER_ID: 4}


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def range_of(packed: int) -> tuple[int, int]:
    """First bit and number of bits of the 16 bits in which Nicira's actions have them."""
    return packed >> 6, (packed & 0x3F) + 1


def _resubmit(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return (F.Resubmit(_u16(data, at + 10)),)


def _resubmit_table(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    check_zero(data, at + 13, end)
    port, table = _u16(data, at + 10), data[at + 12]
    if table == _NO_TABLE:
        return (F.Resubmit(port),)
    return (F.Resubmit(None if port == _IN_PORT else port, table),)


def _resubmit_table_ct(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return tuple(
        replace(action, ct=True) for action in _resubmit_table(reader, data, at, end) if isinstance(action, F.Resubmit)
    )


def _reg_move(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return reader.copy(data, at + 10, at + 16, end)


def _reg_load(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    start, width = range_of(_u16(data, at + 10))
    part, _ = reader.part(data, at + 12, at + 16, start, width)
    return reader.load(part, int.from_bytes(data[at + 16 : at + 24], "big"))


def _reg_load2(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    wire, value, mask, at = read_value(data, at + 10, end)
    check_zero(data, at, end)
    return reader.set_value(wire, value, mask if mask >= 0 else (1 << 8 * wire.size) - 1)


def _dec_ttl_for(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    n = _u16(data, at + 10)
    check_zero(data, at + 12, at + 16)
    if not n or n > F.MAX_CONTROLLERS:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"dec_ttl for {n} controllers")
    if 2 * n > end - at - 16:
        raise OpenFlowError("OFPBAC_BAD_LEN", f"{n} controllers in {end - at} bytes")
    return (F.DecTtl(tuple(_u16(data, place) for place in range(at + 16, at + 16 + 2 * n, 2))),)


def _note(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return (F.Note(data[at + 10 : end]),)


def _output_reg(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    start, width = range_of(_u16(data, at + 10))
    part, _ = reader.part(data, at + 12, at + 16, start, width)
    check_zero(data, at + 18, end)
    return (F.Output(subfield(reader.source(part))),)


def _output_reg2(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    start, width = range_of(_u16(data, at + 10))
    part, at = reader.part(data, at + 14, end, start, width)
    check_zero(data, at, end)
    return (F.Output(subfield(reader.source(part))),)


def _exit(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return (F.Exit(),)


def _set_queue(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return (F.SetQueue(int.from_bytes(data[at + 12 : at + 16], "big")),)


def _pop_queue(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return (F.SetQueue(None),)


def _group(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return (F.Group(int.from_bytes(data[at + 12 : at + 16], "big")),)


def _write_metadata(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    check_zero(data, at + 10, at + 16)
    mask = int.from_bytes(data[at + 24 : at + 32], "big")
    return set_masked("metadata", int.from_bytes(data[at + 16 : at + 24], "big") & mask, mask)


def _controller(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    check_zero(data, at + 15, end)
    return (F.Controller(_u16(data, at + 10), _u16(data, at + 12), data[at + 14]),)


def _controller2(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    check_zero(data, at + 10, at + 16)
    said: dict[int, bytes] = {}
    at += 16
    while at < end:
        kind, size = _u16(data, at), _u16(data, at + 2)
        if size < 4 or size > end - at:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a property of {size} bytes")
        if kind != _USERDATA and kind not in _PROPERTY_SIZES:
            raise OpenFlowError("OFPBPC_BAD_TYPE", f"unknown property {kind} of controller")
        value = data[at + 4 : at + size]
        if kind != _USERDATA and len(value) < _PROPERTY_SIZES[kind]:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"property {kind} of controller has {size} bytes")
        said[kind] = value
        at += align(size)

    def number(kind: int, default: int) -> int:
        return int.from_bytes(said[kind][: _PROPERTY_SIZES[kind]], "big") if kind in said else default

    meter = number(_METER_ID, -1)
    return (
        F.Controller(
            number(_MAX_LEN, 0xFFFF),
            number(_CONTROLLER_ID, 0),
            number(_REASON, 1),
            said.get(_USERDATA, b""),
            _PAUSE in said,
            None if meter < 0 else meter,
        ),
    )


def _clone(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    if reader.depth == MAX_NESTING:
        raise OpenFlowError("OFPBAC_TOO_MANY", f"clone lies more than {MAX_NESTING} deep in clone")
    if reader.in_exec:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", "clone can't stand inside exec")
    tagged = reader.tagged
    reader.depth += 1
    body = reader.list_of(data, at + 16, end)
    reader.depth -= 1
    reader.tagged = tagged
    return (F.Clone(body),)


ROWS = {
    1: Row(16, _resubmit),
    4: Row(16, _set_queue),
    5: Row(16, _pop_queue),
    6: Row(24, _reg_move, more=True),
    7: Row(24, _reg_load),
    8: Row(16, _note, more=True),
    14: Row(16, _resubmit_table),
    15: Row(24, _output_reg),
    17: Row(16, _exit),
    18: Row(16, ActionReader.dec_ttl),
    20: Row(16, _controller),
    21: Row(16, _dec_ttl_for, more=True),
    22: Row(32, _write_metadata),
    32: Row(24, _output_reg2),
    33: Row(16, _reg_load2, more=True),
    37: Row(16, _controller2, more=True),
    40: Row(16, _group),
    42: Row(16, _clone, more=True),
    44: Row(16, _resubmit_table_ct),
}
"""Nicira's actions by subtype."""

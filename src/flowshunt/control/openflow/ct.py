"""The ct action and what stands inside it, read."""

from __future__ import annotations

from struct import Struct

from flowshunt.control.openflow.action_reader import ActionReader, Actions, Row, check_zero, subfield
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.nicira import range_of
from flowshunt.packet.schema import ETH_IPV4, ETH_IPV6
from flowshunt.rules.openflow import flow as F

_CT = Struct("!HIHB3xH")  # flags, field of the zone, zone or range of bits, table, helper's port
COMMIT = 1
FORCE = 2
NO_TABLE = 0xFF


def _ct(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    flags, field, zone, table, helper = _CT.unpack_from(data, at + 10)
    check_zero(data, at + 19, at + 22)
    if flags & ~(COMMIT | FORCE):
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"unknown flags of ct {flags:#x}")
    commit, force = bool(flags & COMMIT), bool(flags & FORCE)
    if reader.in_exec or (force and not commit):
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", "ct inside exec" if reader.in_exec else "force needs commit")
    if helper:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"no helper for port {helper}")
    _check_facts(reader, commit)
    inner = ActionReader(reader.version, reader.facts, depth=reader.depth, in_exec=True)
    body = inner.list_of(data, at + 24, end)
    exec_ = tuple(action for action in body if isinstance(action, F.SetField | F.Move))
    if len(exec_) < len(body) or (exec_ and not commit):
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", "inside ct, exec may set ct_mark and ct_label, and needs commit")
    return (F.Ct(commit, force, _zone(reader, field, zone), None if table == NO_TABLE else table, exec_),)


def _check_facts(reader: ActionReader, commit: bool) -> None:
    facts = reader.facts
    if facts is not None:
        if facts.eth_type not in (None, ETH_IPV4, ETH_IPV6):
            raise OpenFlowError("OFPBAC_MATCH_INCONSISTENT", "only IP packets can be tracked")
        if commit and facts.ct_invalid:
            raise OpenFlowError("OFPBAC_BAD_ARGUMENT", "invalid packets can't be committed")


def _zone(reader: ActionReader, field: int, zone: int) -> int | F.Subfield:
    if not field:
        return zone
    start, width = range_of(zone)
    if width != 16:
        raise OpenFlowError("OFPBAC_BAD_SET_LEN", f"a zone has 16 bits, not {width}")
    part, _ = reader.part(field.to_bytes(4, "big"), 0, 4, start, width)
    where = subfield(reader.source(part))
    if where.width != width:
        raise OpenFlowError("OFPBAC_BAD_SET_LEN", f"{part.field.name} has not 16 bits there")
    return where


def _ct_clear(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return (F.CtClear(),)


ROWS = {35: Row(24, _ct, more=True), 43: Row(16, _ct_clear)}

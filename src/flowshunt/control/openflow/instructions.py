"""Instructions of OpenFlow 1.1 and later: a flow's list of actions comes in them, and leaves in them.

meter, apply_actions, clear_actions, write_actions, write_metadata, goto_table: they are carried out in this order,
whatever theirs on the wire.
"""

from __future__ import annotations

from struct import pack

from flowshunt.control.openflow.actions import Actions, decode_actions, encode_actions
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.wire import OF13, OF15
from flowshunt.packet.schema import VLAN_PRESENT
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.action_set import has_place
from flowshunt.rules.openflow.match import Facts
from flowshunt.rules.openflow.setters import set_masked

GOTO_TABLE, WRITE_METADATA, WRITE_ACTIONS, APPLY_ACTIONS, CLEAR_ACTIONS, METER = range(1, 7)
EXPERIMENTER = 0xFFFF
_SIZES = {GOTO_TABLE: 8, WRITE_METADATA: 24, CLEAR_ACTIONS: 8, METER: 8}


def decode_instructions(data: bytes, at: int, version: int, facts: Facts, table: int) -> Actions:
    """The list of actions that the instructions in `data[at:]` amount to, for a flow of `table` (255: any).

    Raises OpenFlowError with OFPBIC_* or OFPBAC_*.
    """
    found = _split(data, at, version)
    actions: Actions = ()
    if METER in found:
        actions += (F.Meter(int.from_bytes(found[METER][4:8], "big")),)
    if APPLY_ACTIONS in found:
        actions += decode_actions(found[APPLY_ACTIONS][8:], version, facts)
    if CLEAR_ACTIONS in found:
        actions += (F.ClearActions(),)
    if WRITE_ACTIONS in found:
        after = _after(actions, facts)
        actions += (F.WriteActions(_decode_set(found[WRITE_ACTIONS][8:], version, after)),)
    if WRITE_METADATA in found:
        body = found[WRITE_METADATA]
        value, mask = int.from_bytes(body[8:16], "big"), int.from_bytes(body[16:24], "big")
        actions += set_masked("metadata", value & mask, mask)
    if GOTO_TABLE in found:
        target = found[GOTO_TABLE][4]
        if target >= F.ALL_TABLES or (target <= table and table != F.ALL_TABLES):
            raise OpenFlowError("OFPBIC_BAD_TABLE_ID", f"goto_table leads from {table} to {target}")
        actions += (F.GotoTable(target),)
    return actions


def _after(actions: Actions, facts: Facts) -> Facts:
    """The facts behind a list of actions: whether packets have a VLAN tag may be another."""
    for action in actions:
        if isinstance(action, F.PushVlan):
            facts = facts._replace(tagged=True)
        elif isinstance(action, F.PopVlan):
            facts = facts._replace(tagged=False)
        elif isinstance(action, F.SetField) and action.dest.field == "vlan_tci":
            facts = facts._replace(tagged=facts.tagged or bool(action.value << action.dest.start & VLAN_PRESENT))
    return facts


def _decode_set(data: bytes, version: int, facts: Facts) -> Actions:
    actions = decode_actions(data, version, facts)
    for action in actions:
        if not has_place(action):
            raise OpenFlowError("OFPBAC_BAD_TYPE", f"{type(action).__name__} can't stand in an action set")
    return actions


def _split(data: bytes, at: int, version: int) -> dict[int, bytes]:
    """The instructions by type, each with its header."""
    found: dict[int, bytes] = {}
    end = len(data)
    while at < end:
        kind = int.from_bytes(data[at : at + 2], "big")
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if end - at < 8 or size < 8 or size % 8 or size > end - at:
            raise OpenFlowError("OFPBIC_BAD_LEN", f"an instruction of {size} bytes, {end - at} are left")
        if kind == EXPERIMENTER:
            raise OpenFlowError("OFPBIC_BAD_EXPERIMENTER", "unknown experimenter")
        if not GOTO_TABLE <= kind <= METER or (kind == METER and not OF13 <= version < OF15):
            raise OpenFlowError("OFPBIC_UNKNOWN_INST", f"unknown instruction {kind}")
        if size != _SIZES.get(kind, size):
            raise OpenFlowError("OFPBIC_BAD_LEN", f"instruction {kind} has {size} bytes")
        if kind in found:
            raise OpenFlowError("OFPBIC_DUP_INST", f"instruction {kind} is given twice")
        found[kind] = data[at : at + size]
        at += size
    return found


def encode_instructions(actions: Actions, version: int, facts: Facts) -> bytes:
    """The instructions of a flow with this list of actions."""
    parts = []
    applied = encode_actions(actions, version, facts)
    last = actions[-1] if actions else None
    if version < OF15:
        parts += [pack("!HHI", METER, 8, action.meter) for action in actions if isinstance(action, F.Meter)]
    if applied:
        parts.append(pack("!HH4x", APPLY_ACTIONS, 8 + len(applied)) + applied)
    for action in actions:
        if isinstance(action, F.ClearActions):
            parts.append(pack("!HH4x", CLEAR_ACTIONS, 8))
        elif isinstance(action, F.WriteActions):
            written = encode_actions(action.actions, version, _after(actions, facts))
            parts.append(pack("!HH4x", WRITE_ACTIONS, 8 + len(written)) + written)
    if isinstance(last, F.GotoTable):
        parts.append(pack("!HHB3x", GOTO_TABLE, 8, last.table))
    return b"".join(parts)

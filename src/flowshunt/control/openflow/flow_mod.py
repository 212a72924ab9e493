"""Flow-mods: a change of the flow tables, read in its three forms (1.0, Nicira's, 1.1 and later)."""

from __future__ import annotations

from dataclasses import replace
from struct import Struct
from typing import NamedTuple

from flowshunt.control.openflow.actions import decode_actions
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.fixed import ALL_WILDCARDS_10, SIZE_10, decode_match_10, decode_match_11
from flowshunt.control.openflow.instructions import decode_instructions
from flowshunt.control.openflow.match import Match, decode_nxm_match, decode_oxm_match
from flowshunt.control.openflow.wire import (
    GROUP_ANY,
    NO_BUFFER,
    OF10,
    OF11,
    OF12,
    OF13,
    OF14,
    PORT_NONE,
    port_from_32,
)
from flowshunt.rules.openflow.flow import ALL_TABLES, Flow

COMMANDS = ("add", "mod", "mod_strict", "del", "del_strict")
"""The commands by number; the names are those of `rules.openflow.parse.Command`."""

_MOD_10 = Struct("!QHHHHIHH")
_MOD_NX = Struct("!QHHHHIHHH6x")
_MOD_11 = Struct("!QQBBHHHIIIHH")

_FLAGS_10 = ("send_flow_rem", "check_overlap")
_FLAGS_13 = ("send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts")
_EMERGENCY = 1 << 2
_FIXED_TYPE = bytes(2)
_KEEP_COOKIE = (1 << 64) - 1
_NO_FLAGS: frozenset[str] = frozenset()


class FlowMod(NamedTuple):
    """A change of the flow tables.

    `command`: one of COMMANDS; `flow`: as flow texts give it for that command. `added`: what a modification adds that
    selects nothing (OpenFlow 1.0 and 1.1, unless it selects by cookie); None: nothing.
    """

    command: str
    flow: Flow
    buffer_id: int = NO_BUFFER
    added: Flow | None = None


def flag_names(version: int) -> tuple[str, ...]:
    """The flags of a flow in a version, by bit."""
    return _FLAGS_13 if version >= OF13 else _FLAGS_13[:3] if version >= OF12 else _FLAGS_10


def _flags(flags: int, version: int) -> frozenset[str]:
    if not flags:
        return _NO_FLAGS
    names = flag_names(version)
    if version == OF10 and flags & _EMERGENCY:
        raise OpenFlowError("OFPFMFC_TABLE_FULL", "there is no emergency flow cache")
    if flags >> len(names):
        raise OpenFlowError("OFPFMFC_BAD_FLAGS", f"unknown flags {flags:#x}")
    return frozenset(name for bit, name in enumerate(names) if flags >> bit & 1)


def _command(number: int) -> str:
    if number >= len(COMMANDS):
        raise OpenFlowError("OFPFMFC_BAD_COMMAND", f"unknown command {number}")
    return COMMANDS[number]


def selected_port(port: int) -> int | None:
    """The port of 16 bits by which a request selects flows, None for any."""
    return None if port == PORT_NONE else port


def selected_port_32(port: int) -> int | None:
    """The same of 32 bits."""
    number = port_from_32(port)
    if number is None:
        raise OpenFlowError("OFPBRC_BAD_PORT", f"{port:#x} is not a port")
    return selected_port(number)


def _table_and_command(raw: int, table_ids: bool) -> tuple[int, str]:
    """What OpenFlow 1.0 has in its field of the command: with Nicira's extension, the table in the high byte."""
    if table_ids:
        return raw >> 8, _command(raw & 0xFF)
    return ALL_TABLES, _command(raw)


def decode_flow_mod_10(body: bytes, version: int, table_ids: bool) -> FlowMod:
    """OpenFlow 1.0's own form."""
    if len(body) < SIZE_10 + _MOD_10.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "the flow-mod is cut off")
    match = decode_match_10(body, 0)
    cookie, raw, idle, hard, priority, buffer_id, out_port, flags = _MOD_10.unpack_from(body, SIZE_10)
    if not int.from_bytes(body[:4], "big") & ALL_WILDCARDS_10:
        priority = 0xFFFF  # what has no wildcard comes first
    data = body[SIZE_10 + _MOD_10.size :]
    return _old(raw, table_ids, match, data, version, (cookie, 0, idle, hard, priority, buffer_id, out_port, flags))


def decode_flow_mod_nx(body: bytes, version: int, table_ids: bool) -> FlowMod:
    """Nicira's form, with a match in NXM; in later versions, too."""
    if len(body) < _MOD_NX.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "the flow-mod is cut off")
    cookie, raw, idle, hard, priority, buffer_id, out_port, flags, size = _MOD_NX.unpack_from(body)
    match, at = decode_nxm_match(body, _MOD_NX.size, size)
    return _old(
        raw, table_ids, match, body[at:], version, (cookie, 1, idle, hard, priority, buffer_id, out_port, flags)
    )


_Rest = tuple[int, int, int, int, int, int, int, int]


def _old(raw: int, table_ids: bool, match: Match, data: bytes, version: int, rest: _Rest) -> FlowMod:
    """The flow-mod of 1.0's two forms."""
    cookie, nicira, idle, hard, priority, buffer_id, out_port, flags = rest
    table, command = _table_and_command(raw, table_ids)
    adding = command == "add"
    if nicira and adding and match.cookie_mask:
        raise OpenFlowError("NXBRC_NXM_INVALID", "a new flow's cookie stands in its match")
    if adding and table == ALL_TABLES:
        table = 0
    deleting = command.startswith("del")
    flow = Flow(
        match=match.triples,
        actions=() if deleting else decode_actions(data, version, match.facts),
        table=table,
        priority=priority,
        cookie=cookie if adding else match.cookie,
        idle_timeout=idle,
        hard_timeout=hard,
        flags=_flags(flags, OF10),
        cookie_mask=0 if adding else match.cookie_mask,
        new_cookie=None if adding or deleting or cookie == _KEEP_COOKIE else cookie,
        out_port=selected_port(out_port) if deleting else None,
    )
    return FlowMod(command, flow, buffer_id, _addition(command, flow, 0 if cookie == _KEEP_COOKIE else cookie))


def _addition(command: str, flow: Flow, cookie: int) -> Flow | None:
    """What a modification of OpenFlow 1.0 and 1.1 adds where it finds nothing."""
    if not command.startswith("mod") or flow.cookie_mask:
        return None
    return replace(flow, table=0 if flow.table == ALL_TABLES else flow.table, cookie=cookie, new_cookie=None)


def decode_flow_mod_11(body: bytes, version: int, table_ids: bool) -> FlowMod:
    """The form of OpenFlow 1.1 and later."""
    if len(body) < _MOD_11.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "the flow-mod is cut off")
    (
        cookie, cookie_mask, table, raw, idle, hard, priority, buffer_id, out_port, out_group, flags, importance,
    ) = _MOD_11.unpack_from(body)  # fmt: skip
    match, at = decode_match(body, _MOD_11.size, version)
    command = _command(raw)
    adding, deleting = command == "add", command.startswith("del")
    if table == ALL_TABLES and not (deleting and version > OF11):
        raise OpenFlowError("OFPFMFC_BAD_TABLE_ID", "only a deletion can mean all tables")
    flow = Flow(
        match=match.triples,
        actions=() if deleting else decode_instructions(body, at, version, match.facts, table),
        table=table,
        priority=priority,
        cookie=cookie if adding else cookie & cookie_mask,
        idle_timeout=idle,
        hard_timeout=hard,
        importance=importance if version >= OF14 else 0,
        flags=_flags(flags, version),
        cookie_mask=0 if adding else cookie_mask,
        out_port=selected_port_32(out_port) if deleting else None,
        out_group=None if not deleting or out_group == GROUP_ANY else out_group,
    )
    return FlowMod(command, flow, buffer_id, _addition(command, flow, cookie) if version == OF11 else None)


def decode_match(data: bytes, at: int, version: int) -> tuple[Match, int]:
    """The match of OpenFlow 1.1 and later at `data[at:]`, and where it ends.

    In 1.1 it may be a list of fields, too, as Open vSwitch has it for what the version's own form has no room for.
    """
    fixed = version == OF11 and data[at : at + 2] == _FIXED_TYPE
    return decode_match_11(data, at) if fixed else decode_oxm_match(data, at)

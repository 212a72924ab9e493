"""What the tests of OpenFlow share: flow-mods as a controller sends them, connections that agreed on a version."""

from __future__ import annotations

import struct
from dataclasses import replace

from flowshunt.control.openflow.actions import encode_actions
from flowshunt.control.openflow.connection import Connection, Negotiated
from flowshunt.control.openflow.flow_mod import COMMANDS, FlowMod, decode_flow_mod_11, decode_flow_mod_nx
from flowshunt.control.openflow.flow_stats import encode_match, facts_of_flow, flags_of
from flowshunt.control.openflow.instructions import encode_instructions
from flowshunt.control.openflow.match import encode_fields
from flowshunt.control.openflow.wire import HEADER, padded, port_to_32
from flowshunt.rules.openflow.flow import Flow

VERSIONS = (1, 2, 3, 4, 5, 6)
NOTHING = 0xFFFFFFFF


def message(version: int, kind: int, body: bytes = b"", xid: int = 1) -> bytes:
    """One message."""
    return HEADER.pack(version, kind, HEADER.size + len(body), xid) + body


def hello(*versions: int) -> bytes:
    """A hello with a bitmap."""
    bitmap = sum(1 << version for version in versions)
    return message(max(versions), 0, struct.pack("!HHI", 1, 8, bitmap))


def connected(version: int) -> Connection:
    """A connection that agreed on a version, with nothing left to be sent."""
    connection = Connection()
    connection.data_to_send()
    connection.receive_data(hello(version))
    assert connection.next_event() == Negotiated(version)
    return connection


def flow_mod_body(flow: Flow, version: int, command: str = "add", *, buffer_id: int = NOTHING) -> bytes:
    """The body of a flow-mod: Nicira's in 1.0 (with table), the standard one in later versions."""
    facts = facts_of_flow(flow)
    number = COMMANDS.index(command)
    flags = flags_of(flow, version)
    port = 0xFFFF if flow.out_port is None else flow.out_port
    if version == 1:
        fields = encode_fields(flow.match, 1)
        head = struct.pack(
            "!QHHHHIHHH6x", flow.cookie, flow.table << 8 | number, flow.idle_timeout, flow.hard_timeout,
            flow.priority, buffer_id, port, flags, len(fields),
        )  # fmt: skip
        return head + padded(fields) + encode_actions(flow.actions, version, facts)
    head = struct.pack(
        "!QQBBHHHIIIHH", flow.cookie, flow.cookie_mask, flow.table, number, flow.idle_timeout, flow.hard_timeout,
        flow.priority, buffer_id, port_to_32(port), NOTHING if flow.out_group is None else flow.out_group, flags,
        flow.importance,
    )  # fmt: skip
    return head + encode_match(flow.match, version) + encode_instructions(flow.actions, version, facts)


def flow_mod(flow: Flow, version: int, command: str = "add", *, xid: int = 1, buffer_id: int = NOTHING) -> bytes:
    """A whole flow-mod. In 1.0 the connection must have been told that commands carry tables."""
    body = flow_mod_body(flow, version, command, buffer_id=buffer_id)
    if version == 1:
        return message(1, 4, struct.pack("!II", 0x2320, 13) + body, xid)
    return message(version, 14, body, xid)


def through_the_wire(flow: Flow, version: int) -> FlowMod:
    """A new flow, written and read again."""
    body = flow_mod_body(flow, version)
    if version == 1:
        return decode_flow_mod_nx(body, 1, table_ids=True)
    return decode_flow_mod_11(body, version, table_ids=False)


def without_flags(flow: Flow) -> Flow:
    """What every version can say of a flow."""
    return replace(flow, flags=frozenset(), importance=0)

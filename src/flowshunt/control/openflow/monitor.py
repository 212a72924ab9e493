"""Monitors of flow tables: requests, and what a monitor is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct, pack
from typing import NamedTuple

from flowshunt.control.openflow.actions import encode_actions
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.flow_mod import selected_port, selected_port_32
from flowshunt.control.openflow.flow_stats import encode_fitting, facts_of_flow
from flowshunt.control.openflow.instructions import encode_instructions
from flowshunt.control.openflow.match import Match, decode_nxm_match, decode_oxm_match, encode_fields, encode_oxm_match
from flowshunt.control.openflow.wire import GROUP_ANY, OF13, OF14, padded
from flowshunt.rules.openflow.flow import Flow

_REQUEST_NX = Struct("!IHHHB5x")
_REQUEST_ONF = Struct("!IHHIB3x")
_REQUEST_14 = Struct("!IIIHBB")
COMMANDS = ("add", "modify", "delete")

FLAGS = ("initial", "add", "delete", "modify", "actions", "own")
_FLAGS_14 = ("initial", "add", "delete", "modify", "actions", "no_abbreviation", "own")
_EVENTS = ("added", "deleted", "modified", "abbreviated")
_EVENTS_14 = ("initial", "added", "deleted", "modified", "abbreviated", "paused", "resumed")


class Monitor(NamedTuple):
    """One monitor: which flows, and which changes of them are told."""

    id: int
    selection: Flow
    flags: frozenset[str]
    command: str = "add"


class MonitorRequest(NamedTuple):
    """Monitors to add (from OpenFlow 1.4 on, to change or delete too)."""

    monitors: tuple[Monitor, ...]


class MonitorCancel(NamedTuple):
    """A monitor to delete, in Nicira's form."""

    id: int


class FlowUpdate(NamedTuple):
    """What a monitor is told. `event`: "initial", "added", "deleted", "modified", or "abbreviated" with its `xid`.

    `reason` is that of flow-removed messages; without `actions` the monitor did not ask for them.
    """

    event: str
    flow: Flow | None
    reason: int = 0
    xid: int = 0
    actions: bool = True


class MonitorPause(NamedTuple):
    """From now on a monitor is told only of what goes (`paused`), or of everything again."""

    paused: bool


class MonitorReply(NamedTuple):
    """Updates for monitors."""

    updates: Sequence[FlowUpdate]


def decode_monitor_request(body: bytes, version: int) -> MonitorRequest:
    """One or more monitors: Nicira's form to 1.2, ONF's in 1.3, the standard's from 1.4 on."""
    found = []
    at = 0
    while at < len(body):
        monitor, at = _monitor(body, at, version)
        found.append(monitor)
    return MonitorRequest(tuple(found))


def _monitor(body: bytes, at: int, version: int) -> tuple[Monitor, int]:
    layout = _REQUEST_14 if version >= OF14 else _REQUEST_ONF if version == OF13 else _REQUEST_NX
    if len(body) - at < layout.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a monitor is cut off")
    match: Match
    command, group = 0, GROUP_ANY
    if version >= OF14:
        number, port_32, group, raw, table, command = layout.unpack_from(body, at)
        port = selected_port_32(port_32)
        match, end = decode_oxm_match(body, at + layout.size)
    elif version == OF13:
        number, raw, _, port_32, table = layout.unpack_from(body, at)
        port = selected_port_32(port_32)
        match, end = decode_oxm_match(body, at + layout.size)
    else:
        number, raw, port_16, size, table = layout.unpack_from(body, at)
        port = selected_port(port_16)
        match, end = decode_nxm_match(body, at + layout.size, size)
    names = _FLAGS_14 if version >= OF14 else FLAGS
    if command >= len(COMMANDS):
        raise OpenFlowError("OFPMOFC_BAD_COMMAND", f"unknown command {command}")
    if raw >> len(names) or (command < 2 and not raw & 0xF):
        raise OpenFlowError("OFPMOFC_BAD_FLAGS", f"flags {raw:#x}")
    flags = frozenset(name for bit, name in enumerate(names) if raw >> bit & 1)
    selection = Flow(
        match.triples,
        table=table,
        cookie=match.cookie,
        cookie_mask=match.cookie_mask,
        out_port=port,
        out_group=None if group == GROUP_ANY else group,
    )
    return Monitor(number, selection, flags, COMMANDS[command]), end


def decode_cancel(body: bytes, version: int) -> MonitorCancel:
    """Nicira's deletion of a monitor."""
    if len(body) != 4:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a cancellation of the wrong size")
    return MonitorCancel(int.from_bytes(body, "big"))


def encode_update(update: FlowUpdate, version: int) -> bytes:
    """One update, in the form of the version."""
    names = _EVENTS_14 if version >= OF14 else _EVENTS
    event = names.index("added" if update.event == "initial" and version < OF14 else update.event)
    flow = update.flow
    if flow is None:
        return pack("!HHI", 8, event, update.xid)
    facts = facts_of_flow(flow)
    if version >= OF14:
        match = encode_oxm_match(flow.match, version)
        actions = encode_instructions(flow.actions, version, facts) if update.actions else b""
        head = pack(
            "!HHBBHHH4xQ", 24 + len(match) + len(actions), event, flow.table, update.reason, flow.idle_timeout,
            flow.hard_timeout, flow.priority, flow.cookie,
        )  # fmt: skip
        return head + match + actions
    if version == OF13:
        size = 4 + len(encode_fields(flow.match, version))
        match = encode_oxm_match(flow.match, version)
        actions = encode_instructions(flow.actions, version, facts) if update.actions else b""
    else:
        fields = encode_fields(flow.match, version)
        size, match = len(fields), padded(fields)
        actions = encode_actions(flow.actions, version, facts) if update.actions else b""
    return (
        pack(
            "!HHHHHHHBxQ", 24 + len(match) + len(actions), event, update.reason, flow.priority, flow.idle_timeout,
            flow.hard_timeout, size, flow.table, flow.cookie,
        )
        + match
        + actions
    )  # fmt: skip


def encode_updates(updates: Iterable[FlowUpdate], version: int) -> Iterator[bytes]:
    """Updates, one by one. One of a flow for which a message has no room in this version is left out."""
    return encode_fitting(updates, version, encode_update)


def encode_pause(message: MonitorPause, version: int) -> bytes:
    """Pausing and resuming as updates, from OpenFlow 1.4 on."""
    return pack("!HH4x", 8, _EVENTS_14.index("paused" if message.paused else "resumed"))

"""Listings of flows: requests for them and for their sums, and the entries of replies in every version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from struct import Struct, pack
from struct import error as StructError
from typing import NamedTuple, TypeVar

from flowshunt.control.openflow.actions import encode_actions
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.fixed import SIZE_10, decode_match_10, encode_match_10, encode_match_11, fits_match_11
from flowshunt.control.openflow.flow_mod import decode_match, flag_names, selected_port, selected_port_32
from flowshunt.control.openflow.instructions import encode_instructions
from flowshunt.control.openflow.match import decode_nxm_match, encode_fields, encode_oxm_match
from flowshunt.control.openflow.wire import GROUP_ANY, MAX_ENTRY, OF10, OF11, OF13, OF14, OF15, padded
from flowshunt.rules.openflow.flow import Flow
from flowshunt.rules.openflow.match import Facts, Triples, facts_of

_Thing = TypeVar("_Thing")

_REQUEST_10 = Struct("!BxH")
_REQUEST_NX = Struct("!HHB3x")
_REQUEST_11 = Struct("!B3xII4xQQ")
_ENTRY_10 = Struct("!IIHHH6xQQQ")
_ENTRY_NX = Struct("!HBxIIHHHHHHQQQ")
_ENTRY_11 = Struct("!HBxIIHHHHH2xQQQ")
_ENTRY_15 = Struct("!H2xBBHHHHHQ")
_OXS_DURATION, _OXS_IDLE, _OXS_FLOWS, _OXS_PACKETS, _OXS_BYTES = (
    0x80020008,
    0x80020208,
    0x80020604,
    0x80020808,
    0x80020A08,
)
_UNKNOWN = (1 << 64) - 1
_NEVER = 0xFFFF


class FlowRequest(NamedTuple):
    """Which flows to list. `selection`: table (255: all), match, cookie under its mask, output port and group.

    `nicira`: asked in Nicira's form, and to be answered so.
    """

    selection: Flow
    nicira: bool = False


class AggregateRequest(NamedTuple):
    """Which flows to sum up, as FlowRequest."""

    selection: Flow
    nicira: bool = False


class FlowEntry(NamedTuple):
    """One flow of a reply. Times are nanoseconds; `idle_ns` since its last packet, `hard_ns` since its last change."""

    flow: Flow
    packets: int
    bytes: int
    duration_ns: int
    idle_ns: int
    hard_ns: int


class FlowReply(NamedTuple):
    """All flows that a request asked for; it leaves in as many messages as it needs, and is written once."""

    entries: Iterable[FlowEntry]
    nicira: bool = False


class AggregateReply(NamedTuple):
    """Sums over flows."""

    packets: int
    bytes: int
    flows: int
    nicira: bool = False


def decode_selection_10(body: bytes, version: int) -> Flow:
    """OpenFlow 1.0's own request."""
    if len(body) != SIZE_10 + _REQUEST_10.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request for flows of the wrong size")
    table, out_port = _REQUEST_10.unpack_from(body, SIZE_10)
    return Flow(decode_match_10(body, 0).triples, table=table, out_port=selected_port(out_port))


def decode_selection_nx(body: bytes, version: int) -> Flow:
    """Nicira's request."""
    if len(body) < _REQUEST_NX.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request for flows is cut off")
    out_port, size, table = _REQUEST_NX.unpack_from(body)
    match, at = decode_nxm_match(body, _REQUEST_NX.size, size)
    if at != len(body):
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request for flows is too long")
    return Flow(
        match.triples,
        table=table,
        cookie=match.cookie,
        cookie_mask=match.cookie_mask,
        out_port=selected_port(out_port),
    )


def decode_selection_11(body: bytes, version: int) -> Flow:
    """The request of OpenFlow 1.1 and later."""
    if len(body) < _REQUEST_11.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request for flows is cut off")
    table, out_port, out_group, cookie, cookie_mask = _REQUEST_11.unpack_from(body)
    match, at = decode_match(body, _REQUEST_11.size, version)
    if at != len(body):
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request for flows is too long")
    return Flow(
        match.triples,
        table=table,
        cookie=cookie & cookie_mask,
        cookie_mask=cookie_mask,
        out_port=selected_port_32(out_port),
        out_group=None if out_group == GROUP_ANY else out_group,
    )


# --- entries ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8192)
def _facts(deciding: Triples) -> Facts:
    return facts_of({place: (value, mask) for place, value, mask in deciding})


_DECIDING = frozenset(("eth_type", "nw_proto", "vlan_tci"))
_NO_FACTS = facts_of({})


def facts_of_flow(flow: Flow) -> Facts:
    """What a flow's match says as far as the names of fields depend on it."""
    return _facts(tuple([triple for triple in flow.match if triple[0] in _DECIDING]))


def _age(time_ns: int) -> int:
    """Whole seconds plus one, as Nicira's form has ages; 0 is "not known"."""
    return min(time_ns // 1_000_000_000 + 1, _NEVER)


def _counted(entry: FlowEntry) -> tuple[int, int]:
    """Packets and bytes, unknown where the flow asks not to count them."""
    flags = entry.flow.flags
    packets = _UNKNOWN if "no_packet_counts" in flags else entry.packets
    return packets, _UNKNOWN if "no_byte_counts" in flags else entry.bytes


def flags_of(flow: Flow, version: int) -> int:
    """The flags of a flow in a version."""
    if not flow.flags:
        return 0
    return sum(1 << bit for bit, name in enumerate(flag_names(version)) if name in flow.flags)


_NICIRA_FORM = 0
"""Form of `Flow.written` beside those of the versions."""


def _written(flow: Flow, form: int) -> tuple[bytes, bytes]:
    """The match and the actions of a flow in a version or in Nicira's form; the match not padded in the latter."""
    known = flow.written
    if known is not None and known[0] == form:
        return known[1], known[2]
    facts = facts_of_flow(flow) if flow.actions else _NO_FACTS
    if form == _NICIRA_FORM:
        match, actions = encode_fields(flow.match, OF10), encode_actions(flow.actions, OF10, facts)
    elif form == OF10:
        match, actions = encode_match_10(flow.match), encode_actions(flow.actions, OF10, facts)
    else:
        match, actions = encode_match(flow.match, form), encode_instructions(flow.actions, form, facts)
    flow.remember(form, match, actions)
    return match, actions


def _entry_10(entry: FlowEntry, version: int) -> bytes:
    flow = entry.flow
    match, actions = _written(flow, OF10)
    seconds, nanoseconds = divmod(entry.duration_ns, 1_000_000_000)
    size = 4 + SIZE_10 + _ENTRY_10.size + len(actions)
    return (
        pack("!HBx", size, flow.table)
        + match
        + _ENTRY_10.pack(
            seconds, nanoseconds, flow.priority, flow.idle_timeout, flow.hard_timeout, flow.cookie, *_counted(entry)
        )
        + actions
    )


def _entry_nx(entry: FlowEntry, version: int) -> bytes:
    flow = entry.flow
    fields, actions = _written(flow, _NICIRA_FORM)
    match = padded(fields)
    seconds, nanoseconds = divmod(entry.duration_ns, 1_000_000_000)
    return (
        _ENTRY_NX.pack(
            _ENTRY_NX.size + len(match) + len(actions),
            flow.table,
            seconds,
            nanoseconds,
            flow.priority,
            flow.idle_timeout,
            flow.hard_timeout,
            len(fields),
            _age(entry.idle_ns),
            _age(entry.hard_ns),
            flow.cookie,
            *_counted(entry),
        )
        + match
        + actions
    )


def encode_match(triples: Triples, version: int) -> bytes:
    """A match of OpenFlow 1.1 and later; in 1.1 as a list of fields where its own form has no room."""
    fixed = version == OF11 and fits_match_11(triples)
    return encode_match_11(triples) if fixed else encode_oxm_match(triples, version)


def _entry_11(entry: FlowEntry, version: int) -> bytes:
    flow = entry.flow
    match, instructions = _written(flow, version)
    seconds, nanoseconds = divmod(entry.duration_ns, 1_000_000_000)
    return (
        _ENTRY_11.pack(
            _ENTRY_11.size + len(match) + len(instructions),
            flow.table,
            seconds,
            nanoseconds,
            flow.priority,
            flow.idle_timeout,
            flow.hard_timeout,
            flags_of(flow, version) if version >= OF13 else 0,
            flow.importance if version >= OF14 else 0,
            flow.cookie,
            *_counted(entry),
        )
        + match
        + instructions
    )


def oxs(*fields: tuple[int, int, int]) -> bytes:
    """Statistics of OpenFlow 1.5: header, value, bytes of each; padded."""
    body = b"".join(pack("!I", header) + value.to_bytes(size, "big") for header, value, size in fields)
    return padded(pack("!HH", 0, 4 + len(body)) + body)


def flow_oxs(entry: FlowEntry) -> bytes:
    """The statistics of one flow in OpenFlow 1.5."""
    packets, n_bytes = _counted(entry)
    seconds, nanoseconds = divmod(entry.duration_ns, 1_000_000_000)
    idle, idle_ns = divmod(entry.idle_ns, 1_000_000_000)
    return oxs(
        (_OXS_DURATION, seconds << 32 | nanoseconds, 8),
        (_OXS_IDLE, idle << 32 | idle_ns, 8),
        (_OXS_PACKETS, packets, 8),
        (_OXS_BYTES, n_bytes, 8),
    )


def _entry_15(entry: FlowEntry, version: int) -> bytes:
    flow = entry.flow
    match, instructions = _written(flow, version)
    statistics = flow_oxs(entry)
    return (
        _ENTRY_15.pack(
            _ENTRY_15.size + len(match) + len(statistics) + len(instructions),
            flow.table,
            0,
            flow.priority,
            flow.idle_timeout,
            flow.hard_timeout,
            flags_of(flow, version),
            flow.importance,
            flow.cookie,
        )
        + match
        + statistics
        + instructions
    )


def encode_entries(entries: Iterable[FlowEntry], version: int, nicira: bool) -> Iterator[bytes]:
    """The entries of a reply, one by one. A flow for which a message has no room is left out."""
    encode = _entry_nx if nicira else _entry_10 if version == OF10 else _entry_11 if version < OF15 else _entry_15
    return encode_fitting(entries, version, encode)


def encode_fitting(things: Iterable[_Thing], version: int, encode: Callable[[_Thing, int], bytes]) -> Iterator[bytes]:
    """Things by `encode(thing, version)`, one by one. One for which a message has no room is left out."""
    for thing in things:
        try:
            data = encode(thing, version)
        except (OpenFlowError, StructError):  # the latter: longer than its own length field can say
            continue
        if len(data) <= MAX_ENTRY:
            yield data


def encode_aggregate(reply: AggregateReply, version: int) -> bytes:
    """Sums, in the form of the version."""
    if version >= OF15:
        return oxs((_OXS_PACKETS, reply.packets, 8), (_OXS_BYTES, reply.bytes, 8), (_OXS_FLOWS, reply.flows, 4))
    return pack("!QQI4x", reply.packets, reply.bytes, reply.flows)

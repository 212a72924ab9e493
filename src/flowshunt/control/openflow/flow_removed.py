"""News of a flow that is gone."""

from __future__ import annotations

from struct import pack
from typing import NamedTuple

from flowshunt.control.openflow.fixed import encode_match_10
from flowshunt.control.openflow.flow_stats import FlowEntry, encode_match, flow_oxs
from flowshunt.control.openflow.match import encode_fields, encode_oxm_match
from flowshunt.control.openflow.wire import OF10, OF15, padded

REASON_IDLE, REASON_HARD, REASON_DELETE, REASON_GROUP_DELETE, REASON_METER_DELETE, REASON_EVICTION = range(6)


class FlowRemoved(NamedTuple):
    """A flow is gone, with what it counted; `reason` is one of REASON_*."""

    entry: FlowEntry
    reason: int


def encode_flow_removed(message: FlowRemoved, version: int, nicira: bool) -> bytes:
    """The body, in Nicira's form for OpenFlow 1.0 where the connection uses NXM."""
    entry, reason = message
    flow = entry.flow
    seconds, nanoseconds = divmod(entry.duration_ns, 1_000_000_000)
    if version == OF10 and nicira:
        fields = encode_fields(flow.match, version)
        head = pack("!QHBBIIHHQQ", flow.cookie, flow.priority, reason, flow.table + 1, seconds, nanoseconds,
                    flow.idle_timeout, len(fields), entry.packets, entry.bytes)  # fmt: skip
        return head + padded(fields)
    if version == OF10:
        return encode_match_10(flow.match) + pack(
            "!QHBxIIH2xQQ", flow.cookie, flow.priority, reason, seconds, nanoseconds, flow.idle_timeout,
            entry.packets, entry.bytes,
        )  # fmt: skip
    if version >= OF15:
        head = pack(
            "!BBHHHQ", flow.table, reason, flow.priority, flow.idle_timeout, flow.hard_timeout, flow.cookie
        )  # fmt: skip
        return head + encode_oxm_match(flow.match, version) + flow_oxs(entry)
    head = pack("!QHBBIIHHQQ", flow.cookie, flow.priority, reason, flow.table, seconds, nanoseconds,
                flow.idle_timeout, flow.hard_timeout, entry.packets, entry.bytes)  # fmt: skip
    return head + encode_match(flow.match, version)

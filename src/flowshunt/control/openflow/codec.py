"""All messages: which bytes are which, for the switch's end of a connection.

`decode` reads what controllers send, `encode` writes what a switch sends. Both are tables here, of numbers, versions
and functions of the modules that know the formats; a new message is a row in one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from struct import Struct, pack
from typing import Any, NamedTuple

from flowshunt.control.openflow import (
    bundle,
    extensions,
    flow_mod,
    flow_removed,
    flow_stats,
    groups,
    meters,
    monitor,
    packets,
    ports,
    queues,
    switch,
    tables,
)
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.wire import NX, OF10, OF11, OF12, OF13, OF14, OF15, ONF

TYPE_HELLO, TYPE_ERROR, TYPE_ECHO_REQUEST, TYPE_ECHO_REPLY, TYPE_EXPERIMENTER = range(5)
TYPE_PACKET_IN, TYPE_FLOW_REMOVED, TYPE_PORT_STATUS = 10, 11, 12

MORE = 1
"""Flag of a multipart message that is not the last."""

_EXPERIMENTER = Struct("!II")
_MULTIPART_10 = Struct("!HH")
_MULTIPART_11 = Struct("!HH4x")
_MULTIPART_EXPERIMENTER = 0xFFFF
_VENDOR_10 = Struct("!II4x")


class EchoRequest(NamedTuple):
    """Are you there? The answer repeats the data."""

    data: bytes


class EchoReply(NamedTuple):
    """Yes."""

    data: bytes


class BarrierRequest(NamedTuple):
    """Answered when all that came before is done."""


class BarrierReply(NamedTuple):
    """All that came before is done."""


class ErrorMessage(NamedTuple):
    """What the controller did not like."""

    type: int
    code: int
    data: bytes


class Unsupported(NamedTuple):
    """A known message that asks for something this switch does not have; `error` names the answer."""

    error: str


class Encoded(NamedTuple):
    """A message's type and body."""

    type: int
    body: bytes


class Parts(NamedTuple):
    """A multipart reply: the message's type, the reply's type, what follows the flags, and the entries."""

    type: int
    kind: int
    head: bytes
    entries: Iterable[bytes]


Decoder = Callable[[bytes, int], Any]
_Row = tuple[int, int, int, Decoder]
"""Number, first version, last version, function."""


def _empty(message: Any) -> Decoder:
    """The decoder of a message without a body."""

    def decode(body: bytes, version: int) -> Any:
        if body:
            raise OpenFlowError("OFPBRC_BAD_LEN", f"{len(body)} bytes too many")
        return message

    return decode


def _error(body: bytes, version: int) -> ErrorMessage:
    if len(body) < 4:
        raise OpenFlowError("OFPBRC_BAD_LEN", "an error message is cut off")
    return ErrorMessage(int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big"), body[4:])


def _unsupported(error: str) -> Decoder:
    return lambda body, version: Unsupported(error)


_MESSAGES: tuple[_Row, ...] = (
    (TYPE_ERROR, OF10, OF15, _error),
    (TYPE_ECHO_REQUEST, OF10, OF15, lambda body, version: EchoRequest(body)),
    (TYPE_ECHO_REPLY, OF10, OF15, lambda body, version: EchoReply(body)),
    (5, OF10, OF15, _empty(switch.FeaturesRequest())),
    (7, OF10, OF15, _empty(switch.ConfigRequest())),
    (9, OF10, OF15, switch.decode_set_config),
    (13, OF10, OF15, packets.decode_packet_out),
    (14, OF11, OF15, partial(flow_mod.decode_flow_mod_11, table_ids=False)),
    (15, OF10, OF10, ports.decode_port_mod),
    (15, OF11, OF15, groups.decode_group_mod),
    (16, OF11, OF15, ports.decode_port_mod),
    (17, OF11, OF15, tables.decode_table_mod),
    (18, OF10, OF10, _empty(BarrierRequest())),
    (20, OF10, OF10, queues.decode_config_request),
    (20, OF11, OF15, _empty(BarrierRequest())),
    (22, OF11, OF13, queues.decode_config_request),
    (24, OF12, OF15, switch.decode_role),
    (26, OF13, OF15, _empty(switch.AsyncRequest())),
    (28, OF13, OF13, switch.decode_async_13),
    (28, OF14, OF15, switch.decode_async_14),
    (29, OF13, OF15, meters.decode_meter_mod),
    (33, OF14, OF15, partial(bundle.decode_control, onf=False)),
)
"""Messages by type. Not among them: hello, flow-mod in 1.0, bundle-add, multipart, experimenters (see `decode`)."""

_NICIRA: tuple[_Row, ...] = (
    (10, OF10, OF15, switch.decode_role_nx),
    (12, OF10, OF10, extensions.decode_flow_format),
    (15, OF10, OF15, extensions.decode_table_ids),
    (16, OF10, OF15, extensions.decode_packet_in_format),
    (18, OF10, OF15, _empty(extensions.FlowAge())),
    (19, OF10, OF15, switch.decode_async_13),
    (20, OF10, OF15, extensions.decode_controller_id),
    (21, OF10, OF12, monitor.decode_cancel),
    (24, OF10, OF15, extensions.decode_tlv_mod),
    (25, OF10, OF15, _empty(extensions.TlvTableRequest())),
    (27, OF10, OF13, switch.decode_async_14),
    (28, OF10, OF15, packets.decode_resume),
    (29, OF10, OF15, extensions.decode_flush_zone),
    (31, OF10, OF10, groups.decode_group_mod),
    (32, OF10, OF15, extensions.decode_flush),
)
"""Nicira's messages by subtype; flow-mod (13) is in `decode`."""

_ONF: tuple[_Row, ...] = (
    (1870, OF13, OF13, monitor.decode_cancel),
    (2300, OF13, OF13, partial(bundle.decode_control, onf=True)),
)
"""The ONF's messages by type; bundle-add (2301) is in `decode`."""

_FLOW_REQUEST_11 = flow_stats.decode_selection_11
_REQUESTS: tuple[_Row, ...] = (
    (0, OF10, OF15, _empty(switch.DescriptionRequest())),
    (1, OF10, OF10, lambda body, version: flow_stats.FlowRequest(flow_stats.decode_selection_10(body, version))),
    (1, OF11, OF15, lambda body, version: flow_stats.FlowRequest(_FLOW_REQUEST_11(body, version))),
    (2, OF10, OF10, lambda body, version: flow_stats.AggregateRequest(flow_stats.decode_selection_10(body, version))),
    (2, OF11, OF15, lambda body, version: flow_stats.AggregateRequest(_FLOW_REQUEST_11(body, version))),
    (3, OF10, OF15, _empty(tables.TableStatsRequest())),
    (4, OF10, OF15, ports.decode_stats_request),
    (5, OF10, OF15, queues.decode_stats_request),
    (6, OF11, OF15, lambda body, version: groups.GroupStatsRequest(groups.decode_group_number(body, version))),
    (7, OF11, OF14, _empty(groups.GroupDescriptionRequest())),
    (7, OF15, OF15, lambda body, version: groups.GroupDescriptionRequest(groups.decode_group_number(body, version))),
    (8, OF12, OF15, _empty(groups.GroupFeaturesRequest())),
    (9, OF13, OF15, lambda body, version: meters.MeterStatsRequest(meters.decode_meter_number(body, version))),
    (10, OF13, OF15, lambda body, version: meters.MeterConfigRequest(meters.decode_meter_number(body, version))),
    (11, OF13, OF15, _empty(meters.MeterFeaturesRequest())),
    (12, OF13, OF15, tables.decode_features_request),
    (13, OF10, OF15, ports.decode_description_request),
    (14, OF14, OF15, _empty(tables.TableDescriptionRequest())),
    (15, OF14, OF15, queues.decode_description_request),
    (16, OF14, OF15, monitor.decode_monitor_request),
)
"""Multipart requests by type."""

_NICIRA_REQUESTS: tuple[_Row, ...] = (
    (0, OF10, OF10, lambda body, version: flow_stats.FlowRequest(flow_stats.decode_selection_nx(body, version), True)),
    (1, OF10, OF10,
     lambda body, version: flow_stats.AggregateRequest(flow_stats.decode_selection_nx(body, version), True)),
    (2, OF10, OF12, monitor.decode_monitor_request),
    (3, OF10, OF15, _unsupported("NXST_NOT_CONFIGURED")),
    (4, OF10, OF15, _unsupported("NXST_NOT_CONFIGURED")),
    (7, OF10, OF10, lambda body, version: groups.GroupStatsRequest(groups.decode_group_number(body, version), True)),
    (8, OF10, OF10,
     lambda body, version: groups.GroupDescriptionRequest(groups.decode_group_number(body, version), True)),
    (9, OF10, OF11, _empty(groups.GroupFeaturesRequest(nicira=True))),
)  # fmt: skip
"""Nicira's multipart requests by subtype; those for IPFIX find it not configured."""

_ONF_REQUESTS: tuple[_Row, ...] = ((1870, OF13, OF13, monitor.decode_monitor_request),)
"""The ONF's multipart requests by type."""


def _by_version(rows: tuple[_Row, ...]) -> Mapping[tuple[int, int], Decoder]:
    return {
        (version, number): decoder
        for number, first, last, decoder in rows
        for version in range(first, last + 1)
    }  # fmt: skip


_BY_TYPE = _by_version(_MESSAGES)
_BY_EXPERIMENTER = {NX: _by_version(_NICIRA), ONF: _by_version(_ONF)}
_BY_REQUEST = _by_version(_REQUESTS)
_BY_EXPERIMENTER_REQUEST = {NX: _by_version(_NICIRA_REQUESTS), ONF: _by_version(_ONF_REQUESTS)}

_FLOW_MOD_10 = 14
_NX_FLOW_MOD = 13
_BUNDLE_ADD = 34
_ONF_BUNDLE_ADD = 2301


def multipart_type(version: int) -> int:
    """The type of a multipart request; the reply's is one more."""
    return 16 if version == OF10 else 18


def decode(version: int, message_type: int, body: bytes, table_ids: bool = False) -> Any:
    """The message that a controller sent: one of the NamedTuples of this package.

    `table_ids`: OpenFlow 1.0's flow-mods carry tables. A multipart request must be whole. Raises OpenFlowError, and
    nothing else, for everything that is malformed, unknown, or a message of a switch.
    """
    if message_type == TYPE_EXPERIMENTER:
        return _decode_experimenter(version, body, table_ids)
    if message_type == multipart_type(version):
        return _decode_request(version, body)
    if message_type == _FLOW_MOD_10 and version == OF10:
        return flow_mod.decode_flow_mod_10(body, version, table_ids)
    if message_type == _BUNDLE_ADD and version >= OF14:
        return bundle.decode_add(body, version)
    decoder = _BY_TYPE.get((version, message_type))
    if decoder is None:
        raise OpenFlowError("OFPBRC_BAD_TYPE", f"unknown type {message_type}")
    return decoder(body, version)


def _decode_experimenter(version: int, body: bytes, table_ids: bool) -> Any:
    if len(body) < _EXPERIMENTER.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "an experimenter's message is cut off")
    vendor, subtype = _EXPERIMENTER.unpack_from(body)
    rows = _BY_EXPERIMENTER.get(vendor)
    if rows is None:
        raise OpenFlowError("OFPBRC_BAD_VENDOR", f"unknown experimenter {vendor:#x}")
    rest = body[_EXPERIMENTER.size :]
    if vendor == NX and subtype == _NX_FLOW_MOD:
        return flow_mod.decode_flow_mod_nx(rest, version, table_ids)
    if vendor == ONF and subtype == _ONF_BUNDLE_ADD and version == OF13:
        return bundle.decode_add(rest, version)
    decoder = rows.get((version, subtype))
    if decoder is None:
        raise OpenFlowError("OFPBRC_BAD_SUBTYPE", f"unknown subtype {subtype}")
    return decoder(rest, version)


def multipart_head(version: int) -> int:
    """How many bytes of a multipart message come before its own body."""
    return _MULTIPART_10.size if version == OF10 else _MULTIPART_11.size


def _decode_request(version: int, body: bytes) -> Any:
    head = multipart_head(version)
    if len(body) < head:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a multipart request is cut off")
    kind = int.from_bytes(body[:2], "big")
    rows = _BY_REQUEST
    if kind == _MULTIPART_EXPERIMENTER:
        layout = _VENDOR_10 if version == OF10 else _EXPERIMENTER
        if len(body) < head + layout.size:
            raise OpenFlowError("OFPBRC_BAD_LEN", "an experimenter's request is cut off")
        vendor, kind = layout.unpack_from(body, head)
        if vendor not in _BY_EXPERIMENTER_REQUEST:
            raise OpenFlowError("OFPBRC_BAD_VENDOR", f"unknown experimenter {vendor:#x}")
        rows = _BY_EXPERIMENTER_REQUEST[vendor]
        head += layout.size
        missing = "OFPBRC_BAD_SUBTYPE"
    else:
        missing = "OFPBRC_BAD_STAT"
    decoder = rows.get((version, kind))
    if decoder is None:
        raise OpenFlowError(missing, f"unknown multipart request {kind}")
    return decoder(body[head:], version)


# --- writing ----------------------------------------------------------------------------------------------------------


def _nicira(subtype: int, body: bytes) -> Encoded:
    return Encoded(TYPE_EXPERIMENTER, _EXPERIMENTER.pack(NX, subtype) + body)


def _parts(version: int, kind: int, entries: Iterable[bytes]) -> Parts:
    head = b"" if version == OF10 else bytes(4)
    return Parts(multipart_type(version) + 1, kind, head, entries)


def _vendor_parts(version: int, vendor: int, subtype: int, entries: Iterable[bytes]) -> Parts:
    head = _VENDOR_10.pack(vendor, subtype) if version == OF10 else bytes(4) + _EXPERIMENTER.pack(vendor, subtype)
    return Parts(multipart_type(version) + 1, _MULTIPART_EXPERIMENTER, head, entries)


def _flows(message: flow_stats.FlowReply, version: int) -> Parts:
    entries = flow_stats.encode_entries(message.entries, version, message.nicira)
    return _vendor_parts(version, NX, 0, entries) if message.nicira else _parts(version, 1, entries)


def _aggregate(message: flow_stats.AggregateReply, version: int) -> Parts:
    entries = (flow_stats.encode_aggregate(message, version),)
    return _vendor_parts(version, NX, 1, entries) if message.nicira else _parts(version, 2, entries)


def _group_stats(message: groups.GroupStatsReply, version: int) -> Parts:
    entries = (groups.encode_counters(group, version) for group in message.groups)
    return _vendor_parts(version, NX, 7, entries) if message.nicira else _parts(version, 6, entries)


def _group_descriptions(message: groups.GroupDescriptionReply, version: int) -> Parts:
    entries = (groups.encode_description(group, version) for group in message.groups)
    return _vendor_parts(version, NX, 8, entries) if message.nicira else _parts(version, 7, entries)


def _group_features(message: groups.GroupFeatures, version: int) -> Parts:
    entries = (groups.encode_features(message),)
    return _vendor_parts(version, NX, 9, entries) if message.nicira else _parts(version, 8, entries)


def _monitor(message: monitor.MonitorReply, version: int) -> Parts:
    entries = monitor.encode_updates(message.updates, version)
    if version >= OF14:
        return _parts(version, 16, entries)
    return _vendor_parts(version, ONF, 1870, entries) if version == OF13 else _vendor_parts(version, NX, 2, entries)


def _monitor_pause(message: monitor.MonitorPause, version: int) -> Encoded | Parts:
    if version >= OF14:
        return _parts(version, 16, (monitor.encode_pause(message, version),))
    if version == OF13:
        return Encoded(TYPE_EXPERIMENTER, _EXPERIMENTER.pack(ONF, 1871 if message.paused else 1872))
    return _nicira(22 if message.paused else 23, b"")


def _bundle(message: bundle.BundleControl, version: int) -> Encoded:
    body = bundle.encode_reply(message)
    return Encoded(TYPE_EXPERIMENTER, _EXPERIMENTER.pack(ONF, 2300) + body) if message.onf else Encoded(33, body)


def _role(message: switch.RoleReply, version: int) -> Encoded:
    return _nicira(11, switch.encode_role(message)) if message.nicira else Encoded(25, switch.encode_role(message))


_WRITERS: Mapping[type, Callable[[Any, int], Encoded | Parts]] = {
    EchoRequest: lambda message, version: Encoded(TYPE_ECHO_REQUEST, message.data),
    EchoReply: lambda message, version: Encoded(TYPE_ECHO_REPLY, message.data),
    BarrierReply: lambda message, version: Encoded(19 if version == OF10 else 21, b""),
    switch.Features: lambda message, version: Encoded(6, switch.encode_features(message, version)),
    switch.Config: lambda message, version: Encoded(8, switch.encode_config(message, version)),
    switch.RoleReply: _role,
    switch.AsyncConfig: lambda message, version: Encoded(27, switch.encode_async(message, version)),
    switch.Description: lambda message, version: _parts(version, 0, (switch.encode_description(message),)),
    ports.PortStatus: lambda message, version: Encoded(TYPE_PORT_STATUS, ports.encode_status(message, version)),
    ports.PortStatsReply: lambda message, version: _parts(
        version, 4, tuple(ports.encode_counters(port, version) for port in message.ports)
    ),
    ports.PortDescriptionReply: lambda message, version: _parts(
        version, 13, tuple(ports.encode_port(port, version) for port in message.ports)
    ),
    tables.TableStatsReply: lambda message, version: _parts(
        version, 3, tuple(tables.encode_table(table, version) for table in message.tables)
    ),
    tables.TableFeaturesReply: lambda message, version: _parts(
        version, 12, tables.encode_features(message.n_tables, version)
    ),
    tables.TableDescriptionReply: lambda message, version: _parts(
        version, 14, tuple(map(tables.encode_description, message.tables))
    ),
    queues.QueueStatsReply: lambda message, version: _parts(
        version, 5, tuple(queues.encode_counters(queue, version) for queue in message.queues)
    ),
    groups.GroupStatsReply: _group_stats,
    groups.GroupDescriptionReply: _group_descriptions,
    groups.GroupFeatures: _group_features,
    meters.MeterStatsReply: lambda message, version: _parts(
        version, 9, tuple(meters.encode_counters(meter, version) for meter in message.meters)
    ),
    meters.MeterConfigReply: lambda message, version: _parts(
        version, 10, tuple(meters.encode_config(meter, version) for meter in message.meters)
    ),
    meters.MeterFeatures: lambda message, version: _parts(version, 11, (meters.encode_features(message),)),
    flow_stats.FlowReply: _flows,
    flow_stats.AggregateReply: _aggregate,
    monitor.MonitorReply: _monitor,
    monitor.MonitorPause: _monitor_pause,
    extensions.TlvTableReply: lambda message, version: _nicira(26, extensions.encode_tlv_table(message)),
    bundle.BundleControl: _bundle,
}


def encode(message: Any, version: int) -> Encoded | Parts:
    """A message of the switch, but for packet-in and flow-removed. Raises TypeError for what is none."""
    writer = _WRITERS.get(type(message))
    if writer is None:
        raise TypeError(f"{type(message).__name__} is not a message that a switch sends")
    return writer(message, version)


def encode_packet_in(message: packets.PacketIn, version: int, form: int) -> Encoded:
    """A packet-in, in the form that the connection chose."""
    subtype, body = packets.encode_packet_in(message, version, form)
    return Encoded(TYPE_PACKET_IN, body) if subtype is None else _nicira(subtype, body)


def encode_flow_removed(message: flow_removed.FlowRemoved, version: int, nxm: bool) -> Encoded:
    """A flow-removed, in NXM where an OpenFlow 1.0 connection chose it."""
    body = flow_removed.encode_flow_removed(message, version, nxm)
    return _nicira(14, body) if nxm and version == OF10 else Encoded(TYPE_FLOW_REMOVED, body)


def multipart_prefix(parts: Parts, more: bool) -> bytes:
    """What comes before the entries in one message of a multipart reply."""
    return pack("!HH", parts.kind, MORE if more else 0) + parts.head

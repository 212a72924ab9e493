"""Nicira's other messages: formats, identity, tunnel options, flushing of connections."""

from __future__ import annotations

from struct import Struct, pack
from typing import NamedTuple

from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.wire import align

_TLV_MAP = Struct("!HBBH2x")
MAX_OPTION_SPACE = 256
MAX_OPTION_FIELDS = 64
TLV_COMMANDS = ("add", "delete", "clear")

(_FLUSH_ORIGINAL, _FLUSH_REPLY, _FLUSH_ZONE) = range(3)
(_FLUSH_MARK, _FLUSH_MARK_MASK, _FLUSH_LABELS, _FLUSH_LABELS_MASK) = range(3, 7)
_FLUSH_SIZES = {
    _FLUSH_ORIGINAL: None,
    _FLUSH_REPLY: None,
    _FLUSH_ZONE: 2,
    _FLUSH_MARK: 4,
    _FLUSH_MARK_MASK: 4,
    _FLUSH_LABELS: 16,
    _FLUSH_LABELS_MASK: 16,
}
(_SOURCE, _DESTINATION, _SOURCE_PORT, _DESTINATION_PORT, _ICMP_ID, _ICMP_TYPE, _ICMP_CODE) = range(7)
_NESTED_AT = 4
"""Where properties within a property begin."""
_TUPLE_SIZES = {
    _SOURCE: 16,
    _DESTINATION: 16,
    _SOURCE_PORT: 2,
    _DESTINATION_PORT: 2,
    _ICMP_ID: 2,
    _ICMP_TYPE: 1,
    _ICMP_CODE: 1,
}


class SetFlowFormat(NamedTuple):
    """Flows are said in OpenFlow 1.0's matches, or in NXM."""

    nxm: bool


class SetTableIds(NamedTuple):
    """Whether the command of OpenFlow 1.0's flow-mods carries a table."""

    enabled: bool


class SetPacketInFormat(NamedTuple):
    """The form of packet-ins: one of `packets.FORM_*`."""

    form: int


class SetControllerId(NamedTuple):
    """The number by which actions choose this connection for packet-ins."""

    id: int


class FlowAge(NamedTuple):
    """Asks for ages of flows in listings, which are there anyway."""


class TlvMap(NamedTuple):
    """Which option of a tunnel is kept in which field tun_metadata<index>."""

    option_class: int
    option_type: int
    option_size: int
    field: int


class TlvTableMod(NamedTuple):
    """A change of the map of tunnel options. `command`: one of TLV_COMMANDS."""

    command: str
    maps: tuple[TlvMap, ...]


class TlvTableRequest(NamedTuple):
    """Asks for the map of tunnel options."""


class TlvTableReply(NamedTuple):
    """The map of tunnel options."""

    maps: tuple[TlvMap, ...] = ()


class FlushZone(NamedTuple):
    """Forget the connections of a zone."""

    zone: int


class FlushTuple(NamedTuple):
    """Part of a tuple; what is None is any. Addresses are 16 bytes, IPv4 ones mapped into IPv6."""

    source: bytes | None = None
    destination: bytes | None = None
    source_port: int | None = None
    destination_port: int | None = None
    icmp_id: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None


class Flush(NamedTuple):
    """Forget the connections that this describes; zone None is any, protocol 0 too."""

    zone: int | None = None
    protocol: int = 0
    original: FlushTuple = FlushTuple()
    reply: FlushTuple = FlushTuple()
    mark: tuple[int, int] = (0, 0)
    """Value and mask."""
    labels: tuple[int, int] = (0, 0)


def decode_flow_format(body: bytes, version: int) -> SetFlowFormat:
    """Nicira's choice of the format of flows."""
    number = _number(body)
    if number not in (0, 2):
        raise OpenFlowError("OFPBRC_EPERM", f"unknown format of flows {number}")
    return SetFlowFormat(number == 2)


def decode_table_ids(body: bytes, version: int) -> SetTableIds:
    """Nicira's switch for tables in flow-mods."""
    if len(body) != 8:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a message of the wrong size")
    return SetTableIds(bool(body[0]))


def decode_packet_in_format(body: bytes, version: int) -> SetPacketInFormat:
    """Nicira's choice of the form of packet-ins."""
    number = _number(body)
    if number > 2:
        raise OpenFlowError("OFPBRC_EPERM", f"unknown form of packet-in {number}")
    return SetPacketInFormat(number)


def _number(body: bytes) -> int:
    if len(body) != 4:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a message of the wrong size")
    return int.from_bytes(body, "big")


def _last_16_of_64(body: bytes) -> int:
    """The number of a message that has six zeros before it."""
    if len(body) != 8:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a message of the wrong size")
    if any(body[:6]):
        raise OpenFlowError("NXBRC_MUST_BE_ZERO", "reserved bytes are not zero")
    return int.from_bytes(body[6:], "big")


def decode_controller_id(body: bytes, version: int) -> SetControllerId:
    """Nicira's number of a connection."""
    return SetControllerId(_last_16_of_64(body))


def decode_flush_zone(body: bytes, version: int) -> FlushZone:
    """Nicira's flush of a zone."""
    return FlushZone(_last_16_of_64(body))


def decode_tlv_mod(body: bytes, version: int) -> TlvTableMod:
    """A change of the map of tunnel options."""
    if len(body) < 8 or (len(body) - 8) % _TLV_MAP.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a map of options of the wrong size")
    command = int.from_bytes(body[:2], "big")
    if command >= len(TLV_COMMANDS):
        raise OpenFlowError("NXTTMFC_BAD_COMMAND", f"unknown command {command}")
    maps = tuple(TlvMap(*_TLV_MAP.unpack_from(body, at)) for at in range(8, len(body), _TLV_MAP.size))
    for entry in maps:
        if entry.option_size == 0 or entry.option_size > 124 or entry.option_size % 4:
            raise OpenFlowError("NXTTMFC_BAD_OPT_LEN", f"an option of {entry.option_size} bytes")
        if entry.field >= MAX_OPTION_FIELDS:
            raise OpenFlowError("NXTTMFC_BAD_FIELD_IDX", f"there is no field {entry.field}")
    return TlvTableMod(TLV_COMMANDS[command], maps)


def changed_table(known: dict[int, TlvMap], mod: TlvTableMod) -> dict[int, TlvMap]:
    """The map of tunnel options, by field, after a change. Raises OpenFlowError for what the map cannot hold."""
    if mod.command == "clear":
        return {}
    table = dict(known)
    for entry in mod.maps:
        if mod.command == "delete":
            table.pop(entry.field, None)
            continue
        if entry.field in table:
            raise OpenFlowError("NXTTMFC_ALREADY_MAPPED", f"field {entry.field} has an option")
        if any(other[:2] == entry[:2] for other in table.values()):
            raise OpenFlowError("NXTTMFC_DUP_ENTRY", f"option {entry[0]:#x}:{entry[1]} has a field")
        table[entry.field] = entry
    if sum(entry.option_size for entry in table.values()) > MAX_OPTION_SPACE:
        raise OpenFlowError("NXTTMFC_TABLE_FULL", f"options have {MAX_OPTION_SPACE} bytes")
    return table


def encode_tlv_table(reply: TlvTableReply) -> bytes:
    """The map of tunnel options."""
    head = pack("!IH10x", MAX_OPTION_SPACE, MAX_OPTION_FIELDS)
    return head + b"".join(_TLV_MAP.pack(*entry) for entry in reply.maps)


def decode_flush(body: bytes, version: int) -> Flush:
    """Nicira's flush of the connections that a tuple and a zone describe."""
    if len(body) < 8:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a flush is cut off")
    if any(body[1:8]):
        raise OpenFlowError("NXBRC_MUST_BE_ZERO", "reserved bytes are not zero")
    said = _properties(body, 8, _FLUSH_SIZES)
    return Flush(
        int.from_bytes(said[_FLUSH_ZONE], "big") if _FLUSH_ZONE in said else None,
        body[0],
        _tuple(said.get(_FLUSH_ORIGINAL, b"")[_NESTED_AT:]),
        _tuple(said.get(_FLUSH_REPLY, b"")[_NESTED_AT:]),
        _masked(said, _FLUSH_MARK, _FLUSH_MARK_MASK),
        _masked(said, _FLUSH_LABELS, _FLUSH_LABELS_MASK),
    )


def _masked(said: dict[int, bytes], value_kind: int, mask_kind: int) -> tuple[int, int]:
    """Value and mask of a field; a value without a mask is meant as it is."""
    if value_kind not in said:
        return 0, 0
    value = said[value_kind]
    mask = int.from_bytes(said.get(mask_kind, b"\xff" * len(value)), "big")
    return int.from_bytes(value, "big") & mask, mask


def _properties(body: bytes, at: int, sizes: dict[int, int | None]) -> dict[int, bytes]:
    said: dict[int, bytes] = {}
    while at < len(body):
        kind, size = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if len(body) - at < 4 or size < 4 or size > len(body) - at:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a property of {size} bytes")
        if kind not in sizes:
            raise OpenFlowError("OFPBPC_BAD_TYPE", f"unknown property {kind} of a flush")
        if kind in said:
            raise OpenFlowError("OFPBPC_DUP_TYPE", f"property {kind} is given twice")
        value, width = body[at + 4 : at + size], sizes[kind]
        if width is not None:
            if len(value) < width:
                raise OpenFlowError("OFPBPC_BAD_LEN", f"property {kind} has {size} bytes")
            # What the padding to 8 bytes leaves in a property's own size is not part of its value.
            value = value[:width]
        said[kind] = value
        at += align(size)
    return said


def _tuple(body: bytes) -> FlushTuple:
    said = _properties(body, 0, dict(_TUPLE_SIZES))

    def number(kind: int) -> int | None:
        return int.from_bytes(said[kind], "big") if kind in said else None

    return FlushTuple(
        said.get(_SOURCE),
        said.get(_DESTINATION),
        number(_SOURCE_PORT),
        number(_DESTINATION_PORT),
        number(_ICMP_ID),
        number(_ICMP_TYPE),
        number(_ICMP_CODE),
    )

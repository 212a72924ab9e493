"""Packets to and from a controller: packet-out, packet-in in all forms, and a paused packet's way back."""

from __future__ import annotations

from struct import Struct, pack
from typing import NamedTuple

from flowshunt.control.openflow.actions import Actions, decode_actions
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.match import decode_fields, decode_oxm_match, encode_fields, encode_oxm_match
from flowshunt.control.openflow.wire import (
    NO_BUFFER,
    OF10,
    OF11,
    OF12,
    OF13,
    OF14,
    OF15,
    align,
    padded,
    port_from_32,
    port_to_32,
)
from flowshunt.rules.openflow.match import Triples

_OUT_10 = Struct("!IHH")
_OUT_11 = Struct("!IIH6x")
_OUT_15 = Struct("!IH2x")
_IN_NX = Struct("!IHBBQH6x")

MAX_DATA = 60_000
"""Most bytes of a packet in a packet-in: a message has to hold them with all else."""

FORM_STANDARD, FORM_NXM, FORM_PROPERTIES = range(3)
"""The forms of a packet-in by Nicira's numbers: the version's own, NXT_PACKET_IN, NXT_PACKET_IN2."""

REASONS = ("no_match", "action", "invalid_ttl", "action_set", "group", "packet_out")
"""Why a packet comes to a controller, by number (OFPR_*)."""
_LAST_OLD_REASON = 2
_REASON_ACTION = 1

(_PACKET, _FULL_LENGTH, _BUFFER, _TABLE, _COOKIE, _REASON, _METADATA, _USERDATA, _CONTINUATION) = range(9)


_TOKEN = 0x80FF


class PacketOut(NamedTuple):
    """A packet to be sent through a list of actions, as if it came in at `in_port` (16 bits)."""

    in_port: int
    actions: Actions
    data: bytes
    buffer_id: int = NO_BUFFER
    metadata: Triples = ()


class PacketIn(NamedTuple):
    """A packet for a controller. `metadata`: in_port, registers and other fields of the pipeline, as a match.

    `full_length` is what the packet had before it was cut; `continuation` lets a paused packet go on. `is_miss_flow`:
    by a flow for what no other matches, which versions before 1.3 have as an action like others.
    """

    data: bytes
    full_length: int
    reason: int
    table: int
    cookie: int
    metadata: Triples
    userdata: bytes = b""
    continuation: bytes = b""
    buffer_id: int = NO_BUFFER
    is_miss_flow: bool = False


class Resume(NamedTuple):
    """A paused packet goes on, with the fields that the controller gave it."""

    data: bytes
    metadata: Triples
    continuation: bytes


def decode_packet_out(body: bytes, version: int) -> PacketOut:
    """A packet-out. A list of actions of the wrong length, or a packet cut off, is an error."""
    metadata: Triples = ()
    in_port: int | None
    if len(body) < (_OUT_10.size if version == OF10 else _OUT_11.size):
        raise OpenFlowError("OFPBRC_BAD_LEN", "the packet-out is cut off")
    if version == OF10:
        buffer_id, in_port, size = _OUT_10.unpack_from(body)
        at = _OUT_10.size
    elif version < OF15:
        buffer_id, port, size = _OUT_11.unpack_from(body)
        at, in_port = _OUT_11.size, port_from_32(port)
    else:
        buffer_id, size = _OUT_15.unpack_from(body)
        match, at = decode_oxm_match(body, _OUT_15.size)
        metadata = match.triples
        in_port = next((value for place, value, _ in metadata if place == "in_port"), None)
    if in_port is None:
        raise OpenFlowError("OFPBRC_BAD_PORT", "the packet-out names no port")
    if at + size > len(body):
        raise OpenFlowError("OFPBAC_BAD_LEN", f"{size} bytes of actions, {len(body) - at} are left")
    actions = decode_actions(body[at : at + size], version, None)
    return PacketOut(in_port, actions, body[at + size :], buffer_id, metadata)


def encode_packet_in(packet: PacketIn, version: int, form: int) -> tuple[int | None, bytes]:
    """A packet-in: the subtype of Nicira's message (None: the standard one) and the body."""
    if packet.is_miss_flow and version < OF13:
        packet = packet._replace(reason=_REASON_ACTION)
    if version < OF14 and packet.reason > _LAST_OLD_REASON:
        packet = packet._replace(reason=_REASON_ACTION)
    if form == FORM_PROPERTIES:
        return 30, _encode_properties(packet, version)
    if form == FORM_NXM:
        fields = encode_fields(packet.metadata, OF10)
        head = _IN_NX.pack(
            packet.buffer_id, packet.full_length, packet.reason, packet.table, packet.cookie, len(fields)
        )  # fmt: skip
        return 17, head + padded(fields) + bytes(2) + packet.data
    reason = packet.reason
    port = next((value for place, value, _ in packet.metadata if place == "in_port"), 0)
    if version == OF10:
        return None, pack("!IHHBx", packet.buffer_id, packet.full_length, port, reason) + packet.data
    if version == OF11:
        wide = port_to_32(port)
        return None, pack(
            "!IIIHBB", packet.buffer_id, wide, wide, packet.full_length, reason, packet.table
        ) + packet.data
    head = pack("!IHBB", packet.buffer_id, packet.full_length, reason, packet.table)
    if version >= OF13:
        head += pack("!Q", packet.cookie)
    return None, head + encode_oxm_match(packet.metadata, version) + bytes(2) + packet.data


def _property(kind: int, body: bytes) -> bytes:
    return padded(pack("!HH", kind, 4 + len(body)) + body)


def _encode_properties(packet: PacketIn, version: int) -> bytes:
    parts = [_property(_PACKET, packet.data)]
    if packet.full_length != len(packet.data):
        parts.append(_property(_FULL_LENGTH, pack("!I", packet.full_length)))
    parts.append(_property(_TABLE, pack("!B", packet.table)))
    if packet.cookie != (1 << 64) - 1:
        parts.append(_property(_COOKIE, bytes(4) + pack("!Q", packet.cookie)))
    parts.append(_property(_REASON, pack("!B", packet.reason)))
    parts.append(_property(_METADATA, encode_fields(packet.metadata, max(version, OF12))))
    if packet.userdata:
        parts.append(_property(_USERDATA, packet.userdata))
    if packet.continuation:
        parts.append(_property(_CONTINUATION, bytes(4) + packet.continuation))
    return b"".join(parts)


def continuation_of(token: bytes) -> bytes:
    """What stands in a packet-in for a paused packet: a property of our own, which tools pass over; empty for none."""
    return pack("!HH4x", _TOKEN, 8 + len(token)) + token if token else b""


def decode_resume(body: bytes, version: int) -> Resume:
    """Nicira's resume: the properties of the packet-in that paused, with changes."""
    said: dict[int, bytes] = {}
    at = 0
    while at < len(body):
        kind, size = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if len(body) - at < 4 or size < 4 or size > len(body) - at:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a property of {size} bytes")
        if kind > _CONTINUATION:
            raise OpenFlowError("OFPBPC_BAD_TYPE", f"unknown property {kind}")
        said[kind] = body[at + 4 : at + size]
        at += align(size)
    metadata = decode_fields(said.get(_METADATA, b"")).triples
    return Resume(said.get(_PACKET, b""), metadata, said.get(_CONTINUATION, bytes(4))[4:])

"""The actions conjunction, multipath, bundle and truncated output on the wire: Nicira's, in all versions."""

from __future__ import annotations

from struct import Struct, pack

from flowshunt.control.openflow.action_reader import ActionReader, Actions, Row, check_zero, subfield
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.learning import Writer
from flowshunt.control.openflow.nicira import range_of
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.links import (
    ALGORITHMS,
    HASH_FIELDS,
    MAX_CLAUSES,
    MAX_MEMBERS,
    MEMBER_ALGORITHMS,
    MIN_CLAUSES,
    PORT_BITS,
)

_CONJUNCTION = Struct("!BBI")
_MULTIPATH = Struct("!HH2xHHI2xH")
_BUNDLE = Struct("!HHHIHH")
_TRUNCATED = Struct("!HI")
_BUNDLE_SIZE = 32
_OFPORT = 0x00000002
"""The type of a bundle's members: the header of NXM_OF_IN_PORT."""
_PORT_MAX = 0xFEFF
_FIRST_RESERVED = 0xFFF7


# --- reading ----------------------------------------------------------------------------------------------------------


def _conjunction(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    clause, n_clauses, number = _CONJUNCTION.unpack_from(data, at + 10)
    if not MIN_CLAUSES <= n_clauses <= MAX_CLAUSES or clause >= n_clauses:
        raise OpenFlowError("NXBAC_BAD_CONJUNCTION", f"clause {clause + 1} of {n_clauses}")
    return (F.Conjunction(number, clause + 1, n_clauses),)


def _named(names: tuple[str, ...], number: int, what: str) -> str:
    if number >= len(names):
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"unknown {what} {number}")
    return names[number]


def _dest(reader: ActionReader, data: bytes, header_at: int, packed: int) -> F.Subfield:
    start, width = range_of(packed)
    part, _ = reader.part(data, header_at, header_at + 4, start, width)
    return subfield(reader.dest(part))


def _multipath(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    fields, basis, algorithm, last, argument, packed = _MULTIPATH.unpack_from(data, at + 10)
    dest = _dest(reader, data, at + 28, packed)
    if last >= 1 << dest.width:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"{last + 1} links for {dest.width} bits")
    return (
        F.Multipath(
            _named(HASH_FIELDS, fields, "fields"), basis, _named(ALGORITHMS, algorithm, "algorithm"), last + 1,
            argument, dest,
        ),
    )  # fmt: skip


def _read_bundle(data: bytes, at: int, end: int, dest: F.Subfield | None) -> F.Bundle:
    algorithm, fields, basis, kind, n, _ = _BUNDLE.unpack_from(data, at + 10)
    check_zero(data, at + 28, at + _BUNDLE_SIZE)
    if kind != _OFPORT or n > MAX_MEMBERS:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"{n} members of type {kind:#x}")
    if 2 * n > end - at - _BUNDLE_SIZE:
        raise OpenFlowError("OFPBAC_BAD_LEN", f"{n} members in {end - at} bytes")
    places = range(at + _BUNDLE_SIZE, at + _BUNDLE_SIZE + 2 * n, 2)
    members = tuple(int.from_bytes(data[place : place + 2], "big") for place in places)
    for member in members:
        if _PORT_MAX < member < _FIRST_RESERVED:
            raise OpenFlowError("OFPBAC_BAD_OUT_PORT", f"{member} is not a port")
    names = _named(HASH_FIELDS, fields, "fields"), _named(MEMBER_ALGORITHMS, algorithm, "algorithm")
    return F.Bundle(names[0], basis, names[1], members, dest)


def _bundle(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    check_zero(data, at + 22, at + 28)
    return (_read_bundle(data, at, end, None),)


def _bundle_load(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    dest = _dest(reader, data, at + 24, int.from_bytes(data[at + 22 : at + 24], "big"))
    if dest.width < PORT_BITS:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"{dest.width} bits are too few for a port")
    return (_read_bundle(data, at, end, dest),)


def _output_truncated(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    port, max_len = _TRUNCATED.unpack_from(data, at + 10)
    if not F.can_truncate(port):
        raise OpenFlowError("OFPBAC_BAD_OUT_PORT", f"output to port {port} can't be truncated")
    if max_len < F.MIN_TRUNCATED:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"{max_len} bytes are less than a header")
    return (F.OutputTruncated(port, max_len),)


ROWS = {
    10: Row(32, _multipath),
    12: Row(_BUNDLE_SIZE, _bundle, more=True),
    13: Row(_BUNDLE_SIZE, _bundle_load, more=True),
    34: Row(16, _conjunction),
    39: Row(16, _output_truncated),
}
"""Subtypes of Nicira's actions, with their sizes and readers."""


# --- writing ----------------------------------------------------------------------------------------------------------


def encode_conjunction(action: F.Conjunction) -> bytes:
    """Body of a conjunction action."""
    return _CONJUNCTION.pack(action.clause - 1, action.n_clauses, action.id)


def _encode_dest(writer: Writer, dest: F.Subfield) -> tuple[int, bytes]:
    wire, start = writer.part(dest)
    return start << 6 | dest.width - 1, wire.old_header()


def encode_multipath(writer: Writer, action: F.Multipath) -> bytes:
    """Body of a multipath action."""
    packed, header = _encode_dest(writer, action.dest)
    numbers = HASH_FIELDS.index(action.fields), action.basis, ALGORITHMS.index(action.algorithm)
    return _MULTIPATH.pack(*numbers, action.n_links - 1, action.argument, packed) + header


def encode_bundle(writer: Writer, action: F.Bundle) -> tuple[int, bytes]:
    """Subtype and body of a bundle action."""
    subtype, packed, header = 12, 0, bytes(4)
    if action.dest is not None:
        subtype = 13
        packed, header = _encode_dest(writer, action.dest)
    numbers = MEMBER_ALGORITHMS.index(action.algorithm), HASH_FIELDS.index(action.fields), action.basis
    head = _BUNDLE.pack(*numbers, _OFPORT, len(action.members), packed) + header + bytes(4)
    return subtype, head + pack(f"!{len(action.members)}H", *action.members)


def encode_truncated(action: F.OutputTruncated) -> bytes:
    """Body of a truncated output."""
    return _TRUNCATED.pack(action.port, action.max_len)

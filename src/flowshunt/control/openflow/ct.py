"""The ct action and what stands inside it, read."""

from __future__ import annotations

from ipaddress import ip_address
from struct import Struct

from flowshunt.conntrack.helpers import BY_NAME
from flowshunt.conntrack.nat import Nat
from flowshunt.control.openflow.action_reader import ActionReader, Actions, Row, check_zero, subfield
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.nicira import range_of
from flowshunt.packet.schema import ETH_IPV4, ETH_IPV6
from flowshunt.rules.openflow import flow as F

_CT = Struct("!HIHB3xH")  # flags, field of the zone, zone or range of bits, table, helper's port
COMMIT = 1
FORCE = 2
NO_TABLE = 0xFF
ALG_PORTS = {"ftp": 21, "tftp": 69}
"""Ports by which ct names a helper."""

_NAT = Struct("!2xHH")  # flags, which parts of the range follow
NAT_SRC, NAT_DST, NAT_PERSISTENT, NAT_HASH, NAT_RANDOM = (1 << bit for bit in range(5))
_KINDS = {0: None, NAT_SRC: "src", NAT_DST: "dst"}
_RANGE_SIZES = (4, 4, 16, 16, 2, 2)


def _ct(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    flags, field, zone, table, helper = _CT.unpack_from(data, at + 10)
    check_zero(data, at + 19, at + 22)
    if flags & ~(COMMIT | FORCE):
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"unknown flags of ct {flags:#x}")
    commit, force = bool(flags & COMMIT), bool(flags & FORCE)
    if reader.in_exec or (force and not commit):
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", "ct inside exec" if reader.in_exec else "force needs commit")
    alg = _alg(helper)
    _check_facts(reader, commit, alg)
    inner = ActionReader(reader.version, reader.facts, depth=reader.depth, in_exec=True)
    body = inner.list_of(data, at + 24, end)
    exec_ = tuple(action for action in body if isinstance(action, F.SetField | F.Move))
    if len(exec_) < len(body):
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", "inside ct, there may only be nat, and ct_mark and ct_label set")
    if not commit and (exec_ or (inner.nat and inner.nat.kind)):
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", "exec, and nat with src or dst, need commit")
    table = None if table == NO_TABLE else table
    return (F.Ct(commit, force, _zone(reader, field, zone), table, exec_, inner.nat, alg),)


def _alg(port: int) -> str | None:
    """The helper that is known by a port, None for port 0."""
    if not port:
        return None
    for name, number in ALG_PORTS.items():
        if number == port:
            return name
    raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"no helper for port {port}")


def _check_facts(reader: ActionReader, commit: bool, alg: str | None) -> None:
    facts = reader.facts
    if facts is not None:
        if alg is not None and facts.protocol != BY_NAME[alg].protocol:
            raise OpenFlowError("OFPBAC_MATCH_INCONSISTENT", f"{alg} needs its protocol in the match")
        if facts.eth_type not in (None, ETH_IPV4, ETH_IPV6):
            raise OpenFlowError("OFPBAC_MATCH_INCONSISTENT", "only IP packets can be tracked")
        if commit and facts.ct_invalid:
            raise OpenFlowError("OFPBAC_BAD_ARGUMENT", "invalid packets can't be committed")


def _zone(reader: ActionReader, field: int, zone: int) -> int | F.Subfield:
    if not field:
        return zone
    start, width = range_of(zone)
    if width != 16:
        raise OpenFlowError("OFPBAC_BAD_SET_LEN", f"a zone has 16 bits, not {width}")
    part, _ = reader.part(field.to_bytes(4, "big"), 0, 4, start, width)
    where = subfield(reader.source(part))
    if where.width != width:
        raise OpenFlowError("OFPBAC_BAD_SET_LEN", f"{part.field.name} has not 16 bits there")
    return where


def _nat(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    """NAT, which only ct may have; it is kept in the reader of ct's own list."""
    flags, present = _NAT.unpack_from(data, at + 10)
    kinds = flags & (NAT_SRC | NAT_DST)
    if not reader.in_exec or reader.nat is not None or flags >> 5 or present >> 6 or kinds == NAT_SRC | NAT_DST:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", f"nat with flags {flags:#x} and range {present:#x}")
    values, at = [], at + 16
    for bit, size in enumerate(_RANGE_SIZES):
        here = present >> bit & 1
        if here and at + size > end:
            raise OpenFlowError("OFPBAC_BAD_LEN", "the range of nat is cut off")
        values.append(data[at : at + size] if here else b"")
        at += size * here
    if end - at > 7:
        raise OpenFlowError("OFPBAC_BAD_LEN", "nat has bytes too many")
    check_zero(data, at, end)
    try:
        reader.nat = _read_nat(_KINDS[kinds], flags, values)
    except ValueError as problem:
        raise OpenFlowError("OFPBAC_BAD_ARGUMENT", str(problem)) from None
    first = reader.nat.first
    needed = None if first is None else ETH_IPV4 if first.version == 4 else ETH_IPV6
    if needed is not None and reader.facts is not None and reader.facts.eth_type != needed:
        raise OpenFlowError("OFPBAC_MATCH_INCONSISTENT", f"not every packet of the flow can get {first}")
    return ()


def _read_nat(kind: str | None, flags: int, values: list[bytes]) -> Nat:
    """The value of what a nat action has: lowest and highest IPv4 address, the same of IPv6, and of ports.

    An address of zeros means none. Raises ValueError for what contradicts itself.
    """
    low4, high4, low6, high6, low_port, high_port = values
    low, high = low4 or low6, high4 or high6
    if (low4 and low6) or (high4 and low6) or (low4 and high6) or (high and not low) or (high_port and not low_port):
        raise ValueError("the range of nat is not one")
    first = ip_address(low) if any(low) else None
    last = ip_address(high) if any(high) and high != low else None
    ports = None
    if any(low_port):
        ports = (int.from_bytes(low_port, "big"), int.from_bytes(high_port or low_port, "big"))
    words = (bool(flags & flag) for flag in (NAT_RANDOM, NAT_HASH, NAT_PERSISTENT))
    random, by_hash, persistent = (False, False, False) if first is None else words
    return Nat(kind, first, last, ports, random, by_hash, persistent)


def encode_nat(nat: Nat) -> tuple[int, int, bytes]:
    """Flags, which parts of a range there are, and those parts, of a nat action."""
    flags = {None: 0, "src": NAT_SRC, "dst": NAT_DST}[nat.kind]
    flags |= NAT_PERSISTENT * nat.persistent | NAT_HASH * nat.hash | NAT_RANDOM * nat.random
    present, body = 0, b""
    if nat.first is not None:
        shift = 0 if nat.first.version == 4 else 2
        present, body = 1 << shift, nat.first.packed
        if nat.last is not None:
            present, body = present | 2 << shift, body + nat.last.packed
        if nat.ports is not None:
            present, body = present | 1 << 4, body + nat.ports[0].to_bytes(2, "big")
            if nat.ports[1] != nat.ports[0]:
                present, body = present | 1 << 5, body + nat.ports[1].to_bytes(2, "big")
    return flags, present, body


def _ct_clear(reader: ActionReader, data: bytes, at: int, end: int) -> Actions:
    return (F.CtClear(),)


ROWS = {35: Row(24, _ct, more=True), 36: Row(16, _nat, more=True), 43: Row(16, _ct_clear)}

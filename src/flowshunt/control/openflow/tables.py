"""Tables: their statistics, features and configuration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct, pack
from typing import NamedTuple

from flowshunt.control.openflow.action_reader import STANDARD
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.fields import OXM, WIRE_FIELDS
from flowshunt.control.openflow.instructions import (
    APPLY_ACTIONS,
    CLEAR_ACTIONS,
    GOTO_TABLE,
    WRITE_ACTIONS,
    WRITE_METADATA,
)
from flowshunt.control.openflow.wire import OF10, OF11, OF12, OF13, OF14, padded

MAX_FLOWS = 1_000_000
"""How many flows a table is said to hold; there is no limit per table."""

_STATS_10 = Struct("!B3x32sIIIQQ")
_STATS_11 = Struct("!B7x32sIIIIIIIIQQ")
_STATS_12 = Struct("!B7x32sQQIIQQQQIIIIQQ")
_STATS_13 = Struct("!B3xIQQ")
_FEATURES = Struct("!HBB4x32sQQII")
_MOD_11 = Struct("!B3xI")
_ALL_WILDCARDS = 0x3FFFFF
_SETS = (WRITE_METADATA, WRITE_ACTIONS, APPLY_ACTIONS, CLEAR_ACTIONS)
_INSTRUCTIONS = sum(1 << kind for kind in (GOTO_TABLE, *_SETS))
_EVERYTHING = (1 << 64) - 1
_CONFIG_DEPRECATED = 3
_EVICTION, _VACANCY_EVENTS = 1 << 2, 1 << 3
_MOD_EVICTION, _MOD_VACANCY, _MOD_PROPERTY = 2, 3, 8
_EVICTION_FLAGS = 7
"""Flows would go by what the switch likes, by importance and by lifetime."""
_PERCENT = 100
_OLD_FIELDS = ("in_port", "vlan_tci", "nw_tos")
"""Fields that OXM has under other names."""

(_P_INSTRUCTIONS, _P_NEXT, _P_WRITE_ACTIONS, _P_APPLY_ACTIONS, _P_MATCH, _P_WILDCARDS, _P_WRITE_SET, _P_APPLY_SET) = (
    range(0, 16, 2)
)


class TableStatsRequest(NamedTuple):
    """Asks for the statistics of all tables."""


class TableCounters(NamedTuple):
    """What a table holds and did. `miss`: what becomes of packets that it has no flow for (OpenFlow 1.1 and 1.2)."""

    table: int
    flows: int
    lookups: int
    matches: int
    miss: int = 0


class TableStatsReply(NamedTuple):
    """Statistics of tables."""

    tables: Sequence[TableCounters]


class TableFeaturesRequest(NamedTuple):
    """Asks for the features of all tables; `change` when it brings features to be set."""

    change: bool = False


class TableFeaturesReply(NamedTuple):
    """Features: all tables below `n_tables` can do the same."""

    n_tables: int


class TableDescriptionRequest(NamedTuple):
    """Asks for the configuration of all tables."""


class Vacancy(NamedTuple):
    """Between which percentages of room that is left controllers want to hear of a table, and how much it has."""

    down: int
    up: int
    now: int = 0


class TableDescription(NamedTuple):
    """A table's configuration: whether flows make room for others, and who is warned (None: nobody)."""

    table: int
    evicts: bool = False
    vacancy: Vacancy | None = None


class TableDescriptionReply(NamedTuple):
    """The configuration of tables."""

    tables: Sequence[TableDescription]


class TableMod(NamedTuple):
    """A change of a table's configuration (255: of all).

    `miss`: a number of OFPTC_TABLE_MISS_* (OpenFlow 1.1 and 1.2). `evicts`, `has_vacancy`, `vacancy`: of 1.4 and later;
    None stands for what the version does not say.
    """

    table: int
    miss: int | None = None
    evicts: bool | None = None
    has_vacancy: bool | None = None
    vacancy: Vacancy = Vacancy(0, 0)


def encode_table(table: TableCounters, version: int) -> bytes:
    """One table's statistics, in the form of the version. Tables have no names."""
    if version == OF10:
        return _STATS_10.pack(
            table.table, b"", _ALL_WILDCARDS, MAX_FLOWS, table.flows, table.lookups, table.matches
        )  # fmt: skip
    counts = (table.flows, table.lookups, table.matches)
    if version == OF11:
        fields = 0xF8FF  # all but MPLS
        return _STATS_11.pack(
            table.table, b"", fields, fields, _INSTRUCTIONS, *[_actions()] * 2, table.miss, MAX_FLOWS, *counts
        )
    if version == OF12:
        fields, settable = _fields_12()
        metadata = (_EVERYTHING, _EVERYTHING)
        return _STATS_12.pack(
            *(table.table, b"", fields, fields, *[_actions()] * 2, *[settable] * 2, *metadata),
            *(_INSTRUCTIONS, table.miss, MAX_FLOWS, *counts),
        )  # fmt: skip
    return _STATS_13.pack(table.table, *counts)


def _actions() -> int:
    return sum(1 << kind for kind in STANDARD if kind < 32)


def _fields_12() -> tuple[int, int]:
    """The fields that can be matched, and those that can be set, by number."""
    known = [wire for wire in WIRE_FIELDS.values() if wire.oxm >> 7 == OXM and wire.oxm & 0x7F < 64]
    matchable = sum(1 << (wire.oxm & 0x7F) for wire in known)
    return matchable, sum(1 << (wire.oxm & 0x7F) for wire in known if wire.field.settable)


def _property(kind: int, body: bytes) -> bytes:
    return padded(pack("!HH", kind, 4 + len(body)) + body)


@lru_cache(maxsize=8)
def _properties(version: int) -> bytes:
    """The properties that all tables share: everything but the tables that follow."""
    fields = [wire for name, wire in WIRE_FIELDS.items() if name not in _OLD_FIELDS]
    matchable = b"".join(wire.header(version, masked=wire.field.maskable and not wire.is_port) for wire in fields)
    wildcards = b"".join(wire.header(version) for wire in fields)
    settable = b"".join(wire.header(version) for wire in fields if wire.field.settable)
    actions = b"".join(pack("!HH", kind, 4) for kind in (0, 17, 18, 24, 25))
    return b"".join(
        (
            _property(_P_WRITE_ACTIONS, actions),
            _property(_P_APPLY_ACTIONS, actions),
            _property(_P_MATCH, matchable),
            _property(_P_WILDCARDS, wildcards),
            _property(_P_WRITE_SET, settable),
            _property(_P_APPLY_SET, settable),
        )
    )


@lru_cache(maxsize=8)
def encode_features(n_tables: int, version: int) -> tuple[bytes, ...]:
    """The features of each table."""
    entries = []
    for table in range(n_tables):
        later = bytes(range(table + 1, n_tables))
        used = _SETS if not later else (GOTO_TABLE, *_SETS)
        instructions = b"".join(pack("!HH", kind, 4) for kind in used)
        body = _property(_P_INSTRUCTIONS, instructions) + _property(_P_NEXT, later) + _properties(version)
        config = _CONFIG_DEPRECATED if version < OF14 else 0
        entries.append(
            _FEATURES.pack(_FEATURES.size + len(body), table, 0, b"", _EVERYTHING, _EVERYTHING, config, MAX_FLOWS)
            + body
        )
    return tuple(entries)


def encode_description(table: TableDescription) -> bytes:
    """One table's configuration, in OpenFlow 1.4 and later."""
    config = (_EVICTION if table.evicts else 0) | (_VACANCY_EVENTS if table.vacancy else 0)
    body = pack("!HHI", _MOD_EVICTION, 8, _EVICTION_FLAGS)
    if table.vacancy is not None:
        body += pack("!HHBBBx", _MOD_VACANCY, 8, *table.vacancy)
    return pack("!HBxI", 8 + len(body), table.table, config) + body


def decode_table_mod(body: bytes, version: int) -> TableMod:
    """A change of a table's configuration. Raises OpenFlowError (OFPBRC_*, OFPBPC_*, OFPTMFC_BAD_CONFIG)."""
    if len(body) < _MOD_11.size or (version < OF14 and len(body) != _MOD_11.size):
        raise OpenFlowError("OFPBRC_BAD_LEN", "a table-mod of the wrong size")
    table, config = _MOD_11.unpack_from(body)
    if version < OF13:
        if config >= _CONFIG_DEPRECATED:
            raise OpenFlowError("OFPTMFC_BAD_CONFIG", f"unknown bits in {config:#x}")
        return TableMod(table, config)
    if version < OF14:
        if config & ~_CONFIG_DEPRECATED:
            raise OpenFlowError("OFPTMFC_BAD_CONFIG", f"unknown bits in {config:#x}")
        return TableMod(table)
    vacancy = _decode_mod_properties(body, _MOD_11.size)
    return TableMod(table, None, bool(config & _EVICTION), bool(config & _VACANCY_EVENTS), vacancy)


def _decode_mod_properties(body: bytes, at: int) -> Vacancy:
    vacancy = Vacancy(0, 0)
    while at < len(body):
        kind, size = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if size < 4 or at + size > len(body):
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a property of {size} bytes")
        if kind not in (_MOD_EVICTION, _MOD_VACANCY):
            raise OpenFlowError("OFPBRC_BAD_TYPE", f"unknown property {kind} of a table")
        if size != _MOD_PROPERTY:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a property of {size} bytes")
        value = body[at + 4 : at + size]
        if kind == _MOD_VACANCY:
            vacancy = Vacancy(*value[:3])
            if vacancy.now or not vacancy.down <= vacancy.up <= _PERCENT:
                raise OpenFlowError("OFPBPC_BAD_VALUE", f"vacancy from {vacancy.down} to {vacancy.up} percent")
        elif int.from_bytes(value, "big") != _EVICTION_FLAGS:
            raise OpenFlowError("OFPTMFC_BAD_CONFIG", "what makes room is fixed")
        at += size
    return vacancy


def decode_features_request(body: bytes, version: int) -> TableFeaturesRequest:
    """A request for features; with a body it would set them."""
    if body and len(body) < _FEATURES.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "table features are cut off")
    return TableFeaturesRequest(bool(body))

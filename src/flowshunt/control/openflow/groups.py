"""Groups: changes, and requests for statistics, descriptions and features; the entries of their replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct, pack
from typing import NamedTuple

from flowshunt.control.openflow.actions import decode_actions, encode_actions
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.match import find_field
from flowshunt.control.openflow.wire import (
    GROUP_ALL,
    GROUP_ANY,
    OF10,
    OF15,
    PORT_NONE,
    padded,
    port_from_32,
    port_to_32,
)
from flowshunt.rules.openflow.buckets import TYPES, Bucket
from flowshunt.rules.openflow.match import facts_of

COMMANDS = ("add", "modify", "delete", "insert_bucket", "", "remove_bucket")
_ADD_OR_MODIFY = 0x8000
MAX_GROUP = 0xFFFFFF00
MAX_BUCKETS = 1024
MAX_BUCKET_ID = 0xFFFFFF00
BUCKET_FIRST, BUCKET_LAST, BUCKET_ALL = 0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF

_MOD_11 = Struct("!HBxI")
_MOD_15 = Struct("!HBxIH2xI")
_BUCKET_11 = Struct("!HHII4x")
_BUCKET_15 = Struct("!HHI")
_WEIGHT, _WATCH_PORT, _WATCH_GROUP = range(3)
_NTR = 0x0000154D
_NO_FACTS = facts_of({})


class SelectionFields(NamedTuple):
    """The fields by which a select group chooses: as they came, for listings, and as names and masks."""

    raw: bytes = b""
    masks: tuple[tuple[str, int], ...] = ()


class GroupMod(NamedTuple):
    """A change of groups. `command`: one of COMMANDS or "add_or_modify"; `selection`: the method and its parameter."""

    command: str
    type: str
    group: int
    buckets: tuple[Bucket, ...]
    bucket_id: int = BUCKET_ALL
    selection: tuple[str, int] = ("", 0)
    fields: SelectionFields = SelectionFields()


class GroupStatsRequest(NamedTuple):
    """Asks for the counters of one group, or of all (None)."""

    group: int | None
    nicira: bool = False


class GroupDescriptionRequest(NamedTuple):
    """Asks for one group, or all (None)."""

    group: int | None = None
    nicira: bool = False


class GroupFeaturesRequest(NamedTuple):
    """Asks for what groups can do."""

    nicira: bool = False


class GroupCounters(NamedTuple):
    """What a group and its buckets (packets, bytes) counted."""

    group: int
    references: int
    packets: int
    bytes: int
    duration_ns: int
    buckets: Sequence[tuple[int, int]]


class GroupStatsReply(NamedTuple):
    """Counters of groups. It leaves in as many messages as it needs, and is written once, like `FlowReply`."""

    groups: Iterable[GroupCounters]
    nicira: bool = False


class GroupDescriptionReply(NamedTuple):
    """Groups, each as what would add it. It leaves like `GroupStatsReply`."""

    groups: Iterable[GroupMod]
    nicira: bool = False


class GroupFeatures(NamedTuple):
    """What groups can do: masks of types and capabilities, and per type most groups and a mask of actions."""

    types: int
    capabilities: int
    most: tuple[int, int, int, int]
    actions: tuple[int, int, int, int]
    nicira: bool = False


def decode_group_mod(body: bytes, version: int) -> GroupMod:
    """A change of groups: OpenFlow 1.5's form in 1.5 and (by Nicira's message) in 1.0, else 1.1's."""
    modern = version >= OF15 or version == OF10
    layout = _MOD_15 if modern else _MOD_11
    if len(body) < layout.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "the group-mod is cut off")
    command, kind, group = layout.unpack_from(body)[:3]
    name = "add_or_modify" if command == _ADD_OR_MODIFY else COMMANDS[command] if command < len(COMMANDS) else ""
    if not name or (not modern and command in (3, 5)):
        raise OpenFlowError("OFPGMFC_BAD_COMMAND", f"unknown command {command}")
    if kind >= len(TYPES):
        raise OpenFlowError("OFPGMFC_BAD_TYPE", f"unknown type {kind}")
    if group > MAX_GROUP and not (name == "delete" and group == GROUP_ALL):
        raise OpenFlowError("OFPGMFC_INVALID_GROUP", f"{group:#x} is not a group")
    if not modern:
        buckets = tuple(_buckets_11(body, _MOD_11.size, version))
        return _checked(GroupMod(name, TYPES[kind], group, buckets))
    size, bucket_id = layout.unpack_from(body)[3:]
    end = _MOD_15.size + size
    if end > len(body):
        raise OpenFlowError("OFPGMFC_BAD_BUCKET", f"{size} bytes of buckets")
    buckets = tuple(_buckets_15(body, _MOD_15.size, end, version, TYPES[kind]))
    selection, fields = _selection(body, end)
    return _checked(GroupMod(name, TYPES[kind], group, buckets, bucket_id, selection, fields))


def _checked(mod: GroupMod) -> GroupMod:
    if len(mod.buckets) > MAX_BUCKETS:
        raise OpenFlowError("OFPGMFC_OUT_OF_BUCKETS", f"{len(mod.buckets)} buckets")
    if mod.type == "indirect" and mod.command in ("add", "modify", "add_or_modify") and len(mod.buckets) != 1:
        raise OpenFlowError("OFPGMFC_INVALID_GROUP", "an indirect group has one bucket")
    return mod


def _watched_port(number: int) -> int | None:
    port = port_from_32(number)
    if port is None:
        raise OpenFlowError("OFPGMFC_BAD_WATCH", f"{number:#x} is not a port")
    return None if port == PORT_NONE else port


def _watched_group(number: int) -> int | None:
    return None if number == GROUP_ANY else number


def _buckets_11(body: bytes, at: int, version: int) -> Iterator[Bucket]:
    """Buckets without ids, which they get in order."""
    number = 0
    while at < len(body):
        if len(body) - at < _BUCKET_11.size:
            raise OpenFlowError("OFPGMFC_BAD_BUCKET", "a bucket is cut off")
        size, weight, port, group = _BUCKET_11.unpack_from(body, at)
        if size < _BUCKET_11.size or size % 8 or size > len(body) - at:
            raise OpenFlowError("OFPGMFC_BAD_BUCKET", f"a bucket of {size} bytes")
        actions = decode_actions(body[at + _BUCKET_11.size : at + size], version, None)
        yield Bucket(actions, weight, _watched_port(port), _watched_group(group), number)
        at += size
        number += 1


def _buckets_15(body: bytes, at: int, end: int, version: int, kind: str) -> Iterator[Bucket]:
    while at < end:
        if end - at < _BUCKET_15.size:
            raise OpenFlowError("OFPGMFC_BAD_BUCKET", "a bucket is cut off")
        size, actions_size, number = _BUCKET_15.unpack_from(body, at)
        actions_end = at + _BUCKET_15.size + actions_size
        if size < _BUCKET_15.size or size % 8 or size > end - at or actions_end > at + size:
            raise OpenFlowError("OFPGMFC_BAD_BUCKET", f"a bucket of {size} bytes with {actions_size} of actions")
        actions = decode_actions(body[at + _BUCKET_15.size : actions_end], version, None)
        if number > MAX_BUCKET_ID:
            raise OpenFlowError("OFPGMFC_BAD_BUCKET", f"{number:#x} is not a bucket")
        weight = 1 if kind == "select" else 0
        yield _with_properties(Bucket(actions, weight, id=number), body, actions_end, at + size)
        at += size


def _with_properties(bucket: Bucket, body: bytes, at: int, end: int) -> Bucket:
    while at < end:
        kind, size = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if end - at < 8 or size < 4 or size > end - at:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a property of {size} bytes")
        if kind not in (_WEIGHT, _WATCH_PORT, _WATCH_GROUP):
            raise OpenFlowError("OFPBPC_BAD_TYPE", f"unknown property {kind} of a bucket")
        number = int.from_bytes(body[at + 4 : at + 8], "big")
        if kind == _WEIGHT:
            bucket = bucket._replace(weight=number >> 16)
        elif kind == _WATCH_PORT:
            bucket = bucket._replace(watch_port=_watched_port(number))
        else:
            bucket = bucket._replace(watch_group=_watched_group(number))
        at += (size + 7) & ~7
    return bucket


def _selection(body: bytes, at: int) -> tuple[tuple[str, int], SelectionFields]:
    """The method by which a select group chooses (an experimenter's property) and its fields, empty for none."""
    found, fields = ("", 0), SelectionFields()
    while at < len(body):
        kind, size = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if len(body) - at < 4 or size < 4 or size > len(body) - at:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a property of {size} bytes")
        if kind != 0xFFFF or int.from_bytes(body[at + 4 : at + 8], "big") != _NTR:
            raise OpenFlowError("OFPBPC_BAD_EXPERIMENTER", "unknown property of a group")
        if size < 40:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a selection method of {size} bytes")
        name = body[at + 16 : at + 32].split(b"\0", 1)[0].decode("ascii", "replace")
        found = (name, int.from_bytes(body[at + 32 : at + 40], "big"))
        fields = _selection_fields(body[at + 40 : at + size])
        at += (size + 7) & ~7
    return found, fields


def _selection_fields(data: bytes) -> SelectionFields:
    """Fields, each with a mask where matches have a value."""
    masks = []
    at = 0
    while at < len(data):
        wire, size, masked, at = find_field(data, at, len(data))
        if masked or size != wire.size or size > len(data) - at:
            raise OpenFlowError("OFPBMC_BAD_LEN", f"{wire.field.name} has {size} bytes")
        mask = int.from_bytes(data[at : at + size], "big") & ((1 << wire.field.high) - (1 << wire.field.low))
        if mask:
            masks.append((wire.field.place, mask << wire.field.shift))
        at += size
    return SelectionFields(data, tuple(masks))


def decode_group_number(body: bytes, version: int) -> int | None:
    """The group that a request names, None for all."""
    if len(body) != 8:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request about a group of the wrong size")
    group = int.from_bytes(body[:4], "big")
    return None if group in (GROUP_ALL, GROUP_ANY) else group


def encode_counters(group: GroupCounters, version: int) -> bytes:
    """One group's counters."""
    size = 32 + (8 if version not in (2, 3) else 0) + 16 * len(group.buckets)
    head = pack("!H2xII4xQQ", size, group.group, group.references, group.packets, group.bytes)
    if version not in (2, 3):
        head += pack("!II", *divmod(group.duration_ns, 1_000_000_000))
    return head + b"".join(pack("!QQ", *bucket) for bucket in group.buckets)


def _bucket(bucket: Bucket, version: int, kind: str) -> bytes:
    actions = encode_actions(bucket.actions, version, _NO_FACTS)
    port = port_to_32(PORT_NONE if bucket.watch_port is None else bucket.watch_port)
    group = GROUP_ANY if bucket.watch_group is None else bucket.watch_group
    if version < OF15 and version != OF10:
        return _BUCKET_11.pack(_BUCKET_11.size + len(actions), bucket.weight, port, group) + actions
    properties = pack("!HHH2x", _WEIGHT, 8, bucket.weight) if bucket.weight or kind == "select" else b""
    if bucket.watch_port is not None:
        properties += pack("!HHI", _WATCH_PORT, 8, port)
    if bucket.watch_group is not None:
        properties += pack("!HHI", _WATCH_GROUP, 8, group)
    size = _BUCKET_15.size + len(actions) + len(properties)
    return _BUCKET_15.pack(size, len(actions), bucket.id) + actions + properties


def encode_description(mod: GroupMod, version: int) -> bytes:
    """One group."""
    buckets = b"".join(_bucket(bucket, version, mod.type) for bucket in mod.buckets)
    kind = TYPES.index(mod.type)
    if version < OF15 and version != OF10:
        return pack("!HBxI", 8 + len(buckets), kind, mod.group) + buckets
    properties = b""
    if mod.selection[0]:
        name = mod.selection[0].encode()[:15].ljust(16, b"\0")
        size = 40 + len(mod.fields.raw)
        head = pack("!HHII", 0xFFFF, size, _NTR, 1) + bytes(4) + name + pack("!Q", mod.selection[1])
        properties = padded(head + mod.fields.raw)
    return pack("!HBxIH6x", 16 + len(buckets) + len(properties), kind, mod.group, len(buckets)) + buckets + properties


def encode_features(features: GroupFeatures) -> bytes:
    """What groups can do."""
    return pack("!II4I4I", features.types, features.capabilities, *features.most, *features.actions)

"""Messages about the switch as a whole: features, configuration, description, roles, what to be told."""

from __future__ import annotations

from struct import Struct, pack
from typing import NamedTuple

from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.ports import PortDescription, encode_port
from flowshunt.control.openflow.wire import OF10, OF13, OF14

_ACTIONS_10 = 0xFFF
_FRAGMENTS = 3
_INVALID_TTL = 1 << 2
_CONFIG = Struct("!HH")
_ROLE = Struct("!I4xQ")
_ASYNC = Struct("!6I")

CAPABILITY_FLOW_STATS = 1 << 0
CAPABILITY_TABLE_STATS = 1 << 1
CAPABILITY_PORT_STATS = 1 << 2
CAPABILITY_QUEUE_STATS = 1 << 6
CAPABILITY_ARP_MATCH_IP = 1 << 7
_BUNDLES = 1 << 9


class FeaturesRequest(NamedTuple):
    """Asks for Features."""


class Features(NamedTuple):
    """What the switch is. `ports` are said in OpenFlow 1.0 to 1.2 only."""

    datapath_id: int
    n_tables: int
    ports: tuple[PortDescription, ...] = ()
    n_buffers: int = 0


class ConfigRequest(NamedTuple):
    """Asks for Config."""


class SetConfig(NamedTuple):
    """How fragments are treated (0: as they are, 3: as Nicira's), and how much of a packet a controller gets.

    `invalid_ttl`: whether it is sent packets whose TTL ran out; None from OpenFlow 1.3 on, where SetAsync says so.
    """

    fragments: int
    miss_send_len: int
    invalid_ttl: bool | None = None


class Config(NamedTuple):
    """The configuration as it is."""

    fragments: int
    miss_send_len: int
    invalid_ttl: bool = False


class DescriptionRequest(NamedTuple):
    """Asks for Description."""


class Description(NamedTuple):
    """Who made what."""

    manufacturer: str
    hardware: str
    software: str
    serial: str
    datapath: str


class RoleRequest(NamedTuple):
    """`role`: "nochange", "equal", "primary" or "secondary"; `generation` None where the message has none."""

    role: str
    generation: int | None
    nicira: bool = False


class RoleReply(NamedTuple):
    """The role that a connection has now."""

    role: str
    generation: int
    nicira: bool = False


class AsyncRequest(NamedTuple):
    """Asks for the AsyncConfig."""


class AsyncConfig(NamedTuple):
    """Which reasons of which events a connection is told, as masks: (as secondary, as primary or equal)."""

    packet_in: tuple[int, int]
    port_status: tuple[int, int]
    flow_removed: tuple[int, int]


class SetAsync(NamedTuple):
    """Changes of an AsyncConfig: name of the event, 0 for secondary or 1, new mask."""

    changes: tuple[tuple[str, int, int], ...]

    def applied_to(self, config: AsyncConfig) -> AsyncConfig:
        """A configuration with these changes."""
        for name, side, mask in self.changes:
            old = getattr(config, name)
            config = config._replace(**{name: (old[0], mask) if side else (mask, old[1])})
        return config


REASON_INVALID_TTL = 2
"""Why a packet comes to a controller: its TTL would have become 0."""

ROLES = ("nochange", "equal", "primary", "secondary")
_ROLES_NX = ("equal", "primary", "secondary")
_DESCRIPTION_SIZES = (256, 256, 256, 32, 256)
_EVENTS = AsyncConfig._fields
_PROPERTIES = 12
_EXPERIMENTER_PROPERTIES = (0xFFFE, 0xFFFF)


def encode_features(features: Features, version: int) -> bytes:
    """The features, in the form of the version."""
    capabilities = CAPABILITY_FLOW_STATS | CAPABILITY_TABLE_STATS | CAPABILITY_PORT_STATS | CAPABILITY_QUEUE_STATS
    if version == OF10:
        capabilities |= CAPABILITY_ARP_MATCH_IP
    if version >= OF14:
        capabilities |= _BUNDLES
    last = _ACTIONS_10 if version == OF10 else 0
    head = pack(
        "!QIBB2xII", features.datapath_id, features.n_buffers, features.n_tables, 0, capabilities, last
    )  # fmt: skip
    if version >= OF13:
        return head
    return head + b"".join(encode_port(port, version) for port in features.ports)


def decode_set_config(body: bytes, version: int) -> SetConfig:
    """A change of the configuration. Fragments may be left (0), dropped (1) or, in Nicira's way, matched (3)."""
    if len(body) != _CONFIG.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a configuration of the wrong size")
    flags, length = _CONFIG.unpack(body)
    if flags & ~_known_config(version):
        raise OpenFlowError("OFPSCFC_BAD_FLAGS", f"unknown flags {flags:#x}")
    return SetConfig(flags & _FRAGMENTS, length, bool(flags & _INVALID_TTL) if version < OF13 else None)


def _known_config(version: int) -> int:
    return _FRAGMENTS | _INVALID_TTL if version < OF13 else _FRAGMENTS


def encode_config(config: Config, version: int) -> bytes:
    """The configuration, as far as the version can say it."""
    flags = config.fragments | (_INVALID_TTL if config.invalid_ttl else 0)
    return _CONFIG.pack(flags & _known_config(version), config.miss_send_len)


def encode_description(description: Description) -> bytes:
    """The description; each text is cut to its room and ends with a zero."""
    return b"".join(
        text.encode()[: size - 1].ljust(size, b"\0") for text, size in zip(description, _DESCRIPTION_SIZES, strict=True)
    )


def decode_role(body: bytes, version: int) -> RoleRequest:
    """OpenFlow 1.2's request for a role."""
    if len(body) != _ROLE.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a role request of the wrong size")
    role, generation = _ROLE.unpack(body)
    if role >= len(ROLES):
        raise OpenFlowError("OFPRRFC_BAD_ROLE", f"unknown role {role}")
    name = ROLES[role]
    return RoleRequest(name, generation if name in ("primary", "secondary") else None)


def decode_role_nx(body: bytes, version: int) -> RoleRequest:
    """Nicira's request for a role."""
    if len(body) != 4:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a role request of the wrong size")
    role = int.from_bytes(body, "big")
    if role >= len(_ROLES_NX):
        raise OpenFlowError("OFPRRFC_BAD_ROLE", f"unknown role {role}")
    return RoleRequest(_ROLES_NX[role], None, nicira=True)


def encode_role(reply: RoleReply) -> bytes:
    """The role, in the form that was asked in."""
    if reply.nicira:
        return pack("!I", _ROLES_NX.index(reply.role))
    return _ROLE.pack(ROLES.index(reply.role), reply.generation)


def decode_async_13(body: bytes, version: int) -> SetAsync:
    """The masks of OpenFlow 1.3, which are Nicira's too: of each event as primary, then as secondary."""
    if len(body) != _ASYNC.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "an async configuration of the wrong size")
    masks = _ASYNC.unpack(body)
    return SetAsync(tuple((_EVENTS[at // 2], 1 - at % 2, mask) for at, mask in enumerate(masks)))


def decode_async_14(body: bytes, version: int) -> SetAsync:
    """The properties of OpenFlow 1.4, each of which replaces one mask; those for events not here are read over."""
    changes = []
    at = 0
    while at < len(body):
        kind, size = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if len(body) - at < 8 or size < 8 or size > len(body) - at:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a property of {size} bytes")
        if kind in _EXPERIMENTER_PROPERTIES:
            raise OpenFlowError("OFPBPC_BAD_EXPERIMENTER", "unknown experimenter")
        if kind >= _PROPERTIES:
            raise OpenFlowError("OFPBPC_BAD_TYPE", f"unknown property {kind}")
        if size != 8:
            raise OpenFlowError("OFPBPC_BAD_LEN", f"a property of {size} bytes")
        if kind < 2 * len(_EVENTS):
            changes.append((_EVENTS[kind // 2], kind % 2, int.from_bytes(body[at + 4 : at + 8], "big")))
        at += size
    return SetAsync(tuple(changes))


def encode_async(config: AsyncConfig, version: int) -> bytes:
    """The masks, in the form of the version."""
    if version < OF14:
        return _ASYNC.pack(*(pair[side] for pair in config for side in (1, 0)))
    return b"".join(pack("!HHI", 2 * n + side, 8, pair[side]) for n, pair in enumerate(config) for side in (0, 1))

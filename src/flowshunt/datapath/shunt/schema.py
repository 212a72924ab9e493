"""The shunt's memory: entries, what they change, who owns them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowshunt.conntrack.memory import reserve
from flowshunt.conntrack.schema import BATCH_MAX, CONNECTION
from flowshunt.datapath.paths.records import N_ZONES

ENTRY = np.dtype(
    [
        # line 1: what a packet must look like; all of it is compared
        ("source", np.int64, 2),
        ("destination", np.int64, 2),
        ("tuple", np.int64),  # tuple word, zone 0
        ("eth_src", np.int64),  # MAC << 16 | TCI, as in the flow key
        ("eth_dst", np.int64),  # MAC << 16 | Ethernet type
        ("port_epoch", np.int64),  # port << 32 | low half of the epoch; NOWHERE in a dead entry
        # line 2: what becomes of it, and what passed
        ("used_ms", np.int64),  # when all connections on the way were certainly used
        ("packets", np.int64),
        ("bytes", np.int64),  # of layer 3
        ("frame_bytes", np.int64),
        ("row", np.uint32),  # the connection that names the flow
        ("generation", np.uint32),
        ("max_idle_ms", np.uint32),
        ("out_port", np.uint16),
        ("max_size", np.uint16),  # of layer 3; 0: any
        ("ct_state", np.uint16),
        ("flags", np.uint16),  # E_*
        ("tpid", np.uint16),  # with E_RETAG: type of the new tag
        ("tos", np.uint8),  # with E_MATCH_TOS
        ("new_tos", np.uint8),  # with E_SET_TOS
        ("ttl_decrements", np.uint8),
        ("owner", np.uint8),
        ("n_zones", np.uint8),  # connections on the way; 0: the record is free
        ("seen", np.uint8),  # TCP flags that the tracker has seen in this direction
    ],
    align=True,
)
"""One direction of a flow, 128 bytes. Flow f has entries 2f (original direction of its connection) and 2f + 1."""

E_MATCH_TOS = 1
E_SET_TOS = 2
E_RETAG = 4
"""The VLAN tag is another one, or there is none any more."""
E_MATCH_TPID = 8
"""One tag becomes another: only a packet whose tag has the type of the new one is sure to come out the same."""
E_CHANGED = 16
"""Packets are written anew, as CHANGE says."""
E_CHECKED = 32
"""The TCP windows of its connection are followed."""
E_UNASSURED = 64
"""Profile linux: a packet that finds the connection old enough makes it a stream, which is for the tracker to do."""
E_DEAD = 128
E_UNSETTLED = 256
"""There were hits that the timers of the connections do not know of yet."""

NOWHERE = -1

CHANGE = np.dtype(
    [
        ("source", np.int64, 2),
        ("destination", np.int64, 2),
        ("eth_src", np.int64),  # words of the flow key, as in ENTRY
        ("eth_dst", np.int64),
        ("ports", np.int64),  # 48 and 32
        ("pad", np.int64),
    ]
)
"""The header of the packets of an entry when they leave; 64 bytes."""

OWNER = np.dtype(
    [
        ("limit", np.int64),  # flows
        ("n_flows", np.int64),
        ("check", np.int64),  # flows that are installed are E_CHECKED
        ("hand", np.int64),  # where the search for idle flows goes on
        ("hits", np.int64),  # packets
        ("hit_bytes", np.int64),  # as they came in
        ("unchecked", np.int64),  # hits that the tracker might have called invalid
        ("refused", np.int64),  # packets that a check sent up
    ]
)
MAX_OWNERS = 16

SHUNT_STATE = np.dtype(
    [
        ("epoch", np.int64),  # the present one, of the datapath's paths
        ("home", np.int64),  # of the datapath whose packets run, see paths.records.HOME_BITS
        ("n_flows", np.int64),
        ("n_fresh", np.int64),  # flow records ever used
        ("n_free", np.int64),  # length of the free stack
        ("n_entries", np.int64),  # in buckets
        ("base", np.int64),  # as in the tracker's STATE, also the rest
        ("max_base", np.int64),
        ("old_base", np.int64),
        ("migrated", np.int64),
        ("n_killed", np.int64),  # flows that died of an event
    ]
)

CAUSES = (
    "hit",
    "absent",
    "not-fit",
    "dead",
    "epoch",
    "link",
    "tcp-flags",
    "ttl",
    "size",
    "options",
    "tos",
    "tags",
    "idle",
    "stream",
    "no-port",
    "checked",
)
"""Why a packet took the long way while the shunt was in use.

`not-fit`: no packet of its kind is ever shunted (no TCP or UDP, a fragment, malformed). `link`: other MAC addresses,
VLAN or port. `tags`: a second tag, or a tag of another type. `stream`: see E_UNASSURED. `checked`: the tracker shall
judge it, since a checksum or its place in the window is not plainly right.
"""
(
    CAUSE_NONE,
    CAUSE_ABSENT,
    CAUSE_NOT_FIT,
    CAUSE_DEAD,
    CAUSE_EPOCH,
    CAUSE_LINK,
    CAUSE_TCP_FLAGS,
    CAUSE_TTL,
    CAUSE_SIZE,
    CAUSE_OPTIONS,
    CAUSE_TOS,
    CAUSE_TAGS,
    CAUSE_IDLE,
    CAUSE_STREAM,
    CAUSE_NO_PORT,
    CAUSE_CHECKED,
) = range(len(CAUSES))

MIN_BUCKETS = 64
GROW_AT = 3
"""Average entries per bucket at which the table doubles."""
MAX_CHAIN = 16
"""Buckets, each full, that an entry may be away from its own; only one tuple in many VLANs gets there."""
MAX_MET = 256
"""Entries of one tuple that are found: more than MAX_CHAIN lets in."""
MAX_FLOWS = 2_000_000


class ShuntArrays(NamedTuple):
    """All memory of a shunt, as kernels get it.

    `entries`: ENTRY (2 * capacity,), `changes`: CHANGE, as long. `followers`: uint32 (capacity, N_ZONES - 1, 2), row
    and generation of a flow's connections beyond the first. `buckets`: int64 (2 * max buckets, 8), as the tracker's.
    `flow_of`: uint32 (rows of the tracker,), flow + 1 of each connection. `free`: int32 (capacity,), a stack. `owners`:
    OWNER (MAX_OWNERS,). `causes`: int64 (len(CAUSES),), totals. `found`, `why`, `left`: int64 (BATCH_MAX,), per packet
    of a chunk its entry (-1: none), CAUSE_*, and the bytes that left if that is CAUSE_NONE. `met`: int64 (MAX_MET,),
    scratch. `saved`: CONNECTION (1,), scratch. `state`: SHUNT_STATE (1,).
    """

    entries: np.ndarray
    changes: np.ndarray
    followers: np.ndarray
    buckets: np.ndarray
    flow_of: np.ndarray
    free: np.ndarray
    owners: np.ndarray
    causes: np.ndarray
    found: np.ndarray
    why: np.ndarray
    left: np.ndarray
    met: np.ndarray
    saved: np.ndarray
    state: np.ndarray


def make_shunt(capacity: int, n_rows: int) -> ShuntArrays:
    """Memory for up to `capacity` flows of a tracker with `n_rows` rows; committed as it is used.

    Raises MemoryError when the address space cannot be reserved.
    """
    max_base = MIN_BUCKETS
    while max_base * GROW_AT < 2 * capacity:
        max_base *= 2
    state = np.zeros(1, SHUNT_STATE)
    state["base"] = MIN_BUCKETS
    state["max_base"] = max_base
    return ShuntArrays(
        entries=reserve(ENTRY, 2 * capacity),
        changes=reserve(CHANGE, 2 * capacity),
        followers=reserve(np.uint32, capacity, N_ZONES - 1, 2),
        buckets=reserve(np.int64, 2 * max_base, 8),
        flow_of=reserve(np.uint32, n_rows),
        free=reserve(np.int32, capacity),
        owners=np.zeros(MAX_OWNERS, OWNER),
        causes=np.zeros(len(CAUSES), np.int64),
        found=np.full(BATCH_MAX, -1, np.int64),
        why=np.zeros(BATCH_MAX, np.int64),
        left=np.zeros(BATCH_MAX, np.int64),
        met=np.zeros(MAX_MET, np.int64),
        saved=np.zeros(1, CONNECTION),
        state=state,
    )

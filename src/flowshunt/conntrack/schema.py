"""The tracker's memory: connections, buckets, events, state.

A connection is one 192-byte record in three cache lines: what identifies it, what every packet writes, and what is
rarely touched. A packet of a tracked connection reads its bucket and the first two lines, and writes the second.

The reply tuple of a connection without NAT is the original one turned round, so only that is stored; what only some
connections have (NAT, parent, helper) is in an extension record of its own, EXT.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CONNECTION = np.dtype(
    [
        # line 1: identity, read by every packet
        ("source", np.int64, 2),  # 128-bit form, high and low
        ("destination", np.int64, 2),
        ("tuple", np.int64),  # see `packet tuple word` below
        ("window", np.uint32, 2),  # TCP: largest window advertised, by direction
        ("mark", np.uint32),
        ("generation", np.uint32),
        ("state", np.uint8),  # of the protocol: states.OTHER_*, states.ICMP_*, linux: states.LINUX_*, SCTP_*
        ("flags", np.uint8),  # F_*
        ("pad0", np.uint16),
        ("ext", np.uint32),  # extension record + 1; 0: none
        # line 2: written by every packet; index 0 is the original direction
        ("packets", np.int64, 2),
        ("bytes", np.int64, 2),
        ("expires_ms", np.int64),
        ("lo", np.uint32, 2),  # TCP: next sequence number sent (linux: highest end); linux SCTP: verification tag
        ("hi", np.uint32, 2),  # TCP: end of what may be sent (linux: maximum end)
        ("wscale", np.uint8, 2),  # TCP: shift and WSCALE_* (linux: shift)
        ("peer", np.uint8, 2),  # TCP: states.PEER_* (linux: LF_* flags); linux SCTP: IF_* flags
        ("tcp_flags", np.uint8, 2),  # flags seen
        ("watch", np.uint16),  # WATCH_*: what a module wants to be told of
        # line 3: rare
        ("label", np.int64, 2),
        ("start_ms", np.int64),
        ("previous", np.int32),  # neighbours in the expiry slot; -1: none
        ("next", np.int32),
        ("in_port", np.uint32),
        ("slot", np.uint16),  # expiry slot
        ("pad2", np.uint16),
        ("max_ack", np.uint32, 2),  # linux only, also the rest
        ("last_seq", np.uint32),
        ("last_ack", np.uint32),
        ("last_end", np.uint32),
        ("last_window", np.uint16),
        ("last_index", np.uint8),  # low nibble: kind of the last packet, bit 4: its direction; SCTP: see sctp_linux
        ("last_flags", np.uint8),  # flags and window scale of the last SYN or SYN-ACK
    ],
    align=True,
)

EXT = np.dtype(
    [
        ("source", np.int64, 2),  # reply tuple: who sends replies, to whom, and the tuple word of a reply
        ("destination", np.int64, 2),
        ("tuple", np.int64),
        ("parent_row", np.uint32),  # connection that announced this one; NO_PARENT: none
        ("parent_generation", np.uint32),
        ("nat", np.uint8),  # NAT_SRC, NAT_DST, 0: none
        ("helper", np.uint8),  # states.HELPER_NAMES
        ("pad", np.uint16),
        ("adjust", np.uint32),  # sequence adjustment + 1; 0: none
        ("gauge", np.uint32),  # gauge of the translated address + 1; 0: none
        ("expected", np.uint32),  # its latest expectation + 1; 0: none
    ],
    align=True,
)
"""What some connections have besides; 64 bytes. With `F_NAT` unset the reply tuple is the original turned round."""

NO_PARENT = 0xFFFFFFFF
NAT_SRC = 1
NAT_DST = 2

NAT_RANDOM = 4
"""Begin at a random port of the range."""
NAT_HASH = 8
"""Begin at the port of the range that the hash of the tuple names."""
NAT_PERSISTENT = 16
"""The client's address alone decides which address of the range it gets, in every run."""
NAT_KIND = NAT_SRC | NAT_DST
NAT_WORDS = 4
"""Words of a NAT specification: kind and flags, family << 8, ports << 16 and << 32 (first, last; 0: none given); first
address, high and low; how many addresses there are, at most NAT_MAX_ADDRESSES. Without a kind it is null binding.
"""
NAT_MAX_ADDRESSES = 1 << 32

GAUGE = np.dtype(
    [
        ("address", np.int64, 2),
        ("used", np.int64),  # connections translated to it
        ("exhausted", np.int64),  # connections refused
        ("family", np.int64),  # 0: free
    ]
)
"""Ports in use of one translated address."""
N_GAUGES = 4096
"""Addresses with a gauge of their own; gauge 0 counts for all others."""

POOL_WORDS = 1 << 10
POOL = np.dtype(
    [
        ("key", np.int64),  # hash of what is fixed; 0: free
        ("used", np.int64),  # when it was last, in uses of any pool
        ("full_range", np.int64),  # first << 16 | last port of a range that is full; -1: none
        ("full_until", np.int64),  # milliseconds: no port of that range expires before
        ("known", np.int64, POOL_WORDS // 64),  # which words of `pool_ports` are right
        ("ahead", np.int64),  # words before this one have been filled
        ("spare", np.int64, 3),
    ]
)
"""The ports of a crowded range: see `kernels/pools.py`."""
POOL_WAYS = 4
POOL_SETS = 64

QUOTE_WORDS = 6
N_QUOTES = 256
"""More than twice as many as one packet can need."""

EVENT = np.dtype(
    [
        ("time_ms", np.int64),
        ("source", np.int64, 2),  # of the original direction
        ("destination", np.int64, 2),
        ("tuple", np.int64),
        ("slots", np.int64, 4),  # DESTROYED: the private slots' last contents
        ("row", np.uint32),
        ("generation", np.uint32),
        ("in_port", np.uint32),
        ("mark", np.uint32),
        ("kind", np.uint8),  # EVENT_*
        ("reason", np.uint8),  # DESTROYED: REASON_*
        ("direction", np.uint8),  # of the packet that caused it
        ("state", np.uint8),  # STATE: of the sending TCP peer
    ],
    align=True,
)
"""One event, in the order in which they happened; 104 bytes."""

EVENT_KINDS = ("created", "reply", "state", "mark", "destroyed", "due", "label")
(
    EVENT_CREATED,
    EVENT_REPLY,
    EVENT_STATE,
    EVENT_MARK,
    EVENT_DESTROYED,
    EVENT_DUE,
    EVENT_LABEL,
) = range(len(EVENT_KINDS))

REASONS = ("expired", "flushed", "replaced", "forced", "closed", "early-drop")
(
    REASON_EXPIRED,
    REASON_FLUSHED,
    REASON_REPLACED,
    REASON_FORCED,
    REASON_CLOSED,
    REASON_EARLY_DROP,
) = range(len(REASONS))

EXPECTATION_MS = 300_000
"""How long an expectation waits for its connection."""

EVENTS_PER_TRACK = 6
"""The most events that one pass of one packet through the tracker can cause."""

BUCKET_ENTRIES = 7
"""Entries of a bucket; its eighth word counts the entries that found it full and went on."""
MIN_BUCKETS = 64
BATCH_MAX = 256
WHEEL_SLOTS = 4096
WHEEL_SHIFT = 10
"""An expiry slot covers 2**WHEEL_SHIFT milliseconds."""
CLOCK_STEP_MS = 3_600_000
"""A step back of the clock by at least this much is followed; a smaller one is jitter."""
DUE_GRACE_MS = 1000
"""A held connection that is due lives this long for want of an answer, then it is asked about again."""
BEFORE_ALL_MS = -(1 << 62)
"""The tracker's time before its first packet."""
N_SLOTS = 4
"""Private 64-bit slots per connection."""

EXPECTATION = np.dtype(
    [
        # whom it lets in; the port of the source is any
        ("source", np.int64, 2),
        ("destination", np.int64, 2),
        ("tuple", np.int64),  # port of the destination << 32 | zone << 16 | protocol << 8 | family
        # whom the other end sees; the port of the source stays where it can
        ("nat_source", np.int64, 2),
        ("nat_destination", np.int64, 2),
        ("nat_port", np.int64),
        ("expires_ms", np.int64),
        ("parent_row", np.uint32),
        ("parent_generation", np.uint32),
        ("flags", np.uint32),  # EXPECT_*
        # places + 1; 0: none
        ("next", np.uint32),  # in the chain of its hash, or next free record
        ("sibling", np.uint32),  # next older one of the same parent
        ("older", np.uint32),
        ("newer", np.uint32),
        ("pad", np.uint32),
    ],
    align=True,
)
"""A connection that another one announced; 128 bytes."""

EXPECT_ANY_SOURCE = 1
EXPECT_STAYS = 2
"""It is not used up by the connection that it lets in."""
EXPECT_NAT = 4
"""The connection is translated, if its ct action asks for that."""

ADJUSTMENT = np.dtype(
    [
        ("position", np.uint32, 2),  # by direction, as the sender counts
        ("before", np.int32, 2),  # what is added up to and including that sequence number, and after it
        ("after", np.int32, 2),
        ("used", np.uint32),
        ("next", np.uint32),  # next free record + 1
    ],
    align=True,
)
"""Sequence numbers of a connection whose payload a helper made longer or shorter; 32 bytes."""

N_HELPER_PORTS = 4

STATE = np.dtype(
    [
        ("key", np.int64, 4),  # of the tuple hash
        ("now_ms", np.int64),  # latest time seen; time never runs backwards here
        ("home", np.int64),  # of the datapath whose packets run, in the ports of connections and events
        ("wheel_tick", np.int64),
        ("leaping", np.int64),  # time went further ahead than the wheel goes round, and the wheel is still behind
        ("capacity", np.int64),
        ("n_live", np.int64),
        ("n_fresh", np.int64),  # rows ever used
        ("n_free", np.int64),  # length of the free stack
        ("n_entries", np.int64),  # in buckets
        ("base", np.int64),  # number of buckets, and index of the first
        ("max_base", np.int64),
        ("old_base", np.int64),  # buckets being emptied into the current ones; 0: none
        ("migrated", np.int64),
        ("n_events", np.int64),
        ("linux", np.int64),  # profile
        ("check_checksums", np.int64),
        ("check_sequence", np.int64),
        ("loose", np.int64),
        ("events_on", np.int64),
        ("slots_on", np.int64),
        ("limit", np.int64),  # connections allowed, at most `capacity`
        ("headroom", np.int64),  # of them, kept for packets that another zone has accepted
        ("early_drop", np.int64),
        ("zone_limit", np.int64),  # of zones without their own; UNLIMITED: none
        ("liberal", np.int64),
        ("n_zones", np.int64),  # length of `used_zones`
        ("n_ext_fresh", np.int64),  # extension records ever used
        ("n_ext_free", np.int64),  # length of their free stack
        ("nat_word", np.int64),  # tuple word of the reply tuple in `nat_key`
        ("nat_hash", np.int64),  # its hash
        ("nat_new", np.int64),  # the last new connection got NAT
        ("nat_draws", np.int64),  # random numbers drawn
        ("nat_destroyed", np.int64),  # expired connections that gave their reply tuple to the one being made
        ("quote", np.int64),  # the record of `quotes` that was written last
        ("n_pools", np.int64),  # in use
        ("pool_uses", np.int64),
        ("helper_ports", np.int64, N_HELPER_PORTS),  # by helper: protocol << 16 | port that gets it; 0: none
        ("n_expected", np.int64),
        ("fresh_expected", np.int64),  # records ever used
        ("free_expected", np.int64),  # place + 1, also the rest
        ("oldest_expected", np.int64),
        ("newest_expected", np.int64),
        ("fresh_adjusted", np.int64),
        ("free_adjusted", np.int64),
    ]
)

ZONE = np.dtype(
    [
        ("live", np.int64),  # connections in the table
        ("limit", np.int64),  # of them; 0: as STATE says; -1: none
        ("policy", np.uint16),  # row of `timeouts`
        ("flags", np.uint16),  # ZONE_*
        ("pad", np.uint32),
        ("pad2", np.int64),
    ]
)
"""A zone; all zero means that nothing was set for it. 32 bytes."""

N_ZONES = 1 << 16
ZONE_USED = 1
"""The zone is in `used_zones`."""
ZONE_LIBERAL = 2
ZONE_STRICT = 4
"""The zone judges TCP windows, or does not, whatever the tracker does."""
UNLIMITED = 1 << 62
MAX_POLICIES = 4096
"""Rows of the timeout table; the first is that of zones without a policy of their own."""

TRACKED = np.dtype(
    [
        ("word", np.int64),  # tuple word, zone 0, of a packet found fit to be looked up; 0: not looked at yet
        ("row", np.int64),  # connection that it was tracked in last; -1: none
        ("generation", np.uint32),
        ("state", np.uint16),  # ct_state that it was given there
        ("zone", np.uint16),
    ]
)
"""What the tracker remembers of a packet of the batch."""

COUNTERS = (
    "found",
    "new",
    "inserted",
    "related",
    "full",
    *(f"removed-{reason}" for reason in REASONS),
    "invalid-not-ip",
    "invalid-malformed",
    "invalid-fragment",
    "invalid-checksum",
    "invalid-icmp-type",
    "invalid-icmp-error",
    "invalid-icmp-error-unknown",
    "invalid-first-packet",
    "invalid-state",
    "again",
    "zone-limit",
    "headroom",
    "invalid-mid-stream",
    "invalid-tcp-flags",
    "invalid-tcp-sequence",
    "invalid-tcp-ack",
    "invalid-tcp-reset",
    "invalid-nat-exhausted",
    "expected",
    "expectations-made",
    "expectations-refused",
    "expectations-expired",
    "expectations-evicted",
    "expectations-ended",
    "invalid-sctp-chunks",
    "invalid-sctp-tag",
    "invalid-reply-taken",
)
"""Names of what is counted, per zone and protocol; `kernels.statistics.count` takes the index."""

C_FOUND, C_NEW, C_INSERTED, C_RELATED, C_FULL, C_REMOVED = range(6)
"""C_REMOVED + REASON_*: connections that ended for that reason."""
(
    C_NOT_IP,
    C_MALFORMED,
    C_FRAGMENT,
    C_CHECKSUM,
    C_ICMP_TYPE,
    C_ICMP_ERROR,
    C_ICMP_UNKNOWN,
    C_FIRST_PACKET,
    C_STATE,
    C_AGAIN,
    C_ZONE_LIMIT,
    C_HEADROOM,
    C_MID_STREAM,
    C_TCP_FLAGS,
    C_TCP_SEQUENCE,
    C_TCP_ACK,
    C_TCP_RESET,
    C_NAT_EXHAUSTED,
    C_EXPECTED,
    C_EXPECT_MADE,
    C_EXPECT_REFUSED,
    C_EXPECT_EXPIRED,
    C_EXPECT_EVICTED,
    C_EXPECT_ENDED,
    C_SCTP_CHUNKS,
    C_SCTP_TAG,
    C_REPLY_TAKEN,
) = range(C_REMOVED + len(REASONS), len(COUNTERS))

PROTOCOLS = ("tcp", "udp", "icmp", "icmpv6", "sctp", "other")
"""Kinds of traffic that are counted apart."""
COUNTER_SHIFT = 7
"""Each zone and protocol has 2**COUNTER_SHIFT places: one per counter, and from EXPIRED_AT on one per state."""
ZONE_SHIFT = COUNTER_SHIFT + 3
EXPIRED_AT = 96
"""EXPIRED_AT + state: connections that expired in it (`statistics.expired_names`)."""


class ConntrackArrays(NamedTuple):
    """All memory of one tracker, as kernels get it.

    `conns`: CONNECTION (capacity,). `buckets`: int64 (2 * max buckets, 8); the table of n buckets lies in rows
    `[n, 2n)`. `state`: STATE (1,). `events`: EVENT (n,). `timeouts`: int64 (policies, N_TIMEOUTS), milliseconds.
    `wheel`: int32 (WHEEL_SLOTS,), first row of each expiry slot or -1. `free`: int32 (capacity,), a stack.
    `slots`: int64 (capacity, N_SLOTS). `counters`: int64 (N_ZONES << ZONE_SHIFT,), the place of a counter is `zone <<
    ZONE_SHIFT | protocol << COUNTER_SHIFT | counter`. `hashes`, `candidates`: int64 (BATCH_MAX,),
    `tracked`: TRACKED (BATCH_MAX,), per packet of a batch: its tuple hash, the row that its bucket suggests (-1: none),
    and what else is remembered of it. `inner_key`: a flow key for the packet quoted in an ICMP error.
    `zones`: ZONE (N_ZONES,). `used_zones`: uint16 (N_ZONES,), the first n_zones are those that packets came to.
    `exts`: EXT (capacity,). `ext_free`: int32 (capacity,), a stack. `expectations`: EXPECTATION (n,), `expected`:
    uint32 (power of two,), first expectation + 1 by hash. `adjustments`: ADJUSTMENT (n,).

    `nat_spec`: int64 (NAT_WORDS,), what the ct action that runs asks of NAT. `nat_key`: a flow key, scratch for tuples
    that are tried. `quotes`: int64 (N_QUOTES, QUOTE_WORDS), what translated quotes of ICMP errors have become (source,
    destination, tuple word). `gauges`: GAUGE (N_GAUGES,). `pools`: POOL (n,), `pool_ports` and `pool_expiry`: int64
    (n, POOL_WORDS), see `kernels/pools.py`. `draft`: CONNECTION (1,), a record that is to be put into the table.
    """

    conns: np.ndarray
    buckets: np.ndarray
    state: np.ndarray
    events: np.ndarray
    timeouts: np.ndarray
    wheel: np.ndarray
    free: np.ndarray
    slots: np.ndarray
    counters: np.ndarray
    hashes: np.ndarray
    candidates: np.ndarray
    tracked: np.ndarray
    inner_key: np.ndarray
    zones: np.ndarray
    used_zones: np.ndarray
    exts: np.ndarray
    ext_free: np.ndarray
    nat_spec: np.ndarray
    nat_key: np.ndarray
    quotes: np.ndarray
    gauges: np.ndarray
    pools: np.ndarray
    pool_ports: np.ndarray
    pool_expiry: np.ndarray
    expectations: np.ndarray
    expected: np.ndarray
    adjustments: np.ndarray
    draft: np.ndarray

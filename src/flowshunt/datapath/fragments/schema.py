"""The fragment store's memory, its counters and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.arrays import hash_key
from flowshunt.conntrack.memory import reserve

MAX_FRAGMENTS = 8192
"""Fragments, and datagrams, that there is room for; `FragmentSettings` may allow fewer."""
MAX_PER_DATAGRAM = 1024
"""Fragments of one datagram: 64 bytes each for the longest one."""
MAX_IP_SIZE = 65535
MAX_CHAIN = 16
"""Datagrams in one bucket of the hash table; one more makes the oldest of them go."""
BLOCK_SIZE = 512
N_BLOCKS = 16384
"""Blocks of payload: 8 MiB, as much as Linux allows for both families together."""
N_ZONES = 1 << 16

UNIT = 8
"""Fragments begin at multiples of this many bytes."""
UNITS_PER_WORD = 32
BIT_WORDS = (MAX_IP_SIZE // UNIT + UNITS_PER_WORD) // UNITS_PER_WORD

DATAGRAM = np.dtype(
    [
        ("source", np.int64, 2),
        ("destination", np.int64, 2),
        ("key", np.int64),  # zone << 48 | family << 40 | protocol (IPv4) << 32 | identification
        ("created_ms", np.int64),
        ("hash", np.int64),
        ("packet", np.int64),  # number of the packet that was its first fragment to come
        ("units", np.int32),  # units that are there
        ("end", np.int32),  # where the fragment that reaches furthest ends
        ("total", np.int32),  # bytes of payload in all; 0: not known yet
        ("mru", np.int32),  # L3 size of the largest fragment
        ("mru_df", np.int32),  # L3 size of the largest fragment that must not be fragmented
        ("n_fragments", np.int32),
        ("n_blocks", np.int32),
        ("first", np.int32),  # the fragment of offset 0; rows here and below are + 1, 0: none
        ("fragments", np.int32),  # the one that came last
        ("chain", np.int32),  # next in the hash table's bucket
        ("older", np.int32, 2),  # BY_*
        ("newer", np.int32, 2),
        ("congested", np.uint8),  # a fragment was marked "congestion experienced"
        ("refused", np.uint8),  # an overlap or the like: nothing is kept, and what comes still is refused
    ],
    align=True,
)
"""A datagram that is not complete."""

BY_FAMILY, BY_ZONE = range(2)
"""The two lists that a datagram is in, each by age."""

FRAGMENT = np.dtype(
    [
        ("packet", np.int64),  # number of the packet among all that were received
        ("start", np.int32),  # place of the payload in the datagram
        ("size", np.int32),  # bytes of payload
        ("header", np.int32),  # bytes of headers in front of it that are kept as well: the first fragment's
        ("l3", np.int32),  # within those, where the IP header begins
        ("block", np.int32),  # first block, + 1; 0: none
        ("next", np.int32),  # of the same datagram, + 1; while free: of the free list
    ],
    align=True,
)

CROWD = np.dtype([("oldest", np.int32), ("newest", np.int32), ("n_fragments", np.int32), ("n_blocks", np.int32)])
"""Datagrams of one zone, or of one family: the ends of their list (row + 1; 0: none), and what they take."""

JOINED = np.dtype([("fragment", np.int64), ("packet", np.int64), ("is_first", np.uint8)], align=True)
"""Fragment number `fragment` went on as part of packet number `packet`; both count all packets received, from 0.

`is_first`: it is the one of offset 0.
"""

FAMILIES = ("ipv4", "ipv6")
COUNTERS = (
    "accepted",
    "completed",
    "expired",
    "purged",
    "dropped",
    "too-small",
    "overlapping",
    "duplicate",
    "inconsistent",
    "misaligned",
    "too-long",
    "empty",
    "malformed",
    "wrong-checksum",
    "too-many",
    "no-room",
    "of-refused-datagram",
)
"""Counters, one of each per family, of fragments; from `too-small` on: refused, and why.

Those `accepted` are held until they are `completed` (they went on as part of a whole packet), `expired` (waited too
long), `purged` (made room for others), or `dropped` (went with a datagram that was refused).
"""
(
    N_ACCEPTED,
    N_COMPLETED,
    N_EXPIRED,
    N_PURGED,
    N_DROPPED,
    N_TOO_SMALL,
    N_OVERLAPPING,
    N_DUPLICATE,
    N_INCONSISTENT,
    N_MISALIGNED,
    N_TOO_LONG,
    N_EMPTY,
    N_MALFORMED,
    N_WRONG_CHECKSUM,
    N_TOO_MANY,
    N_NO_ROOM,
    N_OF_REFUSED,
) = range(len(COUNTERS))

STATE = np.dtype(
    [
        ("key", np.int64, 4),  # of the hash
        # settings; two: IPv4, IPv6
        ("on", np.int64, 2),
        ("min_size", np.int64, 2),
        ("timeout_ms", np.int64, 2),
        ("max_frame", np.int64),
        ("max_fragments", np.int64),
        ("max_zone_fragments", np.int64),
        ("max_zone_blocks", np.int64),
        # use
        ("n_datagrams", np.int64),
        ("n_fragments", np.int64),
        ("n_blocks", np.int64),
        ("largest_zone", np.int64),  # that took the most blocks when it last grew
        # free lists: first free row + 1, and rows ever used
        ("free_datagram", np.int64),
        ("fresh_datagram", np.int64),
        ("free_fragment", np.int64),
        ("fresh_fragment", np.int64),
        ("free_block", np.int64),
        ("fresh_block", np.int64),
    ]
)


class FragmentArrays(NamedTuple):
    """All memory of a fragment store, as kernels get it.

    `datagrams`: DATAGRAM (n,). `fragments`: FRAGMENT (n,). `buckets`: int32 (power of two,), datagram + 1 or 0.
    `bits`: uint32 (n, BIT_WORDS), the units of each datagram that are there. `zones`: CROWD (N_ZONES,). `families`:
    CROWD (2,). `blocks`: uint8 (m * BLOCK_SIZE,), `next_block`: int32 (m,), block + 1 or 0. `counters`: int64 (2,
    len(COUNTERS)). `state`: STATE (1,). `scratch`: uint8 (n,), room for one frame with changed headers.
    """

    datagrams: np.ndarray
    fragments: np.ndarray
    buckets: np.ndarray
    bits: np.ndarray
    zones: np.ndarray
    families: np.ndarray
    blocks: np.ndarray
    next_block: np.ndarray
    counters: np.ndarray
    state: np.ndarray
    scratch: np.ndarray


SCRATCH_SIZE = 1 << 17
"""More than any IP packet with its link-layer header."""


def make_fragments(
    n_fragments: int = MAX_FRAGMENTS, n_blocks: int = N_BLOCKS, seed: int | None = None
) -> FragmentArrays:
    """An empty store, with a random hash key, or one made from `seed`. Memory is committed as it is used.

    `n_fragments`: also the number of datagrams. Raises MemoryError when the address space cannot be reserved.
    """
    state = np.zeros(1, STATE)
    state["key"][0] = hash_key(seed)
    return FragmentArrays(
        reserve(DATAGRAM, n_fragments),
        reserve(FRAGMENT, n_fragments),
        reserve(np.int32, 1 << (n_fragments - 1).bit_length()),
        reserve(np.uint32, n_fragments, BIT_WORDS),
        reserve(CROWD, N_ZONES),
        np.zeros(2, CROWD),
        reserve(np.uint8, n_blocks * BLOCK_SIZE),
        reserve(np.int32, n_blocks),
        np.zeros((2, len(COUNTERS)), np.int64),
        state,
        reserve(np.uint8, SCRATCH_SIZE),
    )


@dataclass(frozen=True, slots=True)
class FragmentSettings:
    """What a fragment store accepts, and how long it keeps it."""

    ipv4: bool = True
    """Whether fragments of IPv4 are put together; if not, they are invalid to the tracker."""
    ipv6: bool = True
    min_size_ipv4: int = 1200
    """Least L3 size in bytes of a fragment that is not the last; smaller ones are refused."""
    min_size_ipv6: int = 1280
    max_fragments: int = 1000
    """Fragments held at a time."""
    max_zone_fragments: int | None = None
    """Of those, the most for one zone; None: no limit of its own."""
    max_zone_size: int | None = None
    """Most bytes of memory for the fragments of one zone; None: no limit of its own."""
    timeout_ipv4_ms: int = 30_000
    """How long a datagram may take, from the first fragment that comes."""
    timeout_ipv6_ms: int = 60_000
    max_frame: int | None = 65_535
    """Longest frame that fragments may make, headers of the link and of IPv6 fragments included; None: no limit.

    What is longer is refused when it is complete.
    """

    def check(self) -> None:
        """Raise UsageError for a value out of range."""
        bounds = {
            "min_size_ipv4": (0, MAX_IP_SIZE),
            "min_size_ipv6": (0, MAX_IP_SIZE),
            "max_fragments": (0, MAX_FRAGMENTS),
            "max_zone_fragments": (0, MAX_FRAGMENTS),
            "max_zone_size": (0, N_BLOCKS * BLOCK_SIZE),
            "timeout_ipv4_ms": (1, 1 << 31),
            "timeout_ipv6_ms": (1, 1 << 31),
            "max_frame": (0, SCRATCH_SIZE),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"{name} {value} is out of range", hint=f"{least} to {most}")


PROFILES = {
    "default": FragmentSettings(),
    "linux": FragmentSettings(min_size_ipv4=0, min_size_ipv6=0, max_fragments=4096, max_frame=None),
}
"""Settings by profile: those of Open vSwitch's userspace, and about what Linux's 4 MiB per family amount to."""

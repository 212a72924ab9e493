"""Immutable snapshots of expectations, for everyone outside the tracker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.connection import Address, Tuple
from flowshunt.conntrack.snapshot import address_of, tuples
from flowshunt.conntrack.states import HELPER_NAMES

_MASK64 = (1 << 64) - 1
_KIND_IPV6 = 0x80


@dataclass(frozen=True, slots=True)
class Expectation:
    """A connection that another one announced and that has not come yet."""

    protocol: int
    zone: int
    source: Address | None
    """Who will open it, from any port; None: anybody."""
    destination: Address
    destination_port: int
    timeout_ms: int
    """Milliseconds left at the moment of the snapshot."""
    helper: str | None
    """Name of the helper that expects it."""
    parent: int
    """`id` of the connection that announced it."""
    parent_tuple: Tuple
    """Original tuple of that connection."""


def expectations(arrays: C.ConntrackArrays, now_ms: int) -> Iterator[Expectation]:
    """Snapshots of the expectations that have not expired at `now_ms`, the oldest first."""
    records, place = arrays.expectations, int(arrays.state["oldest_expected"][0])
    while place:
        record = records[place - 1]
        place = int(record["newer"])
        if int(record["expires_ms"]) <= now_ms:
            continue
        word, row = int(record["tuple"]), int(record["parent_row"])
        parent = arrays.conns[row]
        is_ipv6 = bool(word & _KIND_IPV6)
        anybody = bool(int(record["flags"]) & C.EXPECT_ANY_SOURCE)
        original, _ = tuples(parent["source"], parent["destination"], int(parent["tuple"]) & _MASK64)
        yield Expectation(
            protocol=(word >> 8) & 0xFF,
            zone=(word >> 16) & 0xFFFF,
            source=None if anybody else address_of(record["source"], is_ipv6),
            destination=address_of(record["destination"], is_ipv6),
            destination_port=(word >> 32) & 0xFFFF,
            timeout_ms=int(record["expires_ms"]) - now_ms,
            helper=HELPER_NAMES[int(arrays.exts["helper"][int(parent["ext"]) - 1])] or None,
            parent=row,
            parent_tuple=original,
        )

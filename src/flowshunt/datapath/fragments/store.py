"""The facade of the fragment store: what Python uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.connection import Address
from flowshunt.conntrack.snapshot import address_of
from flowshunt.datapath.fragments import schema as G
from flowshunt.datapath.fragments.rows import destroy, expire_due, zone_of
from flowshunt.datapath.fragments.schema import BLOCK_SIZE, BY_FAMILY, PROFILES, FragmentSettings, make_fragments
from flowshunt.jit import by_reference, kernel

_NO_LIMIT = 1 << 62


def _example() -> tuple[Any, ...]:
    return make_fragments(1, 1, seed=0), 0


@kernel(example=_example)
def expire(f: Any, now_ms: Any) -> Any:
    """Destroy the datagrams whose time is over; returns how many fragments went."""
    return expire_due(by_reference(f), now_ms)


@kernel(example=_example)
def flush(f: Any, zone: Any) -> Any:
    """Destroy the datagrams of a zone (-1: all) as purged; returns how many fragments went."""
    f = by_reference(f)
    before = f.state["n_fragments"][0]
    for family in range(2):
        row = np.int64(f.families["oldest"][family]) - 1
        while row >= 0:
            newer = np.int64(f.datagrams["newer"][row, BY_FAMILY]) - 1
            if zone < 0 or zone_of(f, row) == zone:
                destroy(f, row, G.N_PURGED)
            row = newer
    return before - f.state["n_fragments"][0]


class Datagram(NamedTuple):
    """A datagram that is not complete. `family` is 4 or 6; `protocol` is 0 for IPv6, where a fragment need not say."""

    source: Address
    destination: Address
    family: int
    zone: int
    protocol: int
    identification: int
    n_fragments: int
    has_first: bool
    has_last: bool


class Fragments:
    """The fragments that wait for the rest of their datagrams, all zones together.

    One thread uses it, the one that sends packets through the datapath that it belongs to.
    """

    def __init__(
        self,
        settings: FragmentSettings = PROFILES["default"],
        *,
        n_fragments: int = G.MAX_FRAGMENTS,
        size: int = G.N_BLOCKS * BLOCK_SIZE,
        seed: int | None = None,
    ) -> None:
        """Make an empty store. `n_fragments` and `size` (bytes) bound its memory whatever the settings say.

        Memory is used as fragments come. Raises UsageError for values out of range.
        """
        if not 1 <= n_fragments <= G.MAX_FRAGMENTS:
            raise UsageError(f"room for {n_fragments} fragments is out of range", hint=f"1 to {G.MAX_FRAGMENTS}")
        if size < BLOCK_SIZE:
            raise UsageError(f"{size} bytes for fragments are too few", hint=f"at least {BLOCK_SIZE}")
        try:
            self.arrays = make_fragments(n_fragments, size // BLOCK_SIZE, seed)
        except MemoryError as error:
            raise UsageError(f"fragments: {error}") from error
        self._settings = settings
        self.configure(settings)

    def __len__(self) -> int:
        """Fragments that are held."""
        return int(self.arrays.state["n_fragments"][0])

    @property
    def n_datagrams(self) -> int:
        """Datagrams that are remembered, those too of which nothing is accepted any more."""
        return int(self.arrays.state["n_datagrams"][0])

    @property
    def settings(self) -> FragmentSettings:
        """What `configure` was given last."""
        return self._settings

    def configure(self, settings: FragmentSettings) -> None:
        """Change the settings; what is held stays until the next fragment comes, or its new time is over.

        Raises UsageError for values out of range; nothing is changed then.
        """
        settings.check()
        self._settings = settings
        state = self.arrays.state
        state["on"][0] = settings.ipv4, settings.ipv6
        state["min_size"][0] = settings.min_size_ipv4, settings.min_size_ipv6
        state["timeout_ms"][0] = settings.timeout_ipv4_ms, settings.timeout_ipv6_ms
        state["max_frame"] = _NO_LIMIT if settings.max_frame is None else settings.max_frame
        state["max_fragments"] = settings.max_fragments
        per_zone = settings.max_zone_fragments
        state["max_zone_fragments"] = _NO_LIMIT if per_zone is None else per_zone
        size = settings.max_zone_size
        state["max_zone_blocks"] = _NO_LIMIT if size is None else size // BLOCK_SIZE

    def expire(self, now_ms: int) -> int:
        """Give back the fragments whose datagram has not become complete in time. Returns how many."""
        if self.arrays.state["n_datagrams"][0] == 0:
            return 0
        return int(expire(self.arrays, now_ms))

    def flush(self, zone: int | None = None) -> int:
        """Give back all fragments, or those of a zone; they count as purged. Returns how many."""
        return int(flush(self.arrays, -1 if zone is None else zone))

    def oldest_packet(self) -> int | None:
        """A number of a packet, counted from 0, before which no fragment is held; None when none is held at all."""
        found = []
        for family in range(2):
            row = int(self.arrays.families["oldest"][family]) - 1
            while row >= 0 and self.arrays.datagrams["refused"][row]:
                row = int(self.arrays.datagrams["newer"][row, BY_FAMILY]) - 1
            if row >= 0:
                found.append(int(self.arrays.datagrams["packet"][row]))
        return min(found, default=None)

    def datagrams(self) -> Iterator[Datagram]:
        """The datagrams of which fragments are held, by family, oldest first; those that were refused are left out."""
        for family in range(2):
            row = int(self.arrays.families["oldest"][family]) - 1
            while row >= 0:
                record = self.arrays.datagrams[row]
                row = int(record["newer"][BY_FAMILY]) - 1
                if record["refused"]:
                    continue
                key = int(record["key"])
                yield Datagram(
                    source=address_of(record["source"], family == 1),
                    destination=address_of(record["destination"], family == 1),
                    family=6 if family else 4,
                    zone=(key >> 48) & 0xFFFF,
                    protocol=0 if family else (key >> 32) & 0xFF,
                    identification=key & 0xFFFFFFFF,
                    n_fragments=int(record["n_fragments"]),
                    has_first=bool(record["first"]),
                    has_last=bool(record["total"]),
                )

    def too_long(self) -> tuple[int, int]:
        """Fragments that were refused because their datagram would have been too long: IPv4 and IPv6."""
        return int(self.arrays.counters[0, G.N_TOO_LONG]), int(self.arrays.counters[1, G.N_TOO_LONG])

    def statistics(self) -> dict[str, int]:
        """Fragments by family and what became of them, `held` among them: `ipv4.accepted`, `ipv6.too-small`, …"""
        counters = {}
        for family, name in enumerate(G.FAMILIES):
            counters[f"{name}.held"] = int(self.arrays.families["n_fragments"][family])
            for counter, value in zip(G.COUNTERS, self.arrays.counters[family].tolist(), strict=True):
                counters[f"{name}.{counter}"] = value
        return counters

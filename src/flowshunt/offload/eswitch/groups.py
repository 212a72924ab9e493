"""The tables of a NIC's switch: flow groups, each for one traffic pattern.

After the mlx5 driver of Linux (`mlx5_create_auto_grouped_flow_table`): a table of E entries with N big groups gives
each E/(N+1) entries; a group belongs to what its entries match on (here: a pattern) from its first entry until its
last one is gone; a pattern whose groups are full takes a further one. What remains of the table beside the big groups
is not modelled: entries that find no group are refused.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP, VLAN_PRESENT

FITS, NO_GROUP, NO_ROOM, TOO_MANY = range(4)
"""Whether a connection gets in: no group is left for a pattern of it; those of its patterns are full; the maximum."""

PATTERNS = tuple(" ".join(words).strip() for words in product(("untagged", "VLAN"), ("IPv4", "IPv6"), ("TCP", "UDP")))
"""What entries match on: presence of a VLAN tag, address family, protocol. Addresses, ports and zone are values."""

_UDP, _IPV6, _VLAN = 1, 2, 4
_KIND_IPV6 = 0x80
_FREE = -1


def patterns_of(paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in PATTERNS, uint8 (n, 2), of PATH (n, 2), and whether both are TCP or both UDP, bool (n,)."""
    word = paths["tuple"]
    protocol = (word >> 8) & 0xFF
    patterns = np.where(protocol == PROTO_UDP, _UDP, 0)
    patterns |= np.where(word & _KIND_IPV6, _IPV6, 0)
    patterns |= np.where(paths["vlan_tci"] & VLAN_PRESENT, _VLAN, 0)
    forwarded = (protocol == PROTO_TCP).all(axis=1) | (protocol == PROTO_UDP).all(axis=1)
    return patterns.astype(np.uint8), forwarded


class Groups:
    """Who has how many entries of which group. `size`: of one group. `used`: int64 by group."""

    def __init__(self, size: int, n_groups: int) -> None:
        self.size = size
        self.used = np.zeros(n_groups, np.int64)
        self._pattern = np.full(n_groups, _FREE, np.int64)

    @property
    def n_used(self) -> int:
        """Groups with entries."""
        return int((self._pattern != _FREE).sum())

    @property
    def n_entries(self) -> int:
        """Entries of all groups."""
        return int(self.used.sum())

    def patterns(self, groups: np.ndarray) -> np.ndarray:
        """The patterns of groups, both of any shape."""
        found: np.ndarray = self._pattern[groups]
        return found

    def entries_by_pattern(self) -> np.ndarray:
        """Entries of each pattern, int64 (len(PATTERNS),)."""
        taken = self._pattern != _FREE
        return np.bincount(self._pattern[taken], self.used[taken], len(PATTERNS)).astype(np.int64)

    # --- who gets in -------------------------------------------------------------------------------------------------

    def fit(self, patterns: np.ndarray, most: int) -> np.ndarray:
        """FITS, or why not, uint8 (n,), for connections with these patterns, uint8 (n, 2), one after the other.

        The answer is that of asking for one at a time: both directions or neither, at most `most` altogether. Room
        never grows on the way, so what does not fit stands for all that need the same after it.
        """
        refusals = np.zeros(len(patterns), np.uint8)
        room, n_free = self._room()
        demand = np.zeros(len(PATTERNS), np.int64)
        rest = np.arange(len(patterns))
        while len(rest):
            wanted = patterns[rest]
            n_fitting = self._n_fitting(wanted, demand, room, n_free, most)
            demand += np.bincount(wanted[:n_fitting].ravel(), minlength=len(PATTERNS))
            most -= n_fitting
            rest = rest[n_fitting:]
            if len(rest):
                refused = patterns[rest[0]]
                alike = (patterns[rest] == refused).all(axis=1)
                refusals[rest[alike]] = self._why(refused, demand, room, n_free)
                rest = rest[~alike]
        return refusals

    def _room(self) -> tuple[np.ndarray, int]:
        """Entries left in the groups of each pattern, int64 (len(PATTERNS),), and how many groups are free."""
        taken = self._pattern != _FREE
        room = np.bincount(self._pattern[taken], self.size - self.used[taken], len(PATTERNS)).astype(np.int64)
        return room, int((~taken).sum())

    def _n_new(self, demand: np.ndarray, room: np.ndarray) -> np.ndarray:
        """Groups that a demand, int64 (..., len(PATTERNS)), needs besides those there are, for each pattern."""
        over: np.ndarray = np.maximum(demand - room, 0)
        return -(-over // self.size)

    def _n_fitting(self, patterns: np.ndarray, demand: np.ndarray, room: np.ndarray, n_free: int, most: int) -> int:
        """How many from the first on fit without a gap."""
        whole = demand + np.bincount(patterns.ravel(), minlength=len(PATTERNS))
        if len(patterns) <= most and self._n_new(whole, room).sum() <= n_free:
            return len(patterns)
        needed = np.zeros(len(patterns), np.int64)
        for pattern in np.unique(patterns):
            sofar = demand[pattern] + np.cumsum((patterns == pattern).sum(axis=1))
            needed += self._n_new(sofar, room[pattern])
        needed += int(self._n_new(np.where(whole == demand, demand, 0), room).sum())
        fitting = (needed <= n_free) & (np.arange(len(patterns)) < most)
        return len(patterns) if fitting.all() else int(np.argmin(fitting))

    def _why(self, refused: np.ndarray, demand: np.ndarray, room: np.ndarray, n_free: int) -> int:
        """Why connections with these two patterns do not fit after that demand."""
        left = n_free - int(self._n_new(demand, room).sum())
        homeless = {p for p in refused.tolist() if demand[p] == 0 and not (self._pattern == p).any()}
        if len(homeless) > left:
            return NO_GROUP
        more = demand + np.bincount(refused, minlength=len(PATTERNS))
        return NO_ROOM if self._n_new(more, room).sum() > n_free else TOO_MANY

    # --- entries -----------------------------------------------------------------------------------------------------

    def take(self, patterns: np.ndarray) -> np.ndarray:
        """Entries for these patterns, uint8 (n, 2), which fit; returns their groups, uint16 (n, 2)."""
        flat = patterns.ravel()
        groups = np.zeros(len(flat), np.uint16)
        for pattern in np.flatnonzero(np.bincount(flat)).tolist():
            self._take(pattern, np.flatnonzero(flat == pattern), groups)
        return groups.reshape(patterns.shape)

    def _take(self, pattern: int, places: np.ndarray, groups: np.ndarray) -> None:
        own = np.flatnonzero((self._pattern == pattern) & (self.used < self.size))
        free = np.flatnonzero(self._pattern == _FREE)
        done = 0
        for group in np.concatenate([own, free]):
            if done == len(places):
                return
            n = min(self.size - int(self.used[group]), len(places) - done)
            groups[places[done : done + n]] = group
            self.used[group] += n
            self._pattern[group] = pattern
            done += n
        if done < len(places):
            raise ValueError(f"{len(places) - done} entries of pattern {pattern} have no room")

    def give_back(self, groups: np.ndarray) -> None:
        """Entries are gone: their groups, of any shape. A group without entries is free again."""
        self.used -= np.bincount(groups.ravel(), minlength=len(self.used))
        self._pattern[self.used == 0] = _FREE

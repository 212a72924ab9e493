"""The groups of a switch: what group-mods make of them, and what they count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.groups import (
    BUCKET_ALL,
    BUCKET_FIRST,
    BUCKET_LAST,
    MAX_BUCKETS,
    GroupCounters,
    GroupMod,
)
from flowshunt.control.openflow.wire import GROUP_ALL
from flowshunt.datapath.linking import PoolFullError, Token
from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow.buckets import TYPES, Bucket, CompiledGroup, compile_group
from flowshunt.rules.openflow.tracing.story import Group

MAX_GROUPS = 1 << 16
SELECTION_METHODS = ("", "hash", "dp_hash")


class _Group(NamedTuple):
    entry: GroupMod
    compiled: CompiledGroup
    tokens: list[Token]
    created_ns: int
    before: list[tuple[int, int]]  # what group and buckets counted in programs before this one


class Places(NamedTuple):
    """Where the counters of groups are in the pool, one after the other: int64, 0 for what does not count.

    `version`: of the table that it was so in.
    """

    version: int
    groups: Sequence[_Group]
    places: np.ndarray


class GroupTable:
    """Groups by number. `is_port_live` says whether a bucket that watches a port can be used."""

    def __init__(self, datapath: Datapath, is_port_live: Callable[[int], bool]) -> None:
        self._datapath = datapath
        self._is_port_live = is_port_live
        self._groups: dict[int, _Group] = {}
        self._watching: dict[int, None] = {}  # groups whose buckets watch something
        self._version = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._groups)

    # --- changes ---------------------------------------------------------------------------------------------------

    def apply(self, mod: GroupMod, now_ns: int) -> list[int]:
        """Carry out a group-mod, but for the flows that lead to groups that go; returns the numbers of those.

        Raises OpenFlowError, and then nothing has changed.
        """
        if mod.command == "delete":
            gone = [number for number in self._groups if mod.group in (GROUP_ALL, number)]
            for number in gone:
                self._remove(number)
            if gone:
                self.refresh()
            return gone
        exists = mod.group in self._groups
        if mod.command == "add" and exists:
            raise OpenFlowError("OFPGMFC_GROUP_EXISTS", f"there is a group {mod.group}")
        if mod.command not in ("add", "add_or_modify") and not exists:
            raise OpenFlowError("OFPGMFC_UNKNOWN_GROUP", f"there is no group {mod.group}")
        if not exists and len(self._groups) >= MAX_GROUPS:
            raise OpenFlowError("OFPGMFC_OUT_OF_GROUPS", f"more than {MAX_GROUPS} groups")
        created_ns = self._groups[mod.group].created_ns if exists else now_ns
        self._put(_checked(self._entry(mod)), created_ns)
        self.refresh()
        return []

    def _entry(self, mod: GroupMod) -> GroupMod:
        """What a group is after a change, as what would add it."""
        if mod.command in ("add", "modify", "add_or_modify"):
            return mod._replace(command="add")
        before = self._groups[mod.group].entry
        buckets = list(before.buckets)
        if mod.command == "insert_bucket":
            at = _insertion(buckets, mod.bucket_id)
            buckets[at:at] = mod.buckets
        else:
            buckets = _without(buckets, mod.bucket_id)
        return before._replace(buckets=tuple(buckets))

    def _put(self, entry: GroupMod, created_ns: int, counted: list[tuple[int, int]] | None = None) -> None:
        name, basis = entry.selection
        fields = entry.fields.masks if name == "hash" else ()
        rules = self._datapath.rules
        compiled = compile_group(entry.type, entry.buckets, self._is_live, basis, fields)
        words, tokens = rules.linker.link(compiled.program, compiled.late, awaits_groups=True)
        try:
            rules.linker.groups.put(entry.group, words)
        except PoolFullError:
            rules.linker.unlink(tokens)
            raise
        before = self._groups.get(entry.group)
        if before is not None:
            rules.linker.unlink(before.tokens)
        self._groups[entry.group] = _Group(
            entry, compiled, tokens, created_ns, counted or [(0, 0)] * (len(entry.buckets) + 1)
        )
        if any(bucket.is_watched() for bucket in entry.buckets):
            self._watching[entry.group] = None
        else:
            self._watching.pop(entry.group, None)
        rules.version += 1
        self._version += 1

    def _remove(self, number: int) -> None:
        rules = self._datapath.rules
        group = self._groups.pop(number)
        self._watching.pop(number, None)
        rules.linker.groups.remove(number)
        rules.linker.unlink(group.tokens)
        rules.version += 1
        self._version += 1

    def snapshot(self) -> dict[int, _Group]:
        """What `restore` takes."""
        return dict(self._groups)

    def restore(self, before: dict[int, _Group]) -> None:
        """Make the groups again what they were; those that were changed in between count from zero."""
        for number in [number for number in self._groups if number not in before]:
            self._remove(number)
        changed = [group for number, group in before.items() if self._groups.get(number) is not group]
        # Groups may lead to each other: first all are there, then all are what they were.
        for group in changed:
            self._put(group.entry._replace(buckets=()), group.created_ns)
        for group in changed:
            self._put(group.entry, group.created_ns)

    # --- liveness --------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look again at what buckets watch: call it when a port came, went, or changed its state. Counters stay."""
        for group in [self._groups[number] for number in self._watching]:
            self._put(group.entry, group.created_ns, self._counts(group))

    def _is_live(self, bucket: Bucket) -> bool:
        """Whether a bucket, or one of a group that it watches, and so on, watches nothing or a port that is live.

        Groups may watch each other in any way: each is looked at once.
        """
        waiting, seen = [bucket], set[int]()
        while waiting:
            one = waiting.pop()
            if not one.is_watched() or (one.watch_port is not None and self._is_port_live(one.watch_port)):
                return True
            if one.watch_group in self._groups and one.watch_group not in seen:
                seen.add(one.watch_group)
                waiting += self._groups[one.watch_group].entry.buckets
        return False

    # --- listing ---------------------------------------------------------------------------------------------------

    def places(self, number: int | None) -> Places:
        """Where the counters of the group of a number, or of all (None), are: see `counters`."""
        version, groups = self._version, self._selected(number)
        cells = self._datapath.rules.linker.groups
        places = []
        for group in groups:
            at = cells.place(group.entry.group)
            places += [at + offset if offset else 0 for offset in (group.compiled.counted, *group.compiled.places)]
        return Places(version, groups, np.array(places, np.int64))

    def _counts(self, group: _Group) -> list[tuple[int, int]]:
        """Packets and bytes of the group, then of each bucket."""
        words = self._datapath.rules.linker.groups.words(group.entry.group)
        found = []
        for at, (packets, size) in zip((group.compiled.counted, *group.compiled.places), group.before, strict=True):
            found.append((packets + int(words[at]), size + int(words[at + 1])) if at else (packets, size))
        return found

    def entries(self, number: int | None) -> Iterator[GroupMod]:
        """The group of a number, or all (None), in order of number, as they are now; put in order while it is read."""
        found = list(self._groups.values()) if number is None else self._selected(number)
        return _entries(found)

    def story_of(self, number: int) -> Group | None:
        """A group as traces tell of it."""
        group = self._groups.get(number)
        if group is None:
            return None
        return Group(number, group.entry.type, group.entry.buckets, group.compiled.places)

    def counters(self, number: int | None, now_ns: int, known: Places | None = None) -> Iterator[GroupCounters]:
        """What the group of a number, or all (None), counted until now; made while it is read, in any thread.

        `known`: its `places`, which may have been looked up in another thread, and count if nothing has changed since.
        """
        found = known if known is not None and known.version == self._version else self.places(number)
        pool, references = self._datapath.rules.arrays.pool, self._datapath.rules.linker.groups.references
        has_place = found.places != 0
        counted = np.where(has_place, pool[found.places], 0), np.where(has_place, pool[found.places + 1], 0)
        used = [references.get(group.entry.group, 0) for group in found.groups]
        return _counters(found.groups, used, *counted, now_ns)

    def _selected(self, number: int | None) -> list[_Group]:
        if number is not None:
            return [self._groups[number]] if number in self._groups else []
        return sorted(self._groups.values(), key=_number)


def _number(group: _Group) -> int:
    return group.entry.group


def _entries(groups: Sequence[_Group]) -> Iterator[GroupMod]:
    for group in sorted(groups, key=_number):
        yield group.entry


def _counters(
    groups: Sequence[_Group], references: Sequence[int], packets: np.ndarray, sizes: np.ndarray, now_ns: int
) -> Iterator[GroupCounters]:
    end = 0
    for group, n_references in zip(groups, references, strict=True):
        first, end = end, end + len(group.before)
        counted = zip(packets[first:end].tolist(), sizes[first:end].tolist(), group.before, strict=True)
        (n, size), *rows = [(before[0] + n, before[1] + size) for n, size, before in counted]
        age_ns = max(now_ns - group.created_ns, 0)
        yield GroupCounters(group.entry.group, n_references, n, size, age_ns, rows)


def _insertion(buckets: Sequence[Bucket], wanted: int) -> int:
    """Where new buckets go: in front, at the end, or behind the bucket of an id."""
    if wanted == BUCKET_FIRST:
        return 0
    if wanted == BUCKET_LAST:
        return len(buckets)
    for place, bucket in enumerate(buckets):
        if bucket.id == wanted:
            return place + 1
    raise OpenFlowError("OFPGMFC_UNKNOWN_BUCKET", f"there is no bucket {wanted}")


def _without(buckets: list[Bucket], wanted: int) -> list[Bucket]:
    if wanted == BUCKET_ALL:
        return []
    if wanted == BUCKET_FIRST:
        return buckets[1:]
    if wanted == BUCKET_LAST:
        return buckets[:-1]
    left = [bucket for bucket in buckets if bucket.id != wanted]
    if len(left) == len(buckets):
        raise OpenFlowError("OFPGMFC_UNKNOWN_BUCKET", f"there is no bucket {wanted}")
    return left


def _checked(entry: GroupMod) -> GroupMod:
    if len(entry.buckets) > MAX_BUCKETS:
        raise OpenFlowError("OFPGMFC_OUT_OF_BUCKETS", f"{len(entry.buckets)} buckets")
    if len({bucket.id for bucket in entry.buckets}) < len(entry.buckets):
        raise OpenFlowError("OFPGMFC_BUCKET_EXISTS", "two buckets have the same id")
    if entry.type not in TYPES or (entry.type == "indirect" and len(entry.buckets) != 1):
        raise OpenFlowError("OFPGMFC_INVALID_GROUP", "an indirect group has one bucket")
    if entry.type == "fast_failover" and not all(bucket.is_watched() for bucket in entry.buckets):
        raise OpenFlowError("OFPGMFC_INVALID_GROUP", "each bucket of a failover watches a port or a group")
    if entry.selection[0] not in SELECTION_METHODS or (entry.selection[0] and entry.type != "select"):
        raise OpenFlowError("OFPBPC_BAD_VALUE", f"unknown selection method {entry.selection[0]!r}")
    return entry

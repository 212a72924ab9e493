"""Connections kept over a restart: written while a switch runs and at its end, put back when it begins.

The file has a line of JSON for what it is, one for each connection as listings have it, and one for its end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flowshunt.base.clock import Moment, this_moment
from flowshunt.base.errors import InputError
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.holding import Holding
from flowshunt.conntrack.listing.json import document
from flowshunt.conntrack.listing.read_json import EntryError, connection_of
from flowshunt.conntrack.restore import IS_THERE, Entry
from flowshunt.conntrack.table import Tracker

FORMAT, VERSION = "flowshunt-connections", 1
MAX_LINE = 1 << 16


class Snapshot(NamedTuple):
    """What a file says: connections, numbered by their lines, with the time that they have left by now.

    `n_expired`: those that have expired since it was written, and are not among them.
    """

    entries: list[Entry]
    age_ms: int
    n_expired: int


class SnapshotError(InputError):
    """A file that is no snapshot of this tracker's connections, or not all of one."""


def documents(tracker: Tracker, now_ms: int) -> Iterator[dict[str, Any]]:
    """All connections; those that are offloaded with as much time left as if they had just been used."""
    holding = Holding(tracker)
    for connection in tracker.connections(now_ms):
        found = document(connection)
        if connection.offload is not None:
            identity = np.array([connection.id]), np.array([connection.generation])
            found |= {"offload": None, "timeout_ms": int(holding.idle_limits(*identity)[0])}
            found["status"] = [name for name in found["status"] if name not in ("OFFLOAD", "HW_OFFLOAD")]
        yield found


def write(path: Path, profile: str, found: list[dict[str, Any]], now: Moment) -> None:
    """Replace the file by one of these connections, as they stood at `now`. Raises OSError; then it is as it was."""
    beginning = {"format": FORMAT, "version": VERSION, "profile": profile} | now.document()
    fresh = path.with_name(f".{path.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        for line in (beginning, *found, {"end": len(found)}):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read(path: Path, profile: str, clock: Callable[[], Moment] = this_moment) -> Snapshot:
    """The connections of a file, aged by what has passed since it was written, see `Moment.age_ms`.

    `clock()` is asked when all was read, which may take seconds. Raises SnapshotError when the file cannot be trusted,
    OSError.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        beginning = _value(file.readline(MAX_LINE), path)
        said = {name: beginning.get(name) for name in ("format", "version", "profile")}
        if said != {"format": FORMAT, "version": VERSION, "profile": profile}:
            raise SnapshotError(f"{path}: {said} is not {FORMAT} of version {VERSION} and profile {profile}")
        try:
            written = Moment.of(beginning)
        except ValueError as problem:
            raise SnapshotError(f"{path}: {problem}") from None
        found: list[Connection | EntryError] = []
        while "end" not in (value := _value(file.readline(MAX_LINE), path)):
            found.append(_entry(value, profile))
    if value["end"] != len(found):
        raise SnapshotError(f"{path}: {len(found)} connections, but {value['end']} were written")
    age_ms = written.age_ms(clock())
    aged = ((number, _aged(one, age_ms)) for number, one in enumerate(found, 2))
    entries = [(number, one) for number, one in aged if one is not None]
    return Snapshot(entries, age_ms, len(found) - len(entries))


def _aged(found: Connection | EntryError, age_ms: int) -> Connection | EntryError | None:
    """A connection after some time without a packet; None: it has expired."""
    if isinstance(found, EntryError):
        return found
    left_ms = found.timeout_ms - age_ms
    return replace(found, timeout_ms=left_ms) if left_ms > 0 else None


def _value(line: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise SnapshotError(f"{path}: {line[:40]!r} is no line of a snapshot; it is damaged or cut off")
    return value


def _entry(value: dict[str, Any], profile: str) -> Connection | EntryError:
    try:
        return connection_of(value, profile)
    except EntryError as problem:
        return problem


def put_back(tracker: Tracker, entries: list[Entry], now_ms: int) -> list[str]:
    """Put connections into a tracker, but for those that are there; returns why others were refused."""
    outcomes = tracker.restore(entries, now_ms)
    return [
        f"line {one.number}: {one.field or 'entry'}: {one.what}" for one in outcomes if one.what not in (None, IS_THERE)
    ]


def look_anew(tracker: Tracker) -> None:
    """What passed meanwhile was not seen, so the next segment of each connection sets its windows anew.

    Its next reply packet counts as the first one, so that it is offloaded again.
    """
    holding = Holding(tracker)
    everyone = holding.everyone()
    holding.hold(*everyone)
    holding.release(*everyone, is_settled=True)
    holding.watch_all_replies()

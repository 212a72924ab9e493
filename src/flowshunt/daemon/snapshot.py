"""Connections kept over a restart: written while a switch runs and at its end, put back when it begins.

The file has a line of JSON for what it is, one for each connection as listings have it, and one for its end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flowshunt.base.errors import InputError
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.holding import Holding
from flowshunt.conntrack.listing.json import document
from flowshunt.conntrack.listing.read_json import EntryError, connection_of
from flowshunt.conntrack.restore import Entry
from flowshunt.conntrack.table import Tracker

FORMAT, VERSION = "flowshunt-connections", 1
MAX_LINE = 1 << 16


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


def write(path: Path, profile: str, found: list[dict[str, Any]], now_ms: int) -> None:
    """Replace the file by one of these connections, as they stood at `now_ms`. Raises OSError; then it is as it was."""
    beginning = {"format": FORMAT, "version": VERSION, "profile": profile, "time_ms": now_ms}
    fresh = path.with_name(f".{path.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        for line in (beginning, *found, {"end": len(found)}):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read(path: Path, profile: str) -> list[Entry]:
    """The connections of a file, numbered by their lines. Raises SnapshotError when it cannot be trusted, OSError."""
    with path.open(encoding="utf-8", errors="replace") as file:
        beginning = _value(file.readline(MAX_LINE), path)
        said = {name: beginning.get(name) for name in ("format", "version", "profile")}
        if said != {"format": FORMAT, "version": VERSION, "profile": profile}:
            raise SnapshotError(f"{path}: {said} is not {FORMAT} of version {VERSION} and profile {profile}")
        entries: list[Entry] = []
        while True:
            value = _value(file.readline(MAX_LINE), path)
            if "end" in value:
                if value["end"] != len(entries):
                    raise SnapshotError(f"{path}: {len(entries)} connections, but {value['end']} were written")
                return entries
            entries.append((len(entries) + 2, _entry(value, profile)))


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
    """Put connections into an empty tracker; returns why some were refused.

    What passed meanwhile was not seen, so the next segment of each sets its windows anew. Its next reply packet counts
    as the first one, so that it is offloaded again.
    """
    outcomes = list(tracker.restore(entries, now_ms))
    there = [(connection.id, connection.generation) for connection in tracker.connections(now_ms)]
    rows, generations = np.array(there, np.int64).reshape(-1, 2).T
    holding = Holding(tracker)
    holding.hold(rows, generations)
    holding.release(rows, generations)
    holding.watch_all_replies()
    return [f"line {one.number}: {one.field or 'entry'}: {one.what}" for one in outcomes if one.what is not None]

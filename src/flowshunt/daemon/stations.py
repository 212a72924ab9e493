"""Stations kept over a restart: which addresses `normal` has learned, by the names of bridges and ports.

A flow that is taken over is looked at again, and would be flooded and taken back if its addresses were not known then.
The file is one object of JSON.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flowshunt.base.clock import Moment, this_moment
from flowshunt.base.errors import InputError
from flowshunt.conntrack.listing.read_json import MAX_MS
from flowshunt.daemon.bridge import Bridge
from flowshunt.datapath.ports import Station

FORMAT, VERSION = "flowshunt-stations", 1
MAX_SIZE = 64 << 20

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Kept(NamedTuple):
    """A station; `port` by name, `age_ms`: how long it has been silent."""

    port: str
    vlan: int
    mac: str
    age_ms: int


def learned(bridges: Mapping[str, Bridge]) -> Callable[[int], dict[str, list[Kept]]]:
    """On the packet thread: what lists, in any thread, what bridges have learned, as it was at a time.

    What was heard after that counts as heard then.
    """
    copied = {
        name: (
            {info.ofport: info.name for info in bridge.ports.values()},
            bridge.switch.datapath.ports.listing_stations(),
        )
        for name, bridge in bridges.items()
    }
    return partial(_kept_of, copied)


def _kept_of(
    copied: Mapping[str, tuple[dict[int, str], Callable[[int], list[Station]]]], now_ms: int
) -> dict[str, list[Kept]]:
    return {
        bridge: [
            Kept(names[one.port], one.vlan, one.mac, max(one.age_ms, 0))
            for one in stations(now_ms)
            if one.port in names and not one.is_static
        ]
        for bridge, (names, stations) in copied.items()
    }


def write(path: Path, found: Mapping[str, list[Kept]], now: Moment) -> None:
    """Replace the file by one of these stations, as they were at `now`. Raises OSError; then it is as it was."""
    content = {"format": FORMAT, "version": VERSION, "bridges": found} | now.document()
    fresh = path.with_name(f".{path.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file, separators=(",", ":"))
    fresh.replace(path)


def read(path: Path, clock: Callable[[], Moment] = this_moment) -> dict[str, list[Kept]]:
    """The stations of a file, as silent as they are by now. Raises InputError when it is damaged, OSError."""
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(MAX_SIZE)
    try:
        content = json.loads(text)
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(f"{content['format']} {content['version']} is not {FORMAT} {VERSION}")
        age_ms = Moment.of(content).age_ms(clock())
        return {name: [_kept(one, age_ms) for one in stations] for name, stations in content["bridges"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise InputError(f"{path}: {problem}") from None


def _kept(said: Any, age_ms: int) -> Kept:
    port, vlan, mac, was_ms = said
    numbers = type(vlan) is int and 0 <= vlan < 4096 and type(was_ms) is int and 0 <= was_ms < MAX_MS
    if not (numbers and type(port) is str and type(mac) is str and _MAC.fullmatch(mac)):
        raise ValueError(f"{said!r} is no station")
    return Kept(port, vlan, mac, was_ms + age_ms)


def put_back(bridges: Mapping[str, Bridge], said: Mapping[str, list[Kept]], now_ms: int) -> int:
    """Have bridges know stations again whose ports are there, but for those that they know; how many."""
    total = 0
    for name in bridges.keys() & said.keys():
        ports = {info.name: info.ofport for info in bridges[name].ports.values()}
        stations = [Station(ports[one.port], one.vlan, one.mac, one.age_ms) for one in said[name] if one.port in ports]
        total += bridges[name].switch.datapath.ports.restore_stations(stations, now_ms)
    return total

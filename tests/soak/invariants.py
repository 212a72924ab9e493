"""What must hold however long the soak runs, and what at its end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from flowshunt import Switch
from flowshunt.datapath.schema import FATES
from flowshunt.packet.schema import VERDICTS
from tests.oracle.frames import dissect, l4_checksum_is_right, ones_complement
from tests.soak.traffic import IN_PORTS, Group, Population, get

AGES_MS = 6 * 86_400_000
"""Longer than the longest timeout."""


PASSES = ("found", "new", "related", "again", "full", "zone-limit", "headroom")
"""Counters that, with the invalid-* ones, count every pass of a packet through the tracker once."""


class BrokenError(AssertionError):
    """An invariant does not hold."""


def check(holds: bool, what: str) -> None:
    """Raise BrokenError unless it holds."""
    if not holds:
        raise BrokenError(what)


def counters(switch: Switch, n_packets: int) -> None:
    """Every packet has a fate and a verdict; what was inserted was removed, or lives."""
    seen, tracked = switch.statistics(), switch.tracker.statistics()
    check(seen["packets"] == n_packets, f"{seen['packets']} packets counted, {n_packets} sent")
    fates = sum(seen[fate] for fate in FATES)
    check(fates == n_packets, f"{fates} fates of {n_packets} packets")
    verdicts = sum(seen[f"verdict.{name}"] for name in VERDICTS)
    check(verdicts == n_packets, f"{verdicts} verdicts on {n_packets} packets")
    removed = sum(value for name, value in tracked.items() if name.startswith("removed-"))
    passes = sum(value for name, value in tracked.items() if name in PASSES or name.startswith("invalid-"))
    check(passes == seen["tracked"], f"{seen['tracked']} packets tracked, {passes} judged")
    alive = tracked["inserted"] - removed
    check(
        alive == len(switch.tracker), f"{tracked['inserted']} inserted, {removed} removed, {len(switch.tracker)} there"
    )


def tuples(switch: Switch) -> int:
    """No two live connections share a tuple, in either direction; returns how many connections there are."""
    taken: dict[Any, int] = {}
    n = 0
    for connection in switch.tracker.connections():
        n += 1
        for one in (connection.original, connection.reply):
            name = (connection.zone, connection.protocol, one)
            other = taken.setdefault(name, connection.id)
            check(other == connection.id, f"{name} is a tuple of two connections")
    return n


def frames(left: Iterable[Group], rng: np.random.Generator, n: int = 4) -> None:
    """Some of the frames that left have right checksums."""
    for group in left:
        for row in rng.choice(group.rows, min(n, len(group.rows)), replace=False):
            frame = row[: group.size].tobytes()
            datagram = dissect(frame)
            right = datagram is not None and l4_checksum_is_right(datagram)
            if datagram is not None and datagram.family == 4:
                right = right and ones_complement(datagram.header) == 0
            check(right, f"a frame left with a wrong checksum: {frame.hex()}")


def back_translated(population: Population, left: Iterable[Group], port: int) -> None:
    """What comes back to a client is for its address and one of its ports, from the server that it asked."""
    network = port
    for group in left:
        if group.family == 4:
            target, server = get(group.rows, 30, ">u4"), get(group.rows, 26, ">u4")
            who = target & 0xFFFF
            right = (target >> 16 == 0x0A00 | network) & (server >> 16 == 0x0A08)
        else:
            who = get(group.rows, 50, ">u4")
            right = (get(group.rows, 38, ">u4") == 0xFD000000 | network) & (get(group.rows, 22, ">u4") == 0xFD000008)
        place = group.l4 + (4 if group.protocol in (1, 58) else 2)
        ports = get(group.rows, place, ">u2")
        right &= (ports >= 1024) & (ports < 4024)
        right &= (who < population.size) & (np.array(IN_PORTS)[population.kind[who % population.size]] == port)
        wrong = np.flatnonzero(~right)
        check(
            not len(wrong),
            f"port {port}: {len(wrong)} packets came back wrong: {group.rows[wrong[:1]].tobytes().hex()}",
        )


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def at_the_end(switch: Switch) -> None:
    """When time has passed, nothing is left."""
    switch.tracker.sweep(switch.tracker.now_ms + AGES_MS)
    check(len(switch.tracker) == 0, f"{len(switch.tracker)} connections outlived everything")
    state = switch.tracker.arrays.state
    extensions = int(state["n_ext_fresh"][0] - state["n_ext_free"][0])
    check(extensions == 0, f"{extensions} extension records outlived their connections")
    expectations = len(list(switch.tracker.expectations()))
    check(expectations == 0, f"{expectations} expectations outlived everything")
    switch.fragments.expire(switch.tracker.now_ms)
    held = {name: n for name, n in switch.fragments.statistics().items() if name.endswith("held") and n}
    check(not held, f"fragments outlived everything: {held}")
    gauges = [usage.used for usage in switch.tracker.nat_usage().values() if usage.used]
    check(not gauges, f"translated addresses count connections that are gone: {gauges}")

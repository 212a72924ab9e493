"""A restart during which offloaded connections go on: what is written down before, and put back after."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic

from flowshunt.base.errors import InputError
from flowshunt.base.log import logger
from flowshunt.control.unixctl.commands.dpctl import in_slices
from flowshunt.daemon import snapshot
from flowshunt.daemon.node import Node

EVERY_S = 1.0
SHARE = 20
"""So many times as long as writing takes is waited before the next time."""

_LOG = logger(__name__)


def place_in(rundir: Path) -> Path:
    """Where connections are kept."""
    return rundir / "connections.jsonl"


async def take_over(node: Node) -> None:
    """Put connections of the process before back, and let packets in, past its programs, which end here.

    A file that cannot be trusted is refused with a warning, and traffic starts fresh.
    """
    path, profile = place_in(node.rundir), node.tracker.profile
    try:
        entries = await asyncio.to_thread(snapshot.read, path, profile)
        refused = await node.call(lambda: snapshot.put_back(node.tracker, entries, node.now_ms()))
        for line in refused[:10]:
            _LOG.warning("%s: %s", path, line)
        _LOG.info("%d connections are back, %d are not", len(entries) - len(refused), len(refused))
    except FileNotFoundError:
        pass
    except (InputError, OSError) as problem:
        _LOG.warning("connections begin anew: %s", problem)
    await node.call(partial(setattr, node, "is_holding", False))


async def write_connections(node: Node) -> None:
    """Write them down as they are now; what goes wrong is logged."""
    try:
        now_ms = node.now_ms()
        found = await in_slices(node, lambda: snapshot.documents(node.tracker, now_ms))
        await asyncio.to_thread(snapshot.write, place_in(node.rundir), node.tracker.profile, found, now_ms)
    except OSError as problem:
        _LOG.warning("connections cannot be written down: %s", problem)


async def keep_connections(node: Node, ending: asyncio.Event) -> None:
    """Write them down again and again, and a last time at the end. Not to be cancelled: two at once spoil the file."""
    while not ending.is_set():
        began = monotonic()
        await write_connections(node)
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), max(EVERY_S, SHARE * (monotonic() - began)))
    await write_connections(node)

"""A restart during which offloaded connections go on: what is written down before, and put back after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from flowshunt.base.clock import this_moment
from flowshunt.base.errors import InputError
from flowshunt.base.log import logger
from flowshunt.control.unixctl.commands.dpctl import in_slices
from flowshunt.daemon import snapshot, stations
from flowshunt.daemon.adoption import Adoption

if TYPE_CHECKING:
    from flowshunt.daemon.node import Node

EVERY_S = 1.0
SHARE = 20
"""So many times as long as writing takes is waited before the next time."""

_LOG = logger(__name__)
_Read = TypeVar("_Read")


def place_in(rundir: Path) -> Path:
    """Where connections are kept."""
    return rundir / "connections.jsonl"


def stations_in(rundir: Path) -> Path:
    """Where stations are kept."""
    return rundir / "stations.json"


async def take_over(node: Node) -> None:
    """Put back what the process before has left, and let packets in, past its programs, which end here.

    A connection that the kernel has forwarded is rebuilt from what the kernel has; what was written down says the rest.
    What cannot be trusted is refused with a warning, and that traffic starts fresh.
    """
    written = await _read("connections", partial(snapshot.read, place_in(node.rundir), node.tracker.profile))
    known = await _read("stations", partial(stations.read, stations_in(node.rundir)))
    await node.call(partial(_put_back, node, written, known))


async def _read(what: str, read: Callable[[], _Read]) -> _Read | None:
    """What was written down; None: nothing, or it cannot be trusted."""
    try:
        return await asyncio.to_thread(read)
    except FileNotFoundError:
        return None
    except (InputError, OSError) as problem:
        _LOG.warning("%s that were written down are not put back: %s", what, problem)
        return None


def _put_back(node: Node, written: snapshot.Snapshot | None, known: dict[str, list[stations.Kept]] | None) -> None:
    """On the packet thread. Whatever is wrong with what was left, packets come in afterwards."""
    adoption = None
    try:
        stations.put_back(node.bridges, known or {}, node.now_ms())
        adoption = _adoption(node)
        _restore(node, written, adoption)
        if adoption is not None:
            adoption.install()
    except Exception:  # noqa: BLE001
        _LOG.exception("what the process before has left could not be put back")
        adoption = None
    node.end_restoring()
    if adoption is not None:
        adoption.settle()


def _restore(node: Node, written: snapshot.Snapshot | None, adoption: Adoption | None) -> None:
    """Put connections back."""
    refused: list[str] = []
    if adoption is not None:
        adoption.rebuild(announced=False)
    if written is not None:
        refused = snapshot.put_back(node.tracker, written.entries, node.now_ms())
    if adoption is not None:
        adoption.rebuild(announced=True)
    snapshot.look_anew(node.tracker)
    for line in refused[:10]:
        _LOG.warning("%s: %s", place_in(node.rundir), line)
    _LOG.info(
        "%d connections are back, %d of them rebuilt from flows of the kernel; %d had expired, %d are refused",
        len(node.tracker), adoption.n_rebuilt if adoption else 0, written.n_expired if written else 0, len(refused),
    )  # fmt: skip


def _adoption(node: Node) -> Adoption | None:
    provider = node.prepare_offload()
    try:
        left = None if provider is None else provider.left_behind()
    except OSError as problem:
        _LOG.warning("flows of the kernel are not taken over: %s", problem)
        left = None
    if provider is None or left is None:
        return None
    return Adoption(left, node.tracker, node.offload, provider, node.now_ms())


async def write_connections(node: Node) -> None:
    """Write them down as they are now; what goes wrong is logged."""
    try:
        now_ms, now = node.now_ms(), this_moment()
        found = await in_slices(node, lambda: snapshot.documents(node.tracker, now_ms))
        await asyncio.to_thread(snapshot.write, place_in(node.rundir), node.tracker.profile, found, now)
        known = await node.call(partial(stations.learned, node.bridges))
        await asyncio.to_thread(lambda: stations.write(stations_in(node.rundir), known(now_ms), now))
    except OSError as problem:
        _LOG.warning("connections and stations cannot be written down: %s", problem)


async def keep_connections(node: Node, ending: asyncio.Event) -> None:
    """Write them down again and again, and a last time at the end, while forwarding is to outlive the process.

    Not to be cancelled: two at once spoil the file. What was not put back yet is not replaced.
    """
    while not ending.is_set():
        began = monotonic()
        await _write_if_kept(node)
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), max(EVERY_S, SHARE * (monotonic() - began)))
    await _write_if_kept(node)
    if node.leaves_nothing:
        for place in (place_in, stations_in):
            place(node.rundir).unlink(missing_ok=True)


async def _write_if_kept(node: Node) -> None:
    if node.is_hitless and not node.is_restoring:
        await write_connections(node)


@asynccontextmanager
async def keeping(node: Node) -> AsyncIterator[None]:
    """Have connections written down while this is entered, and at its end."""
    ending = asyncio.Event()
    task = asyncio.create_task(keep_connections(node, ending))
    try:
        yield
    finally:
        ending.set()
        await task

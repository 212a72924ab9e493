"""`conntrack/watch`, `next`, `unwatch`: events of connections, for `flowshunt conntrack -E`.

A reader begins to watch, and then asks for what is next, again and again; who does not ask for a while watches no more.
Each has a queue of its own, and is told how many events found it full.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from functools import partial
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from flowshunt.conntrack.changes import NAMES, QUEUE_LIMIT, Change, Changes
from flowshunt.conntrack.listing import events as listing
from flowshunt.conntrack.listing import json as as_json
from flowshunt.control.unixctl.commands.tracker import Filter, document_of, words_of
from flowshunt.control.unixctl.node import Node
from flowshunt.control.unixctl.registry import CommandError, command

OUTPUTS = ("extended", "timestamp", "id", "ktimestamp", "labels", "json")
MAX_READERS = 8
PATIENCE_S = 30.0
"""How long a reader may be silent."""
WAIT_S = 2.0
"""How long one question waits for an event."""

_AT_ONCE = 512
_LIMITS = (1, 1 << 20)


class _Reader:
    """One reader's queue."""

    def __init__(self, node: Node, wanted: Filter, loop: asyncio.AbstractEventLoop) -> None:
        self.wanted = wanted
        self.changes: Changes | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._node = node
        self._loop = loop
        self._ready = asyncio.Event()
        self._is_waking = False

    def open(self, kinds: int, limit: int) -> None:
        """On the packet thread: begin."""
        self.changes = Changes(self._node.tracker, kinds, limit, self._wake)

    def _wake(self) -> None:
        """On the packet thread, at most once until somebody looks."""
        if not self._is_waking:
            self._is_waking = True
            self._loop.call_soon_threadsafe(self._ready.set)

    async def take(self) -> list[Change]:
        """Events that fit, as many as are formatted at a time; none when none wait."""
        assert self.changes is not None
        self._ready.clear()
        self._is_waking = False
        while changes := self.changes.take(_AT_ONCE):
            found = [one for one in changes if self.wanted.fits(one.connection)]
            if found:
                return found
            await asyncio.sleep(0)
        return []

    async def wait(self) -> None:
        """Until there may be some, or for WAIT_S."""
        try:
            await asyncio.wait_for(self._ready.wait(), WAIT_S)
        except TimeoutError:
            return


class _Readers:
    """Those of one node, by number."""

    def __init__(self) -> None:
        self.found: dict[int, _Reader] = {}
        self._numbers = count(1)

    async def add(self, node: Node, wanted: Filter, kinds: int, limit: int) -> int:
        if len(self.found) >= MAX_READERS:
            raise CommandError(f"{MAX_READERS} readers watch already")
        reader = _Reader(node, wanted, asyncio.get_running_loop())
        number = next(self._numbers)
        self.found[number] = reader
        await node.call(partial(reader.open, kinds, limit))
        self.keep(node, number)
        return number

    def keep(self, node: Node, number: int) -> None:
        """The reader has been heard of."""
        reader = self.found[number]
        if reader.timer is not None:
            reader.timer.cancel()
        loop = asyncio.get_running_loop()
        reader.timer = loop.call_later(PATIENCE_S, lambda: loop.create_task(self.drop(node, number)))

    async def drop(self, node: Node, number: int) -> None:
        """The reader watches no more."""
        reader = self.found.pop(number, None)
        if reader is None:
            return
        if reader.timer is not None:
            reader.timer.cancel()
        if reader.changes is not None:
            with contextlib.suppress(RuntimeError):  # the packet thread may have ended, and what it had with it
                await node.call(reader.changes.close)


_READERS: WeakKeyDictionary[Node, _Readers] = WeakKeyDictionary()


def _readers(node: Node) -> _Readers:
    return _READERS.setdefault(node, _Readers())


def _reader(node: Node, document: dict[str, Any]) -> tuple[int, _Reader]:
    number = document.get("id")
    reader = _readers(node).found.get(number) if isinstance(number, int) else None
    if reader is None or not isinstance(number, int):
        raise CommandError("nobody watches under this number (any more)")
    return number, reader


async def watch(node: Node, arguments: list[str]) -> str:
    """Begin: `filter`, `events` (names of changes.NAMES) and `limit` of the queue. Returns an `id`."""
    document = document_of(arguments)
    names = words_of(document, "events", tuple(NAMES)) or list(NAMES)
    limit = document.get("limit", QUEUE_LIMIT)
    if not isinstance(limit, int) or not _LIMITS[0] <= limit <= _LIMITS[1]:
        raise CommandError(f"a queue has room for {_LIMITS[0]} to {_LIMITS[1]} events")
    wanted = Filter.read(document.get("filter", {}))
    number = await _readers(node).add(node, wanted, sum(NAMES[name] for name in set(names)), limit)
    return json.dumps({"id": number}) + "\n"


async def following(node: Node, arguments: list[str]) -> str:
    """What has happened since: `lines` as conntrack -E prints them, or one JSON object each; `lost`: in all so far."""
    document = document_of(arguments)
    number, reader = _reader(node, document)
    output = words_of(document, "output", OUTPUTS)
    _readers(node).keep(node, number)
    found = await reader.take()
    if not found:
        await reader.wait()
        found = await reader.take()
    assert reader.changes is not None
    return json.dumps({"lines": [_line(one, output) for one in found], "lost": reader.changes.n_lost}) + "\n"


def _line(one: Change, output: list[str]) -> str:
    if "json" in output:
        return json.dumps(
            {
                "event": one.kind,
                "cause": one.cause,
                "reason": one.reason,
                "time_ms": one.time_ms,
                "connection": as_json.document(one.connection),
            }
        )
    return listing.line(
        one,
        extended="extended" in output,
        timestamps="timestamp" in output,
        ids="id" in output,
        labels="labels" in output,
        start_times="ktimestamp" in output,
    )


async def unwatch(node: Node, arguments: list[str]) -> str:
    """End."""
    number, _ = _reader(node, document_of(arguments))
    await _readers(node).drop(node, number)
    return ""


async def watching(node: Node, arguments: list[str]) -> str:
    """How many watch, and how many events wait for each."""
    waiting = {number: len(one.changes) for number, one in _readers(node).found.items() if one.changes is not None}
    return json.dumps({"readers": len(waiting), "waiting": waiting}) + "\n"


COMMANDS = (
    command("conntrack/watching", "", 0, 0, watching),
    command("conntrack/watch", "[JSON]", 0, 1, watch),
    command("conntrack/next", "JSON", 1, 1, following),
    command("conntrack/unwatch", "JSON", 1, 1, unwatch),
)

"""`offload/*`: who forwards connections past tables and tracker, for `flowshunt offload`. All answer with JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.schema import N_ZONES
from flowshunt.control.stories.describe import lines
from flowshunt.control.stories.document import document
from flowshunt.control.unixctl.commands.dpctl import in_slices
from flowshunt.control.unixctl.commands.tracker import Filter, document_of
from flowshunt.control.unixctl.node import Node
from flowshunt.control.unixctl.registry import CommandError, command

_OVER = object()
MAX_TOLD = 100
"""Stories that one answer tells."""


async def show(node: Node, arguments: list[str]) -> str:
    """Providers in the order in which they are asked, with what they have and why they refused others."""
    steps = await node.call(node.offload.synchronising)
    while await node.call(lambda: next(steps, _OVER)) is not _OVER:
        pass
    return await node.call(lambda: _shown(node))


def _shown(node: Node) -> str:
    offload = node.offload
    totals = {"packets": 0, "shunted": 0}
    for bridge in node.bridges.values():
        figures = bridge.switch.datapath.statistics()
        for name in totals:
            totals[name] += figures[name]
    rates = node.history.rates(node.now_ms())
    providers = [one._asdict() | {"taken_per_second": round(rates.get(one.name, 0.0), 1)} for one in offload.overview()]
    return _json(
        {
            "enabled": offload.settings.enabled,
            "connections": len(node.tracker),
            "packets": totals["packets"],
            "shunted_packets": totals["shunted"],
            "hit_ratio": totals["shunted"] / totals["packets"] if totals["packets"] else 0.0,
            "providers": providers,
        }
    )


async def explain(node: Node, arguments: list[str]) -> str:
    """The stories of the connections that `filter` describes: `text`, or with `json` the document of explain."""
    request = document_of(arguments)
    wanted = Filter.read(request.get("filter", {}))
    limit = request.get("limit", MAX_TOLD)
    if not isinstance(limit, int) or not 0 < limit <= MAX_TOLD:
        raise CommandError(f"1 to {MAX_TOLD} stories are told at a time")
    found = await in_slices(
        node, lambda: (one for one in node.tracker.connections(node.now_ms(), wanted.zone) if wanted.fits(one))
    )
    return await node.call(partial(_told, node, found[:limit], len(found), bool(request.get("json"))))


def _told(node: Node, connections: list[Connection], n: int, as_json: bool) -> str:
    switch = node.core
    stories = list(node.history.tell(connections))
    if as_json:
        return json.dumps(document(stories, switch, n - len(stories))) + "\n"
    start_ms = min((story.connection.start_ms for story in stories), default=0)
    text = "\n".join("".join(f"{line}\n" for line in lines(story, switch, start_ms)) for story in stories)
    return json.dumps({"text": text, "n": n, "left_out": n - len(stories), "start_ms": start_ms}) + "\n"


async def flush(node: Node, arguments: list[str]) -> str:
    """Take connections back: all, those of a `zone`, those of a `provider`. Their next packets offer them again."""
    request = document_of(arguments)
    zone, provider = request.get("zone"), request.get("provider")
    if zone is not None and not (isinstance(zone, int) and 0 <= zone < N_ZONES):
        raise CommandError(f"zone {zone!r} is no number from 0 to {N_ZONES - 1}")
    steps = await node.call(lambda: _taking_back(node, zone, provider))
    n = 0
    while (part := await node.call(lambda: next(steps, None))) is not None:
        n += part
    return _json({"withdrawn": n})


def _taking_back(node: Node, zone: int | None, provider: str | None) -> Iterator[int]:
    names = [one.name for one in node.offload.overview()]
    if provider is not None and provider not in names:
        raise CommandError(f"no provider is called {provider!r}: there are {', '.join(names) or 'none'}")
    return node.offload.taking_back(None if zone is None else _rows_of(node, zone), provider)


def _rows_of(node: Node, zone: int) -> np.ndarray:
    """The rows of a zone's connections."""
    arrays = node.tracker.arrays
    words = arrays.conns["tuple"][: int(arrays.state["n_fresh"][0])]
    return np.flatnonzero((words >> 16) & 0xFFFF == zone)


def _json(answer: dict[str, Any]) -> str:
    return json.dumps(answer) + "\n"


COMMANDS = (
    command("offload/show", "", 0, 0, show),
    command("offload/explain", "[JSON]", 0, 1, explain),
    command("offload/flush", "[JSON]", 0, 1, flush),
)

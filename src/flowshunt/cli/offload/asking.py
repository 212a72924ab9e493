"""What `flowshunt offload` asks the switch, and prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from flowshunt.cli.conntrack.arguments import filter_of
from flowshunt.cli.daemon_client import ask, find_socket
from flowshunt.cli.failures import complain
from flowshunt.offload import reasons as R

_NOTHING = 1


def show(socket: str | None, *, as_json: bool) -> None:
    """Providers."""
    answer = ask(find_socket(socket), "offload/show")
    if as_json:
        print(answer, end="")
        return
    for line in shown(json.loads(answer)):
        print(line)


def shown(found: dict[str, Any]) -> Iterator[str]:
    """What `offload/show` answers, as lines."""
    yield f"offloading is {'on' if found['enabled'] else 'off'}; {found['connections']} connections"
    yield (
        f"{found['shunted_packets']} of {found['packets']} packets forwarded past the tables "
        f"({100 * found['hit_ratio']:.1f} %)"
    )
    for one in found["providers"]:
        yield from _provider(one)
    if not found["providers"]:
        yield "no provider is registered: set hw-offload=true, see flowshunt provider list"


def _provider(one: dict[str, Any]) -> Iterator[str]:
    counters = one["counters"]
    yield ""
    mark = one["mark"]
    does = f"forwards, shown as [{mark}]" if mark else "observes"
    yield f"{one['name']}: {does}{'' if one['is_on'] else ' (off)'}"
    if one["entries"] is not None:
        limit = f" of {one['limit']}" if one["limit"] else ""
        yield f"  entries       {one['entries']}{limit}"
        yield f"  taken         {counters['installed']} ({one['taken_per_second']:g} a second lately)"
        yield f"  given up      {counters['handed-back']} handed back, {counters['withdrawn']} withdrawn"
        yield f"  forwarded     {counters['forwarded-packets']} packets, {counters['forwarded-bytes']} bytes"
    else:
        yield f"  told          {one['told']} connections, {counters['established']} established so far"
    if one["queue"] is not None:
        yield f"  queue         {one['queued']} of {one['queue']}"
    if counters["errors"]:
        yield f"  errors        {counters['errors']}"
    yield from (f"  {note}" for note in one["notes"])
    if one["refusals"]:
        yield "  refused"
        for code, n in sorted(one["refusals"].items(), key=lambda pair: -pair[1]):
            reason = R.reason_of(code)
            yield f"    {n:>9}  {code}: {reason.sentence} {reason.fix}"


def explain(values: dict[str, Any]) -> int:
    """Stories; returns the exit status."""
    request = {
        "filter": filter_of(values, with_marks=True),
        "limit": values["limit"],
        "json": values["json"],
    }
    answer = ask(find_socket(values["socket"]), "offload/explain", json.dumps(request))
    found = json.loads(answer)
    if values["json"]:
        print(answer, end="")
        return 0 if found["connections"] else _NOTHING
    print(found["text"], end="")
    if not found["n"]:
        complain("no connection is like that")
        return _NOTHING
    if found["left_out"]:
        print(f"{found['left_out']} more connections are like that", file=sys.stderr)
    return 0


def flush(socket: str | None, zone: int | None, provider: str | None) -> None:
    """Take connections back."""
    request = {"zone": zone, "provider": provider}
    found = json.loads(ask(find_socket(socket), "offload/flush", json.dumps(request)))
    print(f"{found['withdrawn']} connections were taken back")

"""What is asked of the switch, what is printed, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from flowshunt.base.version import VERSION
from flowshunt.cli.conntrack.arguments import filter_of, pair_of, protocol_of
from flowshunt.cli.daemon_client import ask, find_socket
from flowshunt.conntrack.listing.conntrack8 import footer

PROGRAM = f"flowshunt v{VERSION} (conntrack)"
_DONE = {"dump": "shown", "get": "shown", "delete": "deleted", "update": "updated"}
_NO_SUCH = "Operation failed: such conntrack doesn't exist"
_MISSED = 1


def execute(action: str, values: dict[str, Any]) -> int:
    """Carry out one action of conntrack(8); returns the exit status. Raises UsageError and click's errors."""
    place = find_socket(values["socket"])
    output = [word for word in (values["output"] or "").split(",") if word]
    if action == "flush":
        ask(place, "conntrack/flush", json.dumps({"zone": values["zone"]}))
        _say("connection tracking table has been emptied.")
    elif action == "count":
        print(ask(place, "dpctl/ct-get-nconns"), end="")
    elif action == "stats":
        print(ask(place, "conntrack/stats", json.dumps({"output": output})), end="")
    elif action == "create":
        return _create(place, values)
    elif action == "event":
        from flowshunt.cli.conntrack.events import follow

        return follow(place, values, output, PROGRAM)
    else:
        return _listed(action, place, values, output)
    return 0


def _say(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr)


def _listed(action: str, place: Path, values: dict[str, Any], output: list[str]) -> int:
    """Actions that print connections."""
    request: dict[str, Any] = {"output": output, "filter": filter_of(values, with_marks=action != "update")}
    if action == "update":
        for name, width in (("mark", 32), ("label", 128)):
            if values[name] is not None:
                request[f"set_{name}"] = pair_of(values[name], width, f"--{name}")
    name = {"dump": "list", "get": "list"}.get(action, action)
    if values["zero"]:
        request["zero"] = True
    text = ask(place, f"conntrack/{name}", json.dumps(request))
    n = len(json.loads(text)) if "json" in output else text.count("<flow>" if "xml" in output else "\n")
    if n == 0 and action == "get":
        _say(_NO_SUCH)
        return _MISSED
    print(text, end="")
    if "json" not in output:
        print(footer(n, PROGRAM).replace("shown", _DONE[action]), file=sys.stderr)
    return _MISSED if n == 0 and action in ("delete", "update") else 0


def _create(place: Path, values: dict[str, Any]) -> int:
    """-I: a connection that is there already is not made a second time."""
    entry = _entry(values)
    wanted = filter_of({**values, "state": None, "status": None}, with_marks=False)
    if json.loads(ask(place, "conntrack/list", json.dumps({"output": ["json"], "filter": wanted}))):
        _say("Operation failed: Such conntrack exists, try -U to update")
        return _MISSED
    ask(place, "conntrack/insert", json.dumps({"entry": entry}))
    _say("1 flow entries have been created.")
    return 0


def _entry(values: dict[str, Any]) -> dict[str, Any]:
    """A connection of -I, as JSON lists it."""
    missing = [name for name in ("orig_src", "orig_dst", "protocol") if values[name] is None]
    if missing:
        raise click.UsageError("-I needs -s, -d and -p")
    has_ports = values["orig_port_src"] is not None
    original = {
        "source": values["orig_src"],
        "destination": values["orig_dst"],
        "source_port": values["orig_port_src"],
        "destination_port": values["orig_port_dst"] if has_ports else None,
        "icmp_type": values["icmp_type"],
        "icmp_code": values["icmp_code"],
        "icmp_id": values["icmp_id"],
    }
    entry: dict[str, Any] = {
        "protocol": protocol_of(values["protocol"]),
        "original": {name: value for name, value in original.items() if value is not None},
        "zone": values["zone"] or 0,
        "timeout_ms": 1000 * (values["timeout"] or 60),
    }
    reply_src, reply_dst = values["reply_src"], values["reply_dst"]
    if values["src_nat"] or values["dst_nat"]:
        reply_src = values["dst_nat"] or reply_src or values["orig_dst"]
        reply_dst = values["src_nat"] or reply_dst or values["orig_src"]
    if reply_src is not None and reply_dst is not None:
        entry["reply"] = {"source": reply_src, "destination": reply_dst}
        if values["reply_port_src"] is not None:
            entry["reply"] |= {"source_port": values["reply_port_src"], "destination_port": values["reply_port_dst"]}
        elif has_ports:
            entry["reply"] |= {"source_port": values["orig_port_dst"], "destination_port": values["orig_port_src"]}
        if reply_src != values["orig_dst"]:
            entry["nat"] = "dst"
        elif reply_dst != values["orig_src"]:
            entry["nat"] = "src"
    if values["mark"] is not None:
        entry["mark"] = pair_of(values["mark"], 32, "--mark")[0]
    if values["label"] is not None:
        entry["label"] = f"{pair_of(values['label'], 128, '--label')[0]:#x}"
    if values["state"] is not None:
        entry["state"] = values["state"]
        for way in (entry["original"], entry.setdefault("reply", {})):
            way["state"] = values["state"]  # profile default has one for each direction
    return entry

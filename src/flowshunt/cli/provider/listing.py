"""`flowshunt provider list`."""

from __future__ import annotations

import json as json_module
import sys

from flowshunt.base.errors import UsageError
from flowshunt.cli.layout import Column, Section
from flowshunt.cli.terminal import show
from flowshunt.offload.attachment import mark_of
from flowshunt.offload.calls import has
from flowshunt.offload.providers import available
from flowshunt.offload.registry import Available, problem_of

_COLUMNS = tuple(Column(name) for name in ("name", "from", "served by", "runs on", "forwards", "mark", "state"))


def execute(*, json: bool) -> None:
    """Make one of each provider, and say what it is."""
    found = [_describe(entry) for entry in available()]
    if json:
        print(json_module.dumps({"providers": found}, indent=1))
        return
    rows = tuple(tuple(_text(value) for value in entry.values()) for entry in found)
    show([Section("Offload providers", _COLUMNS, rows)], sys.stdout)


def _describe(entry: Available) -> dict[str, str | bool]:
    try:
        provider = entry.load()
    except UsageError as error:
        return _row(entry, "", "", "", f"cannot be used: {error}")
    problem = problem_of(provider)
    if problem is None and provider.name != entry.name:
        problem = f"it calls itself {provider.name!r}"
    limit = getattr(provider, "queue_limit", None)
    queued = limit if limit is not None else 1 if entry.is_plugin else 0
    state = f"cannot be used: {problem}" if problem else _state(entry)
    weight = "batches" if has(provider, "batch_submit") else "callbacks"
    runs_on = "worker thread" if queued else "packet thread"
    forwards = has(provider, "install") or bool(getattr(provider, "forwards", False))
    return _row(entry, weight, runs_on, mark_of(provider) if forwards else "", state)


def _state(entry: Available) -> str:
    return "for tests" if entry.for_tests else "when named" if entry.when_named else "ready"


def _row(entry: Available, weight: str, runs_on: str, mark: str, state: str) -> dict[str, str | bool]:
    return {
        "name": entry.name,
        "from": entry.source,
        "served_by": weight,
        "runs_on": runs_on,
        "forwards": bool(mark),
        "mark": mark,
        "state": state,
    }


def _text(value: str | bool) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"

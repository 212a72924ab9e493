"""Stories as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from flowshunt.cli.explain.describe import reasons_now
from flowshunt.cli.explain.stories import Step, Story
from flowshunt.conntrack.listing.json import document as connection_document

if TYPE_CHECKING:
    from flowshunt.app import Switch
    from flowshunt.offload.reasons import Reason

FORMAT = "flowshunt/explain/1"


def write(stories: Iterable[Story], switch: Switch, n_left_out: int, out: TextIO) -> None:
    """One object: the stories, and how many connections there was no room for. Times are Unix time in ms."""
    connections = [_story(story, switch) for story in stories]
    json.dump({"format": FORMAT, "left_out": n_left_out, "connections": connections}, out, indent=1, ensure_ascii=False)
    out.write("\n")


def _story(story: Story, switch: Switch) -> dict[str, Any]:
    connection = story.connection
    holder = switch.offload.holder(connection.id, connection.generation) if story.alive else None
    return {
        "connection": connection_document(connection),
        "alive": story.alive,
        "holder": holder,
        "reasons": {name: _reason(reason) for name, reason in reasons_now(story, switch).items()},
        "steps": [_step(step) for step in story.steps],
        "steps_left_out": story.n_left_out,
    }


def _step(step: Step) -> dict[str, Any]:
    path = step.path
    return {
        "time_ms": step.time_ms,
        "kind": step.kind,
        "provider": step.provider or None,
        "reason": None if step.reason is None else _reason(step.reason),
        "path": None
        if path is None
        else {
            "in_port": path.in_port,
            "out_port": path.out_port,
            "changes": dict(path.changes),
            "rules": list(path.rules),
        },
    }


def _reason(reason: Reason) -> dict[str, str]:
    return {"code": reason.code, "sentence": reason.sentence, "fix": reason.fix}

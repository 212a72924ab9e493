"""Stories as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from flowshunt.conntrack.listing.json import document as connection_document
from flowshunt.control.stories.describe import reasons_now
from flowshunt.control.stories.stories import Step, Story

if TYPE_CHECKING:
    from flowshunt.control.stories.paths import Switch
    from flowshunt.offload.reasons import Reason

FORMAT = "flowshunt/explain/1"


def write(stories: Iterable[Story], switch: Switch, n_left_out: int, out: TextIO) -> None:
    """One object: the stories, and how many connections there was no room for. Times are Unix time in ms."""
    json.dump(document(stories, switch, n_left_out), out, indent=1, ensure_ascii=False)
    out.write("\n")


def document(stories: Iterable[Story], switch: Switch, n_left_out: int) -> dict[str, Any]:
    """The same as a dict."""
    connections = [_story(story, switch) for story in stories]
    return {"format": FORMAT, "left_out": n_left_out, "connections": connections}


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

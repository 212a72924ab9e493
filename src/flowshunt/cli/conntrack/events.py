"""`flowshunt conntrack -E`: events as they come, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from flowshunt.base.errors import UsageError
from flowshunt.cli.conntrack.arguments import events_of, filter_of
from flowshunt.cli.daemon_client import ask

_NOTHING = 1


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def follow(place: Path, values: dict[str, Any], output: list[str], program: str) -> int:
    """Print events until a signal, then how many there were; returns the exit status.

    Raises UsageError when the switch does not answer, or ends.
    """
    request: dict[str, Any] = {
        "filter": filter_of(values, with_marks=True),
        "events": events_of(values["event_mask"]),
    }
    if values["buffer_size"] is not None:
        request["limit"] = values["buffer_size"]
    n_shown = n_lost = 0
    signal.signal(signal.SIGTERM, _stop)
    question = ""
    try:
        question = json.dumps({**json.loads(ask(place, "conntrack/watch", json.dumps(request))), "output": output})
        while True:
            answer = json.loads(ask(place, "conntrack/next", question))
            for line in answer["lines"]:
                print(line)
            sys.stdout.flush()
            n_shown += len(answer["lines"])
            if answer["lost"] > n_lost:
                print(f"{program}: {answer['lost'] - n_lost} events were lost: the queue was full", file=sys.stderr)
                n_lost = answer["lost"]
    except KeyboardInterrupt:
        print(f"{program}: {n_shown} flow events have been shown.", file=sys.stderr)
        return 0 if n_shown else _NOTHING
    finally:
        with suppress(UsageError, KeyboardInterrupt):
            if question:
                ask(place, "conntrack/unwatch", question)

"""`flowshunt explain` from its options to its exit status."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from flowshunt.cli import kernels
from flowshunt.cli.failures import DAMAGED, INTERRUPTED, OK, complain
from flowshunt.cli.replay.command import make_switch, open_source, replay
from flowshunt.cli.replay.offloading import settled
from flowshunt.cli.replay.run import Ending
from flowshunt.conntrack.selection import Selection
from flowshunt.conntrack.table import first_ms
from flowshunt.control.stories import describe, document
from flowshunt.control.stories.stories import Stories
from flowshunt.ports.api import CaptureError

if TYPE_CHECKING:
    from flowshunt.app import Switch
    from flowshunt.cli.replay.options import ReplayOptions
    from flowshunt.datapath.tables import Result
    from flowshunt.packet.schema import Batch

NOTHING = 1
"""Exit status when no connection was selected."""


class _Start:
    """The time of the first packet."""

    ms = 0

    def note(self, batch: Batch, result: Result) -> None:
        if not self.ms and len(batch.packets):
            self.ms = first_ms(batch)


def execute(options: ReplayOptions, words: str, *, json: bool) -> int:
    """Replay, and tell the stories of the connections that `words` select; returns the exit status.

    Raises UsageError for words and rules that cannot be read, OSError for files that cannot be opened.
    """
    selection = Selection.parse(words)
    kernels.ready(quiet=options.quiet, thorough=False)
    switch = make_switch(options)
    stories, start = Stories(switch, selection), _Start()
    switch.offload_to((offload.name, dict(offload.options)) for offload in options.offloads)
    with ExitStack() as closing:
        closing.callback(switch.offload.close)
        try:
            source = open_source(options, switch, closing)
        except CaptureError as error:
            complain(str(error))
            return DAMAGED
        outcome = replay(options, switch, source, [settled(switch), start.note])
        switch.offload.synchronise()
        n_stories = _write(stories, switch, start.ms, json=json)
    for damage in outcome.damages:
        complain(str(damage))
    if outcome.ending is Ending.INTERRUPTED:
        return INTERRUPTED
    if not n_stories:
        complain(f"no connection is like {words!r}" if words else "there was no connection")
        return NOTHING
    return DAMAGED if outcome.damages else OK


def _write(stories: Stories, switch: Switch, start_ms: int, *, json: bool) -> int:
    told = list(stories)
    if json:
        document.write(told, switch, stories.n_left_out, sys.stdout)
        return len(told)
    for number, story in enumerate(told):
        if number:
            print()
        for line in describe.lines(story, switch, start_ms):
            print(line)
    if stories.n_left_out:
        complain(f"{stories.n_left_out} more connections are like that; say more about the ones you mean")
    return len(told)

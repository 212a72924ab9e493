"""A replay for each point: the same capture through a fresh switch that offloads to the point's provider."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from flowshunt.app import Switch
from flowshunt.base.errors import UsageError
from flowshunt.cli.replay import command
from flowshunt.cli.replay.offloading import OffloadReport, OffloadWatch, settled
from flowshunt.cli.replay.options import STDOUT, ReplayOptions
from flowshunt.cli.replay.run import Ending, Interrupts, run
from flowshunt.cli.replay.windows import Windowed
from flowshunt.cli.what_if.grid import Point
from flowshunt.cli.what_if.summary import Outcome, Progress, Summary
from flowshunt.ports.api import CaptureError


class Replay:
    """Replays what `options` say, whose own offloads and outputs count for nothing."""

    def __init__(self, options: ReplayOptions) -> None:
        """Raises UsageError for what can be read but once."""
        if STDOUT in (*options.sources.values(), *options.flow_files):
            raise UsageError("standard input can be read but once", hint="write it to a file first")
        self._options = replace(options, offloads=())
        self._is_first = True

    def check(self, point: Point, /) -> None:
        """See Run."""
        self._switch(point, quiet=not self._is_first).offload.close()
        self._is_first = False

    def _switch(self, point: Point, *, quiet: bool) -> Switch:
        switch = command.make_switch(self._options, quiet=quiet)
        switch.offload_to([(point.offer.name, dict(point.options))])
        return switch

    def __call__(self, point: Point, progress: Progress, /) -> Outcome | None:
        """See Run. Damages are told once, and end every replay at the same place."""
        switch = self._switch(point, quiet=True)
        with ExitStack() as closing:
            closing.callback(switch.offload.close)
            watch = OffloadWatch(switch)
            try:
                source = command.open_source(self._options, switch, closing)
            except CaptureError as error:
                raise UsageError(str(error)) from None
            with Interrupts().installed() as interrupts:
                outcome = run(
                    Windowed(source),
                    switch,
                    [settled(switch), watch.add],
                    batch_size=self._options.batch_size,
                    limit=self._options.limit,
                    interrupts=interrupts,
                    progress=progress,
                )
            if outcome.ending is Ending.INTERRUPTED:
                return None
            return Outcome(_summary(watch.report()), tuple(str(damage) for damage in outcome.damages))


def _summary(report: OffloadReport) -> Summary:
    return Summary(
        packets=report.packets,
        bytes=report.bytes,
        hit_packets=report.shunted_packets,
        hit_bytes=report.shunted_bytes,
        peak_connections=report.peak_flows,
        wanted_connections=report.peak_wanted,
        insertions=report.taken,
        evictions=report.handed_back,
        refusals=dict(report.refused),
    )

"""From the command line to the grid, the replays and what shall come out."""

from __future__ import annotations

from typing import Any

from flowshunt.cli import kernels
from flowshunt.cli.replay.gathering import gather
from flowshunt.cli.what_if import command
from flowshunt.cli.what_if.grid import KNOBS, Axis, Offer, knob, points
from flowshunt.cli.what_if.measuring import Replay
from flowshunt.cli.what_if.summary import Metric


def execute(
    *,
    offers: tuple[Offer, ...],
    variations: tuple[Axis, ...],
    json: str | None,
    chart: str | None,
    chart_of: Metric,
    quiet: bool,
    **of_the_run: Any,
) -> int:
    """Do what the parameters in `arguments` ask for; returns the exit status. Raises UsageError, OSError."""
    tried = {entry.name: of_the_run.pop(entry.name.replace("-", "_")) for entry in KNOBS}
    axes = [*(knob(name, values) for name, values in tried.items() if values), *variations]
    found = points(offers, axes)
    options = gather(**of_the_run, quiet=True)
    options.check()
    captures = tuple(dict.fromkeys(options.sources.values()))
    inputs = (*options.flow_files, *filter(None, [options.config_file]))
    kernels.ready(quiet=quiet, thorough=False)
    wanted = command.Wanted(captures, inputs, json, chart, chart_of, quiet)
    return command.execute(found, Replay(options), wanted)

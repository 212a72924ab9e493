"""`flowshunt what-if` from its points to its exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from flowshunt.base.errors import UsageError
from flowshunt.cli.failures import DAMAGED, INTERRUPTED, OK, complain
from flowshunt.cli.terminal import show
from flowshunt.cli.what_if import chart, document
from flowshunt.cli.what_if.grid import Point
from flowshunt.cli.what_if.render import sections, value_text
from flowshunt.cli.what_if.summary import Metric, Progress, Run, Tried

STDOUT = "-"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall come out. `inputs`: other files that are read besides the captures."""

    captures: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    json: str | None = None
    chart: str | None = None
    chart_of: Metric = Metric.BYTES
    quiet: bool = False

    @property
    def title(self) -> str:
        """Of table and chart."""
        return f"What if: {', '.join(self.captures)}"

    def check(self) -> None:
        """Raise UsageError, before anything is measured, for outputs that cannot be."""
        if self.chart is not None:
            chart.check(self.chart)
        files = [Path(path) for path in (*self.captures, *self.inputs) if Path(path).is_file()]
        for path in (self.json or STDOUT, self.chart or STDOUT):
            if path != STDOUT and Path(path).is_file() and any(Path(path).samefile(file) for file in files):
                raise UsageError(f"{path} is also read", hint="write to another file")
            if path != STDOUT and not Path(path).parent.is_dir():
                raise UsageError(f"{path}: there is no such directory", hint="make it first")


def execute(points: Sequence[Point], run: Run, wanted: Wanted) -> int:
    """Try all points, in order, and write what came of them; returns the exit status.

    After Ctrl-C what was tried so far is written. Raises UsageError for options that a provider does not have, before
    the first replay; OSError for files that cannot be read or written.
    """
    wanted.check()
    for point in points:
        run.check(point)
    results: list[Tried] = []
    damages: tuple[str, ...] = ()
    with _trying(points, quiet=wanted.quiet) as begin:
        for place, point in enumerate(points):
            outcome = run(point, begin(place))
            if outcome is None:
                break
            damages = outcome.damages
            results.append(Tried(point, outcome.summary))
    is_complete = len(results) == len(points)
    _write(results, wanted, is_complete=is_complete)
    for damage in damages:
        complain(damage)
    if not is_complete:
        return INTERRUPTED
    return DAMAGED if damages else OK


def _write(results: Sequence[Tried], wanted: Wanted, *, is_complete: bool) -> None:
    if wanted.json == STDOUT:
        document.write(sys.stdout, results, wanted.captures, is_complete=is_complete)
    elif wanted.json is not None:
        with open(wanted.json, "w", encoding="utf-8", newline="\n") as out:
            document.write(out, results, wanted.captures, is_complete=is_complete)
    if wanted.chart is not None and results:
        chart.write(wanted.chart, results, wanted.chart_of, wanted.title)
    if not wanted.quiet:
        (section,) = sections(results, wanted.title)
        if not is_complete:
            section = replace(section, remarks=(*section.remarks, "stopped before every point was tried"))
        show([section], sys.stderr if wanted.json == STDOUT else sys.stdout)
    sys.stdout.flush()


# --- progress --------------------------------------------------------------------------------------------------------


class _Begin(Protocol):
    def __call__(self, place: int, /) -> Progress:
        """A point is tried now; what it returns is told how far that is."""


@contextmanager
def _trying(points: Sequence[Point], *, quiet: bool) -> Iterator[_Begin]:
    """Progress for the while: a bar on a terminal, else a line for each point; nothing when `quiet`."""
    if quiet:
        yield lambda place: _ignore
        return
    if not sys.stderr.isatty():
        yield lambda place: _say(place, points)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("trying"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[packets]:,} packets"))
    more = (TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Bars(*columns, *more, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=len(points), packets=0)

        def begin(place: int) -> Progress:
            bars.update(task, completed=place, packets=0, description=describe(points[place]))
            return lambda done, packets: bars.update(task, packets=packets)

        yield begin


def _ignore(done: int, packets: int) -> None:
    """Progress that nobody watches."""


def _say(place: int, points: Sequence[Point]) -> Progress:
    print(f"trying {place + 1}/{len(points)}: {describe(points[place])}", file=sys.stderr, flush=True)
    return _ignore


def describe(point: Point) -> str:
    """A point in a line."""
    values = (f"{title} {value_text(value)}" for title, value in point.values.items())
    return ", ".join([point.offer.label, *values])

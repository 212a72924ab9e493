"""Standard output and standard error: what looks different on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from flowshunt.cli.layout import Section, write_plain, write_rich
from flowshunt.cli.numbers import count

_REFRESH_S = 0.1


def show(sections: Sequence[Section], out: TextIO) -> None:
    """Print sections, with rich when `out` is a terminal."""
    if out.isatty():
        from rich.console import Console

        write_rich(sections, Console(file=out, highlight=False))
    else:
        write_plain(sections, out)


def _ignore(done: int, packets: int) -> None:
    """Progress that nobody watches."""


@contextmanager
def reading(total: int | None, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Progress of reading `total` bytes (None: unknown), for the while.

    Yields what takes the bytes read and the packets so far. Nothing is shown when `quiet` or when standard error is no
    terminal; what is shown vanishes at the end.
    """
    if quiet or not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("replaying"), BarColumn(), DownloadColumn(), TextColumn("{task.fields[packets]} packets"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total, packets="0")
        latest = time.monotonic()

        def update(done: int, packets: int) -> None:
            nonlocal latest
            now = time.monotonic()
            if now - latest >= _REFRESH_S:
                latest = now
                progress.update(task, completed=done, packets=count(packets))

        yield update


@contextmanager
def compiling(total: int, *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Progress of compiling `total` kernels, for the while: a bar on a terminal, else one line for each.

    Yields what `flowshunt.jit.warm_up` reports to. Nothing is shown when `quiet`.
    """
    if quiet:
        yield lambda name, done, total: None
        return
    if not sys.stderr.isatty():
        yield lambda name, done, total: print(f"compiling {done + 1}/{total}: {name}", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    name_column = TextColumn("{task.description}")
    with Progress(*columns, name_column, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda name, done, total: progress.update(task, completed=done, description=name)

"""Compiling kernels ahead, and saying so. Imports numba."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import flowshunt.app
import flowshunt.ports.capture.sides
import flowshunt.ports.capture.writer  # noqa: F401  (all three for their entry points)
from flowshunt.cli.numbers import duration
from flowshunt.cli.terminal import compiling
from flowshunt.datapath.loop import run_batch
from flowshunt.jit import JIT, entry_points, pending, warm_up
from flowshunt.jit.cache import cache_directory


@dataclass(frozen=True, slots=True)
class Warmth:
    """What was done: the kernels compiled, how many there are in all, and where they are kept (None: nowhere)."""

    compiled: tuple[str, ...]
    total: int
    directory: str | None


def ready(*, quiet: bool = False, thorough: bool = True) -> Warmth:
    """Compile the kernels that are missing, and say so on standard error unless `quiet`.

    When none is, none is loaded either: each comes from the cache when it is first called, if ever. Looking at every
    kernel takes a tenth of a second; not `thorough` looks only at the batch loop, the largest and the
    one that nearly every change concerns. What is missing besides then compiles when it is first called.
    """
    start = time.monotonic_ns()
    missing = pending() if thorough or not run_batch.is_cached() else []
    place = cache_directory() if JIT else None
    directory = str(place) if place else None
    if missing:
        if not quiet:
            kept = f"; they are kept in {directory}" if directory else "; there is no place to keep them"
            print(f"flowshunt: compiling {len(missing)} kernels{kept}", file=sys.stderr, flush=True)
        with compiling(len(missing), quiet=quiet) as report:
            warm_up(report)
    took_ns = time.monotonic_ns() - start
    if missing and not quiet:
        print(f"flowshunt: compiled in {duration(took_ns)}", file=sys.stderr)
    return Warmth(tuple(entry.name for entry in missing), len(entry_points()), directory)

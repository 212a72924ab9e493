"""Compile before the first packet, and say so."""

from __future__ import annotations

from collections.abc import Callable

from flowshunt.jit.kernel import EntryPoint, entry_points


def pending() -> list[EntryPoint]:
    """Entry points that would have to compile (neither loaded nor in the cache)."""
    return [entry for entry in entry_points() if not entry.is_cached()]


def warm_up(report: Callable[[str, int, int], None] | None = None) -> int:
    """Load or compile every entry point of the imported modules.

    `report(name, done, total)` is called before each one that has to compile. Returns how many compiled.
    """
    missing = pending()
    for done, entry in enumerate(missing):
        if report:
            report(entry.name, done, len(missing))
        entry.prepare()
    for entry in entry_points():
        entry.prepare()
    return len(missing)

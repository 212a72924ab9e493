"""The results as a table, and what they say about the room that is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowshunt.cli.layout import Column, Section
from flowshunt.cli.numbers import count, share
from flowshunt.cli.what_if.grid import KNOBS, OPEN
from flowshunt.cli.what_if.summary import Metric, Tried, measured

_SIZE = KNOBS[0].title
_ENOUGH = 0.1
"""Per cent of the bytes that nobody misses."""

_NOWHERE = "-"


def sections(results: Sequence[Tried], title: str) -> list[Section]:
    """One table; a column for each axis, empty where a provider does not have it."""
    axes = titles(results)
    columns = (
        Column("provider"),
        *(Column(axis, is_number=True) for axis in axes),
        *(Column(name, is_number=True) for name in ("hits", "of bytes", "connections", "wanted", "inserted", "back")),
        Column("refused"),
    )
    rows = tuple(_row(result, axes) for result in results)
    return [Section(title, columns, rows, tuple(remarks(results)))]


def titles(results: Sequence[Tried]) -> list[str]:
    """The axes, in order."""
    return list(dict.fromkeys(title for result in results for title in result.point.values))


def value_text(text: str) -> str:
    """A tried value as people read it."""
    return count(int(text)) if text.isdecimal() else text


def _row(result: Tried, axes: Sequence[str]) -> tuple[str, ...]:
    summary, values = result.summary, result.point.values
    return (
        result.point.offer.label,
        *(value_text(values[axis]) if axis in values else _NOWHERE for axis in axes),
        share(summary.hit_packets, summary.packets),
        share(summary.hit_bytes, summary.bytes),
        count(summary.peak_connections),
        count(summary.wanted_connections),
        count(summary.insertions),
        count(summary.evictions),
        ", ".join(f"{count(n)} {code}" for code, n in summary.refusals.items()),
    )


def remarks(results: Sequence[Tried]) -> Iterator[str]:
    """For each provider: the smallest table that is as good as the best one."""
    for label in dict.fromkeys(result.point.offer.label for result in results):
        sized = [r for r in results if r.point.offer.label == label and r.point.values.get(_SIZE, OPEN) != OPEN]
        sizes = {int(result.point.values[_SIZE]) for result in sized}
        if len(sizes) < 2:
            continue
        best = max(measured(result.summary, Metric.BYTES) for result in sized)
        if best == 0:
            yield f"{label}: nothing was offloaded at any size"
            continue
        enough = min(
            (result for result in sized if measured(result.summary, Metric.BYTES) >= best - _ENOUGH),
            key=lambda result: int(result.point.values[_SIZE]),
        )
        size = int(enough.point.values[_SIZE])
        others = [f"{title} {value_text(value)}" for title, value in enough.point.values.items() if title != _SIZE]
        with_others = f"with {' and '.join(others)}: " if others else ""
        much = f"{with_others}{measured(enough.summary, Metric.BYTES):.1f} % of bytes"
        if size < max(sizes):
            yield f"{label}: {_SIZE} {count(size)} is enough ({much})"
        else:
            yield f"{label}: {_SIZE} {count(size)}, the largest tried, is the best ({much})"

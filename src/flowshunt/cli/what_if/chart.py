"""The results as a chart: an SVG file, by pygal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowshunt.base.errors import UsageError
from flowshunt.cli.what_if.render import titles, value_text
from flowshunt.cli.what_if.summary import Metric, Tried, measured

_TITLES = {
    Metric.BYTES: "bytes that skip the tables (%)",
    Metric.PACKETS: "packets that skip the tables (%)",
    Metric.CONNECTIONS: "connections offloaded at a time",
    Metric.REFUSED: "connections refused",
}
_WIDTH, _HEIGHT, _LINE = 1000, 560, 22
"""Of the picture, without its legend, and a line of that."""
_PERCENT = (Metric.BYTES, Metric.PACKETS)


def check(path: str) -> None:
    """Raise UsageError, before anything is measured, when no chart can be written there."""
    if not path.lower().endswith(".svg"):
        raise UsageError(f"--chart {path}: charts are SVG files", hint="give it a name that ends in .svg")
    _library()


def write(path: str, results: Sequence[Tried], metric: Metric, title: str) -> None:
    """Write a chart: the first axis that has several values to the right, and a line for each of the others' values.

    Without such an axis, a bar for each point. Raises OSError.
    """
    axes = titles(results)
    across = next((axis for axis in axes if len(_values(results, axis)) > 1), None)
    chart = _bars(results, metric) if across is None else _lines(results, metric, across, axes)
    chart.title, chart.y_title = title, _TITLES[metric]
    chart.height = _HEIGHT + _LINE * len(chart.raw_series)
    Path(path).write_bytes(chart.render())


def _library() -> Any:
    try:
        import pygal
    except ImportError:
        raise UsageError("--chart needs pygal", hint="pip install 'flowshunt[chart]'") from None
    # Its finder of plug-ins has no find_spec, of which Python 3.11 warns at every later import.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != pygal.__name__]
    return pygal


def _values(results: Sequence[Tried], axis: str) -> list[str]:
    return list(dict.fromkeys(result.point.values[axis] for result in results if axis in result.point.values))


def _new(kind: str, metric: Metric) -> Any:
    """An empty chart that is the same for the same results, and asks nothing of the network or of scripts."""
    options: dict[str, Any] = {"js": (), "legend_at_bottom": True, "truncate_legend": -1, "include_x_axis": True}
    options |= {"legend_at_bottom_columns": 1, "width": _WIDTH, "stroke_style": {"width": 2}, "dots_size": 4}
    if metric in _PERCENT:
        options |= {"range": (0, 100), "value_formatter": lambda value: f"{value:.1f} %"}
    else:
        options |= {"value_formatter": lambda value: f"{value:,.0f}"}
    chart = getattr(_library(), kind)(**options)
    chart.uuid = "flowshunt"
    chart.add_xml_filter(_without_scripts)
    return chart


def _without_scripts(root: Any) -> Any:
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag == "script"]:
            parent.remove(child)
    return root


def _lines(results: Sequence[Tried], metric: Metric, across: str, axes: Sequence[str]) -> Any:
    values = _values(results, across)
    chart = _new("Line", metric)
    chart.x_title, chart.x_labels = across, [value_text(value) for value in values]
    varied = [axis for axis in axes if axis != across and len(_values(results, axis)) > 1]
    lines: dict[str, dict[str, float]] = {}
    for result in results:
        line = lines.setdefault(_name(result, varied), {})
        height = measured(result.summary, metric)
        for value in [result.point.values[across]] if across in result.point.values else values:
            line[value] = height
    for name, line in lines.items():
        chart.add(name, [line.get(value) for value in values])
    return chart


def _bars(results: Sequence[Tried], metric: Metric) -> Any:
    chart = _new("Bar", metric)
    for result in results:
        chart.add(_name(result, ()), measured(result.summary, metric))
    return chart


def _name(result: Tried, axes: Sequence[str]) -> str:
    values = [f"{axis} {value_text(result.point.values[axis])}" for axis in axes if axis in result.point.values]
    return ", ".join([result.point.offer.label, *values])

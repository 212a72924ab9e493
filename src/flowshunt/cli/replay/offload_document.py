"""What providers did in a run, as JSON."""

from __future__ import annotations

from typing import Any

from flowshunt.cli.replay.offloading import ConnectionReport, OffloadReport
from flowshunt.cli.replay.series import Series


def document(report: OffloadReport) -> dict[str, Any]:
    """The run as a whole; times are nanoseconds since the epoch."""
    compared = report.comparison
    return {
        "providers": [
            {
                "name": provider.name,
                "mark": provider.mark,
                "counters": dict(provider.counters),
                "refusals": [{"reason": code, "times": n} for code, n in provider.refusals.items()],
            }
            for provider in report.providers
        ],
        "packets": report.packets,
        "bytes": report.bytes,
        "shunted_packets": report.shunted_packets,
        "shunted_bytes": report.shunted_bytes,
        "taken": report.taken,
        "handed_back": report.handed_back,
        "withdrawn": report.withdrawn,
        "peak_connections": report.peak_flows,
        "wanted_connections": report.peak_wanted,
        "peak_taken_per_second": report.peak_taken,
        "refused": [{"reason": code, "connections": n} for code, n in report.refused.items()],
        "long_way": [{"cause": name, "packets": n} for name, n in report.misses.items()],
        "over_time": _series(report.series),
        "comparison": None
        if compared is None
        else {
            "unchecked": compared.unchecked,
            "after_unchecked": compared.after,
            "different": compared.different,
            "first_different": compared.first_different,
        },
    }


def connection(report: ConnectionReport | None) -> dict[str, Any]:
    """What a connection's own object says of it."""
    if report is None:
        return {"provider": None, "reasons": {}}
    reasons = {name: reason.code for name, reason in report.reasons.items() if name != report.holder}
    return {"provider": report.holder, "reasons": reasons}


def _series(series: Series) -> dict[str, Any]:
    return {
        "start_ns": series.start_ns,
        "step_ns": series.step_ns,
        "steps": [
            {
                "packets": step.packets,
                "bytes": step.bytes,
                "shunted_packets": step.shunted_packets,
                "shunted_bytes": step.shunted_bytes,
                "connections": step.flows,
                "taken": step.taken,
                "ended": step.ended,
            }
            for step in series.steps
        ],
    }

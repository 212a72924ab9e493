"""The rows of `flowshunt bench live`, measured in turns."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from flowshunt.base.errors import UsageError
from flowshunt.cli.bench.figures import Record
from flowshunt.cli.bench.lab import Lab, lab
from flowshunt.cli.bench.measures import measure_flood, measure_flow_pings, measure_pings, measure_tcp
from flowshunt.cli.bench.rows import ROWS, Ends, Row

TOOLS = ("ip", "iperf3", "ping", "ss", "nft", "sysctl")
REFERENCES = ("bridge", "route_ct_nat")
"""Rows that the others are compared with."""
RATIOS = ("tcp", "udp64", "udp64_100k", "ping")
N_FLOWS = 100_000

Tell = Callable[[str], None]


def check_machine() -> None:
    """Raises UsageError, with what is missing, where this cannot be measured."""
    if os.geteuid() != 0:
        raise UsageError("this makes network namespaces, which needs root", hint="sudo flowshunt bench live")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise UsageError(
            f"not installed: {', '.join(missing)}", hint="Debian: iproute2 iperf3 iputils-ping nftables procps"
        )


def measure_live(
    record: Record,
    names: Sequence[str],
    *,
    rounds: int,
    seconds: float = 2.0,
    n_flows: int = N_FLOWS,
    tell: Tell = lambda line: None,
) -> None:
    """Take every figure of these rows `rounds` times; what belongs to a round is taken one right after the other.

    Raises UsageError when the machine cannot, or a row does not forward; what was made is gone then.
    """
    check_machine()
    with lab() as made, tempfile.TemporaryDirectory() as directory:
        built: dict[str, tuple[Row, Ends]] = {}
        for number, name in enumerate(names, start=1):
            tell(f"building {name}")
            row = ROWS[name]()
            built[name] = row, row.start(made, name.replace("_", ""), number, Path(directory))
        for turn in range(rounds):
            tell(f"round {turn + 1} of {rounds}")
            first = turn % len(names)  # everyone is the first, and the last, now and then
            taken = {}
            for name in (*names[first:], *names[:first]):
                taken[name] = _take(made, record, name, *built[name], Path(directory), seconds, n_flows)
            _compare(record, taken)


def _take(
    made: Lab, record: Record, name: str, row: Row, ends: Ends, directory: Path, seconds: float, n_flows: int
) -> dict[str, float]:
    """One round of a row."""
    values: dict[str, float] = {}

    def report(figure: str, unit: str, value: float) -> None:
        values[figure] = value
        record.add(f"live.{name}.{figure}", unit, value)

    measures: tuple[Callable[[], None], ...] = (
        partial(measure_pings, made, row, ends, report),
        partial(measure_flow_pings, made, row, ends, report, directory),
        partial(measure_tcp, made, row, ends, report, seconds),
        partial(measure_flood, made, row, ends, report, "udp64", 1, seconds),
        partial(measure_flood, made, row, ends, report, "udp64_100k", n_flows, seconds),
    )
    for measure in measures:
        measure()
    return values


def _compare(record: Record, taken: dict[str, dict[str, float]]) -> None:
    """Quotients of what was taken in one round."""
    for reference in REFERENCES:
        for name, values in taken.items():
            if reference not in taken or name == reference:
                continue
            for figure in RATIOS:
                if not taken[reference][figure]:
                    continue
                quotient = values[figure] / taken[reference][figure]
                record.add(f"live.{name}.to_{reference}.{figure}", "ratio", quotient)

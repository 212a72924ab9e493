"""The connections of a run, in the order and style of a listing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from flowshunt.cli.replay.options import TableStyle
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.listing import conntrack8, dpctl, proc

if TYPE_CHECKING:
    from flowshunt.cli.replay.report import Report

_LINES: dict[TableStyle, Callable[[Connection], str]] = {
    TableStyle.CONNTRACK: lambda connection: conntrack8.line(connection, labels=True),
    TableStyle.CONNTRACK_EXTENDED: lambda connection: conntrack8.line(connection, extended=True, labels=True),
    TableStyle.PROC: proc.line,
    TableStyle.DPCTL: dpctl.line,
    TableStyle.DPCTL_MORE: lambda connection: dpctl.line(connection, more=True, statistics=True),
}


def in_order(connections: Iterable[Connection]) -> list[Connection]:
    """By start time, then protocol, zone and tuple, and numbered from 1 in that order.

    The tracker's own numbers say where in its memory a connection lies. That depends on when expired ones made room,
    and so on the size of batches.
    """
    ordered = sorted(connections, key=lambda connection: connection.sort_key)
    numbers: dict[int | None, int] = {connection.id: n for n, connection in enumerate(ordered, 1)}
    return [
        replace(connection, id=n, generation=0, parent=numbers.get(connection.parent))
        for n, connection in enumerate(ordered, 1)
    ]


def write(connections: Iterable[Connection], style: TableStyle, out: TextIO) -> int:
    """One line per connection; returns how many."""
    line = _LINES[style]
    n = 0
    for connection in connections:
        out.write(f"{line(connection)}\n")
        n += 1
    return n


def write_offload(report: Report, out: TextIO) -> int:
    """One line per connection: who forwards it, or for each provider why not; returns how many."""
    connections = report.offload.connections if report.offload is not None else ()
    for connection, offload in zip(report.listing, connections, strict=True):
        who = f" provider={offload.holder}" if offload.holder else ""
        why = [f" {name}={reason.code}" for name, reason in offload.reasons.items() if name != offload.holder]
        out.write(f"{conntrack8.line(connection)}{who}{'' if who else ''.join(why)}\n")
    return len(report.listing)

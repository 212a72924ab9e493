"""The connections of a run, in the order and style of a listing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TextIO

from flowshunt.cli.replay.options import TableStyle
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.listing import conntrack8, dpctl, proc

_LINES: dict[TableStyle, Callable[[Connection], str]] = {
    TableStyle.CONNTRACK: conntrack8.line,
    TableStyle.CONNTRACK_EXTENDED: lambda connection: conntrack8.line(connection, extended=True),
    TableStyle.PROC: proc.line,
    TableStyle.DPCTL: dpctl.line,
    TableStyle.DPCTL_MORE: lambda connection: dpctl.line(connection, more=True, statistics=True),
}


def in_order(connections: Iterable[Connection]) -> list[Connection]:
    """By start time, then protocol, zone and tuple."""
    return sorted(connections, key=lambda connection: connection.sort_key)


def write(connections: Iterable[Connection], style: TableStyle, out: TextIO) -> int:
    """One line per connection; returns how many."""
    line = _LINES[style]
    n = 0
    for connection in connections:
        out.write(f"{line(connection)}\n")
        n += 1
    return n

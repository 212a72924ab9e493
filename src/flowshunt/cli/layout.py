"""Tables and short texts, for a terminal or for a pipe.

What is shown is described once, as `Section`s; `write_plain` prints aligned text without any marks, `write_rich` uses
rich. Numbers come as text, aligned right where the column says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading (may be empty), and whether it holds numbers."""

    name: str
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a table (its column names are left out when all are empty), and remarks below it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


def write_plain(sections: Sequence[Section], out: TextIO) -> None:
    """Aligned text; no line ends in spaces."""
    for number, section in enumerate(sections):
        if number:
            out.write("\n")
        out.write(f"{section.title}\n")
        names = tuple(column.name for column in section.columns)
        lines = ((names, *section.rows)) if any(names) and section.rows else section.rows
        widths = [max((len(line[c]) for line in lines), default=0) for c in range(len(names))]
        for line in lines:
            cells = [
                cell.rjust(width) if column.is_number else cell.ljust(width)
                for cell, width, column in zip(line, widths, section.columns, strict=True)
            ]
            out.write(f"  {'  '.join(cells)}".rstrip() + "\n")
        for remark in section.remarks:
            out.write(f"  {remark}\n")


def write_rich(sections: Sequence[Section], console: Console) -> None:
    """The same for a terminal, as wide as it is."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    for number, section in enumerate(sections):
        if number:
            console.print()
        console.print(Text(section.title, style="bold"))
        named = any(column.name for column in section.columns)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=named, header_style="dim")
        for column in section.columns:
            table.add_column(column.name, justify="right" if column.is_number else "left", overflow="fold")
        for row in section.rows:
            table.add_row(*(Text(cell) for cell in row))
        if section.rows:
            console.print(Padding(table, (0, 0, 0, 2)))
        for remark in section.remarks:
            console.print(Padding(Text(remark, style="yellow"), (0, 0, 0, 2)))

"""What commands, their options and their help are made of: click's, with options in groups and examples as written.

An indented paragraph of a help text stays on its lines, however long; headings and names are bold on a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

import click

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
"""Of the outermost command; those below inherit them."""

_OPTIONS = "Options"
_VERBATIM = "\b\n"
"""click leaves a paragraph that begins so as it is."""


class _Formatter(click.HelpFormatter):
    def write_heading(self, heading: str) -> None:
        super().write_heading(click.style(heading, bold=True))

    def write_text(self, text: str) -> None:
        paragraphs = (_VERBATIM + part if part.startswith(" ") else part for part in text.split("\n\n"))
        super().write_text("\n\n".join(paragraphs))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(click.style(term, bold=True), text) for term, text in rows], col_max, col_spacing)


class _Context(click.Context):
    formatter_class = _Formatter


class Command(click.Command):
    """A command whose help shows options in groups."""

    context_class = _Context

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section for each group, in the order in which they first come."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", _OPTIONS), []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first paragraph, whole."""
        return _first_paragraph(self)


class Group(click.Group):
    """A command with such commands below it, or groups. Without arguments it prints its help and fails."""

    context_class = _Context
    command_class = Command
    group_class = type

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added, not by name."""
        return list(self.commands)

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first paragraph, whole."""
        return _first_paragraph(self)


class Option(click.Option):
    """An option that help shows under the heading `group`."""

    def __init__(self, declarations: Iterable[str], *, group: str = _OPTIONS, **more: Any) -> None:
        super().__init__(list(declarations), **more)
        self.group = group


class OneOf(click.Choice[Any]):
    """A member of an enumeration, written as its value."""

    def normalize_choice(self, choice: object, ctx: click.Context | None) -> str:
        """The value, where click takes the name."""
        return super().normalize_choice(choice.value if isinstance(choice, Enum) else choice, ctx)


FILE = click.Path(allow_dash=True)
"""The name of a file, or - for a standard stream; the shell completes it, the command opens it."""


def _first_paragraph(command: click.Command) -> str:
    return " ".join((command.help or "").strip().split("\n\n")[0].split())

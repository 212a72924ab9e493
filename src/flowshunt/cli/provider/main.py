"""The commands below `flowshunt provider`, their arguments and their help. Stays clear of numpy."""

from __future__ import annotations

from typing import Annotated

import typer

from flowshunt.cli.failures import reported

_CHECK_HELP = """
Check an offload provider against the contract (docs/providers.md).

NAME is a provider out of `flowshunt provider list`, or module:class of one that is not installed. Each scenario gets
a fresh provider and a deadline; the scorecard says what it broke.

Examples:

    flowshunt provider check dummy

    flowshunt provider check my_nic.offload:Provider --only life --only flush

    flowshunt provider check my-nic --json | jq '.scenarios[] | select(.verdict == "failed")'

Exit status: 0 when nothing failed, 1 when something did, 2 for wrong usage.
"""

app = typer.Typer(help="Offload providers: list them, check one.", no_args_is_help=True, rich_markup_mode="markdown")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command("list", help="List the offload providers that are built in or installed.")
def list_(json: Json = False) -> None:
    """List providers."""
    with reported():
        from flowshunt.cli.provider.listing import execute

        execute(json=json)


@app.command(help=_CHECK_HELP)
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A provider's name, or module:class.")],
    only: Annotated[list[str] | None, typer.Option("--only", metavar="SCENARIO", help="Only this; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Check a provider."""
    with reported():
        from flowshunt.cli.provider.checking import execute

        raise SystemExit(execute(name, only=tuple(only or ()), json=json))

"""The commands below `flowshunt provider`, their arguments and their help. Stays clear of numpy."""

from __future__ import annotations

import click

from flowshunt.cli.commands import Group, Option
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

app = Group("provider", help="Offload providers: list them, check one.")


@app.command(
    "list",
    help="List the offload providers that are built in or installed.",
    params=[Option(["--json"], is_flag=True, help="Print JSON instead of text.")],
)
def list_(json: bool) -> None:
    """List providers."""
    with reported():
        from flowshunt.cli.provider.listing import execute

        execute(json=json)


@app.command(
    help=_CHECK_HELP,
    params=[
        click.Argument(["name"], help="A provider's name, or module:class."),
        Option(["--only"], multiple=True, metavar="SCENARIO", help="Only this; repeatable."),
        Option(["--json"], is_flag=True, help="Print JSON instead of text."),
    ],
)
def check(name: str, only: tuple[str, ...], json: bool) -> None:
    """Check a provider."""
    with reported():
        from flowshunt.cli.provider.checking import execute

        raise SystemExit(execute(name, only=only, json=json))

"""The group of commands `flowshunt offload`."""

from __future__ import annotations

from typing import Any

import click

from flowshunt.cli.commands import Group, Option
from flowshunt.cli.conntrack.arguments import FILTERS
from flowshunt.cli.failures import reported

_HELP = """
Offloading of a switch that runs: what providers have, why a connection is not offloaded, and taking connections back.

    flowshunt offload show

    flowshunt offload explain -p tcp --dport 443

    flowshunt offload flush --zone 5
"""

_SHOW_HELP = """
Show who forwards connections past the tables: entries, hit ratio, rate, queue, and refusals by reason.

    flowshunt offload show --json | jq '.providers[] | {name, entries, taken_per_second}'
"""

_EXPLAIN_HELP = """
Say why connections are offloaded, or are not: each one's story so far, and how it stands.

Options choose connections as those of flowshunt conntrack do. What happened is kept for a while only, the latest
tens of thousands of steps; how a connection stands is always told.

    flowshunt offload explain -s 10.0.0.1 --dport 443

    flowshunt offload explain -w 5 --json | jq '.connections[].reasons'

Exit status: 0, 1 when no connection is like that, 2 for wrong usage or when no switch answers.
"""

_FLUSH_HELP = """
Take connections back from those who forward them: all, those of a zone, or those of one provider.

They go on through tables and tracker, and their next packets offer them again. No packet is lost.
"""

_SOCKET = Option(["--socket"], metavar="PATH", help="Socket of the switch, or its directory.")
_JSON = Option(["--json"], is_flag=True, help="Print JSON instead of text.")

app = Group("offload", help=_HELP)


@app.command(help=_SHOW_HELP, params=[_JSON, _SOCKET])
def show(json: bool, socket: str | None) -> None:
    """Show providers."""
    with reported():
        from flowshunt.cli.offload.asking import show

        show(socket, as_json=json)


@app.command(
    help=_EXPLAIN_HELP,
    params=[
        *FILTERS,
        Option(["--limit"], type=click.IntRange(1, 100), default=20, metavar="N", help="Tell at most N stories."),
        _JSON,
        _SOCKET,
    ],
)
def explain(**values: Any) -> None:
    """Tell stories."""
    with reported():
        from flowshunt.cli.offload.asking import explain

        raise SystemExit(explain(values))


@app.command(
    help=_FLUSH_HELP,
    params=[
        Option(["-w", "--zone"], type=click.IntRange(0, 65535), metavar="ZONE", help="Only what passes this zone."),
        Option(["--provider"], metavar="NAME", help="Only what this provider forwards."),
        _SOCKET,
    ],
)
def flush(zone: int | None, provider: str | None, socket: str | None) -> None:
    """Take connections back."""
    with reported():
        from flowshunt.cli.offload.asking import flush

        flush(socket, zone, provider)

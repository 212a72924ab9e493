"""The commands below `flowshunt bench`, their arguments and their help. Stays clear of numpy."""

from __future__ import annotations

import click

from flowshunt.cli.commands import FILE, Group, Option
from flowshunt.cli.failures import reported

_LIVE_HELP = """
Measure ways of forwarding side by side, with real traffic between network namespaces.

Rows: a bridge of the kernel's (bridge), its router with connection tracking and NAT (route_ct_nat), Flowshunt without
offloading (slow, slow_nat; slow_afxdp with ports of that type) and with an offload provider (flowtable,
flowtable_nat; with NAT by the kernel: kernel_tc, kernel_tc_plain without kernel-peer, and kernel_xdp, of which small
frames are counted before the receiver makes packets of them, as where ports are network cards). Each figure is taken of
all rows in every round; the table has medians with the least and the most, CPU time, packets that came up to the
switch's process, and quotients within the rounds. Namespaces are made for it, and go in the end. It needs root, iperf3,
ping, nft and ip.

Examples:

    flowshunt bench live

    flowshunt bench live --only bridge --only slow --rounds 3 --json live.json

Exit status: 0, 2 when it cannot be measured here, 130 after Ctrl-C.
"""

app = Group("bench", help="Measurements to repeat on a machine of your own.")


@app.command(
    help=_LIVE_HELP,
    params=[
        Option(["--only"], multiple=True, metavar="ROW", help="Only this row; repeatable."),
        Option(["--rounds"], type=click.IntRange(1, 1000), default=5, show_default=True, help="How often."),
        Option(
            ["--seconds"], type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, help="Of each measurement."
        ),
        Option(
            ["--flows"], type=click.IntRange(2, 1_000_000), default=100_000, show_default=True, help="Of udp64_100k."
        ),
        Option(["--json", "json_file"], type=FILE, metavar="FILE", help="Write the figures here; -: no table."),
        Option(["--quiet", "-q"], is_flag=True, help="No progress."),
    ],
)
def live(only: tuple[str, ...], rounds: int, seconds: float, flows: int, json_file: str | None, quiet: bool) -> None:
    """Measure a running switch."""
    with reported():
        from flowshunt.cli.bench.command import execute

        execute(only, rounds=rounds, seconds=seconds, n_flows=flows, json_file=json_file, quiet=quiet)

"""The command line: what there is, its arguments and its help."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flowshunt import __version__
from flowshunt.cli.failures import reported
from flowshunt.cli.provider.main import app as provider
from flowshunt.cli.replay import arguments
from flowshunt.cli.replay.options import Profile, ReplayOptions

_HELP = """
A stateful virtual switch: OpenFlow tables, connection tracking, and captures to try them on.

Start with a capture; every packet is tracked, and the summary says what there was:

    flowshunt replay capture.pcap

Then with rules of your own, and the connection table as conntrack -L prints it:

    flowshunt replay capture.pcap --flows rules.flows --table conntrack
"""

_REPLAY_HELP = """
Run a capture through the switch, on the capture's clock.

CAPTURE is a pcap or pcapng file, also compressed (.gz, .zst), or - for standard input. Its two sides become two ports
of the switch; who is inside is inferred, or told by --inside. Several captures, one per port, go in with --port.
The same input always gives the same output.

Examples:

    flowshunt replay a.pcap --set-flow "table=0,ip,actions=ct(commit,table=1)" --set-flow "table=1,actions=normal"

    flowshunt replay --port p0=wire.pcap --port pf0hpf=host.pcap --flows rules.flows --table dpctl

    flowshunt replay a.pcap.zst --states - | sort -k2 | uniq -c -f1

    flowshunt replay a.pcap --quiet --json - | jq '.connections[] | select(.state == "SYN_SENT")'

Exit status: 0 when the capture was read whole, 1 when it was damaged (after reporting what was read), 2 for wrong
usage or rules, 130 after Ctrl-C (after reporting what was done).
"""

_WARMUP_HELP = """
Compile all kernels now, so that no later command has to.

Kernels are compiled once and kept: in the package's own folder, or else in the user's cache. FLOWSHUNT_CACHE_DIR
chooses another place.
"""

app = typer.Typer(
    name="flowshunt",
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(provider, name="provider")


def main() -> None:
    """Run the command line and leave with its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"flowshunt {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself; its help is the application's."""


@app.command(help=_REPLAY_HELP)
def replay(
    capture: arguments.Capture = None,
    ports: arguments.Ports = None,
    inside: arguments.Inside = None,
    sides: arguments.Sides = "inside,outside",
    limit: arguments.Limit = None,
    flow_files: arguments.Flows = None,
    flows: arguments.SetFlows = None,
    profile: arguments.ProfileChoice = Profile.DEFAULT,
    no_checksum: arguments.NoChecksum = False,
    no_sequence_check: arguments.NoSequenceCheck = False,
    max_connections: arguments.MaxConnections = 3_000_000,
    batch_size: arguments.BatchSize = 256,
    table: arguments.Table = None,
    states: arguments.States = None,
    json: arguments.Json = None,
    write: arguments.Write = None,
    write_ports: arguments.WritePorts = None,
    quiet: arguments.Quiet = False,
) -> None:
    """Run a capture through the switch."""
    inner, outer = sides.split(",")
    options = ReplayOptions(
        capture=capture,
        ports=tuple(ports or ()),
        inside=tuple(inside or ()),
        sides=(inner, outer),
        flow_files=tuple(flow_files or ()),
        flows=tuple(flows or ()),
        profile=profile,
        check_checksums=not no_checksum,
        check_sequence=not no_sequence_check,
        batch_size=batch_size,
        max_connections=max_connections,
        limit=limit,
        table=table,
        states=states,
        json=json,
        write_directory=write,
        write_ports=tuple(write_ports or ()),
        quiet=quiet,
    )
    with reported():
        options.check()
        from flowshunt.cli.replay.command import execute

        raise SystemExit(execute(options))


@app.command(help=_WARMUP_HELP)
def warmup() -> None:
    """Compile all kernels."""
    with reported():
        from flowshunt.cli.warmup import execute

        execute()

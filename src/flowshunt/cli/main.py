"""The command line: what there is, its arguments and its help."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flowshunt import __version__
from flowshunt.cli.failures import reported
from flowshunt.cli.provider.main import app as provider
from flowshunt.cli.replay import arguments
from flowshunt.cli.replay.options import Given, ReplayOptions

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

    flowshunt replay a.pcap --config site.toml --zone-limit 5=1000 --timeout 5:tcp_established=600

    flowshunt replay monday.pcap --quiet --json monday.json; flowshunt replay tuesday.pcap --load-table monday.json

Exit status: 0 when the capture was read whole, 1 when it was damaged or entries of --load-table were refused (after
reporting what was read), 2 for wrong usage, rules or configuration, 130 after Ctrl-C (after reporting what was done).
"""

_WARMUP_HELP = """
Compile all kernels now, so that no later command has to.

Kernels are compiled once and kept: in the package's own folder, or else in the user's cache. FLOWSHUNT_CACHE_DIR
chooses another place.
"""

_CONFIG_HELP = """
Settings as a TOML file, for flowshunt replay --config FILE.

Begin with the defaults, and keep what differs:

    flowshunt config show > site.toml
"""

app = typer.Typer(
    name="flowshunt",
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(config_app, name="config", help=_CONFIG_HELP)
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
    sides: arguments.Sides = None,
    limit: arguments.Limit = None,
    flow_files: arguments.Flows = None,
    flows: arguments.SetFlows = None,
    config_file: arguments.ConfigFile = None,
    profile: arguments.ProfileChoice = None,
    no_checksum: arguments.NoChecksum = False,
    no_sequence_check: arguments.NoSequenceCheck = False,
    helpers: arguments.Helpers = False,
    max_connections: arguments.MaxConnections = None,
    zone_limits: arguments.ZoneLimits = None,
    timeouts: arguments.Timeouts = None,
    batch_size: arguments.BatchSize = 256,
    load_table: arguments.LoadTable = None,
    table: arguments.Table = None,
    states: arguments.States = None,
    json: arguments.Json = None,
    write: arguments.Write = None,
    write_ports: arguments.WritePorts = None,
    quiet: arguments.Quiet = False,
) -> None:
    """Run a capture through the switch."""
    given = Given(
        profile=profile,
        no_checksum=no_checksum,
        no_sequence_check=no_sequence_check,
        helpers=helpers,
        max_connections=max_connections,
        zone_limits=tuple(zone_limits or ()),
        timeouts=tuple(timeouts or ()),
    )
    with reported():
        from flowshunt.cli.replay import settings
        from flowshunt.config import Config, read_config

        config = settings.overlay(read_config(config_file) if config_file is not None else Config(), given)
        has_rules = bool(flow_files or flows)
        options = ReplayOptions(
            capture=capture,
            ports=tuple(ports or ()),
            inside=tuple(inside or (() if ports else settings.inside(config))),
            sides=settings.sides(config, sides),
            flow_files=tuple(flow_files or ()) if has_rules else settings.flow_files(config, config_file),
            flows=tuple(flows or ()) if has_rules else config.switch.flows,
            flows_source="--set-flow" if has_rules else f"{config_file}: [switch] flows",
            config=config,
            config_file=config_file,
            batch_size=batch_size,
            limit=limit,
            load_table=load_table,
            table=table,
            states=states,
            json=json,
            write_directory=write,
            write_ports=tuple(write_ports or ()),
            quiet=quiet,
        )
        options.check()
        from flowshunt.cli.replay.command import execute

        raise SystemExit(execute(options))


@app.command(help=_WARMUP_HELP)
def warmup() -> None:
    """Compile all kernels."""
    with reported():
        from flowshunt.cli.warmup import execute

        execute()


@config_app.command()
def check(file: Annotated[str, typer.Argument(metavar="FILE", help="The file to read.", show_default=False)]) -> None:
    """Say what is wrong with a configuration, all of it at once; nothing when it is right."""
    with reported():
        from flowshunt.config import read_config

        read_config(file)


@config_app.command()
def show() -> None:
    """Print every setting with its description and default, as a TOML file."""
    from flowshunt.config.show import text

    print(text(), end="")

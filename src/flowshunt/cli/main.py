"""The command line: what there is, its arguments and its help.

A command is a function below `@GROUP.command(help=..., params=[...])`. The outermost group is `app`; another group is a
`Group` in a module of its own (`cli/provider/main.py` is one), registered by `app.add_command` at the end of this one.
Parameters are `click.Argument` and `cli.commands.Option`, listed in `params`, and arrive under their names
(`--zone-limit` as `zone_limit`). The first paragraph of a help text stands in the list of commands; indented
paragraphs, the examples, keep their lines. The function does all its work in `with reported():` and imports there what
it needs, so that neither `--help` nor another command waits for it; where its exit status may be something else than 0,
it ends by `raise SystemExit(status)`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import click

from flowshunt import __version__
from flowshunt.cli.bench.main import app as bench
from flowshunt.cli.commands import CONTEXT_SETTINGS, FILE, Group, Option
from flowshunt.cli.conntrack import arguments as conntrack_arguments
from flowshunt.cli.failures import reported
from flowshunt.cli.offload.main import app as offload
from flowshunt.cli.provider.main import app as provider
from flowshunt.cli.replay import arguments
from flowshunt.cli.trace import arguments as trace_arguments
from flowshunt.cli.what_if import arguments as what_if_arguments

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

    flowshunt replay a.pcap --flows rules.flows --offload eswitch:bluefield-2 --table offload

    flowshunt replay a.pcap --flows rules.flows --offload flowtable,timeout=60 --compare

    flowshunt replay monday.pcap --quiet --json monday.json; flowshunt replay tuesday.pcap --load-table monday.json

Exit status: 0 when the capture was read whole, 1 when it was damaged, entries of --load-table were refused or --compare
found a difference (after reporting what was read), 2 for wrong usage, rules or configuration, 130 after Ctrl-C (after
reporting what was done).
"""

_RUN_HELP = """
Run a switch on network devices until SIGTERM or Ctrl-C.

The file says which bridges there are, their ports and rules, and how connections are tracked:

    [bridge.br0]
    ports = ["eth1", "eth2"]
    flows = ["arp,actions=normal", "ip,ct_state=-trk,actions=ct(table=1)", "table=1,actions=ct(commit),normal"]

It listens for OpenFlow on a socket per bridge: ovs-ofctl dump-flows unix:/run/flowshunt/br0.mgmt

flowshunt config show prints everything that can be set. Exit status: 0 after a signal, 2 for wrong usage, rules or
configuration.
"""

_VSWITCHD_HELP = """
Stand in for ovs-vswitchd: bridges and ports come from ovsdb-server, ovs-appctl and ovs-ofctl talk to it.

DATABASE is unix:$OVS_RUNDIR/db.sock unless it is given. The flags are those of ovs-vswitchd(8), `flowshunt vswitchd
--help` lists them. With a script named ovs-vswitchd on PATH, what starts Open vSwitch's daemon starts this one:

    printf '#!/bin/sh\\nexec flowshunt vswitchd "$@"\\n' > /usr/local/sbin/ovs-vswitchd
"""

_CONNTRACK_HELP = """
List and change the connections of a switch that runs, with the options and formats of conntrack(8).

Examples:

    flowshunt conntrack -L -p tcp --dport 443 -o extended

    flowshunt conntrack -L -u OFFLOAD

    flowshunt conntrack -D -s 10.0.0.0/8 -w 5

    flowshunt conntrack -L -o json | jq '.[] | select(.mark == 1)'

    flowshunt conntrack -E -p udp -e NEW,DESTROY -o timestamp

    flowshunt conntrack -E -o json | jq -r 'select(.reason == "expired") | .connection.original.source'

-E never slows the switch: events wait in a queue, those that find it full are lost, and how many is told here. A batch
of packets is one moment: of several changes in it, the later state may show in all of its lines.

Exit status: 0; 1 when -G, -D, -U or -E found none, or what -I would make is there; 2 for wrong usage or when no switch
answers.
"""

_TOP_HELP = """
Show what a switch that runs does just now: rates per port, connections, what passes the tables, refusals, drops.

On a terminal the screen is drawn anew with each measurement, until Ctrl-C; elsewhere one is printed after the other.

Examples:

    flowshunt top

    flowshunt top --once

    flowshunt top --json --interval 10 | jq '{connections, hit: .bridges[0].hit_ratio}'
"""

_EXPLAIN_HELP = """
Say why connections of a capture are offloaded, or are not.

The capture is replayed as by flowshunt replay, and each connection's story is told: when it was committed and answered,
which way its packets took by which rules, who was offered it, and how it ended. Without --offload it is flowtable.

Examples:

    flowshunt explain a.pcap --flows rules.flows --connection "dst=10.0.0.2 dport=443"

    flowshunt explain a.pcap --offload eswitch:bluefield-2 --json | jq '.connections[].reasons'

Exit status: 0 when there was something to tell, 1 when no connection was like that or the capture was damaged, 2 for
wrong usage, 130 after Ctrl-C.
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

NAME = "flowshunt"

_GARBAGE_THRESHOLD = 50_000
"""Objects between two looks for garbage: with Python's 700, a start spends a tenth of its time on looking."""


def main() -> None:
    """Run the command line and leave with its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    gc.set_threshold(_GARBAGE_THRESHOLD)
    app(prog_name=NAME)


def _print_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        print(f"flowshunt {__version__}")
        raise SystemExit(0)


def _show_completion(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        with reported():
            from flowshunt.cli.completion import script

            print(script(app, NAME))
            raise SystemExit(0)


def _install_completion(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        with reported():
            from flowshunt.cli.completion import install

            print(install(app, NAME))
            raise SystemExit(0)


def _flag(name: str, callback: Callable[[click.Context, click.Parameter, bool], None], help_text: str) -> Option:
    return Option([name], is_flag=True, is_eager=True, expose_value=False, callback=callback, help=help_text)


app = Group(
    NAME,
    help=_HELP,
    context_settings=CONTEXT_SETTINGS,
    params=[
        _flag("--version", _print_version, "Print the version and exit."),
        _flag("--install-completion", _install_completion, "Install completion for the current shell."),
        _flag("--show-completion", _show_completion, "Print the completion of the current shell."),
    ],
)
_config = Group("config", help=_CONFIG_HELP)


@app.command(help=_REPLAY_HELP, params=list(arguments.PARAMETERS))
def replay(**parameters: Any) -> None:
    """Run a capture through the switch."""
    with reported():
        from flowshunt.cli.replay.gathering import gather

        options = gather(**parameters)
        options.check()
        from flowshunt.cli.replay.command import execute

        raise SystemExit(execute(options))


@app.command("what-if", help=what_if_arguments.HELP, params=list(what_if_arguments.PARAMETERS))
def what_if(**parameters: Any) -> None:
    """Replay a capture with other providers and limits."""
    with reported():
        from flowshunt.cli.what_if.gathering import execute

        raise SystemExit(execute(**parameters))


@app.command(
    help=_RUN_HELP,
    params=[
        Option(["--config", "config_file"], type=FILE, metavar="FILE", help="What to make, as a TOML file."),
        Option(["--db", "database"], metavar="REMOTE", help="Or a database that says it: unix:PATH, tcp:HOST:PORT."),
        Option(["--rundir"], metavar="DIR", help="Directory of the sockets."),
        Option(["--pidfile", "pid_file"], metavar="FILE", help="Write the process number here."),
        Option(["--busy-poll"], is_flag=True, help="Never sleep while no packets come."),
    ],
)
def run(
    config_file: str | None, database: str | None, rundir: str | None, pid_file: str | None, busy_poll: bool
) -> None:
    """Run a switch on network devices."""
    with reported():
        if (config_file is None) == (database is None):
            raise click.UsageError("say either --config or --db")
        from flowshunt.cli.run import execute, follow

        if config_file is None:
            follow(str(database), rundir=rundir, pid_file=pid_file)
            return
        execute(config_file, rundir=rundir, pid_file=pid_file, busy_poll=busy_poll)


@app.command(
    help=_VSWITCHD_HELP,
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, metavar="[DATABASE] [FLAG]...")],
)
def vswitchd(words: tuple[str, ...]) -> None:
    """Stand in for ovs-vswitchd."""
    from flowshunt.cli.vswitchd.main import run

    raise SystemExit(run(list(words)))


_SOCKET = Option(["--socket"], metavar="PATH", help="Socket of the switch, or its directory.")


@app.command(help=_CONNTRACK_HELP, params=conntrack_arguments.PARAMS)
def conntrack(**values: Any) -> None:
    """List and change the connections of a switch that runs."""
    with reported():
        action = conntrack_arguments.action_of(values)
        from flowshunt.cli.conntrack.command import execute

        raise SystemExit(execute(action, values))


@app.command("show", help="Show the bridges and ports of a switch that runs.", params=[_SOCKET])
def show_switch(socket: str | None) -> None:
    """Show a switch that runs."""
    with reported():
        from flowshunt.cli.shown import show

        show(socket)


@app.command(
    help="Show the flows of a switch that runs, with their counters.",
    params=[click.Argument(["bridge"], required=False), _SOCKET],
)
def flows(bridge: str | None, socket: str | None) -> None:
    """Show the flows of a switch that runs."""
    with reported():
        from flowshunt.cli.shown import flows

        flows(bridge, socket)


@app.command(
    help=_TOP_HELP,
    params=[
        Option(
            ["--interval", "-d"],
            type=click.FloatRange(0.1, 3600),
            default=1.0,
            metavar="SECONDS",
            help="How long each measurement takes (1).",
        ),
        Option(["--once"], is_flag=True, help="Measure once, print, and end."),
        Option(["--json"], is_flag=True, help="Print each measurement as a line of JSON."),
        _SOCKET,
    ],
)
def top(interval: float, once: bool, json: bool, socket: str | None) -> None:
    """Show what a switch does just now."""
    with reported():
        from flowshunt.cli.top.command import execute

        execute(socket, interval, once=once, as_json=json)


@app.command(
    help=_EXPLAIN_HELP,
    params=[
        *(parameter for parameter in arguments.SWITCH if parameter.name != "load_table"),
        *arguments.OFFLOAD,
        Option(
            ["--connection", "-c", "words"],
            metavar="WORDS",
            default="",
            help="Only connections whose original direction is like that: src=, dst= (address or network), sport=, "
            "dport=, proto=, zone=, mark=, separated by spaces.",
        ),
        Option(["--json"], is_flag=True, help="Print JSON instead of text."),
        Option(["--quiet", "-q"], is_flag=True, help="No progress."),
    ],
)
def explain(words: str, json: bool, **parameters: Any) -> None:
    """Tell the stories of connections."""
    with reported():
        from flowshunt.cli.explain.command import execute
        from flowshunt.cli.replay.gathering import gather
        from flowshunt.cli.replay.options import Offload

        options = gather(**{**parameters, "offloads": parameters["offloads"] or (Offload("flowtable"),)})
        options.check()
        raise SystemExit(execute(options, words, json=json))


@app.command(help=trace_arguments.HELP, params=list(trace_arguments.PARAMETERS))
def trace(**values: Any) -> None:
    """Explain what rules do to a packet."""
    with reported():
        from flowshunt.cli.trace.command import execute

        execute(values)


@app.command(help=_WARMUP_HELP)
def warmup() -> None:
    """Compile all kernels."""
    with reported():
        from flowshunt.cli.warmup import execute

        execute()


@_config.command(params=[click.Argument(["file"], type=FILE, help="The file to read.")])
def check(file: str) -> None:
    """Say what is wrong with a configuration, all of it at once; nothing when it is right."""
    with reported():
        from flowshunt.config import read_config

        read_config(file)


@_config.command()
def show() -> None:
    """Print every setting with its description and default, as a TOML file."""
    from flowshunt.config.show import text

    print(text(), end="")


app.add_command(_config)
app.add_command(bench)
app.add_command(offload)
app.add_command(provider)

"""What the daemon gets of the flags."""

from __future__ import annotations

from flowshunt.cli.vswitchd.arguments import PROGRAM, Options
from flowshunt.control.unixctl.server import socket_path
from flowshunt.daemon.vswitchd import Settings


def settings(options: Options, version: str, missing: frozenset[int] = frozenset()) -> Settings:
    """The settings that the flags ask for; `missing`: capabilities that would be needed."""
    unixctl = options.unixctl or socket_path(options.rundir, PROGRAM)
    return Settings(
        program=PROGRAM,
        version=version,
        rundir=options.rundir,
        database=options.database,
        unixctl=unixctl if options.has_unixctl else None,
        log_file=options.log_file,
        log_levels=tuple(options.verbose),
        is_quiet=options.detaches,
        dummy=options.dummy,
        missing=missing if options.dummy is None else frozenset(),
    )

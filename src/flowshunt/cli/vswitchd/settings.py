"""What the daemon gets of the flags."""

from __future__ import annotations

from flowshunt.cli.vswitchd.arguments import PROGRAM, Options
from flowshunt.control.unixctl.server import socket_path
from flowshunt.daemon.vswitchd import Settings


def settings(options: Options, version: str) -> Settings:
    """The settings that the flags ask for."""
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
    )

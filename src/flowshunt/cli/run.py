"""`flowshunt run`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from flowshunt.base.errors import InputError, UsageError
from flowshunt.base.sockets import default_rundir
from flowshunt.cli import kernels
from flowshunt.config import read_config
from flowshunt.control.unixctl.server import socket_path
from flowshunt.daemon.privileges import drop_privileges, tell_missing
from flowshunt.daemon.run import PROGRAM, VERSION_TEXT, run_forever
from flowshunt.daemon.system import pid_file as held_pid_file
from flowshunt.daemon.vswitchd import Settings, serve_forever
from flowshunt.jit import warm_up


def follow(database: str, *, rundir: str | None, pid_file: str | None) -> None:
    """Run as a database says until a signal. Raises UsageError for what cannot be run, OSError for files."""
    directory = Path(rundir) if rundir else default_rundir()
    settings = Settings(PROGRAM, VERSION_TEXT, directory, database, socket_path(directory, PROGRAM))
    kernels.ready()
    warm_up()
    with held_pid_file(Path(pid_file) if pid_file else None):
        settings = replace(settings, missing=drop_privileges())
        try:
            serve_forever(settings, lambda: print("ready", flush=True))
        except InputError as problem:
            raise UsageError(str(problem)) from None


def execute(file: str, *, rundir: str | None, pid_file: str | None, busy_poll: bool) -> None:
    """Run until a signal. Raises UsageError for what cannot be run, OSError for files."""
    config = read_config(file)
    if not config.bridges:
        raise UsageError(f"{file} names no bridge", hint='[bridge.br0] with ports = ["eth1", "eth2"]')
    said = {"rundir": rundir, "pid_file": pid_file, "busy_poll": busy_poll or None}
    run = replace(config.run, **{name: value for name, value in said.items() if value is not None})  # type: ignore[arg-type]
    config = replace(config, run=run)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    kernels.ready()
    warm_up()  # loads them, too: nothing is to be loaded when the first packet is there
    with held_pid_file(Path(run.pid_file) if run.pid_file else None):
        tell_missing(drop_privileges())
        try:
            run_forever(config, Path(file).parent, lambda line: print(line, flush=True))
        except InputError as problem:
            raise UsageError(str(problem)) from None

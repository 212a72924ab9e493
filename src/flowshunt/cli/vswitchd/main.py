"""The command itself: flags, then detaching, then everything else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from flowshunt.base.version import VERSION
from flowshunt.cli.vswitchd.arguments import PROGRAM, ArgumentError, Options, parse
from flowshunt.cli.vswitchd.detaching import DaemonError, Detached, PidFile, detach, give_log, make_directory

if TYPE_CHECKING:
    from flowshunt.daemon.privileges import Account

VERSION_TEXT = f"{PROGRAM} (Flowshunt) {VERSION}"
_HELP = f"""\
{PROGRAM}: Flowshunt in place of Open vSwitch's daemon
usage: {PROGRAM} [OPTIONS] [DATABASE]
where DATABASE is a socket on which ovsdb-server is listening
      (default: "unix:$OVS_RUNDIR/db.sock").

Daemon options:
  --detach                run in background as daemon
  --no-chdir              do not chdir to '/'
  --pidfile[=FILE]        create pidfile (default: $OVS_RUNDIR/{PROGRAM}.pid)
  --overwrite-pidfile     with --pidfile, start even if already running
  --user=USER[:GROUP]     give up root's privileges and be this user
Logging options:
  -vSPEC, --verbose=SPEC  set logging levels
  -v, --verbose           set maximum verbosity level
  --log-file[=FILE]       enable logging to specified FILE (default: $OVS_LOGDIR/{PROGRAM}.log)
Other options:
  --unixctl=SOCKET        override default control socket name; "none": have none
  --enable-dummy[=LEVEL]  have ports of type dummy; with override, all ports are
  -h, --help              display this help message
  -V, --version           display version information
"""
_FAILED = 1


def run(words: list[str]) -> int:
    """Run with these arguments; returns the exit status."""
    try:
        options = parse(words)
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return _FAILED
    if options.shows == "version":
        print(VERSION_TEXT)
        return 0
    if options.shows == "help":
        print(_HELP, end="")
        return 0
    told = detach() if options.detaches else Detached(None)
    try:
        return _serve(options, told)
    except DaemonError as error:
        print(error, file=sys.stderr)
        return _FAILED


def _serve(options: Options, told: Detached) -> int:
    account = _account(options.user)
    if account is not None:
        make_directory(options.rundir, account.uid, account.gid)
    pid_file = None
    if options.pid_file is not None:
        pid_file = PidFile(options.pid_file, overwrites=options.overwrites_pid_file)
    try:
        from flowshunt.base.errors import FlowshuntError
        from flowshunt.cli import kernels
        from flowshunt.cli.vswitchd.settings import settings
        from flowshunt.daemon.privileges import drop_privileges
        from flowshunt.daemon.vswitchd import serve_forever
        from flowshunt.jit import warm_up

        kernels.ready()
        warm_up()  # loads them, too: nothing is to be loaded when the first packet is there
        if account is not None:
            _hand_over(options, pid_file, account)
        try:
            missing = drop_privileges(account)
            serve_forever(
                settings(options, VERSION_TEXT, missing),
                lambda: told.ready(changes_directory=options.changes_directory),
            )
        except FlowshuntError as error:
            raise DaemonError(f"{PROGRAM}: {error}") from None
    finally:
        if pid_file is not None:
            pid_file.remove()
    sys.stdout.flush()
    os._exit(0)  # the packet thread has ended; whatever else is left needs no farewell


def _account(user: str | None) -> Account | None:
    if user is None:
        return None
    from flowshunt.base.errors import UsageError
    from flowshunt.daemon.privileges import find_account

    try:
        return find_account(user)
    except UsageError as error:
        raise DaemonError(f"{PROGRAM}: --user={user}: {error}") from None


def _hand_over(options: Options, pid_file: PidFile | None, account: Account) -> None:
    """Give what was made as root, and will be needed, to the user."""
    if pid_file is not None:
        pid_file.give_to(account.uid, account.gid)
    if options.log_file is not None:
        give_log(options.log_file, account.uid, account.gid)

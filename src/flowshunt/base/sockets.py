"""Sockets that no one else may use, and where they are."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from flowshunt.base.errors import InputError, UsageError


def default_rundir() -> Path:
    """Where sockets go when nothing else is said."""
    if os.geteuid() == 0:
        return Path("/run/flowshunt")
    own = os.environ.get("XDG_RUNTIME_DIR")
    return Path(own) / "flowshunt" if own else Path(f"/tmp/flowshunt-{os.geteuid()}")


def private_socket(path: Path) -> socket.socket:
    """A unix stream socket bound to `path` with mode 0600, in place of one that was left over there. Raises OSError."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        # The mask is that of all threads and tasks: it is back before any of them has its turn.
        before = os.umask(0o177)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
    except OSError:
        bound.close()
        raise
    return bound


def check_free(path: Path) -> None:
    """Raise UsageError when something is at `path` that is no socket, which `private_socket` would replace."""
    try:
        found = path.lstat()
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise UsageError(f"{path} is there and no socket")


def prepare_directory(directory: Path) -> None:
    """Make a directory that belongs to this user alone, or refuse one that others can write to.

    Raises UsageError, or InputError when the system refuses.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as problem:
        raise InputError(f"cannot use {directory}: {problem.strerror or problem}") from None
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"{directory} belongs to user {found.st_uid}, not to this one ({os.geteuid()})",
            hint=f"chown {os.geteuid()} {directory}",
        )
    if found.st_mode & 0o022:
        raise UsageError(f"{directory} is open to others: others can write to it", hint=f"chmod go-w {directory}")

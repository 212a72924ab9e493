"""What the system around a daemon expects: a pid file, word to systemd."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowshunt.base.errors import UsageError


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Keep a file with our process number, locked as long as we live, and remove it in the end.

    Raises UsageError when another process holds it, OSError when it cannot be written.
    """
    if path is None:
        yield
        return
    with open(path, "a+", encoding="ascii") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise UsageError(f"{path} is held by process {file.read().strip() or '?'}") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def lift_file_limit() -> None:
    """Have as many open files as the system lets this process have: a port is two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tell_systemd(state: str) -> None:
    """Tell systemd, if it has started us (sd_notify(3)): READY=1, STOPPING=1, STATUS=…"""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
        try:
            told.connect(name)
            told.sendall(state.encode())
        except OSError:
            return  # it is a courtesy; the switch works without

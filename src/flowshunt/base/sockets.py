"""Sockets that no one else may use, where they are, and options that nobody has to wait for."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowshunt.base.errors import InputError, UsageError

_LONGEST_NAME = 107
"""Bytes of a path in an address; unix(7)."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.setsockopt.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


def set_option(opened: socket.socket, level: int, option: int, value: bytes) -> None:
    """`setsockopt` for options that take the kernel long: unlike Python's own, it lets other threads go on meanwhile.

    Raises OSError.
    """
    if _LIBC.setsockopt(opened.fileno(), level, option, value, len(value)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def default_rundir() -> Path:
    """Where sockets go when nothing else is said."""
    if os.geteuid() == 0:
        return Path("/run/flowshunt")
    own = os.environ.get("XDG_RUNTIME_DIR")
    return Path(own) / "flowshunt" if own else Path(f"/tmp/flowshunt-{os.geteuid()}")


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name that fits into a socket's address, whatever the length of `path`; it is good while this is entered.

    Raises OSError when there is no such directory.
    """
    if len(os.fsencode(path)) <= _LONGEST_NAME:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def private_socket(path: Path) -> socket.socket:
    """A unix stream socket bound to `path` with mode 0600, in place of one that was left over there. Raises OSError."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        # The mask is that of all threads and tasks: it is back before any of them has its turn.
        before = os.umask(0o177)
        try:
            with short_name(path) as name:
                bound.bind(name)
        finally:
            os.umask(before)
    except OSError:
        bound.close()
        raise
    return bound


def listening_socket(path: Path) -> socket.socket:
    """`private_socket`, listening, in a directory of this user's own, which is made when there is none.

    Raises UsageError when others can write to the directory, or something else is at `path`, InputError when the system
    refuses.
    """
    prepare_directory(path.parent)
    check_free(path)
    try:
        bound = private_socket(path)
        try:
            bound.listen()
        except OSError:
            bound.close()
            raise
    except OSError as problem:
        raise InputError(f"cannot listen on {path}: {problem.strerror or problem}") from None
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

"""The background, and the pid file by which ovs-appctl finds a process there."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from flowshunt.cli.vswitchd.arguments import PROGRAM

_READY = b"\0"


class DaemonError(Exception):
    """It cannot run in this place; the message is for standard error."""


class Detached:
    """What a process knows that has detached: whom to tell when it is ready."""

    def __init__(self, told_fd: int | None) -> None:
        """`told_fd`: where the process waits that the user started; None: we are that process."""
        self._told_fd = told_fd

    def ready(self, *, changes_directory: bool) -> None:
        """Let the process that waits end well, and let go of the terminal. A second call does nothing."""
        if self._told_fd is None:
            return
        os.write(self._told_fd, _READY)
        os.close(self._told_fd)
        self._told_fd = None
        if changes_directory:
            os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        if null > 2:
            os.close(null)


def detach() -> Detached:
    """Go on in a child that leads its own session. The parent waits for it to be ready and ends, with 0 if it is."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        return Detached(writing)
    os.close(writing)
    if os.read(reading, 1) == _READY:
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code <= 0:  # an exit status of its own comes with a message of its own
        os.write(2, f"{PROGRAM}: fork child died before signaling startup ({code})\n".encode())
    os._exit(code if code > 0 else 1)


class PidFile:
    """A pid file, locked by this process as long as it lives."""

    def __init__(self, path: Path, *, overwrites: bool = False) -> None:
        """Write it. Raises DaemonError when the process that it names is alive (unless `overwrites`), or on failure.

        It is locked before it gets its name: whoever finds it finds it locked.
        """
        self.path = path
        if not overwrites and (holder := holder_of(path)):
            raise DaemonError(f"{PROGRAM}: {path}: already running as pid {holder}, aborting")
        temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._fd, f"{os.getpid()}\n".encode())
            os.rename(temporary, path)
        except OSError as problem:
            raise DaemonError(f"{PROGRAM}: {path}: create failed ({problem.strerror})") from None

    def give_to(self, uid: int, gid: int) -> None:
        """Have another user own it. Raises DaemonError."""
        try:
            os.fchown(self._fd, uid, gid)
        except OSError as problem:
            raise DaemonError(f"{PROGRAM}: {self.path}: chown failed ({problem.strerror})") from None

    def remove(self) -> None:
        """Remove it, if it is still ours."""
        try:
            if os.stat(self.path).st_ino == os.fstat(self._fd).st_ino:
                self.path.unlink()
        except (FileNotFoundError, PermissionError):  # who became another user may have no right to
            return


def make_directory(path: Path, uid: int, gid: int) -> None:
    """Make a directory for another user alone; one that is there stays as it is. Raises DaemonError."""
    if path.is_dir():
        return
    try:
        path.mkdir(mode=0o700, parents=True)
        os.chown(path, uid, gid)
    except OSError as problem:
        raise DaemonError(f"{PROGRAM}: {path}: create failed ({problem.strerror})") from None


def give_log(path: Path, uid: int, gid: int) -> None:
    """Have another user own the log, made if need be. Raises DaemonError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        try:
            os.fchown(fd, uid, gid)
        finally:
            os.close(fd)
    except OSError as problem:
        raise DaemonError(f"{PROGRAM}: failed to open {path} for logging: {problem.strerror}") from None


def holder_of(path: Path) -> int:
    """The process that has locked a pid file; 0: none."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        # struct flock of 64-bit Linux
        asked = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        kind, _, _, _, pid = struct.unpack("hhqqi4x", asked)
        return pid if kind != fcntl.F_UNLCK else 0
    finally:
        os.close(fd)

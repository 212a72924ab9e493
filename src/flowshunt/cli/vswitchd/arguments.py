"""The flags of ovs-vswitchd(8)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = "ovs-vswitchd"
DUMMY_LEVELS = ("", "system", "override")
_IGNORED = frozenset(
    (
        "monitor", "mlockall", "disable-system", "disable-system-route", "no-self-confinement", "hw-rawio-access",
        "private-key", "certificate", "ca-cert", "bootstrap-ca-cert", "peer-ca-cert", "ssl-protocols", "ssl-ciphers",
        "ssl-ciphersuites", "syslog-method", "syslog-target", "record", "replay",
    )
)  # fmt: skip
"""Flags that are taken and change nothing."""
_NEEDS_VALUE = frozenset(
    (
        "private-key", "certificate", "ca-cert", "bootstrap-ca-cert", "peer-ca-cert", "ssl-protocols", "ssl-ciphers",
        "ssl-ciphersuites", "syslog-method", "syslog-target", "user", "unixctl",
    )
)  # fmt: skip
_MAY_HAVE_VALUE = frozenset(("pidfile", "log-file", "enable-dummy", "verbose", "record", "replay"))
_PLAIN = frozenset(("detach", "no-chdir", "overwrite-pidfile", "version", "help"))
_KNOWN = _IGNORED | _NEEDS_VALUE | _MAY_HAVE_VALUE | _PLAIN
_SHORT = {"h": "help", "V": "version"}


class ArgumentError(Exception):
    """Wrong usage; the message is for standard error."""


@dataclass(slots=True)
class Options:
    """What was asked for. Paths are absolute."""

    database: str
    rundir: Path
    pid_file: Path | None = None
    overwrites_pid_file: bool = False
    detaches: bool = False
    changes_directory: bool = True
    log_file: Path | None = None
    verbose: list[str] = field(default_factory=list)
    """Arguments of -v, in order; the empty one is -v alone."""
    unixctl: Path | None = None
    """None: the name that goes with the process number."""
    has_unixctl: bool = True
    user: str | None = None
    """Whom to be: USER, USER:GROUP or :GROUP."""
    dummy: str | None = None
    """A level of DUMMY_LEVELS; None: no dummy ports."""
    shows: str | None = None
    """`version` or `help`, and nothing else is done."""


def directories(environment: Mapping[str, str]) -> tuple[Path, Path]:
    """Where sockets and pid files are, and where logs are, as Debian's packages have it."""
    run = environment.get("OVS_RUNDIR") or "/var/run/openvswitch"
    log = environment.get("OVS_LOGDIR") or "/var/log/openvswitch"
    return Path(run).absolute(), Path(log).absolute()


def parse(words: list[str], environment: Mapping[str, str] = os.environ) -> Options:
    """Read the arguments. Raises ArgumentError."""
    rundir, logdir = directories(environment)
    options = Options(f"unix:{rundir}/db.sock", rundir)
    rest: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            rest += waiting
            break
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            _take(options, _whole_name(name), value if sign else None, waiting, logdir)
        elif word.startswith("-v"):
            options.verbose.append(word[2:])
        elif word.startswith("-") and len(word) > 1:
            if word[1:] not in _SHORT:
                raise ArgumentError(f"{PROGRAM}: invalid option -- '{word[1]}'")
            options.shows = _SHORT[word[1:]]
        else:
            rest.append(word)
    if len(rest) > 1:
        raise ArgumentError(f"{PROGRAM}: at most one non-option argument accepted; use --help for usage")
    if rest:
        options.database = rest[0]
    return options


def _whole_name(name: str) -> str:
    """A flag may be cut as long as it is clear which one is meant, as getopt_long(3) allows."""
    if name in _KNOWN:
        return name
    found = sorted(known for known in _KNOWN if known.startswith(name))
    if not found:
        raise ArgumentError(f"{PROGRAM}: unrecognized option '--{name}'")
    if len(found) > 1:
        raise ArgumentError(f"{PROGRAM}: option '--{name}' is ambiguous")
    return found[0]


def _take(options: Options, name: str, value: str | None, waiting: list[str], logdir: Path) -> None:
    if value is None and name in _NEEDS_VALUE:
        if not waiting:
            raise ArgumentError(f"{PROGRAM}: option '--{name}' requires an argument")
        value = waiting.pop(0)
    if value is not None and name not in _NEEDS_VALUE | _MAY_HAVE_VALUE:
        raise ArgumentError(f"{PROGRAM}: option '--{name}' doesn't allow an argument")
    if name in _IGNORED:
        return
    setters: dict[str, Callable[[], None]] = {
        "pidfile": lambda: _set(options, "pid_file", options.rundir / (value or f"{PROGRAM}.pid")),
        "log-file": lambda: _set(options, "log_file", logdir / (value or f"{PROGRAM}.log")),
        "verbose": lambda: options.verbose.append(value or ""),
        "user": lambda: _set(options, "user", value),
        "unixctl": lambda: _set_unixctl(options, value or ""),
        "enable-dummy": lambda: _set_dummy(options, value or ""),
        "detach": lambda: _set(options, "detaches", True),
        "no-chdir": lambda: _set(options, "changes_directory", False),
        "overwrite-pidfile": lambda: _set(options, "overwrites_pid_file", True),
        "version": lambda: _set(options, "shows", "version"),
        "help": lambda: _set(options, "shows", "help"),
    }
    setters[name]()


def _set(options: Options, name: str, value: object) -> None:
    setattr(options, name, value)


def _set_unixctl(options: Options, value: str) -> None:
    options.has_unixctl = value != "none"
    options.unixctl = options.rundir / value if options.has_unixctl else None


def _set_dummy(options: Options, value: str) -> None:
    if value not in DUMMY_LEVELS:
        raise ArgumentError(f"{PROGRAM}: {value} is no level of --enable-dummy")
    options.dummy = value

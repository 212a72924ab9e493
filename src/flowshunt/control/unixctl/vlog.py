"""Logs in the form of Open vSwitch: levels by module and destination, patterns, a file that can be reopened.

A line is `TIME|SEQUENCE|MODULE|LEVEL|TEXT`, with the time in UTC. Modules are our loggers (that of
`flowshunt.control.ovsdb.idl` is `ovsdb_idl`); those of Open vSwitch can be named too, so that scripts that set their
levels do not fail.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowshunt.base.errors import InputError
from flowshunt.base.log import RateLimit
from flowshunt.control.unixctl.registry import Command, CommandError, command

DESTINATIONS = ("syslog", "console", "file")
LEVELS = {"off": 100, "emer": 50, "err": 40, "warn": 30, "info": 20, "dbg": 10}
"""Levels of Open vSwitch as those of Python's logging."""

PATTERNS = {
    "syslog": "ovs|%05N|%c%T|%p|%m",
    "console": "%D{%Y-%m-%dT%H:%M:%SZ}|%05N|%c%T|%p|%m",
    "file": "%D{%Y-%m-%dT%H:%M:%S.###Z}|%05N|%c%T|%p|%m",
}
_OVS_MODULES = """
backtrace bfd bond bridge bundle bundles cfm collectors command_line connmgr conntrack conntrack_tp coverage
ct_dpif daemon daemon_unix dns_resolve dpdk dpif dpif_lookup_autovalidator dpif_lookup_generic
dpif_mfex_extract_study dpif_netdev dpif_netdev_extract dpif_netdev_impl dpif_netdev_lookup dpif_netlink
dpif_netlink_rtnl entropy fail_open fatal_signal flow hmap in_band ipf ipfix jsonrpc lacp lldp lldpd
lldpd_structs lockfile memory meta_flow native_tnl netdev netdev_afxdp netdev_dummy netdev_linux netdev_offload
netdev_offload_tc netdev_vport netflow netlink netlink_conntrack netlink_notifier netlink_socket nx_match
odp_execute odp_execute_impl odp_util ofp_actions ofp_bundle ofp_connection ofp_errors ofp_flow ofp_group
ofp_match ofp_meter ofp_monitor ofp_msgs ofp_packet ofp_port ofp_protocol ofp_queue ofp_table ofp_util ofproto
ofproto_dpif ofproto_dpif_mirror ofproto_dpif_monitor ofproto_dpif_rid ofproto_dpif_upcall ofproto_dpif_xlate
ofproto_xlate_cache ovs_lldp ovs_numa ovs_rcu ovs_replay ovs_router ovs_thread ovsdb_cs ovsdb_error ovsdb_idl
ox_stat pcap pmd_perf poll_loop process rconn reconnect route_table rstp rstp_sm sflow signals socket_util
socket_util_unix stp stream stream_fd stream_replay stream_ssl stream_tcp stream_unix svec system_stats tc
timeval tunnel unixctl userspace_tso util uuid vconn vconn_stream vlog vswitchd
"""
OVS_MODULES = frozenset(_OVS_MODULES.split())
"""Modules of ovs-vswitchd that scripts name in `vlog/set` and `-v`."""

_ROOT = "flowshunt"
_FIELD = re.compile(r"%(?P<width>-?[0-9]*)(?P<name>[A-Za-z%])(?:\{(?P<argument>[^}]*)\})?")
_MAX_WIDTH = 1024
_WORDS = re.compile(r"[ ,:\t\n]+")
_LEVEL_NAMES = ((50, "EMER"), (40, "ERR"), (30, "WARN"), (20, "INFO"), (0, "DBG"))


def module_of(logger_name: str) -> str:
    """What a logger is called in the log."""
    name = logger_name.removeprefix(f"{_ROOT}.").removeprefix("control.")
    return name.replace(".", "_")


def level_name(number: int) -> str:
    """The word for a level of Python's logging."""
    return next(word for least, word in _LEVEL_NAMES if number >= least)


class Vlog(logging.Handler):
    """The one handler of all that Flowshunt logs."""

    def __init__(self, program: str = "ovs-vswitchd") -> None:
        """Nothing is written before `install`."""
        super().__init__(logging.DEBUG)
        self.program = program
        self.patterns = dict(PATTERNS)
        self._levels = {"syslog": LEVELS["info"], "console": LEVELS["info"], "file": LEVELS["info"]}
        self._by_module: dict[tuple[str, str], int] = {}
        self._path: Path | None = None
        self._fd = -1
        self._sequence = 0
        self._syslog = _open_syslog()

    # --- life ------------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Take all records of Flowshunt's loggers from now on."""
        root = logging.getLogger(_ROOT)
        root.propagate = False
        root.addHandler(self)
        self._set_threshold()

    def uninstall(self) -> None:
        """Take none any more, and close the file."""
        root = logging.getLogger(_ROOT)
        root.removeHandler(self)
        root.propagate = True
        root.setLevel(logging.NOTSET)
        self.close_file()

    def open_file(self, path: Path) -> None:
        """Append to a file, made for the user and his group alone. Raises InputError; the old file stays open then."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as problem:
            raise InputError(f"failed to open {path} for logging: {problem.strerror}") from None
        with self._locked():
            self.close_file()
            self._path, self._fd = path, fd
        logging.getLogger(f"{_ROOT}.vlog").info("opened log file %s", path)

    def reopen(self) -> bool:
        """Open the file anew, after it was moved away. False when there never was one. Raises InputError."""
        if self._path is None:
            return False
        logging.getLogger(f"{_ROOT}.vlog").info("closing log file")
        self.open_file(self._path)
        return True

    def close_file(self) -> None:
        """Write to no file any more."""
        with self._locked():  # the other thread may be writing
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    # --- settings --------------------------------------------------------------------------------------------------

    def modules(self) -> list[str]:
        """All modules that can be named, sorted."""
        known = (module_of(name) for name in logging.Logger.manager.loggerDict if name.startswith(f"{_ROOT}."))
        return sorted(OVS_MODULES.union(known))

    def level_of(self, module: str, destination: str) -> int:
        """The least level that a module's records need."""
        return self._by_module.get((module, destination), self._levels[destination])

    def set(self, spec: str, *, lenient: bool = False) -> str | None:
        """Carry out `[MODULE][:DESTINATION][:LEVEL]` in any order, or `PATTERN:DESTINATION:PATTERN`.

        Returns what was wrong with it, as Open vSwitch says it; nothing has changed then. `lenient`: an unknown module
        is not wrong.
        """
        words = [word for word in _WORDS.split(spec.strip()) if word]
        if words and words[0].upper() == "PATTERN":
            return self._set_pattern(spec)
        if words and words[0].upper() == "FACILITY":
            return None
        found: dict[str, str] = {}
        for word in words:
            if word.upper() == "ANY":
                continue
            kind = self._kind(word)
            if kind is None:
                if lenient:
                    return None
                return f'no destination, level, or module "{word}"'
            if kind in found:
                return f"cannot specify multiple {kind}s"
            found[kind] = word.lower() if kind != "module" else word
        self._set_level(found.get("module"), found.get("destination"), LEVELS[found.get("level", "dbg")])
        return None

    def _kind(self, word: str) -> str | None:
        if word.lower() in DESTINATIONS:
            return "destination"
        if word.lower() in LEVELS:
            return "level"
        return "module" if word.replace("-", "_") in self.modules() else None

    def _set_pattern(self, spec: str) -> str | None:
        parts = spec.split(":", 2)
        if len(parts) < 2:
            return "missing destination"
        if len(parts) < 3:
            return "missing pattern"
        destination = parts[1].lower()
        if destination != "any" and destination not in DESTINATIONS:
            return f'unknown destination "{parts[1]}"'
        for one in DESTINATIONS if destination == "any" else (destination,):
            self.patterns[one] = parts[2]
        return None

    def _set_level(self, module: str | None, destination: str | None, level: int) -> None:
        for one in DESTINATIONS if destination is None else (destination,):
            if module is None:
                self._levels[one] = level
                self._by_module = {key: value for key, value in self._by_module.items() if key[1] != one}
            else:
                self._by_module[module.replace("-", "_"), one] = level
        self._set_threshold()

    def _set_threshold(self) -> None:
        """Have loggers make only records that somebody wants."""
        levels = [*self._levels.values(), *self._by_module.values()]
        logging.getLogger(_ROOT).setLevel(max(min(levels), logging.DEBUG))

    # --- writing ---------------------------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record where it belongs; what cannot be written is lost."""
        module = module_of(record.name)
        wanted = [one for one in DESTINATIONS if record.levelno >= self.level_of(module, one)]
        if not wanted:
            return
        self._sequence += 1
        for destination in wanted:
            try:
                self._write(destination, self._line(self.patterns[destination], module, record))
            except Exception:  # noqa: BLE001  (a pattern or a text that cannot be written is not the caller's fault)
                self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """A full disk must not end the switch, nor may it fill standard error."""

    def _write(self, destination: str, line: str) -> None:
        data = line.encode(errors="backslashreplace")
        if destination == "file" and self._fd >= 0:
            os.write(self._fd, data + b"\n")
        elif destination == "console":
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        elif destination == "syslog" and self._syslog is not None:
            self._syslog.send(b"<29>" + data)

    def _line(self, pattern: str, module: str, record: logging.LogRecord) -> str:
        def field(found: re.Match[str]) -> str:
            return _padded(self._field(found["name"], found["argument"], module, record), found["width"])

        return _FIELD.sub(field, pattern)

    def _field(self, name: str, argument: str | None, module: str, record: logging.LogRecord) -> str:
        thread = "" if record.threadName == threading.main_thread().name else str(record.threadName)
        match name:
            case "m":
                return self._text(record)
            case "N":
                return str(self._sequence)
            case "c":
                return module
            case "p":
                return level_name(record.levelno)
            case "T":
                return f"({thread})" if thread else ""
            case "t":
                return thread or "main"
            case "A":
                return self.program
            case "P":
                return str(os.getpid())
            case "D" | "d":
                return _time(record.created, argument or "%Y-%m-%d %H:%M:%S.###", utc=name == "D")
            case "n":
                return "\n"
            case "%":
                return "%"
        return ""

    def _text(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        return text


def _padded(text: str, width: str) -> str:
    if not width:
        return text
    size = min(int(width.lstrip("-0") or 0), _MAX_WIDTH)
    if width.startswith("-"):
        return text.ljust(size)
    return text.rjust(size, "0" if width.startswith("0") else " ")


def _time(seconds: float, form: str, *, utc: bool) -> str:
    """`form` is strftime's, with `###` for milliseconds."""
    parts = time.gmtime(seconds) if utc else time.localtime(seconds)
    return time.strftime(form, parts).replace("###", f"{int(seconds * 1000) % 1000:03}")


def _open_syslog() -> socket.socket | None:
    """The system's log, unless OVS_SYSLOG_METHOD is `null` or there is none."""
    method = os.environ.get("OVS_SYSLOG_METHOD", "libc")
    path = method.removeprefix("unix:") if method.startswith("unix:") else "/dev/log"
    if method == "null":
        return None
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.setblocking(False)
    try:
        log.connect(path)
    except OSError:
        log.close()
        return None
    return log


def commands(vlog: Vlog) -> tuple[Command, ...]:
    """`vlog/*`."""

    async def set_level(node: object, arguments: list[str]) -> str:
        for spec in arguments:
            if (wrong := vlog.set(spec)) is not None:
                raise CommandError(wrong)
        return ""

    async def list_levels(node: object, arguments: list[str]) -> str:
        lines = ["                 console    syslog    file", "                 -------    ------    ------"]
        for module in vlog.modules():
            console, syslog, file = (_word(vlog.level_of(module, one)) for one in ("console", "syslog", "file"))
            lines.append(f"{module:<16}  {console:>4}       {syslog:>4}       {file:>4}")
        return "\n".join(lines) + "\n"

    async def list_patterns(node: object, arguments: list[str]) -> str:
        lines = [
            "         prefix                            format",
            "         ------                            ------",
        ]
        for name in DESTINATIONS:
            prefix = "" if name == "syslog" else "none"
            lines.append(f"{name.upper():<7}  {prefix:<32}  {vlog.patterns[name]}")
        return "\n".join(lines) + "\n"

    async def reopen(node: object, arguments: list[str]) -> str:
        if not vlog.reopen():
            raise CommandError("Logging to file not configured")
        return ""

    async def close(node: object, arguments: list[str]) -> str:
        vlog.close_file()
        return ""

    def rate_limit(on: bool, arguments: list[str]) -> str:
        modules = vlog.modules()
        if any(word.upper() != "ANY" and word not in modules for word in arguments):
            raise CommandError("unknown module")
        every = not arguments or any(word.upper() == "ANY" for word in arguments)
        for name in list(logging.Logger.manager.loggerDict):
            if name.startswith(f"{_ROOT}.") and (every or module_of(name) in arguments):
                for limit in logging.getLogger(name).filters:
                    if isinstance(limit, RateLimit):
                        limit.is_on = on
        return ""

    async def enable(node: object, arguments: list[str]) -> str:
        return rate_limit(True, arguments)

    async def disable(node: object, arguments: list[str]) -> str:
        return rate_limit(False, arguments)

    return (
        command("vlog/set", "{spec | PATTERN:destination:pattern}", 0, None, set_level),
        command("vlog/list", "", 0, 0, list_levels),
        command("vlog/list-pattern", "", 0, 0, list_patterns),
        command("vlog/reopen", "", 0, 0, reopen),
        command("vlog/close", "", 0, 0, close),
        command("vlog/enable-rate-limit", "[module]...", 0, None, enable),
        command("vlog/disable-rate-limit", "[module]...", 0, None, disable),
    )


def _word(level: int) -> str:
    return next(word for word, number in LEVELS.items() if number <= level).upper()

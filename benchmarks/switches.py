"""A switch with a database of its own: a real ovs-vswitchd, or ours in its place. Needs Debian's openvswitch-switch."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
TOOLS = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl")
COMMANDS = {"vswitchd": ("ovs-vswitchd",), "flowshunt": (sys.executable, "-m", "flowshunt", "vswitchd")}
"""Whose figures are named `<part>.<this>.*`, and what starts it."""
START_S = 1200
"""The first start may have to compile."""


def missing(*others: str) -> str:
    """What is not installed of the tools; empty: nothing."""
    tools = [tool for tool in (*TOOLS, *others) if shutil.which(tool) is None]
    return ", ".join(tools) or ("" if SCHEMA.is_file() else str(SCHEMA))


class Switch:
    """A daemon with its database, in a directory of its own."""

    def __init__(self, directory: Path, name: str, prefix: Sequence[str] = ()) -> None:
        """`name`: of COMMANDS. `prefix`: words before each command, that run it in a network namespace."""
        self.name = name
        self.directory = directory / name
        self.directory.mkdir()
        self._prefix = tuple(prefix)
        places = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(self.directory))
        self._environment = {
            **os.environ, **places, "OVS_SYSLOG_METHOD": "null",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }  # fmt: skip

    def run(self, *words: str, timeout_s: float = 300) -> str:
        """What a tool prints."""
        return subprocess.run(
            (*self._prefix, *words),
            env=self._environment, capture_output=True, text=True, timeout=timeout_s, check=True,
        ).stdout  # fmt: skip

    def timed(self, *words: str) -> float:
        """Seconds that a tool takes."""
        started = time.perf_counter()
        self.run(*words)
        return time.perf_counter() - started

    def start(self, *flags: str) -> None:
        """Start both, without bridges. `flags`: of the switch."""
        files = str(self.directory / "conf.db"), f"--remote=punix:{self.directory}/db.sock"
        self.run("ovsdb-tool", "create", files[0], str(SCHEMA))
        self.run("ovsdb-server", "-vconsole:off", *files, "--pidfile", "--detach", "--no-chdir")
        self.run("ovs-vsctl", "--no-wait", "init")
        usual = ("--disable-system", "--detach", "--no-chdir", "--log-file")
        pid_file = f"--pidfile={self.directory}/ovs-vswitchd.pid"
        self.run(*COMMANDS[self.name], *usual, *flags, pid_file, timeout_s=START_S)

    def stop(self) -> None:
        """End both."""
        for program in ("ovs-vswitchd", "ovsdb-server"):
            path = self.directory / f"{program}.pid"
            if path.exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(path.read_text()), signal.SIGKILL)

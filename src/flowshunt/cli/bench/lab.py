"""Namespaces with cables between them, and what runs in them; all of it goes in the end."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowshunt.base.errors import UsageError

COMMAND_S = 120.0
"""How long a command may take."""

PYTHON = (sys.executable, "-m")
"""What runs a module."""

_COUNTER = itertools.count()


class Lab:
    """Namespaces by short names."""

    def __init__(self) -> None:
        self._prefix = f"fsb{os.getpid()}x{next(_COUNTER)}"
        self._names: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []

    def add(self, name: str) -> None:
        """A namespace."""
        self._system("ip", "netns", "add", self._prefix + name)
        self._names.append(name)
        self.run(name, "ip", "link", "set", "lo", "up")

    def cable(self, switch: str, port: str, host: str, *addresses: str) -> None:
        """A veth pair: device `port` in one namespace, `eth0` with these addresses in a fresh one."""
        self.add(host)
        self.run(switch, "ip", "link", "add", port, "type", "veth", "peer", "eth0", "netns", self._prefix + host)
        self.run(switch, "ip", "link", "set", port, "up")
        self.run(host, "ip", "link", "set", "eth0", "up")
        for address in addresses:
            self.run(host, "ip", "addr", "add", address, "dev", "eth0")

    def mac(self, name: str, device: str = "eth0") -> str:
        """A device's address."""
        return self.run(name, "cat", f"/sys/class/net/{device}/address").strip()

    def namespace(self, name: str) -> str:
        """What the system calls it."""
        return self._prefix + name

    def command(self, name: str, *words: str) -> list[str]:
        """What runs a command in a namespace."""
        return ["ip", "netns", "exec", self.namespace(name), *words]

    def run(self, name: str, *words: str, check: bool = True, timeout: float = COMMAND_S) -> str:
        """What a command in a namespace prints. Raises UsageError when it fails and `check` is set."""
        return self._system(*self.command(name, *words), check=check, timeout=timeout)

    def run_module(self, name: str, module: str, *words: str, timeout: float = COMMAND_S) -> str:
        """What a module of this package prints, run as a program in a namespace."""
        return self._system(*self.command(name, *PYTHON, module, *words), timeout=timeout, environment=_environment())

    def _system(
        self, *words: str, check: bool = True, timeout: float = COMMAND_S, environment: dict[str, str] | None = None
    ) -> str:
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, env=environment)
        except subprocess.TimeoutExpired:
            raise UsageError(f"{' '.join(words)}: no end after {timeout:.0f} s") from None
        if check and done.returncode != 0:
            raise UsageError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def start(self, name: str, *words: str, log: Path | None = None) -> subprocess.Popen[str]:
        """A command that goes on in a namespace. `log`: where its errors go, of one that may have many to tell."""
        with open(log or os.devnull, "w", encoding="utf-8") as file:
            process = subprocess.Popen(
                self.command(name, *words),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if log is None else file,
                text=True,
                env=_environment(),
            )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """End what was started, and remove what was made."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        for name in self._names:
            subprocess.run(["ip", "netns", "del", self._prefix + name], capture_output=True, check=False)


def _environment() -> dict[str, str]:
    """That of programs that are to find the same modules."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@contextmanager
def lab() -> Iterator[Lab]:
    """A lab that is cleaned up, whatever happens."""
    made = Lab()
    try:
        yield made
    finally:
        made.close()

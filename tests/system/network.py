"""Namespaces, cables between them, and a real switch in one of them."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_COUNTER = itertools.count()
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
START_S = 1200
"""The first start may have to compile."""


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip where these tools, or the rights to make namespaces, are missing."""
    missing = [tool for tool in ("ip", *tools) if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return pytest.mark.skip(reason="needs root, for namespaces and packet sockets")
    if not os.path.exists("/dev/net/tun"):
        return pytest.mark.skip(reason="needs /dev/net/tun")
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)} (Debian: iproute2, iputils-ping, …)")


def poll(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """The first true answer of `condition`; fails when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return answer


class Network:
    """Namespaces that go when the test is over, with everything in them."""

    def __init__(self) -> None:
        self._prefix = f"fs{os.getpid()}x{next(_COUNTER)}"
        self._processes: list[subprocess.Popen[str]] = []
        self._names: list[str] = []
        self.add("switch")

    def add(self, name: str) -> None:
        """A namespace."""
        self.system("ip", "netns", "add", f"{self._prefix}{name}")
        self._names.append(name)
        self.run(name, "ip", "link", "set", "lo", "up")

    def host(self, name: str, *addresses: str, port: str | None = None) -> None:
        """A namespace with an `eth0`, whose other end is device `port` (its own name) at the switch."""
        self.add(name)
        port = port or name
        self.cable(port, name)
        for address in addresses:
            extra = ("nodad",) if ":" in address else ()
            self.run(name, "ip", "addr", "add", address, "dev", "eth0", *extra)

    def cable(self, port: str, name: str) -> None:
        """A veth pair: `port` at the switch, `eth0` in a namespace."""
        self.run("switch", "ip", "link", "add", port, "type", "veth", "peer", "eth0", "netns", self._prefix + name)
        self.run("switch", "ip", "link", "set", port, "up")
        self.run(name, "ip", "link", "set", "eth0", "up")

    def full_name(self, name: str) -> str:
        """The system's name of a namespace."""
        return self._prefix + name

    def command(self, name: str, *words: str) -> list[str]:
        """What runs a command in a namespace."""
        return ["ip", "netns", "exec", self._prefix + name, *words]

    def run(self, name: str, *words: str, check: bool = True, timeout: float = 60, **options: Any) -> str:
        """What a command in a namespace prints."""
        return self.system(*self.command(name, *words), check=check, timeout=timeout, **options)

    def system(self, *words: str, check: bool = True, timeout: float = 60, **options: Any) -> str:
        """What a command prints."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, **options)
        assert not check or done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self, name: str, *words: str, **options: Any) -> subprocess.Popen[str]:
        """A command that goes on in a namespace."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(self.command(name, *words), text=True, **(pipes | options))
        self._processes.append(process)
        return process

    def ping(self, name: str, address: str, *options: str, count: int = 3) -> str:
        """Ping, which must not lose anything."""
        said = self.run(name, "ping", "-n", "-c", str(count), "-i", "0.2", "-W", "5", *options, address)
        assert f" {count} received, 0% packet loss" in said, said
        return said

    def fetch(self, client: str, server: str, address: str, size: int, *, port: int = 5001) -> dict[str, Any]:
        """Send `size` bytes by TCP from a server to a client and back; says whether all was right, and who called."""
        script = str(Path(__file__).with_name("transfer.py"))
        serving = self.start(server, sys.executable, script, "serve", address, str(port))
        assert serving.stdout is not None
        assert serving.stdout.readline() == "listening\n"
        self.run(client, sys.executable, script, "fetch", address, str(port), str(size), timeout=120)
        said = serving.communicate(timeout=60)
        assert serving.returncode == 0, said
        return dict(json.loads(said[0]))

    def close(self) -> None:
        """End what was started, and remove what was made."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            with contextlib.suppress(ValueError):  # all of it was read
                process.communicate()
        for name in self._names:
            self.system("ip", "netns", "del", self._prefix + name, check=False)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """What this thread makes meanwhile belongs to a namespace."""
        there = Path(f"/run/netns/{self.full_name(name)}")
        with Path("/proc/thread-self/ns/net").open() as here, there.open() as target:
            _enter(target.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Running:
    """`flowshunt run` in the namespace `switch`."""

    def __init__(self, network: Network, directory: Path, config: str, *options: str, log: Path | None = None) -> None:
        """`log`: where standard error goes, in place of what `stop` returns."""
        self.rundir = directory / "run"
        self._network = network
        file = directory / "switch.toml"
        file.write_text(f'[run]\nrundir = "{self.rundir}"\n{config}')
        command = [sys.executable, "-m", "flowshunt", "run", "--config", str(file), *options]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with contextlib.nullcontext(subprocess.PIPE) if log is None else log.open("w") as stderr:
            self.process = network.start("switch", *command, env=environment, stderr=stderr)
        self.said: list[str] = []
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            line = self.process.stdout.readline()
            if line == "ready\n":
                return
            assert line, self.process.communicate()
            self.said.append(line.rstrip())

    def ofctl(self, command: str, *arguments: str, bridge: str = "br0", options: tuple[str, ...] = ()) -> str:
        """What the real ovs-ofctl prints."""
        return self._network.system("ovs-ofctl", *options, command, f"unix:{self.rundir}/{bridge}.mgmt", *arguments)

    def appctl(self, command: str, *arguments: str) -> str:
        """What the real ovs-appctl prints."""
        (place,) = self.rundir.glob("flowshunt.*.ctl")
        return self._network.system("ovs-appctl", "-t", str(place), command, *arguments)

    def flowshunt(self, *words: str) -> str:
        """What a command of ours prints about this switch."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "flowshunt", words[0], "--socket", str(self.rundir), *words[1:]]
        return self._network.system(*command, env=environment)

    def packets_of(self, match: str, bridge: str = "br0") -> int:
        """How many packets the flows of a match have counted."""
        said = self.ofctl("dump-aggregate", match, bridge=bridge)
        return int(said.split("packet_count=")[1].split()[0])

    def stop(self) -> tuple[str, str]:
        """End it as systemd would; what it said since it was ready."""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, said
        return said


@contextlib.contextmanager
def networks() -> Iterator[Network]:
    """A network that is cleaned up."""
    network = Network()
    try:
        yield network
    finally:
        network.close()

"""200 veth devices as ports beside a real ovs-vswitchd's, in turns: `ports.<vswitchd|flowshunt>.*`. Needs root and
Debian's openvswitch-switch.

Each switch has a namespace with devices of its own, and a bridge of datapath type netdev. `add`: seconds of the one
transaction of ovs-vsctl that makes ports of all of them, the first on a fresh bridge; `del`: of the one that takes them
away. `memory`: megabytes of the machine's that are gone meanwhile, most of them rings. `ports.ratio.*`: ours by theirs,
taken one right after the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.switches import COMMANDS, Switch, missing
from flowshunt.cli.bench.figures import Record

N_PORTS = 200

_ADD_BRIDGE = "add-br br0 -- set bridge br0 datapath_type=netdev fail-mode=secure"
_SETTLE_S = 0.5
"""Rings are given back some time after a port is gone."""


def measure(record: Record, rounds: int) -> None:
    """Take each figure `rounds` times; says so when it cannot."""
    lacking = "root" if os.geteuid() else missing("ip")
    if lacking:
        print(f"ports: left out; {lacking} is missing", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as directory, _namespace() as one, _namespace() as other:
        switches = [Switch(Path(directory), name, prefix) for name, prefix in zip(COMMANDS, (one, other), strict=True)]
        try:
            for switch in switches:
                _make_devices(switch)
                switch.start()
            for _ in range(rounds):
                taken = [_take(record, switch) for switch in switches]
                for name in ("add", "del"):
                    record.add(f"ports.ratio.{name}", "ratio", taken[1][name] / taken[0][name])
        finally:
            for switch in switches:
                switch.stop()


@contextmanager
def _namespace() -> Iterator[tuple[str, ...]]:
    """A network namespace; the words that run a command there."""
    name = f"fsp{os.getpid()}x{time.monotonic_ns() % 1_000_000}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield "ip", "netns", "exec", name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def _make_devices(switch: Switch) -> None:
    lines = [f"link add v{n} type veth peer name w{n}\nlink set v{n} up\nlink set w{n} up\n" for n in range(N_PORTS)]
    batch = switch.directory / "links"
    batch.write_text("".join(lines))
    switch.run("ip", "-b", str(batch))


def _take(record: Record, switch: Switch) -> dict[str, float]:
    """One round of a switch."""
    switch.run("ovs-vsctl", *_ADD_BRIDGE.split())
    time.sleep(_SETTLE_S)
    before = _free_mb()
    taken = {"add": _transact(switch, "add-port br0 {}")}
    record.add(f"ports.{switch.name}.memory", "MB", before - _free_mb())
    time.sleep(_SETTLE_S)
    taken["del"] = _transact(switch, "del-port br0 {}")
    switch.run("ovs-vsctl", "--timeout=60", "del-br", "br0")
    for name, value in taken.items():
        record.add(f"ports.{switch.name}.{name}", "s", value)
    return taken


def _transact(switch: Switch, command: str) -> float:
    """Seconds that a command for each port takes, in one transaction that ovs-vsctl waits for."""
    words = [word for n in range(N_PORTS) for word in ("--", *command.format(f"v{n}").split())]
    return switch.timed("ovs-vsctl", "--timeout=60", *words[1:])


def _free_mb() -> float:
    with open("/proc/meminfo", encoding="ascii") as file:
        sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in file)}
    return sizes["MemFree"] / 1024

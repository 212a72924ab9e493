"""The ways of forwarding that are put side by side: the kernel's own, and Flowshunt's.

A row makes its namespaces in the lab and says how traffic gets from its client to its server and back. Where it
translates, the server sees the client under `Ends.seen_as`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from flowshunt.base.errors import UsageError
from flowshunt.cli.bench.lab import PYTHON, Lab
from flowshunt.cli.daemon_client import ask, find_socket

CLIENT_MAC, SERVER_MAC = "02:fb:00:00:00:01", "02:fb:00:00:00:02"
"""Stations that only the generator sends as. A host takes no notice of frames for them, which costs it least."""

OFFLOAD_SWITCH = "flowshunt.cli.bench.offload_switch"
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Ends:
    """Who talks to whom. `client`, `server`, `switch`: namespaces; `client_port`: the client's device at the switch.

    `address`: the server's, as the client calls it. `own`: the client's. `seen_as`: the client's as the server sees it.
    `has_frames`: what arrives is counted before the receiver makes packets of frames, as where it is a network card.
    Generated frames go from `flood_from` to `flood_to`; `to_server`, `to_client`: the destinations that frames to the
    one and the other have on the link.
    """

    client: str
    server: str
    switch: str
    client_port: str
    address: str
    own: str
    seen_as: str
    flood_from: str
    flood_to: str
    to_server: str = SERVER_MAC
    to_client: str = CLIENT_MAC
    has_frames: bool = False


class Row(Protocol):
    """A way of forwarding."""

    def start(self, lab: Lab, name: str, number: int, directory: Path) -> Ends:
        """Build it, with names that begin with `name` and addresses in 10.`number`.0.0/16; it forwards then.

        `directory`: for files. Raises UsageError when it cannot be had here.
        """

    def cpu_s(self) -> float:
        """CPU seconds that its own process has used since it began; 0 for what is the kernel's."""

    def pin(self, processors: set[int]) -> None:
        """Run its own process on these processors from now on."""

    def seen(self) -> int | None:
        """Packets that its own process has had in hand; None for what is the kernel's."""

    def management(self) -> Path | None:
        """The socket on which it can be given flows, if it has one."""


class _KernelRow:
    """What rows that are the kernel's have in common: no process."""

    def cpu_s(self) -> float:
        return 0.0

    def pin(self, processors: set[int]) -> None:
        pass

    def seen(self) -> int | None:
        return None

    def management(self) -> Path | None:
        return None


class KernelBridge(_KernelRow):
    """A bridge of the kernel's."""

    def start(self, lab: Lab, name: str, number: int, directory: Path) -> Ends:
        """See `Row`."""
        ends = _two_hosts(lab, name, number)
        lab.run(name, "ip", "link", "add", "bridge", "type", "bridge")
        for port in ("p1", "p2"):
            lab.run(name, "ip", "link", "set", port, "master", "bridge")
        lab.run(name, "ip", "link", "set", "bridge", "up")
        return ends


class KernelRouter(_KernelRow):
    """Routing by the kernel, with nf_conntrack and source NAT."""

    def start(self, lab: Lab, name: str, number: int, directory: Path) -> Ends:
        """See `Row`."""
        lab.add(name)
        for host, side in (("1", "p1"), ("2", "p2")):
            lab.cable(name, side, f"{name}{host}", f"10.{number}.{host}.1/24")
            lab.run(name, "ip", "addr", "add", f"10.{number}.{host}.254/24", "dev", side)
            lab.run(f"{name}{host}", "ip", "route", "add", "default", "via", f"10.{number}.{host}.254")
            mac = (CLIENT_MAC, SERVER_MAC)[int(host) - 1]
            # stations of the generator's, which nobody would answer for
            station = f"10.{number}.{host}.2"
            lab.run(name, "ip", "neigh", "replace", station, "lladdr", mac, "dev", side, "nud", "permanent")
        lab.run(name, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        rules = directory / f"{name}.nft"
        rules.write_text(
            "table ip bench {\nchain post {\ntype nat hook postrouting priority 100;\noifname p2 masquerade;\n}\n}\n"
        )
        lab.run(name, "nft", "-f", str(rules))
        return Ends(
            f"{name}1", f"{name}2", name, "p1", f"10.{number}.2.1", f"10.{number}.1.1", f"10.{number}.2.254",
            f"10.{number}.1.2", f"10.{number}.2.2", lab.mac(name, "p1"), lab.mac(name, "p2"),
        )  # fmt: skip


C1_RULES = (
    "table=0,arp,actions=normal",
    "table=0,ip,ct_state=-trk,actions=ct(table=1)",
    "table=1,priority=1,ip,ct_state=+trk+new,actions=ct(commit),normal",
    "table=1,priority=1,ip,ct_state=+trk+est,actions=normal",
)
"""The rules of the BlueField page."""
NAT_RULES = (
    "table=0,arp,actions=normal",
    "table=0,ip,ct_state=-trk,actions=ct(table=1,nat)",
    "table=1,in_port=1,ip,ct_state=+trk+new,actions=ct(commit,nat(src=10.{number}.0.3)),normal",
    "table=1,ip,ct_state=+trk+est,actions=normal",
)


class Flowshunt:
    """`flowshunt run`. `provider`: what connections are offloaded to, with its options; `port_type`: of its ports."""

    def __init__(
        self,
        rules: tuple[str, ...],
        provider: str | None = None,
        *options: str,
        port_type: str = "system",
        has_frames: bool = False,
    ) -> None:
        self._has_frames = has_frames
        self._rules = rules
        self._port_type = port_type
        self._provider = provider
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._rundir = Path()

    def start(self, lab: Lab, name: str, number: int, directory: Path) -> Ends:
        """See `Row`."""
        is_translated = self._rules is NAT_RULES
        ends = _two_hosts(lab, name, number, seen_as=f"10.{number}.0.3" if is_translated else None)
        if is_translated:
            mac = lab.mac(ends.client)
            lab.run(ends.server, "ip", "neigh", "replace", ends.seen_as, "lladdr", mac, "dev", "eth0")
        if self._has_frames:
            for host in (ends.client, ends.server):
                lab.run_module(host, OFFLOAD_SWITCH, "eth0", "on")
            ends = replace(ends, has_frames=True)
        self._rundir = directory / name
        file = directory / f"{name}.toml"
        file.write_text(self._config(number))
        log = directory / f"{name}.log"
        self._process = lab.start(name, *PYTHON, "flowshunt", "run", "--config", str(file), log=log)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "ready\n":
                return ends
        raise UsageError(f"flowshunt run: {log.read_text(encoding='utf-8').strip()}")

    def _config(self, number: int) -> str:
        flows = ", ".join(f'"{rule.format(number=number)}"' for rule in self._rules)
        text = f'[run]\nrundir = "{self._rundir}"\n'
        text += f'[bridge.br0]\nports = ["p1", "p2"]\nlocal_port = false\nflows = [{flows}]\n'
        text += "".join(f'[bridge.br0.port.{port}]\ntype = "{self._port_type}"\n' for port in ("p1", "p2"))
        if self._provider is not None:
            options = ", ".join(f'"{option}"' for option in self._options)
            text += f'[offload]\nenabled = true\npriority = ["{self._provider}"]\noptions = [{options}]\n'
        return text

    def cpu_s(self) -> float:
        """See `Row`."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS

    def pin(self, processors: set[int]) -> None:
        """See `Row`."""
        assert self._process is not None
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task.name), processors)

    def seen(self) -> int | None:
        """See `Row`."""
        return int(json.loads(ask(find_socket(str(self._rundir)), "offload/show"))["packets"])

    def management(self) -> Path | None:
        """See `Row`."""
        return self._rundir / "br0.mgmt"


def _two_hosts(lab: Lab, name: str, number: int, seen_as: str | None = None) -> Ends:
    """A namespace `name` with ports p1 and p2, and a host at each, in one network."""
    lab.add(name)
    for host in (1, 2):
        lab.cable(name, f"p{host}", f"{name}{host}", f"10.{number}.0.{host}/24")
    own, address = f"10.{number}.0.1", f"10.{number}.0.2"
    return Ends(f"{name}1", f"{name}2", name, "p1", address, own, seen_as or own, own, address)


ROWS: dict[str, Callable[[], Row]] = {
    "bridge": KernelBridge,
    "route_ct_nat": KernelRouter,
    "slow": lambda: Flowshunt(C1_RULES),
    "slow_nat": lambda: Flowshunt(NAT_RULES),
    "slow_afxdp": lambda: Flowshunt(C1_RULES, port_type="afxdp"),
    "flowtable": lambda: Flowshunt(C1_RULES, "flowtable"),
    "flowtable_nat": lambda: Flowshunt(NAT_RULES, "flowtable"),
    "kernel_tc": lambda: Flowshunt(NAT_RULES, "kernel", "kernel-mode=tc"),
    "kernel_tc_plain": lambda: Flowshunt(NAT_RULES, "kernel", "kernel-mode=tc", "kernel-peer=false"),
    "kernel_xdp": lambda: Flowshunt(NAT_RULES, "kernel", "kernel-mode=xdp", has_frames=True),
}
"""All rows by name."""

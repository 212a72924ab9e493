"""A running switch beside a kernel bridge, in turns: `live.<bridge|slow>.*`. Needs root, iperf3 and ping.

Four hosts in namespaces, two on `flowshunt run` with the rules of the BlueField page (REQUIREMENTS row C1), two on a
bridge of the kernel's. `tcp`: one stream by iperf3 with the offloads that veth has by default, Gbit/s. `udp64`: 60-byte
frames of one established flow that arrive per second while more are sent than the switch can take, Mpps; `udp64_100k`:
of 100,000. `ping` and `ping_p999`: median and 99.9th percentile of the round trips of lone pings, microseconds, and
`ping_flows*`: the same while 10,000 flows are added by ovs-ofctl. `live.slow.to_bridge.*`: quotients of what was taken
one right after the other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.figures import Record
from benchmarks.pipeline import C1_RULES
from tests.system.network import Network, Running

SECONDS = 2
N_PINGS = 1000
N_FLOWS = 10_000
N_CONNECTIONS = 100_000

_TIME = re.compile(r"time=([\d.]+) ms")


def measure(record: Record, rounds: int) -> None:
    """Take each figure `rounds` times; says so when it cannot."""
    missing = [tool for tool in ("ip", "iperf3", "ping", "ovs-ofctl") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        print(f"live: left out; it needs root{''.join(f' and {tool}' for tool in missing)}", file=sys.stderr)
        return
    network = Network()
    try:
        with tempfile.TemporaryDirectory() as directory:
            _measure(record, rounds, network, Path(directory))
    finally:
        network.close()


def _measure(record: Record, rounds: int, network: Network, directory: Path) -> None:
    for kind, number in (("bridge", 1), ("slow", 2)):
        for host in (1, 2):
            network.host(f"{kind}{host}", f"10.{number}.0.{host}/24", port=f"{kind}{host}")
    network.run("switch", "ip", "link", "add", "kernel", "type", "bridge")
    for name in ("bridge1", "bridge2"):
        network.run("switch", "ip", "link", "set", name, "master", "kernel")
    network.run("switch", "ip", "link", "set", "kernel", "up")
    rules = ", ".join(f'"{line.replace("action=", "actions=")}"' for line in C1_RULES.split("\n") if line)
    config = f'[bridge.br0]\nports = ["slow1", "slow2"]\nlocal_port = false\nflows = [{rules}]\n'
    switch = Running(network, directory, config)
    flows = directory / "flows"
    flows.write_text("\n".join(f"table=9,ip,nw_dst=10.{n >> 8}.{n & 255}.1,actions=drop" for n in range(N_FLOWS)))
    numbers = {"bridge": 1, "slow": 2}
    for _ in range(rounds):
        taken = {kind: _take(record, network, kind, number) for kind, number in numbers.items()}
        for name, value in taken["slow"].items():
            record.add(f"live.slow.to_bridge.{name}", "ratio", value / taken["bridge"][name])
        adding = subprocess.Popen(["ovs-ofctl", "add-flows", f"unix:{switch.rundir}/br0.mgmt", str(flows)])
        _add_pings(record, "live.slow.ping_flows", _pings(network, "slow1", "10.2.0.2"))
        adding.wait()
        switch.ofctl("del-flows", "table=9")
    switch.stop()


def _take(record: Record, network: Network, kind: str, number: int) -> dict[str, float]:
    """One round of one of the two."""
    address = f"10.{number}.0.2"
    values = {"ping": _add_pings(record, f"live.{kind}.ping", _pings(network, f"{kind}1", address))}
    values["tcp"] = _tcp(network, f"{kind}1", f"{kind}2", address)
    values["udp64"] = _flood(network, kind, number, 1)
    values["udp64_100k"] = _flood(network, kind, number, N_CONNECTIONS)
    record.add(f"live.{kind}.tcp", "Gbit/s", values["tcp"])
    for name in ("udp64", "udp64_100k"):
        record.add(f"live.{kind}.{name}", "Mpps", values[name])
    return values


def _pings(network: Network, host: str, address: str) -> list[float]:
    """Round trips in microseconds."""
    said = network.run(host, "ping", "-n", "-c", str(N_PINGS), "-i", "0.002", "-W", "2", address, check=False)
    return [1000 * float(found) for found in _TIME.findall(said)]


def _add_pings(record: Record, name: str, times: list[float]) -> float:
    median = float(np.percentile(times, 50))
    record.add(name, "us", median)
    record.add(f"{name}_p999", "us", float(np.percentile(times, 99.9)))
    record.add(f"{name}_lost", "packets", N_PINGS - len(times))
    return median


def _tcp(network: Network, client: str, server: str, address: str) -> float:
    """Gbit/s that arrive."""
    serving = network.start(server, "iperf3", "-s", "-1", "-J", "--forceflush")
    deadline = time.monotonic() + 10
    while f"{address}:5201" not in (bound := network.run(server, "ss", "-ltn")) and "*:5201" not in bound:
        assert time.monotonic() < deadline
    said = network.run(client, "iperf3", "-c", address, "-t", str(SECONDS), "-J")
    serving.communicate(timeout=20)
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9


def _flood(network: Network, kind: str, number: int, n_flows: int) -> float:
    """Mpps that arrive of what `benchmarks.flood` sends."""
    macs = [network.run(f"{kind}{host}", "cat", "/sys/class/net/eth0/address").strip() for host in (1, 2)]
    program = [sys.executable, "-m", "benchmarks.flood"]
    environment = {"PYTHONPATH": os.pathsep.join([".", *sys.path])}

    def send(host: int, seconds: int) -> float:
        source, target = macs if host == 1 else macs[::-1]
        words = [*program, source, target, str(number), str(host), str(n_flows), str(seconds)]
        return float(network.run(f"{kind}{host}", *words, env=os.environ | environment))

    for host in (1, 2):  # both directions, so that all are established
        send(host, 0)
    before = _arrived(network, kind)
    took_s = send(1, SECONDS)
    return (_arrived(network, kind) - before) / took_s / 1e6


def _arrived(network: Network, kind: str) -> int:
    said = json.loads(network.run(f"{kind}2", "ip", "-j", "-s", "link", "show", "eth0"))
    return int(said[0]["stats64"]["rx"]["packets"])

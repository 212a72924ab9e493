"""A switch that is killed and started again under load: `python -m tests.soak.restarts --times 20`, as root.

Two hosts, `flowshunt run` with NAT and the offload provider `kernel`, whose flows outlive it. TCP connections and a
conversation in UDP go on throughout: none may be lost, and not one datagram. Prints progress, and the result as JSON;
exit status 1 when something does not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.system.network import poll
from tests.system.test_kernel import Offloading, checksum_errors, counter, routed, start_datagrams
from tests.system.test_restart import Unshared, hitless, kill, load
from tests.system.test_run import bridge

CONNECTIONS = 8


@dataclass
class Progress:
    """What the soak has seen."""

    restarts: int = 0
    ready_s: list[float] = field(default_factory=list)
    """From the start of each process until it was ready."""
    rebuilt: list[int] = field(default_factory=list)
    """Connections that each process rebuilt from flows."""
    came_up: list[int] = field(default_factory=list)
    """Packets that each process has seen."""
    megabytes: int = 0
    datagrams_sent: int = 0
    datagrams_received: int = 0
    checksum_errors: int = 0
    broken: list[str] = field(default_factory=list)


def soak(times: int, seed: int, directory: Path) -> Progress:
    """Kill it so many times."""
    network, progress, rng = Unshared(), Progress(), random.Random(seed)
    pins = directory / "bpf"
    pins.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(pins)], check=True)
    try:
        rules, options = bridge(*routed(network)), hitless(pins / "switch")
        switch = Offloading(network, directory, rules, *options)
        calling = load(network, "192.0.2.80", "-P", str(CONNECTIONS - 1), "-b", "20M")
        datagrams = start_datagrams(network, "h1", "h2", "10.2.0.2")
        poll(lambda: len(switch.connections("OFFLOAD")) == CONNECTIONS + 1, 60)
        began = counter(network, "h2", "rx_bytes")
        for _ in range(times):
            time.sleep(rng.uniform(0.5, 2))
            before = counter(network, "h2", "rx_bytes")
            kill(switch.process)
            time.sleep(rng.uniform(0.1, 1))
            started = time.monotonic()
            switch = Offloading(network, directory, rules, *options, log=directory / "log")
            progress.ready_s.append(round(time.monotonic() - started, 2))
            said = (directory / "log").read_text()
            found = re.search(r"(\d+) of them rebuilt", said)
            progress.rebuilt.append(int(found[1]) if found else 0)
            if len(said.splitlines()) != 1:
                progress.broken.append(f"restart {progress.restarts}: {said}")
            time.sleep(1)
            progress.came_up.append(switch.seen())
            progress.restarts += 1
            moved = (counter(network, "h2", "rx_bytes") - before) // 1_000_000
            print(
                f"restart {progress.restarts}: {moved} MB meanwhile, {progress.came_up[-1]} packets came up", flush=True
            )
            if calling.poll() is not None:
                progress.broken.append(f"TCP ended at restart {progress.restarts}: {calling.communicate()}")
                break
        progress.megabytes = (counter(network, "h2", "rx_bytes") - began) // 1_000_000
        # That of iperf3's own talk is silent for longer than offloaded connections may be.
        if len(switch.connections("tcp", "OFFLOAD")) < CONNECTIONS - 1 or len(switch.connections("tcp")) != CONNECTIONS:
            progress.broken.append("not all TCP connections are offloaded in the end")
        progress.datagrams_sent = json.loads(datagrams[0].communicate(timeout=30)[0])[0]
        progress.datagrams_received = len(json.loads(datagrams[1].communicate(timeout=30)[0]))
        if progress.datagrams_received != progress.datagrams_sent:
            progress.broken.append("datagrams were lost")
        progress.checksum_errors = sum(checksum_errors(network, host) for host in ("h1", "h2"))
        if progress.checksum_errors:
            progress.broken.append("checksums were wrong")
        calling.kill()
        switch.stop()
    finally:
        network.close()
        subprocess.run(["umount", str(pins)], check=True)
    return progress


def main() -> int:
    """Entry point of `python -m tests.soak.restarts`."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.restarts", description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="restarts (default 20)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        progress = soak(arguments.times, arguments.seed, Path(directory))
    print(json.dumps(asdict(progress), indent=1))
    return bool(progress.broken)


if __name__ == "__main__":
    sys.exit(main())

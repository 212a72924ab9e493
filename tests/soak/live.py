"""Short connections through a switch that runs: `python -m tests.soak.live --connections 10000000`, as root.

A real ovsdb-server, restarted on the way, `flowshunt vswitchd` with the rules of the BlueField guide, two hosts.
Every packet that is sent must arrive, the counters of rules, ports and tracker must be what was sent, and memory must
not grow once the table is as full as it gets. Prints progress, and the result as JSON; exit status 1 when something
does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tests.soak.conversations import GROUP, Conversations, End
from tests.system.lab import Lab, labs

RULES = """\
table=0,ip,ct_state=-trk,actions=ct(table=1)
table=1,priority=1,ip,ct_state=+trk+new,actions=ct(commit),normal
table=1,priority=1,ip,ct_state=+trk+est,actions=normal
"""
MEMORY_SLACK_MB = 32
BYTES_PER_CONNECTION = 256
"""At most; with its share of the hash table and what offloading keeps."""
SAMPLE_S = 5.0
DOWN_S = 3.0
"""How long the database is away."""


@dataclass
class Progress:
    """What the soak has seen."""

    connections: int = 0
    packets: int = 0
    seconds: float = 0.0
    database_restarts: int = 0
    tracked: list[int] = field(default_factory=list)
    """Connections in the table, at each sample."""
    resident_mb: list[int] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


class Soak:
    """A lab and its traffic."""

    def __init__(self, lab: Lab, n_connections: int, restarts: int) -> None:
        self.lab = lab
        self.progress = Progress()
        self.n_groups = -(-n_connections // GROUP)
        self.restart_at = {self.n_groups * (k + 1) // (restarts + 1) for k in range(restarts)}
        self.down_until = 0.0
        ends = []
        for name in ("h1", "h2"):
            with lab.inside(name):
                ends.append(End())
        self.talk = Conversations(*ends)

    def run(self, tell_every: float) -> None:
        """Until all connections are over."""
        began = told = sampled = time.monotonic()
        for number in range(self.talk.n_rounds(self.n_groups)):
            self.talk.round(number, self.n_groups)
            now = time.monotonic()
            self._attend_database(number, now)
            self.progress.seconds = now - began
            self.progress.connections = min(number, self.n_groups) * GROUP
            if now - sampled > SAMPLE_S:
                sampled = now
                self._sample()
            if now - told > tell_every:
                told = now
                done = self.progress
                rate, mb = done.connections / done.seconds, done.resident_mb[-1] if done.resident_mb else 0
                print(f"{done.connections:,} connections, {rate:,.0f} a second, {mb} MB", file=sys.stderr, flush=True)
        self.talk.finish()
        self.progress.connections = self.n_groups * GROUP
        self.progress.packets = self.talk.client.sent + self.talk.server.sent

    def _attend_database(self, number: int, now: float) -> None:
        """End it when it is time, and start it a little later; packets go on meanwhile."""
        if number in self.restart_at:
            self.lab.stop_database()
            self.down_until = now + DOWN_S
        elif self.down_until and now > self.down_until:
            self.down_until = 0.0
            self.lab.start_database()
            self.progress.database_restarts += 1

    def _sample(self) -> None:
        assert self.lab.process is not None
        pages = int(Path(f"/proc/{self.lab.process.pid}/statm").read_text().split()[1])
        self.progress.resident_mb.append(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
        self.progress.tracked.append(int(self.lab.appctl("dpctl/ct-get-nconns")))

    def check(self) -> None:
        """What must hold in the end."""
        # Waits until the switch has heard of it: it is back at the database.
        self.lab.vsctl("--timeout=30", "set", "bridge", "br0", "external_ids:soaked=true")
        lab, progress, n = self.lab, self.progress, self.progress.connections
        found = {
            "arrived": self.talk.client.arrived + self.talk.server.arrived,
            "table 0": lab.packets("table=0,ip"),
            "new": lab.packets("table=1,ct_state=+trk+new,ip"),
            "established": lab.packets("table=1,ct_state=+trk+est,ip"),
            "received on p1": self._port("p1", "rx"),
            "received on p2": self._port("p2", "rx"),
            "sent on p1": self._port("p1", "tx"),
            "sent on p2": self._port("p2", "tx"),
        }
        there, back = self.talk.client.sent, self.talk.server.sent
        strange = sum(end.strange for end in (self.talk.client, self.talk.server))
        wanted = {
            "arrived": progress.packets, "table 0": progress.packets, "new": n, "established": progress.packets - n,
            "received on p1": there, "received on p2": back, "sent on p1": back, "sent on p2": there,
        }  # fmt: skip
        progress.counters = found | {"strange": strange}
        for name, value in wanted.items():
            # Ports see what the hosts' kernels say besides: neighbour discovery.
            if value != found[name] and not ("on p" in name and 0 <= found[name] - value < 1000):
                progress.broken.append(f"{name}: {found[name]}, should be {value}")
        if len(self.restart_at) != progress.database_restarts:
            progress.broken.append(f"the database was restarted {progress.database_restarts} times")
        self._check_memory()
        progress.broken += lab.complaints_but("db.sock")
        lab.flush()
        if (left := lab.appctl("dpctl/ct-get-nconns")) != "0\n":
            progress.broken.append(f"{left.strip()} connections outlived their flush")

    def _check_memory(self) -> None:
        """What is not connections stays as it is: a fuller table is larger, and never gives back."""
        progress = self.progress
        fullest = np.maximum.accumulate(progress.tracked or [0])
        others = np.array(progress.resident_mb or [0]) - fullest * BYTES_PER_CONNECTION / 2**20
        n = len(others)
        grown = int(np.median(others[-(n // 4) :]) - np.median(others[n // 4 : n // 2])) if n >= 8 else 0
        if grown > MEMORY_SLACK_MB:
            progress.broken.append(f"memory grew by {grown} MB")

    def _port(self, name: str, way: str) -> int:
        said = self.lab.ofctl("dump-ports", "br0", name)
        found = re.search(rf"{way} pkts=(\d+)", said)
        assert found, said
        return int(found[1])


def main() -> int:
    """Entry point of `python -m tests.soak.live`."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.live", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000_000)
    parser.add_argument("--restarts", type=int, default=2, help="of the database (default 2)")
    parser.add_argument("--offload", action="store_true", help="with hw-offload=true")
    parser.add_argument("--tell-every", type=float, default=20.0, help="seconds between lines of progress")
    arguments = parser.parse_args()
    with labs() as lab:
        lab.vsctl("set", "Open_vSwitch", ".", f"other_config:hw-offload={str(arguments.offload).lower()}")
        lab.rules(RULES)
        soak = Soak(lab, arguments.connections, arguments.restarts)
        try:
            soak.run(arguments.tell_every)
        except TimeoutError as problem:
            soak.progress.broken.append(str(problem))
        soak.check()
    print(json.dumps(asdict(soak.progress), indent=1))
    return bool(soak.progress.broken)


if __name__ == "__main__":
    sys.exit(main())

"""Many connections at once in the offload provider `kernel`: `python -m tests.soak.offloaded --connections 100000`.

As root. A switch between two hosts; as many TCP connections are opened and stand. All of them must be forwarded by the
kernel, none refused; what they say then must arrive without the switch's process seeing it, and the counters of rules,
ports, tracker and provider must be what was sent. Prints what was found as JSON; exit status 1 when something does not
hold.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.conversations import GROUP, OPENING, STANDING, Conversations, End
from tests.system.network import Network, Running, networks
from tests.system.test_run import C1, bridge, two_hosts

PATIENCE_S = 20.0


@dataclass
class Findings:
    """What was seen."""

    connections: int
    opened_in_s: float = 0.0
    offloaded: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    errors: int = 0
    sent: int = 0
    forwarded: int = 0
    forwarded_in_s: float = 0.0
    came_up: int = 0
    """Packets of established, offloaded connections that the process saw."""
    counters: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


class Crowd:
    """A switch and its traffic."""

    def __init__(self, network: Network, directory: Path, n_groups: int) -> None:
        two_hosts(network)
        for host in ("h1", "h2"):  # so that nobody speaks unasked
            network.run(host, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
        limit = max(n_groups * GROUP, 1024)
        options = f'["kernel-limit={limit}", "kernel-timeout=600"]'
        offload = f'[offload]\nenabled = true\npriority = ["kernel"]\noptions = {options}\n'
        self.switch = Running(network, directory, offload + bridge(*C1))
        ends = []
        for host in ("h1", "h2"):
            with network.inside(host):
                ends.append(End())
        self._client, self._server = ends
        self._n_groups = n_groups
        self.findings = Findings(n_groups * GROUP)

    def run(self, rounds: int) -> Findings:
        """Open all connections, and have each say something in both directions `rounds` times."""
        found = self.findings
        began = time.monotonic()
        self._talk(OPENING, 1)
        found.opened_in_s = time.monotonic() - began
        self._talk(STANDING, 1)  # paths of the first ones are of an epoch before, when stations were not known yet
        deadline = time.monotonic() + PATIENCE_S
        while self._provider()["entries"] != found.connections and time.monotonic() < deadline:
            time.sleep(0.1)
        came_up, forwarded = self._passed()
        began = time.monotonic()
        self._talk(STANDING, rounds)
        found.forwarded_in_s = time.monotonic() - began
        after = self._passed()
        found.came_up, found.forwarded = after[0] - came_up, after[1] - forwarded
        self._check(self._provider(), rounds)
        return found

    def _passed(self) -> tuple[int, int]:
        """Packets that came up, and that the provider forwarded."""
        shown = self._show()
        return shown["packets"], shown["providers"][0]["counters"]["forwarded-packets"]

    def _talk(self, stages: tuple[Any, ...], rounds: int) -> None:
        for _ in range(rounds):
            Conversations(self._client, self._server, stages).run(self._n_groups)
        self.findings.sent = self._client.sent + self._server.sent

    def _show(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.switch.appctl("offload/show"))
        return answer

    def _provider(self) -> dict[str, Any]:
        provider: dict[str, Any] = self._show()["providers"][0]
        assert provider["name"] == "kernel", provider
        return provider

    def _check(self, provider: dict[str, Any], rounds: int) -> None:
        found, n = self.findings, self.findings.connections
        found.offloaded, found.refusals = provider["entries"], provider["refusals"]
        found.errors = provider["counters"]["errors"]
        spoken = len(STANDING) * rounds * n
        found.counters = {
            "arrived": self._client.arrived + self._server.arrived,
            "new": self.switch.packets_of("table=1,ct_state=+trk+new,ip"),
            "established": self.switch.packets_of("table=1,ct_state=+trk+est,ip"),
            "connections": sum(int(n) for n in re.findall(r"\d+", self.switch.appctl("dpctl/ct-get-nconns"))),
            "received": self._ports("rx"),
            "transmitted": self._ports("tx"),
            "tracked packets": self._tracked_packets(),
        }
        wanted = {
            "arrived": found.sent, "new": n, "established": found.sent - n, "connections": n, "received": found.sent,
            "transmitted": found.sent, "tracked packets": found.sent,
        }  # fmt: skip
        for name, value in wanted.items():
            if found.counters[name] != value:
                found.broken.append(f"{name}: {found.counters[name]}, should be {value}")
        for name, have, should in (
            ("offloaded", found.offloaded, n),
            ("refused", sum(found.refusals.values()), 0),
            ("errors of the provider", found.errors, 0),
            ("packets that came up although they were offloaded", found.came_up, 0),
            ("packets that the provider forwarded", found.forwarded, spoken),
        ):
            if have != should:
                found.broken.append(f"{name}: {have}, should be {should}")

    def _ports(self, way: str) -> int:
        said = self.switch.ofctl("dump-ports")
        return sum(int(n) for n in re.findall(rf"{way} pkts=(\d+)", said))

    def _tracked_packets(self) -> int:
        """As the tracker counts them, by connection."""
        listed = self.switch.appctl("dpctl/dump-conntrack", "-m", "-s")
        return sum(int(n) for n in re.findall(r"packets=(\d+)", listed))

    def close(self) -> None:
        """End the switch, which must have been content."""
        for end in (self._client, self._server):
            end.port.close()
        said = self.switch.stop()
        if said != ("", ""):
            self.findings.broken.append(f"the switch said: {said}")


def crowd(network: Network, directory: Path, n_connections: int, rounds: int) -> Findings:
    """All of it, with at least `n_connections`; Findings whose `broken` is empty when everything held."""
    made = Crowd(network, directory, -(-n_connections // GROUP))
    try:
        made.run(rounds)
    except TimeoutError as problem:
        made.findings.broken.append(str(problem))
    made.close()
    return made.findings


def main() -> int:
    """Entry point of `python -m tests.soak.offloaded`."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.offloaded", description=__doc__)
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="how often each speaks in both directions (default 3)")
    arguments = parser.parse_args()
    with networks() as network, tempfile.TemporaryDirectory() as directory:
        findings = crowd(network, Path(directory), arguments.connections, arguments.rounds)
    print(json.dumps(asdict(findings), indent=1))
    return bool(findings.broken)


if __name__ == "__main__":
    sys.exit(main())

"""Run the soak; prints progress, and the result as JSON. Exit status 1 when an invariant broke."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field

import numpy as np

from flowshunt import Switch
from tests.soak import invariants, traffic

CLIENTS = 60_000
CLOCK_MS = 1_700_000_000_000
CHECK_EVERY = 1_000_000
TUPLES_EVERY = 10_000_000
MEMORY_SLACK = 64 << 20


@dataclass
class Progress:
    """What the soak has seen."""

    profile: str
    seed: int
    packets: int = 0
    seconds: float = 0.0
    switch_seconds: float = 0.0
    most_connections: int = 0
    translated: int = 0
    resident_mb: list[int] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    broken: str = ""


class Soak:
    """One switch and its traffic."""

    def __init__(self, profile: str, seed: int, batch: int, capacity: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.switch = Switch(profile, max_connections=capacity)
        for name, number in (("source", 1), ("servers", 2), ("target", 3), ("plain", 5)):
            self.switch.add_port(name, number)
        self.switch.add_flows(traffic.RULES)
        self.population = traffic.Population(CLIENTS, self.rng)
        self.progress = Progress(profile, seed)
        self.batch, self.now_ns, self.pending = batch, CLOCK_MS * 1_000_000, list[traffic.Group]()
        self.errors: list[tuple[np.ndarray, int, int]] = []

    def step(self) -> None:
        """One batch through the switch, and what it causes."""
        rng = self.rng
        groups = self.population.speak(self.batch // 2) + self.pending
        for group in groups:
            traffic.damage(group, rng)
        others = [*self.errors, traffic.noise(self.batch // 100, rng)]
        if rng.random() < 0.25:
            others += traffic.fragments(self.batch // 100, rng, self.progress.packets)
        batch = traffic.join(groups, others, rng)
        n = len(batch.packets)
        self.now_ns += int(rng.choice([200_000_000, 2_000_000_000, 200_000_000_000], p=[0.5, 0.49, 0.01]))
        batch.packets["time_ns"] = self.now_ns + np.arange(n) * 1000
        began = time.thread_time()
        result = self.switch.process(batch)
        self.progress.switch_seconds += time.thread_time() - began
        self.progress.packets += n
        left = traffic.arrived(batch, result, traffic.SERVERS)
        invariants.frames(left, rng)
        self.pending = self.population.answer(left)
        self.errors = [traffic.unreachable(g._replace(rows=g.rows[::100])) for g in left if g.family == 4]
        self.progress.translated += int((result.ct_state & 0xC0 != 0).sum())
        for port in traffic.IN_PORTS:
            back = traffic.arrived(batch, result, port)
            invariants.frames(back, rng, 1)
            invariants.back_translated(self.population, back, port)

    def check(self, whole: bool) -> None:
        """The invariants; `whole`: the table, too."""
        invariants.counters(self.switch, self.progress.packets)
        self.progress.most_connections = max(self.progress.most_connections, len(self.switch.tracker))
        if whole:
            invariants.tuples(self.switch)
            self.progress.resident_mb.append(invariants.resident() >> 20)

    def run(self, packets: int, tell_every: float) -> None:
        """Until so many packets have passed, then to the end of all connections."""
        began = told = time.monotonic()
        next_check = next_tuples = 0
        while self.progress.packets < packets:
            self.step()
            done = self.progress.packets
            if done >= next_check:
                self.check(done >= next_tuples)
                next_check = done + CHECK_EVERY
                next_tuples = done + TUPLES_EVERY if done >= next_tuples else next_tuples
            self.progress.seconds = time.monotonic() - began
            if time.monotonic() - told > tell_every:
                told = time.monotonic()
                rate = done / self.progress.seconds / 1e6
                print(f"{done:,} packets, {rate:.2f} Mpps, {len(self.switch.tracker):,} connections", file=sys.stderr)
        self.check(True)
        invariants.at_the_end(self.switch)
        self.check(True)
        memory = self.progress.resident_mb
        grown = (memory[-1] - memory[len(memory) // 4]) << 20
        invariants.check(grown <= MEMORY_SLACK, f"memory grew: {memory} MB")


def main() -> int:
    """Entry point of `python -m tests.soak`."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--packets", type=int, default=100_000_000)
    parser.add_argument("--profile", choices=("default", "linux"), default="default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16_384, help="packets per call (default 16384)")
    parser.add_argument("--capacity", type=int, default=200_000, help="max_connections (default 200000)")
    parser.add_argument("--tell-every", type=float, default=20.0, help="seconds between lines of progress")
    arguments = parser.parse_args()
    soak = Soak(arguments.profile, arguments.seed, arguments.batch, arguments.capacity)
    try:
        soak.run(arguments.packets, arguments.tell_every)
    except invariants.BrokenError as broken:
        soak.progress.broken = str(broken)
    statistics = soak.switch.tracker.statistics() | soak.switch.statistics()
    soak.progress.counters = {name: value for name, value in statistics.items() if value}
    print(json.dumps(asdict(soak.progress), indent=1))
    return bool(soak.progress.broken)


if __name__ == "__main__":
    sys.exit(main())

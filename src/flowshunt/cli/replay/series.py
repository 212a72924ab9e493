"""How a run went over time, in at most a few hundred equal steps, however long it takes."""

from __future__ import annotations

from dataclasses import dataclass

STEPS = 240
FIRST_STEP_NS = 1_000_000


@dataclass(slots=True)
class Step:
    """What happened in one step: packets and bytes received, of these shunted ones; flows taken and given up.

    `flows`: the most that were in the shunt at the end of a batch.
    """

    packets: int = 0
    bytes: int = 0
    shunted_packets: int = 0
    shunted_bytes: int = 0
    flows: int = 0
    taken: int = 0
    ended: int = 0

    def add(self, other: Step) -> None:
        """Take in what happened besides, or after."""
        self.packets += other.packets
        self.bytes += other.bytes
        self.shunted_packets += other.shunted_packets
        self.shunted_bytes += other.shunted_bytes
        self.flows = max(self.flows, other.flows)
        self.taken += other.taken
        self.ended += other.ended


class Series:
    """Steps of equal length from the first packet on; when there are too many, two become one.

    `start_ns`: the time of the first packet, None before it. `step_ns`: the length of a step. `steps`: up to the last
    one in which anything happened. What happens before the first packet counts as if it were with it.
    """

    def __init__(self) -> None:
        self.start_ns: int | None = None
        self.step_ns = FIRST_STEP_NS
        self.steps: list[Step] = []

    def add(self, time_ns: int, step: Step) -> None:
        """Something happened at a time, in nanoseconds since the epoch."""
        if self.start_ns is None:
            self.start_ns = time_ns
        place = max(time_ns - self.start_ns, 0) // self.step_ns
        while place >= STEPS:
            self._halve()
            place //= 2
        while len(self.steps) <= place:
            last = self.steps[-1].flows if self.steps else 0
            self.steps.append(Step(flows=last))
        self.steps[place].add(step)

    def _halve(self) -> None:
        self.step_ns *= 2
        pairs = zip(self.steps[::2], [*self.steps[1::2], Step()], strict=False)
        self.steps = [_sum(first, second) for first, second in pairs]


def _sum(first: Step, second: Step) -> Step:
    first.add(second)
    return first

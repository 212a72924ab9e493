"""What is told of rules: their counters at one moment, what happened to them, and the figures of tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flowshunt.datapath.program import CompiledRule


class FlowStatistics(NamedTuple):
    """A rule and what it saw. `flow`: what it was compiled from; times are milliseconds since the epoch.

    `modified_ms`: when it came or was last changed.
    """

    flow: Any
    packets: int
    bytes: int
    used_ms: int
    created_ms: int
    modified_ms: int = 0


class Listing(NamedTuple):
    """Rules with their counters at one moment. Taking it is quick; making something of it is for any thread.

    `numbers`: int64; `counted`: packets, bytes, used_ms and created_ms, as long. `is_wanted` looks at a rule's source.
    """

    numbers: np.ndarray
    rules: Sequence[CompiledRule]
    counted: tuple[np.ndarray, ...]
    modified_ms: Mapping[int, int]
    is_wanted: Callable[[Any], bool] | None = None

    def lines(self) -> list[FlowStatistics]:
        """The rules that are wanted, by table, then highest priority first."""
        n = len(self.rules)
        tables = np.fromiter((rule.table for rule in self.rules), np.int64, n)
        priorities = np.fromiter((rule.priority for rule in self.rules), np.int64, n)
        order = np.lexsort((self.numbers, -priorities, tables))
        numbers, rules, modified = self.numbers[order].tolist(), self.rules, self.modified_ms
        columns = [column[order].tolist() for column in self.counted]
        lines = [
            FlowStatistics(rules[place].source, packets, size, used, created, modified.get(number) or created)
            for place, number, packets, size, used, created in zip(order.tolist(), numbers, *columns, strict=True)
        ]
        return lines if self.is_wanted is None else [line for line in lines if self.is_wanted(line.flow)]

    def totals(self) -> tuple[int, int, int]:
        """Packets and bytes of the rules that are wanted, and how many they are."""
        packets, size = self.counted[:2]
        if self.is_wanted is not None:
            wanted = np.fromiter((self.is_wanted(rule.source) for rule in self.rules), np.bool_, len(self.rules))
            packets, size = packets[wanted], size[wanted]
        return int(packets.sum()), int(size.sum()), len(packets)


EXPIRED_IDLE, EXPIRED_HARD = "idle", "hard"

ADDED, MODIFIED, DELETED = "added", "modified", "deleted"
"""What may happen to a rule. One that is added in place of an equal one is added."""


class ExpiredRule(NamedTuple):
    """A rule that is gone because its time was up: `reason` is EXPIRED_IDLE or EXPIRED_HARD."""

    statistics: FlowStatistics
    reason: str


class TableStatistics(NamedTuple):
    """A table: rules and masks in it, lookups, and how many of those found a rule."""

    rules: int
    masks: int
    lookups: int
    matches: int

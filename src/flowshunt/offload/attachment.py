"""What one provider has been told of each connection, and how it answered: arrays by row.

A few bytes per row and provider, committed by the system as rows come into use.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from flowshunt.offload import reasons as R
from flowshunt.offload.api import Provider
from flowshunt.offload.calls import has
from flowshunt.offload.kernels.schema import make_told
from flowshunt.offload.runner import Runner

TAKEN = 1
"""The provider has the connection: it answered ADD without error."""
ESTABLISHED = 2
ADDING = 4
"""ADD waits for its answer; likewise the next two."""
ESTABLISHING = 8
UPDATING = 16
ANSWERED = 32
"""The first reply came while ADD was waiting; EST is owed."""

MAX_ASKS = 100
"""How often a provider is asked for one thing about one connection: it must not keep the packet path busy for ever."""

MARKS = ("none", "added", "established")
"""What a provider makes of a connection."""
MARK_NONE, MARK_ADDED, MARK_ESTABLISHED = range(len(MARKS))

MARK_NAMES = ("OFFLOAD", "HW_OFFLOAD")
"""How listings mark a connection that is forwarded by software or hardware."""

COUNTERS = (
    "added",
    "refused",
    "established",
    "not-now",
    "deleted",
    "updated",
    "flushed",
    "late",
    "queue-full",
    "deletes-dropped",
    "errors",
    "offered",
    "installed",
    "renewed",
    "withdrawn",
    "handed-back",
    "forwarded-packets",
    "forwarded-bytes",
)
"""Names of a provider's counters: connections taken and refused at ADD; established, or asked to ask again; deletions
served; last uses told; flushes; answers that came after the connection's end; operations that found the queue full;
deletions of connections that the provider never had, left out for that; deletions, updates, flushes and calls of a
forwarder that failed. Forwarders: connections offered, taken, renewed in a new epoch, withdrawn from it, given up by
it; packets, and bytes of frames, that it forwarded as far as it has told."""


class Attachment:
    """A registered provider at work. The dispatcher owns and fills it.

    `told`: what it was told, by row, `state` with the flags above; its arrays are here, too. `installs`: it is a
    Forwarder. `mark`: how listings show what it forwards. `has_collected`: it is not being asked what it gave up.
    """

    def __init__(self, provider: Provider, runner: Runner, number: int, capacity: int) -> None:
        self.provider = provider
        self.runner = runner
        self.number = number
        self.capacity = capacity
        self.epoch = 0
        self.is_on = False
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self.refusals: Counter[int] = Counter()
        batched = has(provider, "batch_submit")
        self.takes_established = batched or has(provider, "conn_established")
        self.takes_update = batched or has(provider, "conn_update")
        self.takes_flush = batched or has(provider, "flush")
        self.installs = has(provider, "install")
        self.forwards = not self.installs and bool(getattr(provider, "forwards", False))
        self.mark = mark_of(provider) if self.installs or self.forwards else None
        self.has_collected = True
        self._allocate()

    def _allocate(self) -> None:
        self.told = make_told(self.capacity)
        self.state, self.reason, self.asks, self.reply_port = self.told

    @property
    def name(self) -> str:
        """The provider's."""
        return self.provider.name

    def restart(self) -> None:
        """Know nothing of any connection any more; answers that are under way count as late."""
        self.epoch += 1
        self._allocate()

    def refuse(self, rows: np.ndarray, reasons: np.ndarray) -> None:
        """Keep and count why rows (n,) were refused: reasons uint16 (n,)."""
        self.reason[rows] = reasons
        values, counts = np.unique(reasons, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self.refusals[value] += count

    def note(self, rows: np.ndarray, reasons: np.ndarray) -> None:
        """Keep reasons, and count those that are new for their row."""
        fresh = self.reason[rows] != reasons
        if fresh.any():
            self.refuse(rows[fresh], reasons[fresh])

    def refuse_all(self, rows: np.ndarray, reason: int) -> None:
        """The same reason for all rows (n,)."""
        self.reason[rows] = reason
        self.refusals[reason] += len(rows)

    def statistics(self) -> dict[str, int]:
        """Counters by name, and refusals as `refused.CODE`."""
        refused = {f"refused.{R.reason(number).code}": count for number, count in sorted(self.refusals.items())}
        return {**self.counters, **refused}


def mark_of(provider: Provider) -> str:
    """How listings mark what a provider forwards; one that does not say so is software."""
    mark = getattr(provider, "mark", None)
    return mark if mark in MARK_NAMES else MARK_NAMES[0]

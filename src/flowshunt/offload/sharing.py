"""What providers need of the datapath's table of entries, which several of them share."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Share(Protocol):
    """One provider's entries. Rows and generations are uint32 (n,); unknown ones are no error."""

    @property
    def limit(self) -> int:
        """Connections that it may have."""

    @limit.setter
    def limit(self, flows: int) -> None: ...

    check: bool
    """Judge checksums and TCP windows of connections that come from now on, as the tracker would."""

    def install(self, flows: np.ndarray) -> None:
        """Entries for FLOW (n,); writes each one's `error`. A connection that has some gets these instead."""

    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int) -> None:
        """Their paths are valid in this epoch, too."""

    def withdraw(self, rows: np.ndarray, generations: np.ndarray) -> np.ndarray:
        """Their entries are gone; USAGE (n,)."""

    def usage(self, rows: np.ndarray, generations: np.ndarray, now_ms: int) -> np.ndarray:
        """What hit their entries since the last call, USAGE (n,)."""

    def passes(self, rows: np.ndarray, generations: np.ndarray, epoch: int) -> np.ndarray:
        """Whether their entries would be hit in this epoch, bool (n,)."""

    def idle(self, now_ms: int, timeout_ms: int, budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take out those idle for so long, of the next `budget` connections: rows, generations, USAGE (n,)."""

    def flush(self) -> object:
        """All entries are gone."""

    def statistics(self) -> dict[str, int]:
        """Counters by name."""


class Shares(Protocol):
    """The table."""

    def share(self, name: str, limit: int | None = None) -> Share:
        """A part of it for an owner; without a limit, as much as there is room for."""

    def release(self, name: str) -> None:
        """The owner of that name is gone; its entries too, and another one may have its part."""

"""Who holds connections, as listings ask (see `holding`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Keeper(Protocol):
    """Whoever holds connections; called before snapshots are made of some rows."""

    def refresh(self, first: int, last: int) -> object:
        """Bring the counters of the held connections in rows `[first, last)` up to date."""

    def names(self, rows: np.ndarray) -> Sequence[str | None]:
        """`OFFLOAD`, `HW_OFFLOAD` or None for each row, int64 (n,)."""

"""The software fast path: always there, forwards what the datapath's table of entries can hold.

As the flow table of a packet filter (rows D3, D4): TCP and UDP, a timeout of its own, marked `[OFFLOAD]`. The work is
the table's; what is here is which connections it takes, and when it gives them up.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

import numpy as np

from flowshunt.offload import reasons as R
from flowshunt.offload.answers import answer
from flowshunt.offload.api import ArrayProvider
from flowshunt.offload.batch import Batch
from flowshunt.offload.installing import USAGE
from flowshunt.offload.providers.values import check_names, number_of, truth_of
from flowshunt.offload.sharing import Share, Shares

TIMEOUT_MS = 30_000
"""As of a flow table in Linux (nf_flowtable_udp_timeout, nf_flowtable_tcp_timeout)."""

_SWEEP_EVERY_MS = 50
_SWEEP_LEAST = 256
_SWEEP_MOST = 16_384
"""Entries looked at for their age at a time."""
_TURNS = 8
"""Turns through the table within a timeout."""

_OPTIONS = ("timeout", "limit", "check")
_PROTOCOL = R.number_of("protocol")
_REASONS = {errno.ENOSPC: R.TABLE_FULL, errno.EEXIST: R.HELD_ELSEWHERE, errno.EINVAL: _PROTOCOL}


class Flowtable(ArrayProvider):
    """Forwards through a share of the datapath's table; without one (`shares` None) it is told and forwards nothing.

    `timeout_ms`: a connection silent for so long is handed back; may be changed at any time. Runs on the packet thread.
    """

    mark = "OFFLOAD"
    queue_limit = 0
    packet_thread_only = True

    def __init__(
        self,
        shares: Shares | None = None,
        *,
        name: str = "flowtable",
        timeout_ms: int = TIMEOUT_MS,
        limit: int | None = None,
        check: bool = False,
    ) -> None:
        """`limit` and `check` as below."""
        self.name = name
        self.timeout_ms = timeout_ms
        self._share: Share | None = None if shares is None else shares.share(name, limit)
        self._room = 0 if self._share is None else self._share.limit
        self._swept_ms = 0
        if check:
            self.check = True

    @classmethod
    def from_options(cls, shares: Shares | None, options: Mapping[str, str]) -> Flowtable:
        """One with options as text: `timeout` in seconds, `limit` in connections, `check` true or false.

        Raises UsageError for others, and for values that they cannot have.
        """
        check_names("flowtable", options, _OPTIONS)
        return cls(
            shares,
            timeout_ms=1000 * number_of("flowtable", options, "timeout", TIMEOUT_MS // 1000),
            limit=number_of("flowtable", options, "limit", 0) or None,
            check=truth_of("flowtable", options, "check"),
        )

    def set_options(self, options: Mapping[str, str]) -> None:
        """Have these options, as for `from_options`, and the others as they are without.

        Raises UsageError, with nothing changed, for an unknown option or a value that it cannot have.
        """
        check_names("flowtable", options, _OPTIONS)
        timeout_s = number_of("flowtable", options, "timeout", TIMEOUT_MS // 1000)
        limit = number_of("flowtable", options, "limit", 0) or self._room
        check = truth_of("flowtable", options, "check")
        self.timeout_ms = 1000 * timeout_s
        self.limit = limit
        self.check = check

    @property
    def limit(self) -> int:
        """Connections that it forwards at most. A lower one than it has lets no new ones in."""
        return 0 if self._share is None else self._share.limit

    @limit.setter
    def limit(self, n: int) -> None:
        if self._share is not None:
            self._share.limit = n

    @property
    def check(self) -> bool:
        """Whether checksums and TCP windows are judged as the tracker would, for connections taken from now on.

        A packet that is not plainly valid takes the long way then; without, it is counted as `unchecked` and passes.
        """
        return self._share is not None and self._share.check

    @check.setter
    def check(self, on: bool) -> None:
        if self._share is not None:
            self._share.check = on

    # --- notifications -----------------------------------------------------------------------------------------------

    def batch_submit(self, batch: Batch, /) -> None:
        """See `answers.answer`: others than TCP and UDP are declined."""
        flushed, ended = answer(batch, declines=True)
        if self._share is None:
            return
        if flushed:
            self._share.flush()
        if len(ended):
            self._share.withdraw(ended["row"], ended["generation"])

    # --- forwarding --------------------------------------------------------------------------------------------------

    def install(self, flows: np.ndarray, /) -> None:
        """See Forwarder."""
        if self._share is None:
            flows["error"] = errno.ENODEV
            return
        self._share.install(flows)
        for error, reason in _REASONS.items():
            flows["reason"][flows["error"] == error] = reason

    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> None:
        """See Forwarder."""
        if self._share is not None:
            self._share.renew(rows, generations, epoch)

    def begin_epoch(self, epoch: int, /) -> None:
        """The table compares epochs itself, at each packet."""

    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> np.ndarray:
        """See Forwarder."""
        return _nothing(rows) if self._share is None else self._share.withdraw(rows, generations)

    def statistics(self, rows: np.ndarray, generations: np.ndarray, now_ms: int, /) -> np.ndarray:
        """See Forwarder."""
        return _nothing(rows) if self._share is None else self._share.usage(rows, generations, now_ms)

    def handed_back(self, now_ms: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Connections that were silent for the timeout: the table is gone through several times within it (row D4)."""
        budget = self._sweep_budget(now_ms)
        if self._share is None or budget == 0:
            none = np.zeros(0, np.uint32)
            return none, none, np.zeros(0, np.uint16), _nothing(none)
        rows, generations, usage = self._share.idle(now_ms, self.timeout_ms, budget)
        return rows, generations, np.full(len(rows), R.IDLE, np.uint16), usage

    def _sweep_budget(self, now_ms: int) -> int:
        elapsed = now_ms - self._swept_ms
        if self._share is None or 0 <= elapsed < _SWEEP_EVERY_MS:
            return 0
        n_flows = self._share.statistics()["n_flows"]
        self._swept_ms = now_ms
        if n_flows == 0:
            return 0
        wanted = n_flows * _TURNS * abs(elapsed) // max(self.timeout_ms, 1)
        return min(max(wanted, _SWEEP_LEAST), _SWEEP_MOST)

    def is_forwarding(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> np.ndarray:
        """See Inspectable."""
        return np.zeros(len(rows), bool) if self._share is None else self._share.passes(rows, generations, epoch)

    # --- inspection --------------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """What the table says of its use, by name: flows, their limit, hits, what passed unchecked."""
        return {} if self._share is None else self._share.statistics()


def _nothing(rows: np.ndarray) -> np.ndarray:
    return np.zeros(len(rows), USAGE)

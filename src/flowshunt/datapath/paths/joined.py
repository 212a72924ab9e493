"""The paths of several datapaths that share a tracker, as if they were of one.

Each member has a *home*, a number that stands in the ports of its paths (`records.HOME_BITS`). A path ends where its
packet leaves the datapath, be it to another member: a connection that two of them track in zones of their own is two
flows, each with a path of its own. One that several members track in the same zone is one connection with several ways,
which no path can say: all of them are told as `several-bridges`.

The epoch is one for all: the latest of any member. A member whose own has been overtaken goes on with the latest, so
that an epoch never comes twice.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.memory import reserve
from flowshunt.datapath.paths.records import HOME_BITS, N_ZONES, UNFIT
from flowshunt.datapath.paths.table import Observer, Paths

MAX_MEMBERS = 1 << HOME_BITS
_SEVERAL = UNFIT.index("several-bridges")
_PORT = (1 << HOME_BITS) - 1

SEEN = np.dtype([("epoch", np.int64), ("generation", np.uint32), ("home", np.int32)])
"""Where a connection's path was told in an epoch; `home` -1: in several places."""


class JoinedPaths:
    """What the offload framework takes for one datapath's `Paths`. On the thread of all of them."""

    def __init__(self, capacity: int) -> None:
        """No members yet; rows of their tracker are below `capacity`."""
        self._members: dict[int, Paths] = {}
        self._observers: list[Observer] = []
        self._is_on = False
        self._epoch = 0
        self._seen = reserve(SEEN, capacity)

    def add(self, paths: Paths) -> int:
        """Add a member; returns its home, the lowest that is free. Raises UsageError when there is none."""
        home = next((n for n in range(len(self._members) + 1) if n not in self._members), MAX_MEMBERS)
        if home == MAX_MEMBERS:
            raise UsageError(f"paths are learned in {MAX_MEMBERS} bridges at most")
        self._members[home] = paths
        paths.settle_at(home, self._latest)
        paths.observe(partial(self._on_learned, home))
        paths.enable(self._is_on)
        paths.bump("bridge")  # another one may have been at home there
        return home

    def remove(self, home: int) -> None:
        """Learn nothing there any more."""
        paths = self._members.pop(home)
        self._epoch = self._latest(paths.epoch)
        paths.enable(False)

    def _latest(self, epoch: int) -> int:
        """The epoch that a member goes on with whose own is `epoch`."""
        self._epoch = max(self._epoch, epoch)
        return self._epoch

    @property
    def epoch(self) -> int:
        """The present epoch of all members; it only grows."""
        for paths in self._members.values():
            self._latest(paths.epoch)
        return self._epoch

    def enable(self, on: bool) -> None:
        """Begin to learn everywhere, or stop."""
        self._is_on = on
        for paths in self._members.values():
            paths.enable(on)

    def observe(self, observer: Observer) -> None:
        """Have `observer` get what is learned anywhere."""
        self._observers.append(observer)

    def forget(self, rows: np.ndarray) -> None:
        """Tell the paths of these connections anew, wherever their next packets come."""
        for paths in self._members.values():
            paths.forget(rows)

    def account(
        self, chains: np.ndarray, in_ports: np.ndarray, packets: np.ndarray, frame_bytes: np.ndarray,
        last_used_ms: np.ndarray, eth_srcs: np.ndarray, vlans: np.ndarray,
    ) -> None:  # fmt: skip
        """See `Paths.account`; a member that is gone counts nothing."""
        homes = in_ports.astype(np.int64) >> HOME_BITS
        for home in np.unique(homes).tolist():
            if home not in self._members:
                continue
            mine = homes == home
            columns = (chains, in_ports.astype(np.int64) & _PORT, packets, frame_bytes, last_used_ms, eth_srcs, vlans)
            self._members[home].account(*(column[mine] for column in columns))

    def _on_learned(self, home: int, learned: np.ndarray) -> None:
        learned["unfit"][self._is_elsewhere(home, learned)] = _SEVERAL
        for observer in tuple(self._observers):
            observer(learned)

    def _is_elsewhere(self, home: int, learned: np.ndarray) -> np.ndarray:
        """Which of LEARNED (n,) have a connection that another member told of, too, in the same epoch: bool (n,)."""
        elsewhere: np.ndarray = np.zeros(len(learned), bool)
        for zone in range(min(N_ZONES, int(learned["n_zones"].max()))):
            there = np.flatnonzero(learned["n_zones"] > zone)
            rows = learned["rows"][there, zone]
            epochs, generations = learned["epoch"][there], learned["generations"][there, zone]
            seen = self._seen[rows]
            known = (seen["epoch"] == epochs) & (seen["generation"] == generations)
            several = known & (seen["home"] != home)
            elsewhere[there[several]] = True
            self._seen["epoch"][rows], self._seen["generation"][rows] = epochs, generations
            self._seen["home"][rows] = np.where(several, -1, home)
        return elsewhere

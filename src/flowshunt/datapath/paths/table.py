"""The facade of learning: what Python outside this package uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from flowshunt.datapath.paths.accounting import add_usage
from flowshunt.datapath.paths.chains import Chains
from flowshunt.datapath.paths.records import HOME_BITS, UNFIT
from flowshunt.datapath.paths.schema import NEVER_MS
from flowshunt.datapath.paths.tell import STOP_CHAINS, STOP_JUDGE, settle_last
from flowshunt.datapath.paths.verdicts import Judge
from flowshunt.datapath.ports import Ports
from flowshunt.datapath.rules import Rules
from flowshunt.datapath.schema import STATION_ON_PATH, WorkArrays

Observer = Callable[[np.ndarray], None]
"""Gets LEARNED (n,), n at least 1, which is its own."""


class Paths:
    """Paths of established connections, learned while their packets walk. Off at first; on a datapath's thread.

    An *epoch* is the time between two changes of rules, ports, settings or of stations that a path depends on; what was
    learned in one says nothing about the next.
    """

    def __init__(self, work: WorkArrays, rules: Rules, ports: Ports) -> None:
        self._work = work
        self._state = work.paths
        self._rules = rules
        self._ports = ports
        self._chains = Chains(work)
        self._judge = Judge(rules)
        self._observers: list[Observer] = []
        self._sources: dict[str, Callable[[], int]] = {}
        self._seen: dict[str, int] = {}
        self._bumps: Counter[str] = Counter()
        self._unfit: Counter[str] = Counter()
        self._n_collected = 0
        self._n_forgotten = 0
        self._latest: Callable[[int], int] = int
        self.watch("rules", lambda: rules.version)
        self.watch("ports", lambda: ports.version)

    def settle_at(self, home: int, latest: Callable[[int], int]) -> None:
        """Be one of several: ports of paths are those of `home`, and `latest(epoch)` is the epoch to go on with."""
        self._state["home"] = home << HOME_BITS
        self._latest = latest

    def enable(self, on: bool) -> None:
        """Begin to learn, or stop; what was learned before is learned anew then."""
        if on == self.enabled:
            return
        self._state["on"] = on
        self.bump("enabled" if on else "disabled")

    @property
    def enabled(self) -> bool:
        """Whether paths are learned."""
        return bool(self._state["on"][0])

    def observe(self, observer: Observer) -> None:
        """Have `observer` get what was learned, after each part of a batch and after the tracker's events of it."""
        self._observers.append(observer)

    def unobserve(self, observer: Observer) -> None:
        """Undo `observe`."""
        self._observers.remove(observer)

    # --- epochs ----------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The present epoch; it only grows."""
        self.refresh()
        return int(self._state["epoch"][0])

    def bump(self, why: str) -> None:
        """Begin the next epoch: something has changed that paths depend on. `why` is counted."""
        self._bumps[why] += 1
        self._state["epoch"] += 1
        self._state["verdicts"] += 1
        self._state["noting"] = 0

    def watch(self, why: str, version: Callable[[], int]) -> None:
        """Begin the next epoch whenever `version()` is another number than before; asked before packets run."""
        self._sources[why] = version
        self._seen[why] = version()

    def refresh(self) -> None:
        """Notice changes of rules, ports, and whatever else is watched."""
        for why, version in self._sources.items():
            now = version()
            if now != self._seen[why]:
                self._seen[why] = now
                self.bump(why)
        epoch = int(self._state["epoch"][0])
        latest = self._latest(epoch)
        if latest != epoch:
            self._state["epoch"] = latest

    def expire_stations(self, now_ms: int, synchronise: Callable[[], None] | None) -> None:
        """Begin the next epoch if a station that paths lead to is forgotten by `now_ms`, since `normal` then floods.

        `synchronise` is called before, when that may be: it may bring `used_ms` of stations up to date.
        """
        if now_ms <= self._state["station_due_ms"][0]:
            return
        if synchronise is not None:
            synchronise()
        ports = self._ports.arrays
        stations = ports.stations[: int(ports.state["n_stations"][0])]
        on_path = stations["flags"] & STATION_ON_PATH != 0
        due = stations["used_ms"] + ports.state["age_ms"][0]
        gone = on_path & (due < now_ms)
        if gone.any():
            stations["flags"][gone] = 0
            self.bump("stations")
        rest = due[on_path & ~gone]
        self._state["station_due_ms"] = rest.min() if len(rest) else NEVER_MS

    # --- what was learned ------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Judge what waits for that, and hand out what was learned; the loop calls it whenever it stops."""
        state = self._state
        stop = int(state["stop"][0])
        if not stop and not state["n_learned"][0]:
            return
        if stop & STOP_JUDGE:
            chain = int(self._work.learned["chain"][int(state["n_learned"][0])])
            entries = self._chains.entries(chain) or []
            verdict = self._judge.judge([(table, rule) for table, rule, _ in entries])
            self._chains.set_verdict(chain, verdict)
            settle_last(self._work, self._ports.arrays)
        if stop & STOP_CHAINS:
            self._n_collected += self._chains.collect()
        n = int(state["n_learned"][0])
        state["n_learned"] = 0
        state["stop"] = 0
        if n:
            learned = self._work.learned[:n].copy()
            for number, count in zip(*np.unique(learned["unfit"], return_counts=True), strict=True):
                self._unfit[UNFIT[number]] += int(count)
            for observer in tuple(self._observers):
                observer(learned)

    def forget(self, rows: np.ndarray) -> None:
        """Tell the paths of these connections anew, at their next packets."""
        self._work.told[rows] = 0

    def chain_rules(self, chain: int) -> list[Any]:
        """The flows of a chain that are still there, in the order in which packets meet them; [] when it is forgotten.

        They are what the rules were compiled from.
        """
        generations = self._rules.arrays.rules["generation"]
        return [
            self._rules.rule(rule).source
            for _, rule, generation in self._chains.entries(chain) or []
            if rule is not None and self._rules.has(rule) and int(generations[rule]) == generation
        ]

    # --- what was forwarded ----------------------------------------------------------------------------------------

    def account(
        self, chains: np.ndarray, in_ports: np.ndarray, packets: np.ndarray, frame_bytes: np.ndarray,
        last_used_ms: np.ndarray, eth_srcs: np.ndarray, vlans: np.ndarray,
    ) -> None:  # fmt: skip
        """Count forwarded packets for the rules and tables of chains, and keep rules and stations in use.

        All are integers (n,): of each direction of a flow the chain and what its PATH says of input port, eth_src and
        vlan_tci, and of its USAGE what came since the last call. Rules that went in the meantime are left out; so are
        those of a chain that is forgotten, which `statistics` counts (`forgotten`).
        """
        columns = (chains, in_ports, packets, frame_bytes, last_used_ms, eth_srcs, vlans)
        self._n_forgotten += int(
            add_usage(
                self._work,
                self._rules.arrays,
                self._ports.arrays,
                *(np.ascontiguousarray(column, np.int64) for column in columns),
            )
        )

    def statistics(self) -> dict[str, int]:
        """Counters by name: packets noted, records told by verdict, chains, epochs by what began them."""
        state = self._state[0]
        counters = {
            "noted": int(state["packets_noted"]),
            "told": int(state["told"]),
            "chains": len(self._chains),
            "chains.added": int(state["chains_added"]),
            "chains.collected": self._n_collected,
            "forgotten": self._n_forgotten,
            "epoch": int(state["epoch"]),
            "epoch.stations-moved": int(state["disturbed"]),
        }
        counters |= {f"epoch.{why}": n for why, n in self._bumps.items()}
        return counters | {f"told.{name}": n for name, n in self._unfit.items()}

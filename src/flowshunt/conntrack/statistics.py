"""What a tracker has counted, by zone and protocol. Part of the facade."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.connection import combined_tcp_state
from flowshunt.conntrack.policies import check_zone
from flowshunt.conntrack.states import LINUX_NAMES, PEER_CLOSED, PEER_NAMES, SCTP_NAMES

INSERT_FAILED = ("full", "zone-limit", "headroom")
"""Counters of packets whose connection was not stored although they asked for it."""
_INVALID, _REMOVED = "invalid-", "removed-"
_PAGE = 1 << C.ZONE_SHIFT

ProtocolStatistics = dict[str, "int | dict[str, int]"]
"""Counters of one protocol in one zone.

`found`, `new`, `related`, `again` (came back to the zone that it was tracked in last) and what is in `insert_failed`
and `invalid` count every pass of a packet exactly once; `inserted` and `removed` (by reason) count connections, and so
do `expired` (those removed for that reason, by the state they were in) and `early_dropped`; `dropped` is all that found
no room, as nf_conntrack calls it. Any other counter is there under its own name. Of the nested ones only those above 0.
"""


def expired_names(protocol: str, profile: str) -> list[str]:
    """Names of the states that connections of a protocol (out of `schema.PROTOCOLS`) may end in, by their number.

    Those of listings: TCP's (linux: also SCTP's), else whether there was an answer. Several numbers may have one name.
    """
    if protocol == "sctp" and profile == "linux":
        return list(SCTP_NAMES)
    if protocol != "tcp":
        return ["unanswered", "answered"]
    if profile == "linux":
        return list(LINUX_NAMES)
    return [combined_tcp_state(PEER_NAMES[PEER_CLOSED], name) for name in PEER_NAMES]


class Statistics:
    """The counters of a tracker."""

    def __init__(self, arrays: C.ConntrackArrays, profile: str) -> None:
        """Counters of a tracker that was just made."""
        self.arrays = arrays
        self.profile = profile

    def zones(self) -> list[int]:
        """Zones that packets came to, in ascending order."""
        return sorted(self.arrays.used_zones[: int(self.arrays.state["n_zones"][0])].tolist())

    def counters(self) -> dict[str, int]:
        """Every counter by name, summed over all zones and protocols."""
        total = np.zeros(len(C.COUNTERS), np.int64)
        for zone in self.zones():
            total += self._page(zone)[:, : len(C.COUNTERS)].sum(axis=0)
        return dict(zip(C.COUNTERS, total.tolist(), strict=True))

    def zone_statistics(self, zone: int | None = None) -> dict[int, dict[str, ProtocolStatistics]]:
        """Counters since the tracker was made, by zone and protocol (`schema.PROTOCOLS`); see ProtocolStatistics.

        Only zones and protocols of which there were packets; with `zone` that one alone. Raises UsageError for a zone
        out of range.
        """
        zones = self.zones() if zone is None else [check_zone(zone)]
        found = {number: dict(self._protocols(number)) for number in zones}
        return {number: protocols for number, protocols in found.items() if protocols}

    def _page(self, zone: int) -> np.ndarray:
        """int64 (protocols, places)."""
        page = self.arrays.counters[zone * _PAGE : (zone + 1) * _PAGE]
        return page.reshape(-1, 1 << C.COUNTER_SHIFT)[: len(C.PROTOCOLS)]

    def _protocols(self, zone: int) -> Iterable[tuple[str, ProtocolStatistics]]:
        for protocol, places in zip(C.PROTOCOLS, self._page(zone).tolist(), strict=True):
            if any(places):
                yield protocol, self._nested(protocol, places)

    def _nested(self, protocol: str, places: list[int]) -> ProtocolStatistics:
        counters = dict(zip(C.COUNTERS, places, strict=False))
        removed = _above_zero(counters, _REMOVED)
        refused = {name: counters[name] for name in INSERT_FAILED if counters[name]}
        grouped = (*INSERT_FAILED, *(name for name in C.COUNTERS if name.startswith((_INVALID, _REMOVED))))
        return {
            **{name: n for name, n in counters.items() if name not in grouped},
            "insert_failed": refused,
            "invalid": _above_zero(counters, _INVALID),
            "dropped": sum(refused.values()),
            "removed": removed,
            "early_dropped": removed.get(C.REASONS[C.REASON_EARLY_DROP], 0),
            "expired": _expired(protocol, self.profile, places),
        }


def _above_zero(counters: dict[str, int], prefix: str) -> dict[str, int]:
    """The counters of a group, without its prefix."""
    return {name.removeprefix(prefix): n for name, n in counters.items() if name.startswith(prefix) and n}


def _expired(protocol: str, profile: str, places: list[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for state, name in enumerate(expired_names(protocol, profile)):
        if n := places[C.EXPIRED_AT + state]:
            found[name] = found.get(name, 0) + n
    return found

"""Handing established connections to a provider that forwards packets itself: the contract, and its records.

Notification (`api`) and installation are two things; `installer` is between them. A connection is *offered* when it is
established (TCP: after the handshake; UDP: answered) and a packet in each direction has shown its path: port in, port
out, and the difference between the packet that came and the one that went. Forwarders are offered it in priority order;
the first that takes it holds it, all others go on observing. From then on the tracker is asked nothing about its
packets: windows are not checked, expiry asks `statistics` first, both as for a provider that sets `forwards` (see
`conntrack.holding`).

The path of a direction is valid in one *epoch* of the tables, ports and groups. A change of any of them begins the next
epoch; the packets after it take the long way, learn the path anew, and the connection is offered again, or its entry
goes on when the path is the same.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import numpy as np

from flowshunt.datapath.paths.records import FLOW, N_ZONES, PATH, USAGE

__all__ = ["FLOW", "N_ZONES", "PATH", "USAGE", "Forwarder", "Inspectable"]


class Forwarder(Protocol):
    """What a provider has besides `api.Provider` when it forwards packets. All arrays are (n,), n at least 1.

    Called on the same thread as the provider's other callbacks, between conn_established and conn_del of each
    connection. For a connection that it took, conn_del implies `withdraw`.
    """

    mark: str
    """How listings mark its connections: `OFFLOAD` (software) or `HW_OFFLOAD`."""

    @abstractmethod
    def install(self, flows: np.ndarray, /) -> None:
        """Take over forwarding, FLOW (n,); both directions or neither.

        Writes each flow's `error` and `reason`: 0, or why not (ENOSPC with `table-full`, ENOTSUP with `protocol`, …).
        What it took before is replaced: same connection, new paths. To raise means that all were refused. When it
        returns, packets of the flows may pass it; those that it may not forward (TCP with SYN, FIN or RST or without
        ACK, fragments, IP options and extension headers, a second VLAN tag, an expiring TTL, other MACs, too big, after
        a silence of more than `max_idle_ms`) must still come up.
        """

    @abstractmethod
    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> None:
        """Both paths of these connections, uint32 (n,), are in `epoch` what they were; unknown ones are no error."""

    @abstractmethod
    def begin_epoch(self, epoch: int, /) -> None:
        """The tables, ports or stations have changed: packets of flows of other epochs must come up from now on.

        Constant time: the flows stay where they are, and most will be renewed or replaced one by one.
        """

    @abstractmethod
    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> np.ndarray:
        """Stop forwarding connections, uint32 (n,) each; unknown ones are no error. Returns their last USAGE (n,).

        When it returns, all their packets come up; none is lost on the way.
        """

    @abstractmethod
    def statistics(self, rows: np.ndarray, generations: np.ndarray, now_ms: int, /) -> np.ndarray:
        """What was forwarded since the last call, USAGE (n,); zeros for unknown connections. Never blocks."""

    @abstractmethod
    def handed_back(self, now_ms: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Connections that the provider itself gave up since the last call (its own ageing, an eviction).

        Asked once per batch of packets, at most once a millisecond: the place for a provider's periodic work, in
        bounded steps. Rows and generations, uint32 (n,), why, `reasons` numbers as uint16 (n,), and their last USAGE
        (n,). They are withdrawn already, and may be offered again at their next packets.
        """


class Inspectable(Protocol):
    """What a forwarder may have besides, for tests: without it the conformance kit sees less."""

    @abstractmethod
    def is_forwarding(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> np.ndarray:
        """Whether packets of these connections, in both directions, would pass now if `epoch` is the present one.

        Rows and generations are uint32 (n,); bool (n,), False for unknown ones.
        """

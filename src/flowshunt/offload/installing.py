"""Handing established connections to a provider that forwards packets itself: the contract, and its records.

Notification (`api`) and installation are two things. A connection is *offered* when it is established (TCP: after the
handshake; UDP: answered) and a packet in each direction has shown its path: port in, port out, and the difference
between the packet that came and the one that went. Forwarders are offered it in priority order; the first that takes
it holds it, all others go on observing. From then on the tracker is asked nothing about its packets: windows are not
checked, expiry asks `statistics` first, both as for a provider that sets `forwards` (see `conntrack.holding`).

The path of a direction is valid in one *epoch* of the tables, ports and groups. A change of any of them begins the next
epoch; the packets after it take the long way, learn the path anew, and the connection is offered again, or its entry
goes on when the path is the same.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import numpy as np

N_ZONES = 4
"""Connections (one per zone) that a path may pass."""

PATH = np.dtype(
    [
        # what must match
        ("source", np.int64, 2),  # addresses as they come in, 128-bit form, high and low
        ("destination", np.int64, 2),
        ("tuple", np.int64),  # ports 48 and 32, zone 0, protocol 8, kind 0 (bit 7: IPv6), as they come in
        ("eth_src", np.int64),  # 48 bits; as they come in, a packet with others is not of this path
        ("eth_dst", np.int64),
        ("in_port", np.uint32),
        ("vlan_tci", np.uint16),  # packet.schema.VLAN_PRESENT set when there is a tag
        ("match_tos", np.int16),  # -1: any
        # what becomes of it
        ("out_port", np.uint32),
        ("rewrite", np.uint16),  # REWRITE_*: which of the fields below apply
        ("new_vlan_tci", np.uint16),
        ("new_eth_src", np.int64),
        ("new_eth_dst", np.int64),
        ("new_source_port", np.uint16),
        ("new_destination_port", np.uint16),
        ("mtu", np.uint32),  # of the output port, in bytes of layer 3; larger packets take the long way
    ],
    align=True,
)
"""One direction's path. New addresses lie beside it, in FLOW, since both directions share them."""

REWRITE_ETH_SRC = 1
REWRITE_ETH_DST = 2
REWRITE_VLAN = 4
REWRITE_SOURCE = 8
REWRITE_DESTINATION = 16
REWRITE_PORTS = 32
DECREMENT_TTL = 64

FLOW = np.dtype(
    [
        ("now_ms", np.int64),
        ("epoch", np.int64),  # that both paths were learned in
        ("paths", PATH, 2),  # original, reply
        ("new_source", np.int64, (2, 2)),  # by direction: addresses as they go out, where the path rewrites them
        ("new_destination", np.int64, (2, 2)),
        ("rows", np.uint32, N_ZONES),  # connections on the way, the first is the one that is offered
        ("generations", np.uint32, N_ZONES),
        ("n_zones", np.uint8),
        # from the provider
        ("reason", np.uint16),  # reasons.number_of(...)
        ("error", np.int32),  # errno; 0: taken
    ],
    align=True,
)
"""One connection with both its paths."""

USAGE = np.dtype(
    [
        ("last_used_ms", np.int64),  # 0: unknown
        ("packets", np.int64, 2),  # by direction, since the last call that told them
        ("bytes", np.int64, 2),
        ("counted_ms", np.int64),  # when these counters were read from wherever they are kept
    ],
    align=True,
)
"""What a provider forwarded of one connection."""


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
        returns, packets of the flows may pass it; those that it may not forward (SYN, FIN, RST, fragments, IP options,
        an expiring TTL, other MACs, too big) must still come up.
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
    def handed_back(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Connections that the provider itself gave up since the last call (its own ageing, an eviction, FIN or RST).

        Rows and generations, uint32 (n,), and why, `reasons` numbers as uint16 (n,). They are withdrawn already, and
        may be offered again.
        """

"""Counting, by zone and protocol.

Every zone has a page of counters of its own, which costs memory once a packet has come to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.schema import COUNTER_SHIFT, PROTOCOLS, ZONE_SHIFT, ZONE_USED
from flowshunt.conntrack.states import F_SEEN_REPLY
from flowshunt.jit import kernel
from flowshunt.packet.schema import PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP

PROTO_UNKNOWN = 255
"""Counted as other: what is not IP."""


def _protocol_places() -> np.ndarray:
    places = np.full(256, PROTOCOLS.index("other"), np.uint8)
    for place, protocol in enumerate((PROTO_TCP, PROTO_UDP, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP)):
        places[protocol] = place
    places.flags.writeable = False
    return places


_PLACES = _protocol_places()


@kernel
def count(t: Any, zone: Any, proto: Any, counter: Any) -> Any:
    """Add one to a counter (`schema.C_*`) of a zone that is in use and an IP protocol (0 to 255)."""
    t.counters[zone << ZONE_SHIFT | np.int64(_PLACES[proto]) << COUNTER_SHIFT | counter] += 1


@kernel
def use_zone(t: Any, zone: Any) -> Any:
    """Note that a zone is in use; to be called before anything is counted there."""
    flags = np.int64(t.zones["flags"][zone])
    if flags & ZONE_USED == 0:
        t.zones["flags"][zone] = flags | ZONE_USED
        n = t.state["n_zones"][0]
        t.used_zones[n] = zone
        t.state["n_zones"][0] = n + 1


@kernel
def final_state(t: Any, row: Any, proto: Any) -> Any:
    """The state in which a connection ends, by the numbers of `statistics.expired_names`.

    TCP: that of the peer further on (linux: the connection's, also of SCTP). All others: 1 if there was an answer.
    """
    if t.state["linux"][0] and (proto == PROTO_TCP or proto == PROTO_SCTP):
        return np.int64(t.conns["state"][row])
    if proto != PROTO_TCP:
        return np.int64(1 if t.conns["flags"][row] & F_SEEN_REPLY else 0)
    return max(np.int64(t.conns["peer"][row, 0]), np.int64(t.conns["peer"][row, 1]))

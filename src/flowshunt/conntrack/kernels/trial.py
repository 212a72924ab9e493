"""Trying reply tuples: is this one free.

A tuple is taken when a packet that carries it belongs to a living connection, in whichever direction. The tuple tried
is `nat_key` (addresses) with a tuple word, zone included.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels.buckets import find
from flowshunt.conntrack.kernels.tuples import KIND_ICMP, hash_packet
from flowshunt.jit import kernel

SIDE_SOURCE = 0
"""The port that is tried out is the reply tuple's source port: destination NAT."""
SIDE_DESTINATION = 1
"""It is its destination port: source NAT."""

_U32 = 0xFFFFFFFF


@kernel
def with_port(word: Any, side: Any, port: Any) -> Any:
    """A tuple word with another port at one side; an ICMP id counts for both."""
    port = np.int64(port)
    if word & KIND_ICMP:
        return word & _U32 | port << 48 | port << 32
    if side == SIDE_SOURCE:
        return word & 0xFFFFFFFFFFFF | port << 48
    return (word >> 48) << 48 | word & _U32 | port << 32


@kernel
def port_of(word: Any, side: Any) -> Any:
    """The port at one side of a tuple word."""
    return (word >> (48 if side == SIDE_SOURCE else 32)) & 0xFFFF


@kernel(inline=False)
def occupant(t: Any, word: Any) -> Any:
    """The connection that the tuple tried belongs to, or -1. Leaves its hash in `state["nat_hash"]`."""
    hashed = hash_packet(t.state, t.nat_key, 0, word)
    t.state["nat_hash"][0] = hashed
    found = find(t, hashed, t.nat_key, 0, word)
    return found >> 1 if found >= 0 else found

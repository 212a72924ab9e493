"""Who talks to whom, counted in bounded tables: the kernels below `sides`.

A `Graph` has one node for each endpoint (a MAC address or an IP address) and one edge for each pair that exchanged
unicast packets. Both are found by open addressing with a bounded number of probes; what finds no place is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flowshunt.jit import kernel, mix
from flowshunt.packet.schema import (
    ETH_ARP,
    KEY_WORDS,
    PACKET,
    PROTO_TCP,
    W_ETH_DST,
    W_ETH_SRC,
    W_FLAGS,
    W_L4,
    W_NW_DST,
    W_NW_SRC,
)

LARGEST_NODES = 1 << 16
LARGEST_EDGES = 1 << 18
_SLOTS_PER_ENTRY = 4
_PROBES = 64

INSIDE = 1
OUTSIDE = 2

MODE_MAC = 0
MODE_ADDRESS = 1

NODE = np.dtype(
    [
        ("high", np.int64),  # of a MAC address: 0
        ("low", np.int64),
        ("n_packets", np.int64),  # sent, also the other counts
        ("n_opening", np.int64),  # TCP SYN without ACK
        ("n_private", np.int64),  # from a private address to a public one
        ("n_inside", np.int64),  # from a network said to be inside
        ("via", np.int64),  # of an IP address: the MAC node that first sent from it, or -1
        ("side", np.int64),  # INSIDE, OUTSIDE, or 0: unknown
    ],
    align=True,
)
EDGE = np.dtype([("a", np.int64), ("b", np.int64), ("n_packets", np.int64)], align=True)
COUNTS = np.dtype(
    [("n_nodes", np.int64), ("n_edges", np.int64), ("n_packets", np.int64), ("n_paired", np.int64)], align=True
)
"""Entries used; packets seen; packets between two different unicast endpoints."""

NETWORK = np.dtype([("high", np.int64), ("low", np.int64), ("high_mask", np.int64), ("low_mask", np.int64)], align=True)
"""A network in the 128-bit address form."""


class Graph(NamedTuple):
    """Tables of one kind of endpoint. `*_slots`: int32, index + 1 of the entry there, 0: free. `counts`: COUNTS
    (1,)."""

    nodes: np.ndarray
    node_slots: np.ndarray
    edges: np.ndarray
    edge_slots: np.ndarray
    counts: np.ndarray


def new_graph(n_nodes: int = LARGEST_NODES, n_edges: int = LARGEST_EDGES) -> Graph:
    """An empty graph for so many nodes and edges (powers of two)."""
    return Graph(
        np.zeros(n_nodes, NODE),
        np.zeros(n_nodes * _SLOTS_PER_ENTRY, np.int32),
        np.zeros(n_edges, EDGE),
        np.zeros(n_edges * _SLOTS_PER_ENTRY, np.int32),
        np.zeros(1, COUNTS),
    )


@kernel
def _slot_of(high: Any, low: Any, slots: Any) -> Any:
    return mix(high ^ 0x2D358DCCAA6C78A5, low ^ 0x5BF03635C7A3A2D1) & (len(slots) - 1)


@kernel(inline=False)
def find_node(graph: Any, high: Any, low: Any, insert: Any) -> Any:
    """The node of an address; -1 when it has none and `insert` is false or there is no room."""
    slot = _slot_of(high, low, graph.node_slots)
    for _ in range(_PROBES):
        entry = np.int64(graph.node_slots[slot])
        if entry == 0:
            j = graph.counts["n_nodes"][0]
            if not insert or j == len(graph.nodes):
                return np.int64(-1)
            graph.node_slots[slot] = j + 1
            graph.nodes["high"][j] = high
            graph.nodes["low"][j] = low
            graph.nodes["via"][j] = -1
            graph.counts["n_nodes"][0] = j + 1
            return j
        if graph.nodes["low"][entry - 1] == low and graph.nodes["high"][entry - 1] == high:
            return entry - 1
        slot = (slot + 1) & (len(graph.node_slots) - 1)
    return np.int64(-1)


@kernel(inline=False)
def _count_edge(graph: Any, x: Any, y: Any) -> None:
    """Count a packet between nodes x and y; nothing when there is no room for their edge."""
    a = min(x, y)
    b = max(x, y)
    slot = _slot_of(a, b, graph.edge_slots)
    for _ in range(_PROBES):
        entry = np.int64(graph.edge_slots[slot])
        if entry == 0:
            j = graph.counts["n_edges"][0]
            if j == len(graph.edges):
                return
            graph.edge_slots[slot] = j + 1
            graph.edges["a"][j] = a
            graph.edges["b"][j] = b
            graph.edges["n_packets"][j] = 1
            graph.counts["n_edges"][0] = j + 1
            return
        if graph.edges["a"][entry - 1] == a and graph.edges["b"][entry - 1] == b:
            graph.edges["n_packets"][entry - 1] += 1
            return
        slot = (slot + 1) & (len(graph.edge_slots) - 1)


@kernel
def _is_unicast_mac(mac: Any) -> Any:
    return mac != 0 and mac >> 40 & 1 == 0


@kernel
def _is_ipv4(high: Any, low: Any) -> Any:
    return high == 0 and low >> 32 == 0


@kernel
def _is_unicast(high: Any, low: Any) -> Any:
    """Not unspecified, multicast or (IPv4) the limited broadcast."""
    if _is_ipv4(high, low):
        return low != 0 and low < 0xE0000000
    return high >> 56 & 0xFF != 0xFF


@kernel
def _is_private(high: Any, low: Any) -> Any:
    """RFC 1918, 3927, 6598 and loopback; of IPv6, unique and link local addresses."""
    if _is_ipv4(high, low):
        return (
            low >> 24 == 10
            or low >> 24 == 127
            or low >> 20 == 0xAC1
            or low >> 16 == 0xC0A8
            or low >> 22 == 0x191
            or low >> 16 == 0xA9FE
        )
    return high >> 57 & 0x7F == 0x7E or high >> 54 & 0x3FF == 0x3FA


@kernel
def _is_within(networks: Any, high: Any, low: Any) -> Any:
    for j in range(len(networks)):
        if (
            high & networks["high_mask"][j] == networks["high"][j]
            and low & networks["low_mask"][j] == networks["low"][j]
        ):
            return True
    return False


@kernel
def _has_addresses(packets: Any, keys: Any, i: Any) -> Any:
    return packets["family"][i] != 0 or keys[i, W_ETH_DST] & 0xFFFF == ETH_ARP


@kernel
def _opens(keys: Any, i: Any) -> Any:
    """A TCP SYN without ACK, RST, FIN."""
    return keys[i, W_L4] >> 24 & 0xFF == PROTO_TCP and keys[i, W_FLAGS] >> 48 & 0x17 == 0x02


@kernel
def _count_sender(graph: Any, j: Any, opens: Any, private: Any, within: Any) -> None:
    graph.nodes["n_packets"][j] += 1
    if opens:
        graph.nodes["n_opening"][j] += 1
    if private:
        graph.nodes["n_private"][j] += 1
    if within:
        graph.nodes["n_inside"][j] += 1


@kernel
def _count_pair(graph: Any, source: Any, destination: Any) -> None:
    if destination >= 0 and destination != source:
        _count_edge(graph, source, destination)
        graph.counts["n_paired"][0] += 1


@kernel
def _observe(packets: Any, keys: Any, i: Any, macs: Any, addresses: Any, networks: Any) -> None:
    known = _has_addresses(packets, keys, i)
    high = keys[i, W_NW_SRC]
    low = keys[i, W_NW_SRC + 1]
    to_high = keys[i, W_NW_DST]
    to_low = keys[i, W_NW_DST + 1]
    to_unicast = known and _is_unicast(to_high, to_low)
    opens = known and _opens(keys, i)
    private = to_unicast and _is_private(high, low) and not _is_private(to_high, to_low)
    within = known and _is_within(networks, high, low)
    mac = keys[i, W_ETH_SRC] >> 16 & 0xFFFFFFFFFFFF
    to_mac = keys[i, W_ETH_DST] >> 16 & 0xFFFFFFFFFFFF
    sender = np.int64(-1)
    if _is_unicast_mac(mac):
        sender = find_node(macs, np.int64(0), mac, True)
        if sender >= 0:
            _count_sender(macs, sender, opens, private, within)
            if _is_unicast_mac(to_mac):
                _count_pair(macs, sender, find_node(macs, np.int64(0), to_mac, True))
    macs.counts["n_packets"][0] += 1
    if known and _is_unicast(high, low):
        j = find_node(addresses, high, low, True)
        if j >= 0:
            _count_sender(addresses, j, opens, private, within)
            if addresses.nodes["via"][j] < 0:
                addresses.nodes["via"][j] = sender
            if to_unicast:
                _count_pair(addresses, j, find_node(addresses, to_high, to_low, True))
    addresses.counts["n_packets"][0] += 1


def _example() -> tuple[Any, ...]:
    keys = np.zeros((1, KEY_WORDS), np.int64)
    return np.zeros(1, PACKET), keys, np.int64(1), new_graph(1, 1), new_graph(1, 1), np.zeros(1, NETWORK)


@kernel(example=_example)
def observe(packets: Any, keys: Any, n: Any, macs: Any, addresses: Any, networks: Any) -> None:
    """Count the first `n` parsed packets in both graphs.

    `packets`: PACKET, `keys`: int64 (n, KEY_WORDS), both unchanged; `networks`: NETWORK, those said to be inside.
    """
    for i in range(n):
        _observe(packets, keys, i, macs, addresses, networks)


@kernel
def _side_of(graph: Any, high: Any, low: Any) -> Any:
    j = find_node(graph, high, low, False)
    return graph.nodes["side"][j] if j >= 0 else np.int64(0)


@kernel
def _other(side: Any) -> Any:
    return INSIDE + OUTSIDE - side if side != 0 else side


@kernel
def _side_by_mac(keys: Any, i: Any, macs: Any) -> Any:
    side = _side_of(macs, np.int64(0), keys[i, W_ETH_SRC] >> 16 & 0xFFFFFFFFFFFF)
    if side == 0:
        side = _other(_side_of(macs, np.int64(0), keys[i, W_ETH_DST] >> 16 & 0xFFFFFFFFFFFF))
    return side


@kernel
def _side_by_address(keys: Any, i: Any, addresses: Any) -> Any:
    """By the source's side, else the destination's; an address that talks to itself is inside at its higher port."""
    high = keys[i, W_NW_SRC]
    low = keys[i, W_NW_SRC + 1]
    to_high = keys[i, W_NW_DST]
    to_low = keys[i, W_NW_DST + 1]
    if high == to_high and low == to_low:
        ports = keys[i, W_L4]
        return np.int64(INSIDE) if ports >> 48 & 0xFFFF >= ports >> 32 & 0xFFFF else np.int64(OUTSIDE)
    side = _side_of(addresses, high, low)
    if side == 0:
        side = _other(_side_of(addresses, to_high, to_low))
    return side


@kernel
def _side(packets: Any, keys: Any, i: Any, macs: Any, addresses: Any, networks: Any, mode: Any) -> Any:
    known = _has_addresses(packets, keys, i)
    if known and len(networks) > 0:
        if _is_within(networks, keys[i, W_NW_SRC], keys[i, W_NW_SRC + 1]):
            return np.int64(INSIDE)
        if _is_within(networks, keys[i, W_NW_DST], keys[i, W_NW_DST + 1]):
            return np.int64(OUTSIDE)
    side = np.int64(0)
    if mode == MODE_MAC:
        side = _side_by_mac(keys, i, macs)
    if side == 0 and known:
        side = _side_by_address(keys, i, addresses)
    return side if side != 0 else np.int64(OUTSIDE)


@kernel(example=lambda: (*_example(), np.int64(0)))
def assign_sides(packets: Any, keys: Any, n: Any, macs: Any, addresses: Any, networks: Any, mode: Any) -> None:
    """Set in_port of the first `n` parsed packets to INSIDE or OUTSIDE, by `mode` (MODE_*); arguments as `observe`."""
    for i in range(n):
        packets["in_port"][i] = _side(packets, keys, i, macs, addresses, networks, mode)

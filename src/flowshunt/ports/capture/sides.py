"""The two sides of a link, told from one capture that holds both directions.

Whoever exchanges packets over the link stands on different sides of it, so the graph of who talks to whom is
coloured with two colours: of MAC addresses where most packets have two of them and they come from both sides, else
of IP addresses. The pairs with most packets count first; a pair that would then need both ends on one side (two
hosts of one segment, say) is left out. In each connected part the side is *inside* that, in this order, sent more
from the networks given as inside, opened more TCP connections, sent more from private addresses to public ones, or
was seen first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flowshunt.packet.parse import parse_batch
from flowshunt.packet.schema import KEY_WORDS, Batch
from flowshunt.ports.api import CaptureError
from flowshunt.ports.capture.endpoints import (
    INSIDE,
    LARGEST_EDGES,
    LARGEST_NODES,
    MODE_ADDRESS,
    MODE_MAC,
    NETWORK,
    OUTSIDE,
    Graph,
    assign_sides,
    new_graph,
    observe,
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SLICE = 1024
_SHOWN = 8
_VOTES = ("n_inside", "n_opening", "n_private")
NETWORKS_GIVEN = "the networks given"
_REASONS = (NETWORKS_GIVEN, "who opens TCP connections", "private addresses", "who was seen first")
_ALL = (1 << 64) - 1


class Side(NamedTuple):
    """One side, for display. `macs`: the first few in order of appearance. `n_packets`: sent from there."""

    in_port: int
    n_macs: int
    n_addresses: int
    n_packets: int
    macs: tuple[str, ...]


class Sides:
    """The sides of a capture; made by `SideInference.decide`.

    `by`: "mac" or "address". `reasons`: what decided which side is inside, most frequent first. `n_ambiguous`:
    packets between endpoints that came out on the same side. `inside`, `outside`: what stands there. `error`: the
    damage that ended the look at the capture early, or None.
    """

    def __init__(
        self, macs: Graph, addresses: Graph, networks: np.ndarray, mode: int, reasons: Sequence[str], n_ambiguous: int
    ) -> None:
        self.by = "mac" if mode == MODE_MAC else "address"
        self.reasons = tuple(reasons)
        self.n_ambiguous = n_ambiguous
        self.error: CaptureError | None = None
        self._graphs = macs, addresses
        self._networks = networks
        self._mode = mode
        self._keys = np.zeros((_SLICE, KEY_WORDS), np.int64)
        self.inside = self._summary(INSIDE)
        self.outside = self._summary(OUTSIDE)

    def assign(self, batch: Batch) -> None:
        """Set in_port of every packet of `batch`, in place, to 1 (came from the inside) or 2.

        By its source, else by its destination, else 2. Packets whose source or, failing that, destination is in the
        networks given as inside go by that. Also fills the parser's part of the records.
        """
        for packets, n in _parsed(batch, self._keys):
            assign_sides(packets, self._keys, n, *self._graphs, self._networks, self._mode)

    def describe(self) -> str:
        """Three lines for people."""
        how = f"sides by {'MAC' if self.by == 'mac' else 'IP'} address"
        if self.reasons:
            how += f", inside by {' and '.join(self.reasons)}"
        if self.n_ambiguous:
            how += f"; {self.n_ambiguous} packets between endpoints of the same side"
        return "\n".join([how, *(_line(name, side) for name, side in self._named())])

    def _named(self) -> tuple[tuple[str, Side], ...]:
        return ("inside", self.inside), ("outside", self.outside)

    def _summary(self, side: int) -> Side:
        macs, addresses = (graph.nodes[: graph.counts["n_nodes"][0]] for graph in self._graphs)
        here = macs[macs["side"] == side]
        senders = macs if self._mode == MODE_MAC else addresses
        return Side(
            in_port=side,
            n_macs=len(here),
            n_addresses=int(np.count_nonzero(addresses["side"] == side)),
            n_packets=int(senders["n_packets"][senders["side"] == side].sum()),
            macs=tuple(int(mac).to_bytes(6, "big").hex(":") for mac in here["low"][:_SHOWN]),
        )


def _line(name: str, side: Side) -> str:
    macs = ", ".join(side.macs) + (", ..." if side.n_macs > len(side.macs) else "")
    counts = f"{side.n_packets} packets, {side.n_macs} MACs, {side.n_addresses} IP addresses"
    return f"{name} (port {side.in_port}): {counts}" + (f" [{macs}]" if macs else "")


class SideInference:
    """The look at a capture before it is processed: `observe` every batch, then `decide`.

    Memory is bounded: endpoints beyond the first 65,536 of a kind are not learned, and go by their peer. `inside`:
    networks (CIDR text or objects); packets from there come from the inside, whatever else is found. Raises
    ValueError for text that is no network.
    """

    def __init__(
        self,
        inside: Sequence[str | Network] = (),
        *,
        max_endpoints: int = LARGEST_NODES,
        max_pairs: int = LARGEST_EDGES,
    ) -> None:
        self._networks = _network_records(inside)
        self._macs = new_graph(max_endpoints, max_pairs)
        self._addresses = new_graph(max_endpoints, max_pairs)
        self._keys = np.zeros((_SLICE, KEY_WORDS), np.int64)

    def observe(self, batch: Batch) -> None:
        """Look at the next packets; fills the parser's part of their records."""
        for packets, n in _parsed(batch, self._keys):
            observe(packets, self._keys, n, self._macs, self._addresses, self._networks)

    def decide(self) -> Sides:
        """The sides as far as seen."""
        mode = MODE_ADDRESS
        macs, addresses = (graph.nodes[: graph.counts["n_nodes"][0]] for graph in (self._macs, self._addresses))
        counts = self._macs.counts[0]
        if counts["n_paired"] > 0 and counts["n_paired"] * 2 >= counts["n_packets"]:
            reasons, n_ambiguous = _colour(self._macs)
            if len(np.unique(macs["side"][macs["n_packets"] > 0])) > 1:
                mode = MODE_MAC
        if mode == MODE_MAC:
            via = addresses["via"]
            addresses["side"] = np.where(via >= 0, self._macs.nodes["side"][via], 0)
        else:
            reasons, n_ambiguous = _colour(self._addresses)
            _sides_of_macs(macs, addresses)
        return Sides(self._macs, self._addresses, self._networks, mode, reasons, n_ambiguous)


def infer_sides(batches: Iterable[Batch], inside: Sequence[str | Network] = ()) -> Sides:
    """The sides of a capture, from one pass over its batches; see `SideInference`.

    A CaptureError ends the pass and is kept in `Sides.error`: what came before it is enough, and reading the
    capture again meets it again.
    """
    inference = SideInference(inside)
    error = None
    try:
        for batch in batches:
            inference.observe(batch)
    except CaptureError as damage:
        error = damage
    sides = inference.decide()
    sides.error = error
    return sides


def _parsed(batch: Batch, keys: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Slices of the batch, parsed into `keys`."""
    for start in range(0, len(batch.packets), _SLICE):
        packets = batch.packets[start : start + _SLICE]
        parse_batch(batch.data, packets, keys, len(packets))
        yield packets, len(packets)


def _network_records(networks: Sequence[str | Network]) -> np.ndarray:
    records = np.zeros(len(networks), NETWORK)
    for record, given in zip(records, networks, strict=True):
        network = ipaddress.ip_network(given)
        shift = 96 if network.version == 4 else 0  # IPv4 addresses are the low 32 bits of the 128-bit form
        mask = int(network.netmask) | ((1 << shift) - 1 << 32 if shift else 0)
        address = int(network.network_address)
        for name, value in (("", address), ("_mask", mask)):
            halves = np.array([value >> 64, value & _ALL], np.uint64).view(np.int64)
            record["high" + name], record["low" + name] = halves
    return records


def _sides_of_macs(macs: np.ndarray, addresses: np.ndarray) -> None:
    """Where addresses decided, a MAC is shown on the side of the first address that it sent from."""
    sent = addresses[addresses["via"] >= 0][::-1]
    macs["side"] = 0
    macs["side"][sent["via"]] = sent["side"]


def _colour(graph: Graph) -> tuple[list[str], int]:
    """Give every node its side; returns the reasons (most parts first) and the packets of pairs that were left out."""
    n_nodes, n_edges = int(graph.counts["n_nodes"][0]), int(graph.counts["n_edges"][0])
    nodes, edges = graph.nodes[:n_nodes], graph.edges[:n_edges]
    edges = edges[np.argsort(-edges["n_packets"], kind="stable")]
    forest = _Forest(n_nodes)
    n_ambiguous = 0
    for a, b, n_packets in edges.tolist():
        if not forest.separate(a, b):
            n_ambiguous += n_packets
    roots = np.zeros(n_nodes, np.int64)
    odd = np.zeros(n_nodes, np.int64)
    for j in range(n_nodes):
        roots[j], odd[j] = forest.find(j)
    inside, decided = _insides(nodes, roots, odd)
    nodes["side"] = np.where(odd == inside[roots], INSIDE, OUTSIDE)
    counts = np.bincount(decided[np.unique(roots)], minlength=len(_REASONS))
    return [_REASONS[k] for k in np.argsort(-counts, kind="stable") if counts[k]], n_ambiguous


def _insides(nodes: np.ndarray, roots: np.ndarray, odd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For the part of each root: the parity that is inside, and the index of the reason in _REASONS."""
    n = len(nodes)
    inside = np.full(n, -1)
    decided = np.full(n, len(_VOTES))
    for k, name in enumerate(_VOTES):
        lead = np.bincount(roots, np.where(odd == 0, 1, -1) * nodes[name], n)
        told = (inside < 0) & (lead != 0)
        inside[told] = np.where(lead[told] > 0, 0, 1)
        decided[told] = k
    first_roots, first = np.unique(roots, return_index=True)  # nodes are in order of appearance
    seen_first = np.zeros(n, np.int64)
    seen_first[first_roots] = odd[first]
    return np.where(inside < 0, seen_first, inside), decided


class _Forest:
    """Disjoint sets whose members know their parity to the root: different parity, different side."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))
        self._odd = [0] * n

    def find(self, j: int) -> tuple[int, int]:
        """Root of j, and j's parity to it; the path is shortened."""
        path = []
        while self._parent[j] != j:
            path.append(j)
            j = self._parent[j]
        parity = 0
        for k in reversed(path):
            parity ^= self._odd[k]
            self._parent[k], self._odd[k] = j, parity
        return j, parity

    def separate(self, a: int, b: int) -> bool:
        """Put a and b on different sides; False, with nothing changed, when they are on the same one already."""
        root_a, odd_a = self.find(a)
        root_b, odd_b = self.find(b)
        if root_a == root_b:
            return odd_a != odd_b
        self._parent[root_b], self._odd[root_b] = root_a, odd_a ^ odd_b ^ 1
        return True

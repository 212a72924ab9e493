"""The proof of a replay with offload: the same packets beside it through a switch without, and what differs.

A packet that skips the tracker is not checked: not its checksums, and not its place in the TCP window. What a tracker
would have called inv for one of these is `unchecked`. It may also teach the tracker otherwise: a reset outside the
window ends a connection whose windows nobody knows. So packets of a conversation that had an unchecked one may differ,
and are counted apart as `after`; any other difference is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flowshunt.cli.replay.offloading import Comparison
from flowshunt.conntrack.connection import Tuple
from flowshunt.conntrack.states import CS_HELD, CS_INVALID, ct_state_text
from flowshunt.datapath.schema import SOURCE_BATCH
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP

if TYPE_CHECKING:
    from flowshunt.app import Switch
    from flowshunt.datapath.tables import Result
    from flowshunt.packet.schema import Batch

_FLAGS = CS_HELD - 1
_ADDRESSES = {4: (12, 4), 6: (8, 16)}

Conversation = tuple[int, frozenset[tuple[str, int]]]
"""Protocol and both ends; ends without a port in protocols that have none."""


class Processor(Protocol):
    """The switch that is compared, or what stands before it."""

    def process(self, batch: Batch) -> Result:
        """Run a batch."""


class Twin:
    """Two switches with the same packets; to the loop, the first of them.

    `unchecked`: packets that skipped the tracker, which would have called them inv. `after`: other packets of their
    conversations that were treated differently. `different`: any others, and `first_different`: the number of the first
    of these, from 1. `list_unchecked(number, state)` is called for each unchecked one with what it would have been.
    """

    def __init__(
        self,
        switch: Processor,
        reference: Switch,
        list_unchecked: Callable[[int, str], None] | None = None,
        before: Processor | None = None,
    ) -> None:
        """`before`: what stands before `reference` to take its packets, if anything does."""
        self.unchecked = self.after = self.different = 0
        self.first_different: int | None = None
        self._switch, self._reference = switch, reference
        self._before: Processor = before or reference
        self._list = list_unchecked
        self._suspects: set[Conversation] = set()
        self._n_packets = 0

    def process(self, batch: Batch) -> Result:
        """Run a batch in both; returns the result of the switch that is compared."""
        result = self._switch.process(batch)
        other = self._before.process(batch)
        states, expected = result.ct_state & _FLAGS, other.ct_state & _FLAGS
        is_unchecked = (expected & CS_INVALID != 0) & (states & CS_INVALID == 0) & (states != 0)
        for place in np.flatnonzero(is_unchecked).tolist():
            self.unchecked += 1
            self._suspect(batch, place)
            if self._list is not None:
                self._list(self._n_packets + place + 1, ct_state_text(int(expected[place])))
        differs = (states != expected) | _frames_differ(batch, result, other)
        for place in np.flatnonzero(differs & ~is_unchecked).tolist():
            self._count_difference(batch, place)
        self._n_packets += len(batch.packets)
        return result

    @property
    def comparison(self) -> Comparison:
        """The counts."""
        return Comparison(self.unchecked, self.after, self.different, self.first_different)

    def _count_difference(self, batch: Batch, place: int) -> None:
        if conversation(batch, place) in self._suspects:
            self.after += 1
            return
        self.different += 1
        self.first_different = self.first_different or self._n_packets + place + 1

    def _suspect(self, batch: Batch, place: int) -> None:
        """Both directions of the packet's connection, which differ in more than the order of the ends under NAT."""
        found = conversation(batch, place)
        if found is None:
            return
        self._suspects.add(found)
        protocol, ends = found
        if protocol not in (PROTO_TCP, PROTO_UDP) or len(ends) != 2:
            return
        (a, a_port), (b, b_port) = ends
        for zone in self._reference.tracker.zone_statistics():
            for wanted in (Tuple(ip_address(a), ip_address(b), a_port, b_port),
                           Tuple(ip_address(b), ip_address(a), b_port, a_port)):  # fmt: skip
                connection = self._reference.tracker.find(wanted, protocol, zone)
                for side in (connection.original, connection.reply) if connection else ():
                    ends_of = ((str(side.source), side.source_port), (str(side.destination), side.destination_port))
                    self._suspects.add((protocol, frozenset(ends_of)))


def conversation(batch: Batch, place: int) -> Conversation | None:
    """Whose packet it is, either way round; None for what is not IP. Valid after the batch was parsed."""
    packet = batch.packets[place]
    family = int(packet["family"])
    if family not in _ADDRESSES:
        return None
    frame = batch.data[int(packet["data"]) :][: int(packet["length"])].tobytes()
    l3, l4 = int(packet["l3"]), int(packet["l4"])
    at, size = _ADDRESSES[family]
    source, destination = (str(ip_address(frame[l3 + at + n * size :][:size])) for n in range(2))
    protocol = frame[l3 + (9 if family == 4 else 6)]
    ports = (0, 0)
    if protocol in (PROTO_TCP, PROTO_UDP) and l4 and len(frame) >= l4 + 4:
        ports = int.from_bytes(frame[l4 : l4 + 2]), int.from_bytes(frame[l4 + 2 : l4 + 4])
    return protocol, frozenset(((source, ports[0]), (destination, ports[1])))


def _frames_differ(batch: Batch, result: Result, other: Result) -> np.ndarray:
    """Which packets left otherwise, bool (n,): on other ports, in another order, or in other bytes."""
    n = len(batch.packets)
    differs: np.ndarray
    differs = np.bincount(result.tx["packet"], minlength=n) != np.bincount(other.tx["packet"], minlength=n)
    ours, theirs = _comparable(result.tx, differs), _comparable(other.tx, differs)
    same = (ours["port"] == theirs["port"]) & (ours["length"] == theirs["length"])
    untouched = (ours["source"] == SOURCE_BATCH) & (theirs["source"] == SOURCE_BATCH) & (ours["data"] == theirs["data"])
    for place in np.flatnonzero(same & ~untouched).tolist():
        same[place] = _frame(batch, result, ours[place]) == _frame(batch, other, theirs[place])
    differs[ours["packet"][~same]] = True
    return differs


def _comparable(tx: np.ndarray, differs: np.ndarray) -> np.ndarray:
    """Frames by packet, without those whose number differs already."""
    ordered = tx[np.argsort(tx["packet"], kind="stable")]
    comparable: np.ndarray = ordered[~differs[ordered["packet"]]]
    return comparable


def _frame(batch: Batch, result: Result, frame: np.void) -> bytes:
    data = batch.data if frame["source"] == SOURCE_BATCH else result.tx_data
    return data[int(frame["data"]) :][: int(frame["length"])].tobytes()

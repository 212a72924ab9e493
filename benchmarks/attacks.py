"""Attacks mixed one to one with established traffic: what they cost it, and that it loses nothing.

`attack.<name>`: CPU cost of an established packet under attack, as a multiple of its cost without. Three switches are
prepared alike. In each round one gets a batch of established traffic, one the same number of attacking packets, and one
both, taken in turns; from the thread's CPU seconds of the three, (both - attack) / established. So what an attacking
packet costs itself is left out, and what it does to others (caches, longer searches, memory) is in. The three take
their turns in one process, in an order that rotates. `attack.<name>_flood`: Mpps of the attack alone.
`attack.<name>_lost`: established packets of all rounds that were not found established, not sent, or sent with another
translation; must be 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks import traffic
from flowshunt import Switch
from flowshunt.cli.bench.figures import Record
from flowshunt.conntrack.arrays import example_arrays, make_arrays
from flowshunt.conntrack.kernels.tuples import hash_tuple
from flowshunt.conntrack.states import CS_ESTABLISHED, CS_INVALID
from flowshunt.datapath.schema import SOURCE_BATCH
from flowshunt.jit import kernel, warm_up
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP, Batch

CAPACITY = 1 << 18
ESTABLISHED = 1 << 17
PER_ROUND = 1 << 16
CALL = 4096
ROUND_NS = 10_000_000_000
"""Time that a round spans: three of them are the life of an unanswered SYN, so that the table fills and empties."""
SYN_ROUNDS = 10 * CAPACITY // PER_ROUND
"""Rounds that a SYN flood of ten times the capacity takes; those that are not measured go before."""

RULES = """
table=0,arp,actions=normal
table=0,ip,actions=ct(zone=1,nat,table=1)
table=1,priority=9,in_port=1,udp,tp_dst=53,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=10.9.1.1:5000-9095)),2
table=1,in_port=1,ip,ct_state=+trk+new,actions=ct(commit,zone=1,nat(src=10.9.0.1-10.9.0.16)),output:2
table=1,in_port=1,ip,ct_state=+trk+est,actions=output:2
table=1,in_port=2,ip,ct_state=+trk+est,actions=output:1
table=1,in_port=1,ip,ct_state=+trk+rel,actions=output:2
table=1,in_port=2,ip,ct_state=+trk+rel,actions=output:1
"""
_SERVER = 0x0A800001
_VICTIM = 0x0A800002
_ADDRESSES = slice(26, 34)
_PORTS = slice(34, 38)

Flood = Callable[[int], Batch]
"""The attacking packets of a round."""


class Ends(NamedTuple):
    """Tuples: addresses and ports, each int64 (n,)."""

    source: np.ndarray
    source_port: np.ndarray
    destination: np.ndarray
    destination_port: np.ndarray

    def turned(self) -> Ends:
        """Those of the other direction."""
        return Ends(self.destination, self.destination_port, self.source, self.source_port)

    def at(self, index: np.ndarray) -> Ends:
        """Some of them."""
        return Ends(*(column[index] for column in self))


@dataclass
class Side:
    """A switch with its established connections: what the clients send, and what the server sees of it."""

    switch: Switch
    sent: Ends
    seen: Ends
    now_ns: int = 0


def _frames_of(batch: Batch, result: Any, port: int) -> tuple[np.ndarray, np.ndarray]:
    """The first 38 bytes of each frame that left on a port, uint8 (n, 38), and the packets that they come from."""
    tx = result.tx[result.tx["port"] == port]
    frames = np.zeros((len(tx), 38), np.uint8)
    for source, data in ((SOURCE_BATCH, batch.data), (1, result.tx_data)):
        chosen = (tx["source"] == SOURCE_BATCH) == (source == SOURCE_BATCH)
        frames[chosen] = data[tx["data"][chosen][:, None] + np.arange(38)]
    return frames, tx["packet"].copy()


def _ends_of(frames: np.ndarray) -> Ends:
    addresses = frames[:, _ADDRESSES].copy().view(">u4").astype(np.int64)
    ports = frames[:, _PORTS].copy().view(">u2").astype(np.int64)
    return Ends(addresses[:, 0], ports[:, 0], addresses[:, 1], ports[:, 1])


def _established() -> Side:
    """A switch with ESTABLISHED connections that are translated."""
    switch = Switch(max_connections=CAPACITY)
    switch.add_port("inside")
    switch.add_port("outside")
    switch.add_flows(RULES)
    clients, ports = traffic.flows(ESTABLISHED)
    servers = np.full(ESTABLISHED, _SERVER)
    sent = Ends(clients.astype(np.int64), ports.astype(np.int64), servers, np.full(ESTABLISHED, 80))
    first = traffic.tuples(PROTO_TCP, *sent)
    frames, packets = _frames_of(first, switch.process(first), 2)
    if len(packets) != ESTABLISHED:
        raise AssertionError(f"{len(packets)} of {ESTABLISHED} connections came about")
    seen = _ends_of(frames)
    answer = {"seq": traffic.SERVER_SEQ, "ack": traffic.CLIENT_SEQ + 1, "flags": traffic.SYN_ACK}
    switch.process(traffic.tuples(PROTO_TCP, *seen.turned(), in_port=2, **answer))
    side = Side(switch, sent, seen)
    for order in (np.arange(ESTABLISHED), np.arange(ESTABLISHED)[::-1]):  # client and server change parts
        batch = _packets(side, order)
        result = switch.process(batch)
        if _misjudged(side, order, batch, result, np.arange(len(batch.packets))) != 0:
            raise AssertionError("this traffic is not established, translated and forwarded")
    return side


def _packets(side: Side, chosen: np.ndarray) -> Batch:
    """A packet of each of the chosen connections, from the client and from the server in turns."""
    numbers = {"seq": traffic.CLIENT_SEQ + 1, "ack": traffic.SERVER_SEQ + 1, "flags": traffic.ACK}
    turned = {"seq": traffic.SERVER_SEQ + 1, "ack": traffic.CLIENT_SEQ + 1, "flags": traffic.ACK}
    there = traffic.tuples(PROTO_TCP, *side.sent.at(chosen[::2]), **numbers)
    back = traffic.tuples(PROTO_TCP, *side.seen.at(chosen[1::2]).turned(), in_port=2, **turned)
    return _interleave(there, back)


def _interleave(one: Batch, other: Batch) -> Batch:
    """The packets of two batches of equal length in turns, in a buffer of their own."""
    records = np.zeros(2 * len(one.packets), one.packets.dtype)
    size = max(len(batch.data) // len(batch.packets) for batch in (one, other))
    rows = np.zeros((len(records), size), np.uint8)
    for parity, batch in enumerate((one, other)):
        width = len(batch.data) // len(batch.packets)
        rows[parity::2, :width] = batch.data.reshape(-1, width)
        records[parity::2] = batch.packets
    records["data"] = np.arange(len(records)) * size
    return Batch(rows.reshape(-1), records)


def _misjudged(side: Side, chosen: np.ndarray, batch: Batch, result: Any, numbers: np.ndarray) -> int:
    """How many of the packets `numbers` of a batch were not established, or did not leave as they should."""
    states = result.ct_state[numbers]
    right = (states & CS_ESTABLISHED != 0) & (states & CS_INVALID == 0)
    place = np.full(len(batch.packets), -1)
    place[numbers] = np.arange(len(numbers))
    for port, parity, wanted in ((2, 0, side.seen), (1, 1, side.sent.turned())):
        frames, packets = _frames_of(batch, result, port)
        mine = place[packets]
        frames, mine = frames[mine >= 0], mine[mine >= 0]
        left = np.zeros(len(numbers), bool)
        left[mine] = True
        ends = _ends_of(frames)
        expected = wanted.at(chosen[mine])
        for column, other in zip(ends, expected, strict=True):
            left[mine[column != other]] = False
        right[parity::2] &= left[parity::2]
    return int((~right).sum())


def _run(side: Side, batch: Batch, chosen: np.ndarray | None, own: slice) -> tuple[float, int]:
    """CPU seconds of a batch that spans a round, and what its established packets lost."""
    n = len(batch.packets)
    batch.packets["time_ns"] = side.now_ns + np.arange(n) * (ROUND_NS // n)
    side.now_ns += ROUND_NS
    numbers = np.zeros(n, bool)
    numbers[own] = chosen is not None
    seconds, lost, taken = 0.0, 0, 0
    for start in range(0, n, CALL):
        part = Batch(batch.data, batch.packets[start : start + CALL])
        began = time.thread_time()
        result = side.switch.process(part)
        seconds += time.thread_time() - began
        mine = np.flatnonzero(numbers[start : start + CALL])
        if chosen is not None:
            lost += _misjudged(side, chosen[taken : taken + len(mine)], part, result, mine)
            taken += len(mine)
    return seconds, lost


def _attack(record: Record, rounds: int, name: str, flood: Flood, *, n: int = PER_ROUND, before: int = 0) -> None:
    """Measure one attack; `before` rounds of it come before the first one that counts."""
    alone, attacked, mixed = (_established() for _ in range(3))
    for number in range(before):
        for side in (attacked, mixed):
            _run(side, flood(number), None, slice(0))
    rng = np.random.default_rng(11)
    lost = 0
    for number in range(rounds):
        chosen = rng.permutation(ESTABLISHED)[:n]
        attack = flood(before + number)
        jobs: list[tuple[Side, Batch, np.ndarray | None, slice]] = [
            (alone, _packets(alone, chosen), chosen, slice(None)),
            (attacked, attack, None, slice(0)),
            (mixed, _interleave(_packets(mixed, chosen), attack), chosen, slice(0, None, 2)),
        ]
        seconds = [0.0] * 3
        for turn in range(3):
            which = (number + turn) % 3
            seconds[which], gone = _run(*jobs[which])
            lost += gone
        record.add(f"attack.{name}", "ratio", (seconds[2] - seconds[1]) / seconds[0])
        record.add(f"attack.{name}_flood", "Mpps", n / seconds[1] / 1e6)
    record.add(f"attack.{name}_lost", "packets", lost)


# --- floods ----------------------------------------------------------------------------------------------------------


def _random_ends(n: int, number: int) -> Ends:
    rng = np.random.default_rng(number)
    sources = rng.integers(0x14000000, 0x5F000000, n)
    return Ends(sources, rng.integers(1024, 65536, n), np.full(n, _VICTIM), np.full(n, 443))


def syn_flood(number: int) -> Batch:
    """SYNs of random sources to one server."""
    return traffic.tuples(PROTO_TCP, *_random_ends(PER_ROUND, number))


FRAGMENT_SIZE = 1280
FRAGMENTS = PER_ROUND // 4


def fragments(number: int) -> Batch:
    """First fragments of random sources, large enough to be waited for, whose second ones never come."""
    ends = _random_ends(FRAGMENTS, number)
    small = traffic.tuples(PROTO_UDP, *ends)
    data = np.zeros((FRAGMENTS, 14 + FRAGMENT_SIZE), np.uint8)
    data[:, :42] = small.data.reshape(FRAGMENTS, -1)[:, :42]
    data[:, 16:18] = FRAGMENT_SIZE >> 8, FRAGMENT_SIZE & 0xFF
    data[:, 18:20] = np.random.default_rng(number).integers(0, 256, (FRAGMENTS, 2))
    data[:, 20] = 0x20
    data[:, 38:40] = 0x10, 0
    traffic.fill_ipv4_checksum(data)
    return traffic.rows(data, 14 + FRAGMENT_SIZE, 1)


def nat_exhaustion(number: int) -> Batch:
    """New connections to one server through one address with few ports, which are soon all taken."""
    ends = _random_ends(PER_ROUND, number)
    return traffic.tuples(PROTO_UDP, *ends[:3], np.full(PER_ROUND, 53))


def icmp_errors(number: int) -> Batch:
    """Port unreachable from outside: half about connections that do not exist, half about ones that may."""
    rng = np.random.default_rng(number)
    _, ports = traffic.flows(ESTABLISHED)
    ends = _random_ends(PER_ROUND, number)
    real = rng.integers(0, ESTABLISHED, PER_ROUND // 2)
    ends.source[::2] = 0x0A090001 + rng.integers(0, 16, PER_ROUND // 2)
    ends.source_port[::2] = ports[real]
    ends.destination[::2], ends.destination_port[::2] = _SERVER, 80
    return traffic.unreachable(traffic.tuples(PROTO_TCP, *ends), in_port=2)


@kernel(example=lambda: (example_arrays(), *(np.zeros(1, np.int64) for _ in range(5))))
def hash_ends(t: Any, source: Any, source_port: Any, destination: Any, destination_port: Any, hashes: Any) -> Any:
    """The tuple hash of UDP over IPv4 of each of some ends."""
    for i in range(len(source)):
        word = source_port[i] << 48 | destination_port[i] << 32 | PROTO_UDP << 8
        hashes[i] = hash_tuple(t.state, np.int64(0), source[i], np.int64(0), destination[i], word)


def _foreign_collisions(n: int) -> Ends:
    """Ends that lie in a few buckets under a key that the attacker knows, which is not the switch's."""
    arrays = make_arrays(CAPACITY, seed=2026)
    ends = _random_ends(n << 6, 5)
    hashes = np.zeros(n << 6, np.int64)
    hash_ends(arrays, *ends, hashes)
    return ends.at(np.argsort(hashes & 0x7FFF, kind="stable")[:n])


def _structured(n: int) -> Iterator[Ends]:
    """Ends with little in them: counted up, mirrored, equal at both ends, apart by powers of two."""
    index = np.arange(n)
    server = np.full(n, _VICTIM)
    yield Ends(0x14000000 + index, np.full(n, 1024), server, np.full(n, 443))
    yield Ends(np.full(n, 0x14000001), index & 0xFFFF | 1, server + (index >> 16), np.full(n, 443))
    yield Ends(0x14000000 + index, 1024 + index % 7, 0x14000000 + index, 1024 + index % 7)
    yield Ends(0x14000000 + (index << 8), np.full(n, 1024), server ^ (index << 8), np.full(n, 1024))


def hash_collisions() -> Flood:
    """Connections that would collide under another key, and structured ones, in turns."""
    quarter = PER_ROUND // 4
    kinds = [_foreign_collisions(quarter), *list(_structured(quarter))[1:]]
    ends = Ends(*(np.stack(columns, axis=1).reshape(-1) for columns in zip(*kinds, strict=True)))

    def flood(number: int) -> Batch:
        return traffic.tuples(PROTO_UDP, *ends)

    return flood


def measure(record: Record, rounds: int) -> None:
    """All figures named attack.*."""
    warm_up()
    _attack(record, rounds, "syn_flood", syn_flood, before=max(SYN_ROUNDS - rounds, 0))
    _attack(record, rounds, "nat_exhaustion", nat_exhaustion, before=1)
    _attack(record, rounds, "icmp_errors", icmp_errors)
    _attack(record, rounds, "hash_collisions", hash_collisions(), before=1)
    _attack(record, rounds, "fragments", fragments, n=FRAGMENTS, before=1)

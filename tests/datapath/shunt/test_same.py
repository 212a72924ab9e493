"""With the shunt and without it: the same packets out, the same connections left."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from flowshunt.packet.schema import Batch
from tests.builders import Packet, batch_of
from tests.datapath.shunt.test_hits import BRIDGE, CLIENT, NAT, SERVER, START, make
from tests.datapath.switches import Sent

TWO_ZONES = """
table=0,ip,actions=ct(table=1,zone=1)
table=1,ip,ct_state=+inv,actions=drop
table=1,ip,actions=ct(commit,zone=1),ct(table=2,zone=2)
table=2,ip,actions=ct(commit,zone=2),resubmit(,3)
table=3,in_port=1,actions=output:2
table=3,in_port=2,actions=output:1
"""
WAITS = (0, 1, 1, 5, 500, 9_999, 19_999, 29_999, 30_000, 30_001, 59_999, 61_000)


class Peers:
    """Both ends of a few conversations, with sequence numbers that fit."""

    def __init__(self, rng: random.Random, translated: str | None, with_tcp: bool) -> None:
        self.rng = rng
        self.with_tcp = with_tcp
        self.translated = translated
        self.seq: dict[int, list[int]] = {}

    def addresses(self, reply: bool) -> tuple[str, str]:
        if not reply:
            return CLIENT, SERVER
        return SERVER, self.translated or CLIENT

    def link(self, reply: bool) -> Packet:
        rng = self.rng
        packet = Packet().eth("02:00:00:00:00:77") if rng.random() < 0.03 else Packet().eth()
        if rng.random() < 0.03:
            packet = packet.vlan(rng.randint(1, 2), tpid=rng.choice((0x8100, 0x88A8)))
        return packet

    def network(self, reply: bool, **options: Any) -> Packet:
        rng = self.rng
        source, destination = self.addresses(reply)
        if rng.random() < 0.03:
            options["options"] = bytes([1, 1, 1, 0])
        return self.link(reply).ipv4(source, destination, ttl=rng.choice((64, 64, 64, 2, 1)), **options)

    def udp(self, port: int, reply: bool) -> Packet:
        ports = (53, port) if reply else (port, 53)
        checksum = 1 if self.rng.random() < 0.02 else None
        return self.network(reply).udp(*ports, checksum=checksum).payload(self.rng.choice((0, 1, 50, 130)))

    def fragments(self, port: int, reply: bool) -> list[Packet]:
        ports = (53, port) if reply else (port, 53)
        number = self.rng.randrange(1 << 16)
        first = self.network(reply, id=number, mf=True).udp(*ports, length=40, checksum=0).payload(24)
        source, destination = self.addresses(reply)
        last = Packet().eth().ipv4(source, destination, id=number, offset=4, protocol=17).payload(bytes(8))
        return [first, last] if self.rng.random() < 0.7 else [last, first]

    def error(self, port: int, reply: bool) -> Packet:
        """Somebody cannot deliver a datagram of the other end."""
        source, destination = self.addresses(reply)
        quoted = Packet().ipv4(destination, source).udp(*((port, 53) if reply else (53, port))).payload(8)
        return Packet().eth().ipv4(source, destination).icmp(3, 3).quote(quoted)

    def tcp(self, port: int, reply: bool) -> Packet:
        rng = self.rng
        numbers = self.seq.setdefault(port, [1000, 9000, 0])
        d = int(reply)
        ports = (80, port) if reply else (port, 80)
        step, flags, size = numbers[2], {"ack": True}, 0
        if step < 2:
            if step != d:
                return self.network(reply).tcp(*ports, seq=5, ack_number=5, ack=True)
            flags = {"syn": True, "ack": bool(d)}
            numbers[2] += 1
        else:
            size = rng.choice((0, 0, 10, 60))
            flags["psh"] = rng.random() < 0.1
            if rng.random() < 0.03:
                flags[rng.choice(("fin", "rst"))] = True
        packet = (
            self.network(reply).tcp(*ports, seq=numbers[d], ack_number=numbers[1 - d], **flags).payload(bytes(size))
        )
        numbers[d] += size + flags.get("syn", False) + flags.get("fin", False)
        if flags.get("rst") or (flags.get("fin") and rng.random() < 0.5):
            self.seq.pop(port)
        return packet

    def some(self, translated_port: int | None) -> tuple[list[Packet], bool]:
        """Packets of one end, and whether it is the server."""
        rng = self.rng
        reply = rng.random() < 0.45
        port = 1000 + rng.randrange(3)
        if reply and translated_port is not None:
            port = translated_port
        kind = rng.random()
        if kind < 0.45 or (kind >= 0.53 and not self.with_tcp):
            return [self.udp(port, reply)], reply
        if kind < 0.5:
            return self.fragments(port, reply), reply
        if kind < 0.53:
            return [self.error(port, reply)], reply
        return [self.tcp(port, reply)], reply


def traffic(rng: random.Random, peers: Peers, translated_port: int | None, start_ms: int, n: int) -> Batch:
    """Bursts with silences in between, close to the timeouts as often as not.

    With NAT there are none within a batch: whether a port is free again is known when connections have been swept.
    """
    packets: list[Packet] = []
    ports, times = [], []
    now_ms = start_ms
    while len(packets) < n:
        made, reply = peers.some(translated_port)
        if translated_port is None and rng.random() < 0.08:
            now_ms += rng.choice(WAITS)
        packets += made
        ports += [2 if reply else 1] * len(made)
        times += [now_ms * 1_000_000 + rng.choice((0, 0, -3_000_000))] * len(made)
    batch = batch_of(packets)
    batch.packets["in_port"], batch.packets["time_ns"] = ports, times
    for i in np.flatnonzero([rng.random() < 0.03 for _ in packets]):
        batch.packets["gso_size"][i] = 20
    return batch


def sent(result: Any, batch: Batch) -> list[tuple[int, Sent]]:
    found = []
    for frame in result.tx:
        source = result.tx_data if frame["source"] else batch.data
        content = source[frame["data"] : frame["data"] + frame["length"]].tobytes()
        found.append((int(frame["packet"]), Sent(int(frame["port"]), content)))
    return found


@pytest.mark.parametrize("check", [False, True], ids=["unchecked", "checked"])
@pytest.mark.parametrize("profile", ["default", "linux"])
@pytest.mark.parametrize(
    ("rules", "options", "translated"),
    [
        (BRIDGE, {}, None),
        (BRIDGE.replace("actions=output", "actions=dec_ttl,output"), {"mtu": 90}, None),
        (TWO_ZONES, {"zones": (1, 2)}, None),
        (NAT.replace("5000-5000", "5000-5002"), {"match_tos": True}, "192.0.2.1"),
    ],
    ids=["bridge", "ttl-and-mtu", "two-zones", "nat"],
)
def test_random_traffic_comes_out_the_same(
    rules: str, options: dict[str, Any], translated: str | None, profile: str, check: bool
) -> None:
    # Linux keeps what is held when it is due, so a sweep in a silence would not find it over.
    waits = WAITS if profile == "default" else WAITS[:6]
    hits = 0
    for seed in range(3):
        rng = random.Random(seed)
        hand, plain = make(rules, profile, **options), make(rules, profile)
        hand.share.check = check
        for one in (hand, plain):  # what nobody checks must not matter
            one.tracker.arrays.state["check_checksums"] = one.tracker.arrays.state["check_sequence"] = check
        # Linux judges resets and times segments by windows, also where it does not check them.
        peers = Peers(rng, translated, with_tcp=profile == "default")
        now_ms = START
        for _ in range(10):
            ports = [5000, 5001, 5002] if translated else [None]
            batch = traffic(rng, peers, rng.choice(ports), now_ms, 40)
            now_ms = int(batch.packets["time_ns"].max()) // 1_000_000 + (rng.choice(waits) if translated else 0)
            results = hand.process(batch), plain.datapath.process(batch)
            states = [result.ct_state.tolist() for result in results]
            assert states[0] == states[1], (seed, now_ms)
            assert sent(results[0], batch) == sent(results[1], batch), (seed, now_ms)
            assert results[0].fate.tolist() == results[1].fate.tolist()
            for one in (hand, plain):
                one.tracker.sweep(now_ms)
        hits += hand.share.hits
        hand.flush()
        assert connections(hand) == connections(plain), seed
    assert hits > 20


def connections(hand: Any) -> list[tuple[Any, ...]]:
    """What is left of connections, with what passed by added."""
    rows = []
    for c in hand.tracker.connections():
        passed = hand.usage.get((c.id, c.generation))
        packets = c.packets if passed is None else tuple((np.array(c.packets) + passed[0]).tolist())
        rows.append((c.zone, str(c.original), str(c.state), None if c.zone else packets, c.timeout_ms))
    return sorted(rows, key=str)

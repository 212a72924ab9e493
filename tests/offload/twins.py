"""Two switches that get the same packets, one of which offloads: nothing that users see may differ."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flowshunt import Switch
from flowshunt.conntrack.connection import Connection
from flowshunt.datapath.schema import SOURCE_BATCH
from flowshunt.offload.batch import ConnectionId
from flowshunt.packet.schema import Batch
from tests.builders import Host, Packet, batch_of

START_MS = 1_700_000_000_000
PORTS = ("p0", "pf0hpf", "p2")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")

PLAIN = """
table=0,arp,actions=normal
table=0,ip,ct_state=-trk,actions=ct(table=1)
table=0,ipv6,ct_state=-trk,actions=ct(table=1)
table=1,priority=1,ip,ct_state=+trk+new,actions=ct(commit),normal
table=1,priority=1,ip,ct_state=+trk+est,actions=normal
table=1,priority=1,ipv6,ct_state=+trk+new,actions=ct(commit),normal
table=1,priority=1,ipv6,ct_state=+trk+est,actions=normal
"""
"""The rules of row C1, and the same for IPv6."""

NAT = """
table=0,arp,actions=normal
table=0,ip,ct_state=-trk,actions=ct(table=1,nat)
table=1,in_port=p0,ip,ct_state=+trk+new,actions=ct(commit,nat(src=10.9.9.9:20000-20100)),pf0hpf
table=1,in_port=p0,ip,ct_state=+trk+est,actions=dec_ttl,pf0hpf
table=1,in_port=pf0hpf,ip,ct_state=+trk+est,actions=p0
"""
ZONES = """
table=0,in_port=p0,ip,actions=ct(table=1,zone=1)
table=0,in_port=pf0hpf,ip,actions=ct(table=3,zone=2)
table=1,ip,ct_state=+new,actions=ct(commit,zone=1),ct(table=2,zone=2)
table=1,ip,ct_state=+est,actions=ct(table=2,zone=2)
table=2,ip,ct_state=+new,actions=ct(commit,zone=2),pf0hpf
table=2,ip,ct_state=+est,actions=pf0hpf
table=3,ip,ct_state=+est,actions=ct(table=4,zone=1)
table=4,ip,ct_state=+est,actions=mod_vlan_vid:7,p0
"""

Sent = list[tuple[int, int, bytes]]


class Twins:
    """`plain` does not offload, `other` does. Packets go to both; what comes out must be equal, and is returned."""

    def __init__(
        self, flows: str = PLAIN, config: Mapping[str, str] | None = None, *, max_connections: int = 2000, **rest: Any
    ) -> None:
        self.now_ms = START_MS
        self.plain, self.other = (Switch(max_connections=max_connections, seed=3, **rest) for _ in range(2))
        for switch in self.switches:
            for name in PORTS:
                switch.add_port(name)
            switch.add_flows(flows, now_ms=START_MS)
            if switch.tracker.profile == "linux":  # what is not acknowledged is not seen of shunted segments
                for zone in range(3):
                    switch.tracker.set_timeout_policy(zone, {"tcp_unack": 432_000})
        self.other.configure_offload({"hw-offload": "true"} if config is None else config)

    @property
    def switches(self) -> tuple[Switch, Switch]:
        return self.plain, self.other

    def send(self, *packets: Packet | bytes, port: int = 1, after_ms: int = 1) -> Sent:
        """Packets in one batch; the frames that left: place of the packet, port, content."""
        self.now_ms += after_ms
        results = [
            _process(switch, batch_of(packets, in_port=port, time_ns=self.now_ms * 1_000_000, step_ns=0))
            for switch in self.switches
        ]
        assert results[0] == results[1], f"at {self.now_ms}: {results}"
        return results[0][0]

    def add_flows(self, text: str) -> None:
        for switch in self.switches:
            switch.add_flows(text, now_ms=self.now_ms)

    @property
    def hits(self) -> int:
        """Packets that went past the tables."""
        return self.other.statistics()["shunted"]

    def counters(self, name: str = "flowtable") -> dict[str, int]:
        (found,) = (counters for provider, counters in self.other.offload.providers() if provider.name == name)
        return {key: value for key, value in found.items() if value}

    def identity(self, place: int = 0) -> ConnectionId:
        connection = list(self.other.tracker.connections())[place]
        return ConnectionId(connection.id, connection.generation)

    def reason(self, place: int = 0, name: str = "flowtable") -> str:
        return self.other.offload.reason(*self.identity(place), name).code

    def compare(self) -> None:
        """Connections with counters and timers, rules with counters and uses, ports: all must be equal."""
        plain, other = (
            {(c.zone, c.original): self._story(c) for c in switch.tracker.connections(self.now_ms)}
            for switch in self.switches
        )
        differences = [(plain.get(key), other.get(key)) for key in plain | other if plain.get(key) != other.get(key)]
        assert not differences
        assert [_rule(flow) for flow in self.plain.flows()] == [_rule(flow) for flow in self.other.flows()]
        ports = [switch.datapath.ports.arrays for switch in self.switches]
        for name in ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes"):
            assert ports[0].ports[name].tolist() == ports[1].ports[name].tolist()
        rx = int(ports[1].ports["rx_packets"].sum())
        counted = sum(table.lookups for number, table in self.other.datapath.tables().items() if number == 0)
        assert counted == rx

    def _story(self, c: Connection) -> tuple[Any, ...]:
        counters = c.packets, c.bytes, c.tcp_flags
        return c.original, c.reply, c.zone, c.state, c.seen_reply, c.assured, c.timeout_ms, *counters


def _process(switch: Switch, batch: Batch) -> tuple[Sent, list[int], list[int]]:
    result = switch.process(batch)
    sent = []
    for frame in result.tx:
        source = batch.data if frame["source"] == SOURCE_BATCH else result.tx_data
        content = source[frame["data"] : frame["data"] + frame["length"]].tobytes()
        sent.append((int(frame["packet"]), int(frame["port"]), content))
    return sent, result.ct_state.tolist(), result.fate.tolist()


def _rule(flow: Any) -> tuple[Any, ...]:
    return flow.flow, flow.packets, flow.bytes, flow.used_ms


class Talk:
    """A TCP conversation between the ports p0 and pf0hpf, whatever is translated in between."""

    def __init__(self, twins: Twins, port: int = 1000, *, family: int = 4) -> None:
        self.twins = twins
        client, server = ("10.0.0.1", "10.0.0.2") if family == 4 else ("2001:db8::1", "2001:db8::2")
        self.ends = [Host(client, port, server, 80), Host(server, 80, client, port)]
        self.ends[1].next_seq = 70_000
        self.macs = list(MACS)

    def say(self, d: int, payload: bytes = b"", after_ms: int = 1, **flags: bool) -> bytes | None:
        """A segment from the client (0) or server (1), which the other end must understand; what came out."""
        next_seq = self.ends[d].next_seq
        frame = bytearray(self.ends[d].segment(payload, **flags))
        frame[0:12] = _mac(self.macs[1 - d]) + _mac(self.macs[d])
        sent = self.twins.send(bytes(frame), port=1 + d, after_ms=after_ms)
        arrived = [content for _, port, content in sent if port == 2 - d]
        if not arrived:
            self.ends[d].next_seq = next_seq  # to be sent again
            return None
        (content,) = arrived
        there = self.ends[1 - d]
        untagged = content[:12] + content[16:] if content[12:14] == b"\x81\x00" else content
        if d == 0 and flags.get("syn"):  # the server sees whom it is translated to
            from tests.builders import read_segment

            segment = read_segment(untagged)
            there.peer, there.peer_port = segment.source, segment.source_port
        there.receive(untagged)
        return content

    def open(self) -> Talk:
        self.say(0, syn=True, ack=False)
        self.say(1, syn=True)
        self.say(0)
        self.say(1)
        return self

    def exchange(self, n: int = 3, after_ms: int = 1) -> None:
        for i in range(n):
            self.say(i % 2, b"x" * (10 + i), after_ms, psh=True)

    def close(self) -> None:
        self.say(0, fin=True)
        self.say(1)
        self.say(1, fin=True)
        self.say(0)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def udp(port: int = 5000, *, reply: bool = False, size: int = 5, ttl: int = 64, macs: Sequence[str] = MACS) -> Packet:
    """A datagram of the client's port, or the answer."""
    if reply:
        packet = Packet().eth(macs[1], macs[0]).ipv4("10.0.0.2", "10.0.0.1", ttl=ttl).udp(53, port)
    else:
        packet = Packet().eth(macs[0], macs[1]).ipv4("10.0.0.1", "10.0.0.2", ttl=ttl).udp(port, 53)
    return packet.payload(size)


def wander(twins: Twins, steps: int, seed: int, changes: Iterable[str] = (), family: int = 4) -> None:
    """Random conversations, with silences, other senders, and changes of the rules in between."""
    rng = random.Random(seed)
    talks = [Talk(twins, 1000 + n, family=family).open() for n in range(4)]
    waiting = list(changes)
    for step in range(steps):
        talk = rng.choice(talks)
        action = rng.random()
        after_ms = rng.choice((1, 1, 1, 5, 900)) if action < 0.9 else rng.choice((9_000, 31_000, 70_000))
        if action < 0.03:
            talk.close()
            talks[talks.index(talk)] = Talk(twins, 3000 + step, family=family).open()
        elif action < 0.06:
            talk.macs[0] = f"02:00:00:00:01:{rng.randrange(4):02x}"
            talk.say(0, b"moved")
        elif action < 0.18 and waiting:
            twins.add_flows(waiting.pop(0))
        elif action < 0.4 and family == 4:
            port = 5000 + rng.randrange(3)
            twins.send(udp(port), after_ms=after_ms)
            twins.send(udp(port, reply=True), udp(port, ttl=1), udp(port), port=1 + rng.randrange(2))
        else:
            talk.exchange(rng.randrange(1, 12), after_ms)
        if step % 10 == 9:
            twins.compare()
    twins.compare()

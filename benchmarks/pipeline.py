"""Tables, actions and tracker together, packets in memory, one thread (its CPU seconds), batches of 256.

`pipeline.established`: the rules of the BlueField page (REQUIREMENTS row C1) on established traffic of 1000
connections. `pipeline.large`: 50 tables of 200 flows with 10 masks each; every packet is matched in every table.
`pipeline.large_drop`: the same tables, packets that end in the last one's drop. `pipeline.new_drop`: one unanswered
flow that a firewall refuses, a packet of it after the other.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks import traffic
from flowshunt import Switch
from flowshunt.cli.bench.figures import Record
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP, Batch

N = 1 << 18
CALL = 4096

C1_RULES = """
table=0,arp,action=normal
table=0,ip,ct_state=-trk,action=ct(table=1)
table=1,priority=1,ip,ct_state=+trk+new,action=ct(commit),normal
table=1,priority=1,ip,ct_state=+trk+est,action=normal
"""

_HITS = {
    0: {"a": 0, "b": 0},
    1: {"a": 128, "b": 0},
    3: {"port": 80},
    6: {"tos": 0, "a": 0},
    7: {"inport": 1, "a": 128},
}
"""Masks that may hold the flow that matches, with the values that do."""

_MASKS = (
    "ip,nw_src=10.{a}.{b}.0/24",
    "ip,nw_dst=10.{a}.{b}.0/24",
    "udp,tp_src={port}",
    "udp,tp_dst={port}",
    "udp,nw_src=10.{a}.{b}.1,tp_dst={port}",
    "udp,nw_dst=10.{a}.{b}.1,tp_src={port}",
    "ip,nw_tos={tos},nw_src=10.{a}.0.0/16",
    "in_port={inport},ip,nw_dst=10.{a}.0.0/16",
    "dl_src=02:00:00:00:{a:02x}:{b:02x},ip",
    "reg0={port},ip",
)
N_TABLES = 50
_PER_MASK = 20


def large_rules(last: str) -> str:
    """50 tables of 200 flows, 10 masks each; in a random one of them lies the flow that matches the traffic."""
    rng = np.random.default_rng(3)
    lines = []
    for table in range(N_TABLES):
        onward = f"goto_table:{table + 1}" if table < N_TABLES - 1 else last
        hit = int(rng.choice(list(_HITS)))
        for number, mask in enumerate(_MASKS):
            priority = int(rng.integers(1, 1000))
            for i in range(_PER_MASK):
                values = {"a": 100 + i, "b": table, "port": 20000 + i, "tos": 4 * (i + 1), "inport": 100 + i}
                if number == hit and i == 0:
                    values |= _HITS[hit]
                lines.append(f"table={table},priority={priority},{mask.format(**values)},actions={onward}")
    return "\n".join(lines)


def _repeat(batch: Batch, n: int) -> Batch:
    """A batch of `n` packets over the same frames."""
    return Batch(batch.data, np.tile(batch.packets, -(-n // len(batch.packets)))[:n])


def _rate(switch: Switch, batch: Batch) -> float:
    """Million packets a second, in calls of CALL packets."""
    parts = [Batch(batch.data, batch.packets[at : at + CALL]) for at in range(0, len(batch.packets), CALL)]
    began = time.thread_time()
    for part in parts:
        switch.process(part)
    return len(batch.packets) / (time.thread_time() - began) / 1e6


def _switch(rules: str) -> Switch:
    switch = Switch(max_connections=1 << 20)
    switch.add_port("inside")
    switch.add_port("outside")
    switch.add_flows(rules)
    return switch


def _established(n: int) -> tuple[Switch, Batch]:
    switch = _switch(C1_RULES)
    clients, ports = traffic.flows(n)
    switch.process(traffic.frames(PROTO_TCP, clients, ports, flags=traffic.SYN, first=True))
    switch.process(traffic.frames(PROTO_TCP, clients, ports, reply=True, flags=traffic.SYN_ACK, first=True))
    established = traffic.frames(PROTO_TCP, clients, ports)
    result = switch.process(established)
    if set(result.ct_state.tolist()) != {0x22} or len(result.tx) != n:
        raise AssertionError("this traffic is not established and forwarded")
    return switch, established


def measure(record: Record, rounds: int) -> None:
    """All figures named pipeline.*."""
    switch, established = _established(1000)
    many, random = _established(1 << 17)
    shuffled = traffic.select(random, np.random.default_rng(5).permutation(1 << 17))
    server = traffic.frames(PROTO_UDP, *(column[:1] for column in traffic.flows(1)))
    walking = _switch(large_rules("output:2"))
    dropping = _switch(large_rules("drop"))
    firewall = _switch("table=0,ip,actions=ct(table=1)\ntable=1,ip,ct_state=+new,actions=drop")
    flood = _repeat(traffic.frames(PROTO_UDP, *traffic.flows(1000)), N // 8)
    if len(walking.process(flood).tx) != len(flood.packets) or len(dropping.process(flood).tx):
        raise AssertionError("the large tables do not do what they are meant to")
    for _ in range(rounds):
        record.add("pipeline.established", "Mpps", _rate(switch, _repeat(established, N)))
        record.add("pipeline.established_131k", "Mpps", _rate(many, shuffled))
        record.add("pipeline.large", "Mpps", _rate(walking, flood))
        record.add("pipeline.large_drop", "Mpps", _rate(dropping, flood))
        record.add("pipeline.new_drop", "Mpps", _rate(firewall, _repeat(server, N)))
    tables = walking.datapath.tables()
    record.add("pipeline.masks_per_table", "masks", max(table.masks for table in tables.values()))

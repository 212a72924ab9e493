from __future__ import annotations

import random

import numpy as np
import pytest

from flowshunt.datapath.tables import Datapath
from flowshunt.packet.schema import Batch
from flowshunt.rules.openflow import flow as F
from tests.builders import Packet, batch_of
from tests.datapath.switches import EST, IP, NEW, RPL, TRK, ct_state, field, flow, set_field, switch

FLOWS = (
    flow(F.Normal(), priority=1),
    flow(F.Ct(table=1, zone=7), F.Note(b""), F.Resubmit(table=3), match=[IP, ct_state(0, TRK)]),
    flow(
        F.Ct(commit=True, zone=7, exec=(F.Move(field("tp_dst", 0, 16), field("ct_mark", 0, 16)),)),
        F.Ct(commit=True, zone=9, table=2),
        F.Normal(),
        table=1,
        match=[IP, ct_state(NEW | TRK, NEW | TRK)],
    ),
    flow(
        F.Ct(zone=9, table=2),
        F.Clone((F.PushVlan(0x8100), F.Output(3))),
        table=1,
        match=[IP, ct_state(EST | TRK, EST | TRK)],
    ),
    flow(
        F.DecTtl(),
        set_field("reg0", 2, 32),
        F.Output(field("reg0", 0, 16)),
        F.Normal(),
        table=2,
        match=[IP, ct_state(EST | RPL | TRK, EST | RPL | TRK)],
        priority=200,
    ),
    flow(F.Flood(), table=2, match=[IP]),
    flow(F.Output(3), table=3, match=[IP, ("nw_ttl", 3, 0xFF)]),
)


def traffic(n: int, seed: int) -> Batch:
    """Conversations of a few stations, some of them broken, close together in one batch."""
    rng = random.Random(seed)
    frames: list[Packet | bytes] = []
    ports = []
    for _ in range(n):
        a, b = rng.sample(range(1, 5), 2)
        link = Packet().eth(f"02:00:00:00:00:{a:02x}", f"02:00:00:00:00:{b:02x}")
        if rng.random() < 0.2:
            link = link.vlan(rng.randint(1, 2))
        ip = link.ipv4(f"10.0.0.{a}", f"10.0.0.{b}", ttl=rng.choice([1, 3, 64]))
        port, other = rng.choice([(53, 1000), (1000, 53)])
        kind = rng.random()
        if kind < 0.4:
            packet = ip.udp(port, other).payload(rng.randint(0, 40))
        elif kind < 0.8:
            packet = ip.tcp(port, other, syn=rng.random() < 0.5, ack=rng.random() < 0.5, seq=rng.randint(0, 3))
        elif kind < 0.9:
            packet = ip.icmp(rng.choice([0, 8]), id=3)
        else:
            packet = link.arp(f"10.0.0.{a}", f"10.0.0.{b}")
        content = packet.bytes()
        frames.append(content[: rng.randint(5, len(content))] if rng.random() < 0.05 else content)
        ports.append(a)
    batch = batch_of(frames, time_ns=10**15, step_ns=40_000_000)
    batch.packets["in_port"] = ports
    return batch


def everything(datapath: Datapath, batch: Batch, pieces: int) -> list[object]:
    """All that a switch makes of a batch that comes in `pieces` parts."""
    seen: list[object] = []
    for part in np.array_split(np.arange(len(batch.packets)), pieces):
        piece = Batch(batch.data, batch.packets[part].copy())
        result = datapath.process(piece)
        for frame in result.tx:
            source = result.tx_data if frame["source"] else batch.data
            content = source[frame["data"] : frame["data"] + frame["length"]].tobytes()
            seen.append((int(frame["port"]), int(part[frame["packet"]]), int(frame["time_ns"]), content))
        seen += [result.ct_state.tolist(), result.fate.tolist()] if pieces == 1 else []
    seen.append(datapath.statistics())
    seen.append([(s.packets, s.bytes, s.used_ms) for s in datapath.flows()])
    seen.append(datapath.ports.stations(10**9 + 10**6))
    seen.append(sorted(map(repr, datapath.tracker.connections())))
    return seen


@pytest.mark.parametrize("seed", range(3))
def test_the_batch_size_makes_no_difference(seed: int) -> None:
    batch = traffic(300, seed)
    results = [everything(switch(*FLOWS, ports=range(1, 6), batch_size=size), batch, 1) for size in (1, 32, 256)]
    assert results[0] == results[1] == results[2]
    fates = results[0][-5]
    assert isinstance(fates, list)
    assert len(set(fates)) > 1


def test_the_division_of_the_input_makes_no_difference() -> None:
    batch = traffic(300, 9)
    whole = everything(switch(*FLOWS, ports=range(1, 6)), batch, 1)
    pieces = everything(switch(*FLOWS, ports=range(1, 6)), batch, 17)
    frames = [item for item in whole if isinstance(item, tuple)]
    assert len(frames) > 300
    assert frames == [item for item in pieces if isinstance(item, tuple)]
    assert whole[-4:] == pieces[-4:]


def test_an_empty_batch() -> None:
    datapath = switch(*FLOWS)
    result = datapath.process(Batch(np.zeros(0, np.uint8), traffic(1, 0).packets[:0]))
    assert len(result.fate) == len(result.tx) == len(result.ct_state) == 0

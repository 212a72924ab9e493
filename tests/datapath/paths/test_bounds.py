"""Learning under pressure: full arrays, many chains, many rules, and that it never changes what packets do."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from flowshunt.datapath.paths import verdicts
from flowshunt.datapath.paths.schema import make_paths
from flowshunt.datapath.paths.table import Paths
from tests.builders import Packet, batch_of
from tests.datapath.paths.conversation import C1, Lab, Talk, through, verdict
from tests.datapath.paths.test_accounting import account
from tests.datapath.paths.test_verdicts import EST, both, zones


def cramped(rules: str, **sizes: int) -> Lab:
    """A lab with little room for what is learned."""
    lab = Lab(rules)
    datapath = lab.switch.datapath
    datapath._work = datapath._work._replace(**make_paths(1000, **sizes)._asdict())
    datapath.paths = lab.paths = Paths(datapath._work, datapath.rules, datapath.ports)
    lab.paths.observe(lambda records: lab.told.extend(records.copy()))
    lab.paths.enable(True)
    return lab


def per_port(n: int) -> str:
    """A rule, and so a chain, for each of n ports of servers."""
    return "\n".join(
        f"table=1,priority=100,tcp,ct_state=+est,{field}={port},in_port={in_port},actions={3 - in_port}"
        for port in range(1, n + 1)
        for in_port, field in ((1, "tp_dst"), (2, "tp_src"))
    )


@pytest.mark.parametrize("sizes", [{"n_chains": 4}, {"n_entries": 9}])
def test_more_chains_than_fit(sizes: dict[str, int]) -> None:
    lab = cramped(through(per_port(20)), **sizes)
    for port in range(1, 21):
        Talk(lab, sport=port, dport=port).run()
        Talk(lab, sport=port + 100, dport=port).run()
    records = lab.take()
    assert {verdict(record) for record in records} == {"none"}
    assert len(records) >= 60, "a packet that finds no room is not told, the next one is"
    statistics = lab.paths.statistics()
    assert statistics["chains.collected"] > 0 and statistics["chains"] <= 4
    assert lab.paths.chain_rules(int(records[0]["chain"])) == []
    account(lab, records[0], records[-1])
    assert lab.paths.statistics()["forgotten"] == 1
    last = lab.paths.chain_rules(int(records[-1]["chain"]))
    assert [flow.table for flow in last] == [0, 1] and ("tp_src", 20, 0xFFFF) in last[1].match


def test_chains_in_use_outlive_others() -> None:
    lab = cramped(through(per_port(40)), n_chains=8)
    talk = Talk(lab, dport=1).run()
    kept = lab.take()
    for port in range(2, 41):
        Talk(lab, sport=port, dport=port).run()
        account(lab, *kept)
    assert [len(lab.paths.chain_rules(int(record["chain"]))) for record in kept] == [2, 2]
    lab.take()
    lab.now_ms += 5000
    talk.send(0)
    assert lab.take()[0]["chain"] == kept[0]["chain"]


def test_more_records_than_fit_in_one_batch() -> None:
    lab = cramped(through(EST), n_learned=4)
    talks = [Talk(lab, sport=1000 + n).begin() for n in range(50)]
    lab.take()
    lab.send(1, *(talk.packet(0) for talk in talks))
    records = lab.take()
    assert [int(record["path"]["tuple"]) >> 48 for record in records] == [1000 + n for n in range(50)]
    assert {int(record["epoch"]) for record in records} == {lab.paths.epoch}


def test_too_little_room_for_candidates_refuses() -> None:
    rules = EST + "\n" + "\n".join(f"table=1,priority=200,ip,nw_src=9.9.9.{n},nw_ttl=1,actions=drop" for n in range(9))
    lab = cramped(through(rules), n_candidate_words=20)
    Talk(lab).run()
    assert lab.verdicts() == ["varying-match:nw_ttl"] * 2
    lab = cramped(through(rules))
    Talk(lab).run()
    assert lab.verdicts() == ["none"] * 2


def test_candidates_of_many_epochs_take_no_more_room() -> None:
    rules = EST + "\n" + "\n".join(f"table=1,priority=200,ip,nw_src=9.9.9.{n},nw_ttl=1,actions=drop" for n in range(9))
    lab = cramped(through(rules), n_candidate_words=400)
    talk = Talk(lab).run()
    for _ in range(50):
        lab.paths.bump("test")
        talk.send(0)
    assert set(lab.verdicts()) == {"none"}


def test_thousands_of_rules_that_might_match_are_refused_in_no_time() -> None:
    n = verdicts.MAX_READERS + 2
    rules = [f"table=1,priority=200,ip,nw_src=9.{k >> 8}.{k & 255}.1,nw_ttl=1,actions=drop" for k in range(n)]
    lab = Lab(through(EST + "\n" + "\n".join(rules[: verdicts.MAX_CANDIDATES])))
    Talk(lab).run()
    assert lab.verdicts() == ["none"] * 2
    lab.switch.add_flows("\n".join(rules))
    started = time.perf_counter()
    Talk(lab, sport=9).run()
    assert time.perf_counter() - started < 5
    assert lab.verdicts() == ["varying-match:nw_tos"] * 2
    lab.switch.add_flows("\n".join(f"table=1,priority=300,ct_state=+est,in_port={p},actions={3 - p}" for p in (1, 2)))
    Talk(lab, sport=10).run()
    assert lab.verdicts() == ["none"] * 2, "none of them comes first any more"


def test_one_packet_in_many_zones_many_times() -> None:
    hops = ",".join(["ct(zone=1)"] * 100)
    lab = Lab(through(both(hops + ",OUT")))
    Talk(lab).run()
    assert lab.verdicts() == ["none", "none"], "all of them one connection"
    lab = Lab(zones(30))
    Talk(lab, protocol="udp").run()
    assert lab.verdicts() == ["too-many-zones"] * 2


def test_a_path_of_a_port_that_cannot_be() -> None:
    lab = Lab("table=0,ip,actions=ct(commit,table=1)\ntable=1,actions=2")
    packet = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2)
    answer = Packet().eth().ipv4("10.0.0.2", "10.0.0.1").udp(2, 1)
    for content in (packet, answer, packet):
        batch = batch_of([content], time_ns=lab.now_ms * 1_000_000)
        batch.packets["in_port"] = 0xFFFFFFFF
        lab.switch.process(batch)
    records = lab.take()
    assert [verdict(r) for r in records] == ["none", "none"]
    assert {int(r["path"]["in_port"]) for r in records} == {0xFFFFFFFF}


RULES = [
    C1,
    through(both("dec_ttl,OUT")),
    through(EST + "\ntable=1,priority=200,ip,nw_ttl=3,actions=drop"),
    zones(3),
    """
    table=0,ip,ct_state=-trk,action=ct(table=1,nat)
    table=1,in_port=1,ip,ct_state=+trk+new,action=ct(commit,nat(src=1.1.1.16)),2
    table=1,in_port=2,ip,ct_state=+trk+new,action=ct(commit,nat(dst=10.0.0.3)),1
    table=1,ip,ct_state=+trk+est,action=normal
    """,
]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_learning_changes_nothing_about_packets(rules: str, seed: int) -> None:
    """Frames, connections and counters are the same with learning on, in batches of any size."""
    draw = random.Random(seed)
    plans = []
    for _ in range(6):
        batch = []
        for _ in range(draw.randrange(1, 40)):
            flags = draw.choice([{}, {}, {}, {"fin": True}, {"rst": True}, {"psh": True}, {"syn": True, "ack": False}])
            header = {"ttl": draw.choice([1, 2, 3, 64])}
            batch.append((draw.randrange(2), draw.randrange(4), draw.choice(["tcp", "udp"]), flags, header))
        plans.append((batch, draw.choice([0, 0, 1, 5000]), draw.random() < 0.3))
    outcomes = []
    for on, n_learned in ((False, 4096), (True, 4096), (True, 3)):
        lab = cramped(rules, n_learned=n_learned)
        lab.paths.enable(on)
        outcome: list[object] = []
        for batch, silence, changes in plans:
            lab.now_ms += silence + 100
            packets = []
            for d, sport, protocol, flags, header in batch:
                talk = Talk(lab, sport=1000 + sport, protocol=protocol)
                packets.append(talk.packet(d, header=header, **(flags if protocol == "tcp" else {})))
            content = batch_of(packets, time_ns=lab.now_ms * 1_000_000)
            content.packets["in_port"] = [d + 1 for d, *_ in batch]
            result = lab.switch.process(content)
            for frame in result.tx:
                data = result.tx_data if frame["source"] else content.data
                start = int(frame["data"])
                outcome.append((int(frame["port"]), data[start : start + int(frame["length"])].tobytes()))
            outcome += [result.ct_state.tolist(), result.fate.tolist()]
            if changes:
                lab.switch.add_flows("table=77,actions=drop")
        outcome.append(sorted(map(repr, lab.switch.tracker.connections())))
        outcome.append([flow[1:] for flow in lab.switch.flows()])
        outcomes.append(outcome)
        if on:
            told = lab.take()
            assert {verdict(r) for r in told} <= {"none", "multiple-outputs", "varying-match:nw_ttl"}
            assert all(np.diff([int(r["time_ms"]) for r in told]) >= 0)
    assert outcomes[0] == outcomes[1] == outcomes[2]

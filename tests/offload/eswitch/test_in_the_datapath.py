"""The e-switch on the datapath's own table: what it takes passes the tables, what it refuses does not."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.table import Tracker
from flowshunt.datapath.tables import Datapath
from flowshunt.offload.eswitch.provider import Eswitch
from flowshunt.offload.eswitch.settings import EswitchSettings
from flowshunt.rules.openflow.compile import FlowCompiler
from flowshunt.rules.openflow.parse import parse_flows
from tests.builders import Packet, batch_of
from tests.datapath.shunt.forwarder import HandForwarder

RULES = """
table=0,ip,actions=ct(table=1)
table=1,ct_state=+new,actions=ct(commit),resubmit(,2)
table=1,ct_state=+est,actions=resubmit(,2)
table=2,in_port=1,actions=output:2
table=2,in_port=2,actions=output:1
"""
START_MS = 1_000_000


class AsShare:
    """The e-switch where a forwarder by hand expects a share."""

    def __init__(self, eswitch: Eswitch) -> None:
        self._eswitch = eswitch
        self.install = eswitch.install
        self.usage = eswitch.statistics
        self.withdraw = eswitch.withdraw


class Path:
    """A datapath with an e-switch; client on port 1, server on port 2."""

    def __init__(self, **settings: Any) -> None:
        datapath = Datapath(Tracker("default", max_connections=1000, seed=1), compiler=FlowCompiler())
        for port in (1, 2):
            datapath.ports.add(port)
        datapath.add_flows(flow for _, flow in parse_flows(RULES))
        self.eswitch = Eswitch(datapath.shunt, EswitchSettings(**settings))
        self.hand = HandForwarder(datapath, AsShare(self.eswitch))  # type: ignore[arg-type]
        self.now_ms = START_MS
        self.given_back: list[np.ndarray] = []

    def send(self, port: int, *, reply: bool = False, after_ms: int = 0) -> int:
        """A datagram of the conversation with this client port; whether it was a hit."""
        self.now_ms += after_ms
        before = self.eswitch.counters()["hits"]
        ends, ports = ("10.0.0.1", "10.0.0.2"), (port, 53)
        if reply:
            ends, ports = ends[::-1], ports[::-1]
        packet = Packet().eth().ipv4(*ends).udp(*ports).payload(b"data")
        result = self.hand.process(batch_of([packet], in_port=1 + reply, time_ns=self.now_ms * 1_000_000))
        assert [frame["port"] for frame in result.tx] == [2 - reply]
        *_, usage = self.eswitch.handed_back(self.now_ms)
        self.given_back.append(usage)
        return self.eswitch.counters()["hits"] - before

    def talk(self, port: int) -> None:
        """A question, an answer, a question: both paths are known then."""
        assert self.send(port) + self.send(port, reply=True) + self.send(port) == 0


def test_what_it_takes_is_a_hit_from_then_on():
    path = Path()
    path.talk(1000)
    assert [path.send(1000), path.send(1000, reply=True), path.send(1000)] == [1, 1, 1]
    assert path.eswitch.counters()["hits"] == 3
    assert path.eswitch.counters()["entries"] == 2


def test_what_it_refuses_goes_on_through_the_tables():
    path = Path(table_entries=3, num_of_groups=1, ct_max_offloaded_conns=None)
    for port in (1000, 1001):
        path.send(port)
        path.send(port, reply=True)
        path.send(port)
    assert path.eswitch.counters()["connections"] == 0
    assert path.send(1000) == path.send(1001) == 0


def test_the_maximum_decides_who_is_a_hit():
    path = Path(ct_max_offloaded_conns=1)
    for port in (1000, 1001):
        path.talk(port)
    assert (path.send(1000), path.send(1001)) == (1, 0)


def test_packets_pass_by_until_insertion_is_done():
    path = Path(insertion_latency_ms=5)
    path.talk(1000)
    assert path.send(1000, after_ms=4) == 0
    assert path.send(1000, after_ms=1) == 0, "its turn comes after this packet's batch"
    assert path.send(1000) == 1


def test_an_aged_connection_takes_the_tables_and_brings_its_counters():
    path = Path(ageing_s=10)
    path.talk(1000)
    assert path.send(1000) == 1
    assert path.send(1001, after_ms=10_000) == 0
    usage = np.concatenate(path.given_back)
    assert usage["packets"].tolist() == [[1, 0]]
    assert path.eswitch.counters()["connections"] == 0
    assert path.send(1000) == 0


def test_flush_ends_all_hits():
    path = Path()
    path.talk(1000)
    path.eswitch.flush()
    assert path.eswitch.counters()["connections"] == path.eswitch.counters()["entries"] == 0
    assert path.send(1000) == 0

"""The e-switch on a switch: what it takes passes the tables, what it refuses does not, and both come out the same."""

from __future__ import annotations

import pytest

from flowshunt import Switch
from flowshunt.offload.eswitch.provider import Eswitch
from tests.builders import Packet, batch_of

RULES = """
table=0,ip,actions=ct(table=1)
table=1,ct_state=+new,actions=ct(commit),resubmit(,2)
table=1,ct_state=+est,actions=resubmit(,2)
table=2,in_port=1,actions=output:2
table=2,in_port=2,actions=output:1
"""
START_MS = 1_000_000
SECOND = 1000


class Nic:
    """A switch that offloads to an e-switch; clients on port 1, the server on port 2."""

    def __init__(self, **options: str) -> None:
        self.switch = Switch(max_connections=1000, seed=1)
        for name in ("pf0hpf", "p0"):
            self.switch.add_port(name)
        self.switch.add_flows(RULES)
        self.switch.offload_to([("eswitch", options)])
        ((self.provider, _),) = self.switch.offload.providers()
        self.now_ms = START_MS

    @property
    def eswitch(self) -> Eswitch:
        assert isinstance(self.provider, Eswitch)
        return self.provider

    def count(self, name: str) -> int:
        return self.eswitch.counters()[name]

    def send(self, port: int, *, reply: bool = False, after_ms: int = 0) -> int:
        """A datagram of the conversation with this client port, which must arrive; whether it was a hit."""
        self.now_ms += after_ms
        before = self.count("hits")
        ends, ports = ("10.0.0.1", "10.0.0.2"), (port, 53)
        if reply:
            ends, ports = ends[::-1], ports[::-1]
        packet = Packet().eth().ipv4(*ends).udp(*ports).payload(b"data")
        result = self.switch.process(batch_of([packet], in_port=1 + reply, time_ns=self.now_ms * 1_000_000))
        assert [frame["port"] for frame in result.tx] == [2 - reply]
        return self.count("hits") - before

    def talk(self, port: int) -> None:
        """A question, an answer, a question, an answer: both paths are known then."""
        for reply in (False, True, False, True):
            self.send(port, reply=reply)

    def reason(self) -> str:
        """Why the only connection is not forwarded."""
        (connection,) = self.switch.tracker.connections()
        return self.switch.offload.reason(connection.id, connection.generation, "eswitch").code

    def mark(self) -> str | None:
        """How listings mark the only connection."""
        (connection,) = self.switch.tracker.connections()
        return connection.offload


def test_what_it_takes_is_a_hit_from_then_on_and_marked():
    nic = Nic()
    nic.talk(1000)
    assert [nic.send(1000), nic.send(1000, reply=True), nic.send(1000)] == [1, 1, 1]
    assert (nic.count("connections"), nic.count("entries")) == (1, 2)
    assert nic.mark() == "HW_OFFLOAD"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"table_entries": "3", "num_of_groups": "1"}, "table-full"),
        ({"ct_max_offloaded_conns": "0"}, "table-full"),
        ({"insertion_rate": "1", "insertion_queue": "0", "insertion_latency_ms": "5"}, "queue-full"),
    ],
)
def test_what_it_refuses_goes_on_through_the_tables_with_its_reason(options, code):
    nic = Nic(**options)
    nic.talk(1000)
    assert nic.send(1000) == nic.send(1000, reply=True) == 0
    assert nic.count("connections") == 0
    assert nic.reason() == code
    assert nic.mark() is None


def test_the_maximum_decides_who_is_a_hit():
    nic = Nic(ct_max_offloaded_conns="1")
    for port in (1000, 1001):
        nic.talk(port)
    assert (nic.send(1000), nic.send(1001)) == (1, 0)


def test_packets_pass_by_until_insertion_is_done():
    nic = Nic(insertion_latency_ms="5")
    nic.talk(1000)
    assert nic.send(1000, after_ms=4) == 0
    assert nic.send(1000, after_ms=1) == 0, "its turn comes after this packet's batch"
    assert nic.send(1000) == 1


def test_an_aged_connection_takes_the_tables_and_comes_back():
    nic = Nic(ageing_s="10")
    nic.talk(1000)
    assert nic.send(1000) == 1
    nic.send(1001, after_ms=10 * SECOND)
    assert (nic.count("aged"), nic.count("connections")) == (1, 0)
    assert nic.send(1000) == 0
    for reply in (True, False):
        nic.send(1000, reply=reply)
    assert nic.send(1000) == 1


def test_groups_change_while_the_switch_runs():
    nic = Nic(num_of_groups="1")
    nic.talk(1000)
    nic.eswitch.set_options({"num_of_groups": "3"})
    assert nic.eswitch.model.is_changing
    nic.switch.offload.flush()
    assert not nic.eswitch.model.is_changing
    assert nic.count("connections") == 0
    assert nic.send(1000) == 0


@pytest.mark.parametrize("delay_ms", ["0", "3000"])
def test_counters_of_connections_are_whole_when_all_is_told(delay_ms):
    nic = Nic(statistics_delay_ms=delay_ms)
    for n in range(40):
        nic.talk(1000) if n == 0 else nic.send(1000, reply=n % 2 == 1, after_ms=100)
    nic.now_ms += 4 * SECOND
    nic.send(2000)
    nic.switch.offload.synchronise()
    (connection,) = (c for c in nic.switch.tracker.connections() if c.original.source_port == 1000)
    assert sum(connection.packets) == 4 + 39
    assert nic.count("hits") > 30


def test_a_delay_of_counters_lets_no_rule_expire_that_is_in_use():
    nic = Nic(statistics_delay_ms="3000")
    nic.switch.del_flows("table=2,in_port=1")
    nic.switch.add_flows("table=2,idle_timeout=5,udp,tp_src=1000,actions=output:2", now_ms=nic.now_ms)
    nic.switch.add_flows("table=2,priority=1,in_port=1,actions=output:2")
    nic.talk(1000)
    nic.switch.offload.synchronise()
    nic.send(2000, after_ms=3 * SECOND)
    nic.switch.offload.synchronise()  # nothing new, and for three seconds from here counters rest
    assert nic.send(1000, after_ms=1 * SECOND) == 1
    nic.send(2000, after_ms=1100)
    assert any(entry.flow.idle_timeout for entry in nic.switch.flows())
    nic.send(2000, after_ms=5 * SECOND)
    assert not any(entry.flow.idle_timeout for entry in nic.switch.flows())

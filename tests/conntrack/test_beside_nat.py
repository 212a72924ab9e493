"""Connections without NAT, limits and expiry next to translated connections."""

from __future__ import annotations

import numpy as np
import pytest

from flowshunt import Switch
from flowshunt.conntrack.states import ct_state_text
from tests.builders import Packet, batch_of

RULES = """
table=0,in_port=1,ip,actions=ct(commit,nat(src=10.0.9.1),table=1)
table=0,in_port=2,ip,actions=ct(commit,table=1)
table=1,actions=output:3
"""


def switch(capacity: int = 1000) -> Switch:
    made = Switch(max_connections=capacity)
    for number in (1, 2, 3):
        made.add_port(f"p{number}", number)
    made.add_flows(RULES)
    return made


def states(made: Switch, *sent: tuple[int, int, str, str, int, int]) -> list[str]:
    """ct_state of UDP packets sent in one batch: port, milliseconds, addresses, ports."""
    packets = [Packet().eth().ipv4(a, b).udp(sport, dport).payload(b"x") for _, _, a, b, sport, dport in sent]
    batch = batch_of(packets)
    batch.packets["in_port"] = [port for port, *_ in sent]
    batch.packets["time_ns"] = np.array([time_ms for _, time_ms, *_ in sent]) * 1_000_000
    return [ct_state_text(int(state)) for state in made.process(batch).ct_state]


THERE = ("10.0.0.1", "10.0.0.2", 5000, 53)
BACK = ("10.0.0.2", "10.0.0.1", 53, 5000)


def test_a_commit_without_nat_does_not_take_the_tuple_of_a_translated_connection() -> None:
    made = switch()
    assert states(made, (1, 0, *THERE), (2, 1, *BACK), (2, 2, *THERE)) == ["new|trk|snat", "inv|trk", "new|trk"]
    assert made.tracker.statistics()["invalid-reply-taken"] == 1
    assert len(made.tracker) == 1


def test_an_expired_translated_connection_does_not_hide_one_that_lives() -> None:
    sent = (1, 0, *THERE), (2, 138_000, *BACK), (2, 139_000, *THERE)
    assert states(switch(), *sent) == ["new|trk|snat", "new|trk", "est|rpl|trk"]


@pytest.mark.parametrize("early_drop", [False, True])
def test_early_drop_finds_its_way_among_second_entries(early_drop: bool) -> None:
    made = switch(20)
    made.tracker.set_early_drop(early_drop)
    sent = [(1, n, "10.0.0.1", f"10.0.{n % 50}.2", 1024 + n, 53) for n in range(400)]
    assert set(states(made, *sent)) <= {"new|trk|snat", "new|trk"}
    assert len(made.tracker) == 20
    assert (made.tracker.statistics()["removed-early-drop"] > 100) is early_drop

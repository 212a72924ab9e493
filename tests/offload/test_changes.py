"""Marks and labels that change while paths are learned: what was told before says nothing of the packets after."""

from __future__ import annotations

import pytest

from tests.builders import Packet
from tests.offload.twins import MACS, Twins, udp

ONE_ZONE = """
table=0,udp,actions=ct(table=1)
table=1,in_port=p0,udp,ct_state=+new,actions=ct(commit),pf0hpf
table=1,in_port=p0,udp,ct_state=+est,FIELD=0,actions=ct(commit,exec(set_field:1->FIELD)),pf0hpf
table=1,in_port=p0,udp,ct_state=+est,FIELD=1,actions=pf0hpf
table=1,in_port=pf0hpf,udp,ct_state=+est,FIELD=0,actions=p0
table=1,in_port=pf0hpf,udp,ct_state=+est,FIELD=1,actions=p2
"""
TWO_ZONES = """
table=0,udp,actions=ct(table=1,zone=1)
table=1,udp,ct_state=+new,actions=ct(commit,zone=1),ct(table=2,zone=2)
table=1,udp,ct_state=+est,actions=ct(table=2,zone=2)
table=2,in_port=p0,udp,ct_state=+new,actions=ct(commit,zone=2),pf0hpf
table=2,in_port=p0,udp,ct_state=+est,FIELD=0,actions=ct(commit,zone=2,exec(set_field:1->FIELD)),pf0hpf
table=2,in_port=p0,udp,ct_state=+est,FIELD=1,actions=pf0hpf
table=2,in_port=pf0hpf,udp,ct_state=+est,FIELD=0,actions=p0
table=2,in_port=pf0hpf,udp,ct_state=+est,FIELD=1,actions=p2
"""
"""The second connection of the way is marked."""


@pytest.mark.parametrize("flows", [ONE_ZONE, TWO_ZONES])
@pytest.mark.parametrize("field", ["ct_mark", "ct_label"])
def test_a_path_from_before_a_mark_is_not_paired_with_one_from_behind_it(flows: str, field: str) -> None:
    twins = Twins(flows.replace("FIELD", field))
    twins.send(udp())
    ((_, to, _),) = twins.send(udp(reply=True), port=2)
    assert to == 1
    for _ in range(3):
        twins.send(udp())
    for _ in range(4):
        ((_, to, _),) = twins.send(udp(reply=True), port=2)
        assert to == 3
    assert twins.hits > 0
    twins.compare()


def test_a_path_told_in_the_batch_in_which_the_mark_changes_is_told_anew() -> None:
    """Answers come in on the same port here, so that one batch has both."""
    flows = """
table=0,udp,actions=ct(table=1)
table=1,udp,tp_dst=53,ct_state=+new,actions=ct(commit),pf0hpf
table=1,udp,tp_dst=53,ct_state=+est,ct_mark=0,actions=ct(commit,exec(set_field:1->ct_mark)),pf0hpf
table=1,udp,tp_dst=53,ct_state=+est,ct_mark=1,actions=pf0hpf
table=1,udp,tp_src=53,ct_mark=0,actions=pf0hpf
table=1,udp,tp_src=53,ct_mark=1,actions=p2
"""
    twins = Twins(flows)
    twins.send(udp())
    twins.send(udp(reply=True), udp())
    twins.send(udp(), udp())
    for _ in range(4):
        ((_, to, _),) = twins.send(udp(reply=True))
        assert to == 3
    assert twins.hits > 0
    twins.compare()


def test_a_flow_whose_label_changes_is_forwarded_again() -> None:
    flows = """
table=0,udp,actions=ct(table=1)
table=1,in_port=p0,udp,ct_state=+new,actions=ct(commit),pf0hpf
table=1,priority=40000,in_port=p0,udp,nw_tos=8,ct_state=+est,actions=ct(commit,exec(set_field:1->ct_label)),pf0hpf
table=1,in_port=p0,udp,ct_state=+est,actions=pf0hpf
table=1,in_port=pf0hpf,udp,ct_state=+est,actions=p0
"""
    twins = Twins(flows)
    for _ in range(3):
        twins.send(udp())
        twins.send(udp(reply=True), port=2)
    before = twins.hits
    assert before > 0
    twins.send(Packet().eth(*MACS).ipv4("10.0.0.1", "10.0.0.2", tos=8).udp(5000, 53).payload(5))
    assert twins.hits == before
    for _ in range(3):
        twins.send(udp())
        twins.send(udp(reply=True), port=2)
    assert twins.hits > before
    twins.compare()


@pytest.mark.parametrize("command", ["add", "modify"])
def test_a_rule_that_takes_the_place_of_another_does_not_count_what_was_forwarded_before(command: str) -> None:
    flows = """
table=0,udp,actions=ct(table=1)
table=1,in_port=p0,udp,ct_state=+new,actions=ct(commit),pf0hpf
table=1,in_port=p0,udp,ct_state=+est,actions=pf0hpf
table=1,in_port=pf0hpf,udp,ct_state=+est,actions=p0
"""
    twins = Twins(flows)
    for _ in range(5):
        twins.send(udp())
        twins.send(udp(reply=True), port=2)
    assert twins.hits > 4
    twins.add_flows(f"{command} table=1,in_port=p0,udp,ct_state=+est,actions=dec_ttl,pf0hpf")
    for _ in range(5):
        twins.send(udp())
        twins.send(udp(reply=True), port=2)
    twins.compare()


ONE_WAY = """
table=0,udp,actions=ct(table=1)
table=1,in_port=p0,udp,ct_state=+new,actions=ct(commit),pf0hpf
table=1,in_port=p0,udp,ct_state=+est,actions=pf0hpf
table=1,in_port=pf0hpf,udp,ct_state=+est,actions=p0
"""


def shorten(twins: Twins, seconds: int) -> None:
    for switch in twins.switches:
        switch.tracker.set_timeout_policy(0, {"udp_multiple": seconds})


def talk(twins: Twins) -> None:
    for _ in range(3):
        twins.send(udp())
        twins.send(udp(reply=True), port=2)


@pytest.mark.parametrize("gap_ms", [4000, 4999, 5000, 5001, 6000, 29_000])
def test_what_is_forwarded_lives_no_longer_than_a_new_policy_allows(gap_ms: int) -> None:
    twins = Twins(ONE_WAY)
    talk(twins)
    shorten(twins, 5)
    talk(twins)
    before = twins.hits
    twins.send(udp())
    assert twins.hits == before + 1
    twins.send(udp(), after_ms=gap_ms)
    talk(twins)
    twins.compare()


def test_what_was_forwarded_under_the_policy_before_lives_as_long_as_that_said() -> None:
    twins = Twins(ONE_WAY)
    talk(twins)
    twins.send(udp(), after_ms=3000)
    shorten(twins, 5)
    twins.send(udp(), after_ms=8000)
    twins.compare()

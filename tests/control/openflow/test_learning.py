"""Learned flows, shortened timeouts, the stack and the rest, through ovs-ofctl and with packets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowshunt.app import Switch
from flowshunt.datapath.schema import FATES
from flowshunt.rules.openflow import format_flow, parse_flow
from tests.builders import Packet, batch_of
from tests.control.openflow.test_server import Running, needs_ofctl
from tests.datapath.switches import Sent, ports_of, send, send_batch, udp

BASE = 1_700_000_000_000

LEARN = (
    "learn(table=10,idle_timeout=60,hard_timeout=120,priority=100,cookie=0x5,NXM_OF_ETH_TYPE[]=0x800,nw_proto=17,"
    "NXM_OF_IP_SRC[]=NXM_OF_IP_DST[],NXM_OF_UDP_SRC[]=NXM_OF_UDP_DST[],NXM_OF_VLAN_TCI[0..11],"
    "load:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15],load:0x7->NXM_NX_REG1[],output:NXM_OF_IN_PORT[])"
)
TEXTS = [
    f"udp actions={LEARN},NORMAL",
    "tcp actions=learn(table=1,fin_idle_timeout=5,fin_hard_timeout=6,send_flow_rem,delete_learned,"
    "NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[]),fin_timeout(idle_timeout=1,hard_timeout=2)",
    "actions=learn(table=1,limit=4,result_dst=NXM_NX_REG0[8],NXM_OF_ETH_SRC[]),resubmit(,1)",
    "actions=push:NXM_NX_REG1[3..9],push:NXM_NX_XXREG0[],pop:NXM_NX_REG2[],pop:NXM_NX_REG3[0..6]",
    "actions=check_pkt_larger(1500)->NXM_NX_REG0[3],output:1",
    "actions=group:5,exit,set_queue:3,enqueue:1:7,pop_queue",
    "actions=controller(reason=no_match,max_len=5,id=3,userdata=00.ff,pause,meter_id=9),CONTROLLER:128",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_read_and_written(text: str) -> None:
    flow = parse_flow(text)
    assert parse_flow(format_flow(flow)) == flow
    assert format_flow(flow) == text.replace("nw_proto=17", "NXM_OF_IP_PROTO[]=0x11")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "run")
    running.switch.add_port("p2", 3)
    try:
        yield running
    finally:
        running.close()


@needs_ofctl
@pytest.mark.parametrize("options", [(), ("-OOpenFlow13",), ("-OOpenFlow15",)])
@pytest.mark.parametrize("text", [*TEXTS[:5], "actions=exit,enqueue:1:7"])
def test_ovs_ofctl_lists_what_it_has_added(running: Running, text: str, options: tuple[str, ...]) -> None:
    running.ofctl(*options, "add-flow", text.replace(" ", ","))
    (said,) = running.flows(*options)
    read = parse_flow(said.replace("reset_counts ", ""))
    assert [type(action) for action in read.actions][:1] == [type(parse_flow(text).actions[0])]
    if "learn" in text or "push" in text or "larger" in text:
        assert read.actions[0] == parse_flow(text).actions[0]


def bridge(flows: str) -> Switch:
    switch = Switch(max_connections=100)
    for number in (1, 2, 3):
        switch.add_port(f"p{number}", number)
    switch.add_flows(flows, now_ms=BASE)
    return switch


def through(switch: Switch, packet: Packet, in_port: int = 1, after_ms: int = 1) -> list[Sent]:
    return send(switch.datapath, packet, in_port=in_port, time_ms=BASE + after_ms)


def texts(switch: Switch) -> list[str]:
    return [format_flow(line.flow) for line in switch.flows()]


def test_a_packet_teaches_a_flow_for_its_answers() -> None:
    switch = bridge(f"udp,in_port=1,actions={LEARN},2\nudp,in_port=2,actions=resubmit(,10)")
    answer = udp("10.0.0.2", "10.0.0.1", 2000, 1000)
    assert through(switch, answer, 2) == []
    assert ports_of(through(switch, udp())) == [2]
    assert texts(switch)[-1] == (
        "cookie=0x5, table=10, idle_timeout=60, hard_timeout=120, "
        "priority=100,udp,vlan_tci=0x0000/0x0fff,nw_src=10.0.0.2,tp_src=2000 "
        "actions=load:0x1->NXM_NX_REG0[0..15],load:0x7->NXM_NX_REG1[],output:1"
    )
    assert ports_of(through(switch, answer, 2, 50_000)) == [1]
    assert ports_of(through(switch, udp(), 1, 100_000)) == [2]  # begins the hard timeout anew
    assert ports_of(through(switch, answer, 2, 150_000)) == [1]
    switch.expire_flows(BASE + 209_999)
    assert len(texts(switch)) == 3
    switch.expire_flows(BASE + 210_000)
    assert len(texts(switch)) == 2


@pytest.mark.parametrize("batch_size", [1, 256])
def test_the_next_packet_of_a_batch_meets_what_the_one_before_taught(batch_size: int) -> None:
    switch = Switch(max_connections=100, batch_size=batch_size)
    for number in (1, 2, 3):
        switch.add_port(f"p{number}", number)
    switch.add_flows(
        "actions=learn(table=1,eth_type=0x800,nw_proto=17,NXM_OF_IP_SRC[],load:1->NXM_NX_REG0[]),resubmit(,1)\n"
        "table=1,priority=1,actions=2\n"
        "table=1,priority=2,arp,actions=drop"
    )
    batch = batch_of([udp(), udp(), udp("10.0.0.9")], in_port=1, time_ns=BASE * 1_000_000)
    assert [ports_of(sent) for sent in send_batch(switch.datapath, batch)] == [[2], [], [2]]
    assert len(switch.flows()) == 5


def test_a_limit_holds_and_is_told() -> None:
    switch = bridge(
        "actions=learn(table=1,limit=2,cookie=9,result_dst=NXM_NX_REG0[8],NXM_OF_ETH_SRC[],eth_type=0x800,"
        "NXM_OF_IP_SRC[]),resubmit(,2)\ntable=2,reg0=0x100/0x100,actions=2\ntable=2,priority=1,actions=3"
    )
    seen = [ports_of(through(switch, udp(f"10.0.0.{n}"))) for n in (1, 2, 3, 1)]
    assert seen == [[2], [2], [3], [2]]


def test_learned_flows_go_with_the_last_flow_that_teaches_them() -> None:
    teach = "learn(table=1,delete_learned,cookie=9,NXM_OF_ETH_SRC[])"
    switch = bridge(f"in_port=1,actions={teach},2\nin_port=2,actions={teach},1\ntable=1,arp,cookie=8,actions=drop")
    through(switch, udp())
    assert len(texts(switch)) == 4
    switch.del_flows("in_port=1")
    switch.expire_flows(BASE)
    assert len(texts(switch)) == 3
    switch.del_flows("in_port=2")
    switch.expire_flows(BASE)
    assert texts(switch) == ["cookie=0x8, table=1, arp actions=drop"]


def test_a_fin_shortens_the_timeouts_of_its_flow() -> None:
    switch = bridge("tcp,idle_timeout=600,actions=fin_timeout(idle_timeout=5,hard_timeout=20),2")
    syn = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(1, 2, syn=True)
    assert ports_of(through(switch, syn)) == [2]
    assert switch.statistics()["punted"] == 0
    fin = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(1, 2, fin=True, ack=True)
    assert ports_of(through(switch, fin, 1, 2)) == [2]
    assert texts(switch)[0].startswith("idle_timeout=5, hard_timeout=20, tcp")
    assert switch.expire_flows(BASE + 5_001) == 0
    assert switch.expire_flows(BASE + 5_002) == 1


def test_the_stack_keeps_values_and_clones_have_their_own() -> None:
    switch = bridge(
        "actions=load:0x11->NXM_NX_REG1[],load:0x22->NXM_NX_REG2[],push:NXM_NX_REG1[],"
        "clone(pop:NXM_NX_REG3[],push:NXM_NX_REG2[],push:NXM_NX_REG2[],resubmit(,1)),"
        "push:NXM_NX_XXREG0[],pop:NXM_NX_XXREG1[],pop:NXM_NX_REG3[],pop:NXM_NX_REG3[],resubmit(,1)\n"
        "table=1,reg3=0x11,reg5=0,actions=2\ntable=1,reg3=0x11,reg5=0x11,actions=3"
    )
    assert ports_of(through(switch, udp())) == [2, 3]


def test_the_length_of_a_packet_is_checked() -> None:
    switch = bridge("actions=check_pkt_larger(47)->NXM_NX_REG0[3],resubmit(,1)\ntable=1,reg0=8,actions=2")
    assert through(switch, udp()) == []
    assert ports_of(through(switch, udp().payload(b"longer"))) == [2]


def test_of_a_gso_packet_the_segments_are_checked() -> None:
    switch = bridge("actions=check_pkt_larger(100)->NXM_NX_REG0[3],resubmit(,1)\ntable=1,reg0=8,actions=2")
    packet = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(1, 2, ack=True).payload(1000)
    for segment, larger in ((46, False), (47, True)):
        batch = batch_of([packet], time_ns=BASE * 1_000_000)
        batch.packets["gso_size"], batch.packets["gso_type"] = segment, 1
        assert bool(len(switch.process(batch).tx)) == larger


def test_exit_ends_tables_and_a_clone_ends_alone() -> None:
    switch = bridge("actions=clone(resubmit(,1),3),2,resubmit(,1),3\ntable=1,actions=1,exit,2")
    assert ports_of(through(switch, udp(), 3)) == [1, 2, 1]


def test_many_flows_that_are_taught_and_dropped_leave_nothing_behind() -> None:
    switch = bridge("actions=drop")
    for n in range(300):
        switch.add_flows(f"priority=5,actions=learn(table=1,cookie={n},NXM_OF_ETH_SRC[]),controller(id={n})")
    linker = switch.datapath.rules.linker
    assert len(list(linker.handled_actions())) == 2
    assert len(linker._handled) <= 4
    switch.del_flows("")
    assert list(linker.handled_actions()) == []
    assert FATES.index("drop.meter")

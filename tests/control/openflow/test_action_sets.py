"""Action sets by the real ovs-ofctl, with packets through them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import Packet
from tests.control.openflow.test_groups import running, through
from tests.control.openflow.test_packets import Bench, bench
from tests.control.openflow.test_server import Running, needs_ofctl
from tests.datapath.switches import Sent, ports_of, udp

__all__ = ["bench", "running"]

pytestmark = needs_ofctl
VERSIONS = ("-OOpenFlow11", "-OOpenFlow12", "-OOpenFlow13", "-OOpenFlow14", "-OOpenFlow15")
FLOWS = """\
udp actions=output:3,write_actions(set_field:00:00:00:00:00:09->eth_dst,output:2),goto_table:1
table=1, udp actions=write_actions(output:1)
table=2, udp actions=clear_actions
table=3, udp actions=clear_actions,write_actions(dec_ttl,CONTROLLER:128),goto_table:7
"""


def changed(packet: Packet, mac: int) -> bytes:
    return bytes(5) + bytes([mac]) + packet.bytes()[6:]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_set_goes_along_and_is_carried_out_at_the_end(running: Running, version: str) -> None:
    running.ofctl(
        version, "add-flow", "udp,actions=output:3,write_actions(mod_dl_dst:00:00:00:00:00:09,2),goto_table:1"
    )
    running.ofctl(version, "add-flow", "table=1,udp,actions=write_actions(output:1)")
    assert through(running, udp()) == [Sent(3, udp().bytes()), Sent(1, changed(udp(), 9))]
    running.ofctl(version, "mod-flows", "table=1,udp,actions=clear_actions")
    assert through(running, udp()) == [Sent(3, udp().bytes())]
    running.ofctl(version, "mod-flows", "table=1,udp,actions=clear_actions,write_actions(output:1)")
    assert through(running, udp()) == [Sent(3, udp().bytes()), Sent(1, udp().bytes())]
    running.ofctl(version, "del-flows", "table=1")
    assert through(running, udp()) == [Sent(3, udp().bytes()), Sent(2, changed(udp(), 9))]


def test_what_is_listed_is_what_was_added(running: Running, tmp_path: Path) -> None:
    listed = FLOWS.splitlines()
    (tmp_path / "flows").write_text(FLOWS)
    for version in VERSIONS[1:]:
        running.ofctl(version, "replace-flows", str(tmp_path / "flows"))
        assert running.flows(version) == listed
        assert running.ofctl(version, "diff-flows", str(tmp_path / "flows"), check=False) == ""
    running.ofctl("-OOpenFlow14", "--bundle", "replace-flows", "-", text="actions=write_actions(group:5)", check=False)
    assert running.flows("-OOpenFlow14") == listed
    assert running.flows("-OOpenFlow10")[:2] == ["udp actions=output:3,resubmit(,1)", "table=1, udp actions=drop"]
    said = running.ofctl("-OOpenFlow13", "--no-stats", "dump-flows", "out_port=1")
    assert said.strip() == listed[1]
    running.ofctl("-OOpenFlow13", "del-flows", "udp,out_port=2")
    assert running.flows("-OOpenFlow13") == listed[1:]


def test_what_has_no_place_in_a_set_is_refused(running: Running) -> None:
    for actions, error in (
        ("exit", "OFPBAC_BAD_TYPE"),
        ("controller(reason=action,id=3)", "OFPBAC_BAD_TYPE"),
        ("note:01", "OFPBAC_BAD_TYPE"),
        ("learn(table=1)", "OFPBAC_BAD_TYPE"),
        ("clone(output:1)", "OFPBAC_BAD_TYPE"),
        ("pop_queue", "OFPBAC_BAD_TYPE"),
        ("output:NXM_NX_REG0[]", "OFPBAC_BAD_TYPE"),
        ("multipath(eth_src,50,modulo_n,1,0,NXM_NX_REG0[])", "OFPBAC_BAD_TYPE"),
        ("group:77", "OFPBAC_BAD_OUT_GROUP"),
    ):
        said = running.ofctl("-OOpenFlow13", "add-flow", f"actions=write_actions({actions})", check=False)
        assert "OFPT_ERROR" in said and error in said
    assert running.flows("-OOpenFlow13") == []


def test_a_group_comes_before_an_output_and_goes_with_its_flows(running: Running) -> None:
    running.ofctl("-OOpenFlow13", "add-group", "group_id=5,type=all,bucket=output:1,bucket=output:3")
    running.ofctl("-OOpenFlow13", "add-flow", "udp,actions=write_actions(group:5,dec_ttl),goto_table:1")
    running.ofctl("-OOpenFlow13", "add-flow", "table=1,actions=write_actions(output:2)")
    sent = through(running, udp())
    assert ports_of(sent) == [1, 3] and {frame.frame[22] for frame in sent} == {63}
    assert "ref_count=1" in running.ofctl("-OOpenFlow13", "dump-group-stats")
    running.ofctl("-OOpenFlow13", "del-groups", "group_id=5")
    assert running.flows("-OOpenFlow13") == ["table=1, actions=write_actions(output:2)"]


def test_a_bucket_leaves_the_set_alone(running: Running) -> None:
    running.ofctl("-OOpenFlow13", "add-group", "group_id=5,type=all,bucket=output:1,bucket=resubmit(,2)")
    running.ofctl("-OOpenFlow13", "add-flow", "udp,actions=write_actions(output:2),goto_table:1")
    running.ofctl("-OOpenFlow13", "add-flow", "table=1,udp,actions=group:5")
    running.ofctl("-OOpenFlow13", "add-flow", "table=2,udp,actions=output:3")
    assert ports_of(through(running, udp())) == [1, 3, 2]
    running.ofctl("-OOpenFlow13", "mod-flows", "table=2,udp,actions=write_actions(output:3)")
    assert ports_of(through(running, udp())) == [1, 3]  # ovs-actions(7): a bucket's tables write to the packet's set


def test_controllers_hear_why(bench: Bench) -> None:
    bench.running.ofctl("-OOpenFlow14", "add-flow", "udp,actions=write_actions(controller)")
    monitor = bench.monitor("65534", "-OOpenFlow14")
    bench.receive(udp())
    assert "(via action_set)" in monitor.next()


def test_a_packet_that_pauses_keeps_its_set(bench: Bench) -> None:
    bench.running.ofctl("-OOpenFlow13", "add-flows", "-", text=(
        "udp,actions=write_actions(output:2,set_field:00:00:00:00:00:09->eth_dst),goto_table:1\n"
        "table=1,actions=controller(pause),write_actions(output:1),goto_table:2\n"
        "table=2,actions=write_actions(dec_ttl)\n"
    ))  # fmt: skip
    seen: list[bytes] = []
    switch = bench.running.switch
    switch.executor.to_controllers = lambda packet: seen.append(packet.continuation)
    bench.receive(udp(), in_port=3)
    bench.running.ofctl("del-flows", "table=1")
    bench.running.ofctl("del-flows", "table=0")
    bench.running.ofctl("add-flow", "actions=drop")
    assert bench.sent == []
    now_ns = bench.running.server.clock.now_ns()
    bench.running.do(lambda: switch.resume(seen[0], udp().bytes(), now_ns))
    [sent] = bench.sent
    assert (sent.port, sent.frame[:6], sent.frame[22]) == (1, bytes(5) + b"\x09", 63)
    assert switch.datapath.rules.linker._pins == 0

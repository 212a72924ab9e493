"""Groups by the real ovs-ofctl, with packets through them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowshunt.control.openflow.ports import STATE_LINK_DOWN, PortDescription
from tests.builders import Packet
from tests.control.openflow.test_server import Running, needs_ofctl
from tests.datapath.switches import Sent, ports_of, send, udp

pytestmark = needs_ofctl


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "run")
    running.switch.add_port("p2", 3)
    try:
        yield running
    finally:
        running.close()


def through(running: Running, packet: Packet, in_port: int = 0xFFFE) -> list[Sent]:
    return send(running.switch.datapath, packet, in_port=in_port)


VERSIONS = [(), ("-OOpenFlow11",), ("-OOpenFlow13",), ("-OOpenFlow15",)]


@pytest.mark.parametrize("options", VERSIONS)
def test_a_group_of_all_copies_and_what_follows_sees_the_packet_unchanged(
    running: Running, options: tuple[str, ...]
) -> None:
    running.ofctl(*options, "add-group",
                  "group_id=5,type=all,bucket=mod_dl_dst:00:00:00:00:00:09,output:1,bucket=output:2")  # fmt: skip
    running.ofctl(*options, "add-flow", "udp,actions=group:5,output:3")
    frame = udp().bytes()
    assert through(running, udp()) == [Sent(1, bytes(5) + b"\x09" + frame[6:]), Sent(2, frame), Sent(3, frame)]
    assert running.flows() == ["udp actions=group:5,output:3"]
    listed = running.ofctl(*options, "dump-groups")
    assert "group_id=5,type=all" in listed and "output:2" in listed
    counted = running.ofctl(*options, "dump-group-stats")
    assert re.search(
        "group_id=5,.*ref_count=1,packet_count=1,byte_count=47,bucket0:packet_count=1,byte_count=47,"
        "bucket1:packet_count=1,byte_count=47", counted
    )  # fmt: skip
    running.ofctl(*options, "mod-group", "group_id=5,type=indirect,bucket=output:2")
    assert ports_of(through(running, udp())) == [2, 3]
    running.ofctl(*options, "del-groups", "group_id=5")
    assert running.flows() == []
    assert "group_id" not in running.ofctl(*options, "dump-groups")


@pytest.mark.parametrize("selection", ["", "selection_method=dp_hash,", "selection_method=hash,fields(udp_src),"])
def test_select_spreads_conversations_by_weight_and_keeps_each_together(running: Running, selection: str) -> None:
    running.ofctl(
        "-OOpenFlow15", "add-group",
        f"group_id=1,type=select,{selection}bucket=bucket_id:1,weight:100,output:1,"
        "bucket=bucket_id:2,weight:300,output:2,bucket=bucket_id:3,weight:0,output:3",
    )  # fmt: skip
    running.ofctl("-OOpenFlow15", "add-flow", "actions=group:1")
    chosen = {port: through(running, udp(sport=port))[0].port for port in range(1000, 1200)}
    counts = Counter(chosen.values())
    assert counts.keys() == {1, 2}
    assert 20 < counts[1] < 90
    if "fields" in selection:
        again = {port: through(running, udp(destination="10.0.0.77", sport=port))[0].port for port in chosen}
    else:
        again = {port: through(running, udp(sport=port))[0].port for port in chosen}
    assert again == chosen
    listed = running.ofctl("-OOpenFlow15", "dump-groups")
    assert "type=select" in listed and selection.split(",")[0] in listed and "weight:0" in listed
    assert ("fields=udp_src" in listed) == ("fields" in selection)
    running.ofctl("-OOpenFlow15", "remove-buckets", "group_id=1,command_bucket_id=1")
    assert {through(running, udp(sport=port))[0].port for port in range(1000, 1050)} == {2}
    running.ofctl("-OOpenFlow15", "insert-buckets",
                  "group_id=1,command_bucket_id=last,bucket=bucket_id:9,weight:1000,output:3")  # fmt: skip
    assert {through(running, udp(sport=port))[0].port for port in range(1000, 1050)} == {2, 3}


def test_failover_follows_the_state_of_ports_and_counters_stay(running: Running) -> None:
    down: set[int] = set()

    def describe(name: str, number: int) -> PortDescription:
        return PortDescription(number, name, bytes(6), state=STATE_LINK_DOWN if number in down else 0)

    running.service.ports.describe_device = describe
    running.ofctl(
        "-OOpenFlow13", "add-group",
        "group_id=1,type=ff,bucket=watch_port:1,output:1,bucket=watch_port:2,output:2",
    )  # fmt: skip
    running.ofctl("-OOpenFlow13", "add-flow", "actions=group:1")
    assert ports_of(through(running, udp())) == [1]
    down.add(1)
    running.do(lambda: running.service.tell_port(2, "p0", 1))
    assert ports_of(through(running, udp())) == [2]
    down.add(2)
    running.do(lambda: running.service.tell_port(2, "p1", 2))
    assert through(running, udp()) == []
    assert "packet_count=3,byte_count=141,bucket0:packet_count=1,byte_count=47,bucket1:packet_count=1" in running.ofctl(
        "-OOpenFlow13", "dump-group-stats"
    )


def test_groups_may_lead_to_groups_but_not_without_end(running: Running) -> None:
    running.ofctl("-OOpenFlow13", "add-group", "group_id=1,type=all,bucket=output:1")
    running.ofctl("-OOpenFlow13", "add-group", "group_id=2,type=all,bucket=group:1,bucket=group:1")
    running.ofctl("-OOpenFlow13", "add-flow", "actions=group:2")
    assert ports_of(through(running, udp())) == [1, 1]
    running.ofctl("-OOpenFlow13", "mod-group", "group_id=1,type=all,bucket=group:2,bucket=group:2")
    assert through(running, udp()) == []
    running.ofctl("-OOpenFlow13", "del-groups", "group_id=1")
    assert through(running, udp()) == []
    running.ofctl("-OOpenFlow13", "del-groups")
    assert running.switch.datapath.rules.linker.groups.references == {}
    assert running.switch.datapath.rules.linker.groups._cells == {}


def test_groups_may_lead_to_groups_that_come_later(running: Running) -> None:
    for group, bucket in ((1, "group:7"), (3, "group:3"), (4, "group:5"), (5, "group:4"), (6, "group:99")):
        running.ofctl("-OOpenFlow13", "add-group", f"group_id={group},type=all,bucket={bucket}")
    running.ofctl("-OOpenFlow13", "add-flow", "actions=group:6,group:1,group:6")
    assert through(running, udp()) == []
    running.ofctl("-OOpenFlow13", "add-group", "group_id=7,type=all,bucket=output:2")
    assert ports_of(through(running, udp())) == [2]
    running.ofctl("-OOpenFlow13", "del-groups", "group_id=7")
    assert through(running, udp()) == []
    running.ofctl("-OOpenFlow13", "del-groups")
    assert running.switch.datapath.rules.linker.groups._cells == {}


def test_what_is_wrong_with_a_group_is_said(running: Running) -> None:
    for arguments, error in (
        (("mod-group", "group_id=1,type=all,bucket=output:1"), "OFPGMFC_UNKNOWN_GROUP"),
        (("add-flow", "actions=group:1"), "OFPBAC_BAD_OUT_GROUP"),
        (("add-flow", "--bundle", "actions=group:1"), "OFPBAC_BAD_OUT_GROUP"),
    ):
        said = running.ofctl("-OOpenFlow13", *arguments, check=False)
        assert error in said
    running.ofctl("-OOpenFlow13", "add-group", "group_id=1,type=all,bucket=output:1")
    said = running.ofctl("-OOpenFlow13", "add-group", "group_id=1,type=all,bucket=output:1", check=False)
    assert "OFPGMFC_GROUP_EXISTS" in said


def test_bundles_carry_groups_and_flows_and_undo_both(running: Running, tmp_path: Path) -> None:
    text = "group group_id=1,type=all,bucket=output:1\nflow add actions=group:1\n"
    bundle = tmp_path / "bundle"
    bundle.write_text(text)
    running.ofctl("-OOpenFlow14", "bundle", str(bundle))
    assert ports_of(through(running, udp())) == [1]
    bundle.write_text(
        "group mod group_id=1,type=all,bucket=output:2\ngroup group_id=2,type=all,bucket=output:3\n"
        "flow add priority=7,actions=group:2\ngroup delete group_id=1\n"
        "flow add priority=8,actions=group:99\n"
    )
    assert "OFPBAC_BAD_OUT_GROUP" in running.ofctl("-OOpenFlow14", "bundle", str(bundle), check=False)
    assert ports_of(through(running, udp())) == [1]
    assert running.flows("-OOpenFlow14") == ["actions=group:1"]
    assert running.ofctl("-OOpenFlow14", "dump-groups").count("group_id") == 1
    version = running.switch.datapath.rules.version
    running.ofctl("-OOpenFlow14", "mod-group", "group_id=1,type=all,bucket=output:2")
    assert running.switch.datapath.rules.version > version


def test_features_are_told(running: Running) -> None:
    said = running.ofctl("-OOpenFlow13", "dump-group-features")
    assert "Capabilities:  0x7" in said and "fast failover group:" in said.lower()


def test_groups_that_watch_each_other_many_times_over_take_no_time(running: Running) -> None:
    buckets = "".join(f",bucket=watch_group:{{}},output:{n % 2 + 1}" for n in range(12))
    for number, watched in ((1, 1), (2, 1), (1, 2), (3, 2)):
        command = "mod-group" if (number, watched) == (1, 2) else "add-group"
        running.ofctl(command, f"group_id={number},type=ff{buckets.format(*[watched] * 12)}")
    running.ofctl("add-flow", "actions=group:3")
    assert through(running, udp()) == []
    running.ofctl("mod-group", "group_id=2,type=ff,bucket=watch_port:1,output:1")
    assert ports_of(through(running, udp())) == [1]  # by way of the group that it watches


def test_buckets_are_action_sets_and_listed_as_they_were_added(running: Running) -> None:
    running.ofctl("-OOpenFlow13", "add-group", "group_id=5,type=all,bucket=output:1,mod_dl_dst:00:00:00:00:00:09")
    running.ofctl("-OOpenFlow13", "add-flow", "udp,actions=group:5")
    assert through(running, udp()) == [Sent(1, bytes(5) + b"\x09" + udp().bytes()[6:])]
    assert "actions=output:1,set_field:00:00:00:00:00:09->eth_dst" in running.ofctl("-OOpenFlow13", "dump-groups")


def test_what_was_looked_up_of_groups_beforehand_counts_if_nothing_has_changed(running: Running) -> None:
    running.ofctl("add-group", "group_id=5,type=all,bucket=output:1,bucket=output:2")
    running.ofctl("add-group", "group_id=3,type=all,bucket=output:1")
    running.ofctl("add-flow", "udp,actions=group:5")
    table = running.service.groups
    known = table.places(None)
    through(running, udp())
    lines = list(table.counters(None, 0, known))
    assert [(line.group, line.references, line.packets) for line in lines] == [(3, 0, 0), (5, 1, 1)]
    assert lines[1].buckets == [(1, 47), (1, 47)]
    running.ofctl("del-groups", "group_id=3")
    running.ofctl("mod-group", "group_id=5,type=all,bucket=output:1")
    assert [(line.group, line.packets, line.buckets) for line in table.counters(None, 0, known)] == [(5, 0, [(0, 0)])]
    assert [line.group for line in table.counters(5, 0, table.places(5))] == [5]
    assert not list(table.counters(7, 0, table.places(7)))

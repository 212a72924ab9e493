"""What was forwarded elsewhere, counted for rules, tables and stations."""

from __future__ import annotations

import numpy as np

from tests.builders import Packet
from tests.datapath.paths.conversation import C1, CLIENT_MAC, SERVER_MAC, Lab, Talk, through
from tests.datapath.paths.test_verdicts import EST, both


def account(lab: Lab, *records: np.void, packets: int = 10, size: int = 1000, used_ms: int | None = None) -> None:
    n = len(records)
    lab.paths.account(
        np.array([r["chain"] for r in records]),
        np.array([r["path"]["in_port"] for r in records]),
        np.full(n, packets),
        np.full(n, size),
        np.full(n, lab.now_ms if used_ms is None else used_ms),
        np.array([r["path"]["eth_src"] for r in records]),
        np.array([r["path"]["vlan_tci"] for r in records]),
    )


def counters(lab: Lab) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Packets, bytes, last use of the flows of a table and priority."""
    found: dict[tuple[int, int], tuple[int, int, int]] = {}
    for f in lab.switch.flows():
        packets, size, used_ms = found.get((f.flow.table, f.flow.priority), (0, 0, 0))
        found[f.flow.table, f.flow.priority] = packets + f.packets, size + f.bytes, max(used_ms, f.used_ms)
    return found


def test_every_rule_of_the_chain_counts() -> None:
    lab = Lab(
        through(EST.replace("priority=100,ct_state=+trk+est,in_port=2", "priority=101,ct_state=+trk+est,in_port=2"))
    )
    Talk(lab).run()
    there, _ = lab.take()
    before, tables = counters(lab), lab.switch.datapath.tables()
    lab.now_ms += 100
    account(lab, there, there)
    after = counters(lab)
    for key in ((0, 32768), (1, 100)):
        assert after[key][0] - before[key][0] == 20
        assert after[key][1] - before[key][1] == 2000
        assert after[key][2] == lab.now_ms
    assert after[1, 101] == before[1, 101], "the other direction's rule"
    for table in (0, 1):
        assert lab.switch.datapath.tables()[table].lookups - tables[table].lookups == 20
        assert lab.switch.datapath.tables()[table].matches - tables[table].matches == 20


def test_a_late_report_does_not_turn_the_clock_back() -> None:
    lab = Lab(through(EST))
    Talk(lab).run()
    there, _ = lab.take()
    before = counters(lab)[1, 100]
    account(lab, there, used_ms=5)
    assert counters(lab)[1, 100] == (before[0] + 10, before[1] + 1000, before[2])


def test_a_rule_that_is_met_twice_counts_twice_and_a_miss_counts_lookups() -> None:
    lab = Lab(through(both("resubmit(,4),resubmit(,4),resubmit(,5),OUT") + "\ntable=4,actions=load:1->NXM_NX_REG0[]"))
    Talk(lab).run()
    there, _ = lab.take()
    before, tables = counters(lab), lab.switch.datapath.tables()
    account(lab, there)
    assert counters(lab)[4, 32768][0] - before[4, 32768][0] == 20
    after = lab.switch.datapath.tables()
    assert (after[5].lookups - tables[5].lookups, after[5].matches) == (10, 0)


def test_a_rule_that_came_in_the_place_of_one_that_went_is_not_counted() -> None:
    lab = Lab(through(EST))
    Talk(lab).run()
    there, _ = lab.take()
    lab.switch.del_flows("table=1,ct_state=+trk+est")
    lab.switch.add_flows("table=8,actions=drop\ntable=9,actions=drop")
    account(lab, there)
    after = counters(lab)
    assert after[8, 32768][0] == after[9, 32768][0] == 0
    assert [flow.table for flow in lab.paths.chain_rules(int(there["chain"]))] == [0]


def test_the_sender_stays_known() -> None:
    lab = Lab(C1)
    Talk(lab).run()
    there, _ = lab.take()
    lab.now_ms += 10_000
    account(lab, there)
    ages = {station.port: station.age_ms for station in lab.switch.datapath.ports.stations(lab.now_ms)}
    assert ages[1] == 0 and ages[2] == 10_000


def test_a_sender_whose_address_and_tag_were_rewritten_before_normal() -> None:
    rules = """
    table=0,arp,actions=mod_vlan_vid:5,normal
    table=1,ip,ct_state=+trk+est,in_port=1,actions=mod_dl_src:02:00:00:00:00:99,mod_vlan_vid:5,normal
    table=1,ip,ct_state=+trk+est,in_port=2,actions=1
    """
    lab = Lab(through(rules))
    lab.send(2, Packet().eth(SERVER_MAC, CLIENT_MAC).arp("10.0.0.2", "10.0.0.1"))
    Talk(lab).run()
    there, _ = lab.take()
    assert there["unfit"] == 0
    lab.now_ms += 10_000
    account(lab, there)
    stations = {station.port: station for station in lab.switch.datapath.ports.stations(lab.now_ms)}
    assert (stations[1].mac, stations[1].vlan, stations[1].age_ms) == ("02:00:00:00:00:99", 5, 0)


def test_a_station_that_moved_away_is_left_alone() -> None:
    lab = Lab(C1, ports=("p0", "p1", "p2"))
    Talk(lab).run()
    there, _ = lab.take()
    Talk(lab, sport=7, ports=(3, 2)).send(0, syn=True, ack=False, seq=1)
    lab.now_ms += 10_000
    account(lab, there)
    ages = {station.port: station.age_ms for station in lab.switch.datapath.ports.stations(lab.now_ms)}
    assert ages[3] == 10_000


def test_a_sender_behind_an_access_port_stays_known_in_its_vlan() -> None:
    lab = Lab(C1)
    lab.switch.datapath.ports.set_vlans(1, "access", 5)
    lab.switch.datapath.ports.set_vlans(2, "access", 5)
    Talk(lab).run()
    there, _ = lab.take()
    lab.now_ms += 10_000
    account(lab, there)
    ages = {station.port: (station.vlan, station.age_ms) for station in lab.switch.datapath.ports.stations(lab.now_ms)}
    assert ages == {1: (5, 0), 2: (5, 10_000)}

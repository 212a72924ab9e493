"""What is learned of a path: which packets tell it, and what it says."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np
import pytest

from flowshunt.conntrack.kernels.buckets import ENTRY_ROW
from flowshunt.datapath.paths import records as R
from flowshunt.packet.schema import VLAN_PRESENT
from tests.datapath.paths.conversation import C1, CLIENT_MAC, SERVER_MAC, Lab, Talk, verdict

PROTOCOLS = {"tcp": 6, "udp": 17}
C3 = """
table=0,arp,action=normal
table=0,ip,ct_state=-trk,action=ct(table=1,nat)
table=1,in_port=p1,ip,ct_state=+trk+new,action=ct(commit,nat(src=1.1.1.16)),p0
table=1,ip,ct_state=+trk+est,action=normal
"""


def number(address: str) -> list[int]:
    value = int(ip_address(address))
    words = [value >> 64, value & (1 << 64) - 1]
    return [word - (1 << 64) if word >> 63 else word for word in words]


def mac(address: str) -> int:
    return int(address.replace(":", ""), 16)


def test_a_handshake_teaches_nothing_before_its_end() -> None:
    lab = Lab()
    talk = Talk(lab).begin()
    assert lab.take() == []
    talk.send(0, size=0)
    (record,) = lab.take()
    assert record["unfit"] == 0 and record["turned"] == 0
    talk.send(1, size=0)
    (record,) = lab.take()
    assert record["unfit"] == 0 and record["turned"] == 1


def test_one_way_udp_teaches_nothing_and_an_answer_both_ways() -> None:
    lab = Lab()
    talk = Talk(lab, protocol="udp").begin()
    talk.send(0)
    assert lab.take() == []
    talk.send(1)
    assert [record["turned"] for record in lab.take()] == [1]
    talk.send(0)
    assert [record["turned"] for record in lab.take()] == [0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_paths_of_a_learning_switch(protocol: str) -> None:
    lab = Lab(C1)
    Talk(lab, protocol=protocol).run()
    there, back = sorted(lab.take(), key=lambda record: int(record["turned"]))
    path = there["path"]
    assert path["source"].tolist() == number("10.0.0.1") and path["destination"].tolist() == number("10.0.0.2")
    assert path["tuple"] == 1000 << 48 | 80 << 32 | PROTOCOLS[protocol] << 8
    assert (path["eth_src"], path["eth_dst"]) == (mac(CLIENT_MAC), mac(SERVER_MAC))
    assert (path["in_port"], path["out_port"], path["vlan_tci"], path["flags"]) == (1, 2, 0, 0)
    assert (path["ttl_decrements"], path["mtu"], path["tos"], path["new_eth_src"]) == (0, 0, 0, 0)
    path = back["path"]
    assert path["source"].tolist() == number("10.0.0.2") and path["destination"].tolist() == number("10.0.0.1")
    assert path["tuple"] == 80 << 48 | 1000 << 32 | PROTOCOLS[protocol] << 8
    assert (path["in_port"], path["out_port"], path["flags"]) == (2, 1, 0)
    assert there["epoch"] == back["epoch"] == lab.paths.epoch
    assert (there["n_zones"], there["ct_state"], back["ct_state"]) == (1, 0x22, 0x2A)
    assert there["rows"].tolist() == back["rows"].tolist()
    assert there["chain"] == back["chain"]
    assert [flow.table for flow in lab.paths.chain_rules(int(there["chain"]))] == [0, 1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_source_nat_of_the_cookbook(protocol: str) -> None:
    """The client at p1 is seen as 1.1.1.16 (REQUIREMENTS row C3)."""
    lab = Lab(C3)
    talk = Talk(lab, protocol=protocol, ports=(2, 1), back=("10.0.0.2", "1.1.1.16"))
    talk.run()
    talk.send(1)
    records = [record for record in lab.take() if record["unfit"] == 0]
    there = next(record for record in records if record["turned"] == 0)
    back = next(record for record in records if record["turned"] == 1)
    path = there["path"]
    assert path["flags"] == R.REWRITE_SOURCE
    assert path["new_source"].tolist() == number("1.1.1.16")
    assert path["new_destination"].tolist() == [0, 0] and path["new_source_port"] == 0
    path = back["path"]
    assert path["flags"] == R.REWRITE_DESTINATION
    assert path["destination"].tolist() == number("1.1.1.16")
    assert path["new_destination"].tolist() == number("10.0.0.1")
    assert (there["ct_state"], back["ct_state"]) == (0x62, 0xAA)


def test_what_is_flooded_has_no_path_until_the_station_is_learned() -> None:
    """The first answer of row C3 over UDP finds a client of which `normal` has heard nothing."""
    lab = Lab(C3)
    talk = Talk(lab, protocol="udp", ports=(2, 1), back=("10.0.0.2", "1.1.1.16")).begin()
    talk.send(1)
    talk.send(1)
    assert lab.verdicts() == ["multiple-outputs"], "once is enough"
    talk.send(0)
    talk.send(1)
    assert lab.verdicts() == ["none", "none"]


def test_the_paths_between_an_access_port_and_a_trunk() -> None:
    lab = Lab()
    lab.switch.datapath.ports.set_vlans(1, "access", 5)
    lab.switch.datapath.ports.set_vlans(2, "trunk")
    there = Talk(lab)
    back = Talk(lab, vlan=5)
    there.send(0, syn=True, ack=False, seq=1, ack_number=0)
    back.send(1, syn=True, seq=100)
    there.send(0)
    back.send(1)
    forth, reply = lab.take()
    assert [verdict(forth), verdict(reply)] == ["none", "none"]
    assert (forth["path"]["flags"], reply["path"]["flags"]) == (R.REWRITE_VLAN, R.REWRITE_VLAN)
    assert (forth["path"]["vlan_tci"], forth["path"]["new_vlan_tci"]) == (0, VLAN_PRESENT | 5)
    assert (reply["path"]["vlan_tci"], reply["path"]["new_vlan_tci"]) == (VLAN_PRESENT | 5, 0)
    stations = [(station.port, station.vlan) for station in lab.switch.datapath.ports.stations(lab.now_ms)]
    assert sorted(stations) == [(1, 5), (2, 5)]


def test_a_second_tag_that_a_tunnel_port_adds_is_never_of_a_path() -> None:
    lab = Lab()
    lab.switch.datapath.ports.set_vlans(1, "dot1q-tunnel", 100)
    lab.switch.datapath.ports.set_vlans(2, "dot1q-tunnel", 100)
    Talk(lab, vlan=5).run()
    assert lab.verdicts() == ["none", "none"], "between two of them customers' tags are not touched"
    lab.switch.datapath.ports.set_vlans(2, "trunk")
    lab.now_ms += 10_000
    lab.send(1, Talk(lab, vlan=5).packet(0))
    assert lab.verdicts() != ["none"]


def test_a_connection_whose_tag_leads_to_another_one_first_is_told_all_the_same() -> None:
    lab = Lab(C1)
    talks = [Talk(lab, sport=port, protocol="udp").run() for port in (1000, 1001)]
    rows = [int(record["rows"][0]) for record in lab.take()[::2]]
    buckets = lab.switch.tracker.arrays.buckets
    bucket, lane = (int(place[0]) for place in np.nonzero(buckets[:, :-1] & ENTRY_ROW == rows[0] + 1))
    entry = buckets[bucket, lane]
    free = int(np.flatnonzero(buckets[bucket, :-1] == 0)[0])
    buckets[bucket, [lane, free]] = entry + rows[1] - rows[0], entry
    assert lane < free
    lab.paths.forget(np.array(rows[:1]))
    talks[0].send(0)
    talks[0].send(1)
    assert lab.verdicts() == ["none", "none"]

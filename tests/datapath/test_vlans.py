"""Access, trunk and native VLANs, as ovs-vswitchd.conf.db(5) says that `normal` treats them."""

from __future__ import annotations

import pytest

from flowshunt import Switch
from flowshunt.base.errors import UsageError
from flowshunt.datapath.schema import PORT_CONTROLLER, PORT_NONE
from flowshunt.datapath.tables import Datapath
from flowshunt.datapath.vlan_modes import MODES
from flowshunt.rules.openflow import flow as F
from tests.builders import Packet
from tests.datapath.switches import Sent, fate, flow, ports_of, send, switch

ACCESS, TRUNK, SOME, TAGGED, UNTAGGED, PLAIN = range(1, 7)


def frame(vlan: int | None = None, pcp: int = 0, source: int = 1, destination: int = 9) -> bytes:
    packet = Packet().eth(f"02:00:00:00:00:{source:02x}", f"02:00:00:00:00:{destination:02x}")
    packet = packet if vlan is None else packet.vlan(vlan, pcp=pcp)
    return packet.ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()


def lab() -> Datapath:
    """Port 1 is an access port of VLAN 10; 2 carries all with tags, 3 only 10 and 20; 4 and 5 have the native VLAN 10,
    with and without a tag; 6 has no settings.
    """
    datapath = switch(flow(F.Normal()), ports=range(1, 7))
    ports = datapath.ports
    ports.set_vlans(ACCESS, "access", 10)
    ports.set_vlans(TRUNK, "trunk")
    ports.set_vlans(SOME, "trunk", trunks=(10, 20))
    ports.set_vlans(TAGGED, "native-tagged", 10, (30,))
    ports.set_vlans(UNTAGGED, "native-untagged", 10, (20,))
    return datapath


def by_port(sent: list[Sent]) -> dict[int, bytes]:
    return {one.port: one.frame for one in sent}


def test_what_comes_in_on_an_access_port_has_its_vlan_elsewhere() -> None:
    tagged = frame(10)
    expected = {TRUNK: tagged, SOME: tagged, TAGGED: tagged, UNTAGGED: frame(), PLAIN: tagged}
    assert by_port(send(lab(), frame(), in_port=ACCESS)) == expected


def test_a_tag_is_taken_off_and_its_priority_kept_where_it_stays() -> None:
    sent = by_port(send(lab(), frame(10, pcp=5), in_port=TRUNK))
    tagged = frame(10, pcp=5)
    assert sent == {ACCESS: frame(), SOME: tagged, TAGGED: tagged, UNTAGGED: frame(), PLAIN: tagged}


def test_packets_go_only_where_their_vlan_does() -> None:
    assert set(by_port(send(lab(), frame(20), in_port=TRUNK))) == {SOME, UNTAGGED, PLAIN}
    assert set(by_port(send(lab(), frame(30), in_port=PLAIN))) == {TRUNK, TAGGED}
    assert by_port(send(lab(), frame(), in_port=TRUNK)) == {PLAIN: frame()}


@pytest.mark.parametrize("in_port", [PORT_NONE, PORT_CONTROLLER])
def test_a_packet_of_a_controller_is_in_the_vlan_of_its_tag(in_port: int) -> None:
    tagged = frame(10)
    expected = {ACCESS: frame(), TRUNK: tagged, SOME: tagged, TAGGED: tagged, UNTAGGED: frame(), PLAIN: tagged}
    assert by_port(send(lab(), frame(10), in_port=in_port)) == expected
    assert by_port(send(lab(), frame(), in_port=in_port)) == {TRUNK: frame(), PLAIN: frame()}


def test_a_native_port_gives_its_vlan_to_what_has_none() -> None:
    sent = by_port(send(lab(), frame(), in_port=UNTAGGED))
    assert (sent[ACCESS], sent[TRUNK], sent[TAGGED]) == (frame(), frame(10), frame(10))


@pytest.mark.parametrize(("port", "vlan"), [(ACCESS, 10), (ACCESS, 20), (SOME, 30), (SOME, None), (UNTAGGED, 30)])
def test_what_a_port_does_not_carry_is_not_admitted(port: int, vlan: int | None) -> None:
    datapath = lab()
    assert fate(datapath, frame(vlan), in_port=port) == "drop.vlan"
    assert datapath.ports.stations(1_000_000) == []


def test_stations_are_learned_by_vlan() -> None:
    datapath = lab()
    send(datapath, frame(source=9, destination=1), in_port=ACCESS)
    assert [(one.port, one.vlan) for one in datapath.ports.stations(1_000_000)] == [(ACCESS, 10)]
    assert send(datapath, frame(10), in_port=TRUNK) == [Sent(ACCESS, frame())]
    assert ACCESS not in ports_of(send(datapath, frame(20), in_port=TRUNK))


def test_an_inner_tag_comes_out_when_the_outer_one_is_taken_off() -> None:
    double = Packet().eth().vlan(10, tpid=0x88A8).vlan(5).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()
    single = Packet().eth().vlan(5).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()
    sent = by_port(send(lab(), double, in_port=TRUNK))
    assert (sent[UNTAGGED], sent[SOME]) == (single, double)
    assert ACCESS not in sent
    limited = lab()
    limited.ports.configure(vlan_limit=1)
    sent = by_port(send(limited, double, in_port=TRUNK))
    assert (sent[ACCESS], sent[UNTAGGED], sent[SOME]) == (single, single, double)


def test_other_outputs_than_normal_do_not_care() -> None:
    datapath = lab()
    datapath.delete_flows(F.Flow())
    datapath.add_flows([flow(F.Output(ACCESS))])
    assert send(datapath, frame(20), in_port=PLAIN) == [Sent(ACCESS, frame(20))]


def test_a_port_with_a_native_vlan_does_not_carry_packets_of_none() -> None:
    datapath = switch(flow(F.Normal()), ports=(1, 2, 3, 4))
    for port, mode, trunks in ((1, "native-tagged", ()), (2, "native-untagged", ()), (3, "native-tagged", (0, 20))):
        datapath.ports.set_vlans(port, mode, 10, trunks)
    assert send(datapath, frame(), in_port=4) == []
    assert by_port(send(datapath, frame(0), in_port=4)) == {}
    assert by_port(send(datapath, frame(20), in_port=4)) == {1: frame(20), 2: frame(20), 3: frame(20)}


def test_settings_end_with_their_port_and_can_be_taken_back() -> None:
    datapath = lab()
    ports = datapath.ports
    for number in range(1, 6):
        ports.remove(number)
        ports.add(number)
    assert ports.arrays.state["vlan_ports"][0] == 0
    assert set(by_port(send(datapath, frame(), in_port=ACCESS))) == {2, 3, 4, 5, 6}
    ports.set_vlans(1, "access", 7)
    ports.set_vlans(1, "all")
    assert ports.arrays.state["vlan_ports"][0] == 0


def test_what_cannot_be_is_refused() -> None:
    ports = lab().ports
    for number, mode, tag in ((9, "access", 1), (1, "tunnel", 1), (1, "access", 4096)):
        with pytest.raises(UsageError):
            ports.set_vlans(number, mode, tag)
    with pytest.raises(UsageError, match=r"802\.1ad"):
        ports.set_vlans(1, "dot1q-tunnel", 1, tpid=0x9100)
    with pytest.raises(UsageError):
        ports.set_flood_vlans([5000])
    assert MODES[0] == "all"


def double(outer: int, inner: int, tpid: int = 0x88A8) -> bytes:
    packet = Packet().eth("02:00:00:00:00:01", "02:00:00:00:00:09").vlan(outer, tpid=tpid).vlan(inner)
    return packet.ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()


def provider_bridge(customers: tuple[int, ...] = (), tpid: int = 0x88A8) -> Datapath:
    """Port 1 is a tunnel port of service VLAN 100, 2 a trunk, 3 an access port and 4 a tunnel port of the same VLAN."""
    datapath = switch(flow(F.Normal()), ports=range(1, 5))
    datapath.ports.set_vlans(1, "dot1q-tunnel", 100, customers, tpid=tpid)
    datapath.ports.set_vlans(2, "trunk")
    datapath.ports.set_vlans(3, "access", 100)
    datapath.ports.set_vlans(4, "dot1q-tunnel", 100)
    return datapath


def test_a_tunnel_port_puts_a_service_tag_above_the_customers() -> None:
    assert by_port(send(provider_bridge(), frame(5, pcp=3), in_port=1)) == {
        2: Packet().eth("02:00:00:00:00:01", "02:00:00:00:00:09").vlan(100, tpid=0x88A8).vlan(5, pcp=3)
        .ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes(),
        4: frame(5, pcp=3),
    }  # fmt: skip
    single = Packet().eth("02:00:00:00:00:01", "02:00:00:00:00:09").vlan(100, tpid=0x88A8)
    single = single.ipv4("10.0.0.1", "10.0.0.2").udp(1, 2)
    assert by_port(send(provider_bridge(), frame(), in_port=1)) == {2: single.bytes(), 3: frame(), 4: frame()}
    assert by_port(send(provider_bridge(tpid=0x8100), frame(5), in_port=1))[2] == double(100, 5, tpid=0x8100)


def test_a_tunnel_port_takes_its_service_tag_off() -> None:
    assert by_port(send(provider_bridge(), double(100, 7), in_port=2)) == {1: frame(7), 4: frame(7)}
    assert by_port(send(provider_bridge(), double(101, 7), in_port=2)) == {}
    assert by_port(send(provider_bridge(), frame(100), in_port=2)) == {1: frame(), 3: frame(), 4: frame()}


def test_a_tunnel_port_may_serve_some_customers_only() -> None:
    datapath = provider_bridge(customers=(0, 7))
    assert fate(datapath, frame(5), in_port=1) == "drop.vlan"
    assert set(by_port(send(datapath, frame(7), in_port=1))) == {2, 4}
    assert set(by_port(send(datapath, frame(), in_port=1))) == {2, 3, 4}
    assert by_port(send(datapath, double(100, 5), in_port=2)) == {4: frame(5)}


def test_nothing_is_learned_in_flooded_vlans() -> None:
    datapath = lab()
    datapath.ports.set_flood_vlans([10])
    send(datapath, frame(10, source=9, destination=1), in_port=TRUNK)
    assert datapath.ports.stations(1_000_000) == []
    assert set(by_port(send(datapath, frame(10), in_port=SOME))) == {ACCESS, TRUNK, TAGGED, UNTAGGED, PLAIN}
    send(datapath, frame(20, source=9, destination=1), in_port=TRUNK)
    assert set(by_port(send(datapath, frame(20), in_port=SOME))) == {TRUNK}
    datapath.ports.set_flood_vlans([])
    send(datapath, frame(10, source=9, destination=1), in_port=TRUNK)
    assert set(by_port(send(datapath, frame(10), in_port=SOME))) == {TRUNK}


def test_a_limit_of_one_tag_makes_the_second_one_payload() -> None:
    datapath = switch(flow(F.Output(2), match=[("eth_type", 0x8100, 0xFFFF)]), ports=range(1, 3))
    assert send(datapath, double(5, 6), in_port=1) == []
    datapath.ports.configure(vlan_limit=1)
    assert send(datapath, double(5, 6), in_port=1) == [Sent(2, double(5, 6))]
    assert send(datapath, frame(5), in_port=1) == []
    datapath.ports.configure(vlan_limit=2)
    assert send(datapath, double(5, 6), in_port=1) == []


def test_the_limit_holds_for_what_a_controller_sends_out() -> None:
    switch = Switch(max_connections=10)
    switch.add_port("p1")
    switch.add_port("p2")
    switch.add_flows("dl_type=0x8100,actions=p2")
    through = (F.Resubmit(None, 0),)
    for limit, n_sent in ((1, 1), (2, 0)):
        switch.datapath.ports.configure(vlan_limit=limit)
        result = switch.packet_out(double(5, 6), 1, through, 1_000_000)
        assert len(result.tx) == n_sent, limit


def single(vlan: int, tpid: int = 0x8100) -> bytes:
    packet = Packet().eth("02:00:00:00:00:01", "02:00:00:00:00:09").vlan(vlan, tpid=tpid)
    return packet.ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()


@pytest.mark.parametrize(
    ("in_port", "packet", "untouched", "tagged"),
    [
        (1, frame(), (3, 5), single(100, 0x88A8)),
        (1, frame(7), (4, 5), double(100, 7)),
        (1, frame(5), (5,), double(100, 5)),
        (4, frame(7), (1, 5), double(100, 7)),
        (3, frame(), (1, 5), single(100)),
        (5, frame(), (1, 3), single(100)),
    ],
)
def test_tunnel_ports_do_what_those_of_open_vswitch_do(
    in_port: int, packet: bytes, untouched: tuple[int, ...], tagged: bytes
) -> None:
    """Recorded with `ofproto/trace` of its release 3.1: ports 2 and 6 get a tag, those in `untouched` what came in."""
    sent = by_port(send(five_ports(), packet, in_port=in_port))
    assert sent == {2: tagged, 6: tagged} | dict.fromkeys(untouched, packet)


@pytest.mark.parametrize(("limit", "served"), [(1, (1, 3, 5)), (2, (1, 4, 5))])
def test_a_service_tag_is_taken_off_as_by_open_vswitch(limit: int, served: tuple[int, ...]) -> None:
    """Recorded likewise, with `vlan-limit` 1 and 0: a customer's tag that is not read is nobody's."""
    datapath = five_ports()
    datapath.ports.configure(vlan_limit=limit)
    both = double(100, 7)
    assert by_port(send(datapath, both, in_port=2)) == {6: both} | dict.fromkeys(served, frame(7))
    assert by_port(send(datapath, single(100), in_port=2)) == {6: single(100)} | dict.fromkeys((1, 3, 5), frame())
    assert fate(datapath, frame(5), in_port=4) == "drop.vlan"


def five_ports() -> Datapath:
    """Of service VLAN 100: a tunnel port, a trunk, an access port, a tunnel port for one customer, a native one."""
    datapath = switch(flow(F.Normal()), ports=range(1, 7))
    datapath.ports.set_vlans(1, "dot1q-tunnel", 100)
    datapath.ports.set_vlans(2, "trunk", trunks=(100, 101))
    datapath.ports.set_vlans(3, "access", 100)
    datapath.ports.set_vlans(4, "dot1q-tunnel", 100, (7,))
    datapath.ports.set_vlans(5, "native-untagged", 100)
    return datapath

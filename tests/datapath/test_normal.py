from __future__ import annotations

import numpy as np
import pytest

from flowshunt.base.errors import UsageError
from flowshunt.datapath.schema import PORT_CONTROLLER, PORT_NONE, make_ports
from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow import flow as F
from tests.builders import Packet
from tests.datapath.switches import fate, flow, ports_of, send, switch

SECOND = 1000
NOW = 1_000_000


def mac(n: int) -> str:
    return f"02:00:00:00:{n >> 8:02x}:{n & 0xFF:02x}"


def frame(source: int, destination: int, vlan: int | None = None) -> Packet:
    packet = Packet().eth(mac(source), mac(destination))
    return (packet if vlan is None else packet.vlan(vlan)).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2)


def learning(n_stations: int = 8192) -> Datapath:
    datapath = switch(flow(F.Normal()), ports=())
    datapath.ports.arrays = make_ports(0, n_stations)
    for port in (1, 2, 3):
        datapath.ports.add(port)
    return datapath


def test_learns_and_forwards() -> None:
    datapath = learning()
    assert ports_of(send(datapath, frame(1, 2), in_port=1)) == [2, 3]
    assert ports_of(send(datapath, frame(2, 1), in_port=2)) == [1]
    assert ports_of(send(datapath, frame(1, 2), in_port=1)) == [2]
    assert datapath.ports.station_statistics() == {
        "station.learned": 2,
        "station.moved": 0,
        "station.evicted": 0,
        "station.expired": 0,
    }
    assert {(s.port, s.mac, s.vlan) for s in datapath.ports.stations(NOW)} == {(1, mac(1), 0), (2, mac(2), 0)}


def test_a_station_on_the_input_port_needs_no_copy() -> None:
    datapath = learning()
    send(datapath, frame(1, 9), in_port=1)
    assert fate(datapath, frame(2, 1), in_port=1) == "drop.learned-on-in-port"


def test_a_station_that_moves_is_followed() -> None:
    datapath = learning()
    send(datapath, frame(1, 9), in_port=1)
    send(datapath, frame(1, 9), in_port=3)
    assert ports_of(send(datapath, frame(2, 1), in_port=2)) == [3]
    assert datapath.ports.station_statistics()["station.moved"] == 1


def test_vlans_are_kept_apart() -> None:
    datapath = learning()
    send(datapath, frame(1, 9, vlan=5), in_port=1)
    assert ports_of(send(datapath, frame(2, 1, vlan=6), in_port=2)) == [1, 3]
    assert ports_of(send(datapath, frame(2, 1), in_port=2)) == [1, 3]
    assert ports_of(send(datapath, frame(2, 1, vlan=5), in_port=2)) == [1]
    assert {(s.mac, s.vlan) for s in datapath.ports.stations(NOW)} == {
        (mac(1), 5),
        (mac(2), 6),
        (mac(2), 0),
        (mac(2), 5),
    }


def test_a_silent_station_is_forgotten() -> None:
    datapath = learning()
    send(datapath, frame(1, 9), in_port=1, time_ms=NOW)
    assert ports_of(send(datapath, frame(2, 1), in_port=2, time_ms=NOW + 300 * SECOND)) == [1]
    assert ports_of(send(datapath, frame(2, 1), in_port=2, time_ms=NOW + 300 * SECOND + 1)) == [1, 3]
    assert [s.mac for s in datapath.ports.stations(NOW + 301 * SECOND)] == [mac(2)]
    datapath.ports.configure(age_ms=10 * SECOND)
    assert ports_of(send(datapath, frame(1, 2), in_port=1, time_ms=NOW + 311 * SECOND)) == [2, 3]


@pytest.mark.parametrize("address", ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "33:33:00:00:00:01"])
def test_packets_for_many_are_flooded(address: str) -> None:
    assert ports_of(send(learning(), Packet().eth(mac(1), address).arp("1.1.1.1", "2.2.2.2"), in_port=2)) == [1, 3]


def test_an_address_for_many_is_never_learned() -> None:
    datapath = learning()
    send(datapath, Packet().eth("01:00:5e:00:00:01", mac(2)).arp("1.1.1.1", "2.2.2.2"))
    assert datapath.ports.stations(NOW) == []


@pytest.mark.parametrize(
    "address", ["01:80:c2:00:00:00", "01:80:c2:00:00:0e", "01:00:0c:cc:cc:cc", "00:e0:2b:00:00:04"]
)
def test_what_is_for_the_next_switch_only_is_dropped_unless_configured(address: str) -> None:
    datapath = learning()
    packet = Packet().eth(mac(1), address).llc()
    assert fate(datapath, packet) == "drop.reserved-multicast"
    assert datapath.ports.stations(NOW) == []
    datapath.ports.configure(forward_bpdu=True)
    assert ports_of(send(datapath, packet)) == [2, 3]
    assert ports_of(send(learning(), Packet().eth(mac(1), "01:80:c2:00:00:10").llc())) == [2, 3]


def test_a_packet_from_nowhere_is_not_forwarded() -> None:
    assert fate(learning(), frame(1, 2), in_port=99) == "drop.no-port"
    assert fate(learning(), frame(1, 2), in_port=0x12345678) == "drop.no-port"


@pytest.mark.parametrize("in_port", [PORT_NONE, PORT_CONTROLLER])
def test_a_packet_of_a_controller_is_forwarded_and_not_learned_from(in_port: int) -> None:
    datapath = learning()
    assert ports_of(send(datapath, frame(1, 2), in_port=in_port)) == [1, 2, 3]
    assert datapath.ports.stations(0) == []
    send(datapath, frame(2, 1), in_port=3)
    assert ports_of(send(datapath, frame(1, 2), in_port=in_port)) == [3]
    assert ports_of(send(datapath, frame(3, 1), in_port=2)) == [1, 3]


def test_a_full_table_evicts_on_the_crowded_port() -> None:
    capacity = 64
    datapath = learning(capacity)
    state = datapath.ports.arrays.state
    for n in range(20):
        send(datapath, frame(n, 0xFFFF), in_port=2)
    for n in range(capacity - 20 + 100):
        send(datapath, frame(0x1000 + n, 0xFFFF), in_port=1, time_ms=NOW + n)
    assert state["n_stations"][0] == capacity
    assert datapath.ports.station_statistics()["station.evicted"] == 100
    behind = [s.port for s in datapath.ports.stations(NOW)]
    assert behind.count(2) == 19
    for n in range(1, 20):
        assert ports_of(send(datapath, frame(0x1000 + capacity, n), in_port=3, time_ms=NOW)) == [2]
    slots = np.sort(datapath.ports.arrays.slots[datapath.ports.arrays.slots > 0])
    assert slots.tolist() == list(range(1, capacity + 1))


def test_stations_that_aged_make_room_first() -> None:
    capacity = 64
    datapath = learning(capacity)
    for n in range(capacity):
        send(datapath, frame(n, 0xFFFF), in_port=2)
    send(datapath, frame(capacity, 0xFFFF), in_port=1, time_ms=NOW + 301 * SECOND)
    assert datapath.ports.station_statistics()["station.expired"] == 1
    assert datapath.ports.station_statistics()["station.evicted"] == 0


def test_flushing_stations() -> None:
    datapath = learning()
    for n, port in ((1, 1), (2, 2), (3, 1)):
        send(datapath, frame(n, 9), in_port=port)
    assert datapath.ports.flush_stations(1) == 2
    assert ports_of(send(datapath, frame(4, 2), in_port=3)) == [2]
    assert ports_of(send(datapath, frame(4, 1), in_port=3)) == [1, 2]
    assert datapath.ports.flush_stations() == 2
    assert datapath.ports.stations(NOW) == []


def test_removing_a_port_forgets_its_stations() -> None:
    datapath = learning()
    send(datapath, frame(1, 9), in_port=1)
    datapath.ports.remove(1)
    assert ports_of(send(datapath, frame(2, 1), in_port=2)) == [3]
    datapath.ports.add(1)
    assert ports_of(send(datapath, frame(2, 1), in_port=2)) == [3, 1]


def test_ports_are_checked() -> None:
    datapath = learning()
    for wrong in (0, 0xFF00, 0x10000, 1):
        with pytest.raises(UsageError):
            datapath.ports.add(wrong)
    with pytest.raises(UsageError):
        datapath.ports.remove(9)

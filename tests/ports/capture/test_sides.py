"""Which side of the link a packet came from."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from flowshunt.packet.schema import Batch
from flowshunt.ports import CaptureError, MemoryPort
from flowshunt.ports.capture import SideInference, Sides, infer_sides, open_capture
from tests.builders import Packet

HOST_A, HOST_B, GATEWAY, OTHER = (f"02:00:00:00:00:{n:02x}" for n in range(1, 5))
ZERO = "00:00:00:00:00:00"
SERVER, PUBLIC = "203.0.113.9", "198.51.100.7"


def tcp(source: str, destination: str, macs: tuple[str, str] = (ZERO, ZERO), **flags: bool) -> bytes:
    ports = (40000, 443) if source < destination else (443, 40000)
    return bytes(Packet().eth(*macs).ipv4(source, destination).tcp(*ports, **flags).bytes())


def batch_of(frames: list[bytes]) -> Batch:
    port = MemoryPort()
    port.queue_all(frames)
    batch = port.receive(len(frames))
    assert batch is not None
    return batch


def sides_of(frames: list[bytes], inside: tuple[str, ...] = ()) -> tuple[Sides, list[int]]:
    """The sides, and the port of each packet."""
    sides = infer_sides([batch_of(frames)], inside)
    batch = batch_of(frames)
    sides.assign(batch)
    return sides, batch.packets["in_port"].tolist()


def test_hosts_of_a_segment_and_their_gateway_are_on_different_sides() -> None:
    frames = [
        tcp("10.0.0.1", SERVER, (HOST_A, GATEWAY), syn=True),
        tcp(SERVER, "10.0.0.1", (GATEWAY, HOST_A), syn=True, ack=True),
        tcp("10.0.0.2", PUBLIC, (HOST_B, GATEWAY), syn=True),
        tcp(PUBLIC, "10.0.0.2", (GATEWAY, HOST_B), syn=True, ack=True),
    ]
    sides, ports = sides_of(frames)
    assert ports == [1, 2, 1, 2]
    assert sides.by == "mac"
    assert sides.reasons == ("who opens TCP connections",)
    assert sides.inside == (1, 2, 2, 2, (HOST_A, HOST_B))
    assert sides.outside == (2, 1, 2, 2, (GATEWAY,))
    assert sides.n_ambiguous == 0


def test_who_opens_connections_is_inside_also_when_the_answer_is_seen_first() -> None:
    frames = [
        tcp(SERVER, "10.0.0.1", (GATEWAY, HOST_A), ack=True),
        tcp("10.0.0.1", SERVER, (HOST_A, GATEWAY), syn=True),
    ]
    assert sides_of(frames)[1] == [2, 1]


def test_private_addresses_are_inside_when_nobody_opens_a_connection() -> None:
    frames = [
        tcp(SERVER, "192.168.7.1", (GATEWAY, HOST_A), ack=True),
        tcp("192.168.7.1", SERVER, (HOST_A, GATEWAY), ack=True),
    ]
    sides, ports = sides_of(frames)
    assert ports == [2, 1]
    assert sides.reasons == ("private addresses",)


def test_who_was_seen_first_is_inside_when_nothing_else_tells() -> None:
    frames = [tcp(SERVER, PUBLIC, (GATEWAY, HOST_A), ack=True), tcp(PUBLIC, SERVER, (HOST_A, GATEWAY), ack=True)]
    sides, ports = sides_of(frames)
    assert ports == [1, 2]
    assert sides.reasons == ("who was seen first",)


def test_addresses_decide_where_frames_have_no_macs() -> None:
    frames = [
        tcp("10.0.0.1", SERVER, syn=True),
        tcp(SERVER, "10.0.0.1", syn=True, ack=True),
        tcp("10.0.0.2", SERVER, syn=True),
        tcp(SERVER, "10.0.0.2", ack=True),
    ]
    sides, ports = sides_of(frames)
    assert ports == [1, 2, 1, 2]
    assert sides.by == "address"
    assert (sides.inside.n_addresses, sides.outside.n_addresses, sides.inside.n_macs) == (2, 1, 0)


def test_ipv6_addresses_decide_too() -> None:
    def udp(source: str, destination: str) -> bytes:
        return bytes(Packet().eth(ZERO, ZERO).ipv6(source, destination).udp(1000, 53).bytes())

    frames = [udp("2001:db8::1", "fd00::5"), udp("fd00::5", "2001:db8::1")]
    sides, ports = sides_of(frames)
    assert ports == [2, 1]
    assert sides.reasons == ("private addresses",)


def test_addresses_decide_where_one_pair_of_macs_carries_both_directions() -> None:
    macs = (HOST_A, GATEWAY)
    frames = [tcp("10.0.0.1", SERVER, macs, syn=True), tcp(SERVER, "10.0.0.1", macs, syn=True, ack=True)]
    sides, ports = sides_of(frames)
    assert ports == [1, 2]
    assert sides.by == "address"


def test_one_direction_alone_is_inside() -> None:
    assert sides_of([tcp("10.0.0.1", SERVER, (HOST_A, GATEWAY), syn=True)] * 3)[1] == [1, 1, 1]


def test_an_address_that_talks_to_itself_is_told_by_its_ports() -> None:
    def loop(source: int, destination: int) -> bytes:
        return bytes(Packet().eth(ZERO, ZERO).ipv4("127.0.0.1", "127.0.0.1").tcp(source, destination).bytes())

    assert sides_of([loop(50000, 80), loop(80, 50000), loop(50000, 80)])[1] == [1, 2, 1]


def test_parts_that_do_not_talk_to_each_other_are_turned_each_for_itself() -> None:
    frames = [
        tcp("10.0.0.1", SERVER, (HOST_A, GATEWAY), syn=True),
        tcp(SERVER, "10.0.0.1", (GATEWAY, HOST_A), ack=True),
        tcp(PUBLIC, "10.0.0.2", (OTHER, HOST_B), ack=True),
        tcp("10.0.0.2", PUBLIC, (HOST_B, OTHER), ack=True),
    ]
    sides, ports = sides_of(frames)
    assert ports == [1, 2, 2, 1]
    assert sides.reasons == ("who opens TCP connections", "private addresses")


def test_a_pair_that_contradicts_heavier_ones_is_left_out_and_counted() -> None:
    frames = [
        tcp("10.0.0.1", "10.0.0.2", (HOST_A, HOST_B), ack=True),
        *[tcp("10.0.0.1", SERVER, (HOST_A, GATEWAY), syn=True)] * 3,
        *[tcp("10.0.0.2", SERVER, (HOST_B, GATEWAY), syn=True)] * 3,
        tcp(SERVER, "10.0.0.1", (GATEWAY, HOST_A), ack=True),
    ]
    sides, ports = sides_of(frames)
    assert ports == [1, 1, 1, 1, 1, 1, 1, 2]
    assert sides.n_ambiguous == 1
    assert "1 packets between endpoints of the same side" in sides.describe()


def test_networks_given_as_inside_override_what_was_found() -> None:
    frames = [
        tcp("10.0.0.1", SERVER, (HOST_A, GATEWAY), syn=True),
        tcp(SERVER, "10.0.0.1", (GATEWAY, HOST_A), syn=True, ack=True),
        bytes(Packet().eth(GATEWAY, HOST_A, 0x88CC).payload(b"no address").bytes()),
    ]
    sides, ports = sides_of(frames, ("203.0.113.0/24",))
    assert ports == [2, 1, 1]
    assert sides.reasons == ("the networks given",)


@pytest.mark.parametrize("network", ["2001:db8:5::/48", "2001:db8:5::1/128"])
def test_networks_may_be_ipv6(network: str) -> None:
    def udp(source: str, destination: str) -> bytes:
        return bytes(Packet().eth(ZERO, ZERO).ipv6(source, destination).udp(1000, 53).bytes())

    assert sides_of([udp("2001:db8:4::1", "2001:db8:5::1"), udp("2001:db8:5::1", "2001:db8:4::1")], (network,))[1] == [
        2,
        1,
    ]


def test_ipv4_networks_do_not_take_ipv6_addresses() -> None:
    frame = bytes(Packet().eth(ZERO, ZERO).ipv6("2001:db8::1", "2001:db8::2").udp(1, 2).bytes())
    back = bytes(Packet().eth(ZERO, ZERO).ipv6("2001:db8::2", "2001:db8::1").udp(2, 1).bytes())
    sides, ports = sides_of([frame, back], ("0.0.0.0/0",))
    assert ports == [1, 2]
    assert sides.reasons == ("who was seen first",)


def test_text_that_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.300"):
        SideInference(["10.0.0.300/8"])


def test_what_is_not_known_goes_by_its_peer_and_else_is_outside() -> None:
    known = [
        tcp("10.0.0.1", SERVER, (HOST_A, GATEWAY), syn=True),
        tcp(SERVER, "10.0.0.1", (GATEWAY, HOST_A), ack=True),
    ]
    sides = infer_sides([batch_of(known)])
    batch = batch_of(
        [
            tcp(PUBLIC, "10.0.0.9", (OTHER, HOST_A), ack=True),
            tcp("10.0.0.9", PUBLIC, (OTHER, GATEWAY), ack=True),
            tcp("10.7.7.7", PUBLIC, (OTHER, HOST_B), ack=True),
            bytes(3),
        ]
    )
    sides.assign(batch)
    assert batch.packets["in_port"].tolist() == [2, 1, 2, 2]


def test_the_tables_are_bounded() -> None:
    frames = []
    for n in range(1, 200):
        macs = (f"02:00:00:00:01:{n:02x}", GATEWAY)
        frames.append(tcp(f"10.0.0.{n}", SERVER, macs, syn=True))
        frames.append(tcp(SERVER, f"10.0.0.{n}", macs[::-1], syn=True, ack=True))
    inference = SideInference(max_endpoints=16, max_pairs=8)
    inference.observe(batch_of(frames))
    sides = inference.decide()
    assert sides.inside.n_macs + sides.outside.n_macs == 16
    batch = batch_of(frames)
    sides.assign(batch)
    # The gateway is known, so all who talk to it are told by it.
    assert batch.packets["in_port"].tolist() == [1, 2] * 199


def test_no_packet_at_all() -> None:
    sides = infer_sides([])
    assert (sides.inside.n_packets, sides.outside.n_packets, sides.reasons) == (0, 0, ())
    assert sides.describe().count("\n") == 2


def test_a_damaged_capture_is_looked_at_up_to_the_damage(tmp_path: Path, captures: Path) -> None:
    path = tmp_path / "cut.pcap"
    path.write_bytes((captures / "zeek-http-methods.pcap").read_bytes()[:-7])
    with open_capture(path) as reader:
        sides = infer_sides(reader.batches(100))
    assert isinstance(sides.error, CaptureError)
    assert sides.inside.n_packets + sides.outside.n_packets == 654


def test_both_directions_of_every_reference_capture_come_from_different_sides(captures: Path) -> None:
    """Between any two addresses, all packets of one direction come from one side, those of the other from the other."""
    rows = csv.DictReader(io.StringIO((captures / "INDEX.tsv").read_text()), delimiter="\t")
    odd = {}
    for row in rows:
        path = captures / f"{row['name']}.pcap"
        with open_capture(path) as reader:
            sides = infer_sides(reader.batches(100))
        side_of: dict[tuple[bytes, bytes], set[int]] = {}
        n = 0
        with open_capture(path) as reader:
            for data, packets in reader.batches(100):
                sides.assign(Batch(data, packets))
                for record in packets[packets["family"] == 4]:
                    at = int(record["data"] + record["l3"])
                    pair = data[at + 12 : at + 16].tobytes(), data[at + 16 : at + 20].tobytes()
                    side_of.setdefault(pair, set()).add(int(record["in_port"]))
                    n += 1
        wrong = sum(
            len(found) > 1 or (pair[::-1] in side_of and side_of[pair[::-1]] == found)
            for pair, found in side_of.items()
            if pair[0] != pair[1]
        )
        if wrong:
            odd[row["name"]] = wrong
    # That one's addresses are overwritten at random.
    assert odd == {"ndpi-fuzz-2006-06-26-2594": 1}

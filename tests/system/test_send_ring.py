"""Small frames by a ring: all of them arrive whole and in order, and what it cannot send is left to messages."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flowshunt.packet.schema import PACKET, TX, Batch
from flowshunt.ports import af_packet
from flowshunt.ports.af_packet import AfPacketPort
from flowshunt.ports.live import (
    V_CHECKSUM_OFFSET,
    V_CHECKSUM_START,
    V_FLAGS,
    V_GSO_SIZE,
    VNET_NEEDS_CHECKSUM,
    VNET_SIZE,
    VNET_WORDS,
    Frames,
    LiveBatch,
)
from flowshunt.ports.send_ring import LONGEST, N_SLOTS, SendRing
from tests.builders import Packet
from tests.system.lab import Lab
from tests.system.network import needs, networks, poll

pytestmark = needs("ip")

HEAD = bytes.fromhex("020000000001020000000002") + b"\x88\xb5"
"""An Ethernet header of a protocol for experiments (IEEE 802)."""
SOL_PACKET, PACKET_VNET_HDR = 263, 15


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A veth pair: p1 at the switch, and a host at the other end."""
    with networks() as network:
        network.host("h1", "10.1.1.1/24", port="p1")
        lab = Lab(network, tmp_path)
        yield lab
        lab.close()


@pytest.fixture
def ends(lab: Lab) -> Iterator[tuple[SendRing, socket.socket]]:
    """A ring on one end, and who listens at the other."""
    with lab.inside("switch"):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    opened.bind(("p1", 0))
    there = lab.raw(1)
    there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    with opened:
        yield SendRing(opened, "p1"), there


def frames_of(*sizes: int, port: int = 1) -> Frames:
    """Numbered frames of these sizes."""
    frames = [(HEAD + n.to_bytes(2, "big")).ljust(size, bytes([n & 0xFF])) for n, size in enumerate(sizes)]
    packets = np.zeros(len(sizes), PACKET)
    packets["length"] = sizes
    packets["data"][1:] = np.cumsum(sizes[:-1])
    tx = np.zeros(len(sizes), TX)
    tx["port"], tx["packet"], tx["data"], tx["length"] = port, range(len(sizes)), packets["data"], sizes
    data = np.frombuffer(bytearray(b"".join(frames)), np.uint8)
    batch = LiveBatch(Batch(data, packets), np.zeros((len(sizes), VNET_WORDS), np.uint16))
    return Frames(batch, tx, np.zeros(0, np.uint8))


def arrived(there: socket.socket, frames: Frames, which: range) -> None:
    """These frames have come, in order, each as it was sent; others of the system's own do not count."""
    for n in which:
        got = there.recv(1 << 16)
        while got[12:14] != HEAD[12:14]:
            got = there.recv(1 << 16)
        assert got == frames.bytes_of(n)


def test_more_frames_than_slots_arrive_in_order(ends: tuple[SendRing, socket.socket]) -> None:
    ring, there = ends
    for _ in range(3):
        frames = frames_of(*(60 + n % 1400 for n in range(2 * N_SLOTS + 7)))
        assert len(ring.send(frames, 1).tx) == 0
        arrived(there, frames, range(len(frames.tx)))


def test_frames_for_other_ports_are_not_sent(ends: tuple[SendRing, socket.socket]) -> None:
    ring, there = ends
    frames = frames_of(60, 61, 62, 63)
    frames.tx["port"][1:3] = 2
    assert len(ring.send(frames, 1).tx) == 0
    arrived(there, frames, range(1))
    arrived(there, frames, range(3, 4))


def test_from_the_first_that_is_not_for_it_everything_is_left(ends: tuple[SendRing, socket.socket]) -> None:
    ring, there = ends
    too_long = frames_of(60, 60, LONGEST + 1, 60)
    assert ring.send(too_long, 1).tx["packet"].tolist() == [2, 3]
    arrived(there, too_long, range(2))
    segments = frames_of(60, 60, 1000, 60)
    segments.received.vnet[2, V_GSO_SIZE] = 400
    assert ring.send(segments, 1).tx["packet"].tolist() == [2, 3]
    arrived(there, segments, range(2))


def test_what_the_device_refuses_is_left_with_what_follows(ends: tuple[SendRing, socket.socket]) -> None:
    ring, there = ends
    sizes = [60] * (N_SLOTS + 20)
    sizes[N_SLOTS + 3] = 1600  # more than the MTU
    refused = frames_of(*sizes, 60)
    refused.tx["port"][5] = 2
    assert ring.send(refused, 1).tx["packet"].tolist() == list(range(N_SLOTS + 3, len(sizes) + 1))
    arrived(there, refused, range(5))
    arrived(there, refused, range(6, N_SLOTS + 3))
    following = frames_of(*[60] * N_SLOTS)
    assert len(ring.send(following, 1).tx) == 0
    arrived(there, following, range(N_SLOTS))


def test_the_mtu_holds_where_the_other_end_would_take_more(ends: tuple[SendRing, socket.socket], lab: Lab) -> None:
    ring, there = ends
    lab.network.run("h1", "ip", "link", "set", "eth0", "mtu", "9000")
    frames = frames_of(60, 1514, 1515, 60)
    assert ring.send(frames, 1).tx["packet"].tolist() == [2, 3]
    arrived(there, frames, range(2))
    lab.network.run("switch", "ip", "link", "set", "p1", "mtu", "1501")
    assert len(ring.send(frames, 1).tx) == 0
    arrived(there, frames, range(4))
    lab.network.run("switch", "ip", "link", "set", "p1", "name", "other")
    assert len(ring.send(frames, 1).tx) == len(frames.tx)


def test_where_a_checksum_is_missing_is_told_as_headers_have_grown(ends: tuple[SendRing, socket.socket]) -> None:
    ring, there = ends
    there.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    plain = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1000, 2000).payload(bytes(64)).bytes()
    tagged = plain[:12] + bytes.fromhex("81000007") + plain[12:]
    packets, tx, vnet = np.zeros(1, PACKET), np.zeros(1, TX), np.zeros((1, VNET_WORDS), np.uint16)
    packets["length"], tx["length"], tx["port"], tx["source"] = len(plain), len(tagged), 1, 1
    vnet[0, [V_FLAGS, V_CHECKSUM_START, V_CHECKSUM_OFFSET]] = VNET_NEEDS_CHECKSUM, 34, 6
    batch = LiveBatch(Batch(np.frombuffer(bytearray(plain), np.uint8), packets), vnet)
    assert len(ring.send(Frames(batch, tx, np.frombuffer(bytearray(tagged), np.uint8)), 1).tx) == 0
    got = there.recv(1 << 16)
    while got[VNET_SIZE:] != plain:  # the kernel takes the tag out
        got = there.recv(1 << 16)
    told = np.frombuffer(got, np.uint16, VNET_WORDS)
    assert told[[V_FLAGS, V_CHECKSUM_START, V_CHECKSUM_OFFSET]].tolist() == [VNET_NEEDS_CHECKSUM, 34, 6]


def test_a_ring_is_for_ports_that_many_frames_leave_by_not_for_a_flood_to_many_ports(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab.inside("switch"):
        port = AfPacketPort("p1", 1)
    asked: list[object] = []
    flood = frames_of(*[60] * 200)
    flood.tx["port"] = range(1, 201)
    with monkeypatch.context() as patched:
        patched.setattr(af_packet, "in_background", asked.append)
        port.send(flood)
        assert asked == []
        for _ in range(2):
            port.send(frames_of(*[60] * 40))
        assert len(asked) == 1
    port.close()


def test_a_ring_is_in_the_namespace_of_its_port_whoever_asks_for_it(lab: Lab) -> None:
    with lab.inside("switch"):
        port = AfPacketPort("p1", 1)
    there = lab.raw(1)
    there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    frames = frames_of(*[60] * 40)
    port.send(frames)
    arrived(there, frames, range(40))
    poll(lambda: port._ring is not None)
    port.send(frames)
    arrived(there, frames, range(40))
    port.close()

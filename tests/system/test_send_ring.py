"""Small frames by a ring: all of them arrive whole and in order, and what it cannot send is left to messages."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flowshunt.packet.schema import PACKET, TX, Batch
from flowshunt.ports.live import V_GSO_SIZE, VNET_WORDS, Frames, LiveBatch
from flowshunt.ports.send_ring import LONGEST, N_SLOTS, SendRing
from tests.system.lab import Lab
from tests.system.network import needs, networks

pytestmark = needs("ip")

HEAD = bytes.fromhex("020000000001020000000002") + b"\x88\xb5"
"""An Ethernet header of a protocol for experiments (IEEE 802)."""
ETH_P_ALL = 0x0003


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[SendRing, socket.socket]]:
    """A ring on one end of a veth pair, and who listens at the other."""
    with networks() as network:
        network.host("h1", port="p1")
        lab = Lab(network, tmp_path)
        with lab.inside("switch"):
            ring = SendRing("p1")
        there = lab.raw(1)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        yield ring, there
        ring.close()
        lab.close()


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

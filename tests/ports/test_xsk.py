"""The rings of AF_XDP sockets, with the test in the place of the kernel."""

from __future__ import annotations

import numpy as np
import pytest

from flowshunt.packet.schema import CHECKSUM_PARTIAL, CHECKSUM_UNKNOWN, TX
from flowshunt.ports.af_xdp import AfXdpPort
from flowshunt.ports.api import PortError
from flowshunt.ports.live import V_CHECKSUM_OFFSET, V_CHECKSUM_START, V_FLAGS
from flowshunt.ports.receiving import BATCH
from flowshunt.ports.segments import find_partial
from flowshunt.ports.xsk import (
    CHUNK_SIZE,
    XskArrays,
    make_xsk_arrays,
    plain_rings,
    receive_xsk,
    release_xsk,
    send_xsk,
)
from tests.builders import Packet
from tests.builders.packets import internet_checksum

N = 8
TCP = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(1000, 80, ack=True).payload(b"some").bytes()
PSEUDO = internet_checksum(bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0, 24])) ^ 0xFFFF
PARTIAL = TCP[:50] + PSEUDO.to_bytes(2, "big") + TCP[52:]


def socket_of(fd: int = -1) -> XskArrays:
    x = make_xsk_arrays(np.zeros(2 * N * CHUNK_SIZE, np.uint8), plain_rings(N), fd, 3, N)
    x.fill[:] = np.arange(N) * CHUNK_SIZE
    x.fill_made[0] = N
    return x


def deliver(x: XskArrays, taken: int, *frames: bytes) -> None:
    """Put frames where the fill ring says, from its slot `taken` on."""
    for n, frame in enumerate(frames):
        place = int(x.fill[(taken + n) % N]) + 256
        x.data[place : place + len(frame)] = np.frombuffer(frame, np.uint8)
        x.rx[(int(x.rx_made[0]) + n) % N] = place, len(frame)
    x.rx_made[0] = (int(x.rx_made[0]) + len(frames)) % 2**32


def frames_in(x: XskArrays, n: int) -> list[bytes]:
    starts, lengths = x.packets["data"][:n].tolist(), x.packets["length"][:n].tolist()
    return [x.data[start : start + length].tobytes() for start, length in zip(starts, lengths, strict=True)]


def test_frames_are_taken_in_order_and_their_chunks_given_back() -> None:
    x = socket_of()
    assert receive_xsk(x, 7) == 0
    taken = 0
    for count in (3, 8, 5, 8):  # past the end of the rings
        sent = [TCP + bytes([n]) for n in range(count)]
        deliver(x, taken, *sent)
        taken += count
        assert receive_xsk(x, 7) == count
        assert frames_in(x, count) == sent
        assert set(x.packets["in_port"][:count]) == {3} and set(x.packets["time_ns"][:count]) == {7}
        assert release_xsk(x) == count
        assert (x.rx_used[0], x.fill_made[0]) == (taken, N + taken)
        assert sorted(x.fill.tolist()) == [n * CHUNK_SIZE for n in range(N)]
    assert BATCH > N


def test_a_frame_without_an_ethernet_header_is_passed_over_and_its_chunk_comes_back() -> None:
    x = socket_of()
    deliver(x, 0, b"short", TCP)
    assert receive_xsk(x, 7) == 1
    assert frames_in(x, 1) == [TCP]
    assert release_xsk(x) == 2


def test_partial_checksums_are_found_and_whole_ones_left() -> None:
    x = socket_of()
    deliver(x, 0, PARTIAL, TCP)
    assert receive_xsk(x, 7) == 2
    assert x.packets["checksum"][:2].tolist() == [CHECKSUM_PARTIAL, CHECKSUM_UNKNOWN]
    assert x.vnet[0, [V_FLAGS, V_CHECKSUM_START, V_CHECKSUM_OFFSET]].tolist() == [1, 34, 16]
    assert not x.vnet[1].any()


@pytest.mark.parametrize(
    "frame",
    [
        b"\0" * 14,
        TCP[:33],
        TCP[:40],
        Packet().eth().arp("10.0.0.1", "10.0.0.2").bytes(),
        Packet().eth().ipv4("10.0.0.1", "10.0.0.2", total=2000).tcp(1, 2).bytes(),
        Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2, checksum=0).bytes(),
        Packet().eth().ipv6("fd00::1", "fd00::2").udp(1, 2).payload(b"x").bytes(),
    ],
)
def test_other_frames_have_no_partial_checksum(frame: bytes) -> None:
    data = np.frombuffer(bytearray(frame), np.uint8)
    assert tuple(find_partial(data, np.int64(0), np.int64(len(frame)))) == (0, 0)


def test_frames_are_sent_from_chunks_that_come_back_when_they_have_left() -> None:
    x = socket_of()
    data = np.frombuffer(bytearray(TCP), np.uint8)
    tx = np.zeros(N + 3, TX)
    tx["length"], tx["port"] = len(TCP), 1
    tx["port"][0] = 2
    assert send_xsk(x, 1, tx, data, data) == 9, "the file descriptor is none"
    assert int(x.tx_made[0]) == N
    assert x.counters.tolist() == [2, 0]
    for place, length in x.tx.tolist():
        assert x.data[place : place + length].tobytes() == TCP
        assert place >= N * CHUNK_SIZE
    x.tx_used[0] = N
    x.done[:] = x.tx[:, 0]
    x.done_made[0] = N
    assert send_xsk(x, 1, tx[:0], data, data) == 0
    assert int(x.state["n_free"][0]) == N
    assert len(set(x.free.tolist())) == N


def test_a_frame_that_no_chunk_can_hold_is_refused() -> None:
    x = socket_of()
    data = np.zeros(CHUNK_SIZE + 1, np.uint8)
    tx = np.zeros(1, TX)
    tx["length"], tx["port"] = len(data), 1
    assert send_xsk(x, 1, tx, data, data) == 0
    assert (x.counters.tolist(), int(x.tx_made[0])) == ([0, 1], 0)


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(PortError, match=r"could not open network device nosuch0 .No such device"):
        AfXdpPort("nosuch0", 1)

"""Sending and receiving with virtio-net headers, on sockets and rings made by hand."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from flowshunt.packet.schema import (
    CHECKSUM_PARTIAL,
    CHECKSUM_UNKNOWN,
    CHECKSUM_VERIFIED,
    PACKET,
    TX,
    Batch,
)
from flowshunt.ports.api import PortError
from flowshunt.ports.live import VNET_SIZE, Frames, LiveBatch
from flowshunt.ports.patch import PatchPort
from flowshunt.ports.receiving import (
    LARGE_SIZE,
    N_LOST,
    N_TRUNCATED,
    SLOT_SIZE,
    ReceiveArrays,
    make_receive_arrays,
    read_frames,
    receive_ring,
    release_ring,
)
from flowshunt.ports.segments import link_size
from flowshunt.ports.sending import (
    MESSAGES,
    N_DROPPED,
    N_ERRORS,
    SendArrays,
    make_send_arrays,
    send_frames,
    write_frames,
)
from flowshunt.ports.tap import TapPort
from tests.builders import Packet

TCP = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(1000, 80).payload(b"x" * 300).bytes()
TAGGED = TCP[:12] + bytes.fromhex("81000005") + TCP[12:]
PARTIAL = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)
"""What the system says of a TCPv4 packet to be cut: the checksum is partial, and starts at byte 34."""
NOTHING = bytes(VNET_SIZE)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        here.setblocking(False)
        there.setblocking(False)
        yield here, there


def vnet_of(*headers: bytes) -> np.ndarray:
    return np.frombuffer(b"".join(headers), np.uint16).reshape(-1, 5).copy()


def batch_of(*frames: bytes) -> tuple[np.ndarray, np.ndarray]:
    packets = np.zeros(len(frames), PACKET)
    packets["length"] = [len(frame) for frame in frames]
    packets["data"][1:] = np.cumsum(packets["length"][:-1])
    return np.frombuffer(bytearray(b"".join(frames)), np.uint8), packets


def tx_of(*records: tuple[int, int, int, int, int]) -> np.ndarray:
    """`(port, packet, source, place, length)` each."""
    tx = np.zeros(len(records), TX)
    for row, (port, packet, source, place, length) in zip(tx, records, strict=True):
        row["port"], row["packet"], row["source"], row["data"], row["length"] = port, packet, source, place, length
    return tx


# --- sending ---------------------------------------------------------------------------------------------------------


def test_the_link_layer_ends_behind_the_last_tag() -> None:
    assert [int(link_size(np.frombuffer(frame, np.uint8), np.int64(0))) for frame in (TCP, TAGGED)] == [14, 18]
    double = np.frombuffer(TCP[:12] + bytes.fromhex("88a80001") + TAGGED[12:], np.uint8)
    assert link_size(double, np.int64(0)) == 22
    assert link_size(np.frombuffer(TCP[:12] + b"\x81\x00", np.uint8), np.int64(0)) == 18


@pytest.mark.parametrize("send", [send_frames, write_frames], ids=["send", "write"])
def test_headers_go_with_their_frames_and_move_with_tags(pair: tuple[socket.socket, ...], send: object) -> None:
    here, there = pair
    data, packets = batch_of(TCP, TCP)
    own = np.frombuffer(bytearray(TAGGED), np.uint8)
    n = len(TCP)
    tx = tx_of((1, 0, 0, 0, n), (2, 1, 0, n, n), (1, 0, 1, 0, n + 4), (1, 1, 1, 0, n + 4))
    valid = struct.pack("=BBHHHH", 2, 0, 0, 0, 0, 0)
    assert send(make_send_arrays(), here.fileno(), 1, tx, data, own, packets, vnet_of(PARTIAL, valid)) == 0  # type: ignore[operator]
    moved = struct.pack("=BBHHHH", 1, 1, 58, 1448, 38, 16)
    assert [there.recv(4096) for _ in range(3)] == [PARTIAL + TCP, moved + TAGGED, NOTHING + TAGGED]
    with pytest.raises(BlockingIOError):
        there.recv(1)


def test_more_frames_than_one_system_call_takes_leave_in_order(pair: tuple[socket.socket, ...]) -> None:
    here, there = pair
    data, packets = batch_of(*(TCP + bytes([n]) for n in range(10)))
    tx = tx_of(*((1, n, 0, n * (len(TCP) + 1), len(TCP) + 1) for n in range(10)))
    assert send_frames(make_send_arrays(4), here.fileno(), 1, tx, data, data, packets, vnet_of(NOTHING * 10)) == 0
    assert [there.recv(4096)[-1] for _ in range(10)] == list(range(10))
    assert MESSAGES >= 256


def test_what_does_not_fit_is_dropped_and_counted(pair: tuple[socket.socket, ...]) -> None:
    here, there = pair
    arrays = make_send_arrays()
    data, packets = batch_of(TCP)
    tx = tx_of(*[(1, 0, 0, 0, len(TCP))] * 2000)
    assert send_frames(arrays, here.fileno(), 1, tx, data, data, packets, vnet_of(NOTHING)) == 0
    there.setblocking(False)
    arrived = 0
    while True:
        try:
            there.recv(4096)
        except BlockingIOError:
            break
        arrived += 1
    assert arrived + arrays.counters[N_DROPPED] == 2000
    assert arrays.counters[N_DROPPED] > 0


def test_a_frame_that_is_refused_costs_no_other(pair: tuple[socket.socket, ...]) -> None:
    here, there = pair
    arrays: SendArrays = make_send_arrays()
    big = np.zeros(1 << 20, np.uint8)
    big[: len(TCP)] = np.frombuffer(TCP, np.uint8)
    packets = np.zeros(1, PACKET)
    tx = tx_of((1, 0, 0, 0, len(big)), (1, 0, 0, 0, len(TCP)))
    assert send_frames(arrays, here.fileno(), 1, tx, big, big, packets, vnet_of(NOTHING)) == 0
    assert there.recv(4096) == NOTHING + TCP
    assert arrays.counters[N_ERRORS] == 1


def test_a_device_that_is_gone_is_told() -> None:
    data, packets = batch_of(TCP)
    tx = tx_of((1, 0, 0, 0, len(TCP)))
    for send in (send_frames, write_frames):
        assert send(make_send_arrays(), -1, 1, tx, data, data, packets, vnet_of(NOTHING)) == errno.EBADF


def test_a_patch_port_moves_headers_as_devices_do() -> None:
    delivered: list[LiveBatch] = []
    port = PatchPort(3, lambda batch: delivered.append(batch) is None)
    data, packets = batch_of(TCP)
    packets["gso_size"], packets["gso_type"], packets["checksum"] = 1448, 1, CHECKSUM_PARTIAL
    own = np.frombuffer(bytearray(TAGGED), np.uint8)
    tx = tx_of((3, 0, 1, 0, len(TAGGED)), (4, 0, 0, 0, len(TCP)), (3, 0, 0, 0, len(TCP)))
    port.send(Frames(LiveBatch(Batch(data, packets), vnet_of(PARTIAL)), tx, own))
    (batch,) = delivered
    assert bytes(batch.batch.data) == TAGGED + TCP
    assert batch.vnet.tolist() == [[0x0101, 58, 1448, 38, 16], [0x0101, 54, 1448, 34, 16]]
    assert batch.batch.packets["data"].tolist() == [0, len(TAGGED)]
    assert set(batch.batch.packets["checksum"]) == {CHECKSUM_PARTIAL}


# --- receiving -------------------------------------------------------------------------------------------------------


def reader(fd: int, n_slots: int = 0, n_large: int = 4) -> ReceiveArrays:
    data = np.zeros(n_slots * SLOT_SIZE + n_large * LARGE_SIZE, np.uint8)
    return make_receive_arrays(data, fd, 7, n_slots, n_large)


def frame(r: ReceiveArrays, n: int) -> bytes:
    at = int(r.packets["data"][n])
    return r.data[at : at + int(r.packets["length"][n])].tobytes()


def test_frames_are_read_with_what_is_left_to_do(pair: tuple[socket.socket, ...]) -> None:
    here, there = pair
    r = reader(here.fileno())
    there.send(PARTIAL + TCP)
    there.send(struct.pack("=BBHHHH", 2, 0, 0, 0, 0, 0) + TCP)
    there.send(NOTHING + TAGGED)
    assert read_frames(r, 99) == 3
    assert [frame(r, n) for n in range(3)] == [TCP, TCP, TAGGED]
    packets = r.packets[:3]
    assert packets["checksum"].tolist() == [CHECKSUM_PARTIAL, CHECKSUM_VERIFIED, CHECKSUM_UNKNOWN]
    assert (packets["gso_size"][0], packets["gso_type"][0]) == (1448, 1)
    assert set(packets["in_port"]) == {7} and set(packets["time_ns"]) == {99}
    assert read_frames(r, 100) == 0


@pytest.mark.parametrize(
    ("start", "expected"),
    [(34, CHECKSUM_PARTIAL), (84, CHECKSUM_UNKNOWN)],
    ids=["its own", "that of a packet inside"],
)
def test_a_partial_checksum_is_that_of_the_outermost_packet_or_not_ours(
    pair: tuple[socket.socket, ...], start: int, expected: int
) -> None:
    here, there = pair
    r = reader(here.fileno())
    there.send(struct.pack("=BBHHHH", 1, 0, 0, 0, start, 16) + TCP)
    assert read_frames(r, 0) == 1
    assert r.packets["checksum"][0] == expected


def fill(
    r: ReceiveArrays, slot: int, frame: bytes, header: bytes, *, status: int = 1, tag: int = 0, snap: int = 0
) -> None:
    """A slot as the system fills it."""
    at, words = slot * SLOT_SIZE, slot * SLOT_SIZE // 4
    kept = frame[: snap or len(frame)]
    r.data[at + 80 - len(header) : at + 80] = np.frombuffer(header, np.uint8)
    r.data[at + 80 : at + 80 + len(kept)] = np.frombuffer(kept, np.uint8)
    r.words[words + 1], r.words[words + 2], r.words[words + 3] = len(frame), len(kept), 80 | 94 << 16
    r.words[words + 6] = tag
    r.words[words] = status


def test_a_ring_is_read_in_order_and_its_slots_are_given_back() -> None:
    r = reader(-1, n_slots=4)
    r.state["head"] = 3
    for slot, last in ((3, b"a"), (0, b"b"), (1, b"c")):
        fill(r, slot, TCP + last, PARTIAL)
    assert receive_ring(r, 5) == 3
    assert [frame(r, n) for n in range(3)] == [TCP + b"a", TCP + b"b", TCP + b"c"]
    assert r.words[3 * SLOT_SIZE // 4] == 1
    assert release_ring(r) == 3
    assert [int(r.words[slot * SLOT_SIZE // 4]) for slot in range(4)] == [0] * 4
    assert r.state["head"][0] == 2
    assert receive_ring(r, 6) == 0


def test_a_full_ring_is_taken_once() -> None:
    r = reader(-1, n_slots=4)
    for slot in range(4):
        fill(r, slot, TCP, NOTHING)
    assert receive_ring(r, 5) == 4


def test_tags_that_the_device_took_off_are_put_back() -> None:
    r = reader(-1, n_slots=2)
    fill(r, 0, TCP, PARTIAL, status=0x51, tag=0x88A8 << 16 | 0x2005)
    fill(r, 1, TCP, NOTHING, status=0x11, tag=5)
    assert receive_ring(r, 5) == 2
    assert frame(r, 0) == TCP[:12] + bytes.fromhex("88a82005") + TCP[12:]
    assert frame(r, 1) == TAGGED
    assert r.vnet[0].tolist() == [0x0101, 58, 1448, 38, 16]
    assert r.packets["checksum"].tolist()[:2] == [CHECKSUM_PARTIAL, CHECKSUM_UNKNOWN]


def test_what_a_slot_is_too_small_for_comes_whole_by_the_socket(pair: tuple[socket.socket, ...]) -> None:
    here, there = pair
    there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    r = reader(here.fileno(), n_slots=4, n_large=2)
    large = TCP + bytes(60_000)
    fill(r, 0, TCP, NOTHING)
    for slot in (1, 2, 3):
        fill(r, slot, large, NOTHING, status=0x53, tag=0x81000005, snap=1500)
        there.send(PARTIAL + large + bytes([slot]))
    assert receive_ring(r, 5) == 3  # there is room for two at a time
    assert frame(r, 0) == TCP
    for n in (1, 2):
        assert frame(r, n) == TAGGED + bytes(60_000) + bytes([n])
        assert r.vnet[n].tolist() == [0x0101, 58, 1448, 38, 16]
    assert release_ring(r) == 3
    assert receive_ring(r, 6) == 1
    assert frame(r, 0)[-1] == 3


def test_packets_that_are_cut_or_lost_are_counted_and_skipped(pair: tuple[socket.socket, ...]) -> None:
    here, _ = pair
    r = reader(here.fileno(), n_slots=4)
    fill(r, 0, TCP + bytes(3000), NOTHING, snap=1500)
    fill(r, 1, TCP, NOTHING, status=3)
    fill(r, 2, b"short", NOTHING)
    fill(r, 3, TCP, NOTHING)
    assert receive_ring(r, 5) == 1
    assert frame(r, 0) == TCP
    assert (r.counters[N_TRUNCATED], r.counters[N_LOST]) == (1, 1)
    assert release_ring(r) == 4


def test_a_name_that_the_kernel_would_cut_is_refused() -> None:
    with pytest.raises(PortError, match=r"internal port a-name-of-16byte \(Invalid argument\)"):
        TapPort("a-name-of-16byte", 1)

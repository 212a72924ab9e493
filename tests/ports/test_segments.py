"""GSO packets and partial checksums, as they are for those who take plain packets only."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.packet.parse import parse_batch
from flowshunt.packet.schema import CHECKSUM_PARTIAL, KEY_WORDS, PACKET, TX, Batch
from flowshunt.ports.dummy import DummyPort
from flowshunt.ports.finishing import MAX_FINISHED, ROOM, Finisher, finished_frames
from flowshunt.ports.live import VNET_SIZE, Frames, LiveBatch
from flowshunt.ports.segments import GSO_TCPV4, GSO_TCPV6, GSO_UDP
from tests.builders import Packet

TCPV4 = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", id=0xFFFE, df=True, tos=3)
TCPV6 = Packet().eth().ipv6("fd00::1", "fd00::2", traffic_class=3, label=0x12345)
TAGGED = Packet().eth().vlan(5, pcp=3).vlan(6).ipv4("10.0.0.1", "10.0.0.2", id=1)
FLAGS = {"ack": True, "psh": True, "fin": True, "cwr": True, "ece": True}
PAYLOAD = bytes(range(256)) * 12


def frames_of(
    frame: bytes, kind: int = 0, size: int = 0, start: int = 0, offset: int = 0, *, copies: int = 1
) -> Frames:
    """What a batch of one packet sends: itself, `copies` times, to port 1."""
    packets = np.zeros(1, PACKET)
    packets["length"] = len(frame)
    header = struct.pack("=BBHHHH", 1 if start else 0, kind, start, size, start, offset)
    vnet = np.frombuffer(bytearray(header), np.uint16).reshape(1, VNET_SIZE // 2)
    tx = np.zeros(copies, TX)
    tx["length"], tx["port"], tx["time_ns"] = len(frame), 1, 7
    return Frames(
        LiveBatch(Batch(np.frombuffer(bytearray(frame), np.uint8), packets), vnet), tx, np.zeros(64, np.uint8)
    )


def finish(frames: Frames, port: int = 1) -> list[bytes]:
    return [part.bytes_of(n) for part in Finisher()(frames, port) for n in range(len(part.tx))]


def l4_of(frame: bytes, payload: bytes, header: int) -> int:
    return len(frame) - len(payload) - header


@pytest.mark.parametrize(("base", "kind"), [(TCPV4, GSO_TCPV4), (TCPV6, GSO_TCPV6), (TAGGED, GSO_TCPV4)])
@pytest.mark.parametrize("is_partial", [True, False])
def test_a_tcp_packet_becomes_the_segments_that_the_sender_would_have_sent(
    base: Packet, kind: int, is_partial: bool
) -> None:
    options = bytes.fromhex("0101080a0000000100000002")
    whole = base.tcp(1000, 80, seq=0xFFFFFC00, ack_number=9, options=options, **FLAGS).payload(PAYLOAD).bytes()
    l4 = l4_of(whole, PAYLOAD, 32)
    wanted = []
    for n, at in enumerate(range(0, len(PAYLOAD), 1000)):
        last = at + 1000 >= len(PAYLOAD)
        layer = _with_id(base, n)
        flags = FLAGS | {"psh": last, "fin": last, "cwr": n == 0}
        segment = layer.tcp(1000, 80, seq=(0xFFFFFC00 + at) % 2**32, ack_number=9, options=options, **flags)
        wanted.append(segment.payload(PAYLOAD[at : at + 1000]).bytes())
    start = l4 if is_partial else 0
    assert finish(frames_of(whole, kind | 0x80, 1000, start, 16)) == wanted


def _with_id(base: Packet, n: int) -> Packet:
    """The same layers with the identification of segment n."""
    if base is TCPV4:
        return Packet().eth().ipv4("10.0.0.1", "10.0.0.2", id=(0xFFFE + n) % 0x10000, df=True, tos=3)
    return base if base is TCPV6 else Packet().eth().vlan(5, pcp=3).vlan(6).ipv4("10.0.0.1", "10.0.0.2", id=1 + n)


@pytest.mark.parametrize("base", [TCPV4, TCPV6])
def test_a_udp_packet_becomes_datagrams(base: Packet) -> None:
    whole = base.udp(1000, 80).payload(PAYLOAD).bytes()
    wanted = [
        _with_id(base, n).udp(1000, 80).payload(PAYLOAD[at : at + 1200]).bytes()
        for n, at in enumerate(range(0, len(PAYLOAD), 1200))
    ]
    assert finish(frames_of(whole, GSO_UDP, 1200, l4_of(whole, PAYLOAD, 8), 6)) == wanted


def test_a_udp_checksum_that_was_not_there_is_not_made() -> None:
    whole = TCPV4.udp(1000, 80, checksum=0).payload(PAYLOAD).bytes()
    parts = finish(frames_of(whole, GSO_UDP, 1200))
    assert len(parts) == 3
    assert all(part[40:42] == b"\0\0" for part in parts)


@pytest.mark.parametrize("base", [TCPV4, TCPV6, TAGGED])
def test_a_partial_checksum_is_completed(base: Packet) -> None:
    for layer, header, offset in ((base.tcp(1, 2, ack=True), 20, 16), (base.udp(1, 2), 8, 6), (base.sctp(1, 2), 12, 8)):
        whole = layer.payload(b"odd").bytes()
        l4 = l4_of(whole, b"odd", header)
        partial = bytearray(whole)
        if offset != 8:
            partial[l4 + offset : l4 + offset + 2] = b"\0\0"
            rest = _sum(bytes(partial[l4:]))
            value = (0xFFFF - int.from_bytes(whole[l4 + offset : l4 + offset + 2], "big") - rest) % 0xFFFF
            partial[l4 + offset : l4 + offset + 2] = value.to_bytes(2, "big")
        else:
            partial[l4 + 8 : l4 + 12] = b"\0\0\0\0"
        assert finish(frames_of(bytes(partial), 0, 0, l4, offset)) == [whole]


def _sum(data: bytes) -> int:
    return int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF


def test_what_needs_nothing_is_not_copied() -> None:
    frames = frames_of(TCPV4.tcp(1, 2).bytes(), copies=3)
    (part,) = Finisher()(frames, 1)
    assert part.received is frames.received and len(part.tx) == 3
    assert list(Finisher()(frames, 2)) == []


def test_a_frame_that_was_cut_short_goes_as_it_is_between_others() -> None:
    whole = TCPV4.tcp(1000, 80, seq=0, ack=True).payload(PAYLOAD).bytes()
    frames = frames_of(whole, GSO_TCPV4, 2000, 34, 16, copies=3)
    frames.tx["length"][1], frames.tx["cut"][1] = 500, 1
    segments = finish(frames_of(whole, GSO_TCPV4, 2000, 34, 16))
    assert finish(frames) == [*segments, whole[:500], *segments]
    assert len(segments) == 2


def test_more_than_fits_at_a_time_comes_in_parts_and_in_order() -> None:
    payload = bytes(n % 251 for n in range(60_000))
    whole = TCPV4.tcp(1000, 80, seq=0, ack=True).payload(payload).bytes()
    frames = frames_of(whole, GSO_TCPV4, 100, 34, 16, copies=2)
    parts = list(map(len, (part.tx for part in Finisher()(frames, 1))))
    assert sum(parts) == 1200 and max(parts) <= MAX_FINISHED
    sent = finish(frames)
    assert b"".join(frame[54:] for frame in sent) == payload * 2
    assert ROOM > 1 << 17


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (TCPV4.udp(1, 2).payload(PAYLOAD).bytes(), GSO_TCPV4),
        (TCPV4.tcp(1, 2).payload(PAYLOAD).bytes(), GSO_UDP),
        (TCPV4.tcp(1, 2).payload(PAYLOAD).bytes(), 3),
        (Packet().eth().ipv4("10.0.0.1", "10.0.0.2", mf=True).tcp(1, 2).payload(PAYLOAD).bytes(), GSO_TCPV4),
        (Packet().eth().arp("10.0.0.1", "10.0.0.2").bytes(), GSO_TCPV4),
    ],
    ids=["udp as tcp", "tcp as udp", "fragments", "a fragment", "arp"],
)
def test_what_cannot_be_cut_is_refused_and_counted(frame: bytes, kind: int) -> None:
    port = DummyPort(1)
    port.send(frames_of(frame, kind, 100))
    assert list(port.transmitted) == []
    assert port.counters == {"tx_dropped": 0, "tx_errors": 1}


def test_a_packet_inside_a_tunnel_is_not_cut_as_if_it_were_outside() -> None:
    frame = TCPV4.udp(1, 4789).payload(PAYLOAD).bytes()
    assert finish(frames_of(frame, GSO_UDP, 100, 92, 16)) == []


@given(st.binary(max_size=200), st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 300), st.integers(0, 300))
def test_nonsense_does_no_harm(tail: bytes, kind: int, size: int, start: int, offset: int) -> None:
    for base in (b"", TCPV4.bytes()[:34], TCPV6.bytes()[:54]):
        frame = (base + tail).ljust(14, b"\0")
        for part in finish(frames_of(frame, kind, size, start, offset)):
            assert len(part) <= len(frame)


def test_copies_for_controllers_are_made_of_what_was_parsed() -> None:
    whole = TCPV4.tcp(1000, 80, seq=5, ack=True).payload(PAYLOAD).bytes()
    data = np.frombuffer(bytearray(whole), np.uint8)
    packets = np.zeros(1, PACKET)
    packets["length"], packets["gso_size"], packets["gso_type"] = len(whole), 1400, GSO_TCPV4
    packets["checksum"] = CHECKSUM_PARTIAL
    parse_batch(data, packets, np.zeros((1, KEY_WORDS), np.int64), 1)
    tagged = whole[:12] + bytes.fromhex("81000005") + whole[12:]
    parts = finished_frames(tagged, packets, 6, data)
    assert [len(part) for part in parts] == [1458, 1458, len(PAYLOAD) - 2800 + 58]
    assert parts[2][58:] == PAYLOAD[2800:]
    packets["gso_size"] = packets["gso_type"] = packets["checksum"] = 0
    assert finished_frames(whole, packets, 6, data) == [whole]

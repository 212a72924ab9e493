"""GSO packets where someone looks into them: helpers, and controllers that let them pause."""

from __future__ import annotations

import struct

import numpy as np

from flowshunt import Switch
from flowshunt.packet.parse import parse_batch
from flowshunt.packet.schema import CHECKSUM_PARTIAL, KEY_WORDS, VERDICT_OK, Batch
from flowshunt.ports.finishing import Finisher
from flowshunt.ports.live import VNET_WORDS, Frames, LiveBatch
from flowshunt.ports.segments import GSO_TCPV4
from flowshunt.rules.openflow.executor import ToController
from tests.builders import Packet, batch_of
from tests.builders.packets import internet_checksum
from tests.datapath.test_helpers_nat import Ftp
from tests.packet.kernels import l4_ok

SIZE = 100


def gso(frame: bytes, time_ms: int) -> Batch:
    """A batch of one TCP packet that is to be cut into segments of SIZE bytes, its checksum partial."""
    total = len(frame) - 34
    pseudo = internet_checksum(frame[26:34] + struct.pack(">HH", 6, total)) ^ 0xFFFF
    batch = batch_of([frame[:50] + pseudo.to_bytes(2, "big") + frame[52:]], time_ns=time_ms * 1_000_000)
    batch.packets["gso_size"], batch.packets["gso_type"], batch.packets["checksum"] = SIZE, GSO_TCPV4, CHECKSUM_PARTIAL
    return batch


def segments(batch: Batch, tx: np.ndarray, tx_data: np.ndarray) -> list[bytes]:
    """What a wire would carry of what leaves."""
    header = struct.pack("=BBHHHH", 1, GSO_TCPV4, 54, SIZE, 34, 16)
    vnet = np.frombuffer(header, np.uint16).reshape(1, VNET_WORDS)
    frames = Frames(LiveBatch(batch, vnet.copy()), tx, tx_data)
    return [part.bytes_of(n) for part in Finisher()(frames) for n in range(len(part.tx))]


def check(frame: bytes) -> None:
    """The frame is whole, and its checksum right."""
    batch = batch_of([frame])
    keys = np.zeros((1, KEY_WORDS), np.int64)
    parse_batch(batch.data, batch.packets, keys, 1)
    assert batch.packets["verdict"][0] == VERDICT_OK
    assert l4_ok(batch.data, batch.packets, 0, keys, 0)


def test_a_helper_rewrites_a_command_in_the_middle_of_a_gso_packet() -> None:
    ftp = Ftp(4, "snat")
    ends, net = ftp.ends, ftp.net
    before, after = b"NOOP\r\n" * 25, b"NOOP\r\n" * 30
    command = f"PORT {ends.client.replace('.', ',')},19,137\r\n".encode()
    frame = ftp.client.segment(before + command + after)
    batch = gso(frame, net.time_ms + 1)
    result = net.switch.process(batch)
    sent = segments(batch, result.tx, result.tx_data)
    whole = b"".join(segment[54:] for segment in sent)
    translated = f"PORT {ends.public.replace('.', ',')},19,137\r\n".encode()
    assert whole == before + translated + after
    assert [len(segment) - 54 for segment in sent[:-1]] == [SIZE] * (len(whole) // SIZE)
    for segment in sent:
        check(segment)
        ftp.server.receive(segment)
    assert ftp.server.received.endswith(whole)


def test_a_gso_packet_pauses_as_its_segments_and_all_of_them_go_on() -> None:
    switch = Switch(max_connections=10)
    for number in (1, 2):
        switch.add_port(f"p{number}", number)
    switch.add_flows("actions=controller(pause),2")
    seen: list[ToController] = []
    switch.executor.to_controllers = seen.append
    payload = bytes(range(250))
    frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(1, 2, seq=9, ack=True, fin=True).payload(payload).bytes()
    assert len(switch.process(gso(frame, 1)).tx) == 0
    assert [packet.frame[54:] for packet in seen] == [payload[:100], payload[100:200], payload[200:]]
    sent: list[bytes] = []
    switch.on_output = lambda result, batch: sent.extend(
        Frames(LiveBatch(batch, np.zeros((1, VNET_WORDS), np.uint16)), result.tx, result.tx_data).bytes_of(n)
        for n in range(len(result.tx))
    )
    for packet in seen:
        check(packet.frame)
        assert switch.resume(packet.continuation, packet.frame, 2_000_000)
    assert sent == [packet.frame for packet in seen]

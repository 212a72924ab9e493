"""Another payload for a packet."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.packet.parse import parse_batch
from flowshunt.packet.payload import room_for_payload, with_payload
from flowshunt.packet.schema import CHECKSUM_PARTIAL, KEY_WORDS
from tests.builders import Packet, batch_of, internet_checksum

BASES = {
    "tcp": Packet().eth().ipv4("10.0.0.1", "10.0.0.2", options=b"\1\1\1\0").tcp(1, 2, ack=True, options=b"\1\1\1\1"),
    "udp": Packet().eth().vlan(5).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2),
    "tcp6": Packet().eth().ipv6("2001:db8::1", "2001:db8::2").tcp(1, 2, ack=True),
    "udp6": Packet().eth().ipv6("2001:db8::1", "2001:db8::2").destination_options().udp(1, 2),
}


def parsed(frame: bytes) -> np.void:
    batch = batch_of([frame])
    parse_batch(batch.data, batch.packets, np.zeros((1, KEY_WORDS), np.int64), 1)
    record: np.void = batch.packets[0]
    return record


def protocol_of(name: str) -> int:
    return 6 if name.startswith("tcp") else 17


@given(st.sampled_from(sorted(BASES)), st.binary(max_size=70), st.binary(max_size=70), st.integers(0, 5))
def test_lengths_and_checksums_are_those_of_a_packet_made_so(name: str, old: bytes, new: bytes, padding: int) -> None:
    frame = BASES[name].payload(old).pad(padding).bytes()
    assert with_payload(frame, parsed(frame), protocol_of(name), new) == BASES[name].payload(new).bytes()


@pytest.mark.parametrize("new", [b"", b"x", b"a longer one"])
def test_a_wrong_checksum_stays_as_wrong(new: bytes) -> None:
    base = BASES["tcp"]
    frame = bytearray(base.payload(b"payload").bytes())
    at = 14 + 24 + 16
    right = struct.unpack_from(">H", frame, at)[0]
    struct.pack_into(">H", frame, at, (right + 5) & 0xFFFF)
    out = with_payload(bytes(frame), parsed(bytes(frame)), 6, new)
    expected = struct.unpack_from(">H", base.payload(new).bytes(), at)[0]
    assert (struct.unpack_from(">H", out, at)[0] - expected) % 0xFFFF == 5


def test_a_udp_checksum_of_zero_stays() -> None:
    frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2, checksum=0).payload(b"hello").bytes()
    out = with_payload(frame, parsed(frame), 17, b"hello there")
    assert out[40:42] == b"\0\0"
    assert out[38:40] == struct.pack(">H", 19)


def test_a_partial_checksum_covers_the_new_length() -> None:
    frame = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(1, 2, checksum=0).payload(b"hello").bytes()
    pseudo = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 6])
    place = 14 + 20 + 16

    def with_partial(data: bytes, size: int) -> bytes:
        value = internet_checksum(pseudo + struct.pack(">H", size)) ^ 0xFFFF
        return data[:place] + struct.pack(">H", value) + data[place + 2 :]

    before = with_partial(frame, 25)
    record = parsed(before)
    record["checksum"] = CHECKSUM_PARTIAL
    out = with_payload(before, record, 6, b"hello there")
    assert out[place : place + 2] == with_partial(out, 31)[place : place + 2]


def test_a_payload_must_fit_the_packet_and_the_protocol_have_one() -> None:
    for name, most in (("udp", 0xFFFF - 28), ("udp6", 0xFFFF - 16)):
        frame = BASES[name].payload(b"hello").bytes()
        record = parsed(frame)
        assert room_for_payload(record) == most - 5
        assert len(with_payload(frame, record, 17, bytes(most))) > most
        with pytest.raises(ValueError, match="too long"):
            with_payload(frame, record, 17, bytes(most + 1))
    with pytest.raises(ValueError, match="neither TCP nor UDP"):
        with_payload(frame, record, 1, b"")

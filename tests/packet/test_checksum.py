"""Checksums against plain arithmetic."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.packet.schema import CHECKSUM_PARTIAL, CHECKSUM_VERIFIED
from tests.builders import Packet, internet_checksum
from tests.builders import crc32c as plain_crc32c
from tests.packet import kernels
from tests.packet.kernels import checksums_ok, parsed
from tests.packet.samples import SAMPLES, V4, V6

WORD = st.integers(0, 0xFFFF)
WIDE = st.integers(0, 0xFFFFFFFF)


def array(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8).copy()


@given(st.binary(max_size=80), st.integers(0, 12), st.integers(0, 2**32))
def test_full_checksum_at_any_place_and_size(content: bytes, before: int, initial: int) -> None:
    data = array(b"\xff" * before + content + b"\xff" * 9)
    expected = internet_checksum(struct.pack(">Q", initial) + content)
    assert kernels.checksum(data, before, before + len(content), initial) == expected


def test_checksum_of_nothing_and_of_ones() -> None:
    assert kernels.checksum(array(b""), 0, 0, 0) == 0xFFFF
    assert kernels.checksum(array(b"\xff" * 65536), 0, 65536, 0) == 0
    assert kernels.checksum(array(b"\0\1\xf2\3\xf4\xf5\xf6\xf7"), 0, 8, 0) == 0xDDF2 ^ 0xFFFF  # RFC 1071, section 3


@given(st.lists(WORD, min_size=2, max_size=12), st.data())
def test_incremental_update_equals_full_computation(words: list[int], data: st.DataObject) -> None:
    def full(values: list[int]) -> int:
        return internet_checksum(struct.pack(f">{len(values)}H", *values))

    place = data.draw(st.integers(0, len(words) - 1))
    new = data.draw(WORD)
    after = [*words[:place], new, *words[place + 1 :]]
    if any(words) and any(after):
        assert kernels.update16(full(words), words[place], new) == full(after)


@given(WIDE, WIDE, WIDE)
def test_an_update_of_32_bits(a: int, b: int, c: int) -> None:
    content = struct.pack(">IIH", a, b, 1)
    assert kernels.update32(internet_checksum(content), b, c) == internet_checksum(struct.pack(">IIH", a, c, 1))


def test_update_at_the_corner_of_rfc_1624() -> None:
    # Section 4: header checksum 0xdd2f, a word 0x5555 becomes 0x3285, and the result is 0, not 0xffff.
    assert kernels.update16(0xDD2F, 0x5555, 0x3285) == 0x0000


@given(st.binary(max_size=70), st.integers(0, 9))
def test_crc32c(content: bytes, before: int) -> None:
    data = array(bytes(before) + content)
    assert kernels.crc32c(data, before, len(data), 0) == plain_crc32c(content)


def test_crc32c_of_the_standard_text() -> None:
    assert kernels.crc32c(array(b"123456789"), 0, 9, 0) == 0xE3069283


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_samples_are_right(name: str) -> None:
    expected = name not in ("udp with wrong checksum", "routed")
    assert checksums_ok(parsed(SAMPLES[name])) == (True, expected)


def test_wrong_ip_checksum() -> None:
    assert checksums_ok(parsed(Packet().eth().ipv4("10.0.0.1", "10.0.0.2", checksum=0x1234).udp(1, 2))) == (False, True)
    options = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", options=b"\1\1\1\1")
    assert checksums_ok(parsed(options.udp(1, 2)))[0]
    frame = bytearray(options.udp(1, 2).bytes())
    frame[35] ^= 4
    assert not checksums_ok(parsed(bytes(frame)))[0]
    assert not checksums_ok(parsed(Packet().eth().ipv4("10.0.0.1", "10.0.0.2", ihl=3).udp(1, 2)))[0]


@pytest.mark.parametrize(
    "frame",
    [
        V4.tcp(1, 2, checksum=1).payload(3),
        V4.udp(1, 2, checksum=1),
        V4.icmp(8, checksum=1),
        V4.sctp(1, 2, checksum=1),
        V6.tcp(1, 2, checksum=1),
        V6.udp(1, 2, checksum=1).payload(3),
        V6.icmpv6(128, checksum=1),
        V6.sctp(1, 2, checksum=1),
        V6.udp(1, 2, checksum=0),
        V4.udp(1, 2, length=9),
    ],
)
def test_wrong_transport_checksum_unless_the_port_vouches_for_it(frame: Packet) -> None:
    assert checksums_ok(parsed(frame)) == (True, False)
    for state in (CHECKSUM_VERIFIED, CHECKSUM_PARTIAL):
        assert checksums_ok(parsed(frame, checksum=state)) == (True, True)


def test_every_flipped_bit_of_a_packet_is_noticed() -> None:
    frame = V4.tcp(1000, 80, ack=True).payload(7).bytes()
    for bit in range(26 * 8, len(frame) * 8):
        broken = bytearray(frame)
        broken[bit // 8] ^= 1 << bit % 8
        packet = parsed(bytes(broken))
        assert packet.verdict != "ok" or checksums_ok(packet) != (True, True)


def test_padding_does_not_count() -> None:
    frame = bytearray(V4.udp(1, 2).payload(3).pad(9).bytes())
    frame[-9:] = b"\xaa" * 9
    assert checksums_ok(parsed(bytes(frame))) == (True, True)


def test_fragments_are_not_judged() -> None:
    assert checksums_ok(parsed(SAMPLES["first fragment"]))[1]
    assert checksums_ok(parsed(SAMPLES["later fragment 6"]))[1]

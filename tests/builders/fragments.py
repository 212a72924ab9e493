"""Fragments of frames, and frames of fragments: from RFC 791 and RFC 8200, not shared with the code under test."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from tests.builders.packets import Packet, internet_checksum

_EXTENSIONS = (0, 43, 60)


class Piece(NamedTuple):
    """What a fragment says: its payload begins at byte `offset`; `link`: Ethernet and tags; `id`: identification."""

    link: bytes
    header: bytes
    id: int
    offset: int
    more: bool
    payload: bytes


def _link_size(frame: bytes) -> int:
    size = 14
    while frame[size - 2 : size] in (b"\x81\x00", b"\x88\xa8"):
        size += 4
    return size


def _unfragmentable(packet: bytes) -> int:
    """Bytes of an IPv6 packet's headers up to the last hop-by-hop, routing, or destination options before those."""
    at, kind, size = 40, packet[6], 40
    while kind in _EXTENSIONS:
        following = packet[at]
        at += (packet[at + 1] + 1) * 8
        if kind != 60 or following == 43:
            size = at
        kind = following
    return size


def _named(packet: bytes, size: int) -> int:
    """Where the byte is that names what follows the first `size` bytes of an IPv6 packet."""
    at, named = 40, 6
    while at < size:
        named = at
        at += (packet[at + 1] + 1) * 8
    return named


def fragment(
    frame: bytes | Packet, offset: int, end: int, id: int = 7, df: bool = False, more: bool | None = None
) -> bytes:
    """The bytes [offset, end) of the IP payload of a whole frame as one fragment."""
    whole = frame.bytes() if isinstance(frame, Packet) else frame
    l3 = _link_size(whole)
    link, packet = whole[:l3], whole[l3:]
    if packet[0] >> 4 == 4:
        size = (packet[0] & 15) * 4
        payload = packet[size : int.from_bytes(packet[2:4], "big")]
        left = end < len(payload) if more is None else more
        header = bytearray(packet[:size])
        header[2:4] = struct.pack(">H", size + end - offset)
        header[4:8] = struct.pack(">HH", id, df << 14 | left << 13 | offset // 8)
        header[10:12] = b"\0\0"
        header[10:12] = struct.pack(">H", internet_checksum(bytes(header)))
        return link + bytes(header) + payload[offset:end]
    size = _unfragmentable(packet)
    payload = packet[size : 40 + int.from_bytes(packet[4:6], "big")]
    left = end < len(payload) if more is None else more
    header = bytearray(packet[:size])
    named = _named(packet, size)
    following = header[named]
    header[named] = 44
    header[4:6] = struct.pack(">H", size - 40 + 8 + end - offset)
    return link + bytes(header) + struct.pack(">BBHI", following, 0, offset | left, id) + payload[offset:end]


def payload_size(frame: bytes | Packet) -> int:
    """Bytes that fragments of a whole frame carry in all."""
    whole = frame.bytes() if isinstance(frame, Packet) else frame
    packet = whole[_link_size(whole) :]
    if packet[0] >> 4 == 4:
        return int.from_bytes(packet[2:4], "big") - (packet[0] & 15) * 4
    return 40 + int.from_bytes(packet[4:6], "big") - _unfragmentable(packet)


def fragments(frame: bytes | Packet, cuts: Iterable[int], id: int = 7, df: bool = False) -> list[bytes]:
    """A whole frame in fragments, cut at these bytes of its IP payload (multiples of 8), in order."""
    places = [0, *cuts, payload_size(frame)]
    return [fragment(frame, start, end, id, df) for start, end in pairwise(places)]


def fragments_of_size(frame: bytes | Packet, l3_size: int, id: int = 7, df: bool = False) -> list[bytes]:
    """A whole frame in fragments of at most `l3_size` bytes from the IP header on, as a host would send it."""
    whole = frame.bytes() if isinstance(frame, Packet) else frame
    packet = whole[_link_size(whole) :]
    header = (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else _unfragmentable(packet) + 8
    step = (l3_size - header) // 8 * 8
    return fragments(frame, range(step, payload_size(frame), step), id, df)


def read(frame: bytes) -> Piece:
    """Take a fragment apart; of IPv4 the checksum is verified. Raises AssertionError when it is none, or damaged."""
    l3 = _link_size(frame)
    packet = frame[l3:]
    if packet[0] >> 4 == 4:
        size = (packet[0] & 15) * 4
        assert internet_checksum(packet[:size]) == 0
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        id, place = struct.unpack_from(">HH", packet, 4)
        return Piece(frame[:l3], packet[:size], id, (place & 0x1FFF) * 8, bool(place & 0x2000), packet[size:])
    assert int.from_bytes(packet[4:6], "big") + 40 == len(packet)
    size, kind = 40, packet[6]
    while kind != 44:
        assert kind in _EXTENSIONS
        kind, size = packet[size], size + (packet[size + 1] + 1) * 8
    _, _, place, id = struct.unpack_from(">BBHI", packet, size)
    return Piece(frame[:l3], packet[: size + 8], id, place & 0xFFF8, bool(place & 1), packet[size + 8 :])


def whole(frames: Sequence[bytes]) -> bytes:
    """The frame that fragments, in any order, make; a frame alone is whole.

    Raises AssertionError when they do not fit together.
    """
    if len(frames) == 1:
        return frames[0]
    pieces = sorted((read(frame) for frame in frames), key=lambda piece: piece.offset)
    assert len({(piece.link, piece.id) for piece in pieces}) == 1
    payload = b""
    for piece in pieces:
        assert piece.offset == len(payload)
        assert piece.more == (piece is not pieces[-1])
        payload += piece.payload
    first = pieces[0]
    header = bytearray(first.header)
    if header[0] >> 4 == 4:
        header[2:4] = struct.pack(">H", len(header) + len(payload))
        header[6:8] = struct.pack(">H", int.from_bytes(header[6:8], "big") & 0x4000)
        header[10:12] = b"\0\0"
        header[10:12] = struct.pack(">H", internet_checksum(bytes(header)))
    else:
        following = header[-8]
        del header[-8:]
        header[_named(bytes(header), len(header))] = following
        header[4:6] = struct.pack(">H", len(header) - 40 + len(payload))
    return first.link + bytes(header) + payload

"""Fragments, naively: pieces in a dict until they make a whole.

Which fragments a tracker refuses is its affair (too small, overlapping, too many, too late): what it holds, and what it
lets go, is seen, and here it is checked that a datagram that comes out is one that went in, whole, and that one whose
pieces all came in good order does come out.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.oracle.frames import Datagram, ones_complement

LIFE_MS = {4: 30_000, 6: 60_000}
LEAST = {4: 1200, 6: 1280}
"""The default profile's smallest fragment, but for the last."""
FRAGMENT_HEADER = 8

Name = tuple[int, int, bytes, bytes, int, int]


@dataclass
class Piece:
    offset: int
    data: bytes
    more: bool


@dataclass
class Waiting:
    """A datagram that is not whole yet; `clean` as long as nothing about it is odd."""

    since_ms: int
    pieces: list[Piece] = field(default_factory=list)
    first: bytes = b""  # frame up to the data
    most: int = 0  # bytes of the largest fragment, from its IP header on
    clean: bool = True
    before: tuple[list[Piece], bytes, int] = ([], b"", 0)
    """What there was before the last piece."""

    def refuse(self) -> None:
        """The last piece was refused: nothing comes of it, and the datagram is odd."""
        self.pieces, self.first, self.most = self.before
        self.clean = False


def piece_of(frame: bytes, datagram: Datagram) -> tuple[Piece, bytes, int]:
    """The piece, what stands before it in the frame, and the number of its protocol."""
    end = datagram.at + datagram.size
    start = datagram.at + datagram.l4_at
    protocol = datagram.protocol
    if datagram.family == 6:
        if datagram.offset:
            start += FRAGMENT_HEADER  # what lies behind it was not read
            protocol = frame[start - FRAGMENT_HEADER]
        else:
            start = header_end(frame, datagram)
            protocol = frame[start - FRAGMENT_HEADER]
    return Piece(datagram.offset, frame[start:end], datagram.more), frame[:start], protocol


def header_end(frame: bytes, datagram: Datagram) -> int:
    """Where the data of an IPv6 fragment begins: behind its fragment header."""
    at, kind = datagram.at + 40, frame[datagram.at + 6]
    while kind != 44:
        kind, at = frame[at], at + (frame[at + 1] + 1) * 8
    return at + FRAGMENT_HEADER


def assemble(pieces: Sequence[Piece]) -> bytes | None:
    """The data, or None when something is missing or contradicts itself."""
    ends = {piece.offset + len(piece.data) for piece in pieces if not piece.more}
    if len(ends) != 1:
        return None
    size = ends.pop()
    data: list[int | None] = [None] * size
    for piece in pieces:
        if piece.offset + len(piece.data) > size:
            return None
        for at, byte in enumerate(piece.data, piece.offset):
            if data[at] not in (None, byte):
                return None
            data[at] = byte
    return None if None in data else bytes(data)  # type: ignore[arg-type]


def whole_frame(head: bytes, at: int, family: int, data: bytes) -> bytes:
    """The datagram as one frame: `head` is the first fragment's up to its data."""
    packet = bytearray(head)
    if family == 4:
        packet[at + 2 : at + 4] = struct.pack("!H", len(head) - at + len(data))
        packet[at + 6 : at + 8] = bytes([packet[at + 6] & 0x40, 0])
        packet[at + 10 : at + 12] = b"\0\0"
        packet[at + 10 : at + 12] = struct.pack("!H", ones_complement(bytes(packet[at:])))
        return bytes(packet) + data
    kind = packet[-FRAGMENT_HEADER]
    place, last = at + 6, at + 40
    while packet[place] != 44:  # the header before the fragment header names what follows now
        place, last = last, last + (packet[last + 1] + 1) * 8
    packet[place] = kind
    del packet[-FRAGMENT_HEADER:]
    packet[at + 4 : at + 6] = struct.pack("!H", len(packet) - at - 40 + len(data))
    return bytes(packet) + data


class Reassembly:
    """The datagrams that wait. `linux`: small fragments are as good as others."""

    def __init__(self, linux: bool) -> None:
        self.linux = linux
        self.waiting: dict[Name, Waiting] = {}

    def name(self, datagram: Datagram, zone: int, protocol: int) -> Name:
        return zone, datagram.family, datagram.source, datagram.destination, datagram.id, protocol

    def take(self, frame: bytes, datagram: Datagram, zone: int, now_ms: int) -> tuple[Name, Waiting]:
        """Note a fragment. It may turn out to be refused."""
        piece, head, protocol = piece_of(frame, datagram)
        name = self.name(datagram, zone, protocol if datagram.family == 4 else 0)
        waiting = self.waiting.get(name)
        if waiting is None or now_ms - waiting.since_ms >= LIFE_MS[datagram.family]:
            was_clean = waiting is None
            waiting = self.waiting[name] = Waiting(now_ms, clean=was_clean)
        waiting.before = list(waiting.pieces), waiting.first, waiting.most
        waiting.clean &= self.is_clean(waiting, piece, datagram)
        if not any(piece == other for other in waiting.pieces):
            waiting.pieces.append(piece)
        if piece.offset == 0:
            waiting.first = head
        waiting.most = max(waiting.most, datagram.size)
        return name, waiting

    def is_clean(self, waiting: Waiting, piece: Piece, datagram: Datagram) -> bool:
        """Whether nobody could refuse the piece."""
        if datagram.family == 4 and ones_complement(datagram.header) != 0:
            return False
        if piece.more and (len(piece.data) % 8 or (datagram.size < LEAST[datagram.family] and not self.linux)):
            return False
        end = piece.offset + len(piece.data)
        apart = all(end <= p.offset or p.offset + len(p.data) <= piece.offset for p in waiting.pieces)
        return bool(piece.data) and apart and end <= 65000

    def whole(self, waiting: Waiting, datagram: Datagram) -> bytes | None:
        """The frame of the datagram, if it is complete."""
        data = assemble(waiting.pieces)
        if data is None or not waiting.first:
            return None
        return whole_frame(waiting.first, datagram.at, datagram.family, data)

"""Two ends of a TCP connection that check what they are sent, however it was translated on its way."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address

from tests.builders.packets import Packet, internet_checksum

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_U32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Segment:
    """A TCP segment as it was read from a frame whose lengths and checksums are right."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    seq: int
    ack: int
    flags: int
    sacks: tuple[tuple[int, int], ...]
    payload: bytes


def read_segment(frame: bytes) -> Segment:
    """A TCP segment without VLAN and extension headers; asserts that lengths and checksums are right."""
    at = 14
    if frame[12:14] == b"\x08\x00":
        size = (frame[at] & 0x0F) * 4
        end = at + struct.unpack_from(">H", frame, at + 2)[0]
        assert internet_checksum(frame[at : at + size]) == 0, "IPv4 header checksum"
        addresses = frame[at + 12 : at + 20]
        pseudo = addresses + struct.pack(">BBH", 0, 6, end - at - size)
    else:
        size = 40
        end = at + size + struct.unpack_from(">H", frame, at + 4)[0]
        addresses = frame[at + 8 : at + 40]
        pseudo = addresses + struct.pack(">IHBB", end - at - size, 0, 0, 6)
    assert end == len(frame), "length of the IP packet"
    body = frame[at + size : end]
    assert internet_checksum(pseudo + body) == 0, "TCP checksum"
    ports = struct.unpack_from(">HH", body)
    seq, ack, offset, flags = struct.unpack_from(">IIBB", body, 4)
    header = (offset >> 4) * 4
    half = len(addresses) // 2
    source, destination = (str(ip_address(part)) for part in (addresses[:half], addresses[half:]))
    return Segment(source, ports[0], destination, ports[1], seq, ack, flags, _sacks(body[20:header]), body[header:])


def _sacks(options: bytes) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    while options:
        if options[0] == 1:
            options = options[1:]
            continue
        if options[0] == 5:
            edges = struct.unpack(f">{(options[1] - 2) // 4}I", options[2 : options[1]])
            found += list(zip(edges[::2], edges[1::2], strict=True))
        options = options[options[1] :]
    return tuple(found)


@dataclass
class Host:
    """One end, which counts in its own sequence numbers."""

    address: str
    port: int
    peer: str
    peer_port: int
    next_seq: int = 1000
    expected: int = 0
    received: bytes = b""
    sent: list[tuple[int, bytes]] = field(default_factory=list)

    def segment(self, payload: bytes = b"", *, seq: int | None = None, options: bytes = b"", **flags: bool) -> bytes:
        """The frame of a segment, by default the next one; `syn` and `fin` count as well as the payload."""
        seq = self.next_seq if seq is None else seq
        end = (seq + len(payload) + bool(flags.get("syn")) + bool(flags.get("fin"))) & _U32
        if (end - self.next_seq) & _U32 < 1 << 31:
            self.next_seq = end
        packet = Packet().eth()
        over = packet.ipv6 if ":" in self.address else packet.ipv4
        acks = flags.pop("ack", True)
        tcp = over(self.address, self.peer).tcp(
            self.port, self.peer_port, seq=seq, ack_number=self.expected if acks else 0, options=options, ack=acks,
            **flags,
        )  # fmt: skip
        return tcp.payload(payload).bytes()

    def receive(self, frame: bytes) -> Segment:
        """Take a segment: it must be from the peer, continue the stream or repeat it, and acknowledge what was sent."""
        segment = read_segment(frame)
        assert (segment.source, segment.source_port) == (self.peer, self.peer_port)
        assert (segment.destination, segment.destination_port) == (self.address, self.port)
        if segment.flags & SYN:
            self.expected = (segment.seq + 1) & _U32
            self.received = b""
        elif segment.payload or segment.flags & FIN:
            start = (segment.seq - self.expected + len(self.received)) & _U32
            assert start <= len(self.received), "a gap in the stream"
            old = self.received[start : start + len(segment.payload)]
            assert segment.payload.startswith(old), "something else than before"
            self.received = self.received + segment.payload[len(old) :]
            self.expected = (self.expected + len(segment.payload) - len(old) + bool(segment.flags & FIN)) & _U32
        if segment.flags & ACK:
            ahead = (segment.ack - self.next_seq) & _U32
            assert ahead == 0 or ahead > 1 << 31, "acknowledges what was not sent"
        return segment

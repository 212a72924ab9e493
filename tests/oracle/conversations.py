"""Conversations in all moods, for the kernels and the naive tracker to disagree about.

`Conversation(random)` yields `Event`s without end: frames with the time and the ct() arguments that they are sent with.
A handful of flows live at a time. Each TCP flow keeps the numbers of both ends, so that most segments are right; some
it spoils: losses, repetitions, reordering, numbers off by one or by a window, resets of all kinds, ports used again.
`learn` tells what became of an event: a server answers to whom the packet seemed to come from, a router quotes what it
got. Everything else comes from the `random.Random` handed in, so a seed (or Hypothesis) names a conversation.
"""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from tests.oracle.frames import ACK, FIN, ICMP, ICMPV6, PSH, RST, SCTP, SYN, TCP, UDP, URG, crc32c, ones_complement
from tests.oracle.sctp_flows import SctpFlow
from tests.oracle.steps import N_PLAIN, draw_manners

MASK = 0xFFFFFFFF
HOSTS = {
    4: [ip_address(f"10.0.0.{n}").packed for n in range(1, 5)],
    6: [ip_address(f"2001:db8::{n}").packed for n in range(1, 5)],
}
PORTS = (22, 80, 443, 1024, 5000, 65535)
OFFSETS = (
    -70000,
    -67036,
    -66001,
    -1500,
    -1001,
    -2,
    -1,
    1,
    2,
    500,
    1000,
    1460,
    65535,
    66000,
    67035,
    67036,
    1 << 30,
    1 << 31,
)
ODD_FLAGS = (
    ACK, ACK, RST, RST, RST | ACK, RST | ACK, FIN | ACK, FIN | ACK, SYN, SYN | ACK,
    ACK | URG, FIN, 0, SYN | FIN, SYN | RST, PSH,
)  # fmt: skip
WINDOWS = (0, 1, 100, 1000, 8192, 65535)
# Milliseconds: nearly nothing, a pause, the timeouts and their edges, ages, backwards.
STEPS = (
    (0, 900), (1, 300), (40, 300), (700, 100), (2000, 40), (9_999, 8), (10_000, 8), (29_999, 8), (30_000, 12),
    (45_000, 6), (60_000, 8), (120_000, 8), (300_000, 4), (600_000, 2), (900_000, 2), (3_600_000, 1),
    (86_400_000, 1), (432_000_000, 1), (-500, 3), (-40_000, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Event:
    """One packet; `manner` is an index into the conversation's manners of tracking it, `flow` sent it, if one did."""

    now_ms: int
    frame: bytes
    manner: int
    flow: Flow | None = None
    direction: int = 0


def l4_checksum(family: int, source: bytes, destination: bytes, protocol: int, l4: bytes) -> int:
    pseudo = source + destination + struct.pack("!IHBB", len(l4), 0, 0, protocol)
    return ones_complement((b"" if (family, protocol) == (4, ICMP) else pseudo) + l4)


def with_checksum(family: int, source: bytes, destination: bytes, protocol: int, l4: bytes) -> bytes:
    """`l4` with its checksum field, which must be zero, filled in."""
    place = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2, SCTP: 8}.get(protocol)
    if place is None:
        return l4
    if protocol == SCTP:
        return l4[:8] + struct.pack("<I", crc32c(l4)) + l4[12:]
    value = l4_checksum(family, source, destination, protocol, l4)
    if protocol == UDP:
        value = value or 0xFFFF
    return l4[:place] + struct.pack("!H", value) + l4[place + 2 :]


def ip_packet(source: bytes, destination: bytes, protocol: int, l4: bytes, *, extensions: bytes = b"") -> bytes:
    """`extensions`: IPv6 extension headers whose last next-header byte is right already; the first is hop-by-hop."""
    if len(source) == 4:
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(l4), 1, 0, 64, protocol, 0, source, destination)
        return header[:10] + struct.pack("!H", ones_complement(header)) + header[12:] + l4
    first = 0 if extensions else protocol
    body = extensions + l4
    return struct.pack("!IHBB16s16s", 6 << 28, len(body), first, 64, source, destination) + body


def ethernet(packet: bytes, tags: int = 0) -> bytes:
    kind = struct.pack("!H", 0x0800 if packet[0] >> 4 == 4 else 0x86DD)
    return b"\2\0\0\0\0\2\2\0\0\0\0\1" + b"\x81\0\0\5" * tags + kind + packet


def tcp_header(
    ports: tuple[int, int], seq: int, ack: int, flags: int, window: int, payload: int, scale: int | None
) -> bytes:
    options = b"" if scale is None else bytes([1, 3, 3, scale])
    offset = 5 + len(options) // 4
    header = struct.pack("!HHIIBBHHH", *ports, seq & MASK, ack & MASK, offset << 4, flags, window, 0, 0)
    return header + options + bytes(payload)


Ends = tuple[bytes, bytes, int, int]
"""Source, destination, and their ports (a query's identifier in both)."""


class Flow:
    """Two ends that talk: the original direction as it is sent, and the other one as it must answer what it heard.

    `home` is the manner in which packets of the original direction are tracked, mostly.
    """

    def __init__(self, random: random.Random, ends: tuple[bytes, bytes], ports: tuple[int, int], home: int = 0) -> None:
        self.random, self.home = random, home
        self.ends: list[Ends] = [(*ends, *ports), (ends[1], ends[0], ports[1], ports[0])]
        self.has_heard = False

    def hear(self, heard: Ends) -> None:
        """What a packet of the original direction looked like when it arrived."""
        source, destination, source_port, destination_port = heard
        self.ends[1] = destination, source, destination_port, source_port
        self.has_heard = True

    def step(self) -> tuple[int, bytes] | None:
        """Direction and packet; None when it got lost, or nothing is to be said before the other end has heard."""
        raise NotImplementedError

    def must_wait(self, d: int) -> bool:
        return d == 1 and not self.has_heard and self.random.random() < 0.95

    def l4_packet(self, d: int, protocol: int, l4: bytes) -> bytes:
        return l4_packet(*self.ends[d][:2], protocol, l4)


class TcpFlow(Flow):
    """Two ends that talk; `position` is the next sequence number of each."""

    def __init__(self, random: random.Random, ends: tuple[bytes, bytes], ports: tuple[int, int], home: int = 0) -> None:
        super().__init__(random, ends, ports, home)
        self.script: deque[tuple[int, int, int]] = deque()  # direction, flags, payload
        self.sent: deque[tuple[int, bytes]] = deque(maxlen=8)
        self.late: list[tuple[int, bytes]] = []
        self.restart()

    def restart(self) -> None:
        """New numbers, and a new course of events."""
        r = self.random
        self.position = [r.choice((0, 1, 1000, MASK - 100, 1 << 31, r.getrandbits(32))) for _ in range(2)]
        self.scale = [r.choice((None, None, 0, 2, 7, 14, 15)) for _ in range(2)]
        self.window = [r.choice(WINDOWS[2:]) for _ in range(2)]
        self.has_heard = False
        self.script.clear()
        self.script += self.opening() + self.middle() + self.ending()

    def opening(self) -> list[tuple[int, int, int]]:
        r = self.random.random()
        if r < 0.60:
            return [(0, SYN, 0), (1, SYN | ACK, 0), (0, ACK, 0)]
        if r < 0.68:
            return [(0, SYN, 0), (1, SYN, 0), (0, SYN | ACK, 0), (1, SYN | ACK, 0), (0, ACK, 0)]
        if r < 0.74:
            return [(0, SYN, 0), (1, SYN, 0), (1, ACK, 0), (0, ACK, 0)]
        if r < 0.80:
            return [(0, SYN, 0), (1, RST | ACK, 0)]
        if r < 0.86:
            return [(0, SYN, 100), (0, SYN, 0), (1, SYN | ACK, 0), (1, SYN | ACK, 0), (0, ACK, 0)]
        return []

    def middle(self) -> list[tuple[int, int, int]]:
        r = self.random
        steps = []
        for _ in range(r.choice((0, 1, 4, 10))):
            d = r.randrange(2)
            steps.append((d, ACK | r.choice((0, PSH)), r.choice((1, 100, 1000, 1460))))
            if r.random() < 0.6:
                steps.append((1 - d, ACK, 0))
        return steps

    def ending(self) -> list[tuple[int, int, int]]:
        r, d = self.random.random(), self.random.randrange(2)
        if r < 0.4:
            return [(d, FIN | ACK, 0), (1 - d, ACK, 0), (1 - d, FIN | ACK, 0), (d, ACK, 0)]
        if r < 0.55:
            return [(d, FIN | ACK, 10), (1 - d, FIN | ACK, 0), (d, ACK, 0), (1 - d, ACK, 0)]
        if r < 0.7:
            return [(d, RST, 0)]
        if r < 0.8:
            return [(d, RST | ACK, 0), (1 - d, ACK, 0)]
        return [(0, SYN, 0)]

    def step(self) -> tuple[int, bytes] | None:
        r = self.random
        chance = r.random()
        if self.late and chance < 0.3:
            return self.late.pop(r.randrange(len(self.late)))
        if self.sent and chance < 0.36:
            return r.choice(self.sent)
        if chance < 0.46:
            return self.odd()
        if not self.script:
            if r.random() < 0.7:
                self.restart()
            else:
                self.script += self.middle() + self.ending()
            if not self.script:
                return None
        if self.must_wait(self.script[0][0]):
            return None
        d, flags, payload = self.script.popleft()
        packet = d, self.segment(d, flags, payload)
        if chance < 0.50:
            return None
        if chance < 0.54:
            self.late.append(packet)
            return None
        self.sent.append(packet)
        return packet

    def segment(self, d: int, flags: int, payload: int) -> bytes:
        seq, ack = self.position[d], self.position[1 - d] if flags & ACK else 0
        self.position[d] = seq + payload + bool(flags & SYN) + bool(flags & FIN) & MASK
        if self.random.random() < 0.05:
            self.window[d] = self.random.choice(WINDOWS)
        return self.build(d, seq, ack, flags, self.window[d], payload)

    def odd(self) -> tuple[int, bytes]:
        """A segment near the flow's numbers, but not right."""
        r, d = self.random, self.random.randrange(2)
        wrong_seq, wrong_ack = r.choice(((0, 0), (0, 1), (1, 0), (1, 1)))
        seq = self.position[d] + wrong_seq * r.choice(OFFSETS)
        ack = self.position[1 - d] + wrong_ack * r.choice((*OFFSETS, -self.position[1 - d]))
        flags = r.choice(ODD_FLAGS)
        return d, self.build(d, seq, ack, flags, r.choice(WINDOWS), r.choice((0, 0, 1, 1000)))

    def build(self, d: int, seq: int, ack: int, flags: int, window: int, payload: int) -> bytes:
        scale = self.scale[d] if flags & SYN else None
        return self.l4_packet(d, TCP, tcp_header(self.ends[d][2:], seq, ack, flags, window, payload, scale))


def l4_packet(source: bytes, destination: bytes, protocol: int, l4: bytes) -> bytes:
    family = 4 if len(source) == 4 else 6
    return ip_packet(source, destination, protocol, with_checksum(family, source, destination, protocol, l4))


class DatagramFlow(Flow):
    """UDP, SCTP, ICMP queries, or a protocol without ports; now and then an answer."""

    def __init__(
        self, random: random.Random, ends: tuple[bytes, bytes], ports: tuple[int, int], protocol: int, home: int = 0
    ) -> None:
        super().__init__(random, ends, ports, home)
        self.protocol = protocol
        self.association = SctpFlow(random, ports)
        if protocol in (ICMP, ICMPV6):
            self.ends = [(*ends, ports[0], ports[0]), (ends[1], ends[0], ports[0], ports[0])]

    def step(self) -> tuple[int, bytes] | None:
        r = self.random
        if self.protocol == SCTP:
            d, l4 = self.association.next()
            seen = struct.pack("!HH", *self.ends[d][2:]) + l4[4:]
            return None if self.must_wait(d) else (d, self.l4_packet(d, SCTP, seen))
        d = int(r.random() < 0.3)
        if self.must_wait(d):
            return None
        source, destination, *ports = self.ends[d]
        body = bytes(r.choice((0, 1, 20))) if r.random() < 0.97 else r.randbytes(r.choice((1472, 2500, 4000)))
        if self.protocol == UDP:
            length = r.choice((8 + len(body), 8 + len(body), 8 + len(body), 8 + len(body), 7, 500))
            l4 = struct.pack("!HHHH", *ports, length, 0) + body
            if r.random() < 0.05:
                return d, ip_packet(source, destination, UDP, l4)  # checksum zero
        elif self.protocol in (ICMP, ICMPV6):
            kinds = (8, 0, 13, 14, 15, 16, 17, 18, 10) if self.protocol == ICMP else (128, 129, 135, 139)
            first = r.choice(kinds) if r.random() < 0.3 else kinds[0]
            kind = first if d == 0 or r.random() < 0.2 else kinds[1]
            l4 = struct.pack("!BBHHH", kind, r.choice((0, 0, 0, 0, 0, 1)), 0, ports[0], 1) + body
        else:
            l4 = body
        return d, self.l4_packet(d, self.protocol, l4)


def fragment_v4(packet: bytes, identification: int, at: int, data: bytes, more: bool) -> bytes:
    place = at >> 3 | 0x2000 * more
    header = packet[:2] + struct.pack("!HHH", 20 + len(data), identification & 0xFFFF, place) + packet[8:10] + b"\0\0"
    header += packet[12:20]
    return header[:10] + struct.pack("!H", ones_complement(header)) + header[12:] + data


def fragment_v6(packet: bytes, identification: int, at: int, data: bytes, more: bool) -> bytes:
    header = packet[:4] + struct.pack("!HB", 8 + len(data), 44) + packet[7:40]
    return header + struct.pack("!BBHI", packet[6], 0, at | more, identification) + data


class Conversation:
    """An endless iterator of events. `nat`: some manners translate; `fragments`: some packets are cut."""

    def __init__(self, random: random.Random, *, flows: int = 6, nat: bool = True, fragments: bool = True) -> None:
        self.random, self.n_flows, self.fragments = random, flows, fragments
        self.now_ms = 1_700_000_000_000
        self.seed = random.getrandbits(32)
        self.identification = random.randrange(60000)
        self.recent: deque[tuple[bytes, int]] = deque(maxlen=20)
        self.steps = [step for step, _ in STEPS]
        calm = random.choice((1, 1, 0.1, 0.01))  # pauses end connections: where they are rare, the table fills
        self.weights = [weight * (calm if step > 2000 else 1) for step, weight in STEPS]
        self.manners, self.returns = draw_manners(random, nat)
        self.pending: list[Event] = []
        self.flows: list[Flow] = [self.make_flow() for _ in range(flows)]

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        r = self.random
        if r.random() < 0.02:
            self.flows[r.randrange(self.n_flows)] = self.make_flow()
        self.now_ms += r.choices(self.steps, self.weights)[0]
        if self.pending and r.random() < 0.8:
            return replace(self.pending.pop(0), now_ms=self.now_ms)
        while True:
            if r.random() < 0.06 and self.recent:
                return self.event(*self.error())
            flow = r.choice(self.flows)
            sent = flow.step()
            if sent is not None:
                d, packet = sent
                manner = flow.home if d == 0 else self.returns[flow.home]
                if r.random() < 0.3:
                    self.recent.append((packet, manner))
                return self.event(packet, manner, flow, d)

    def event(self, packet: bytes, manner: int, flow: Flow | None = None, d: int = 0) -> Event:
        if self.random.random() < 0.1:
            manner = self.random.randrange(len(self.manners))
        if self.fragments and len(packet) > 1400 and self.random.random() < 0.5:
            self.pending += [Event(self.now_ms, ethernet(piece), manner, flow, d) for piece in self.cut(packet)]
            if self.pending:
                return self.pending.pop(0)
        return Event(self.now_ms, self.spoil(packet), manner, flow, d)

    def cut(self, packet: bytes) -> list[bytes]:
        """A packet in fragments, mostly in good order; some come twice, overlap, get lost or are small."""
        r = self.random
        self.identification += r.choice((1, 1, 1, 1, 0))
        v4 = packet[0] >> 4 == 4
        data, size = packet[20 if v4 else 40 :], r.choice((1240, 1240, 1240, 1360, 800, 128))
        pieces = [(at, data[at : at + size]) for at in range(0, len(data), size)]
        chance = r.random()
        if chance < 0.3:
            r.shuffle(pieces)
        elif chance < 0.4:
            pieces.insert(r.randrange(len(pieces)), r.choice(pieces))
        elif chance < 0.5:
            del pieces[r.randrange(len(pieces))]
        elif chance < 0.6:
            pieces.append((8, data[8 : 8 + size]))
        make = fragment_v4 if v4 else fragment_v6
        return [make(packet, self.identification, at, part, at + len(part) < len(data)) for at, part in pieces]

    def learn(self, event: Event, frame: bytes, heard: Ends | None) -> None:
        """What left the switch of an event, and as whose packet it arrived (None: nobody can tell)."""
        if event.flow is not None and event.direction == 0 and heard is not None:
            event.flow.hear(heard)
        if self.random.random() < 0.2 and len(frame) >= 54 and frame[12:14] in (b"\x08\0", b"\x86\xdd"):
            self.recent.append((frame[14:], event.manner))

    def make_flow(self) -> Flow:
        r = self.random
        home = r.choice((0, r.randrange(len(self.manners)), r.randrange(N_PLAIN - 1, len(self.manners))))
        family = r.choice((4, 6))
        source, destination = r.sample(HOSTS[family], 2)
        ports = (r.choice((*PORTS, 0)) if r.random() < 0.03 else r.choice(PORTS), r.choice(PORTS))
        if r.random() < 0.55:
            return TcpFlow(r, (source, destination), ports, home)
        echo = ICMP if family == 4 else ICMPV6
        protocol = r.choice((UDP, UDP, UDP, echo, echo, SCTP, 47, 136, 59))
        return DatagramFlow(r, (source, destination), ports, protocol, home)

    def error(self) -> tuple[bytes, int]:
        """An ICMP error about a recent packet, mostly as a router or the receiver would send it, and its manner."""
        r = self.random
        quoted, manner = r.choice(self.recent)
        v4 = quoted[0] >> 4 == 4
        source, destination = (quoted[12:16], quoted[16:20]) if v4 else (quoted[8:24], quoted[24:40])
        if r.random() < 0.1:
            source = r.choice(HOSTS[4 if v4 else 6])
        header = 20 if v4 else 40
        quoted = quoted[: header + r.choice((8, 8, 8, 28, 100, 7, 0))]
        kind = r.choice((3, 3, 4, 5, 11, 12, 6)) if v4 else r.choice((1, 1, 2, 3, 4, 5))
        l4 = struct.pack("!BBHI", kind, 1, 0, 0) + quoted
        sender = r.choice((destination, HOSTS[4 if v4 else 6][0]))
        return l4_packet(sender, source, ICMP if v4 else ICMPV6, l4), self.returns[manner]

    def spoil(self, packet: bytes) -> bytes:
        """The frame of a packet: mostly plain, sometimes tagged, damaged, padded, cut or a fragment."""
        r = self.random
        chance = r.random()
        if chance < 0.9:
            return ethernet(packet)
        if chance < 0.94:
            return ethernet(packet, r.choice((1, 1, 2, 3)))
        if chance < 0.95:
            return ethernet(packet) + bytes(r.randrange(20))
        damaged = bytearray(packet)
        if chance < 0.975:
            damaged[r.randrange(len(damaged))] ^= 1 << r.randrange(8)
        elif chance < 0.985:
            return ethernet(packet)[: r.randrange(14, 14 + len(packet))]
        elif chance < 0.99 and packet[0] >> 4 == 4 and self.fragments:
            damaged[6:8] = r.choice((b"\x20\0", b"\0\1", b"\x40\0"))
            damaged[10:12] = b"\0\0"
            damaged[10:12] = struct.pack("!H", ones_complement(bytes(damaged[:20])))
        elif packet[0] >> 4 == 6:
            return ethernet(self.extended(packet))
        return ethernet(bytes(damaged))

    def extended(self, packet: bytes) -> bytes:
        """An IPv6 packet with extension headers put in front of its payload."""
        r = self.random
        place = r.choice((0, 0, 0, 1, 8)) if self.fragments else 0
        fragment = struct.pack("!BBHI", packet[6], 0, place, 1)
        last = r.choice((bytes([packet[6], 0, 1, 4, 0, 0, 0, 0]), fragment))
        kind = 44 if last is fragment else 60
        extensions = bytes([kind, 0, 1, 4, 0, 0, 0, 0]) + last
        return ip_packet(packet[8:24], packet[24:40], packet[6], packet[40:], extensions=extensions)

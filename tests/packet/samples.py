"""One packet of every kind that the parser knows, and some that it should only survive."""

from __future__ import annotations

import random

from tests.builders import Packet

V4 = Packet().eth().ipv4("10.0.0.1", "10.0.0.2")
V6 = Packet().eth().ipv6("2001:db8::1", "2001:db8::2", label=0x12345, traffic_class=0x2E)
_BACK4 = Packet().eth().ipv4("192.0.2.9", "10.0.0.1")
_BACK6 = Packet().eth().ipv6("2001:db8::9", "2001:db8::1")
_SENT4 = Packet().ipv4("10.0.0.1", "10.0.0.2")
_SENT6 = Packet().ipv6("2001:db8::1", "2001:db8::2")

SAMPLES: dict[str, Packet] = {
    "tcp syn": V4.tcp(1000, 80, syn=True, window_scale=7),
    "tcp data": V4.tcp(1000, 80, seq=5, ack_number=9, ack=True, psh=True, options=b"\1\1\x08\x0a" + bytes(8)).payload(
        33
    ),
    "udp": V4.udp(1000, 53).payload(11),
    "udp without checksum": V4.udp(1000, 53, checksum=0).payload(11),
    "padded udp": V4.udp(1000, 53).payload(2).pad(16),
    "udp with wrong checksum": V4.udp(1000, 53, checksum=1).payload(11),
    "ping": V4.icmp(8, id=77, seq=1).payload(8),
    "igmp": V4.protocol(2, bytes([0x16, 0, 0, 0, 224, 0, 0, 9])),
    "empty protocol": V4.protocol(253),
    "udp-lite": V4.protocol(136, bytes([0, 1, 0, 2, 0, 8, 0x12, 0x34])),
    "sctp": V4.sctp(1000, 2000).payload(17),
    "ip options": Packet().eth().ipv4("10.0.0.1", "10.0.0.2", options=b"\x94\4\0\0").udp(5, 6).payload(3),
    "first fragment": Packet().eth().ipv4("10.0.0.1", "10.0.0.2", mf=True).udp(5, 6, length=2000).payload(24),
    "later fragment": Packet().eth().ipv4("10.0.0.1", "10.0.0.2", offset=5, protocol=17).payload(24),
    "arp": Packet().eth().arp("10.0.0.1", "10.0.0.2"),
    "rarp in a vlan": Packet().eth().vlan(9).arp("0.0.0.0", "0.0.0.0", 3, rarp=True),
    "vlan": Packet().eth().vlan(5, pcp=3).ipv4("10.0.0.1", "10.0.0.2").tcp(1, 2, ack=True),
    "qinq": Packet().eth().vlan(5, tpid=0x88A8, dei=1).vlan(6).ipv6("fe80::1", "fe80::2").udp(1, 2),
    "three tags": Packet().eth().vlan(5).vlan(6).vlan(7).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2),
    "llc": Packet().eth().llc().payload(20),
    "snap": Packet().eth().snap().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2),
    "tcp6": V6.tcp(1000, 80, syn=True, window_scale=14),
    "udp6": V6.udp(1000, 53).payload(11),
    "ping6": V6.icmpv6(128, id=78).payload(8),
    "sctp6": V6.sctp(1000, 2000).payload(4),
    "solicit": V6.neighbour_solicit("fe80::7", "02:00:00:00:00:07"),
    "advertise": V6.neighbour_advertise("fe80::7", "02:00:00:00:00:08"),
    "esp6": V6.esp(),
    "mobility": V6.mobility(),
    "chain": V6.hop_by_hop().routing().fragment().authentication().destination_options().tcp(1, 2, ack=True),
    "routed": V6.routing(1, final="2001:db8::77").udp(1, 2).payload(5),
    "first fragment 6": V6.fragment(more=True).udp(1, 2, length=900).payload(32),
    "later fragment 6": V6.fragment(offset=4).payload(32),
    "unreachable": _BACK4.icmp(3, 1).quote(_SENT4.udp(1000, 53).payload(8)),
    "exceeded ping": _BACK4.icmp(11, 0).quote(_SENT4.icmp(8, id=99)),
    "too big": _BACK6.icmpv6(2).quote(_SENT6.hop_by_hop().tcp(1000, 80, ack=True)),
    "unreachable ping6": _BACK6.icmpv6(1).quote(_SENT6.icmpv6(128, id=98)),
    "pppoe": Packet().eth(eth_type=0x8864).payload(40),
}


def mutants(seed: int, n: int) -> list[bytes]:
    """`n` frames: samples with bits flipped, bytes set, cut, extended, spliced. The same for the same seed."""
    chance = random.Random(seed)
    frames = [packet.bytes() for packet in SAMPLES.values()]
    return [_mutate(chance, bytearray(chance.choice(frames)), frames) for _ in range(n)]


def _mutate(chance: random.Random, frame: bytearray, frames: list[bytes]) -> bytes:
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        if not frame:
            break
        kind, place = chance.randrange(6), chance.randrange(len(frame))
        if kind == 0:
            frame[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            frame[place] = chance.choice((0, 1, 5, 0x40, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2:
            del frame[place:]
        elif kind == 3:
            frame += chance.randbytes(chance.randrange(40))
        elif kind == 4:
            frame[min(place, 50) :] = chance.choice(frames)[min(place, 50) :]
        else:
            place = chance.randrange(min(len(frame), 62))
            frame[place] = chance.choice((0, 4, 6, 17, 43, 44, 51, 58, 60, 0x45, 0x46, 0x4F, 0x60))
    return bytes(frame)

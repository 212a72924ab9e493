"""Clients of three kinds and one world of servers, a batch at a time, made with numpy.

Clients sit behind ports 1 (source translated, zone 1), 3 (destination translated, zone 3) and 5 (no translation, zone
5), servers behind port 2. A client's place in the population is its address, so that what comes back tells whose it is.
Connections come and go: a client opens, sends a few packets, closes or falls silent, and opens the next with other
ports. Servers answer most of what they see, to whom it seems to come from. Some packets are damaged, cut into
fragments, answered with ICMP errors, or noise from the beginning.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flowshunt.datapath.schema import SOURCE_BATCH
from flowshunt.packet.schema import PACKET, Batch

WIDTH = 96
"""Bytes of a row; small frames lie in rows of this size."""
BIG = 1536
IN_PORTS = (1, 3, 5)
SERVERS = 2
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16
_SERVER_SEQ = 5000
_V6 = bytes.fromhex("fd00")

RULES = """
table=0,priority=9,arp,actions=normal
table=0,in_port=1,ip,actions=ct(zone=1,nat,table=1)
table=0,in_port=3,ip,actions=ct(zone=3,nat,table=1)
table=0,in_port=5,ip,actions=ct(zone=5,table=1)
table=0,in_port=2,ip,nw_dst=10.9.0.0/16,actions=ct(zone=1,nat,table=1)
table=0,in_port=2,ip,nw_dst=10.3.0.0/16,actions=ct(zone=3,nat,table=1)
table=0,in_port=2,ip,nw_dst=10.5.0.0/16,actions=ct(zone=5,table=1)
table=0,in_port=1,ipv6,actions=ct(zone=1,nat,table=1)
table=0,in_port=3,ipv6,actions=ct(zone=3,nat,table=1)
table=0,in_port=5,ipv6,actions=ct(zone=5,table=1)
table=0,in_port=2,ipv6,ipv6_dst=fd00:9::/32,actions=ct(zone=1,nat,table=1)
table=0,in_port=2,ipv6,ipv6_dst=fd00:3::/32,actions=ct(zone=3,nat,table=1)
table=0,in_port=2,ipv6,ipv6_dst=fd00:5::/32,actions=ct(zone=5,table=1)
table=1,in_port=1,ip,ct_state=+new,actions=ct(commit,zone=1,nat(src=10.9.0.1-10.9.0.8)),output:2
table=1,in_port=3,ip,ct_state=+new,actions=ct(commit,zone=3,nat(dst=10.7.0.1-10.7.0.4)),output:2
table=1,in_port=5,ip,ct_state=+new,actions=ct(commit,zone=5,exec(set_field:7->ct_mark)),output:2
table=1,in_port=1,ipv6,ct_state=+new,actions=ct(commit,zone=1,nat(src=fd00:9::1-fd00:9::8)),output:2
table=1,in_port=3,ipv6,ct_state=+new,actions=ct(commit,zone=3,nat(dst=fd00:7::1-fd00:7::4)),output:2
table=1,in_port=5,ipv6,ct_state=+new,actions=ct(commit,zone=5),output:2
table=1,in_port=1,ct_state=+trk-new-inv,actions=output:2
table=1,in_port=3,ct_state=+trk-new-inv,actions=output:2
table=1,in_port=5,ct_state=+trk-new-inv,actions=output:2
table=1,in_port=2,ct_zone=1,ct_state=+trk-new-inv,actions=output:1
table=1,in_port=2,ct_zone=3,ct_state=+trk-new-inv,actions=output:3
table=1,in_port=2,ct_zone=5,ct_state=+trk-new-inv,actions=output:5
"""


class Group(NamedTuple):
    """Frames of one family and protocol: `rows` uint8 (n, WIDTH) of which the first `size` bytes count."""

    rows: np.ndarray
    family: int
    protocol: int
    in_port: np.ndarray

    @property
    def l4(self) -> int:
        """Where the payload of IP begins."""
        return 34 if self.family == 4 else 54

    @property
    def size(self) -> int:
        """Bytes of each frame."""
        return self.l4 + (20 if self.protocol == TCP else 12)


def put(rows: np.ndarray, at: int, values: Any, kind: str) -> None:
    """Store big-endian integers (n,) in each row."""
    size = np.dtype(kind).itemsize
    column = np.asarray(values).astype(kind)
    rows[:, at : at + size] = column.reshape(-1, 1).view(np.uint8)


def get(rows: np.ndarray, at: int, kind: str) -> np.ndarray:
    """The big-endian integers at one place of each row, int64 (n,)."""
    size = np.dtype(kind).itemsize
    return np.ascontiguousarray(rows[:, at : at + size]).view(kind)[:, 0].astype(np.int64)


def total(rows: np.ndarray) -> np.ndarray:
    """The sum of the 16-bit words of each row, int64 (n,)."""
    return np.ascontiguousarray(rows).view(">u2").sum(axis=1, dtype=np.int64)


def checksum(sums: np.ndarray) -> np.ndarray:
    """The Internet checksum of sums of words."""
    for _ in range(2):
        sums = (sums & 0xFFFF) + (sums >> 16)
    return ~sums & 0xFFFF


def seal(group: Group) -> Group:
    """Fill in lengths and checksums."""
    rows, l4, size = group.rows, group.l4, group.size
    if group.family == 4:
        put(rows, 12, 0x0800, ">u2")
        put(rows, 14, 0x4500, ">u2")
        put(rows, 16, size - 14, ">u2")
        put(rows, 22, 64 << 8 | group.protocol, ">u2")
        put(rows, 24, 0, ">u2")
        put(rows, 24, checksum(total(rows[:, 14:34])), ">u2")
        pseudo = total(rows[:, 26:34])
    else:
        put(rows, 12, 0x86DD, ">u2")
        put(rows, 14, 0x6000, ">u2")
        put(rows, 18, size - 54, ">u2")
        put(rows, 20, group.protocol << 8 | 64, ">u2")
        pseudo = total(rows[:, 22:54])
    if group.protocol == UDP:
        put(rows, l4 + 4, size - l4, ">u2")
    place = l4 + {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}[group.protocol]
    put(rows, place, 0, ">u2")
    sums = total(rows[:, l4:size])
    if group.protocol != ICMP:
        sums = sums + pseudo + group.protocol + size - l4
    value = checksum(sums)
    put(rows, place, np.where(value == 0, 0xFFFF, value) if group.protocol == UDP else value, ">u2")
    return group


def join(groups: list[Group], big: list[tuple[np.ndarray, int, int]], rng: np.random.Generator) -> Batch:
    """A batch of all frames in random order; `big`: rows, frame size and ingress port of others."""
    flat, records, at = [], [], 0
    for rows, size, port in [(g.rows, g.size, g.in_port) for g in groups] + big:
        packets = np.zeros(len(rows), PACKET)
        packets["data"] = at + np.arange(len(rows)) * rows.shape[1]
        packets["length"] = packets["wire_length"] = size
        packets["in_port"] = port
        flat.append(rows.reshape(-1))
        records.append(packets)
        at += rows.size
    flat.append(np.zeros(BIG, np.uint8))
    return Batch(np.concatenate(flat), rng.permutation(np.concatenate(records)))


class Population:
    """The clients; `speak` makes some of them send, `answer` what the servers say to what has arrived."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.size = size
        self.life = np.zeros(size, np.int64)  # which connection of this client it is
        self.phase = np.zeros(size, np.int64)
        index = np.arange(size)
        self.protocol = np.array([TCP, TCP, TCP, UDP, UDP, ICMP])[index % 6]
        self.family = np.where(index // 6 % 4 == 3, 6, 4)
        self.kind = index // 24 % 3

    def speak(self, n: int) -> list[Group]:
        """The next packet of n clients each."""
        chosen = self.rng.choice(self.size, n, replace=False)
        ended = (self.phase[chosen] > 5) | (self.rng.random(n) < 0.02)
        self.life[chosen[ended]] += 1
        self.phase[chosen[ended]] = 0
        groups = []
        for family in (4, 6):
            for protocol in (TCP, UDP, ICMP):
                mine = chosen[(self.family[chosen] == family) & (self.protocol[chosen] == protocol)]
                if len(mine):
                    groups.append(self._packets(mine, family, protocol))
        stays = (self.protocol[chosen] == TCP) & (self.phase[chosen] == 2) & (self.rng.random(n) < 0.7)
        self.phase[chosen[~stays]] += 1
        return groups

    def ports(self, who: np.ndarray) -> np.ndarray:
        """The source port (or identifier) of each one's present connection."""
        return 1024 + (who * 7 + self.life[who] * 13) % 3000

    def _packets(self, who: np.ndarray, family: int, protocol: int) -> Group:
        rows = np.zeros((len(who), WIDTH), np.uint8)
        kind = self.kind[who]
        network = np.array([1, 3, 5])[kind]
        server = who * 31 % 64 + 1
        if family == 4:
            put(rows, 26, 0x0A000000 | network << 16 | who & 0xFFFF, ">u4")
            put(rows, 30, 0x0A080000 | server, ">u4")
        else:
            put(rows, 22, 0xFD000000 | network, ">u4")
            put(rows, 34, who, ">u4")
            put(rows, 38, 0xFD000008, ">u4")
            put(rows, 50, server, ">u4")
        l4 = 34 if family == 4 else 54
        if protocol == ICMP:
            protocol = ICMP if family == 4 else ICMPV6
            put(rows, l4, 0x0800 if family == 4 else 0x8000, ">u2")
            put(rows, l4 + 4, self.ports(who), ">u2")
        else:
            put(rows, l4, self.ports(who), ">u2")
            put(rows, l4 + 2, np.array([80, 443, 53, 5001])[who % 4], ">u2")
        if protocol == TCP:
            phase = self.phase[who]
            flags = np.array([SYN, ACK, ACK, ACK | FIN, ACK, ACK, RST])[phase]
            flags[(self.rng.random(len(who)) < 0.01) & (phase > 1)] = RST
            seq = self.life[who] * 100_003 + who
            seq[phase > 0] += 1
            seq[phase > 3] += 1
            put(rows, l4 + 4, seq & 0xFFFFFFFF, ">u4")
            put(rows, l4 + 8, np.where(flags & ACK, _SERVER_SEQ + 1 + (phase > 3), 0), ">u4")
            put(rows, l4 + 12, 0x5000 | flags, ">u2")
            put(rows, l4 + 14, 8192, ">u2")
        return seal(Group(rows, family, protocol, np.array(IN_PORTS)[kind]))

    def answer(self, left: list[Group]) -> list[Group]:
        """What the servers send back for most of what arrived."""
        answers = []
        for group in left:
            answered = self.rng.random(len(group.rows)) < 0.8
            if group.protocol == TCP:
                answered &= get(group.rows, group.l4 + 12, ">u2") & RST == 0
            rows = group.rows[answered]
            if len(rows):
                answers.append(reply(group._replace(rows=rows)))
        return answers


def reply(group: Group) -> Group:
    """The server's packet for each of the client's."""
    rows, l4 = group.rows.copy(), group.l4
    first, size = (26, 4) if group.family == 4 else (22, 16)
    rows[:, first : first + size] = group.rows[:, first + size : first + 2 * size]
    rows[:, first + size : first + 2 * size] = group.rows[:, first : first + size]
    if group.protocol in (ICMP, ICMPV6):
        rows[:, l4] = 0 if group.protocol == ICMP else 129
    else:
        rows[:, l4 : l4 + 2], rows[:, l4 + 2 : l4 + 4] = group.rows[:, l4 + 2 : l4 + 4], group.rows[:, l4 : l4 + 2]
    if group.protocol == TCP:
        seq, ack, flags = (get(rows, l4 + at, kind) for at, kind in ((4, ">u4"), (8, ">u4"), (12, ">u2")))
        put(rows, l4 + 4, np.where(flags & ACK, ack, _SERVER_SEQ), ">u4")
        put(rows, l4 + 8, (seq + (flags & (SYN | FIN) != 0)) & 0xFFFFFFFF, ">u4")
        put(rows, l4 + 12, 0x5000 | flags & 0x3F | ACK, ">u2")
    return seal(group._replace(rows=rows, in_port=np.full(len(rows), SERVERS)))


def arrived(batch: Batch, result: Any, port: int) -> list[Group]:
    """The small frames that left on a port, by family and protocol; whole packets only."""
    tx = result.tx[result.tx["port"] == port]
    tx = tx[tx["length"] <= WIDTH]
    rows = np.zeros((len(tx), WIDTH), np.uint8)
    for is_batch, data in ((True, batch.data), (False, result.tx_data)):
        mine = (tx["source"] == SOURCE_BATCH) == is_batch
        starts = tx["data"][mine]
        if len(starts) and int(starts.max()) + WIDTH > len(data):
            data = np.concatenate([data, np.zeros(WIDTH, np.uint8)])
        rows[mine] = np.lib.stride_tricks.sliding_window_view(data, WIDTH)[starts]
    kinds, sizes = get(rows, 12, ">u2"), tx["length"].astype(np.int64)
    groups = []
    for family, ethertype, at in ((4, 0x0800, 23), (6, 0x86DD, 20)):
        for protocol in (TCP, UDP, ICMP if family == 4 else ICMPV6):
            group = Group(rows, family, protocol, sizes)
            mine = (kinds == ethertype) & (rows[:, at] == protocol) & (sizes == group.size)
            mine &= rows[:, group.l4] != 3 if protocol == ICMP else True
            if mine.any():
                groups.append(Group(rows[mine], family, protocol, sizes[mine]))
    return groups


def unreachable(group: Group) -> tuple[np.ndarray, int, int]:
    """ICMP port unreachable from outside about IPv4 packets that arrived: rows, size, ingress port."""
    rows = np.zeros((len(group.rows), WIDTH), np.uint8)
    rows[:, 26:30], rows[:, 30:34] = group.rows[:, 30:34], group.rows[:, 26:30]
    put(rows, 12, 0x0800, ">u2")
    put(rows, 14, 0x4500, ">u2")
    put(rows, 16, 56, ">u2")
    put(rows, 22, 64 << 8 | ICMP, ">u2")
    put(rows, 24, checksum(total(rows[:, 14:34])), ">u2")
    rows[:, 42:70] = group.rows[:, 14:42]
    put(rows, 34, 0x0303, ">u2")
    put(rows, 36, checksum(total(rows[:, 34:70])), ">u2")
    return rows, 70, SERVERS


def fragments(n: int, rng: np.random.Generator, identification: int) -> list[tuple[np.ndarray, int, int]]:
    """n UDP datagrams in two fragments each, of clients behind port 1: rows, size and port of either; some lack one."""
    data = np.zeros((n, 8 + 1480 + 200), np.uint8)
    data[:, 8:] = rng.integers(0, 256, (n, 1680))
    put(data, 0, rng.integers(1024, 65536, n), ">u2")
    put(data, 2, 53, ">u2")
    put(data, 4, data.shape[1], ">u2")
    header = np.zeros((n, 34), np.uint8)
    put(header, 12, 0x0800, ">u2")
    put(header, 14, 0x4500, ">u2")
    put(header, 18, (identification + np.arange(n)) & 0xFFFF, ">u2")
    put(header, 22, 64 << 8 | UDP, ">u2")
    put(header, 26, 0x0A010000 | rng.integers(0, 1 << 16, n), ">u4")
    put(header, 30, 0x0A080001, ">u4")
    value = checksum(total(header[:, 26:34]) + UDP + data.shape[1] + total(data))
    put(data, 6, np.where(value == 0, 0xFFFF, value), ">u2")
    pieces = []
    for first, last in ((0, 1480), (1480, data.shape[1])):
        rows = np.zeros((n, BIG), np.uint8)
        rows[:, :34] = header
        put(rows, 16, 20 + last - first, ">u2")
        put(rows, 20, (0x2000 if last < data.shape[1] else 0) | first >> 3, ">u2")
        put(rows, 24, checksum(total(rows[:, 14:34])), ">u2")
        rows[:, 34 : 34 + last - first] = data[:, first:last]
        pieces.append((rows[rng.random(n) < 0.9], 34 + last - first, 1))
    return pieces


def damage(group: Group, rng: np.random.Generator) -> None:
    """Change some bits of some frames."""
    n = len(group.rows)
    hit = np.flatnonzero(rng.random(n) < 0.01)
    group.rows[hit, rng.integers(0, group.size, len(hit))] ^= (1 << rng.integers(0, 8, len(hit))).astype(np.uint8)


def noise(n: int, rng: np.random.Generator) -> tuple[np.ndarray, int, int]:
    """Frames of random bytes, half of which claim to be IP."""
    rows = rng.integers(0, 256, (n, WIDTH)).astype(np.uint8)
    rows[: n // 2, 12:15] = 0x08, 0x00, 0x45
    return rows, WIDTH - int(rng.integers(0, 80)), 1

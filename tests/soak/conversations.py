"""Short TCP connections in bulk, from both ends at once: raw frames, whole groups of connections at a time.

Connection k comes from 10.64.0.0 + k // PORTS, port 1024 + k % PORTS, so that no two of ten million are alike. A group
passes five stages: SYN, SYN+ACK, FIN with a request, FIN, ACK. A stage is sent when the one before has arrived, several
groups are under way.
"""

from __future__ import annotations

import struct
import time
from typing import NamedTuple

import numpy as np

from flowshunt.packet.schema import PACKET, TX, Batch
from flowshunt.ports.af_packet import AfPacketPort
from flowshunt.ports.live import VNET_WORDS, Frames, LiveBatch

PORTS = 60_000
GROUP = 256
"""Connections."""
LAG = 2
"""Rounds between two stages of a group. What may be under way at a port must fit into its ring."""
PATIENCE_S = 60.0

_PAUSE_S = 0.0002
_FIRST_PORT = 1024
_CLIENTS = 10 << 24 | 64 << 16
_SERVER, _SERVER_PORT = 10 << 24 | 200 << 16 | 1, 80
_CLIENT_MAC, _SERVER_MAC = b"\2\0\0\0\1\1", b"\2\0\0\0\1\2"
_SIZE = 60
_FIN, _SYN, _ACK = 0x01, 0x02, 0x10


class Stage(NamedTuple):
    """One packet of every connection."""

    is_reply: bool
    flags: int
    sequence: int
    acknowledged: int


STAGES = (
    Stage(False, _SYN, 1000, 0),
    Stage(True, _SYN | _ACK, 5000, 1001),
    Stage(False, _FIN | _ACK, 1001, 5001),
    Stage(True, _FIN | _ACK, 5001, 1002),
    Stage(False, _ACK, 1002, 5002),
)
"""A short life."""
OPENING = (*STAGES[:2], Stage(False, _ACK, 1001, 5001), Stage(True, _ACK, 5001, 1001))
"""A connection is established, and both directions have shown where they go."""
STANDING = OPENING[2:]
"""Segments of an established connection."""


class Frame:
    """The frames of one stage; made once, and filled in for each group."""

    def __init__(self, stage: Stage) -> None:
        macs = _CLIENT_MAC + _SERVER_MAC if stage.is_reply else _SERVER_MAC + _CLIENT_MAC
        header = struct.pack(">BBHHHBBHII", 0x45, 0, 40, 0, 0, 64, 6, 0, 0, 0)
        tcp = struct.pack(">HHIIBBHHH", 0, 0, stage.sequence, stage.acknowledged, 0x50, stage.flags, 65535, 0, 0)
        plain = (macs + b"\x08\x00" + header + tcp).ljust(_SIZE, b"\0")
        self.rows = np.tile(np.frombuffer(plain, np.uint8), (GROUP, 1))
        # Places of the client's address and port, and of the server's.
        client, client_port, server, server_port = (30, 36, 26, 34) if stage.is_reply else (26, 34, 30, 36)
        self._client, self._client_port = client, client_port
        self.rows[:, server : server + 4] = np.frombuffer(struct.pack(">I", _SERVER), np.uint8)
        self.rows[:, server_port : server_port + 2] = np.frombuffer(struct.pack(">H", _SERVER_PORT), np.uint8)
        words = self.rows[0, 14:54].view(">u2").astype(np.int64)
        self._ip_total = int(words[:10].sum())
        self._tcp_total = int(words[6:].sum()) + 6 + 20  # the addresses are in both

    def fill(self, first: int) -> np.ndarray:
        """The frames of connections [first, first + GROUP), end to end."""
        numbers = first + np.arange(GROUP)
        address, port = _CLIENTS + numbers // PORTS, _FIRST_PORT + numbers % PORTS
        parts = (address >> 16) + (address & 0xFFFF)
        self._put(self._client, address >> 16)
        self._put(self._client + 2, address & 0xFFFF)
        self._put(self._client_port, port)
        self._put(24, _checksum(self._ip_total + parts))
        self._put(50, _checksum(self._tcp_total + parts + port))
        return self.rows.reshape(-1)

    def _put(self, at: int, values: np.ndarray) -> None:
        self.rows[:, at : at + 2] = values.astype(">u2").view(np.uint8).reshape(-1, 2)


def _checksum(total: np.ndarray) -> np.ndarray:
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


class End:
    """One host's device: what was sent there, and what has arrived."""

    def __init__(self) -> None:
        self.port = AfPacketPort("eth0", 1)
        self.sent = self.arrived = self.strange = 0
        tx = np.zeros(GROUP, TX)
        tx["data"], tx["length"], tx["port"], tx["source"] = np.arange(GROUP) * _SIZE, _SIZE, 1, 1
        self._tx = tx
        nothing = np.zeros((1, VNET_WORDS), np.uint16)
        self._received = LiveBatch(Batch(np.zeros(_SIZE, np.uint8), np.zeros(1, PACKET)), nothing)

    def send(self, rows: np.ndarray) -> None:
        self.port.send(Frames(self._received, self._tx, rows))
        self.sent += GROUP

    def receive(self) -> bool:
        """Count what has come; whether anything had."""
        batch = self.port.receive(0)
        if batch is None:
            return False
        data, at = batch.batch.data, batch.batch.packets["data"].astype(np.int64)
        # TCP to or from the server
        ours = (data[at + 23] == 6) & ((data[at + 27] == 200) | (data[at + 31] == 200)) & (data[at + 12] == 8)
        n = int(ours.sum())
        self.arrived += n
        self.strange += len(at) - n
        self.port.release()
        return True


class Conversations:
    """Both ends."""

    def __init__(self, client: End, server: End, stages: tuple[Stage, ...] = STAGES) -> None:
        self.client, self.server = client, server
        self.stages = stages
        self.frames = [Frame(stage) for stage in stages]
        self._before: list[tuple[int, int]] = []

    def run(self, n_groups: int) -> None:
        """All groups, to the end. Raises TimeoutError when packets get lost."""
        for number in range(self.n_rounds(n_groups)):
            self.round(number, n_groups)
        self.finish()

    def n_rounds(self, n_groups: int) -> int:
        """Rounds that so many groups take."""
        return n_groups + LAG * (len(self.stages) - 1) + 1

    def round(self, number: int, n_groups: int) -> None:
        """Begin group `number`, and take those before it one stage further.

        Raises TimeoutError when packets get lost.
        """
        if len(self._before) == LAG:
            self._wait(*self._before.pop(0))
        for k, (stage, frame) in enumerate(zip(self.stages, self.frames, strict=True)):
            group = number - LAG * k
            if 0 <= group < n_groups:
                (self.server if stage.is_reply else self.client).send(frame.fill(group * GROUP))
        self._before.append((self.client.sent, self.server.sent))
        self.take()

    def take(self) -> bool:
        """Count what has come at either end; whether anything had."""
        before = self.client.arrived + self.server.arrived
        for end in (self.client, self.server):
            while end.receive():
                pass
        return self.client.arrived + self.server.arrived != before

    def finish(self) -> None:
        """Until all has arrived."""
        for sent in self._before:
            self._wait(*sent)
        self._before = []

    def _wait(self, from_client: int, from_server: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.server.arrived < from_client or self.client.arrived < from_server:
            if not self.take():
                time.sleep(_PAUSE_S)  # the processor is the switch's
            if time.monotonic() > deadline:
                missing = from_client - self.server.arrived, from_server - self.client.arrived
                raise TimeoutError(f"lost on their way: {missing[0]} packets there, {missing[1]} back")

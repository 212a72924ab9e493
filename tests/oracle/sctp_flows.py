"""SCTP associations for conversations: handshakes, data, heartbeats, ends, and everything slightly wrong."""

from __future__ import annotations

import random
import struct
from collections import deque

from tests.oracle.nf_sctp import (
    ABORT,
    COOKIE_ACK,
    COOKIE_ECHO,
    DATA,
    ERROR,
    HEARTBEAT,
    HEARTBEAT_ACK,
    INIT,
    INIT_ACK,
    SACK,
    SHUTDOWN,
    SHUTDOWN_ACK,
    SHUTDOWN_COMPLETE,
)

KINDS = (
    DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK,
    SHUTDOWN_COMPLETE, 12, 15, 64, 255,
)  # fmt: skip


def chunk(kind: int, body: bytes = b"", flags: int = 0, length: int | None = None) -> bytes:
    """A chunk with its padding; `length` tells a lie."""
    size = 4 + len(body) if length is None else length
    return struct.pack("!BBH", kind, flags, size) + body + bytes(-len(body) % 4)


def init(kind: int, tag: int) -> bytes:
    """INIT or INIT-ACK."""
    return chunk(kind, struct.pack("!IIHHI", tag, 65535, 1, 1, 1))


def message(ports: tuple[int, int], tag: int, *chunks: bytes) -> bytes:
    """An SCTP packet without its checksum."""
    return struct.pack("!HHII", *ports, tag, 0) + b"".join(chunks)


class SctpFlow:
    """Two ends that talk. `tags[d]` is what packets of direction d must carry."""

    def __init__(self, random: random.Random, ports: tuple[int, int]) -> None:
        self.random, self.ports = random, ports
        self.script: deque[tuple[int, int]] = deque()
        self.restart()

    def restart(self) -> None:
        """New tags, and a new course of events."""
        r = self.random
        self.tags = [r.choice((0, 1, 2, r.getrandbits(32))) if r.random() < 0.2 else r.getrandbits(32) for _ in "01"]
        self.script.clear()
        self.script += self.opening()
        self.script += [(r.randrange(2), r.choice((DATA, DATA, SACK, HEARTBEAT, HEARTBEAT_ACK))) for _ in range(4)]
        self.script += self.ending()

    def opening(self) -> list[tuple[int, int]]:
        r = self.random.random()
        if r < 0.6:
            return [(0, INIT), (1, INIT_ACK), (0, COOKIE_ECHO), (1, COOKIE_ACK)]
        if r < 0.7:
            return [(0, INIT), (1, INIT), (0, INIT_ACK), (1, INIT_ACK), (1, COOKIE_ECHO), (0, COOKIE_ACK)]
        if r < 0.8:
            return [(0, INIT), (0, INIT), (1, ABORT)]
        if r < 0.95:
            return [(0, HEARTBEAT), (1, HEARTBEAT_ACK), (0, DATA), (1, DATA)]
        return []

    def ending(self) -> list[tuple[int, int]]:
        r, d = self.random.random(), self.random.randrange(2)
        if r < 0.5:
            return [(d, SHUTDOWN), (1 - d, SHUTDOWN_ACK), (d, SHUTDOWN_COMPLETE)]
        return [(d, ABORT)] if r < 0.7 else [(0, INIT)]

    def next(self) -> tuple[int, bytes]:
        """Direction and packet, its checksum zero."""
        r = self.random
        if r.random() < 0.15:
            return self.odd()
        if not self.script:
            self.restart()
        if not self.script:
            return self.odd()
        d, kind = self.script.popleft()
        tag = 0 if kind == INIT else self.tags[d]
        flags = 0
        if kind in (ABORT, SHUTDOWN_COMPLETE) and r.random() < 0.5:
            flags, tag = 1, self.tags[1 - d]
        chunks = [
            init(kind, self.tags[1 - d]) if kind in (INIT, INIT_ACK) else chunk(kind, bytes(r.choice((0, 1, 8))), flags)
        ]
        if kind in (COOKIE_ECHO, COOKIE_ACK, DATA, SACK, HEARTBEAT) and r.random() < 0.3:
            chunks.append(chunk(r.choice((DATA, SACK, HEARTBEAT, ERROR)), bytes(5)))
        return d, message(self.turned(d), tag, *chunks)

    def odd(self) -> tuple[int, bytes]:
        """A packet that fits little, or not at all."""
        r, d = self.random, self.random.randrange(2)
        tag = r.choice((0, self.tags[d], self.tags[1 - d], self.tags[d] ^ 1))
        chunks = []
        for _ in range(r.choice((0, 1, 1, 1, 2, 3))):
            kind = r.choice(KINDS)
            length = r.choice((None,) * 6 + (0, 1, 3, 5, 65535))
            body = (
                struct.pack("!I", r.choice((*self.tags, 7))) + bytes(12) if r.random() < 0.7 else bytes(r.randrange(9))
            )
            chunks.append(chunk(kind, body, r.randrange(2), length))
        return d, message(self.turned(d), tag, *chunks) + bytes(r.choice((0, 0, 0, 1, 3)))

    def turned(self, d: int) -> tuple[int, int]:
        return self.ports if d == 0 else (self.ports[1], self.ports[0])

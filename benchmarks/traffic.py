"""Frames in bulk, made with numpy: millions of flows, checksums right."""

from __future__ import annotations

import numpy as np

from flowshunt.packet.schema import PACKET, PROTO_TCP, PROTO_UDP, Batch

SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10
CLIENT_SEQ, SERVER_SEQ = 1000, 5000
STRIDE = 64
"""Bytes from one frame to the next."""

_SERVER = 0x0A800001
_SERVER_PORT = 80


def flows(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Client addresses (uint32) and ports (uint16) of `n` different flows, many clients of one server."""
    index = np.arange(n)
    return (0x0A000001 + index // 50).astype(np.uint32), (1024 + index % 50 * 7).astype(np.uint16)


def frames(
    proto: int, clients: np.ndarray, ports: np.ndarray, *, reply: bool = False, flags: int = ACK, first: bool = False
) -> Batch:
    """One minimal IPv4 frame per flow, client to server or, with `reply`, back; TCP numbers fit the handshake.

    `first`: the TCP sequence number is that of the SYN. Times are all 0.
    """
    n = len(clients)
    servers, server_ports = np.full(n, _SERVER, np.uint32), np.full(n, _SERVER_PORT, np.uint16)
    data = np.zeros((n, STRIDE), np.uint8)
    data[:, 0:6], data[:, 6:12] = (0x02, 0x03) if not reply else (0x03, 0x02)
    data[:, 0] &= 0xFE
    data[:, 6] &= 0xFE
    data[:, 12] = 0x08
    l4_size = 20 if proto == PROTO_TCP else 8
    data[:, 14], data[:, 17], data[:, 22], data[:, 23] = 0x45, 20 + l4_size, 64, proto
    pairs = [(clients, ports), (servers, server_ports)]
    (source, source_port), (destination, destination_port) = reversed(pairs) if reply else pairs
    _put(data, 26, source.astype(">u4"))
    _put(data, 30, destination.astype(">u4"))
    _put(data, 34, source_port.astype(">u2"))
    _put(data, 36, destination_port.astype(">u2"))
    if proto == PROTO_UDP:
        data[:, 39] = 8
    else:
        own, other = (SERVER_SEQ, CLIENT_SEQ) if reply else (CLIENT_SEQ, SERVER_SEQ)
        _put(data, 38, np.full(n, own if first else own + 1, ">u4"))
        _put(data, 42, np.full(n, other + 1 if flags & 0x10 else 0, ">u4"))
        data[:, 46], data[:, 47], data[:, 48] = 0x50, flags, 0x20
    _put(data, 24, _checksum(data[:, 14:34], 0))
    pseudo = _sum(data[:, 26:34]) + proto + l4_size
    _put(data, 40 if proto == PROTO_UDP else 50, _checksum(data[:, 34 : 34 + l4_size], pseudo))
    packets = np.zeros(n, PACKET)
    packets["data"] = np.arange(n) * STRIDE
    packets["length"] = packets["wire_length"] = 34 + l4_size
    packets["in_port"] = 2 if reply else 1
    return Batch(data.reshape(-1), packets)


def select(batch: Batch, order: np.ndarray) -> Batch:
    """The frames of a batch in another order, possibly several times, as a batch of its own."""
    data = batch.data.reshape(-1, STRIDE)[order]
    packets = batch.packets[order]
    packets["data"] = np.arange(len(order)) * STRIDE
    return Batch(data.reshape(-1), packets)


def _put(data: np.ndarray, at: int, column: np.ndarray) -> None:
    data[:, at : at + column.itemsize] = column.view(np.uint8).reshape(len(column), -1)


def _sum(part: np.ndarray) -> np.ndarray:
    words = part.reshape(len(part), -1, 2).astype(np.uint64)
    return ((words[:, :, 0] << 8) + words[:, :, 1]).sum(axis=1)


def _checksum(part: np.ndarray, initial: np.ndarray | int) -> np.ndarray:
    total = _sum(part) + np.uint64(initial) if isinstance(initial, int) else _sum(part) + initial
    for _ in range(3):
        total = (total & np.uint64(0xFFFF)) + (total >> np.uint64(16))
    return (~total & np.uint64(0xFFFF)).astype(">u2")

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
    client = clients, ports
    server = np.full(n, _SERVER, np.uint32), np.full(n, _SERVER_PORT, np.uint16)
    own, other = (SERVER_SEQ, CLIENT_SEQ) if reply else (CLIENT_SEQ, SERVER_SEQ)
    seq, ack = own if first else own + 1, other + 1 if flags & 0x10 else 0
    source, destination = (server, client) if reply else (client, server)
    return tuples(proto, *source, *destination, seq=seq, ack=ack, flags=flags, in_port=2 if reply else 1)


def tuples(
    proto: int, source: np.ndarray, source_port: np.ndarray, destination: np.ndarray, destination_port: np.ndarray, *,
    seq: int = CLIENT_SEQ, ack: int = 0, flags: int = SYN, in_port: int = 1,
) -> Batch:  # fmt: skip
    """One minimal IPv4 frame of UDP or TCP for each tuple; addresses and ports are integers of shape (n,)."""
    n = len(source)
    data = np.zeros((n, STRIDE), np.uint8)
    data[:, 0:6], data[:, 6:12] = (0x02, 0x03) if in_port == 1 else (0x03, 0x02)
    data[:, 0] &= 0xFE
    data[:, 6] &= 0xFE
    data[:, 12] = 0x08
    l4_size = 20 if proto == PROTO_TCP else 8
    data[:, 14], data[:, 17], data[:, 22], data[:, 23] = 0x45, 20 + l4_size, 64, proto
    _put(data, 26, source.astype(">u4"))
    _put(data, 30, destination.astype(">u4"))
    _put(data, 34, source_port.astype(">u2"))
    _put(data, 36, destination_port.astype(">u2"))
    if proto == PROTO_UDP:
        data[:, 39] = 8
    else:
        _put(data, 38, np.full(n, seq, ">u4"))
        _put(data, 42, np.full(n, ack, ">u4"))
        data[:, 46], data[:, 47], data[:, 48] = 0x50, flags, 0x20
    _put(data, 24, _checksum(data[:, 14:34], 0))
    pseudo = _sum(data[:, 26:34]) + proto + l4_size
    _put(data, 40 if proto == PROTO_UDP else 50, _checksum(data[:, 34 : 34 + l4_size], pseudo))
    return rows(data, 34 + l4_size, in_port)


def rows(data: np.ndarray, size: int, in_port: int) -> Batch:
    """The first `size` bytes of each row of `data`, uint8 (n, m), as a frame."""
    packets = np.zeros(len(data), PACKET)
    packets["data"] = np.arange(len(data)) * data.shape[1]
    packets["length"] = packets["wire_length"] = size
    packets["in_port"] = in_port
    return Batch(data.reshape(-1), packets)


def fill_ipv4_checksum(data: np.ndarray) -> None:
    """Compute the checksums of the 20-byte IPv4 headers behind the Ethernet headers of `data`, uint8 (n, m)."""
    data[:, 24:26] = 0
    _put(data, 24, _checksum(data[:, 14:34], 0))


def unreachable(quoted: Batch, in_port: int) -> Batch:
    """ICMP port unreachable about each frame of `tuples`, from its destination to its source."""
    inner = quoted.data.reshape(-1, STRIDE)[:, 14:42]
    data = np.zeros((len(inner), 80), np.uint8)
    data[:, 0:6], data[:, 6:12] = (0x02, 0x02) if in_port == 1 else (0x03, 0x02)
    data[:, 0] &= 0xFE
    data[:, 12] = 0x08
    data[:, 14], data[:, 17], data[:, 22], data[:, 23] = 0x45, 56, 64, 1
    data[:, 26:30], data[:, 30:34] = inner[:, 16:20], inner[:, 12:16]
    data[:, 34], data[:, 35] = 3, 3
    data[:, 42:70] = inner
    fill_ipv4_checksum(data)
    _put(data, 36, _checksum(data[:, 34:70], 0))
    return rows(data, 70, in_port)


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

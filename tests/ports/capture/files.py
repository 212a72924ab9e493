"""Captures as bytes, written field by field: what the readers are tested with knows nothing of the writers."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from flowshunt.ports.capture import open_capture

ETHERNET = 1
LITTLE, BIG = "<", ">"


class Read(NamedTuple):
    """A packet as a test sees it."""

    frame: bytes
    time_ns: int
    wire_length: int
    in_port: int


def pcap_header(
    order: str = LITTLE, magic: int = 0xA1B2C3D4, link_type: int = ETHERNET, snap_length: int = 65535
) -> bytes:
    return struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap_length, link_type)


def pcap_record(
    frame: bytes, seconds: int = 1, fraction: int = 0, wire: int | None = None, order: str = LITTLE
) -> bytes:
    return struct.pack(order + "IIII", seconds, fraction, len(frame), len(frame) if wire is None else wire) + frame


def pcap(frames: Iterable[bytes], link_type: int = ETHERNET, order: str = LITTLE) -> bytes:
    """A classic pcap; packet n at second n."""
    records = (pcap_record(frame, n, order=order) for n, frame in enumerate(frames))
    return pcap_header(order, link_type=link_type) + b"".join(records)


def block(kind: int, body: bytes, order: str = LITTLE) -> bytes:
    body += bytes(-len(body) % 4)
    size = len(body) + 12
    return struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size)


def section(order: str = LITTLE, options: bytes = b"", version: int = 1) -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, version, 0, -1) + options, order)


def option(code: int, value: bytes, order: str = LITTLE) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(link_type: int = ETHERNET, snap_length: int = 0, options: bytes = b"", order: str = LITTLE) -> bytes:
    return block(1, struct.pack(order + "HHI", link_type, 0, snap_length) + options, order)


def enhanced(
    frame: bytes, ticks: int = 0, number: int = 0, wire: int | None = None, options: bytes = b"", order: str = LITTLE
) -> bytes:
    wire = len(frame) if wire is None else wire
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), wire)
    return block(6, head + frame + bytes(-len(frame) % 4) + options, order)


def old_packet(frame: bytes, ticks: int = 0, number: int = 0, order: str = LITTLE) -> bytes:
    head = struct.pack(order + "HHIIII", number, 7, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(2, head + frame, order)


def simple(frame: bytes, wire: int | None = None, order: str = LITTLE) -> bytes:
    return block(3, struct.pack(order + "I", len(frame) if wire is None else wire) + frame, order)


def read_all(path: Path, limit: int = 64, in_port: int = 0) -> list[Read]:
    """Every packet of a capture, copied out of its batch. Raises what the reader raises."""
    with open_capture(path, in_port) as reader:
        return [packet for batch in reader.batches(limit) for packet in packets_of(batch)]


def packets_of(batch: tuple) -> list[Read]:
    data, records = batch
    return [
        Read(data[at : at + length].tobytes(), time_ns, wire, in_port)
        for at, length, time_ns, wire, in_port in zip(
            *(records[name].tolist() for name in ("data", "length", "time_ns", "wire_length", "in_port")), strict=True
        )
    ]


def frames(reads: Sequence[Read]) -> list[bytes]:
    return [read.frame for read in reads]


def written(folder: Path, content: bytes, name: str = "capture") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path

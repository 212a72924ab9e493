"""Classic pcap: a header, then records of 16 bytes and the packet. Source: draft-ietf-opsawg-pcap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flowshunt.jit import kernel
from flowshunt.packet.schema import PACKET
from flowshunt.ports.capture.linktypes import place
from flowshunt.ports.capture.scan import (
    CLOCK_MULTIPLY,
    INTERFACE,
    LARGEST_PACKET,
    NS_PER_SECOND,
    SCAN,
    STOP_DAMAGE,
    STOP_DATA,
    STOP_LIMIT,
    load32,
)

HEADER_SIZE = 24
RECORD_SIZE = 16
MICROSECONDS = 0xA1B2C3D4
NANOSECONDS = 0xA1B23C4D
_MODIFIED = 0xA1B2CD34
_LINK_TYPE_BITS = 0x03FFFFFF  # the others tell the length of the frame check sequence

PROBLEMS: Sequence[tuple[str, str]] = (("packet record of {} bytes", f"at most {LARGEST_PACKET}"),)


class Header(NamedTuple):
    """What the file header says."""

    little: bool
    tick_ns: int
    version: tuple[int, int]
    snap_length: int
    link_type: int


def magic_of(start: bytes) -> tuple[bool, int] | None:
    """(little-endian?, magic number) when the first four bytes are a classic pcap's, modified ones included."""
    for little in (True, False):
        magic = int.from_bytes(start[:4], "little" if little else "big")
        if magic in (MICROSECONDS, NANOSECONDS, _MODIFIED):
            return little, magic
    return None


def parse_header(data: bytes) -> Header:
    """Parse the 24 bytes of the file header. The snap length is only told: writers put anything there, 0 and 2**32 - 1
    included, and each record's own length is checked. Raises ValueError (text: problem, what was expected) for a
    version or variant that can't be read."""
    found = magic_of(data)
    if found is None or found[1] == _MODIFIED:
        raise ValueError("a modified pcap (24-byte record headers)", "magic number a1b2c3d4 or a1b23c4d")
    little, magic = found
    order = "<" if little else ">"
    major, minor = np.frombuffer(data, order + "u2", 2, 4).tolist()
    _, _, snap_length, network = np.frombuffer(data, order + "u4", 4, 8).tolist()
    if major != 2:
        raise ValueError(f"pcap version {major}.{minor}", "version 2.4")
    tick_ns = 1 if magic == NANOSECONDS else 1000
    return Header(little, tick_ns, (major, minor), snap_length, network & _LINK_TYPE_BITS)


def interface_of(header: Header, kind: int) -> np.ndarray:
    """INTERFACE records of shape (1,) for the file's one interface."""
    interfaces = np.zeros(1, INTERFACE)
    interfaces["kind"], interfaces["link_type"], interfaces["snap_length"] = kind, header.link_type, header.snap_length
    interfaces["clock"], interfaces["factor"] = CLOCK_MULTIPLY, header.tick_ns
    return interfaces


@kernel(
    example=lambda: (
        np.zeros(64, np.uint8), np.zeros(1, SCAN), np.zeros(1, INTERFACE), np.zeros(1, PACKET), np.int64(1)
    )
)  # fmt: skip
def scan_pcap(data: Any, scan: Any, interfaces: Any, packets: Any, limit: Any) -> Any:
    """Fill `packets` with the next records of the window, at most `limit`; returns how many.

    `data`: uint8 window; `scan`: SCAN (1,), its position, stop, need, problem, value and time_ns are changed;
    `interfaces`: INTERFACE (1,), its n_packets is changed; `packets`: PACKET, at least `limit`, only the port's part is
    written. Link headers in `data` are overwritten (`linktypes.place`).
    """
    little = scan["little"][0]
    end = scan["end"][0]
    kind = interfaces["kind"][0]
    factor = interfaces["factor"][0]
    at = scan["position"][0]
    stop = STOP_LIMIT
    n = np.int64(0)
    while n < limit:
        if end - at < RECORD_SIZE:
            stop, scan["need"][0] = STOP_DATA, RECORD_SIZE
            break
        length = load32(data, at + 8, little)
        if length > LARGEST_PACKET:
            stop, scan["problem"][0], scan["value"][0] = STOP_DAMAGE, 0, length
            break
        if end - at - RECORD_SIZE < length:
            stop, scan["need"][0] = STOP_DATA, RECORD_SIZE + length
            break
        packets["time_ns"][n] = load32(data, at, little) * NS_PER_SECOND + load32(data, at + 4, little) * factor
        packets["in_port"][n] = scan["in_port"][0]
        packets["gso_size"][n] = 0
        packets["gso_type"][n] = 0
        packets["checksum"][n] = 0
        place(data, packets, n, at + RECORD_SIZE, length, load32(data, at + 12, little), kind)
        at += RECORD_SIZE + length
        n += 1
    scan["position"][0] = at
    scan["stop"][0] = stop
    interfaces["n_packets"][0] += n
    return n

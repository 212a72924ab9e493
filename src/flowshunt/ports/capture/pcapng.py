"""pcapng: sections of blocks. Packet blocks are scanned by a kernel, section and interface blocks parsed here, all
others passed over. Source: draft-ietf-opsawg-pcapng."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from flowshunt.jit import kernel
from flowshunt.packet.schema import PACKET
from flowshunt.ports.capture.linktypes import KIND_UNKNOWN, KINDS, place
from flowshunt.ports.capture.scan import (
    INTERFACE,
    LARGEST_PACKET,
    SCAN,
    STOP_BLOCK,
    STOP_DAMAGE,
    STOP_DATA,
    STOP_LIMIT,
    clock_of,
    load16,
    load32,
    ticks_to_ns,
)

SECTION_BLOCK = 0x0A0D0D0A
INTERFACE_BLOCK = 1
OLD_PACKET_BLOCK = 2
SIMPLE_PACKET_BLOCK = 3
ENHANCED_PACKET_BLOCK = 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
OPTION_IF_NAME = 2
OPTION_IF_TSRESOL = 9
OPTION_IF_TSOFFSET = 14

LARGEST_BLOCK = 2 * LARGEST_PACKET
"""Larger packet, section and interface blocks are damage; other blocks may have any size."""
LARGEST_INTERFACES = 4096
_SMALLEST_SECTION = 28
_SMALLEST_INTERFACE = 20
_LARGEST_NAME = 256  # bytes kept of an interface's name
_DEFAULT_RESOLUTION = 6  # microseconds

_P_LENGTH, _P_LARGE, _P_TRAILER, _P_PACKET, _P_INTERFACE, _P_ORDER, _P_SMALL = range(7)
PROBLEMS: Sequence[tuple[str, str]] = (
    ("block length {}", "a multiple of 4, at least 12"),
    ("packet, section or interface block of {} bytes", f"at most {LARGEST_BLOCK}"),
    ("block that ends with another length ({})", "the length that it begins with"),
    ("captured length {} in a packet block", f"no more than the block holds, and at most {LARGEST_PACKET}"),
    ("packet of interface {}", "an interface described before it in this section"),
    ("byte-order magic {:#010x}", f"{BYTE_ORDER_MAGIC:#010x} in either order"),
    ("block too short for its type ({} bytes)", "room for its fixed fields"),
)


class Interface(NamedTuple):
    """An interface block: what is needed of it."""

    link_type: int
    snap_length: int
    name: str
    resolution: int
    offset_s: int


def is_pcapng(start: bytes) -> bool:
    """Whether the first four bytes are a section's; they read the same in both byte orders."""
    return start[:4] == b"\x0a\x0d\x0d\x0a"


def parse_section(block: bytes) -> bool:
    """Parse a section header block of checked length; returns whether the section is little-endian.

    Raises ValueError (problem, what was expected) for a version that can't be read.
    """
    little = block[8:12] == struct.pack("<I", BYTE_ORDER_MAGIC)
    major, minor = struct.unpack_from("<HH" if little else ">HH", block, 12)
    if major != 1:
        raise ValueError(f"pcapng version {major}.{minor}", "version 1.0")
    return little


def parse_interface(block: bytes, little: bool) -> Interface:
    """Parse an interface description block of checked length. Raises ValueError (problem, what was expected) when an
    option overruns the block or has a length that its kind can't have."""
    order = "<" if little else ">"
    link_type, _, snap_length = struct.unpack_from(order + "HHI", block, 8)
    name, resolution, offset_s = "", _DEFAULT_RESOLUTION, 0
    for code, value in _options(block[16:-4], order):
        if code == OPTION_IF_NAME:
            name = value[:_LARGEST_NAME].rstrip(b"\0").decode("utf-8", "replace")
        elif code == OPTION_IF_TSRESOL:
            (resolution,) = _unpack("B", value, "if_tsresol")
        elif code == OPTION_IF_TSOFFSET:
            (offset_s,) = _unpack(order + "q", value, "if_tsoffset")
    return Interface(link_type, snap_length, name, resolution, offset_s)


def _unpack(form: str, value: bytes, name: str) -> tuple[Any, ...]:
    size = struct.calcsize(form)
    if len(value) != size:
        raise ValueError(f"option {name} of {len(value)} bytes", f"{size}")
    return struct.unpack(form, value)


def _options(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    while len(data) - at >= 4:
        code, size = struct.unpack_from(order + "HH", data, at)
        if code == 0:
            return
        at += 4
        if size > len(data) - at:
            raise ValueError(f"option {code} of {size} bytes in the {len(data) - at} that are left", "a shorter option")
        yield code, data[at : at + size]
        at += size + -size % 4


def fill_interface(interfaces: np.ndarray, j: int, interface: Interface) -> None:
    """Write INTERFACE record `j`."""
    clock, factor, largest, offset_ns = clock_of(interface.resolution, interface.offset_s)
    kind = KINDS.get(interface.link_type, KIND_UNKNOWN)
    interfaces[j] = (kind, interface.link_type, interface.snap_length, clock, factor, largest, offset_ns, 0)


@kernel
def _damaged(scan: Any, problem: Any, value: Any) -> Any:
    scan["problem"][0] = problem
    scan["value"][0] = value
    return STOP_DAMAGE


@kernel
def _wants(scan: Any, need: Any) -> Any:
    scan["need"][0] = need
    return STOP_DATA


@kernel
def _goes_to_python(block_type: Any) -> Any:
    return block_type in (SECTION_BLOCK, INTERFACE_BLOCK)


@kernel
def _has_packet(block_type: Any) -> Any:
    return block_type in (ENHANCED_PACKET_BLOCK, SIMPLE_PACKET_BLOCK, OLD_PACKET_BLOCK)


@kernel
def _check_block(data: Any, scan: Any, at: Any, block_type: Any, little: Any) -> Any:
    """Check the frame of the block at `at`; STOP_LIMIT when it is whole and in the window."""
    left = scan["end"][0] - at
    size = load32(data, at + 4, little)
    if size < 12 or size & 3 != 0:
        return _damaged(scan, _P_LENGTH, size)
    if size > LARGEST_BLOCK:
        if _has_packet(block_type) or _goes_to_python(block_type):
            return _damaged(scan, _P_LARGE, size)
        scan["skip"][0] = size
        return STOP_LIMIT
    if left < size:
        return _wants(scan, size)
    trailer = load32(data, at + size - 4, little)
    if trailer != size:
        return _damaged(scan, _P_TRAILER, trailer)
    if not _has_packet(block_type) and not _goes_to_python(block_type):
        scan["skip"][0] = size
    return STOP_LIMIT


@kernel
def _section_order(data: Any, scan: Any, at: Any) -> Any:
    """Set `little` to the order of the section that begins at `at`; False when its magic is damaged."""
    if load32(data, at + 8, True) == BYTE_ORDER_MAGIC:
        scan["little"][0] = 1
        return True
    if load32(data, at + 8, False) == BYTE_ORDER_MAGIC:
        scan["little"][0] = 0
        return True
    _damaged(scan, _P_ORDER, load32(data, at + 8, False))
    return False


@kernel
def _take_packet(data: Any, scan: Any, interfaces: Any, packets: Any, n: Any, at: Any, size: Any, little: Any) -> Any:
    """Packet block of `size` checked bytes at `at` -> packet `n`. Returns 1 for a packet, 0 for one of an unknown link
    type, -1 for damage."""
    block_type = load32(data, at, little)
    head = 12 if block_type == SIMPLE_PACKET_BLOCK else 28
    if size < head + 4:
        _damaged(scan, _P_SMALL, size)
        return -1
    j = np.int64(0)
    if block_type == ENHANCED_PACKET_BLOCK:
        j = load32(data, at + 8, little)
    elif block_type == OLD_PACKET_BLOCK:
        j = load16(data, at + 8, little)
    if j >= scan["n_interfaces"][0]:
        _damaged(scan, _P_INTERFACE, j)
        return -1
    time_ns = scan["time_ns"][0]
    if block_type == SIMPLE_PACKET_BLOCK:
        wire_length = load32(data, at + 8, little)
        length = min(wire_length, size - head - 4)
        if interfaces["snap_length"][j] > 0:
            length = min(length, interfaces["snap_length"][j])
    else:
        length = load32(data, at + 20, little)
        wire_length = load32(data, at + 24, little)
        time_ns = ticks_to_ns(load32(data, at + 12, little) << 32 | load32(data, at + 16, little), interfaces, j)
    if length > size - head - 4 or length > LARGEST_PACKET:
        _damaged(scan, _P_PACKET, length)
        return -1
    interfaces["n_packets"][j] += 1
    kind = interfaces["kind"][j]
    if kind == KIND_UNKNOWN:
        scan["n_skipped"][0] += 1
        return 0
    scan["time_ns"][0] = time_ns
    packets["time_ns"][n] = time_ns
    packets["in_port"][n] = scan["in_port"][0]
    packets["gso_size"][n] = 0
    packets["gso_type"][n] = 0
    packets["checksum"][n] = 0
    place(data, packets, n, at + head, length, wire_length, kind)
    return 1


@kernel(
    example=lambda: (
        np.zeros(64, np.uint8), np.zeros(1, SCAN), np.zeros(1, INTERFACE), np.zeros(1, PACKET), np.int64(1)
    )
)  # fmt: skip
def scan_pcapng(data: Any, scan: Any, interfaces: Any, packets: Any, limit: Any) -> Any:
    """Fill `packets` from the next blocks of the window, at most `limit`; returns how many.

    As `pcap.scan_pcap`, and: `interfaces` are those of the section, the first scan["n_interfaces"]. Stops with
    STOP_BLOCK at a section or interface block, whose caller moves `position` behind it; a limit of 0 goes to the
    first such block or packet. Packets of unknown link types count in n_skipped. A block without a time (simple
    packet blocks) has that of the packet before it.
    """
    at = scan["position"][0]
    end = scan["end"][0]
    n = np.int64(0)
    while True:
        skip = min(scan["skip"][0], end - at)
        scan["skip"][0] -= skip
        at += skip
        if end - at < 12:
            stop = _wants(scan, 1 if scan["skip"][0] > 0 else 12)
            break
        little = scan["little"][0]
        block_type = load32(data, at, little)
        if block_type == SECTION_BLOCK:
            if not _section_order(data, scan, at):
                stop = STOP_DAMAGE
                break
            little = scan["little"][0]
        stop = _check_block(data, scan, at, block_type, little)
        if stop != STOP_LIMIT:
            break
        if scan["skip"][0] > 0:
            continue
        size = load32(data, at + 4, little)
        if _goes_to_python(block_type):
            smallest = _SMALLEST_SECTION if block_type == SECTION_BLOCK else _SMALLEST_INTERFACE
            stop = _damaged(scan, _P_SMALL, size) if size < smallest else STOP_BLOCK
            break
        if n >= limit:
            break
        taken = _take_packet(data, scan, interfaces, packets, n, at, size, little)
        if taken < 0:
            stop = STOP_DAMAGE
            break
        n += taken
        at += size
    scan["position"][0] = at
    scan["stop"][0] = stop
    return n

"""What the kernels of both formats share: the scan's state and stops, clocks, unaligned loads and copies.

A scan goes over the records in a window of the file (`window.Window`) and fills one `PACKET` record for each packet.
It stops for one of the `STOP_*` reasons and says where; what it cannot judge from the window it never touches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import kernel, load_be16, load_be32, load_be64, store_be32, store_be64

LARGEST_PACKET = 1 << 18
"""Longer packets are damage; the limit of libpcap and Wireshark."""

SCAN = np.dtype(
    [
        ("position", np.int64),  # of the next record in the window
        ("end", np.int64),  # of what the window holds
        ("stop", np.int64),  # STOP_*
        ("need", np.int64),  # STOP_DATA: bytes that must be there from `position`; 0 means any
        ("problem", np.int64),  # STOP_DAMAGE: index into the format's PROBLEMS
        ("value", np.int64),  # STOP_DAMAGE: the number that is wrong
        ("little", np.int64),  # 1: the file is little-endian
        ("in_port", np.int64),
        ("n_interfaces", np.int64),
        ("n_skipped", np.int64),  # packets of interfaces whose link type is unknown
        ("skip", np.int64),  # pcapng: bytes still to pass over before the next block
        ("time_ns", np.int64),  # of the last packet, for blocks without a time
    ],
    align=True,
)
"""State of a scan; one record per reader."""

STOP_LIMIT = 0
STOP_DATA = 1
STOP_DAMAGE = 2
STOP_BLOCK = 3
"""At `position` stands a complete block that Python handles (pcapng sections and interfaces)."""

INTERFACE = np.dtype(
    [
        ("kind", np.int64),  # linktypes.KIND_*
        ("link_type", np.int64),
        ("snap_length", np.int64),  # of simple packet blocks; 0: unlimited
        ("clock", np.int64),  # CLOCK_*
        ("factor", np.int64),
        ("largest", np.int64),  # ticks beyond it are later than LAST_TIME_NS
        ("offset_ns", np.int64),
        ("n_packets", np.int64),
    ],
    align=True,
)
"""An interface of a capture; classic pcap has one."""

CLOCK_MULTIPLY = 0
"""A tick is `factor` ns."""
CLOCK_DIVIDE = 1
"""`factor` ticks are a ns."""
CLOCK_BINARY = 2
"""2**`factor` ticks are a second."""

NS_PER_SECOND = 1_000_000_000
LAST_TIME_NS = ((1 << 63) - 1) // NS_PER_SECOND * NS_PER_SECOND
"""The last whole second that int64 ns can say, in the year 2262; later times, damaged ones as a rule, are cut to it."""


@kernel
def load32(data: Any, at: Any, little: Any) -> Any:
    """The uint32 at byte `at`, as int64; the caller has checked the bounds."""
    value = load_be32(data, at)
    if little:
        return (value & 0xFF) << 24 | (value & 0xFF00) << 8 | (value >> 8) & 0xFF00 | value >> 24
    return value


@kernel
def load16(data: Any, at: Any, little: Any) -> Any:
    """The uint16 at byte `at`; see `load32`."""
    value = load_be16(data, at)
    if little:
        return (value & 0xFF) << 8 | value >> 8
    return value


@kernel
def store_le32(data: Any, at: Any, value: Any) -> None:
    """The low 32 bits of `value` to byte `at`, little-endian; the caller has checked the bounds."""
    store_be32(data, at, (value & 0xFF) << 24 | (value & 0xFF00) << 8 | (value >> 8) & 0xFF00 | (value >> 24) & 0xFF)


@kernel
def copy_bytes(source: Any, at: Any, target: Any, to: Any, length: Any) -> None:
    """target[to:to + length] = source[at:at + length], for different arrays; the caller has checked the bounds."""
    words = length >> 3
    for w in range(words):
        store_be64(target, to + 8 * w, load_be64(source, at + 8 * w))
    for b in range(8 * words, length):
        target[to + b] = source[at + b]


@kernel
def ticks_to_ns(ticks: Any, interfaces: Any, j: Any) -> Any:
    """Time of a packet of interface `j`, in ns since the epoch, within [0, LAST_TIME_NS].

    `ticks`: the bit pattern of an uint64, so a negative one is very late. The source of the rule is the pcapng
    specification's if_tsresol and if_tsoffset.
    """
    factor = interfaces["factor"][j]
    if ticks < 0 or ticks > interfaces["largest"][j]:
        time_ns = LAST_TIME_NS
    elif interfaces["clock"][j] == CLOCK_MULTIPLY:
        time_ns = ticks * factor
    elif interfaces["clock"][j] == CLOCK_DIVIDE:
        time_ns = ticks // factor
    else:
        time_ns = _binary_to_ns(ticks, factor)
    offset_ns = interfaces["offset_ns"][j]
    if offset_ns > 0 and time_ns > LAST_TIME_NS - offset_ns:
        return LAST_TIME_NS
    return max(time_ns + offset_ns, 0)


@kernel
def _binary_to_ns(ticks: Any, bits: Any) -> Any:
    """`ticks` / 2**bits seconds in ns; fractions beyond 33 bits (0.1 ns) are cut off."""
    if bits > 62:
        ticks = ticks >> min(bits - 62, 63)
        bits = bits * 0 + 62
    fraction = ticks & ((np.int64(1) << bits) - 1)
    if bits > 33:
        fraction = fraction >> (bits - 33)
        return (ticks >> bits) * NS_PER_SECOND + ((fraction * NS_PER_SECOND) >> 33)
    return (ticks >> bits) * NS_PER_SECOND + ((fraction * NS_PER_SECOND) >> bits)


def clock_of(resolution: int, offset: int) -> tuple[int, int, int, int]:
    """(`clock`, `factor`, `largest`, `offset_ns`) of an INTERFACE.

    `resolution`: if_tsresol, 0 to 255: the negative power of 10, or of 2 with the highest bit set. `offset`:
    if_tsoffset in seconds. Negative powers of ten beyond 27 are taken as 27: all their times are below 19 ns.
    """
    offset_ns = max(-LAST_TIME_NS, min(offset * NS_PER_SECOND, LAST_TIME_NS))
    exponent = resolution & 0x7F
    everything = (1 << 63) - 1
    if resolution & 0x80:
        largest = min(everything, (LAST_TIME_NS // NS_PER_SECOND << exponent) - 1)
        return CLOCK_BINARY, exponent, largest, offset_ns
    if exponent <= 9:
        factor = 10 ** (9 - exponent)
        return CLOCK_MULTIPLY, factor, LAST_TIME_NS // factor, offset_ns
    return CLOCK_DIVIDE, 10 ** min(exponent - 9, 18), everything, offset_ns

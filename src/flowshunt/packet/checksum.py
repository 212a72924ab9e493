"""Checksums: the Internet's (RFC 1071), its incremental form (RFC 1624), and CRC-32C for SCTP.

Sums are taken over big-endian words of 8 bytes at a time, as two halves, so that no carry is lost in int64. A
checksum is a number of 16 bits as it stands in the packet; a region that contains its right checksum sums to 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import kernel, load_be16, load_be32, load_be64
from flowshunt.packet.schema import (
    CHECKSUM_UNKNOWN,
    FRAG_ANY,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VERDICT_OK,
    W_L4,
)

_LOW32 = 0xFFFFFFFF
_LOW62 = (1 << 62) - 1

_LONG = 64
"""Regions of at least this many bytes are summed in a loop."""


@kernel
def is_valid(total: Any) -> Any:
    """Whether a one's complement sum, up to 62 bits, is that of bytes with a right checksum: 0, but not of zeros."""
    return (total & _LOW62) % 0xFFFF == 0 and total != 0


@kernel
def fold(total: Any) -> Any:
    """A one's complement sum, up to 62 bits, as 16 bits."""
    total = (total & _LOW32) + (total >> 32)
    total = (total & 0xFFFF) + ((total >> 16) & 0xFFFF) + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@kernel
def sum_bytes(data: Any, start: Any, end: Any, initial: Any) -> Any:
    """`initial` plus the one's complement sum of data[start:end], not folded; an odd last byte is a word's high half.

    `initial`: up to 2**40. The region: at most 2**24 bytes, within `data`.
    """
    total = initial
    at = start
    size = end - start
    if size >= _LONG:
        total += _sum_words(data, start, end)
    else:
        if size & 32:
            total += _sum8(data, at) + _sum8(data, at + 8) + _sum8(data, at + 16) + _sum8(data, at + 24)
            at += 32
        if size & 16:
            total += _sum8(data, at) + _sum8(data, at + 8)
            at += 16
        if size & 8:
            total += _sum8(data, at)
    left = size & 7
    if left > 0:
        word = _last_bytes(data, end, left)
        total += (word & _LOW32) + ((word >> 32) & _LOW32)
    return total


@kernel
def _sum8(data: Any, at: Any) -> Any:
    return load_be32(data, at) + load_be32(data, at + 4)


@kernel(inline=False)
def _sum_words(data: Any, start: Any, end: Any) -> Any:
    """The sum of the whole words of 8 bytes in data[start:end]. A call: vectors would crowd the caller."""
    total = np.int64(0)
    for n in range((end - start) >> 3):
        word = load_be64(data, start + 8 * n)
        total += (word & _LOW32) + ((word >> 32) & _LOW32)
    return total


@kernel
def _last_bytes(data: Any, end: Any, left: Any) -> Any:
    """The `left` (1 to 7) bytes before `end`, from the top of a word whose rest is zero."""
    if end >= 8:
        # Reads before the region, but not before the array; what is not wanted is shifted out.
        return load_be64(data, end - 8) << (64 - 8 * left)
    word = np.int64(0)
    for n in range(left):
        word |= np.int64(data[end - left + n]) << (56 - 8 * n)
    return word


@kernel
def checksum(data: Any, start: Any, end: Any, initial: Any) -> Any:
    """The Internet checksum of data[start:end] on top of `initial` (a sum, such as `pseudo_header` gives; else 0)."""
    return fold(sum_bytes(data, start, end, initial)) ^ 0xFFFF


@kernel
def update16(old_checksum: Any, old: Any, new: Any) -> Any:
    """The checksum after a 16-bit word changed from `old` to `new`: RFC 1624 equation 3.

    Unlike equation 4 it gives what a full computation gives, unless all that is summed is zero.
    """
    return fold((old_checksum ^ 0xFFFF) + (old ^ 0xFFFF) + new) ^ 0xFFFF


@kernel
def update32(old_checksum: Any, old: Any, new: Any) -> Any:
    """The checksum after a 32-bit word, at an even place, changed from `old` to `new`."""
    return fold((old_checksum ^ 0xFFFF) + (old ^ _LOW32) + new) ^ 0xFFFF


@kernel
def pseudo_header(data: Any, l3: Any, family: Any, protocol: Any, size: Any) -> Any:
    """The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1) of the IP packet at byte l3 of `data`.

    `size`: bytes of the transport header and its payload. With an IPv6 routing header the destination is that of the
    IP header.
    """
    total = protocol + size
    if family == 4:
        return total + load_be32(data, l3 + 12) + load_be32(data, l3 + 16)
    for n in range(4):
        word = load_be64(data, l3 + 8 + 8 * n)
        total += (word & _LOW32) + ((word >> 32) & _LOW32)
    return total


@kernel
def ip_checksum_ok(data: Any, packets: Any, i: Any) -> Any:
    """Whether the IPv4 header of parsed packet i sums up.

    True for what has no header checksum, False for a header that is cut off.
    """
    if packets["family"][i] != 4:
        return True
    l3 = np.int64(packets["l3"][i])
    at = packets["data"][i] + l3
    first = load_be32(data, at)
    size = (first >> 22) & 0x3C
    if size == 20:
        rest = load_be32(data, at + 4) + load_be32(data, at + 8)
        return is_valid(first + rest + load_be32(data, at + 12) + load_be32(data, at + 16))
    if size < 20 or l3 + size > np.int64(packets["length"][i]):
        return False
    return is_valid(sum_bytes(data, at, at + size, np.int64(0)))


@kernel
def l4_checksum_ok(data: Any, packets: Any, i: Any, keys: Any, k: Any) -> Any:
    """Whether the transport checksum of parsed packet i, whose key is keys[k], is right.

    True when the port has verified it or left it for the device to complete, for a UDP checksum of zero in IPv4, for
    fragments, for protocols without one, and where there is no transport header; False for a packet with a verdict of
    its own. Like Open vSwitch it sums to the end of the IP packet, whatever the UDP length says.
    """
    if packets["checksum"][i] != CHECKSUM_UNKNOWN or packets["l4"][i] == 0:
        return True
    if packets["verdict"][i] != VERDICT_OK:
        return False
    word = keys[k, W_L4]
    if (word & FRAG_ANY) != 0:
        return True
    protocol = (word >> 24) & 0xFF
    frame = packets["data"][i]
    start = frame + np.int64(packets["l4"][i])
    end = frame + np.int64(packets["l3_end"][i])
    family = packets["family"][i]
    initial = np.int64(0)
    if protocol == PROTO_TCP or protocol == PROTO_UDP or (protocol == PROTO_ICMPV6 and family == 6):
        if protocol == PROTO_UDP and family == 4 and load_be16(data, start + 6) == 0:
            return True
        initial = pseudo_header(data, frame + np.int64(packets["l3"][i]), family, protocol, end - start)
    elif protocol == PROTO_SCTP:
        return sctp_checksum_ok(data, start, end)
    elif protocol != PROTO_ICMP or family != 4:
        return True
    return is_valid(sum_bytes(data, start, end, initial))


# --- CRC-32C ---------------------------------------------------------------------------------------------------------

_CRC32C_REFLECTED = 0x82F63B78
CRC_START = 0xFFFFFFFF


def _crc_tables() -> np.ndarray:
    """Slicing by 8: tables[n][b] is what byte b does to the register n bytes later."""
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        register = byte
        for _ in range(8):
            register = (register >> 1) ^ (_CRC32C_REFLECTED if register & 1 else 0)
        tables[0, byte] = register
    for n in range(1, 8):
        tables[n] = (tables[n - 1] >> 8) ^ tables[0][tables[n - 1] & 0xFF]
    return tables


CRC_TABLES = _crc_tables()


@kernel
def crc_byte(register: Any, byte: Any) -> Any:
    """The CRC-32C register after one more byte."""
    return (register >> 8) ^ np.int64(CRC_TABLES[0, (register ^ byte) & 0xFF])


@kernel
def crc_word(register: Any, word: Any) -> Any:
    """The CRC-32C register after the 8 bytes of a big-endian word."""
    value = np.int64(0)
    for n in range(4):
        value ^= np.int64(CRC_TABLES[7 - n, ((register >> (8 * n)) ^ (word >> (56 - 8 * n))) & 0xFF])
    for n in range(4, 8):
        value ^= np.int64(CRC_TABLES[7 - n, (word >> (56 - 8 * n)) & 0xFF])
    return value


@kernel
def crc_bytes(data: Any, start: Any, end: Any, register: Any) -> Any:
    """The CRC-32C register after data[start:end]."""
    at = start
    while end - at >= 8:
        register = crc_word(register, load_be64(data, at))
        at += 8
    while at < end:
        register = crc_byte(register, np.int64(data[at]))
        at += 1
    return register


@kernel
def crc_zeros(register: Any, size: Any) -> Any:
    """The CRC-32C register after `size` zero bytes."""
    for _ in range(size >> 3):
        register = crc_word(register, np.int64(0))
    for _ in range(size & 7):
        register = crc_byte(register, np.int64(0))
    return register


@kernel(inline=False)
def crc32c(data: Any, start: Any, end: Any) -> Any:
    """CRC-32C of data[start:end] as a number: 0xE3069283 for the text "123456789"."""
    return crc_bytes(data, start, end, np.int64(CRC_START)) ^ CRC_START


@kernel(inline=False)
def sctp_checksum(data: Any, start: Any, end: Any) -> Any:
    """The checksum of an SCTP packet, as `load_be32` reads it (RFC 9260 appendix A).

    data[start:end] is the packet, at least 12 bytes. The bytes of the checksum itself count as zero; it is stored
    least significant byte first.
    """
    register = crc_word(np.int64(CRC_START), load_be64(data, start))
    register = crc_zeros(register, 4)
    return swap32(crc_bytes(data, start + 12, end, register) ^ CRC_START)


@kernel
def swap32(value: Any) -> Any:
    """The four bytes in the other order."""
    return ((value & 0xFF) << 24) | ((value & 0xFF00) << 8) | ((value >> 8) & 0xFF00) | ((value >> 24) & 0xFF)


@kernel(inline=False)
def sctp_checksum_ok(data: Any, start: Any, end: Any) -> Any:
    """Whether the SCTP packet data[start:end] (at least 12 bytes) carries its right checksum."""
    return load_be32(data, start + 8) == sctp_checksum(data, start, end)


@kernel(inline=False)
def sctp_update(old_checksum: Any, old: Any, new: Any, size: Any) -> Any:
    """The SCTP checksum after the first 32-bit word of a packet of `size` bytes changed from `old` to `new`.

    A CRC is linear: the difference of two packets has the difference of their checksums. So a wrong checksum stays
    wrong, and bytes that were not captured are not needed.
    """
    register = crc_word(np.int64(0), ((old ^ new) & _LOW32) << 32)
    return old_checksum ^ swap32(crc_zeros(register, size - 8))

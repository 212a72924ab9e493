"""Another payload for a packet: lengths and checksum follow. For the slow path; plain Python."""

from __future__ import annotations

import struct
from typing import Any

from flowshunt.packet.schema import CHECKSUM_PARTIAL, PROTO_TCP, PROTO_UDP

_LIMIT = 0xFFFF
"""Bytes that an IPv4 packet, and the payload of an IPv6 one, can have."""
_IPV6_SIZE = 40


def _total(data: bytes) -> int:
    """One's complement sum of 16-bit words, modulo 65535."""
    return int.from_bytes(data + b"\0" * (len(data) & 1), "big") % _LIMIT


def room_for_payload(packet: Any) -> int:
    """By how many bytes the payload of a parsed PACKET record may grow."""
    size = int(packet["l3_end"]) - int(packet["l3"])
    return max(_LIMIT - size + (_IPV6_SIZE if int(packet["family"]) == 6 else 0), 0)


def with_payload(frame: bytes, packet: Any, protocol: int, payload: bytes) -> bytes:
    """`frame`, a whole TCP or UDP packet that was parsed into the PACKET record `packet`, with another payload.

    What follows the IP packet is left out. A checksum that was wrong is wrong by as much as before; a UDP checksum of
    zero stays, a partial one stays partial. Raises ValueError for other protocols and for a payload that is too long.
    """
    if protocol not in (PROTO_TCP, PROTO_UDP):
        raise ValueError(f"protocol {protocol} is neither TCP nor UDP")
    l3, l4, end, at = (int(packet[name]) for name in ("l3", "l4", "l3_end", "payload"))
    by = len(payload) - (end - at)
    if by > room_for_payload(packet):
        raise ValueError(f"a payload of {len(payload)} bytes is too long")
    out = bytearray(frame[:at] + payload)
    if int(packet["family"]) == 4:
        total = struct.unpack_from(">H", out, l3 + 2)[0]
        header = struct.unpack_from(">H", out, l3 + 10)[0]
        struct.pack_into(">H", out, l3 + 2, total + by)
        struct.pack_into(">H", out, l3 + 10, _corrected(header, total + by - total))
    else:
        struct.pack_into(">H", out, l3 + 4, struct.unpack_from(">H", out, l3 + 4)[0] + by)
    if protocol == PROTO_UDP:
        struct.pack_into(">H", out, l4 + 4, struct.unpack_from(">H", out, l4 + 4)[0] + by)
    place = l4 + (16 if protocol == PROTO_TCP else 6)
    checksum = struct.unpack_from(">H", frame, place)[0]
    if int(packet["checksum"]) == CHECKSUM_PARTIAL:
        struct.pack_into(">H", out, place, (checksum + by) % _LIMIT or _LIMIT)
    elif checksum or protocol == PROTO_TCP:
        # the length counts in the pseudo header, too
        corrected = _corrected(checksum, _total(bytes(out[l4:])) - _total(frame[l4:end]) + by)
        struct.pack_into(">H", out, place, corrected or (_LIMIT if protocol == PROTO_UDP else 0))
    return bytes(out)


def _corrected(checksum: int, difference: int) -> int:
    """A checksum after what it covers has grown by `difference` (RFC 1624 equation 3)."""
    if difference % _LIMIT == 0:
        return checksum
    return ((checksum ^ _LIMIT) + difference) % _LIMIT ^ _LIMIT

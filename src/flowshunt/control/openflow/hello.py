"""The first message, and the version that two hellos agree on."""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack

from flowshunt.control.openflow.wire import OF10, VERSIONS

_BITMAP = 1
_HIGHEST = 32


def encode_hello(versions: Iterable[int]) -> bytes:
    """The body of a hello: a bitmap of versions."""
    return pack("!HHI", _BITMAP, 8, sum(1 << version for version in versions))


def decode_hello(version: int, body: bytes) -> frozenset[int]:
    """The versions that a hello offers: those of its bitmap, or without one all up to its own.

    What else is in it, and elements that are damaged, is read over.
    """
    at = 0
    while len(body) - at >= 4:
        kind, size = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if size < 4 or size > len(body) - at:
            break
        if kind == _BITMAP and size >= 8:
            bitmap = int.from_bytes(body[at + 4 : at + 8], "big")
            offered = frozenset(number for number in range(OF10, _HIGHEST) if bitmap >> number & 1)
            if offered:
                return offered
        at += (size + 7) & ~7
    return frozenset(range(OF10, version + 1))


def negotiate(ours: Iterable[int], theirs: Iterable[int]) -> int | None:
    """The highest version that both have, None when there is none."""
    common = set(ours) & set(theirs) & VERSIONS
    return max(common, default=None)

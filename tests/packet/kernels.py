"""Entry points over the packet layer's inner kernels, and small helpers, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from flowshunt.jit import kernel
from flowshunt.packet import checksum as sums
from flowshunt.packet.emit import is_changed, rewrite_one
from flowshunt.packet.parse import parse_batch
from flowshunt.packet.quoted import parse_quoted
from flowshunt.packet.requote import requote
from flowshunt.packet.schema import KEY_WORDS, PACKET, VERDICTS
from flowshunt.packet.text import field, set_field
from tests.builders import Packet, batch_of


def keys_of(n: int) -> np.ndarray:
    return np.zeros((n, KEY_WORDS), np.int64)


class Parsed(NamedTuple):
    """One parsed packet."""

    data: np.ndarray
    packets: np.ndarray
    keys: np.ndarray

    def __getitem__(self, name: Any) -> Any:
        """A field of the key by name."""
        return field(self.keys, 0, name) if isinstance(name, str) else tuple(self)[name]

    def record(self, name: str) -> int:
        """A field of the packet record."""
        return int(self.packets[name][0])

    @property
    def verdict(self) -> str:
        return VERDICTS[self.record("verdict")]


def parsed(frame: bytes | Packet, **port: int) -> Parsed:
    """Parse one frame; `port` sets fields of the port's part of the record."""
    data, packets = batch_of([frame])
    for name, value in port.items():
        packets[name][0] = value
    keys = keys_of(1)
    parse_batch(data, packets, keys, 1)
    return Parsed(data, packets, keys)


def parsed_all(frames: Iterable[bytes | Packet]) -> Parsed:
    data, packets = batch_of(frames)
    keys = keys_of(len(packets))
    parse_batch(data, packets, keys, len(packets))
    return Parsed(data, packets, keys)


def rewritten(packet: Parsed, room: int | None = None, **fields: int) -> bytes | None:
    """The frame after setting fields of its key; None when it does not fit."""
    keys = packet.keys.copy()
    for name, value in fields.items():
        set_field(keys, 0, name, value)
    out = np.full(packet.record("length") + 8 if room is None else room, 0xEE, np.uint8)
    length = rewrite_one(packet.data, packet.packets, 0, keys, 0, packet.keys, out, 0)
    if length < 0:
        assert (out == 0xEE).all(), "a frame that does not fit leaves the output alone"
        return None
    assert (out[length:] == 0xEE).all(), "nothing is written behind the frame"
    return out[:length].tobytes()


def _keyed() -> tuple[Any, ...]:
    return np.zeros(8, np.uint8), np.zeros(1, PACKET), 0, keys_of(1), 0


def _quoted() -> tuple[Any, ...]:
    return (*_keyed(), 0)


def _region() -> tuple[Any, ...]:
    return np.zeros(8, np.uint8), 0, 0, 0


def _update() -> tuple[Any, ...]:
    return 0, 0, 0


def _changed() -> tuple[Any, ...]:
    return keys_of(1), 0, keys_of(1), 0


def _requoted() -> tuple[Any, ...]:
    return np.zeros(1, PACKET), 0, np.zeros((1, 5), np.int64), 0, np.zeros(64, np.uint8), 0


@kernel(example=_requoted)
def requoted(packets: Any, i: Any, quotes: Any, n: Any, out: Any, base: Any) -> Any:
    requote(packets, i, quotes, n, out, base)


@kernel(example=_quoted)
def quoted(data: Any, packets: Any, i: Any, keys: Any, k: Any, j: Any) -> Any:
    return parse_quoted(data, packets, i, keys, k, j)


@kernel(example=_region)
def checksum(data: Any, start: Any, end: Any, initial: Any) -> Any:
    return sums.checksum(data, start, end, initial)


@kernel(example=_update)
def update16(value: Any, old: Any, new: Any) -> Any:
    return sums.update16(value, old, new)


@kernel(example=_update)
def update32(value: Any, old: Any, new: Any) -> Any:
    return sums.update32(value, old, new)


@kernel(example=_region)
def crc32c(data: Any, start: Any, end: Any, unused: Any) -> Any:
    return sums.crc32c(data, start, end)


@kernel(example=_keyed)
def ip_ok(data: Any, packets: Any, i: Any, keys: Any, k: Any) -> Any:
    return sums.ip_checksum_ok(data, packets, i)


@kernel(example=_keyed)
def l4_ok(data: Any, packets: Any, i: Any, keys: Any, k: Any) -> Any:
    return sums.l4_checksum_ok(data, packets, i, keys, k)


@kernel(example=_changed)
def changed(keys: Any, k: Any, original: Any, i: Any) -> Any:
    return is_changed(keys, k, original, i)


def checksums_ok(packet: Parsed, n: int = 0) -> tuple[bool, bool]:
    """Whether the IP and the transport checksum of packet n are right."""
    arguments = packet.data, packet.packets, n, packet.keys, n
    return bool(ip_ok(*arguments)), bool(l4_ok(*arguments))

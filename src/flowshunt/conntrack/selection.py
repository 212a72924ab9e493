"""Which connections are meant: `src=10.0.0.1 dport=443 proto=tcp`, as people write what listings show."""

from __future__ import annotations

from dataclasses import dataclass, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.connection import PROTOCOL_NAMES

_KIND_IPV6 = 0x80
_MASK64 = (1 << 64) - 1
_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()}
_WORDS = "src, dst (address or network), sport, dport, proto, zone, mark"


@dataclass(frozen=True, slots=True)
class Selection:
    """Connections whose original direction is like this; None: whatever it is."""

    src: IPv4Network | IPv6Network | None = None
    dst: IPv4Network | IPv6Network | None = None
    sport: int | None = None
    dport: int | None = None
    proto: int | None = None
    zone: int | None = None
    mark: int | None = None

    @classmethod
    def parse(cls, words: str) -> Selection:
        """Read `name=value` words, separated by spaces or commas. Raises UsageError for what they cannot say."""
        found: dict[str, Any] = {}
        for word in words.replace(",", " ").split():
            name, separator, value = word.partition("=")
            if name not in {field.name for field in fields(cls)} or not separator:
                raise UsageError(f"{word!r} does not select connections", hint=f"NAME=VALUE, with the names {_WORDS}")
            if name in found:
                raise UsageError(f"{name} is said twice")
            found[name] = _read(name, value)
        return cls(**found)

    def matches(self, conns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Which of some connections are meant, bool (n,). `conns`: CONNECTION records, `rows`: int (n,)."""
        records = conns[rows]
        words = records["tuple"]
        parts = (
            (self.sport, (words >> 48) & 0xFFFF),
            (self.dport, (words >> 32) & 0xFFFF),
            (self.proto, (words >> 8) & 0xFF),
            (self.zone, (words >> 16) & 0xFFFF),
            (self.mark, records["mark"]),
        )
        meant = np.ones(len(rows), bool)
        for wanted, values in parts:
            if wanted is not None:
                meant &= values == wanted
        for network, name in ((self.src, "source"), (self.dst, "destination")):
            if network is not None:
                meant &= (words & _KIND_IPV6 != 0) == (network.version == 6)
                meant &= _lies_in(records[name], network)
        return meant


def _read(name: str, value: str) -> Any:
    try:
        if name in ("src", "dst"):
            return ip_network(value, strict=False)
        if name == "proto" and value.lower() in _NUMBERS:
            return _NUMBERS[value.lower()]
        number = int(value, 0)
    except ValueError:
        raise UsageError(f"{name}={value}: no such value", hint=_HINTS.get(name, "a number")) from None
    if not 0 <= number <= _LIMITS[name]:
        raise UsageError(f"{name}={value} is out of range", hint=f"0 to {_LIMITS[name]}")
    return number


_HINTS = {
    "src": "an address or a network such as 10.0.0.0/8",
    "dst": "an address or a network such as 10.0.0.0/8",
    "proto": "tcp, udp, icmp, …, or a number",
}
_LIMITS = {"sport": 0xFFFF, "dport": 0xFFFF, "proto": 0xFF, "zone": 0xFFFF, "mark": 0xFFFFFFFF}


def _lies_in(addresses: np.ndarray, network: IPv4Network | IPv6Network) -> np.ndarray:
    """Whether addresses, int64 (n, 2) in 128-bit form, lie in a network of their family."""
    mask, first = int(network.netmask), int(network.network_address)
    high, low = (_signed(value >> shift) for value in (mask,) for shift in (64, 0))
    first_high, first_low = _signed(first >> 64), _signed(first)
    lies: np.ndarray = (addresses[:, 0] & high == first_high) & (addresses[:, 1] & low == first_low)
    return lies


def _signed(value: int) -> int:
    """The low 64 bits as int64."""
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value

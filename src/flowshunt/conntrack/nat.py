"""What an action asks of NAT, and what addresses carry."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import numpy as np

from flowshunt.conntrack import schema as C

Address = IPv4Address | IPv6Address

_KINDS = {None: 0, "src": C.NAT_SRC, "dst": C.NAT_DST}
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Nat:
    """NAT of connections that an action commits, as `nat(...)` of a ct action says it (ovs-actions(7)).

    Without `kind`, packets are only translated as their connection is, and a new connection whose reply tuple is taken
    gets another source port. The same with the kind `src` and no address, but that counts as source NAT in any case.
    Raises ValueError for what contradicts itself.
    """

    kind: str | None = None
    """`src`, `dst` or None."""
    first: Address | None = None
    """First address of the range; None: the address stays."""
    last: Address | None = None
    """Last address of the range; None: there is only one."""
    ports: tuple[int, int] | None = None
    """First and last port, from 1; None: the packet's own, or one of its group."""
    random: bool = False
    """Begin at a random port of the range."""
    hash: bool = False
    """Begin at the port of the range that the connection's hash names."""
    persistent: bool = False
    """The client's address alone decides about the address, and does so for ever."""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"NAT is of the kind src or dst, not {self.kind!r}")
        if self.first is None and (self.last is not None or self.ports is not None):
            raise ValueError("a range needs its first address")
        if self.kind is None and (self.first is not None or self.random or self.hash or self.persistent):
            raise ValueError("addresses and flags need a kind, src or dst")
        if self.random and self.hash:
            raise ValueError("random and hash exclude each other")
        if self.first is not None and self.last is not None:
            if self.first.version != self.last.version:
                raise ValueError(f"{self.first} and {self.last} are of different families")
            if int(self.last) < int(self.first):
                raise ValueError(f"the range ends at {self.last}, before it begins, at {self.first}")
        if self.first is not None and int(self.first) == 0:
            raise ValueError("a range begins at another address than that of all zeros, which means none")
        if self.ports is not None and not 1 <= self.ports[0] <= self.ports[1] <= 0xFFFF:
            raise ValueError(f"{self.ports[0]} to {self.ports[1]} is no range of ports: write 1 to 65535")

    def words(self) -> tuple[int, ...]:
        """What kernels get: NAT_WORDS int64, see `schema.NAT_WORDS`."""
        flags = _KINDS[self.kind]
        flags |= C.NAT_RANDOM * self.random | C.NAT_HASH * self.hash | C.NAT_PERSISTENT * self.persistent
        if self.first is None:
            return (flags, 0, 0, 1)
        first, low_port, high_port = int(self.first), *(self.ports or (0, 0))
        n_addresses = int(self.last or self.first) - first + 1
        return (
            flags | self.first.version << 8 | low_port << 16 | high_port << 32,
            _signed(first >> 64),
            _signed(first & _MASK64),
            min(n_addresses, C.NAT_MAX_ADDRESSES),
        )


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


@dataclass(frozen=True, slots=True)
class NatUsage:
    """One translated address: connections that have it, and connections that were refused since none was left."""

    used: int
    exhausted: int


def usage(gauges: np.ndarray) -> dict[Address | None, NatUsage]:
    """GAUGE records that count something, by address; None stands for all addresses beyond the number of gauges."""
    found: dict[Address | None, NatUsage] = {}
    for at in np.flatnonzero((gauges["used"] != 0) | (gauges["exhausted"] != 0)):
        family, (high, low) = int(gauges["family"][at]), gauges["address"][at].tolist()
        value = (high & _MASK64) << 64 | low & _MASK64
        address: Address | None = None
        if family:
            address = IPv4Address(value) if family == 4 else IPv6Address(value)
        found[address] = NatUsage(int(gauges["used"][at]), int(gauges["exhausted"][at]))
    return found

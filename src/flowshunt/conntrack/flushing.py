"""Which connections a flush is to forget, as people and controllers describe them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address

from flowshunt.conntrack.connection import Connection, Tuple

_ICMP = (1, 58)


@dataclass(frozen=True, slots=True)
class Way:
    """What a tuple must have; None: anything."""

    source: IPv4Address | IPv6Address | None = None
    destination: IPv4Address | IPv6Address | None = None
    source_port: int | None = None
    destination_port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    icmp_id: int | None = None

    def fits(self, found: Tuple) -> bool:
        """Whether a tuple has it all."""
        return all(getattr(self, name) in (None, getattr(found, name)) for name in self.__slots__)

    def whole(self, protocol: int) -> Tuple | None:
        """The tuple, if nothing of it is left open."""
        rest = (
            (self.icmp_id, self.icmp_type, self.icmp_code)
            if protocol in _ICMP
            else (self.source_port, self.destination_port)
        )
        if not protocol or self.source is None or self.destination is None or None in rest:
            return None
        return Tuple(**{field.name: getattr(self, field.name) for field in fields(self) if _is_said(self, field.name)})


def _is_said(way: Way, name: str) -> bool:
    return getattr(way, name) is not None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which connections are to be forgotten."""

    zone: int | None = None
    """None: any; where one connection is named, zone 0."""
    mark: tuple[int, int] = (0, 0)
    """Value and mask."""
    labels: tuple[int, int] = (0, 0)
    protocol: int = 0
    """0: any."""
    original: Way = Way()
    reply: Way = Way()

    @property
    def is_selective(self) -> bool:
        """Whether it asks for more than a zone."""
        return self != Wanted(self.zone)

    @property
    def named(self) -> Tuple | None:
        """The tuple of the one connection that is named by it and nothing else: it may be that of its replies, too."""
        alone = self == Wanted(self.zone, protocol=self.protocol, original=self.original)
        return self.original.whole(self.protocol) if alone else None

    def among(self, connections: Iterable[Connection]) -> list[Connection]:
        """Those of some connections that are meant."""
        return [one for one in connections if self._fits(one)]

    def _fits(self, one: Connection) -> bool:
        return (
            self.zone in (None, one.zone)
            and self.protocol in (0, one.protocol)
            and one.mark & self.mark[1] == self.mark[0]
            and one.label & self.labels[1] == self.labels[0]
            and self.original.fits(one.original)
            and self.reply.fits(one.reply)
        )

"""Address translation as the oracle sees it: what an action asks for, and whether a given choice was allowed.

Which address and port of a range a tracker takes is its own affair, so nothing here chooses (but for `first`, when
there is nobody to follow). `complaint` says what is wrong with the reply tuple that somebody else chose. The rules: the
addresses and ports are within the range; no other connection that lives has the tuple in the zone; a port that is
allowed and free is kept, unless `random` or `hash` ask for others; a refusal needs a range that is in use as a whole.
Without a range of ports a source port stays within its class, 1 to 511, 600 to 1023, or 1024 and up (both Open vSwitch
and nf_nat).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from tests.oracle.frames import SCTP, TCP, UDP

if TYPE_CHECKING:
    from tests.oracle.records import Key

InUse = Callable[["Key"], bool]


@dataclass(frozen=True)
class Nat:
    """`nat(...)` of one family: `kind` is src, dst or nothing (the connection's own, or the null binding)."""

    kind: str = ""
    low: bytes = b""
    high: bytes = b""
    ports: tuple[int, int] | None = None
    flags: tuple[str, ...] = ()

    @property
    def is_null(self) -> bool:
        """Whether no address is asked for: `nat` alone, or a source of zeroes."""
        return not self.kind or (self.kind == "src" and not any(self.low))

    @property
    def starts_anywhere(self) -> bool:
        """Whether the packet's own port is nothing special."""
        return bool(self.ports) and ("random" in self.flags or "hash" in self.flags)

    def action(self) -> str:
        """In flow syntax."""
        if not self.kind:
            return "nat"
        ends = [str(ip_address(end)) for end in dict.fromkeys((self.low, self.high))]
        text = "-".join(f"[{end}]" if ":" in end and self.ports else end for end in ends)
        if self.ports:
            text += ":" + "-".join(str(port) for port in dict.fromkeys(self.ports))
        return f"nat({','.join((f'{self.kind}={text}', *self.flags))})"

    def addresses(self) -> Iterator[bytes]:
        size = len(self.low)
        for number in range(int.from_bytes(self.low), int.from_bytes(self.high) + 1):
            yield number.to_bytes(size)


def has_ports(key: Key) -> bool:
    return key.protocol in (TCP, UDP, SCTP)


def port_class(port: int) -> range:
    """The ports that a source port may become when none are asked for."""
    if port < 512:
        return range(1, 512)
    return range(600, 1024) if port < 1024 else range(1024, 65536)


def source_ports(key: Key, nat: Nat) -> Iterable[int]:
    """What the source's port (or the identifier of a query) may become."""
    if key.icmp is None and not has_ports(key):
        return (0,)
    if nat.ports and (nat.kind == "src" or key.icmp is not None):
        return range(nat.ports[0], nat.ports[1] + 1)
    return port_class(key.source_port) if key.icmp is None else range(65536)


def with_source(reply: Key, address: bytes, port: int) -> Key:
    """The reply tuple when the source of the original direction becomes this."""
    if reply.icmp is not None:
        return replace(reply, destination=address, source_port=port)
    return replace(reply, destination=address, destination_port=port)


def candidates(key: Key, nat: Nat) -> Iterator[Key]:
    """All reply tuples that the action allows; what is kept comes first."""
    plain = key.reversed()
    if nat.kind == "dst":
        ports: Iterable[int] = (key.destination_port,)
        if nat.ports and has_ports(key):
            ports = range(nat.ports[0], nat.ports[1] + 1)
        targets = [replace(plain, source=address) for address in nat.addresses()]
        if key.icmp is None:
            targets = [replace(target, source_port=port) for target in targets for port in ports]
        if key.icmp is None or key.source_port in source_ports(key, nat):
            yield from targets
        for port in source_ports(key, nat):
            for target in targets:
                yield with_source(target, key.source, port)
        return
    addresses = [key.source] if nat.is_null else list(nat.addresses())
    allowed = source_ports(key, nat)
    if key.source_port in allowed or not nat.ports:
        for address in addresses:
            yield with_source(plain, address, key.source_port)
    for address in addresses:
        for port in allowed:
            yield with_source(plain, address, port)


def first(key: Key, nat: Nat, in_use: InUse) -> Key | None:
    """The first free reply tuple, or None when all are in use."""
    return next((reply for reply in candidates(key, nat) if not in_use(reply)), None)


def complaint(key: Key, nat: Nat, reply: Key, in_use: InUse) -> str:
    """What is wrong with the reply tuple that was chosen for a new connection; empty: nothing."""
    if in_use(reply):
        return f"{reply} belongs to another connection"
    plain = key.reversed()
    if nat.kind == "dst":
        return _complaint_dst(key, nat, reply, plain, in_use)
    address, port = reply.destination, reply.source_port if key.icmp is not None else reply.destination_port
    if reply != with_source(plain, address, port):
        return f"{reply}: something else than the source was changed"
    if nat.is_null:
        if address != key.source:
            return f"{reply}: the null binding keeps the address"
    elif not nat.low <= address <= nat.high:
        return f"{reply}: the address is outside the range of {nat.action()}"
    allowed = source_ports(key, nat)
    if port not in allowed and not (port == key.source_port and not nat.ports):
        return f"{reply}: the port is outside {allowed}"
    kept = with_source(plain, address, key.source_port)
    must_keep = (key.source_port in allowed or not nat.ports) and not nat.starts_anywhere and reply != kept
    if must_keep and not in_use(kept):
        return f"{reply}: the port was changed although {kept} is free"
    return ""


def _complaint_dst(key: Key, nat: Nat, reply: Key, plain: Key, in_use: InUse) -> str:
    if not nat.low <= reply.source <= nat.high:
        return f"{reply}: the address is outside the range of {nat.action()}"
    if has_ports(key):
        low, high = nat.ports or (key.destination_port, key.destination_port)
        if not low <= reply.source_port <= high:
            return f"{reply}: the port is outside {low}-{high}"
        kept = replace(reply, source_port=key.destination_port)
        must_keep = low <= key.destination_port <= high and not nat.starts_anywhere and kept != reply
        if must_keep and not in_use(kept):
            return f"{reply}: the port was changed although {kept} is free"
    unchanged = replace(plain, source=reply.source, source_port=reply.source_port)
    allowed = source_ports(key, nat)
    if key.icmp is not None:
        unchanged = replace(plain, source=reply.source)
        port, may_keep = reply.source_port, key.source_port in allowed and not nat.starts_anywhere
    else:
        port, may_keep = reply.destination_port, True
    if reply == unchanged and may_keep:
        return ""
    if may_keep and not in_use(unchanged):
        return f"{reply}: the source was changed although {unchanged} is free"
    if reply != with_source(unchanged, key.source, port) or port not in allowed:
        return f"{reply}: only another source port of the same class, or identifier of the range, resolves a clash"
    return ""

"""The `nat` argument of ct: its text, read and written as Open vSwitch does (ovs-actions(7))."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from flowshunt.conntrack.nat import Address, Nat
from flowshunt.rules.openflow.errors import BadValueError, quote
from flowshunt.rules.openflow.scanner import Context, Item, items
from flowshunt.rules.openflow.values import nearest, read_ipv4, read_ipv6, write_ipv4, write_ipv6

_KINDS = ("src", "dst")
_FLAGS = ("persistent", "hash", "random")
_HINT = "write src=10.0.0.1-10.0.0.9:1024-2047 or src=[2001:db8::1]-[2001:db8::9]:1024-2047"
_RANGE4 = re.compile(r"([^-:]*)(?:-([^-:]*))?(?::(.*))?")
_RANGE6 = re.compile(r"(?:\[([^\]]*)\]|([^-\[\]]*))(?:-(?:\[([^\]]*)\]|([^-\[\]]*)))?(?:(?<=\]):(.*))?")


def read_nat(argument: Item, context: Context) -> Nat:
    """The value of a `nat` argument; BadValueError for what contradicts itself."""
    kind: str | None = None
    text = ""
    flags: set[str] = set()
    for item in items(context.text, argument.value_at, argument.value_at + len(argument.value)):
        if item.key in _KINDS:
            if kind not in (None, item.key):
                raise BadValueError("src and dst exclude each other", "use two zones to translate both", item.key)
            kind, text = item.key, item.value
        elif item.key in _FLAGS:
            flags.add(item.key)
        else:
            hint = nearest(item.key, [*_KINDS, *_FLAGS]) or "src=RANGE or dst=RANGE, and persistent, hash, random"
            raise BadValueError(f"unknown argument {quote(item.key)} of nat", hint, item.key)
    if flags and kind is None:
        raise BadValueError(f"{sorted(flags)[0]} needs src or dst", "write nat(src=RANGE,...)")
    if {"random", "hash"} <= flags:
        raise BadValueError("random and hash exclude each other", "one of them says where the search begins", "random")
    if kind is None or not text:
        return Nat(kind)
    first, last, ports = _read_range(text)
    if int(first) == 0:
        if last not in (None, first) or ports:
            raise BadValueError(f"{quote(text)} is no range", "the address of all zeros means none, and stands alone")
        return Nat(kind)
    options = dict.fromkeys(flags, True)
    try:
        return Nat(kind, first, None if last == first else last, ports, **options)
    except ValueError as problem:
        raise BadValueError(str(problem), _HINT, text) from None


def _read_range(text: str) -> tuple[Address, Address | None, tuple[int, int] | None]:
    is_ipv6 = "[" in text or text.count(":") > 1
    found = (_RANGE6 if is_ipv6 else _RANGE4).fullmatch(text)
    if found is None:
        raise BadValueError(f"{quote(text)} is no range of addresses", _HINT, text)
    if is_ipv6:
        one, plain, other, plain_other, ports = found.groups()
        low, high = one if one is not None else plain, other if other is not None else plain_other
    else:
        low, high, ports = found.groups()
    first = _read_address(low, is_ipv6)
    last = None if high is None else _read_address(high, is_ipv6)
    return first, last, None if ports is None else _read_ports(ports)


def _read_address(text: str, is_ipv6: bool) -> Address:
    if "/" in text:
        raise BadValueError(f"{quote(text)} has a mask", _HINT, text)
    return IPv6Address(read_ipv6(text)[0]) if is_ipv6 else IPv4Address(read_ipv4(text)[0])


def _read_ports(text: str) -> tuple[int, int] | None:
    parts = text.split("-")
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) <= 5]
    if len(parts) > 2 or len(numbers) < len(parts) or max(numbers) > 0xFFFF:
        raise BadValueError(f"{quote(text)} is no range of ports", "write 1024 or 1024-2047", text)
    return None if numbers == [0] else (numbers[0], numbers[-1])


def write_nat(nat: Nat) -> str:
    """A nat argument as Open vSwitch prints it."""
    if nat.kind is None:
        return "nat"
    words = [nat.kind if nat.first is None else f"{nat.kind}={_write_range(nat)}"]
    if nat.first is not None:
        words += [flag for flag in _FLAGS if getattr(nat, flag)]
    return f"nat({','.join(words)})"


def _write_range(nat: Nat) -> str:
    addresses = [address for address in (nat.first, nat.last) if address is not None]
    bracket = addresses[0].version == 6 and nat.ports is not None
    texts = [
        write_ipv4(int(address)) if address.version == 4 else f"[{write_ipv6(int(address))}]" if bracket
        else write_ipv6(int(address))
        for address in addresses
    ]  # fmt: skip
    ports = ""
    if nat.ports is not None:
        ports = f":{nat.ports[0]}" if nat.ports[0] == nat.ports[1] else f":{nat.ports[0]}-{nat.ports[1]}"
    return "-".join(texts) + ports

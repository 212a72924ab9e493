"""How values are written: numbers, addresses, flags, ports. Readers give (value, mask) and raise `BadValueError`."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

from flowshunt.packet.schema import FRAG_ANY, FRAG_LATER
from flowshunt.rules.openflow.errors import BadValueError, quote

PORT_MAX = 0xFEFF
"""Highest number of a real port."""
PORT_UNSET, PORT_IN_PORT, PORT_TABLE, PORT_NORMAL, PORT_FLOOD, PORT_ALL, PORT_CONTROLLER, PORT_LOCAL, PORT_NONE = range(
    0xFFF7, 0x10000
)
RESERVED_PORTS: Mapping[str, int] = MappingProxyType(
    {
        "unset": PORT_UNSET,
        "in_port": PORT_IN_PORT,
        "table": PORT_TABLE,
        "normal": PORT_NORMAL,
        "flood": PORT_FLOOD,
        "all": PORT_ALL,
        "controller": PORT_CONTROLLER,
        "local": PORT_LOCAL,
        "any": PORT_NONE,
        "none": PORT_NONE,
    }
)
_RESERVED_NAMES = {number: name.upper() for name, number in RESERVED_PORTS.items() if name != "none"}
_PORTS_32 = 0xFFFF0000  # what OpenFlow 1.1 adds to the reserved numbers

CT_STATE_FLAGS = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")
TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]")

_FRAGMENTS = {
    "no": (0, FRAG_ANY | FRAG_LATER),
    "yes": (FRAG_ANY, FRAG_ANY),
    "first": (FRAG_ANY, FRAG_ANY | FRAG_LATER),
    "later": (FRAG_LATER, FRAG_LATER),
    "not_later": (0, FRAG_LATER),
}
_FRAGMENT_NAMES = {pair: name for name, pair in _FRAGMENTS.items()}

MAC_FULL = (1 << 48) - 1
IPV4_FULL = (1 << 32) - 1
IPV6_FULL = (1 << 128) - 1
U64_FULL = (1 << 64) - 1
_LONGEST_NUMBER = 80


def nearest(word: str, known: list[str]) -> str:
    """A hint that names what `word` may have meant, or nothing."""
    near = get_close_matches(word[:64].lower(), known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def read_int(text: str, width: int) -> int:
    """A number as C writes it: decimal, 0x hexadecimal, or octal with a leading 0; -1 and the like in 64 bits."""
    if text.isdigit() and text.isascii() and len(text) <= 20 and (text[0] != "0" or len(text) == 1):
        value = int(text)  # the usual case, quickly
    else:
        value = _read_odd_int(text)
    if value < 0 and width >= 64:
        value &= U64_FULL
    if value < 0 or value >> width:
        raise BadValueError(f"{quote(text)} does not fit into {width} bits", f"0 to {_limit(width)}", text)
    return value


def _read_odd_int(text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[:1] == "0" and len(digits) > 1 else 10
    if digits.isascii() and digits.isalnum() and len(digits) <= _LONGEST_NUMBER:
        try:
            value = int(digits, base) if base != 8 else int(digits[1:], 8)
        except ValueError:
            pass
        else:
            return -value if text[0] == "-" else value
    raise BadValueError(f"{quote(text)} is not a number" if text else "a number is missing", "write 80 or 0x50", text)


def _limit(width: int) -> str:
    return str((1 << width) - 1) if width <= 16 else f"{(1 << width) - 1:#x}"


def read_masked_int(text: str, width: int) -> tuple[int, int]:
    """`value` or `value/mask`."""
    value, slash, mask = text.partition("/")
    return read_int(value, width), read_int(mask, width) if slash else (1 << width) - 1


def read_mac(text: str, width: int = 48) -> tuple[int, int]:
    """`xx:xx:xx:xx:xx:xx`, or two of them with a slash between."""
    value, slash, mask = text.partition("/")
    return _read_one_mac(value, text), _read_one_mac(mask, text) if slash else MAC_FULL


def _read_one_mac(text: str, whole: str) -> int:
    octets = text.split(":", 6)
    try:
        if len(octets) == 6 and text.isascii() and all(0 < len(octet) <= 2 and octet.isalnum() for octet in octets):
            value = 0
            for octet in octets:
                value = value << 8 | int(octet, 16)
            return value
    except ValueError:
        pass
    raise BadValueError(f"{quote(whole)} is not an Ethernet address", "write 00:11:22:33:44:55, or address/mask")


def read_ipv4(text: str, width: int = 32) -> tuple[int, int]:
    """`a.b.c.d`, `a.b.c.d/24` or `a.b.c.d/255.255.255.0`."""
    address, slash, mask = text.partition("/")
    value = _read_one_ipv4(address, text)
    if not slash:
        return value, IPV4_FULL
    if "." in mask:
        return value, _read_one_ipv4(mask, text)
    return value, _read_prefix(mask, 32, text)


def _read_one_ipv4(text: str, whole: str) -> int:
    octets = text.split(".", 4)
    if len(octets) == 4 and text.isascii():
        value = 0
        for octet in octets:
            if not octet.isdigit() or len(octet) > 3 or (number := int(octet)) > 255:
                break
            value = value << 8 | number
        else:
            return value
    raise BadValueError(f"{quote(whole)} is not an IPv4 address", "write 10.0.0.1, 10.0.0.0/8 or 10.0.0.0/255.0.0.0")


def _read_prefix(text: str, width: int, whole: str) -> int:
    if not text.isdigit() or not text.isascii() or len(text) > 3 or int(text) > width:
        raise BadValueError(f"{quote(whole)} has no valid mask", f"a prefix length is 0 to {width}")
    length = int(text)
    return (1 << width) - (1 << width - length)


def read_ipv6(text: str, width: int = 128) -> tuple[int, int]:
    """An IPv6 address, alone or with a prefix length or a mask written as an address."""
    address, slash, mask = text.partition("/")
    value = _read_one_ipv6(address, text)
    if not slash:
        return value, IPV6_FULL
    if ":" in mask:
        return value, _read_one_ipv6(mask, text)
    return value, _read_prefix(mask, 128, text)


def _read_one_ipv6(text: str, whole: str) -> int:
    if text.isascii() and len(text) <= 45 and "\0" not in text:
        try:
            return int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
        except OSError:
            pass
    raise BadValueError(f"{quote(whole)} is not an IPv6 address", "write 2001:db8::1, 2001:db8::/32 or ::1/::ffff")


def read_fragment(text: str, width: int = 2) -> tuple[int, int]:
    """Fragment states by their names."""
    pair = _FRAGMENTS.get(text.lower())
    if pair is None:
        raise BadValueError(f"{quote(text)} is not a fragment state", f"one of {', '.join(_FRAGMENTS)}")
    return pair


def _read_flags(text: str, names: tuple[str, ...], what: str) -> tuple[int, int]:
    full = (1 << len(names)) - 1
    if text[:1].isdigit():
        value, mask = read_masked_int(text, 16)
        mask = mask if "/" in text else full
        if (value | mask) & ~full:
            raise BadValueError(f"{quote(text)} has bits that are no {what}", f"0 to {full:#x}")
        return value, mask
    if text[:1] not in ("+", "-"):
        value = 0
        for name in text.removesuffix("|").split("|"):
            value |= 1 << _flag(name, names, what)
        return value, full
    value = mask = 0
    for part in text.replace("-", "+-").split("+")[1:]:
        if not part:
            continue
        bit = 1 << _flag(part.removeprefix("-"), names, what)
        if mask & bit:
            raise BadValueError(f"{quote(text)} gives a {what} twice", "once each, as in +a-b")
        mask |= bit
        value |= 0 if part[0] == "-" else bit
    if not mask:
        raise BadValueError(f"{quote(text)} names no {what}", f"the flags are {', '.join(names)}")
    return value, mask


def _flag(name: str, names: tuple[str, ...], what: str) -> int:
    if name not in names:
        near = nearest(name, list(names))
        raise BadValueError(
            f"unknown {what} {quote(name)}", near or f"write +a-b or a|b with a, b of {', '.join(names)}", name
        )
    return names.index(name)


def read_ct_state(text: str, width: int = 32) -> tuple[int, int]:
    """`+trk-new`: these, whatever the others are; `trk|new`: exactly these; or numbers."""
    return _read_flags(text, CT_STATE_FLAGS, "ct_state flag")


def read_tcp_flags(text: str, width: int = 12) -> tuple[int, int]:
    """`+syn-ack`: these, whatever the others are; `syn|ack`: exactly these; or numbers."""
    return _read_flags(text, TCP_FLAGS, "TCP flag")


def read_port(text: str, ports: Mapping[str, int]) -> int:
    """A port by number (decimal, of OpenFlow 1.0 or 1.1), reserved name in any case, or name, quoted or not."""
    if text.isdigit() and text.isascii() and len(text) <= 10:
        number = int(text)
        if number > 0xFFFF:
            number -= _PORTS_32
        if not 0 <= number <= 0xFFFF:
            raise BadValueError(f"port {text} is out of range", f"0 to {PORT_MAX}, or {_PORTS_32 + 0xFF00} and above")
        return number
    reserved = RESERVED_PORTS.get(text.lower())
    if reserved is not None:
        return reserved
    found = ports.get(unquote(text))
    if found is None:
        hint = nearest(text, [*ports]) or "write a number, a name of the switch's ports, or LOCAL"
        raise BadValueError(f"unknown port {quote(text)}" if text else "a port is missing", hint)
    return found


def unquote(text: str) -> str:
    """The name in double quotes, or `text` when there are none."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text
    return text


_PLAIN_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-@")


def write_port(number: int, ports: Mapping[int, str] | None = None) -> str:
    """A port's name where there is one, quoted where it would be read as something else, or its number."""
    if number in _RESERVED_NAMES:
        return _RESERVED_NAMES[number]
    name = ports.get(number) if ports else None
    if not name or any(c in ' ,:=()#"\\' or not c.isprintable() for c in name):
        return str(number)
    if name[0].isalpha() and _PLAIN_NAME.issuperset(name) and name.lower() not in RESERVED_PORTS:
        return name
    return json.dumps(name)


def write_mac(value: int, mask: int = MAC_FULL) -> str:
    """An Ethernet address, with its mask where it has one."""
    text = value.to_bytes(6, "big").hex(":")
    return text if mask == MAC_FULL else f"{text}/{mask.to_bytes(6, 'big').hex(':')}"


def _prefix_length(mask: int, width: int) -> int | None:
    """The length of the prefix that `mask` is, None when it is not one."""
    low = (1 << width) - 1 - mask
    return width - low.bit_length() if low & (low + 1) == 0 else None


def write_ipv4(value: int, mask: int = IPV4_FULL) -> str:
    """An IPv4 address, with prefix length or dotted mask where it has one."""
    text = ".".join(map(str, value.to_bytes(4, "big")))
    if mask == IPV4_FULL:
        return text
    length = _prefix_length(mask, 32)
    return f"{text}/{'.'.join(map(str, mask.to_bytes(4, 'big'))) if length is None else length}"


def write_ipv6(value: int, mask: int = IPV6_FULL) -> str:
    """An IPv6 address, with prefix length or mask where it has one."""
    text = socket.inet_ntop(socket.AF_INET6, value.to_bytes(16, "big"))
    if mask == IPV6_FULL:
        return text
    length = _prefix_length(mask, 128)
    return f"{text}/{socket.inet_ntop(socket.AF_INET6, mask.to_bytes(16, 'big')) if length is None else length}"


def write_flags(value: int, mask: int, names: tuple[str, ...]) -> str:
    """Flags: exactly these as a|b, where the mask leaves others open as +a-b."""
    if mask == (1 << len(names)) - 1:
        return "|".join(name for bit, name in enumerate(names) if value >> bit & 1) or "0"
    return "".join(("+" if value >> b & 1 else "-") + name for b, name in enumerate(names) if mask >> b & 1)


def write_fragment(value: int, mask: int) -> str:
    """A fragment state by its name; ValueError for what has none."""
    name = _FRAGMENT_NAMES.get((value, mask))
    if name is None:
        raise ValueError(f"nw_frag {value}/{mask} has no name")
    return name


Reader = Callable[[str, int], tuple[int, int]]

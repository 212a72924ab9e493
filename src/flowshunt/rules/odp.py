"""Frames from the text of datapath flows, `eth(src=…,dst=…),eth_type(0x0800),ipv4(…),udp(src=1,dst=2)`.

The notation of `netdev-dummy/receive` and of `ovs-dpctl`. Fields that say nothing about bytes (in_port, recirc_id,
ct_state, …) are read over; masks too. What is not said is zero.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from struct import pack

from flowshunt.packet.schema import ETH_VLAN

PAYLOAD_SIZE = 64
"""Bytes behind the transport header, unless a size is asked for; none behind a TCP packet with SYN, FIN or RST."""

_SILENT = re.compile(r"(in_port|recirc_id|dp_hash|skb_\w+|ct_\w+|packet_type|tunnel)$")
_ITEM = re.compile(r"\s*,?\s*([a-z_0-9]+)\(")
_MOST_BEFORE_TAG = 12 + 4 * 8
"""Bytes of a frame that encap() may stand behind: each takes as long to read as the text is long."""
_NO_ADDRESS = "00:00:00:00:00:00"
_NO_ADDRESSES = {"src": _NO_ADDRESS, "dst": _NO_ADDRESS}
_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns")
_NO_PAYLOAD = 0b111  # FIN, SYN, RST
_FRAG = {"no": 0, "first": 0x2000, "later": 0x0010}
_TYPES = {"ipv4": 0x0800, "ipv6": 0x86DD, "arp": 0x0806}
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}

Fields = dict[str, str]


class OdpError(ValueError):
    """What is no text of a flow; the message is the rest that was not understood."""


def frame(text: str, size: int | None = None) -> bytes:
    """The frame that a flow describes, with right checksums, `size` bytes long if that is more than its headers.

    Raises OdpError.
    """
    if not text.strip():
        raise OdpError(text)
    items = _items(text)
    try:
        return _link(items, text, size)
    except (ValueError, KeyError) as error:
        raise OdpError(text) from error


def _items(text: str) -> dict[str, str]:
    """`name(content)` by name."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip()):
        item = _ITEM.match(text, at)
        if item is None:
            raise OdpError(text)
        depth, end = 1, item.end()
        while depth:
            if end >= len(text):
                raise OdpError(text)
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        found[item.group(1)] = text[item.end() : end - 1]
        at = end
    return {name: content for name, content in found.items() if not _SILENT.match(name)}


def _fields(content: str) -> Fields:
    pairs = (part.partition("=") for part in content.split(",") if part)
    return {key.strip(): value.partition("/")[0].strip() for key, _, value in pairs}


def _number(fields: Fields, name: str, default: int = 0) -> int:
    return int(fields[name], 0) if name in fields else default


def _mac(text: str) -> bytes:
    return bytes(int(part, 16) for part in text.split(":"))


def _link(items: dict[str, str], text: str, size: int | None) -> bytes:
    eth = _NO_ADDRESSES | _fields(items.get("eth", ""))
    head = _mac(eth["dst"]) + _mac(eth["src"])
    if len(head) != 12:
        raise OdpError(text)
    while "encap" in items:
        if len(head) > _MOST_BEFORE_TAG:
            raise OdpError(text)
        head += pack(">H", int(items.get("eth_type", "0x8100"), 0)) + _tag(items)
        items = {name: items[name] for name in items if name not in ("eth_type", "vlan", "encap")} | _items(
            items["encap"]
        )
    if "vlan" in items:
        head += pack(">H", ETH_VLAN) + _tag(items)
    kind = next((name for name in _TYPES if name in items), None)
    head += pack(">H", _TYPES[kind] if kind else int(items.get("eth_type", "0x05ff"), 0))
    wanted = None if size is None else size - len(head)
    body = {"ipv4": _ipv4, "ipv6": _ipv6, "arp": _arp}[kind](items, wanted) if kind else b""
    return (head + body).ljust(size or 0, b"\0")


def _tag(items: dict[str, str]) -> bytes:
    fields = _fields(items.get("vlan", ""))
    return pack(">H", _number(fields, "pcp") << 13 | _number(fields, "vid"))


def _arp(items: dict[str, str], size: int | None) -> bytes:
    fields = _fields(items["arp"])
    sender, target = (IPv4Address(fields.get(name, "0.0.0.0")).packed for name in ("sip", "tip"))
    source, destination = (_mac(fields.get(name, _NO_ADDRESS)) for name in ("sha", "tha"))
    return pack(">HHBBH", 1, 0x0800, 6, 4, _number(fields, "op")) + source + sender + destination + target


def _ipv4(items: dict[str, str], size: int | None) -> bytes:
    fields = _fields(items["ipv4"])
    source, destination = (IPv4Address(fields.get(name, "0.0.0.0")).packed for name in ("src", "dst"))
    protocol, place = _number(fields, "proto"), _FRAG[fields.get("frag", "no")]
    later = place == _FRAG["later"]
    body = b"" if later else _transport(items, protocol, source, destination, None if size is None else size - 20)
    head = pack(">BBHHHBB", 0x45, _number(fields, "tos"), 20 + len(body), 0, place, _number(fields, "ttl"), protocol)
    checksum = _internet(head + b"\0\0" + source + destination)
    return head + pack(">H", checksum) + source + destination + body


def _ipv6(items: dict[str, str], size: int | None) -> bytes:
    fields = _fields(items["ipv6"])
    source, destination = (IPv6Address(fields.get(name, "::")).packed for name in ("src", "dst"))
    protocol = _number(fields, "proto")
    body = _transport(items, protocol, source, destination, None if size is None else size - 40)
    first = 6 << 28 | _number(fields, "tclass") << 20 | _number(fields, "label")
    return pack(">IHBB", first, len(body), protocol, _number(fields, "hlimit")) + source + destination + body


def _transport(items: dict[str, str], protocol: int, source: bytes, destination: bytes, size: int | None) -> bytes:
    name = next((name for name, number in _PROTOCOLS.items() if number == protocol), None)
    if name is None:
        return b""
    fields = _fields(items.get(name, ""))
    pseudo = source + destination + pack(">II", 0, protocol)
    ports = pack(">HH", _number(fields, "src"), _number(fields, "dst")) if "src" in fields else b"\0" * 4
    if name == "tcp":
        flags = _tcp_flags(items.get("tcp_flags", "0"))
        head = ports + bytes(8) + pack(">HH", 5 << 12 | flags, 0)
        payload = _payload(size, 20, 0 if flags & _NO_PAYLOAD else PAYLOAD_SIZE)
        return _summed(head, b"\0\0", payload, pseudo)
    if name == "udp":
        payload = _payload(size, 8)
        return _summed(ports + pack(">H", 8 + len(payload)), b"", payload, pseudo)
    if name == "sctp":
        return ports + bytes(8)
    head = pack(">BB", _number(fields, "type"), _number(fields, "code"))
    rest = bytes(4) + (_neighbour(_fields(items["nd"])) if "nd" in items else _payload(size, 8))
    return _summed(head, rest, b"", pseudo if name == "icmpv6" else b"")


def _neighbour(fields: Fields) -> bytes:
    """The target of a neighbour solicitation or advertisement, and its options."""
    body = IPv6Address(fields["target"]).packed
    for kind, name in ((1, "sll"), (2, "tll")):
        if name in fields:
            body += bytes((kind, 1)) + _mac(fields[name])
    return body


def _payload(size: int | None, head: int, default: int = PAYLOAD_SIZE) -> bytes:
    length = default if size is None else max(size - head, 0)
    return bytes(n & 0xFF for n in range(length))


def _tcp_flags(text: str) -> int:
    words = [word for word in re.split(r"[|+,\s]+", text.partition("/")[0]) if word and not word.startswith("-")]
    return sum(1 << _FLAGS.index(word) if word in _FLAGS else int(word, 0) for word in words)


def _summed(head: bytes, tail: bytes, payload: bytes, pseudo: bytes) -> bytes:
    """`head`, the checksum, `tail` and `payload`."""
    length = len(head) + 2 + len(tail) + len(payload)
    if pseudo:
        pseudo = pseudo[:-8] + pack(">II", length, int.from_bytes(pseudo[-4:], "big"))
    checksum = _internet(pseudo + head + b"\0\0" + tail + payload)
    return head + pack(">H", checksum) + tail + payload


def _internet(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

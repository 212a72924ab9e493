"""The FTP helper: announcements of data connections on a control connection (RFC 959, RFC 2428).

Commands count from the client only, replies from the server only. An announcement is a whole line that begins at the
beginning of a line and ends in CRLF; whether the address in it may be believed is not judged here.
"""

from __future__ import annotations

import re
from functools import partial
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from flowshunt.conntrack.connection import Address
from flowshunt.conntrack.helpers.api import NOTHING, Announcement, Findings, Helper
from flowshunt.conntrack.helpers.lines import Lines
from flowshunt.conntrack.states import HELPER_NAMES
from flowshunt.packet.schema import PROTO_TCP

CLIENT, SERVER = 0, 1

_NUMBERS = rb"\d{1,3}(?:,\d{1,3}){5}"
_DELIMITER = rb"([!-/:-~])"  # RFC 2428 section 2: printable; a digit would be ambiguous
_PORT = re.compile(rb"PORT +(" + _NUMBERS + rb") *\r\n", re.IGNORECASE)
_EPRT = re.compile(rb"EPRT +(" + _DELIMITER + rb"([12])\2([0-9A-Fa-f:.]{2,45})\2(\d{1,5})\2) *\r\n", re.IGNORECASE)
_PASV = re.compile(rb"227 [^0-9\r\n]*(" + _NUMBERS + rb")(?:[^0-9,\r\n][^\r\n]*)?\r\n")
_EPSV = re.compile(rb"229 [^(\r\n]*\(" + _DELIMITER + rb"\1\1(\d{1,5})\1\)[^\r\n]*\r\n")
_MARKS = {CLIENT: (b"PORT ", b"EPRT "), SERVER: (b"227 ", b"229 ")}
"""How announcements begin, by who sends them."""


def _spell_numbers(address: Address, port: int) -> bytes:
    """An IPv4 address and a port in the six numbers of RFC 959."""
    return ",".join(map(str, (*address.packed, port >> 8, port & 0xFF))).encode()


def _spell_extended(delimiter: bytes, address: Address, port: int) -> bytes:
    """The argument of EPRT."""
    family = b"1" if address.version == 4 else b"2"
    return delimiter + delimiter.join((family, str(address).encode(), str(port).encode())) + delimiter


def _spell_port(address: Address, port: int) -> bytes:
    return str(port).encode()


def _read_numbers(match: re.Match[bytes]) -> Announcement | None:
    numbers = [int(number) for number in match[1].split(b",")]
    port = numbers[4] << 8 | numbers[5]
    if max(numbers) > 0xFF or port == 0:
        return None
    return Announcement(IPv4Address(bytes(numbers[:4])), port, *match.span(1), _spell_numbers)


def _read_extended(match: re.Match[bytes]) -> Announcement | None:
    kind: type[IPv4Address] | type[IPv6Address] = IPv4Address if match[3] == b"1" else IPv6Address
    port = int(match[5])
    try:
        address = kind(match[4].decode())
    except AddressValueError:
        return None
    if not 0 < port <= 0xFFFF:
        return None
    return Announcement(address, port, *match.span(1), partial(_spell_extended, match[2]))


def _read_port(match: re.Match[bytes]) -> Announcement | None:
    port = int(match[2])
    return Announcement(None, port, *match.span(2), _spell_port) if 0 < port <= 0xFFFF else None


_FORMS = {
    CLIENT: ((_PORT, _read_numbers), (_EPRT, _read_extended)),
    SERVER: ((_PASV, _read_numbers), (_EPSV, _read_port)),
}


def read_line(line: bytes, sender: int) -> Announcement | None:
    """The announcement in a whole line of CLIENT or SERVER, `start` and `end` counted from its beginning; or None."""
    for pattern, read in _FORMS[sender]:
        match = pattern.fullmatch(line)
        if match is not None:
            return read(match)
    return None


def may_announce(line: bytes, sender: int) -> bool:
    """Whether a line, or the beginning of one, is that of an announcement as far as it goes."""
    head = line[:5].upper()
    return any(mark.startswith(head[: len(mark)]) for mark in _MARKS[sender]) and bool(head)


class Control:
    """A control connection under observation."""

    __slots__ = ("_lines",)

    def __init__(self, synchronized: tuple[bool, bool] = (True, True)) -> None:
        self._lines = Lines(synchronized[0]), Lines(synchronized[1])

    def inspect(self, direction: int, seq: int, payload: bytes) -> Findings:
        """See `Session.inspect`."""
        stream = self._lines[direction]
        announcements = []
        malformed = 0
        for text, start in stream.feed(seq, payload):
            if not may_announce(text, direction):
                continue
            found = read_line(text, direction)
            if found is None:
                malformed += 1
            else:
                within = (start + found.start, start + found.end) if start >= 0 else (-1, -1)
                announcements.append(found._replace(start=within[0], end=within[1]))
        unfinished = may_announce(stream.rest, direction)
        if not (announcements or malformed or unfinished):
            return NOTHING
        return Findings(tuple(announcements), malformed, unfinished)


HELPER = Helper("ftp", HELPER_NAMES.index("ftp"), PROTO_TCP, 21, Control)

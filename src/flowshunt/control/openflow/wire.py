"""Headers and numbers that all messages share: versions, framing, alignment, ports.

A message is a header of 8 bytes (version, type, length, xid) and a body. Its length has 16 bits: no message is longer
than `MAX_MESSAGE`. Everything is big-endian.
"""

from __future__ import annotations

from struct import Struct

OF10, OF11, OF12, OF13, OF14, OF15 = range(1, 7)
"""Wire numbers of the versions."""
VERSIONS = frozenset(range(OF10, OF15 + 1))

NX = 0x00002320
"""Experimenter number of Nicira, under which Open vSwitch's extensions go."""
ONF = 0x4F4E4600

HEADER = Struct("!BBHI")
HEADER_SIZE = HEADER.size
MAX_MESSAGE = 0xFFFF
MAX_ENTRY = MAX_MESSAGE - 40
"""Bytes of one entry of a multipart reply: around it are headers of message, multipart and experimenter."""

NO_BUFFER = 0xFFFFFFFF

PORT_MAX = 0xFEFF
PORT_TABLE = 0xFFF9
PORT_NORMAL = 0xFFFA
PORT_CONTROLLER = 0xFFFD
PORT_LOCAL = 0xFFFE
PORT_NONE = 0xFFFF
_PORTS_32 = 0xFFFF0000
_FIRST_RESERVED_32 = 0xFFFFFF00

GROUP_ALL = 0xFFFFFFFC
GROUP_ANY = 0xFFFFFFFF

TABLE_ALL = 0xFF


def frame(version: int, message_type: int, xid: int, body: bytes) -> bytes:
    """One message. Raises ValueError for a body that is too long, which only a caller's mistake can bring about."""
    size = HEADER_SIZE + len(body)
    if size > MAX_MESSAGE:
        raise ValueError(f"a message of {size} bytes does not fit, the limit is {MAX_MESSAGE}")
    return HEADER.pack(version, message_type, size, xid) + body


def padded(data: bytes, size: int = 8) -> bytes:
    """`data` with zeros up to a multiple of `size`."""
    return data + bytes(-len(data) % size)


def align(size: int) -> int:
    """The next multiple of 8."""
    return (size + 7) & ~7


def port_from_32(port: int) -> int | None:
    """A port number of OpenFlow 1.1 and later in 16 bits, None for one that has no such number."""
    if port >= _FIRST_RESERVED_32:
        return port - _PORTS_32
    return port if port <= PORT_MAX else None


def port_to_32(port: int) -> int:
    """A port number of 16 bits as OpenFlow 1.1 and later have it."""
    return port + _PORTS_32 if port > PORT_MAX else port

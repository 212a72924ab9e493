"""What a helper is: bytes of a control connection in, announced connections out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from flowshunt.conntrack.connection import Address


class Announcement(NamedTuple):
    """A connection that the sender of a message invites its peer to open to it.

    That covers all cases: PORT and EPRT (the server connects to the client), the answers to PASV and EPSV (the client
    connects to the server), and a TFTP request (the server answers from a port of its choice).

    `address` is the sender's as the message has it; None: none is named, it is the sender's own. `port` 0 is the
    sender's own, too. `start` and `end` bound what names both within the segment, and `spell(address, port)` says the
    same of others; without `spell` there is nothing to say. `start` is -1 when it is not in this segment as a whole.
    """

    address: Address | None
    port: int
    start: int = -1
    end: int = -1
    spell: Callable[[Address, int], bytes] | None = None


class Findings(NamedTuple):
    """What one segment says. `malformed` counts messages that should announce something, and can't be read.

    `unfinished`: it ends within a message that may be an announcement.
    """

    announcements: tuple[Announcement, ...] = ()
    malformed: int = 0
    unfinished: bool = False


NOTHING = Findings()


class Session(Protocol):
    """A helper's memory of one connection, bounded whatever is sent."""

    def inspect(self, direction: int, seq: int, payload: bytes) -> Findings:
        """What a packet of the connection says. Never raises for what peers send.

        `direction`: 0 from the side that opened the connection. `seq`: TCP sequence number of the first byte of
        `payload` as the sender counts, 0 for other protocols.
        """


class Helper(NamedTuple):
    """A helper: its name in rules and listings, its number in EXT records, the IP protocol and the well-known port.

    `open(synchronized)` begins a session; the pair tells by direction whether the stream is seen from its first byte.
    """

    name: str
    number: int
    protocol: int
    port: int
    open: Callable[[tuple[bool, bool]], Session]

"""The TFTP helper: the answer to a request comes from a port that the server chooses (RFC 1350 section 4)."""

from __future__ import annotations

from flowshunt.conntrack.helpers.api import NOTHING, Announcement, Findings, Helper
from flowshunt.conntrack.states import HELPER_NAMES
from flowshunt.packet.schema import PROTO_UDP

_READ, _WRITE = 1, 2
_ANSWER = Findings((Announcement(None, 0),))
_MALFORMED = Findings(malformed=1)


class Requests:
    """The requests of one client port. Nothing has to be remembered."""

    __slots__ = ()

    def __init__(self, synchronized: tuple[bool, bool] = (True, True)) -> None:
        """A datagram is complete in itself, so `synchronized` does not matter."""

    def inspect(self, direction: int, seq: int, payload: bytes) -> Findings:
        """See `Session.inspect`. A request names a file and a mode, each ended by a zero byte."""
        if direction != 0 or len(payload) < 2 or payload[0] != 0 or payload[1] not in (_READ, _WRITE):
            return NOTHING
        name, *rest = payload[2:].split(b"\0", 2)
        return _ANSWER if name and len(rest) == 2 and rest[0] else _MALFORMED


HELPER = Helper("tftp", HELPER_NAMES.index("tftp"), PROTO_UDP, 69, Requests)

"""The rules for fragments once more, as plainly as they can be said: bytes are kept one by one in dicts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class NaiveDatagram:
    there: dict[int, int] = field(default_factory=dict)
    end: int = 0
    total: int | None = None
    n_fragments: int = 0
    refused: bool = False


class NaiveFragments:
    """One family, no limits of memory and time."""

    def __init__(self, header_size: int, most_per_datagram: int = 1024) -> None:
        self._datagrams: dict[int, NaiveDatagram] = {}
        self._header_size = header_size
        self._most = most_per_datagram

    def take(self, id: int, offset: int, payload: bytes, more: bool) -> str | bytes:
        """What becomes of a fragment: `held`, the counter of why it is refused, or the whole payload."""
        end = offset + len(payload)
        if not payload:
            return "empty"
        if end > 65535:
            return "too-long"
        if more and len(payload) % 8:
            return "misaligned"
        datagram = self._datagrams.setdefault(id, NaiveDatagram())
        if datagram.refused:
            return "of-refused-datagram"
        wrong = self._contradiction(datagram, offset, end, more)
        if wrong == "duplicate":
            return wrong
        if wrong:
            self._datagrams[id] = NaiveDatagram(refused=True)
            return wrong
        datagram.there.update(enumerate(payload, offset))
        datagram.end = max(datagram.end, end)
        datagram.n_fragments += 1
        if not more:
            datagram.total = end
        if datagram.total is None or len(datagram.there) < datagram.total:
            return "held"
        if datagram.total + self._header_size > 65535:
            self._datagrams[id] = NaiveDatagram(refused=True)
            return "too-long"
        del self._datagrams[id]
        return bytes(datagram.there[n] for n in range(datagram.total))

    def _contradiction(self, datagram: NaiveDatagram, offset: int, end: int, more: bool) -> str | None:
        if not more and (datagram.total not in (None, end) or datagram.end > end):
            return "inconsistent"
        if more and datagram.total is not None and end > datagram.total:
            return "inconsistent"
        known = [n in datagram.there for n in range(offset, end)]
        if all(known):
            return "duplicate"
        if any(known):
            return "overlapping"
        return "too-many" if datagram.n_fragments >= self._most else None

"""Lines of a TCP stream that passes by: in order, sent again, out of order, with gaps.

A watcher is no receiver: it can't ask for what it missed, and must not judge what it can't read. So a line counts only
from a known beginning, and memory is bounded: the line under way, where the latest lines began (for what is sent
again), and a few segments that are early.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_LINE = 512
"""Bytes of a line, its end included; longer ones are passed over. RFC 959 sets no limit, announcements need few."""
_STARTS = 8
_EARLY_SEGMENTS = 4
_EARLY_BYTES = 4096
_U32 = 0xFFFFFFFF
_HALF = 1 << 31


class Line(NamedTuple):
    """One line with its end, and where it begins in the segment; -1 when it is not in this segment as a whole."""

    text: bytes
    start: int


def _distance(a: int, b: int) -> int:
    """From sequence number `b` to `a`."""
    return ((a - b + _HALF) & _U32) - _HALF


class Lines:
    """One direction of a stream."""

    __slots__ = ("_early", "_next", "_partial", "_skipping", "_starts", "rest")

    def __init__(self, synchronized: bool = True) -> None:
        """`synchronized`: the first byte that will be seen begins a line; otherwise the first line end is awaited."""
        self._next: int | None = None
        self._partial = b""
        self._skipping = not synchronized
        self._starts: list[int] = []
        self._early: dict[int, bytes] = {}
        self.rest = b""
        """The line that the segment last fed leaves open, as far as it is known."""

    @property
    def partial(self) -> bytes:
        """The line under way, at most MAX_LINE bytes; empty while one is passed over."""
        return self._partial

    def feed(self, seq: int, data: bytes) -> list[Line]:
        """The lines that a segment completes, or repeats from the beginning of one."""
        self.rest = b""
        if not data:
            return []
        if self._next is None:
            self._next = seq
            if not self._skipping:
                self._starts.append(seq)
        ahead = _distance(seq, self._next)
        if ahead > 0:
            return self._keep(seq, data)
        if ahead < 0 and seq in self._starts:
            return self._again(seq, data)
        known = -ahead
        if known >= len(data):
            return []
        lines = self._take(data[known:])
        self.rest = self._partial
        if known:
            lines = [Line(text, start + known if start >= 0 else -1) for text, start in lines]
        return lines + self._catch_up()

    def _again(self, seq: int, data: bytes) -> list[Line]:
        """What is sent again from the beginning of a line: read as it stands, and gone on with where it is newer."""
        assert self._next is not None
        end = (seq + len(data)) & _U32
        lines, rest = _split(data)
        self.rest = rest[:MAX_LINE]
        if _distance(end, self._next) > 0:
            self._next = end
            self._begin(rest)
            for text, start in lines:
                self._note((seq + start + len(text)) & _U32)
        return [line for line in lines if len(line.text) <= MAX_LINE] + self._catch_up()

    def _take(self, data: bytes) -> list[Line]:
        """The next bytes of the stream."""
        assert self._next is not None
        held = len(self._partial)
        base = (self._next - held) & _U32
        self._next = (self._next + len(data)) & _U32
        offset = 0
        if self._skipping:
            offset = data.find(b"\n") + 1
            if not offset:
                return []
            self._note((base + offset) & _U32)
        lines, rest = _split((self._partial + data)[offset:], offset)
        for text, start in lines:
            self._note((base + start + len(text)) & _U32)
        self._begin(rest)
        return [Line(text, start - held if start >= held else -1) for text, start in lines if len(text) <= MAX_LINE]

    def _begin(self, rest: bytes) -> None:
        """`rest` is the beginning of a line."""
        self._skipping = len(rest) >= MAX_LINE
        self._partial = b"" if self._skipping else rest

    def _note(self, start: int) -> None:
        self._starts.append(start)
        del self._starts[:-_STARTS]

    def _keep(self, seq: int, data: bytes) -> list[Line]:
        """A segment that is early. When too many are, what is missing is given up: reading begins at the next line."""
        held = sum(map(len, self._early.values()))
        if len(self._early) < _EARLY_SEGMENTS and held + len(data) <= _EARLY_BYTES:
            self._early.setdefault(seq, data)
            return []
        waiting = sorted([*self._early.items(), (seq, data)], key=lambda early: _distance(early[0], seq))
        self._early.clear()
        lines = []
        for at, early in waiting:
            if self._next is None or _distance(at, self._next) > 0:
                self._next, self._partial, self._skipping = at, b"", True
                self._starts.clear()
            known = _distance(self._next, at)
            found = self._take(early[known:]) if known < len(early) else []
            lines += [Line(text, start if at == seq and known == 0 else -1) for text, start in found]
        return lines

    def _catch_up(self) -> list[Line]:
        """Lines of early segments that are due now. They have left already, so none is in this segment."""
        lines: list[Line] = []
        assert self._next is not None
        while due := [seq for seq in self._early if _distance(seq, self._next) <= 0]:
            for seq in due:
                data = self._early.pop(seq)
                known = max(_distance(self._next, seq), 0)
                lines += [Line(text, -1) for text, _ in self._take(data[known:])]
        return lines


def _split(data: bytes, offset: int = 0) -> tuple[list[Line], bytes]:
    """The whole lines of `data` and what is left; starts are counted from `offset`."""
    pieces = data.split(b"\n")
    lines = []
    for piece in pieces[:-1]:
        lines.append(Line(piece + b"\n", offset))
        offset += len(piece) + 1
    return lines, pieces[-1]

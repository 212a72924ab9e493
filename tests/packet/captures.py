"""Reading classic pcap and the reference answers, for tests of the packet layer alone."""

from __future__ import annotations

import struct
from pathlib import Path

_ORDERS = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">"}


def frames_of(path: Path) -> list[tuple[bytes, int]]:
    """The frames of a capture, each with its length on the wire."""
    content = path.read_bytes()
    order = _ORDERS[content[:4]]
    frames, at = [], 24
    while at + 16 <= len(content):
        captured, wire = struct.unpack_from(f"{order}II", content, at + 8)
        frames.append((content[at + 16 : at + 16 + captured], wire))
        at += 16 + captured
    return frames


def states_of(path: Path) -> list[str]:
    """The answer for each packet: `new|trk`, `held`, ..."""
    lines = [line.split(": ", 1) for line in path.read_text().splitlines() if line[:1].isdigit()]
    return [state for _, state in lines]

"""Selecting connections by words."""

from __future__ import annotations

import numpy as np
import pytest

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.selection import Selection
from flowshunt.conntrack.table import Tracker
from tests.builders import Packet, batch_of


def _some() -> Tracker:
    tracker = Tracker(max_connections=64, seed=1)
    v4 = [Packet().eth().ipv4("10.0.0.1", f"192.168.{n}.9").udp(1000 + n, 53).payload(4) for n in range(3)]
    v6 = [Packet().eth().ipv6("2001:db8::1", "2001:db8:ffff::2").tcp(5, 80, seq=1, syn=True)]
    tracker.track(batch_of([*v4, *v6]), commit=True)
    return tracker


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("", [0, 1, 2, 3]),
        ("src=10.0.0.1", [0, 1, 2]),
        ("src=10.0.0.0/8 dport=53", [0, 1, 2]),
        ("dst=192.168.1.9", [1]),
        ("dst=192.168.0.0/23", [0, 1]),
        ("sport=1002,proto=udp", [2]),
        ("proto=6", [3]),
        ("dst=2001:db8:ffff::/48", [3]),
        ("src=0.0.0.0/0", [0, 1, 2]),
        ("src=::/0", [3]),
        ("zone=1", []),
        ("mark=0x0 zone=0 proto=TCP", [3]),
    ],
)
def test_words_select_what_they_say(words: str, rows: list[int]) -> None:
    tracker = _some()

    meant = Selection.parse(words).matches(tracker.arrays.conns, np.arange(len(tracker)))

    assert np.flatnonzero(meant).tolist() == rows


@pytest.mark.parametrize(
    "words", ["src", "source=1.2.3.4", "src=1.2.3", "proto=foo", "sport=70000", "zone=-1", "zone=1 zone=2", "dport="]
)
def test_nonsense_is_refused(words: str) -> None:
    with pytest.raises(UsageError):
        Selection.parse(words)

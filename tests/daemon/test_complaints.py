"""What the log says of packets."""

from __future__ import annotations

import pytest

from flowshunt.daemon.complaints import BigDatagrams
from flowshunt.datapath.fragments.schema import N_TOO_LONG
from flowshunt.datapath.fragments.store import Fragments


def test_datagrams_too_long_to_be_put_together_are_warned_of_once_per_look(caplog: pytest.LogCaptureFixture) -> None:
    fragments = Fragments(n_fragments=1, size=512)
    complaints = BigDatagrams(fragments)
    complaints.look()
    assert caplog.messages == []
    fragments.arrays.counters[0, N_TOO_LONG] += 2
    complaints.look()
    complaints.look()
    assert caplog.messages == ["Unsupported big reassembled v4 packet: 2 so far"]
    fragments.arrays.counters[1, N_TOO_LONG] += 1
    complaints.look()
    assert caplog.messages[1:] == ["Unsupported big reassembled v6 packet: 1 so far"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}

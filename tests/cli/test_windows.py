"""Batches that span little time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.cli.replay.windows import Windowed
from flowshunt.packet.schema import Batch
from tests.cli.fakes import make_batch


class _Source:
    """Batches of given times (ns), which `receive` cuts to its limit."""

    offset, size, errors, is_holding = 0, None, (), False

    def __init__(self, times: list[int], block: int) -> None:
        frames = make_batch([bytes([n % 256]) * 14 for n in range(len(times))])
        frames.packets["time_ns"] = times
        self._batch = frames
        self._at, self._block = 0, block

    def receive(self, limit: int) -> Batch | None:
        if self._at == len(self._batch.packets):
            return None
        end = min(self._at + min(limit, self._block), len(self._batch.packets))
        start, self._at = self._at, end
        return Batch(self._batch.data, self._batch.packets[start:end])


def _drain(source: Windowed, limit: int) -> list[np.ndarray]:
    batches = []
    while (batch := source.receive(limit)) is not None:
        batches.append(batch.packets["time_ns"].copy())
    return batches


def test_a_batch_ends_where_the_window_does() -> None:
    batches = _drain(Windowed(_Source([0, 400, 999, 1000, 1500, 5000], 10), 1000), 10)

    assert [batch.tolist() for batch in batches] == [[0, 400, 999], [1000, 1500], [5000]]


def test_what_waits_for_the_next_window_is_being_held() -> None:
    source = Windowed(_Source([0, 5000], 10), 1000)
    source.receive(10)

    assert source.is_holding


@given(
    gaps=st.lists(st.integers(0, 3000), max_size=40),
    block=st.integers(1, 8),
    limit=st.integers(1, 8),
)
def test_no_packet_is_lost_or_moved_and_no_batch_too_long(gaps: list[int], block: int, limit: int) -> None:
    times = np.cumsum([0, *gaps]).tolist()

    batches = _drain(Windowed(_Source(times, block), 1000), limit)

    assert [time for batch in batches for time in batch.tolist()] == times
    assert all(len(batch) <= limit and batch[-1] - batch[0] < 1000 for batch in batches)

"""The parser stays fast: a floor far below what it does, above what it did if a reference count crept in."""

from __future__ import annotations

import time

import pytest

from flowshunt.packet.parse import parse_batch
from tests.builders import batch_of
from tests.packet.kernels import keys_of
from tests.packet.samples import V4

FLOOR_MPPS = 30
SIZE = 256
ROUNDS = 400


@pytest.mark.needs_jit
def test_parsing_small_udp_frames() -> None:
    data, packets = batch_of([V4.udp(1000, 53).payload(18)] * SIZE)
    keys = keys_of(SIZE)
    parse_batch(data, packets, keys, SIZE)
    best = 0.0
    for _ in range(9):
        began = time.thread_time_ns()
        for _ in range(ROUNDS):
            parse_batch(data, packets, keys, SIZE)
        best = max(best, SIZE * ROUNDS * 1e3 / (time.thread_time_ns() - began))
    assert best > FLOOR_MPPS, f"{best:.1f} million packets a second"

"""Memory that grows without moving."""

from __future__ import annotations

import numpy as np

from flowshunt.conntrack.memory import commit, release, reserve


def test_committing_memory_changes_nothing_in_it() -> None:
    array = reserve(np.int64, 1 << 20)
    array[7], array[-1] = 3, 4
    commit(array, 0, 1 << 19)
    commit(array[5:], 100, 1 << 30)  # no further than there is
    commit(array, 9, 9)
    assert array[7] == 3 and array[-1] == 4 and not array[8:-1].any()


def test_released_memory_reads_as_zero() -> None:
    array = reserve(np.int64, 1 << 12)
    array[:] = 1
    release(array, 512, 1024)
    assert not array[512:1024].any() and array[:512].all() and array[1024:].all()

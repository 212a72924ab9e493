"""Work in threads that nobody waits for."""

from __future__ import annotations

import threading

import pytest

from flowshunt.base.background import in_background


def test_work_is_done_elsewhere_and_its_result_can_be_had() -> None:
    may = threading.Event()

    def work() -> int:
        assert may.wait(20)
        return threading.get_ident()

    future = in_background(work)
    assert not future.done()
    may.set()
    assert future.result(20) != threading.get_ident()


def test_what_it_raises_is_for_who_asks() -> None:
    def fail() -> None:
        raise OSError(16, "busy")

    with pytest.raises(OSError, match="busy"):
        in_background(fail).result(20)

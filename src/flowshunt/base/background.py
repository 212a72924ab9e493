"""Work that takes the kernel long, in a thread of its own."""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")


def in_background(work: Callable[[], _Result]) -> Future[_Result]:
    """Call `work()` in a new thread, soon; the future has its result, or its exception.

    `threading.Thread.start`, and executors with it, wait until a new thread has had its first turn, which on a busy
    machine takes tens of milliseconds; this does not. The end of the process does not wait for such a thread, and none
    begins any more once the interpreter ends: then nothing is done, and nobody is answered.
    """
    future: Future[_Result] = Future()
    if sys.is_finalizing():
        return future

    def run() -> None:
        try:
            result = work()
        except BaseException as problem:  # noqa: BLE001  (it is for who asks)
            future.set_exception(problem)
        else:
            future.set_result(result)

    _thread.start_new_thread(run, ())
    return future

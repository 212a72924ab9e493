"""What signals mean to a switch: SIGTERM and SIGINT end it, SIGHUP opens its log anew."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGINT)


def ignore_hangup() -> None:
    """Let SIGHUP do nothing: it would end a process that does not handle it yet, or no more."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def handled(stop: asyncio.Event, hang_up: Callable[[], object]) -> Iterator[None]:
    """In the running loop: set `stop` when the switch is to end, call `hang_up()` at each SIGHUP."""
    loop = asyncio.get_running_loop()
    for number in ENDING:
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        ignore_hangup()
        for number in ENDING:
            loop.remove_signal_handler(number)

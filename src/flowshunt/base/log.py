"""Logging for control code: one logger per module, and no message that floods.

The packet path never logs; what happens to packets is counted. Nothing here configures handlers: without any, Python
prints warnings to standard error, and a program that embeds Flowshunt decides for itself.
"""

from __future__ import annotations

import logging

from flowshunt.base.clock import Clock, SystemClock

INTERVAL_NS = 10_000_000_000
"""The window in which one message is let through at most `BURST` times."""

BURST = 5


class RateLimit(logging.Filter):
    """Lets each message through `burst` times per interval; the next one after that says how many were left out.

    A message is told by its logger, level and text before formatting, so the same event with other arguments counts as
    the same. `is_on` may be cleared: then everything passes.
    """

    def __init__(self, clock: Clock, *, burst: int = BURST, interval_ns: int = INTERVAL_NS) -> None:
        super().__init__()
        self.is_on = True
        self._clock = clock
        self._burst = burst
        self._interval_ns = interval_ns
        self._windows: dict[tuple[str, int, str], tuple[int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes; one that ends a silence gets the number of those left out appended."""
        if not self.is_on:
            return True
        now = self._clock.now_ns()
        key = (record.name, record.levelno, str(record.msg))
        start, count = self._windows.get(key, (now, 0))
        if now - start >= self._interval_ns:
            left_out = max(0, count - self._burst)
            if left_out:
                record.msg = f"{record.msg} (and {left_out} more like it)"
            start, count = now, 0
        self._windows[key] = (start, count + 1)
        return count < self._burst


def logger(module: str) -> logging.Logger:
    """The rate-limited logger of a module; call it once, with `__name__`."""
    named = logging.getLogger(module)
    if not any(isinstance(limit, RateLimit) for limit in named.filters):
        named.addFilter(RateLimit(SystemClock()))
    return named

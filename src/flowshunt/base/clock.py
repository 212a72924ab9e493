"""Time, for the few modules that may ask for it.

Everything that depends on time takes `now` (int64 milliseconds since the epoch; nanoseconds are named `_ns`). Whoever
drives a switch reads a clock once per batch and passes the answer down: the system's for live ports, a `ManualClock`
set from the packets for captures and in tests.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeGuard

from flowshunt.base.errors import UsageError

_END_MS = 1 << 53
"""Times that numbers of JSON have exactly are before it."""


class Clock(Protocol):
    """Where `now` comes from."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch; never less than the answer before."""
        ...


class SystemClock:
    """The machine's clock as it was when this one was made, and from then on what has really passed.

    When somebody sets the machine's clock, nothing expires too early, and nothing lives until it has caught up. Any
    thread may ask.
    """

    def __init__(self) -> None:
        self._began_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def now_ns(self) -> int:
        """Nanoseconds since the epoch; never less than the answer before."""
        return self._began_ns + time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class ManualClock:
    """A clock that moves only when it is told to."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """The time it was last set to."""
        return self._now_ns

    def advance_to(self, now_ns: int) -> None:
        """Move to `now_ns`; an earlier time leaves the clock where it is, as captures are not always in order."""
        self._now_ns = max(self._now_ns, now_ns)

    def advance(self, by_ns: int) -> None:
        """Move on by `by_ns`. A negative step raises `UsageError` and changes nothing."""
        if by_ns < 0:
            raise UsageError(f"a clock cannot go back by {-by_ns} ns", hint="use a new ManualClock")
        self._now_ns += by_ns


class Moment(NamedTuple):
    """When something was, for another process: its clock may have begun elsewhere, and been set since.

    `wall_ms`: by the machine's clock, since the epoch. `boot`: which start of the machine, empty where it does not say.
    `uptime_ms`: since then, suspended time included.
    """

    wall_ms: int
    boot: str = ""
    uptime_ms: int = 0

    def age_ms(self, now: Moment) -> int:
        """What has passed until `now`, never less than nothing.

        Within one start of the machine that is so whatever was done to its clock. Beyond it, that clock says it; one
        that was set back says nothing.
        """
        if self.boot and self.boot == now.boot and self.uptime_ms <= now.uptime_ms:
            return now.uptime_ms - self.uptime_ms
        return max(now.wall_ms - self.wall_ms, 0)

    def document(self) -> dict[str, Any]:
        """As files say it, beside other things."""
        return {"time_ms": self.wall_ms, "boot": self.boot, "uptime_ms": self.uptime_ms}

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Moment:
        """What a file says, the time alone if it is of an older switch. Raises ValueError when it says none."""
        wall_ms, boot, uptime_ms = said.get("time_ms"), said.get("boot", ""), said.get("uptime_ms", 0)
        if not (_is_time(wall_ms) and _is_time(uptime_ms) and type(boot) is str):
            raise ValueError("it does not say when it was written")
        return cls(wall_ms, boot, uptime_ms)


def _is_time(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _END_MS


def this_moment() -> Moment:
    """Now."""
    boot = ""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return Moment(milliseconds(time.time_ns()), boot, milliseconds(time.clock_gettime_ns(time.CLOCK_BOOTTIME)))


def milliseconds(time_ns: int) -> int:
    """Whole milliseconds of a time in nanoseconds, rounded down: the unit of `now`."""
    return time_ns // 1_000_000


class SteppedClock:
    """The machine's clock until it is stopped; from then on it moves only when it is told to. For tests of a daemon."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._ahead_ns = 0
        self._stopped_ns: int | None = None

    def now_ns(self) -> int:
        """Nanoseconds since the epoch; never less than the answer before."""
        return self._clock.now_ns() + self._ahead_ns if self._stopped_ns is None else self._stopped_ns

    def stop(self) -> None:
        """Stand still from now on. From any thread, as the next."""
        self._stopped_ns = self.now_ns()

    def warp(self, by_ms: int) -> None:
        """Go on by so many milliseconds at once."""
        if self._stopped_ns is None:
            self._ahead_ns += by_ms * 1_000_000
        else:
            self._stopped_ns += by_ms * 1_000_000

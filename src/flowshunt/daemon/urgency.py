"""How urgently the system runs the packet thread.

A nice value counts among the threads of one session only (autogroups, cgroups; sched(7)), and does not end another
thread's slice: on a busy machine a packet waited for tens of milliseconds. A real-time thread does not wait. It must
not starve the rest of the machine either, so it is one only as long as it sleeps most of the time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

NICE = -10
"""Of the thread while it is busy."""
REALTIME_PRIORITY = 1
"""The lowest: it is before what is not real-time, and behind all that is."""
BUSY_SHARE = 0.5
"""Of a processor, from which on the thread is busy."""


class Urgency:
    """Of the thread that calls. Without CAP_SYS_NICE packets wait for their turn like everyone."""

    def __init__(self) -> None:
        """Begin, urgently."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        self._is_allowed = True
        self.is_urgent = False
        self._since_ns, self._used_ns = time.monotonic_ns(), time.thread_time_ns()
        self._be(True)

    def look(self) -> None:
        """Judge by the time since this was called last; to be called a few times a second."""
        now_ns, used_ns = time.monotonic_ns(), time.thread_time_ns()
        is_busy = used_ns - self._used_ns > BUSY_SHARE * (now_ns - self._since_ns)
        self._since_ns, self._used_ns = now_ns, used_ns
        self._be(not is_busy)

    def _be(self, urgent: bool) -> None:
        if urgent == self.is_urgent or not self._is_allowed:
            return
        policy = os.SCHED_RR if urgent else os.SCHED_OTHER
        try:
            # Threads that this one starts are not urgent.
            os.sched_setscheduler(
                0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(REALTIME_PRIORITY if urgent else 0)
            )
        except OSError:  # also where a cgroup has no real-time share
            self._is_allowed = False
        else:
            self.is_urgent = urgent

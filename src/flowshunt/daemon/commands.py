"""The commands of a process that runs a node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowshunt.base.clock import SteppedClock
from flowshunt.control.unixctl.commands import everything, process
from flowshunt.control.unixctl.registry import Registry
from flowshunt.control.unixctl.vlog import Vlog
from flowshunt.control.unixctl.vlog import commands as vlog_commands


def registry(
    version: str,
    stop: asyncio.Event,
    *,
    vlog: Vlog | None = None,
    clock: SteppedClock | None = None,
    leave_nothing: Callable[[], None] | None = None,
) -> Registry:
    """All commands; `exit` sets `stop`, `exit --cleanup` calls `leave_nothing` before.

    Those of logs and of time are there with a `vlog` and a `clock` only.
    """

    async def leave(cleanup: bool) -> None:
        if cleanup and leave_nothing is not None:
            leave_nothing()
        stop.set()

    logs = () if vlog is None else vlog_commands(vlog)
    return Registry((*everything(), *logs, *process.commands(version, leave, clock)))

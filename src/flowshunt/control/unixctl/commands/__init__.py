"""The commands, a module for each group; `everything` has them all."""

from __future__ import annotations

from flowshunt.control.unixctl.commands import (
    absent,
    bridges,
    connections,
    datapath,
    dummy,
    events,
    flows,
    fragments,
    limits,
    offloading,
    sampling,
    stations,
    tracing,
    tracker,
    tunnels,
    unsupported,
)
from flowshunt.control.unixctl.registry import Command


def everything() -> tuple[Command, ...]:
    """Every command that needs nothing but a node."""
    modules = (
        *(connections, limits, fragments, datapath, bridges, stations, dummy),
        *(tracker, events, offloading, sampling, flows, tracing, absent, tunnels, unsupported),
    )
    return tuple(one for module in modules for one in module.COMMANDS)

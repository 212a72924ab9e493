"""Commands about the process: `version`, `exit`, `memory/show`, `coverage/*`, `time/*`."""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable
from typing import Protocol

from flowshunt.control.unixctl.coverage import counters_of
from flowshunt.control.unixctl.node import Node
from flowshunt.control.unixctl.registry import Command, CommandError, command, on_worker

Leave = Callable[[bool], Awaitable[None]]
"""`leave(cleanup)`: begin to end; returns when that can be told to whoever asked."""


class SteppedClock(Protocol):
    """A clock that can be stopped."""

    def stop(self) -> None:
        """Stand still from now on."""

    def warp(self, by_ms: int) -> None:
        """Go on by so much."""


@on_worker
def read_counter(node: Node, arguments: list[str]) -> str:
    """One counter."""
    value = counters_of(node).get(arguments[0])
    if value is None:
        raise CommandError("No such counter")
    return f"{value}\n"


@on_worker
def show_counters(node: Node, arguments: list[str]) -> str:
    """Counters that have moved, and how fast."""
    counters = counters_of(node)
    lines = ["Event coverage, avg rate over last: 5 seconds, last minute, last hour,  hash=00000000:"]
    moved = sorted(name for name, value in counters.items() if value)
    for name, (lately, minute, hour) in node.coverage.rates(moved).items():
        lines.append(f"{name:<24} {lately:5.1f}/sec {minute:9.3f}/sec {hour:13.4f}/sec   total: {counters[name]}")
    lines.append(f"{sum(not value for value in counters.values())} events never hit")
    return "\n".join(lines) + "\n"


@on_worker
def show_memory(node: Node, arguments: list[str]) -> str:
    """What there is that takes memory."""
    bridges = node.bridges.values()
    figures = {
        "connections": len(node.tracker),
        "fragments": len(node.fragments),
        "handlers": 0,
        "ports": sum(len(bridge.ports) for bridge in bridges),
        "revalidators": 0,
        "rss-kB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "rules": sum(len(bridge.switch.datapath.rules) for bridge in bridges),
        "udpif keys": 0,
    }
    return " ".join(f"{name}:{value}" for name, value in figures.items()) + "\n"


def commands(version: str, leave: Leave, clock: SteppedClock | None = None) -> tuple[Command, ...]:
    """These commands, for a process that says `version` of itself and ends by `leave`; time's with a `clock` only."""

    async def show_version(node: Node, arguments: list[str]) -> str:
        return f"{version}\n"

    async def exit_(node: Node, arguments: list[str]) -> str:
        if arguments and arguments[0] != "--cleanup":
            raise CommandError(f'"exit" command has no argument "{arguments[0]}"')
        await leave(bool(arguments))
        return ""

    found = [
        command("version", "", 0, 0, show_version),
        command("exit", "[--cleanup]", 0, 1, exit_),
        command("memory/show", "", 0, 0, show_memory),
        command("coverage/show", "", 0, 0, show_counters),
        command("coverage/read-counter", "COUNTER", 1, 1, read_counter),
    ]
    if clock is not None:
        found += _of_time(clock)
    return tuple(found)


def _of_time(clock: SteppedClock) -> list[Command]:
    async def stop(node: Node, arguments: list[str]) -> str:
        clock.stop()
        return ""

    async def warp(node: Node, arguments: list[str]) -> str:
        if not all(word.isdecimal() and 0 < int(word) < 1 << 31 for word in arguments):
            raise CommandError("invalid MSECS")
        total = int(arguments[0])
        step = min(int(arguments[-1]), total)
        while total > 0:
            clock.warp(min(step, total))
            total -= step
            await node.call(lambda: node.tracker.sweep(node.now_ms(), budget=None))
        return "warped\n"

    return [command("time/stop", "", 0, 0, stop), command("time/warp", "[large_msecs] msecs", 1, 2, warp)]

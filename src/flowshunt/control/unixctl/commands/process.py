"""Commands about the process: `version`, `exit`, `memory/show`, `coverage/*`, `time/*`."""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable
from typing import Protocol

from flowshunt.control.unixctl.node import Node
from flowshunt.control.unixctl.registry import Command, CommandError, command, on_worker

# Counters of Open vSwitch that scripts read, and that cannot move here.
_STILL = ("dp_packet_batch_grow", "datapath_drop_upcall_error", "upcall_ukey_contention", "handler_duplicate_upcall")

Leave = Callable[[bool], Awaitable[None]]
"""`leave(cleanup)`: begin to end; returns when that can be told to whoever asked."""


class SteppedClock(Protocol):
    """A clock that can be stopped."""

    def stop(self) -> None:
        """Stand still from now on."""

    def warp(self, by_ms: int) -> None:
        """Go on by so much."""


def _counters(node: Node) -> dict[str, int]:
    """Counters of all bridges and of the tracker, by name."""
    total = dict.fromkeys(_STILL, 0)
    parts = [bridge.switch.datapath.statistics() for bridge in node.bridges.values()]
    for part in [*parts, {f"conntrack_{name}": value for name, value in node.tracker.statistics().items()}]:
        for name, value in part.items():
            key = name.replace("-", "_").replace(".", "_")
            total[key] = total.get(key, 0) + value
    return total


@on_worker
def read_counter(node: Node, arguments: list[str]) -> str:
    """One counter."""
    value = _counters(node).get(arguments[0])
    if value is None:
        raise CommandError("No such counter")
    return f"{value}\n"


@on_worker
def show_counters(node: Node, arguments: list[str]) -> str:
    """Counters that have moved. Their rates are not kept."""
    counters = _counters(node)
    lines = ["Event coverage, avg rate over last: 5 seconds, last minute, last hour,  hash=00000000:"]
    for name, value in sorted(counters.items()):
        if value:
            lines.append(f"{name:<24} {0:5.1f}/sec {0:9.3f}/sec {0:13.4f}/sec   total: {value}")
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

"""A node with a unixctl server, and the real ovs-appctl to drive it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from flowshunt.base.clock import ManualClock
from flowshunt.control.unixctl.commands import everything, process
from flowshunt.control.unixctl.registry import Registry
from flowshunt.control.unixctl.server import Server
from flowshunt.control.unixctl.vlog import Vlog
from flowshunt.control.unixctl.vlog import commands as vlog_commands
from flowshunt.daemon import Bridge, Node
from flowshunt.daemon.ports import open_dummy

APPCTL = shutil.which("ovs-appctl")
needs_appctl = pytest.mark.skipif(APPCTL is None, reason="needs ovs-appctl (Debian: openvswitch-common)")
START_MS = 1_700_000_000_000


class Answer(NamedTuple):
    status: int
    out: str
    err: str


class Lab:
    """The node, its clock, and `appctl`."""

    def __init__(self, node: Node, clock: ManualClock, path: Path) -> None:
        self.node = node
        self.clock = clock
        self.path = path
        self.left: list[bool] = []

    async def add_bridge(self, name: str, *ports: str) -> Bridge:
        bridge = await self.node.call(lambda: self.node.add_bridge(name))
        for port in ports:
            await self.node.call(lambda port=port: bridge.add_port(port, "dummy"))
        await self.node.settled()
        return bridge

    async def appctl(self, *arguments: str) -> Answer:
        assert APPCTL is not None
        process = await asyncio.create_subprocess_exec(
            APPCTL, "-t", str(self.path), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return Answer(process.returncode, out.decode(), err.decode())

    async def says(self, *arguments: str) -> str:
        """What a command prints that must succeed."""
        answer = await self.appctl(*arguments)
        assert (answer.status, answer.err) == (0, ""), answer
        return answer.out

    async def refuses(self, *arguments: str) -> str:
        """The error of a command that must fail, without what ovs-appctl adds."""
        answer = await self.appctl(*arguments)
        assert (answer.status, answer.out) == (2, ""), answer
        lines = answer.err.splitlines()
        assert lines[-1] == f"ovs-appctl: {self.path}: server returned an error"
        return "\n".join(lines[:-1])


def run(directory: Path, work: Callable[[Lab], Awaitable[None]]) -> None:
    """Run a coroutine function with a lab that is taken down afterwards."""

    async def whole() -> None:
        directory.chmod(0o700)
        clock = ManualClock(START_MS * 1_000_000)
        node = Node(directory, open_port=open_dummy, clock=clock)
        await node.start()
        lab = Lab(node, clock, directory / "x.ctl")

        async def leave(cleanup: bool) -> None:
            lab.left.append(cleanup)

        vlog = Vlog()
        registry = Registry((*everything(), *vlog_commands(vlog), *process.commands("flowshunt 0", leave)))
        server = Server(node, registry)
        await server.listen(lab.path)
        try:
            await work(lab)
        finally:
            await server.close()
            await node.stop()

    asyncio.run(whole())

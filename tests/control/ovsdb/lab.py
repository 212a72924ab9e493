"""A real ovsdb-server, the real ovs-vsctl, and a node between them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from flowshunt.control.ovsdb.service import Service
from flowshunt.daemon import Node
from flowshunt.daemon.ports import open_device, open_dummy

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
TOOLS = all(shutil.which(tool) for tool in ("ovsdb-tool", "ovsdb-server", "ovs-vsctl")) and SCHEMA.is_file()
needs_ovsdb = pytest.mark.skipif(not TOOLS, reason="needs ovsdb-server and ovs-vsctl (Debian: openvswitch-switch)")


class Lab:
    """The database, and a node that follows it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.remote = f"unix:{directory}/db.sock"
        self.node = Node(directory, open_port=lambda info: (open_device if info.type == "vxlan" else open_dummy)(info))
        self.service = Service(self.node, self.remote, iface_types=("dummy", "internal", "patch", "system"))
        self._database: asyncio.subprocess.Process | None = None
        self.schema = SCHEMA

    async def tool(self, *arguments: str, check: bool = True) -> str:
        environment = {**os.environ, "OVS_RUNDIR": str(self.directory), "OVS_SYSLOG_METHOD": "null"}
        process = await asyncio.create_subprocess_exec(
            *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert not check or process.returncode == 0, err.decode()
        return out.decode() + (err.decode() if not check else "")

    async def vsctl(self, *arguments: str, check: bool = True) -> str:
        """ovs-vsctl, which waits until the switch has done what it asked for."""
        return await self.tool("ovs-vsctl", f"--db={self.remote}", "--timeout=20", *arguments, check=check)

    async def get(self, table: str, record: str, column: str) -> str:
        return (await self.vsctl("get", table, record, column)).strip()

    async def start_database(self) -> None:
        path = self.directory / "conf.db"
        if not path.exists():
            await self.tool("ovsdb-tool", "create", str(path), str(self.schema))
        self._database = await asyncio.create_subprocess_exec(
            "ovsdb-server", str(path), f"--remote=p{self.remote}", "-vconsole:off",
            f"--unixctl={self.directory}/db.ctl",
            env={**os.environ, "OVS_SYSLOG_METHOD": "null"},
        )  # fmt: skip
        await until(self._is_answering)
        await self.vsctl("--no-wait", "init")

    async def _is_answering(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self.directory / "db.sock"))
        except OSError:
            return False
        writer.close()
        return True

    def signal_database(self, number: int) -> None:
        assert self._database is not None
        self._database.send_signal(number)

    async def stop_database(self) -> None:
        if self._database is not None:
            self._database.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self._database.wait(), 10)
            self._database = None


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Wait until something is so."""
    for _ in range(int(seconds / 0.1)):
        if await check():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it did not come about")


def run(directory: Path, work: Callable[[Lab], Awaitable[None]], schema: Path = SCHEMA) -> None:
    """Run a coroutine function with a lab that is taken down afterwards."""

    async def whole() -> None:
        lab = Lab(directory)
        lab.schema = schema
        await lab.start_database()
        await lab.node.start()
        following = asyncio.create_task(lab.service.run())
        try:
            await asyncio.wait_for(lab.service.heard(), 20)
            await work(lab)
            assert not following.done()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await lab.node.stop()
            await lab.stop_database()

    asyncio.run(whole())

"""Controllers by the table Controller, and `ovs-ofctl snoop`: real tools, and a controller of our own."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flowshunt.base.errors import UsageError
from flowshunt.control.openflow.targets import DEFAULT_PORT, parse_target
from tests.builders import Packet
from tests.control.ovsdb.lab import Lab, needs_ovsdb, run, until

HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY, PACKET_IN = 0, 1, 2, 3, 5, 6, 10
ROLE_REQUEST_13 = 24
FRAME = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes()
OVS_TESTCONTROLLER = shutil.which("ovs-testcontroller")


def message(kind: int, body: bytes = b"", version: int = 4, xid: int = 1) -> bytes:
    return bytes([version, kind]) + (8 + len(body)).to_bytes(2, "big") + xid.to_bytes(4, "big") + body


class Controller:
    """Says hello, answers echoes while it is `alive`, and keeps what it got."""

    def __init__(self, version: int = 4) -> None:
        self.version = version
        self.alive = True
        self.got: list[tuple[int, bytes]] = []
        self.writer: asyncio.StreamWriter | None = None
        self.n_connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.n_connections += 1
        writer.write(message(HELLO, version=self.version))
        writer.write(message(FEATURES_REQUEST, version=self.version))
        try:
            while head := await reader.readexactly(8):
                body = await reader.readexactly(int.from_bytes(head[2:4], "big") - 8)
                self.got.append((head[1], body))
                if head[1] == ECHO_REQUEST and self.alive:
                    writer.write(message(ECHO_REPLY, body, self.version, int.from_bytes(head[4:], "big")))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def kinds(self) -> set[int]:
        return {kind for kind, _ in self.got}


@asynccontextmanager
async def listening(controller: Controller, where: str) -> AsyncIterator[str]:
    """The target by which it can be reached."""
    if where == "unix":
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"flowshunt-controller-{os.getpid()}"
        server, target = await asyncio.start_unix_server(controller.serve, path), f"unix:{path}"
    else:
        server = await asyncio.start_server(controller.serve, "127.0.0.1", 0)
        target = f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        try:
            yield target
        finally:
            server.close()
            if controller.writer is not None:
                controller.writer.close()
            if target.startswith("unix:"):
                Path(target[5:]).unlink(missing_ok=True)


async def bridge(lab: Lab, *more: str) -> None:
    await lab.vsctl(
        "add-br", "br0", "--", "add-port", "br0", "p1", "--", "add-port", "br0", "p2",
        "--", "set", "interface", "p1", "type=dummy", "--", "set", "interface", "p2", "type=dummy", *more,
    )  # fmt: skip


async def passed(lab: Lab) -> int:
    """How many of one frame come out at the other port."""
    made = lab.node.bridges["br0"]
    await lab.node.call(lambda: made.inject("p1", FRAME))
    return len(await lab.node.call(lambda: made.transmitted("p2")))


async def is_connected(lab: Lab) -> bool:
    return "true" in await lab.vsctl("--columns=is_connected", "list", "controller")


@needs_ovsdb
@pytest.mark.parametrize("where", ["unix", "tcp"])
def test_a_bridge_connects_to_its_controller_and_says_so(where: str, tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        controller = Controller()
        async with listening(controller, where) as target:
            await bridge(
                lab, "--", "set-controller", "br0", target, "--", "set", "controller", "br0", "max_backoff=1000"
            )
            await until(lambda: is_connected(lab))
            await until(async_of(lambda: FEATURES_REPLY in controller.kinds()))
            assert await lab.get("controller", "br0", "role") == "other"
            assert "state=ACTIVE" in await lab.get("controller", "br0", "status")
            assert controller.writer is not None
            controller.writer.write(message(ROLE_REQUEST_13, bytes([0, 0, 0, 2, 0, 0, 0, 0]) + bytes(8)))

            async def is_master() -> bool:
                return await lab.get("controller", "br0", "role") == "master"

            await until(is_master)
            controller.writer.close()
            await until(async_of(lambda: controller.n_connections == 2))
            await until(lambda: is_connected(lab))
        await until(async_not(lambda: is_connected(lab)))
        status = await lab.get("controller", "br0", "status")
        assert "last_error" in status and "sec_since_disconnect" in status
        assert await lab.get("controller", "br0", "role") == "[]"
        await lab.vsctl("del-controller", "br0")
        assert lab.node.bridges["br0"].controllers.statuses == {}

    run(tmp_path, work)


def async_of(check):  # type: ignore[no-untyped-def]
    async def checked() -> bool:
        return bool(check())

    return checked


def async_not(check):  # type: ignore[no-untyped-def]
    async def checked() -> bool:
        return not await check()

    return checked


@needs_ovsdb
def test_a_controller_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        controller = Controller()
        controller.alive = False
        async with listening(controller, "unix") as target:
            settings = ("inactivity_probe=500", "max_backoff=1000")
            await bridge(lab, "--", "set-controller", "br0", target, "--", "set", "controller", "br0", *settings)
            await until(async_of(lambda: ECHO_REQUEST in controller.kinds() and controller.n_connections >= 2))
            errors = [status.last_error for status in lab.node.bridges["br0"].controllers.statuses.values()]
            assert errors == ["Connection timed out"]
            controller.alive = True
            before = 0

            async def stays() -> bool:
                nonlocal before
                echoes = sum(kind == ECHO_REQUEST for kind, _ in controller.got)
                before = before or echoes
                return echoes >= before + 3

            await until(stays)
            last = controller.n_connections
            await until(lambda: is_connected(lab))
            assert controller.n_connections == last

    run(tmp_path, work)


@needs_ovsdb
@pytest.mark.parametrize("fail_mode", ["standalone", "secure"])
def test_what_a_bridge_does_without_its_controller(fail_mode: str, tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        controller = Controller()
        await bridge(lab, "--", "set-fail-mode", "br0", fail_mode)
        assert await passed(lab) == (fail_mode == "standalone")
        async with listening(controller, "unix") as target:
            settings = ("inactivity_probe=400", "max_backoff=1000")
            await lab.vsctl("set-controller", "br0", target, "--", "set", "controller", "br0", *settings)
            await until(lambda: is_connected(lab))
            assert await passed(lab) == 0, "flows are the controller's affair now"
        ofctl = ("ovs-ofctl", "dump-flows", f"unix:{tmp_path}/br0.mgmt")
        if fail_mode == "secure":
            await until(async_not(lambda: is_connected(lab)))
            await asyncio.sleep(2.5)  # longer than a bridge in the other mode would wait
            assert await passed(lab) == 0
        else:

            async def forwards() -> bool:
                return await passed(lab) == 1

            await until(forwards)
            assert len((await lab.tool(*ofctl)).splitlines()) <= 1, "its own flow is hidden"
            await lab.tool("ovs-ofctl", "del-flows", f"unix:{tmp_path}/br0.mgmt")
            await until(forwards)
            async with listening(controller, "unix"):
                await until(lambda: is_connected(lab))
                await until(async_not(forwards))
        await lab.vsctl("del-controller", "br0")
        assert await passed(lab) == (fail_mode == "standalone")

    run(tmp_path, work)


@needs_ovsdb
def test_controllers_may_come_to_us(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        path = tmp_path / "here"
        await bridge(lab, "--", "set-controller", "br0", f"punix:{path}", "ptcp:0:127.0.0.1")
        assert path.stat().st_mode & 0o777 == 0o600
        shown = await lab.tool("ovs-ofctl", "show", f"unix:{path}")
        assert "1(p1)" in shown
        await lab.vsctl(
            "set-controller", "br0", "ptcp:1:127.0.0.999", "ssl:127.0.0.1:6653", "nonsense", "punix:/etc/passwd"
        )
        statuses = {
            target: status.last_error for target, status in lab.node.bridges["br0"].controllers.statuses.items()
        }
        assert not path.exists() and Path("/etc/passwd").stat().st_size > 0
        assert set(statuses) == {"ptcp:1:127.0.0.999", "ssl:127.0.0.1:6653", "nonsense", "punix:/etc/passwd"}
        assert "TLS" in (statuses["ssl:127.0.0.1:6653"] or "") and "no socket" in (statuses["punix:/etc/passwd"] or "")
        assert all(statuses.values())
        assert "TLS" in await lab.vsctl("--columns=status", "list", "controller")

    run(tmp_path, work)


@needs_ovsdb
def test_ovs_ofctl_snoops_on_both_directions(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await bridge(lab)
        snoop = tmp_path / "br0.snoop"
        assert snoop.stat().st_mode & 0o777 == 0o600
        refused = await lab.tool("ovs-ofctl", "snoop", f"unix:{snoop}", check=False)
        assert refused, "there is nothing to listen to"
        controller = Controller()
        async with listening(controller, "unix") as target:
            await lab.vsctl("set-controller", "br0", target)
            await until(lambda: is_connected(lab))
            process = await asyncio.create_subprocess_exec(
                "ovs-ofctl",
                "snoop",
                f"unix:{snoop}",
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, "OVS_RUNDIR": str(tmp_path)},
            )
            assert process.stdout is not None and controller.writer is not None
            connection = lab.node.bridges["br0"].controllers.connection()
            assert connection is not None
            await until(async_of(lambda: connection.taps))
            controller.writer.write(message(ECHO_REQUEST, b"snooped"))
            seen = b""
            async with asyncio.timeout(20):
                while b"OFPT_ECHO_REPLY (OF1.3)" not in seen:
                    seen += await process.stdout.readline()
            assert b"OFPT_ECHO_REQUEST (OF1.3)" in seen and b"snooped" in seen
            await lab.vsctl("del-controller", "br0")
            await asyncio.wait_for(process.wait(), 20)
        await lab.vsctl("del-br", "br0")
        assert not snoop.exists()

    run(tmp_path, work)


@needs_ovsdb
@pytest.mark.skipif(OVS_TESTCONTROLLER is None, reason="needs ovs-testcontroller (Debian: openvswitch-testcontroller)")
def test_open_vswitchs_own_controller_makes_it_a_learning_switch(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        assert OVS_TESTCONTROLLER is not None
        process = await asyncio.create_subprocess_exec(
            OVS_TESTCONTROLLER, f"punix:{tmp_path}/controller", "-vconsole:off", f"--unixctl={tmp_path}/tc.ctl",
            env={**os.environ, "OVS_RUNDIR": str(tmp_path), "OVS_SYSLOG_METHOD": "null"},
        )  # fmt: skip
        try:
            await until(async_of(lambda: (tmp_path / "controller").exists()))
            await bridge(
                lab,
                "--",
                "set-fail-mode",
                "br0",
                "secure",
                "--",
                "set-controller",
                "br0",
                f"unix:{tmp_path}/controller",
            )
            await until(lambda: is_connected(lab))
            made = lab.node.bridges["br0"]
            answer = (
                Packet().eth("02:00:00:00:00:02", "02:00:00:00:00:01").ipv4("10.0.0.2", "10.0.0.1").udp(2, 1).bytes()
            )

            async def learned() -> bool:
                await lab.node.call(lambda: made.inject("p1", FRAME))
                await lab.node.call(lambda: made.inject("p2", answer))
                shown = await lab.tool("ovs-ofctl", "dump-flows", f"unix:{tmp_path}/br0.mgmt")
                return "udp" in shown or "dl_dst=02:00:00:00:00:01" in shown

            await until(learned)
            assert await lab.node.call(lambda: made.transmitted("p1"))
        finally:
            process.terminate()
            await process.wait()

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tcp:10.0.0.1", (False, None, "10.0.0.1", DEFAULT_PORT)),
        ("tcp:[fd00::1]:6633", (False, None, "fd00::1", 6633)),
        ("tcp:controller.example:1", (False, None, "controller.example", 1)),
        ("ptcp:", (True, None, None, DEFAULT_PORT)),
        ("ptcp:6634:127.0.0.1", (True, None, "127.0.0.1", 6634)),
        ("unix:/run/c", (False, "/run/c", None, DEFAULT_PORT)),
        ("punix:/run/c", (True, "/run/c", None, DEFAULT_PORT)),
    ],
)
def test_targets(text: str, parts: tuple[object, ...]) -> None:
    found = parse_target(text)
    assert (found.is_passive, found.path, found.host, found.port) == parts


@pytest.mark.parametrize("text", ["", "tcp:", "tcp:a:99999", "unix:", "http://x", "ssl:1.2.3.4", "ptcp:x", "tcp:a:b:c"])
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)

"""A switch in a thread, with two dummy ports, and the command line asked about it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result

from flowshunt.cli.main import app
from flowshunt.control.unixctl.server import Server
from flowshunt.daemon import Bridge, Node
from flowshunt.daemon.commands import registry
from flowshunt.daemon.ports import open_dummy
from tests.builders import Packet

ROUTED = """
table=0,ip,ct_state=-trk,actions=ct(table=1)
table=1,ip,ct_state=+trk+new,in_port=1,actions=ct(commit),output:2
table=1,ip,ct_state=+trk+est,in_port=1,actions=output:2
table=1,ip,ct_state=+trk+est,in_port=2,actions=output:1
"""
Flowshunt = Callable[..., Result]
_Result = TypeVar("_Result")


class Live:
    """The switch, and `run` for commands."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, node: Node, bridge: Bridge) -> None:
        self.path = path
        self._loop = loop
        self.node = node
        self.bridge = bridge

    def call(self, function: Callable[[], _Result]) -> _Result:
        """On the packet thread."""
        future: Future[_Result] = asyncio.run_coroutine_threadsafe(self.node.call(function), self._loop)
        return future.result(60)

    def run(self, *words: str, socket: str | None = None) -> Result:
        return CliRunner().invoke(app, [*words, "--socket", socket or str(self.path)])

    def configure_offload(self, config: dict[str, str]) -> None:
        self.call(lambda: self.node.configure_offload(config))

    def add_flows(self, text: str) -> None:
        self.call(lambda: self.bridge.switch.add_flows(text, now_ms=self.node.now_ms()))

    def inject(self, port: str, packet: Packet) -> None:
        self.call(lambda: self.bridge.inject(port, packet.bytes()))

    def ask_only(self, protocol: str, sport: int, dport: int) -> None:
        """One packet from port p1."""
        self.inject("p1", _packet(protocol, "10.0.0.1", "10.0.0.2", sport, dport, ack=False))

    def talk(self, protocol: str, sport: int, dport: int, first: bool = False) -> None:
        """A packet each way; `first`: a handshake before it."""
        if first:
            self.inject("p1", Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(sport, dport, syn=True, seq=99))
            reply = Packet().eth().ipv4("10.0.0.2", "10.0.0.1")
            self.inject("p2", reply.tcp(dport, sport, syn=True, ack=True, seq=99, ack_number=100))
        self.inject("p1", _packet(protocol, "10.0.0.1", "10.0.0.2", sport, dport))
        self.inject("p2", _packet(protocol, "10.0.0.2", "10.0.0.1", dport, sport))


def _packet(protocol: str, source: str, destination: str, sport: int, dport: int, ack: bool = True) -> Packet:
    packet = Packet().eth().ipv4(source, destination)
    if protocol == "udp":
        return packet.udp(sport, dport)
    return packet.tcp(sport, dport, ack=ack, seq=100, ack_number=100)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """A switch with the ports p1 and p2."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    made: list[Any] = []
    path = tmp_path / "run" / "x.ctl"

    async def serve() -> None:
        node = Node(tmp_path / "run", open_port=open_dummy)
        server = Server(node, registry("flowshunt 0", stop), "flowshunt")
        await node.start()
        await server.listen(path)
        bridge = await node.call(lambda: node.add_bridge("br0"))
        for name in ("p1", "p2"):
            await node.call(lambda name=name: bridge.add_port(name, "dummy"))
        await node.settled()
        made.extend((node, bridge))
        started.set()
        await stop.wait()
        await node.stop()
        await server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(60)
    yield Live(path, loop, *made)
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()

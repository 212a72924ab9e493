"""The node: bridges, the tracker that they share, and the thread that packets run on."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flowshunt.app import Switch, check_port_name
from flowshunt.base.clock import Clock, SystemClock
from flowshunt.base.errors import FlowshuntError, UsageError
from flowshunt.base.log import logger
from flowshunt.config import Config
from flowshunt.daemon.bridge import REASON_ADDED, Bridge, OpenPort, PortInfo
from flowshunt.daemon.complaints import BigDatagrams
from flowshunt.daemon.links import follow_links
from flowshunt.daemon.opening import Opener
from flowshunt.daemon.ports import describe, has_device, open_device, open_dummy
from flowshunt.daemon.worker import Worker
from flowshunt.ports.api import PortError
from flowshunt.ports.live import LiveBatch, LivePort
from flowshunt.ports.patch import PatchPort

MAX_PATCHES = 32
"""Patch ports that a batch may pass one after the other."""
MAX_DELIVERIES = 1024
"""Patch ports that a batch may pass altogether: between bridges that flood to each other over several, each way round
there is more of it.
"""
MAX_POSTS = 4096
"""Messages to the thread of control that may be under way; more are dropped and counted."""

_BRIDGE_NAME = re.compile(r"[A-Za-z0-9_.@:-]{1,15}")
_LOG = logger(__name__)
_Result = TypeVar("_Result")
PortObserver = Callable[[str, PortInfo, int], None]
"""`observer(bridge, port, reason)`; see `Node.on_port_change`."""


class Node:
    """One datapath. `start` and `stop` it in an asyncio loop; all that is not said to be otherwise runs by `call`.

    node = Node(Path("/run/flowshunt"))
    await node.start()
    bridge = await node.call(lambda: node.add_bridge("br0"))
    await node.call(lambda: bridge.add_port("p0"))
    await node.settled()
    ...
    await node.stop()
    """

    def __init__(
        self,
        rundir: Path,
        *,
        config: Config | None = None,
        clock: Clock | None = None,
        open_port: OpenPort = open_device,
        has_devices: bool | None = None,
        busy_poll: bool = False,
    ) -> None:
        """`rundir`: where sockets go. `open_port`: what opens devices; `daemon.ports.open_dummy` for tests.

        `has_devices`: whether ports of type system are network devices; without, they are unless it is that.
        """
        self.rundir = rundir
        self.clock = clock or SystemClock()
        self.core = Switch.from_config(config or Config())
        self.tracker = self.core.tracker
        self.offload = self.core.offload
        self.fragments = self.core.fragments
        self.limits_are_of_database = False
        self._big_datagrams = BigDatagrams(self.fragments)
        self.bridges: dict[str, Bridge] = {}
        self.other_config: dict[str, str] = {}
        self.is_holding = False
        """Packets that come in are dropped: flows are being restored."""
        self._has_devices = open_port is not open_dummy if has_devices is None else has_devices
        self._opener = Opener(open_port)
        self._worker = Worker(self.clock, self._tick, busy_poll=busy_poll)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None
        self._observers: list[PortObserver] = []
        self._is_core_taken = False
        self._waiting: deque[tuple[Bridge, LiveBatch, int]] = deque()
        self._depth = 0
        self._n_deliveries = 0
        self._n_posted = 0  # written by the packet thread alone, and the next one by that of control
        self._n_posts_done = 0
        self._counters = {"posts-dropped": 0, "patch-depth": 0, "dropped-while-holding": 0}

    # --- life, and the two threads ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin. The loop that this runs in is the thread of control."""
        self._loop = asyncio.get_running_loop()
        self._worker.start()
        if self._has_devices:
            self._follower = asyncio.create_task(follow_links(self._link_changed))

    async def stop(self) -> None:
        """Close sockets and devices, and end the packet thread."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        for name in list(self.bridges):
            await self.call(partial(self.del_bridge, name))
        await self.settled()
        await asyncio.to_thread(self._worker.stop)

    async def call(self, function: Callable[[], _Result]) -> _Result:
        """Have `function()` run on the packet thread between two batches; its result, or its exception.

        Packets wait as long as it takes: slice what is long.
        """
        return await asyncio.wrap_future(self._worker.submit(function))

    def call_blocking(self, function: Callable[[], _Result]) -> _Result:
        """`call` for threads without a loop; on the packet thread itself it simply calls."""
        return function() if self._worker.is_current() else self._worker.submit(function).result()

    def carry_out(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """From the thread of control: have `work()` run on the packet thread, and then `done()` here."""
        loop = self._loop
        assert loop is not None

        def finished(future: Future[None]) -> None:
            if (problem := future.exception()) is not None:
                _LOG.error("a request could not be carried out", exc_info=problem)
            loop.call_soon_threadsafe(done)

        self._worker.submit(work).add_done_callback(finished)

    def post(self, function: Callable[[], None]) -> bool:
        """From the packet thread: have `function()` called on the thread of control.

        False when too much is under way; then it is not called, and counted in `posts-dropped`.
        """
        if self._n_posted - self._n_posts_done >= MAX_POSTS or self._loop is None:
            self._counters["posts-dropped"] += 1
            return False
        self._n_posted += 1

        def run() -> None:
            self._n_posts_done += 1
            function()

        self._loop.call_soon_threadsafe(run)
        return True

    async def settled(self) -> None:
        """Wait, on the thread of control, until the sockets of all bridges are as they should be."""
        await asyncio.sleep(0)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def opening(self, names: Iterable[str]) -> AbstractAsyncContextManager[None]:
        """On the thread of control: have network devices ready for the `add_port` of bridges, while this is entered.

        Packets do not wait for them then, nor one for the other.
        """
        return self._opener.ahead(names) if self._has_devices else nullcontext()

    def now_ms(self) -> int:
        """The time; from any thread."""
        return self.clock.now_ns() // 1_000_000

    # --- bridges ---------------------------------------------------------------------------------------------------

    def add_bridge(
        self, name: str, *, datapath_id: int | None = None, fail_mode: str = "standalone", local_port: bool = True
    ) -> Bridge:
        """Add a bridge with its own port of the same name; its socket opens soon (see `settled`).

        Raises UsageError for a name that is taken or cannot be one. What is wrong with the own port is told in its
        `error`.
        """
        if not _BRIDGE_NAME.fullmatch(name) or name in (".", ".."):
            raise UsageError(f"{name!r} cannot be a bridge's name", hint="up to 15 letters, digits and _ - . @ :")
        if name in self.bridges:
            raise UsageError(f"there is a bridge {name!r} already")
        check_port_name(name)
        number = datapath_id if datapath_id is not None else secrets.randbits(40) << 8 | 0x40
        # Offloading learns paths through the first switch alone, so the first bridge is the one that has it.
        switch = Switch(beside=self.core) if self._is_core_taken else self.core
        self._is_core_taken = True
        bridge = Bridge(name, switch, self, datapath_id=number, fail_mode=fail_mode)
        self.bridges[name] = bridge
        if local_port:
            bridge.add_port(name, "internal")
        self._schedule(partial(self._listen, bridge))
        return bridge

    def del_bridge(self, name: str) -> None:
        """Remove a bridge with its ports and socket. Raises UsageError when there is none."""
        if name not in self.bridges:
            raise UsageError(f"there is no bridge {name!r}")
        bridge = self.bridges.pop(name)
        bridge.close()
        bridge.switch.del_flows("")
        self._schedule(bridge.server.close)

    async def _listen(self, bridge: Bridge) -> None:
        try:
            await bridge.server.listen(bridge.management_path)
        except FlowshuntError as problem:
            _LOG.error("bridge %s: %s", bridge.name, problem)

    def _schedule(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have a task of the thread of control run; `settled` waits for it.

        They run in the order of calls, one after the other: a bridge that comes has the socket of one that goes.
        """
        loop = self._loop
        if loop is None:
            raise UsageError("the node has not been started")

        async def in_turn() -> None:
            async with self._turn:
                await work()

        def run() -> None:
            task = asyncio.create_task(in_turn())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        loop.call_soon_threadsafe(run)

    # --- offload ---------------------------------------------------------------------------------------------------

    def configure_offload(self, other_config: Mapping[str, str]) -> None:
        """Apply `hw-offload` and its relatives; see `Switch.configure_offload`."""
        self.core.configure_offload(other_config)
        self.other_config = dict(other_config)

    # --- ports -----------------------------------------------------------------------------------------------------

    def on_port_change(self, observer: PortObserver) -> None:
        """Have `observer` called on the thread of control when a port comes (0), goes (1) or changes (2)."""
        self._observers.append(observer)

    def open_port(self, bridge: Bridge, info: PortInfo) -> LivePort:
        """Open the device of a port. Raises PortError."""
        if info.type == "patch":
            if not info.options.get("peer"):
                raise PortError(f"{info.name}: patch type requires valid 'peer' argument")
            return PatchPort(info.ofport, partial(self._deliver, info.name, info.options["peer"]))
        return self._opener(info)

    def _link_changed(self, name: str | None) -> None:
        """On the thread of control: something happened to a device, or perhaps to all."""
        self.carry_out(partial(self._check_links, name), _nothing)

    def _check_links(self, name: str | None) -> None:
        for bridge in self.bridges.values():
            for info in list(bridge.ports.values()):
                if has_device(info) and name in (None, info.name):
                    self._check_link(bridge, info)

    def _check_link(self, bridge: Bridge, info: PortInfo) -> None:
        """See what became of a port's device: gone, back, another one of the same name, or changed."""
        if info.ofport < 0:
            bridge.open_port(info.name)
            return
        before = info.ifindex
        try:
            has_changed = describe(info)
        except PortError as problem:
            bridge.lose_port(info.ofport, str(problem))
            return
        if info.ifindex != before:
            bridge.lose_port(info.ofport, f"{info.name}: the device is another one")
            bridge.open_port(info.name)
        elif has_changed:
            bridge.port_changed(info.name)

    def watch(self, bridge: Bridge, device: LivePort) -> None:
        """Receive from a device."""
        if device.fileno() >= 0:
            self._worker.watch(device.fileno(), partial(self._receive, bridge, device))

    def unwatch(self, device: LivePort) -> None:
        """No more."""
        if device.fileno() >= 0:
            self._worker.unwatch(device.fileno())

    def port_changed(self, bridge: Bridge, info: PortInfo, reason: int) -> None:
        """Tell those who want to know."""
        copy = bridge.port_info(info.name) if reason == REASON_ADDED else info
        for observer in self._observers:
            self.post(partial(observer, bridge.name, copy, reason))
        self.post(bridge.server.flush_events)

    # --- packets ---------------------------------------------------------------------------------------------------

    def _receive(self, bridge: Bridge, device: LivePort) -> None:
        try:
            received = device.receive(self.clock.now_ns())
        except PortError as problem:
            bridge.lose_port(device.in_port, str(problem))
            return
        if received is None:
            return
        try:
            if self.is_holding:
                self._counters["dropped-while-holding"] += len(received.batch.packets)
            else:
                self.forward(bridge, received)
        finally:
            device.release()

    def forward(self, bridge: Bridge, received: LiveBatch) -> None:
        """Take a batch through a bridge, and what it sends through patch ports through the next ones."""
        self._depth = self._n_deliveries = 0
        bridge.receive(received)
        self.pass_on()

    def pass_on(self) -> None:
        """Take what waits at patch ports on to the bridges behind them."""
        while self._waiting:
            following, batch, self._depth = self._waiting.popleft()
            following.receive(batch)
        self._depth = self._n_deliveries = 0

    def _deliver(self, name: str, peer: str, received: LiveBatch) -> bool:
        """Have a batch that leaves on patch port `name` come in on `peer`, if the two belong together."""
        if self._depth >= MAX_PATCHES or self._n_deliveries >= MAX_DELIVERIES:
            self._counters["patch-depth"] += len(received.batch.packets)
            return False
        for bridge in self.bridges.values():
            info = bridge.ports.get(peer)
            if info is not None and info.type == "patch" and info.options.get("peer") == name and info.ofport > 0:
                self._n_deliveries += 1
                received.batch.packets["in_port"] = info.ofport
                self._waiting.append((bridge, received, self._depth + 1))
                return True
        return False

    def _tick(self, now_ms: int) -> None:
        self.core.idle(now_ms)
        for bridge in self.bridges.values():
            bridge.switch.expire_flows(now_ms)
        self._big_datagrams.look()

    def statistics(self) -> dict[str, Any]:
        """Counters of the node, and those of each bridge under its name."""
        return self._counters | {name: bridge.statistics() for name, bridge in self.bridges.items()}


def _nothing() -> None:
    """What is left to do after a command that nobody waits for."""

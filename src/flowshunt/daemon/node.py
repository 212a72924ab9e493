"""The node: bridges, the tracker that they share, and the thread that packets run on."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flowshunt.app import Switch, check_port_name
from flowshunt.base.clock import Clock, SystemClock
from flowshunt.base.errors import FlowshuntError, UsageError
from flowshunt.base.log import logger
from flowshunt.config import Config
from flowshunt.conntrack.holding import Holding
from flowshunt.control.openflow.service import REASON_ADDED
from flowshunt.control.stories.history import History
from flowshunt.control.unixctl.coverage import Coverage
from flowshunt.daemon.bridge import Bridge, OpenPort, PortInfo
from flowshunt.daemon.complaints import BigDatagrams
from flowshunt.daemon.kernel import KernelPorts
from flowshunt.daemon.links import RETRY_S, Link, follow_links
from flowshunt.daemon.opening import Opener
from flowshunt.daemon.ports import describe, has_device, open_device, open_dummy
from flowshunt.daemon.restart import take_over
from flowshunt.daemon.system import lift_file_limit
from flowshunt.daemon.worker import Worker
from flowshunt.datapath.paths.records import HOME_BITS
from flowshunt.offload.providers.kernel.attaching import forget_left
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.offload.providers.options import options_of
from flowshunt.ports.api import PortError
from flowshunt.ports.live import LiveBatch, LivePort
from flowshunt.ports.patch import PatchPort
from flowshunt.ports.receiving import IN_TAG
from flowshunt.ports.tap import wait_until_gone

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
        self.core.leave()  # bridges are beside it, and no packet comes to itself
        self.tracker = self.core.tracker
        self.offload = self.core.offload
        self.fragments = self.core.fragments
        self.limits_are_of_database = False
        self._big_datagrams = BigDatagrams(self.fragments)
        self.bridges: dict[str, Bridge] = {}
        self.other_config: dict[str, str] = {}
        self._waits_for_flows = False
        self._is_configured = False
        self.is_restoring = False
        """What the process before has left is still to be put back."""
        self.leaves_nothing = False
        self.history = History(self.core)
        self.coverage = Coverage()
        self._has_devices = open_port is not open_dummy if has_devices is None else has_devices
        self._opener = Opener(open_port)
        self._worker = Worker(self.clock, self._tick, self.offload.follow, busy_poll=busy_poll)
        self._kernel = KernelPorts(self.offload, Holding(self.tracker), self.bridges, self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None
        self._observers: list[PortObserver] = []
        self._control_observers: list[Callable[[], None]] = []
        self._waiting: deque[tuple[Bridge, LiveBatch, int]] = deque()
        self._depth = 0
        self._n_deliveries = 0
        self._n_posted = 0  # written by the packet thread alone, and the next one by that of control
        self._n_posts_done = 0
        self._counters = {"posts-dropped": 0, "patch-depth": 0, "dropped-while-holding": 0}

    @property
    def is_holding(self) -> bool:
        """Packets that come in are dropped, since flows or connections are being restored.

        To be set while flows are.
        """
        return self._waits_for_flows or self.is_restoring

    @is_holding.setter
    def is_holding(self, on: bool) -> None:
        self._waits_for_flows = on
        self._kernel.follow()

    @property
    def is_hitless(self) -> bool:
        """Whether offloaded connections go on while there is no process."""
        return self._kernel.is_hitless and not self.leaves_nothing

    def leave_nothing(self) -> None:
        """When this process ends, nothing is to go on, and nothing to be put back by the next one."""
        self.leaves_nothing = True

    async def take_over(self) -> None:
        """Once all is made that was asked for: let packets in, after what the process before has left is put back.

        Not while flows are being restored: then this is to be called again.
        """
        self._is_configured = True
        if self.is_restoring and not self._waits_for_flows:
            await take_over(self)
            await self.settled()

    def end_restoring(self) -> None:
        """What the process before has left is back: let packets in."""
        self.is_restoring = False
        self._kernel.follow()

    def prepare_offload(self) -> Kernel | None:
        """See `KernelPorts.prepare`."""
        return self._kernel.prepare()

    # --- life, and the two threads ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin. The loop that this runs in is the thread of control."""
        lift_file_limit()
        self._loop = asyncio.get_running_loop()
        self._worker.start()
        if self._has_devices:
            self._follower = asyncio.create_task(self._follow_links())

    async def stop(self) -> None:
        """Close sockets and devices, and end the packet thread."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        await self.call(partial(self._kernel.leave, keep=self.is_hitless))
        for name in list(self.bridges):
            await self.call(partial(self.del_bridge, name))
        await self.call(self._kernel.close)
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

    def is_packet_thread(self) -> bool:
        """Whether the caller runs on the packet thread, or in its place."""
        return self._worker.is_current()

    def carry_out(self, work: Callable[[], None], done: Callable[[], None]) -> bool:
        """From the thread of control: have `work()` run on the packet thread, and then `done()` here.

        True when that was at once, because the packet thread sleeps; then `done` is not called.
        """
        loop = self._loop
        assert loop is not None
        if self._worker.run_now(partial(_logged, work)):
            return True

        def finished(future: Future[None]) -> None:
            loop.call_soon_threadsafe(done)

        self._worker.submit(partial(_logged, work)).add_done_callback(finished)
        return False

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
        """Wait, on the thread of control, until the sockets of all bridges are as they should be, and no device that
        was closed is there any more.
        """
        await asyncio.sleep(0)
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._has_devices:
            await asyncio.to_thread(wait_until_gone)
        while await self.call(self._kernel.is_attaching):
            await asyncio.to_thread(self._kernel.wait)

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
        switch = Switch(beside=self.core)
        bridge = Bridge(name, switch, self, datapath_id=number, fail_mode=fail_mode)
        self.bridges[name] = bridge
        if local_port:
            bridge.add_port(name, "internal")
        self.schedule(partial(self._listen, bridge))
        return bridge

    def del_bridge(self, name: str) -> None:
        """Remove a bridge with its ports and socket. Raises UsageError when there is none."""
        if name not in self.bridges:
            raise UsageError(f"there is no bridge {name!r}")
        bridge = self.bridges.pop(name)
        bridge.close()
        bridge.switch.del_flows("")
        bridge.switch.leave()
        self.schedule(bridge.hang_up)

    async def _listen(self, bridge: Bridge) -> None:
        try:
            await bridge.listen()
        except FlowshuntError as problem:
            _LOG.error("bridge %s: %s", bridge.name, problem)

    def schedule(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
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
        # Programs of the process before forward, and nobody else until all is there.
        self.is_restoring = self.is_hitless and (self.is_restoring or not self._is_configured)
        if not self._is_configured and not self.is_hitless:
            forget_left(options_of(Kernel.name, other_config))
        self._kernel.follow()

    # --- ports -----------------------------------------------------------------------------------------------------

    def on_port_change(self, observer: PortObserver) -> None:
        """Have `observer` called on the thread of control when a port comes (0), goes (1) or changes (2)."""
        self._observers.append(observer)

    def on_control_change(self, observer: Callable[[], None]) -> None:
        """Have `observer()` called on the thread of control when a controller comes or goes."""
        self._control_observers.append(observer)

    def control_changed(self) -> None:
        """On the thread of control: tell those who want to know of controllers."""
        for observer in self._control_observers:
            observer()

    def open_port(self, bridge: Bridge, info: PortInfo) -> LivePort:
        """Open the device of a port. Raises PortError."""
        if info.type == "patch":
            if not info.options.get("peer"):
                raise PortError(f"{info.name}: patch type requires valid 'peer' argument")
            return PatchPort(info.ofport, partial(self._deliver, info.name, info.options["peer"]))
        return self._opener(info)

    def port_in_paths(self, bridge: Bridge, number: int) -> int | None:
        """How paths name a port of a bridge; None: the bridge has none."""
        return bridge.switch.home << HOME_BITS | number

    def find_port(self, port: int) -> tuple[Bridge, int] | None:
        """The bridge and the number of a port that paths name, if the bridge is there."""
        home, number = port >> HOME_BITS, port & (1 << HOME_BITS) - 1
        return next(((bridge, number) for bridge in self.bridges.values() if bridge.switch.home == home), None)

    async def _follow_links(self) -> None:
        """Follow devices as long as the node lives, whatever goes wrong with it."""
        while True:
            try:
                await follow_links(self._link_changed)
            except Exception:  # noqa: BLE001  (a device that changes unseen is worse than any fault)
                _LOG.exception("devices are followed anew after an error")
            await asyncio.sleep(RETRY_S)

    def _link_changed(self, link: Link | None) -> None:
        """On the thread of control: something happened to a device, or perhaps to all."""
        self.carry_out(partial(self._check_links, link), _nothing)

    def _check_links(self, link: Link | None) -> None:
        for bridge in list(self.bridges.values()):
            for info in list(bridge.ports.values()):
                if not has_device(info) or (
                    link is not None and link.name != info.name and link.ifindex != info.ifindex
                ):
                    continue
                try:
                    self._check_link(bridge, info)
                except Exception:  # noqa: BLE001  (one port's fault must not hide what happened to others)
                    _LOG.exception("port %s of %s could not be looked at", info.name, bridge.name)

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
            return
        self._kernel.look_again(info.ifindex)
        if has_changed:
            bridge.port_changed(info.name)

    def watch(self, bridge: Bridge, device: LivePort) -> None:
        """Receive from a device."""
        if device.fileno() >= 0:
            self._worker.watch(device.fileno(), partial(self._receive, bridge, device))

    def unwatch(self, device: LivePort) -> None:
        """No more."""
        if device.fileno() >= 0:
            self._worker.unwatch(device.fileno())

    def follow_offload(self) -> None:
        """See `Host`."""
        self._kernel.follow()

    def soon(self, function: Callable[[], None]) -> None:
        """From any thread: have the packet thread call this, as long as there is one."""
        with suppress(RuntimeError):
            self._worker.submit(partial(_logged, function))

    def port_changed(self, bridge: Bridge, info: PortInfo, reason: int) -> None:
        """Tell those who want to know."""
        self._kernel.follow()
        copy = bridge.port_info(info.name) if reason == REASON_ADDED else info
        for observer in self._observers:
            self.post(partial(observer, bridge.name, copy, reason))
        self.post(bridge.server.flush_events)

    # --- packets ---------------------------------------------------------------------------------------------------

    def _receive(self, bridge: Bridge, device: LivePort) -> None:
        try:
            received = device.receive(self.clock.now_ns())
        except PortError as problem:
            if device.in_port == IN_TAG:
                _LOG.warning("bridge %s: %s", bridge.name, problem)
                self._kernel.begin_anew()
            else:
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
        self.history.tick(now_ms)
        self.coverage.look(self, now_ms)
        for bridge in self.bridges.values():
            bridge.switch.expire_flows(now_ms)
        self._big_datagrams.look()

    def statistics(self) -> dict[str, Any]:
        """Counters of the node, and those of each bridge under its name."""
        return self._counters | {name: bridge.statistics() for name, bridge in self.bridges.items()}


def _logged(work: Callable[[], None]) -> None:
    """Call `work()`; nobody waits for its exception."""
    try:
        work()
    except Exception:  # noqa: BLE001
        _LOG.exception("a request could not be carried out")


def _nothing() -> None:
    """What is left to do after a command that nobody waits for."""

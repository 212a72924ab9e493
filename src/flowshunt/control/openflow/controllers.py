"""Connections that a bridge makes to controllers, or waits for, as Open vSwitch does by its table Controller.

    Controllers   those of one bridge: what is configured, and what is told of them
      Outgoing    a task that connects, watches that the controller still speaks, and connects again, ever more slowly
      Passive     a socket on which controllers come to us

While a bridge has controllers and `standalone` is its fail mode, it forwards by itself when none of them has spoken for
three times the probe interval, until one is back (ovs-vswitchd.conf.db(5), Bridge: fail_mode).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flowshunt.base.errors import FlowshuntError, InputError
from flowshunt.base.log import logger
from flowshunt.base.sockets import check_free, private_socket
from flowshunt.control.openflow.connection import Connection
from flowshunt.control.openflow.server import Peer, Server
from flowshunt.control.openflow.targets import Target, parse_target

PROBE_S = 5.0
MAX_BACKOFF_S = 8.0
FIRST_BACKOFF_S = 1.0
_FAIL_OPEN_PROBES = 3
_ROLES = {"primary": "master", "secondary": "slave"}
"""As the database says them; the rest is `other`."""
_RANKS = {"primary": 2, "equal": 1}
_LOG = logger(__name__)


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """One row. `probe_s`: silence after which the controller is asked whether it lives; 0: never."""

    target: str
    probe_s: float = PROBE_S
    max_backoff_s: float = MAX_BACKOFF_S
    hears_events: bool = True
    """It is told of packets and ports without asking for that."""


@dataclass(frozen=True, slots=True)
class ControllerStatus:
    """What the table Controller says of one."""

    is_connected: bool
    role: str | None
    state: str
    """VOID, CONNECTING, ACTIVE, IDLE, BACKOFF or, of a socket on which we wait, LISTENING."""
    last_error: str | None = None
    changed_s: float = 0.0
    """Time of the loop at which it was connected, or no longer."""
    was_connected: bool = False


class Controllers:
    """The controllers of one bridge; on the thread of control, but for `statuses`, which may be read on any."""

    def __init__(
        self, server: Server, changed: Callable[[], None], stand_in: Callable[[bool], None] = lambda on: None
    ) -> None:
        """`changed()` is called when some status is another one, `stand_in(on)` when the bridge is to forward by
        itself, or no longer.
        """
        self._server = server
        self._changed = changed
        self._stand_in = stand_in
        self._by_target: dict[str, Outgoing | Passive] = {}
        self._settings: tuple[ControllerSettings, ...] = ()
        self._may_stand_in = False
        self._stands_in = False
        self._silent_since = 0.0
        self._watch: asyncio.Task[None] | None = None
        self.statuses: dict[str, ControllerStatus] = {}

    async def configure(self, settings: Iterable[ControllerSettings], *, may_stand_in: bool) -> None:
        """Have these controllers; connections of those that stay as they are go on.

        `may_stand_in`: the bridge is to forward by itself while no controller speaks.
        """
        wanted = {each.target: each for each in settings}
        for target, known in list(self._by_target.items()):
            if known.settings != wanted.get(target):
                del self._by_target[target]
                self.statuses.pop(target, None)
                await known.close()
        for target, each in wanted.items():
            if target not in self._by_target:
                await self._begin(each)
        self._settings, self._may_stand_in = tuple(wanted.values()), may_stand_in and bool(self._by_target)
        if self._may_stand_in and self._watch is None:
            self._silent_since = asyncio.get_running_loop().time()
            self._watch = asyncio.create_task(self._watch_over())
        elif not self._may_stand_in:
            await self._stop_watching()
        self._changed()

    async def close(self) -> None:
        """End all."""
        await self.configure((), may_stand_in=False)

    def connection(self) -> Connection | None:
        """The connection of the controller with the highest role."""
        found = [each.connection for each in self._by_target.values()]
        alive = [connection for connection in found if connection is not None and connection.version]
        return max(alive, key=lambda connection: _RANKS.get(connection.role, 0), default=None)

    async def _begin(self, settings: ControllerSettings) -> None:
        told = partial(self._told, settings.target)
        try:
            target = parse_target(settings.target)
            made = (Passive if target.is_passive else Outgoing)(self._server, target, settings, told)
            self._by_target[settings.target] = made
            await made.start()
        except FlowshuntError as problem:
            self._by_target.pop(settings.target, None)
            _LOG.error("controller %s: %s", settings.target, problem)
            told(ControllerStatus(False, None, "VOID", str(problem)))

    def _told(self, target: str, status: ControllerStatus) -> None:
        before = self.statuses.get(target)
        self.statuses[target] = status
        if before != status:
            if before is None or before.is_connected != status.is_connected:
                _LOG.info("controller %s: %s", target, "connected" if status.is_connected else "not connected")
            self._look()
            self._changed()

    # --- forwarding without them -------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Whether somebody speaks, or did a while ago."""
        now = asyncio.get_running_loop().time()
        if any(status.is_connected for status in self.statuses.values()):
            self._silent_since = now
            self._set_stand_in(False)
        elif self._may_stand_in and now - self._silent_since >= self._patience_s():
            self._set_stand_in(True)

    def _patience_s(self) -> float:
        return _FAIL_OPEN_PROBES * max((each.probe_s or PROBE_S for each in self._settings), default=PROBE_S)

    def _set_stand_in(self, on: bool) -> None:
        if self._stands_in != on:
            self._stands_in = on
            _LOG.info("%s", "no controller speaks: forwarding as a switch" if on else "a controller is back")
            self._stand_in(on)
        elif on:
            self._stand_in(on)  # all flows may have been deleted

    async def _watch_over(self) -> None:
        while True:
            await asyncio.sleep(min(self._patience_s() / 10, 1.0))
            self._look()

    async def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        self._set_stand_in(False)


Told = Callable[[ControllerStatus], None]


class Outgoing:
    """One controller that we connect to."""

    def __init__(self, server: Server, target: Target, settings: ControllerSettings, told: Told) -> None:
        self.settings = settings
        self._server = server
        self._target = target
        self._told = told
        self._task: asyncio.Task[None] | None = None
        self._peer: Peer | None = None
        self._error: str | None = None
        self._changed_s = 0.0
        self._was_connected = False

    @property
    def connection(self) -> Connection | None:
        """The connection, while there is one."""
        return None if self._peer is None else self._peer.connection

    async def start(self) -> None:
        """Begin to connect."""
        self._changed_s = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the connection, and try no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        backoff = min(FIRST_BACKOFF_S, self.settings.max_backoff_s)
        while True:
            self._tell("CONNECTING")
            try:
                async with asyncio.timeout(max(backoff, FIRST_BACKOFF_S)):
                    peer = self._peer = await self._connect()
            except OSError as problem:  # that it took too long is one, too
                self._error = os.strerror(problem.errno) if problem.errno else str(problem) or "Connection timed out"
            except ValueError as problem:  # a name that cannot be one of a host or file
                self._error = str(problem)
            else:
                try:
                    if await self._converse(peer):
                        backoff = min(FIRST_BACKOFF_S, self.settings.max_backoff_s)
                finally:
                    self._peer = None
                    peer.abort()
            self._tell("BACKOFF")
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, self.settings.max_backoff_s)

    async def _connect(self) -> Peer:
        loop, target = asyncio.get_running_loop(), self._target
        make = partial(Peer, self._server, quiet=not self.settings.hears_events)
        if target.path is not None:
            _, peer = await loop.create_unix_connection(make, target.path)
        else:
            _, peer = await loop.create_connection(make, target.host or "", target.port)
        return peer

    async def _converse(self, peer: Peer) -> bool:
        """Watch over a connection until it ends; returns whether it ever came about."""
        loop, probe_s = asyncio.get_running_loop(), self.settings.probe_s
        asked_s: float | None = None
        was_connected = False
        while not peer.is_over:
            if peer.connection.version:
                was_connected = True
                if asked_s is not None and peer.heard_s > asked_s:
                    asked_s = None
                self._tell("ACTIVE" if asked_s is None else "IDLE")
                silent_s = loop.time() - (asked_s or peer.heard_s)
                if probe_s and silent_s >= probe_s:
                    if asked_s is not None:
                        self._error = "Connection timed out"
                        return True
                    asked_s = loop.time()
                    peer.ask_whether_alive()
            await peer.wait(probe_s if peer.connection.version and probe_s else None)
        self._error = peer.fault or "End of file"
        return was_connected

    def _tell(self, state: str) -> None:
        connection = self.connection if state in ("ACTIVE", "IDLE") else None
        is_connected = connection is not None
        if is_connected != self._was_connected:
            self._was_connected, self._changed_s = is_connected, asyncio.get_running_loop().time()
        role = None if connection is None else _ROLES.get(connection.role, "other")
        self._told(ControllerStatus(is_connected, role, state, self._error, self._changed_s))


class Passive:
    """A socket on which controllers come to us. Like management sockets they are told what they ask for."""

    def __init__(self, server: Server, target: Target, settings: ControllerSettings, told: Told) -> None:
        self.settings = settings
        self._server = server
        self._target = target
        self._told = told
        self._listening: asyncio.Server | None = None
        self._peers: set[Peer] = set()

    @property
    def connection(self) -> Connection | None:
        """That of some controller that has said hello."""
        return next((peer.connection for peer in self._peers if peer.connection.version), None)

    async def start(self) -> None:
        """Listen. Raises UsageError and InputError when that cannot be."""
        loop, target = asyncio.get_running_loop(), self._target
        make = partial(Peer, self._server, quiet=True, follower=self._follow)
        try:
            if target.path is not None:
                check_free(Path(target.path))
                bound = private_socket(Path(target.path))
                self._listening = await loop.create_unix_server(make, sock=bound)
            else:
                self._listening = await loop.create_server(make, target.host, target.port)
        except OSError as problem:
            raise InputError(f"cannot listen: {problem.strerror or problem}") from None
        except ValueError as problem:  # a name that cannot be one of a host or file
            raise InputError(f"cannot listen: {problem}") from None
        self._tell()

    async def close(self) -> None:
        """Stop listening, and end the connections."""
        if self._listening is not None:
            self._listening.close()
        for peer in list(self._peers):
            peer.abort()
        if self._target.path is not None:
            Path(self._target.path).unlink(missing_ok=True)

    def _follow(self, peer: Peer) -> None:
        if peer.is_over:
            self._peers.discard(peer)
        else:
            self._peers.add(peer)
        self._tell()

    def _tell(self) -> None:
        is_connected = self.connection is not None
        self._told(ControllerStatus(is_connected, "other" if is_connected else None, "LISTENING"))

"""The server of a bridge's OpenFlow connections: sockets, asyncio, and nothing about OpenFlow.

A management socket is private: no one else can use it, nor write to its directory. Requests are carried
out one after the other as they come in; after some of them other connections have their turn. A peer that does not read
what it asked for is not read from either; one that does not read what it is told is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from flowshunt.base.clock import Clock
from flowshunt.base.log import logger
from flowshunt.base.sockets import listening_socket
from flowshunt.control.openflow.codec import EchoRequest
from flowshunt.control.openflow.connection import Closed, Commit, Connection, Event, Negotiated, Request
from flowshunt.control.openflow.flow_mod import FlowMod
from flowshunt.control.openflow.service import Service
from flowshunt.control.openflow.wire import VERSIONS

MAX_UNREAD = 1 << 24
"""Bytes that a peer may leave unread of what it is told."""
MAX_CONNECTIONS = 256
HELLO_SECONDS = 30.0
"""How long a peer may take for its hello."""

_READ_SIZE = 1 << 16
_TURNS_TO_ACCEPT = 4
"""Turns of the loop in which a connection that asyncio is just accepting becomes a peer."""
_TURN = 64
"""Requests of one connection before others have their turn."""
_TOGETHER = 8
"""Changes of flows that are handed over at a time: packets wait as long as they take."""
_LOG = logger(__name__)


Run = Callable[[Callable[[], None], Callable[[], None]], bool]
"""`run(work, done)`: have `work` called where the switch lives, perhaps in another thread, and then `done` here.

True when `work` has been called already; then `done` will not be.
"""


class Server:
    """Serves one bridge on a unix socket."""

    def __init__(self, service: Service, clock: Clock, run: Run | None = None) -> None:
        """`run` carries requests out; without it they are carried out here and now."""
        self.service = service
        self.clock = clock
        self.run = run
        self.versions = VERSIONS
        """Versions of OpenFlow that connections from now on are offered."""
        self.peers: set[Peer] = set()
        self.closing = False
        self._tidies = False
        self._server: asyncio.Server | None = None
        self._path: Path | None = None

    async def listen(self, path: Path) -> None:
        """Serve on a socket at `path`, which no one else may use; a socket left over there is replaced.

        Raises UsageError when others can write to the directory, or something else is at `path`, InputError when the
        system refuses.
        """
        bound = listening_socket(path)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: Peer(self), sock=bound)
        self._path = path

    async def close(self) -> None:
        """Stop listening, end all connections, remove the socket."""
        self.closing = True
        if self._server is not None:
            # asyncio loses a connection that it is accepting while its server closes: first no more are accepted.
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            for _ in range(_TURNS_TO_ACCEPT):
                await asyncio.sleep(0)
            self._server.close()
            await self._server.wait_closed()
        while self.peers:
            for peer in list(self.peers):
                peer.abort()
            await asyncio.sleep(0)
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def flush_events(self) -> None:
        """Send what connections are to be told without having asked; call it after `Service.tell`."""
        self.service.deliver_events()
        for peer in list(self.peers):
            peer.flush()
        if self.service.has_waste and not self._tidies:
            self._tidies = True
            asyncio.get_running_loop().call_soon(_take_steps, self.service.tidy(), self._has_tidied)

    def _has_tidied(self) -> None:
        self._tidies = False


class Peer(asyncio.BufferedProtocol):
    """One connection, and the socket that it is on."""

    def __init__(self, server: Server, *, quiet: bool = True, follower: Callable[[Peer], None] | None = None) -> None:
        """`quiet`: events go there only once it asks for packets.

        `follower(peer)` is called when it comes, has said hello, and goes.
        """
        self._server = server
        self._quiet = quiet
        self._follower = follower
        self.connection = Connection(server.versions)
        self.is_over = False
        self.fault: str | None = None
        self.heard_s = 0.0
        """When something came in last, by the loop's clock."""
        self._stirred = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._received = memoryview(bytearray(_READ_SIZE))
        self._blocked = False  # the peer does not read
        self._waiting = False  # for the next turn

    # --- what asyncio calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        server = self._server
        server.peers.add(self)
        if server.closing or len(server.peers) > MAX_CONNECTIONS:
            _LOG.warning("an OpenFlow connection too many")
            transport.abort()
            return
        self.heard_s = asyncio.get_running_loop().time()
        server.service.attach(self.connection, quiet=self._quiet)
        if self._follower is not None:
            self._follower(self)
        self._patience = asyncio.get_running_loop().call_later(HELLO_SECONDS, self._lose_patience)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone."""
        if exc is not None:
            _LOG.debug("connection lost: %s", exc)
            self.fault = self.fault or getattr(exc, "strerror", None) or str(exc)
        self.is_over = True
        self._stirred.set()
        for tap in list(self.connection.taps):
            tap(b"")
        if self._follower is not None:
            self._follower(self)
        if self._patience is not None:
            self._patience.cancel()
        self._server.peers.discard(self)
        self._transport = None
        # What misses do may change with it, and that is the switch's.
        if self._server.run is not None:
            detach, flush = partial(self._server.service.detach, self.connection), self._server.flush_events
            if self._server.run(detach, flush):
                flush()
        else:
            self._server.service.detach(self.connection)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what comes in."""
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        """Take what came in, and act on it."""
        self.heard_s = asyncio.get_running_loop().time()
        self._stirred.set()
        self.connection.receive_data(bytes(self._received[:nbytes]))
        if not self._waiting and not self._blocked:
            self._act()

    def pause_writing(self) -> None:
        """The peer does not read: neither do we."""
        self._blocked = self.connection.congested = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on where we stopped."""
        self._blocked = self.connection.congested = False
        self._resume_monitors()
        if not self._waiting:
            self._next_turn()

    # --- for who watches over it -----------------------------------------------------------------------------------

    async def wait(self, seconds: float | None) -> None:
        """Wait until something happens on the connection, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return
        finally:
            self._stirred.clear()

    def ask_whether_alive(self) -> None:
        """Send an echo request; an answer is something heard."""
        self.connection.notify(EchoRequest(b""))
        self.flush()

    # --- requests --------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        """Act on what was received, until there is nothing more, the peer does not read, or others have their turn."""
        connection, service = self.connection, self._server.service
        for _ in range(_TURN):
            event = connection.next_event()
            if event is None:
                self.flush()
                if self._transport is not None and not self._blocked:
                    self._transport.resume_reading()
                return
            if isinstance(event, Request | Commit):
                if self._server.run is not None:
                    last = self._hand_over(event, self._server.run)
                    if last is None:
                        return
                    event = last
                else:
                    service.carry_out(connection, event, self._server.clock.now_ns())
            elif isinstance(event, Negotiated) and self._follower is not None:
                self._follower(self)
            self._server.flush_events()
            if isinstance(event, Closed):
                self._end(event.reason)
                return
            if self._blocked or self._transport is None:
                return
        self._wait()
        asyncio.get_running_loop().call_soon(self._next_turn)

    def _hand_over(self, event: Event, run: Run) -> Event | None:
        """Have a request carried out elsewhere, and changes of flows that follow it; nothing is read meanwhile.

        Returns the last of them when that was done at once; None: it goes on when it is done.
        """
        work = [event]
        while isinstance(event, Request) and isinstance(event.message, FlowMod) and len(work) < _TOGETHER:
            following = self.connection.next_event()
            if following is None:
                break
            event = following
            work.append(event)

        service = self._server.service
        steps = (step for each in work if isinstance(each, Request | Commit) for step in service.prepare(each))

        def carry_out() -> None:
            for each in work:
                if isinstance(each, Request | Commit):
                    service.carry_out(self.connection, each, self._server.clock.now_ns())

        def done() -> None:
            self._server.flush_events()
            if isinstance(event, Closed):
                self._end(event.reason)
            else:
                self._next_turn()

        def go_on() -> None:
            if run(carry_out, done):
                done()

        if any(True for _ in steps):
            self._wait()
            asyncio.get_running_loop().call_soon(_take_steps, steps, go_on)
            return None
        if run(carry_out, done):
            return event
        self._wait()
        return None

    def _wait(self) -> None:
        self._waiting = True
        if self._transport is not None:
            self._transport.pause_reading()

    def _next_turn(self) -> None:
        self._waiting = False
        self._stirred.set()
        if self._transport is not None and not self._blocked:
            self._act()

    def flush(self) -> None:
        """Send what is to be sent."""
        transport = self._transport
        left_unread = 0 if transport is None else transport.get_write_buffer_size()
        has_sent = False
        for data in self.connection.parts_to_send():
            if transport is None:
                continue
            if left_unread > MAX_UNREAD:
                _LOG.warning("a controller does not read: its connection is cut off")
                transport.abort()
                return
            transport.write(data)
            has_sent = True
        if has_sent and not self._blocked:
            self._resume_monitors()

    def _resume_monitors(self) -> None:
        """Have monitors that are paused told what they missed; what they are told now is written."""
        server = self._server
        if not self.connection.paused:
            return
        resume = partial(server.service.resume_monitors, self.connection)
        if server.run is not None:
            if server.run(resume, server.flush_events):
                server.flush_events()
        else:
            resume()
            self.flush()

    # --- the end ---------------------------------------------------------------------------------------------------

    def _end(self, reason: str) -> None:
        _LOG.warning("OpenFlow connection closed: %s", reason)
        self.fault = reason
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def _lose_patience(self) -> None:
        if not self.connection.version:
            self._end("no hello came")

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()


def _take_steps(steps: Iterator[None], then: Callable[[], None]) -> None:
    """Take one step at each turn of the loop, and call `then` after the last."""
    for _ in steps:
        asyncio.get_running_loop().call_soon(_take_steps, steps, then)
        return
    then()

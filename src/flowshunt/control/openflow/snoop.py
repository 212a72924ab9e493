"""A copy of what a bridge and its controller say to each other, for `ovs-ofctl snoop`.

Who connects gets a hello, and then each message in both directions as it is on the wire, with its own version. Of
several controllers it is that of the highest role. What comes in is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from flowshunt.base.log import logger
from flowshunt.base.sockets import listening_socket
from flowshunt.control.openflow.codec import TYPE_HELLO
from flowshunt.control.openflow.connection import Connection
from flowshunt.control.openflow.hello import encode_hello
from flowshunt.control.openflow.wire import VERSIONS, frame

MAX_SNOOPERS = 16
MAX_UNREAD = 1 << 22
"""Bytes that somebody may leave unread before his connection is cut off."""
_LOG = logger(__name__)


class Snooping:
    """The socket, and who is listening; on the thread of control."""

    def __init__(self, find: Callable[[], Connection | None]) -> None:
        """`find()`: the connection to listen to; None: there is none."""
        self._find = find
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._snoopers: set[_Snooper] = set()

    async def listen(self, path: Path) -> None:
        """Serve on a socket that no one else may use. Raises UsageError and InputError, as for a management socket."""
        bound = listening_socket(path)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Snooper(self), sock=bound)
        self._path = path

    async def close(self) -> None:
        """Stop listening, end all connections, remove the socket."""
        if self._server is not None:
            self._server.close()
        for snooper in list(self._snoopers):
            snooper.end()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def begin(self, snooper: _Snooper) -> Connection | None:
        """What a new one listens to; None: nothing."""
        connection = self._find()
        if connection is None:
            _LOG.info("there is no connection to a controller to snoop on")
            return None
        if len(self._snoopers) >= MAX_SNOOPERS:
            _LOG.warning("one that snoops too many")
            return None
        self._snoopers.add(snooper)
        return connection

    def forget(self, snooper: _Snooper) -> None:
        """He is gone."""
        self._snoopers.discard(snooper)


class _Snooper(asyncio.Protocol):
    def __init__(self, snooping: Snooping) -> None:
        self._snooping = snooping
        self._connection: Connection | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connection = self._snooping.begin(self)
        if self._connection is None:
            transport.close()
            return
        transport.write(frame(max(VERSIONS), TYPE_HELLO, 0, encode_hello(VERSIONS)))
        self._connection.taps.add(self._copy)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._connection is not None:
            self._connection.taps.discard(self._copy)
        self._snooping.forget(self)

    def end(self) -> None:
        """End the connection; also when there is nothing more to listen to."""
        if self._transport is not None:
            self._transport.close()

    def _copy(self, messages: bytes) -> None:
        if self._transport is None:
            return
        if not messages:
            self.end()
        elif self._transport.get_write_buffer_size() > MAX_UNREAD:
            self._transport.abort()
        else:
            self._transport.write(messages)

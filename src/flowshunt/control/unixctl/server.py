"""The unixctl server: a private socket, asyncio, and nothing about commands."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from flowshunt.base.log import logger
from flowshunt.base.sockets import listening_socket
from flowshunt.control.jsonrpc import Decoder, JsonRpcError, Reply, Request, encode
from flowshunt.control.unixctl.node import Node
from flowshunt.control.unixctl.registry import CommandError, Registry

MAX_CONNECTIONS = 64
_READ_SIZE = 1 << 16
_LOG = logger(__name__)


def socket_path(directory: Path, program: str = "ovs-vswitchd") -> Path:
    """Where ovs-appctl looks for the socket of this process, once it knows the pid."""
    return directory / f"{program}.{os.getpid()}.ctl"


class Server:
    """Serves the commands of a registry on a unix socket. Commands of one connection run one after the other."""

    def __init__(self, node: Node, registry: Registry, program: str = "ovs-vswitchd") -> None:
        """`program` is the name that errors begin with."""
        self._node = node
        self._registry = registry
        self._program = program
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def path(self) -> Path | None:
        """The socket, while it listens."""
        return self._path

    async def listen(self, path: Path) -> None:
        """Serve on a socket at `path` that no one else may use; a socket left over there is replaced.

        Its directory is made for this user alone when there is none. Raises UsageError when the directory is open for
        others to write to, or when something else is at `path`, InputError when the system refuses.
        """
        self._server = await asyncio.start_unix_server(self._serve, sock=listening_socket(path))
        self._path = path

    async def close(self) -> None:
        """Stop listening, end all connections but the one that this is called from, remove the socket."""
        if self._server is not None:
            self._server.close()
        mine = asyncio.current_task()
        others = [task for task in self._connections if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > MAX_CONNECTIONS:
                _LOG.warning("a unixctl connection too many")
                return
            await self._converse(reader, writer)
        except JsonRpcError as error:
            _LOG.info("unixctl connection closed: %s", error)
        except (ConnectionError, asyncio.CancelledError) as error:
            _LOG.debug("unixctl connection lost: %r", error)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder()
        while data := await reader.read(_READ_SIZE):
            for message in decoder.feed(data):
                if not isinstance(message, Request):
                    raise JsonRpcError(f"a {type(message).__name__} where requests are expected")
                writer.write(encode(await self._answer(message)))
                await writer.drain()

    async def _answer(self, request: Request) -> Reply:
        try:
            result = await self._registry.run(self._node, request.method, request.params)
        except CommandError as error:
            text = str(error)
            return Reply(None, text if text.endswith("\n") else text + "\n", request.id)
        except Exception:  # noqa: BLE001  (a command that fails must not take the socket with it)
            _LOG.exception("command %s failed", request.method)
            return Reply(None, f"{self._program}: {request.method} failed; the log says why\n", request.id)
        return Reply(result, None, request.id)

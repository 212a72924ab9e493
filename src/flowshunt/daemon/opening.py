"""Devices opened ahead, many at a time.

The kernel makes everyone who sets up a ring wait until no processor can be using the old one, some 10 ms. Packets do
not have to wait for that, nor one port for the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial

from flowshunt.daemon.bridge import OpenPort, PortInfo
from flowshunt.daemon.ports import describe
from flowshunt.ports.af_packet import AfPacketPort, n_open
from flowshunt.ports.api import PortError
from flowshunt.ports.live import LivePort

_THREADS = 32


class Opener:
    """Opens devices, those first that were opened ahead."""

    def __init__(self, open_port: OpenPort) -> None:
        """`open_port` opens what was not opened ahead."""
        self._open_port = open_port
        self._opened: dict[str, AfPacketPort] = {}

    def __call__(self, info: PortInfo) -> LivePort:
        """Open the device of a port. Raises PortError."""
        port = self._opened.pop(info.name, None) if info.type == "system" else None
        if port is None:
            return self._open_port(info)
        try:
            describe(info)
        except PortError:
            port.close()
            raise
        port.renumber(info.ofport)
        info.link_resets = 0
        return port

    @asynccontextmanager
    async def ahead(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Open network devices in threads of their own; those that nobody has taken at the end are closed.

        One that cannot be opened is tried again by whoever wants it, and tells them why.
        """
        loop = asyncio.get_running_loop()
        wanted = dict.fromkeys(names)
        open_one = partial(self._open, n_ports=n_open() + len(wanted))
        try:
            with ThreadPoolExecutor(_THREADS) as threads:
                opening = (loop.run_in_executor(threads, open_one, name) for name in wanted)
                await asyncio.gather(*opening)
            yield
        finally:
            while self._opened:
                with suppress(KeyError):  # the packet thread has taken the last one meanwhile
                    self._opened.popitem()[1].close()

    def _open(self, name: str, n_ports: int) -> None:
        try:
            port = AfPacketPort(name, 0, n_ports=n_ports)
        except PortError:
            return
        self._opened[name] = port

"""Follows network devices through netlink (rtnetlink(7)): which came, which went, which changed.

Read with a socket of our own, since what matters most is what was not heard: a socket that overran (ENOBUFS) goes on,
and everything is looked at then.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NamedTuple

from flowshunt.base.log import logger

RETRY_S = 1.0
"""How long after a failure of the netlink socket it is opened again."""
BUFFER_SIZE = 1 << 20
"""Bytes of news that may wait, some thousand devices' worth."""

_READ_SIZE = 1 << 16
_RTMGRP_LINK = 1
_NEWLINK, _DELLINK = 16, 17
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_IFNAME = 3
_LOG = logger(__name__)


class Link(NamedTuple):
    """A device that something happened to. `name`: the one that it has now."""

    ifindex: int
    name: str


Changed = Callable[[Link | None], None]
"""`changed(link)`; None: messages may have been lost, and anything may have changed."""


async def follow_links(changed: Changed) -> None:
    """Call `changed` for every device that something happened to, until cancelled; first of all with None."""
    while True:
        try:
            with closing(_subscribe()) as heard:
                changed(None)
                await _listen(heard, changed)
        except OSError as problem:
            _LOG.warning("devices cannot be followed for the moment: %s", problem)
        await asyncio.sleep(RETRY_S)


def _subscribe() -> socket.socket:
    heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_SIZE)
        heard.bind((0, _RTMGRP_LINK))
    except BaseException:
        heard.close()
        raise
    return heard


async def _listen(heard: socket.socket, changed: Changed) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = await loop.sock_recv(heard, _READ_SIZE)
        except OSError as problem:
            if problem.errno != errno.ENOBUFS:
                raise
            _LOG.info("news of devices were lost: all are looked at")
            changed(None)
            continue
        for link in parse(data):
            changed(link)


def parse(data: bytes) -> Iterator[Link]:
    """The devices that netlink messages tell of; what is damaged or about something else is read over."""
    at = 0
    while len(data) - at >= _HEADER.size:
        size, kind, *_ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size or size > len(data) - at:
            return
        if kind in (_NEWLINK, _DELLINK) and size >= _HEADER.size + _LINK.size:
            index = _LINK.unpack_from(data, at + _HEADER.size)[2]
            yield Link(index, _name(data[at + _HEADER.size + _LINK.size : at + size]))
        at += _aligned(size)


def _name(attributes: bytes) -> str:
    at = 0
    while len(attributes) - at >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if size < _ATTRIBUTE.size or size > len(attributes) - at:
            break
        if kind == _IFNAME:
            return attributes[at + _ATTRIBUTE.size : at + size].split(b"\0")[0].decode(errors="surrogateescape")
        at += _aligned(size)
    return ""


def _aligned(size: int) -> int:
    return (size + 3) & ~3

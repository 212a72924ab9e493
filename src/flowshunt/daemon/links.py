"""Follows network devices through netlink: which came, which went, which changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from flowshunt.base.log import logger

RETRY_S = 1.0
"""How long after a failure of the netlink socket, such as an overrun, it is opened again."""

_RTMGRP_LINK = 1
_LOG = logger(__name__)


async def follow_links(changed: Callable[[str | None], None]) -> None:
    """Call `changed(name)` for every device that something happened to, until cancelled.

    With None after messages may have been lost: anything may have changed then.
    """
    while True:
        try:
            async with AsyncIPRoute() as route:
                await route.bind(groups=_RTMGRP_LINK)
                changed(None)
                while True:
                    async for message in route.get():
                        if message["event"] in ("RTM_NEWLINK", "RTM_DELLINK"):
                            changed(message.get("ifname"))
        except (OSError, NetlinkError) as problem:
            _LOG.warning("devices cannot be followed for the moment: %s", problem)
        await asyncio.sleep(RETRY_S)

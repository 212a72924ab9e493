"""What the log says of packets: rarely, since it is counters that tell what becomes of them."""

from __future__ import annotations

from flowshunt.base.log import logger
from flowshunt.datapath.fragments.store import Fragments

_LOG = logger(__name__)


class BigDatagrams:
    """Warns of datagrams that are too long to be put together: their sender sees nothing but loss."""

    def __init__(self, fragments: Fragments) -> None:
        self._fragments = fragments
        self._told = fragments.too_long()

    def look(self) -> None:
        """Warn, if there were any since the last look. The wording is what scripts look for in Open vSwitch's log."""
        counted = self._fragments.too_long()
        for family, count, told in zip(("v4", "v6"), counted, self._told, strict=True):
            if count > told:
                _LOG.warning("Unsupported big reassembled %s packet: %d so far", family, count)
        self._told = counted

"""Helpers: protocols that announce connections inside of others.

They stand beside the tracker, which does not know them. It knows only that a connection has a helper (a number in its
EXT record) and keeps expectations. Who runs packets hands those that carry payload on such a connection to
`inspector.Inspector`; that one keeps a `Session` per connection, found through a private slot, asks it what the packet
says, and makes expectations of it, with the payload rewritten where the connection is translated.

- `api`: what a helper is; `ftp`, `tftp`: the two there are, without any I/O; `lines`: a stream of lines that passes by.
- `inspector`: from findings to expectations, rewritten payloads and adjusted sequence numbers.

A new helper is a module with a `HELPER`, listed here. May import `flowshunt.conntrack`, `packet` and `base`.
"""

from __future__ import annotations

from types import MappingProxyType

from flowshunt.conntrack.helpers import ftp, tftp
from flowshunt.conntrack.helpers.api import Announcement, Findings, Helper, Session

__all__ = ["BY_NAME", "BY_NUMBER", "HELPERS", "Announcement", "Findings", "Helper", "Session"]

HELPERS = (ftp.HELPER, tftp.HELPER)
BY_NAME = MappingProxyType({helper.name: helper for helper in HELPERS})
BY_NUMBER = MappingProxyType({helper.number: helper for helper in HELPERS})

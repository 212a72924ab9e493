"""Where controllers are, and where we wait for them, as ovs-vswitchd.conf.db(5) writes it in a Controller's `target`.

`tcp:HOST[:PORT]`, `unix:FILE`; `ptcp:[PORT][:HOST]`, `punix:FILE`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flowshunt.base.errors import UsageError

DEFAULT_PORT = 6653
_HOST = r"\[[0-9A-Fa-f:.]+\](?:%[^:]+)?|[^:\[\]]+"
_ACTIVE = re.compile(rf"(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?")
_PASSIVE = re.compile(rf"(?P<port>[0-9]{{0,5}})(?::(?P<host>{_HOST}))?")


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target. `path`: of a unix socket. `is_passive`: controllers connect to us."""

    text: str
    is_passive: bool
    path: str | None = None
    host: str | None = None
    port: int = DEFAULT_PORT


def parse_target(text: str) -> Target:
    """Read a target. Raises UsageError for one that there is not, or that is not supported."""
    kind, _, rest = text.partition(":")
    is_passive = kind.startswith("p")
    if kind in ("unix", "punix") and rest:
        return Target(text, is_passive, path=rest)
    if kind in ("ssl", "pssl"):
        raise UsageError(f"{text}: connections by TLS are not supported", hint="tcp:HOST:PORT, or unix:FILE")
    found = (_PASSIVE if is_passive else _ACTIVE).fullmatch(rest) if kind in ("tcp", "ptcp") else None
    port = int((found and found["port"]) or DEFAULT_PORT)
    if found is None or port >= 1 << 16:
        raise UsageError(f"{text} is no target", hint="tcp:HOST:PORT, unix:FILE, ptcp:PORT or punix:FILE")
    host = found["host"]
    return Target(text, is_passive, host=host and host.replace("[", "").replace("]", ""), port=port)

"""Lines of /proc/net/nf_conntrack (Linux 6)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.listing.linux import (
    direction,
    family_words,
    fast_path_flag,
    parent_words,
    protocol_words,
    time_and_state,
)


def line(connection: Connection, *, counters: bool = True) -> str:
    """One line for `connection`.

    Unlike `conntrack -L`: the family always, IPv6 addresses in full, the zone also when it is 0, and one reference
    more, the reader's own. `counters` are there when a Linux tracker keeps them. What that file does not show comes
    last: helper, labels and the announcing connection, in the words of `conntrack8`.
    """
    words = [family_words(connection), protocol_words(connection), *time_and_state(connection)]
    words += direction(connection, 0, _address, counters)
    if not connection.seen_reply:
        words.append("[UNREPLIED]")
    words += direction(connection, 1, _address, counters)
    words += [*fast_path_flag(connection), f"mark={connection.mark}", f"zone={connection.zone}"]
    words.append(f"use={connection.use + 1}")
    if connection.helper is not None:
        words.append(f"helper={connection.helper}")
    if connection.label:
        words.append(f"labels=0x{connection.label:x}")
    words += parent_words(connection, _address)
    return " ".join(words)


def _address(address: IPv4Address | IPv6Address) -> str:
    return address.exploded

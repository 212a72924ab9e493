"""Connections as `conntrack -L -o xml` prints them (conntrack-tools 1.4)."""

from __future__ import annotations

from flowshunt.conntrack.connection import Connection, Tuple, address_text
from flowshunt.conntrack.listing.linux import PROTOCOLS

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<conntrack>\n'
TAIL = "</conntrack>\n"

_WITH_PORTS = frozenset({6, 17, 33, 132, 136})
_FAMILIES = {4: (2, "ipv4"), 6: (10, "ipv6")}


def _way(one: Connection, d: int, name: str) -> str:
    way: Tuple = one.reply if d else one.original
    family, word = _FAMILIES[one.family]
    protocol = PROTOCOLS.get(one.protocol, "unknown")
    inside = ""
    if way.icmp_type is not None:
        inside = f"<type>{way.icmp_type}</type><code>{way.icmp_code}</code><id>{way.icmp_id}</id>"
    elif one.protocol in _WITH_PORTS:
        inside = f"<sport>{way.source_port}</sport><dport>{way.destination_port}</dport>"
    return (
        f'<meta direction="{name}"><layer3 protonum="{family}" protoname="{word}"><src>{address_text(way.source)}</src>'
        f"<dst>{address_text(way.destination)}</dst></layer3>"
        f'<layer4 protonum="{one.protocol}" protoname="{protocol}">{inside}</layer4>'
        f"<counters><packets>{one.packets[d]}</packets><bytes>{one.bytes[d]}</bytes></counters></meta>"
    )


def line(one: Connection) -> str:
    """One connection, on one line."""
    said = f"<state>{one.state}</state>" if one.state is not None else ""
    if one.offload is None:
        said += f"<timeout>{one.timeout_s}</timeout>"
    said += f"<mark>{one.mark}</mark>"
    if one.zone:
        said += f"<zone>{one.zone}</zone>"
    said += f"<use>{one.use}</use><id>{one.id}</id>"
    if one.assured:
        said += "<assured/>"
    if not one.seen_reply:
        said += "<unreplied/>"
    return f'<flow>{_way(one, 0, "original")}{_way(one, 1, "reply")}<meta direction="independent">{said}</meta></flow>'

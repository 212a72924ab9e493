"""Connections as `conntrack -L -o save` prints them: the options of -A that make them again (conntrack-tools 1.4)."""

from __future__ import annotations

from flowshunt.conntrack.connection import Connection, address_text
from flowshunt.conntrack.listing.linux import PROTOCOLS

_WITH_PORTS = frozenset({6, 17, 33, 132, 136})


def line(one: Connection) -> str:
    """One connection."""
    status = [word for word, held in (("SEEN_REPLY", one.seen_reply), ("ASSURED", one.assured)) if held]
    original, reply = one.original, one.reply
    words = ["-A", "-t", str(one.timeout_s), "-u", ",".join(status) or "UNSET"]
    words += ["-s", address_text(original.source), "-d", address_text(original.destination)]
    words += ["-r", address_text(reply.source), "-q", address_text(reply.destination)]
    words += ["-p", PROTOCOLS.get(one.protocol, str(one.protocol))]
    if original.icmp_type is not None:
        words += ["--icmp-type", str(original.icmp_type), "--icmp-code", str(original.icmp_code)]
        words += ["--icmp-id", str(original.icmp_id)]
    elif one.protocol in _WITH_PORTS:
        words += ["--sport", str(original.source_port), "--dport", str(original.destination_port)]
        words += ["--reply-port-src", str(reply.source_port), "--reply-port-dst", str(reply.destination_port)]
    if one.state is not None:
        words += ["--state", one.state]
    if one.mark:
        words += ["-m", str(one.mark)]
    if one.zone:
        words += ["-w", str(one.zone)]
    return " ".join(words)

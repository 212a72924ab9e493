"""Connections forgotten on a controller's request: all, those of a zone, or those that a part of a tuple describes."""

from __future__ import annotations

from ipaddress import IPv6Address

from flowshunt.conntrack.connection import Tuple
from flowshunt.conntrack.table import Tracker
from flowshunt.control.openflow.extensions import Flush, FlushTuple


def flush(tracker: Tracker, request: Flush) -> int:
    """Forget the connections that a request describes. Returns how many."""
    if not request.protocol and request.original == FlushTuple() and request.reply == FlushTuple():
        return tracker.flush(request.zone)
    wanted = [
        (connection.original, connection.protocol, connection.zone)
        for connection in tracker.connections(zone=request.zone)
        if request.protocol in (0, connection.protocol)
        and _fits(request.original, connection.original)
        and _fits(request.reply, connection.reply)
    ]
    return sum(tracker.flush(zone, wanted=original, protocol=protocol) for original, protocol, zone in wanted)


def _address(address: bytes) -> str:
    value = IPv6Address(address)
    return str(value.ipv4_mapped or value)


def _fits(wanted: FlushTuple, found: Tuple) -> bool:
    """Whether a tuple has all that is asked for."""
    if wanted.source is not None and _address(wanted.source) != str(found.source):
        return False
    if wanted.destination is not None and _address(wanted.destination) != str(found.destination):
        return False
    pairs = (
        (wanted.source_port, found.source_port),
        (wanted.destination_port, found.destination_port),
        (wanted.icmp_id, found.icmp_id),
        (wanted.icmp_type, found.icmp_type),
        (wanted.icmp_code, found.icmp_code),
    )
    return all(want in (None, have) for want, have in pairs)

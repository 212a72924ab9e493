"""Connections forgotten on a controller's request."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.flushing import Wanted, Way
from flowshunt.conntrack.table import Tracker
from flowshunt.control.openflow.extensions import Flush, FlushTuple


def flush(tracker: Tracker, request: Flush) -> None:
    """Forget the connections that a request describes; that there is none is no error."""
    wanted = Wanted(
        request.zone, request.mark, request.labels, request.protocol, _way(request.original), _way(request.reply)
    )
    if not wanted.is_selective:
        tracker.flush(request.zone)
    elif (named := wanted.named) is not None:
        with suppress(UsageError):  # a type of ICMP that no connection begins with
            tracker.flush(request.zone or 0, wanted=named, protocol=request.protocol)
    else:
        for one in wanted.among(tracker.connections(zone=request.zone)):
            tracker.flush(one.zone, wanted=one.original, protocol=one.protocol)


def _way(said: FlushTuple) -> Way:
    icmp = said.icmp_type, said.icmp_code, said.icmp_id
    if not any(icmp):  # ovs-ofctl writes zeros, for ICMP even into a reply tuple that nothing is said of
        icmp = None, None, None
    return Way(_address(said.source), _address(said.destination), said.source_port, said.destination_port, *icmp)


def _address(address: bytes | None) -> IPv4Address | IPv6Address | None:
    if address is None:
        return None
    value = IPv6Address(address)
    return value.ipv4_mapped or value

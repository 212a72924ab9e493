"""What ICMP and ICMPv6 types mean to whoever tracks them."""

from __future__ import annotations

from typing import Any

from flowshunt.jit import kernel
from flowshunt.packet.schema import PROTO_ICMP

ICMP_OTHER = 0
"""Neither: belongs to no connection."""
ICMP_QUERY = 1
"""A request or its reply; carries an id that plays the part of a port."""
ICMP_ERROR = 2
"""Quotes the packet that caused it."""


@kernel
def classify(protocol: Any, icmp_type: Any) -> Any:
    """ICMP_QUERY, ICMP_ERROR or ICMP_OTHER of a type under PROTO_ICMP or PROTO_ICMPV6.

    Queries are echo, timestamp and information with their replies, in ICMPv6 echo; errors are those that Open vSwitch's
    tracker looks into (also source quench and redirect). Open vSwitch takes only queries of code 0.
    """
    if protocol == PROTO_ICMP:
        if icmp_type == 0 or icmp_type == 8 or (icmp_type >= 13 and icmp_type <= 16):
            return ICMP_QUERY
        if icmp_type == 3 or icmp_type == 4 or icmp_type == 5 or icmp_type == 11 or icmp_type == 12:
            return ICMP_ERROR
        return ICMP_OTHER
    if icmp_type == 128 or icmp_type == 129:
        return ICMP_QUERY
    if icmp_type >= 1 and icmp_type <= 4:
        return ICMP_ERROR
    return ICMP_OTHER

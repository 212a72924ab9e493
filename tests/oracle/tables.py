"""Connections of either tracker in the form of the references' tables."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from flowshunt.conntrack.connection import Connection
from tests.oracle import naive, nf_tcp, pf_tcp
from tests.oracle.compare import Entry


def entries_of(connections: Iterable[Connection]) -> set[Entry]:
    """Snapshots of the tracker under test."""
    entries = set()
    for connection in connections:
        original, state = connection.original, connection.state
        icmp = None
        if original.icmp_type is not None:
            icmp = (original.icmp_type, original.icmp_code or 0, original.icmp_id or 0)
        if connection.profile == "default" and connection.states is not None:
            state = "/".join(connection.states)
        ends = str(original.source), str(original.destination), original.source_port, original.destination_port
        entries.add(Entry(connection.protocol, *ends, icmp, connection.zone, state))
    return entries


def naive_entries_of(oracle: naive.Naive) -> set[Entry]:
    """Connections of the naive tracker that have not expired."""
    entries = set()
    for connection in oracle.live(oracle.now_ms):
        key, state = connection.key, None
        if connection.tcp is not None and oracle.linux:
            state = nf_tcp.NAMES[connection.tcp.state]
        elif connection.tcp is not None:
            state = "/".join(pf_tcp.NAMES[peer.state] for peer in connection.tcp)
        elif connection.sctp is not None:
            state = connection.sctp.state
        icmp = None if key.icmp is None else (key.icmp, 0, key.source_port)
        ports = (0, 0) if icmp else (key.source_port, key.destination_port)
        ends = str(ip_address(key.source)), str(ip_address(key.destination))
        entries.add(Entry(key.protocol, *ends, *ports, icmp, key.zone, state))
    return entries

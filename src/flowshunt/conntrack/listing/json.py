"""Connections as dicts that `json.dumps` takes: every field always present, None where it has no value."""

from __future__ import annotations

from typing import Any

from flowshunt.conntrack.connection import Connection, Tuple, address_text

_WITH_PORTS = frozenset({6, 17, 33, 132, 136})


def document(connection: Connection) -> dict[str, Any]:
    """One connection. Times are milliseconds, `start_ms` since the epoch; the label is a hexadecimal string.

    The label does not fit the numbers that many readers of JSON know. `timeout_ms` is None while the connection is
    offloaded.
    """
    return {
        "id": connection.id,
        "generation": connection.generation,
        "family": connection.family,
        "protocol": connection.protocol,
        "protocol_name": connection.protocol_name,
        "zone": connection.zone,
        "original": direction(connection, 0),
        "reply": direction(connection, 1),
        "state": connection.state,
        "status": list(connection.status),
        "offload": connection.offload,
        "timeout_ms": None if connection.offload is not None else max(connection.timeout_ms, 0),
        "start_ms": connection.start_ms,
        "mark": connection.mark,
        "label": f"0x{connection.label:x}",
        "in_port": connection.in_port,
        "profile": connection.profile,
        "nat": connection.nat,
        "helper": connection.helper,
        "parent": connection.parent,
        "machine": {name: list(values) for name, values in connection.machine},
    }


def direction(connection: Connection, d: int) -> dict[str, Any]:
    """Tuple, counters and TCP peer of direction `d` (0 original, 1 reply)."""
    is_tcp = connection.protocol == 6
    return {
        **tuple_document(connection.reply if d else connection.original, connection.protocol),
        "packets": connection.packets[d],
        "bytes": connection.bytes[d],
        "state": connection.states[d] if connection.states else None,
        "tcp_flags": connection.tcp_flags[d] if is_tcp else None,
        "wscale": connection.wscale[d] if is_tcp else None,
        "liberal": connection.liberal[d] if is_tcp else None,
    }


def tuple_document(way: Tuple, protocol: int) -> dict[str, Any]:
    """Addresses as text, ports or ICMP fields as numbers; None for what the protocol does not have."""
    has_ports = protocol in _WITH_PORTS
    return {
        "source": address_text(way.source),
        "destination": address_text(way.destination),
        "source_port": way.source_port if has_ports else None,
        "destination_port": way.destination_port if has_ports else None,
        "icmp_type": way.icmp_type,
        "icmp_code": way.icmp_code,
        "icmp_id": way.icmp_id,
    }

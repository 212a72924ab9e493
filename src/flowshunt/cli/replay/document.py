"""A run as JSON. docs/replay.schema.json describes it; every field is always present, null where it has no value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

from flowshunt.cli.replay import offload_document
from flowshunt.cli.replay.report import Report
from flowshunt.conntrack.listing.json import document as connection_document
from flowshunt.ports.capture.sides import Side, Sides

FORMAT = "flowshunt/replay/3"


def write(report: Report, out: TextIO) -> None:
    """Write `report`, made with its listing, as one object. Connections are written one by one, each on its line."""
    head = json.dumps(_head(report), indent=2, ensure_ascii=False)
    out.write(f'{head[: head.rindex("}")].rstrip()},\n  "connections": [')
    separator = "\n    "
    offloads = report.offload.connections if report.offload is not None else [None] * len(report.listing)
    for connection, offload in zip(report.listing, offloads, strict=True):
        document = connection_document(connection) | offload_document.connection(offload)
        out.write(separator + json.dumps(document, ensure_ascii=False))
        separator = ",\n    "
    out.write("\n  ]\n}\n")


def _head(report: Report) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "profile": report.profile,
        "ending": str(report.outcome.ending),
        "damages": [
            {"path": damage.path, "offset": damage.offset, "problem": damage.problem, "expected": damage.expected}
            for damage in report.outcome.damages
        ],
        "summary": _summary(report),
        "ports": [
            {
                "name": port.name,
                "number": port.number,
                "source": port.source,
                "rx_packets": port.count.rx_packets,
                "rx_bytes": port.count.rx_bytes,
                "tx_packets": port.count.tx_packets,
                "tx_bytes": port.count.tx_bytes,
            }
            for port in report.ports
        ],
        "sides": _sides(report.sides),
        "zones": [
            {"zone": zone.zone, "connections": zone.connections, "protocols": dict(zone.protocols)}
            for zone in report.zones
        ],
        "default_rules": report.default_rules,
        "rules": [
            {
                "table": rule.table,
                "priority": rule.priority,
                "rule": rule.text,
                "packets": rule.packets,
                "bytes": rule.bytes,
            }
            for rule in report.rules
        ],
        "counters": dict(report.counters),
        "offload": None if report.offload is None else offload_document.document(report.offload),
    }


def _summary(report: Report) -> dict[str, Any]:
    has_packets = report.first_ns is not None and report.last_ns is not None
    return {
        "packets": report.packets,
        "bytes": report.bytes,
        "cut_packets": report.n_cut,
        "skipped_packets": report.n_skipped,
        "first_ns": report.first_ns,
        "last_ns": report.last_ns,
        "duration_ns": (report.last_ns or 0) - (report.first_ns or 0) if has_packets else None,
        "forwarded_packets": report.n_output,
        "held_packets": report.n_held,
        "dropped_packets": sum(report.drops.values()),
        "connections": report.n_connections,
        "loaded_connections": report.loaded.n_loaded if report.loaded else None,
        "refused_connections": report.loaded.n_refused if report.loaded else None,
        "connections_by_state": [
            {"protocol": protocol, "state": state, "connections": n}
            for (protocol, state), n in report.connections.items()
        ],
        "ct_states": _named(report.ct_states, "ct_state"),
        "invalid": [
            {**named, "protocols": dict(report.invalid_protocols.get(named["reason"], {}))}
            for named in _named(report.invalid, "reason")
        ],
        "damaged": _named(report.verdicts, "reason"),
        "dropped": _named(report.drops, "reason"),
    }


def _sides(sides: Sides | None) -> dict[str, Any] | None:
    if sides is None:
        return None
    return {
        "by": sides.by,
        "reasons": list(sides.reasons),
        "ambiguous_packets": sides.n_ambiguous,
        "inside": _side(sides.inside),
        "outside": _side(sides.outside),
    }


def _side(side: Side) -> dict[str, Any]:
    return {"port": side.in_port, "macs": side.n_macs, "addresses": side.n_addresses, "first_macs": list(side.macs)}


def _named(counts: Mapping[str, int], key: str) -> list[dict[str, Any]]:
    return [{key: name, "packets": n} for name, n in counts.items()]

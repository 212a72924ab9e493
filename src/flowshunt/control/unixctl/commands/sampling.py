"""`switch/sample`: all that `flowshunt top` shows, at one moment, as JSON."""

from __future__ import annotations

import json
from typing import Any

from flowshunt.control.unixctl.node import Bridge, Node
from flowshunt.control.unixctl.registry import command, on_worker

_FIGURES = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "rx_dropped", "tx_dropped", "rx_errors", "tx_errors")


def _bridge(bridge: Bridge) -> dict[str, Any]:
    datapath = bridge.switch.datapath
    figures = datapath.statistics()
    ports = []
    for port in sorted(bridge.ports.values(), key=lambda port: port.ofport & 0xFFFF):
        counted = bridge.port_info(port.name).statistics
        ports.append({"name": port.name, "number": port.ofport} | {name: counted.get(name, 0) for name in _FIGURES})
    return {
        "name": bridge.name,
        "packets": figures["packets"],
        "bytes": figures["bytes"],
        "shunted": figures["shunted"],
        "drops": {name: n for name, n in figures.items() if name.startswith("drop.")},
        "long_way": {
            name.removeprefix("shunt.long-way."): n for name, n in figures.items() if name.startswith("shunt.long-way.")
        },
        "ports": ports,
        "flows": len(datapath.rules),
    }


@on_worker
def sample(node: Node, arguments: list[str]) -> str:
    """Counters of ports, bridges, tracker and providers; all count from the start of the switch."""
    node.offload.synchronise()
    tracked = node.tracker.statistics()
    providers = [
        {
            "name": one.name,
            "entries": one.entries,
            "told": one.told,
            "queued": one.queued,
            "installed": one.counters["installed"],
            "refusals": one.refusals,
        }
        for one in node.offload.overview()
    ]
    return (
        json.dumps(
            {
                "time_ms": node.now_ms(),
                "connections": len(node.tracker),
                "new": tracked["inserted"],
                "removed": sum(n for name, n in tracked.items() if name.startswith("removed-")),
                "invalid": {
                    name.removeprefix("invalid-"): n for name, n in tracked.items() if name.startswith("invalid-")
                },
                "refused": {name: tracked[name] for name in ("full", "zone-limit", "headroom")},
                "bridges": [_bridge(bridge) for bridge in node.bridges.values()],
                "offload": node.offload.settings.enabled,
                "providers": providers,
            }
        )
        + "\n"
    )


COMMANDS = (command("switch/sample", "", 0, 0, sample),)

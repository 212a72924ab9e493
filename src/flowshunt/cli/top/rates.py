"""Two samples of a switch as rates."""

from __future__ import annotations

from typing import Any

_PORT_RATES = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")


def rates(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What happened between two samples, per second.

    Ports and providers that came in between count from zero, and counters that begin again too.
    """
    seconds = max(after["time_ms"] - before["time_ms"], 1) / 1000

    def rate(now: int, then: int) -> float:
        return float(round((now - then if then <= now else now) / seconds, 1))

    def moved(now: dict[str, int], then: dict[str, int]) -> dict[str, float]:
        found = {name: rate(n, then.get(name, 0)) for name, n in now.items()}
        return {name: n for name, n in sorted(found.items(), key=lambda pair: -pair[1]) if n}

    earlier = {bridge["name"]: bridge for bridge in before["bridges"]}
    bridges = []
    for bridge in after["bridges"]:
        then = earlier.get(
            bridge["name"], {"packets": 0, "bytes": 0, "shunted": 0, "drops": {}, "long_way": {}, "ports": []}
        )
        known = {port["name"]: port for port in then["ports"]}
        packets, shunted = rate(bridge["packets"], then["packets"]), rate(bridge["shunted"], then["shunted"])
        bridges.append(
            {
                "name": bridge["name"],
                "flows": bridge["flows"],
                "packets": packets,
                "bytes": rate(bridge["bytes"], then["bytes"]),
                "hit_ratio": round(shunted / packets, 4) if packets else None,
                "drops": moved(bridge["drops"], then["drops"]),
                "long_way": moved(bridge["long_way"], then["long_way"]),
                "ports": [
                    {
                        "name": port["name"],
                        "number": port["number"],
                        **{name: rate(port[name], known.get(port["name"], {}).get(name, 0)) for name in _PORT_RATES},
                        "dropped": sum(
                            rate(port[name], known.get(port["name"], {}).get(name, 0))
                            for name in ("rx_dropped", "tx_dropped", "rx_errors", "tx_errors")
                        ),
                    }
                    for port in bridge["ports"]
                ],
            }
        )
    told = {one["name"]: one for one in before["providers"]}
    return {
        "time_ms": after["time_ms"],
        "seconds": seconds,
        "connections": after["connections"],
        "new": rate(after["new"], before["new"]),
        "removed": rate(after["removed"], before["removed"]),
        "invalid": moved(after["invalid"], before["invalid"]),
        "refused": moved(after["refused"], before["refused"]),
        "bridges": bridges,
        "offload": after["offload"],
        "providers": [
            {
                "name": one["name"],
                "entries": one["entries"],
                "told": one["told"],
                "queued": one["queued"],
                "taken": rate(one["installed"], told.get(one["name"], {}).get("installed", 0)),
                "refusals": moved(one["refusals"], told.get(one["name"], {}).get("refusals", {})),
                "refused_so_far": one["refusals"],
            }
            for one in after["providers"]
        ],
    }

"""Rates as sections."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flowshunt.cli.layout import Column, Section

_UNITS = ("", "k", "M", "G", "T")
_MOST_REASONS = 5
_PORTS = (
    Column("port"), Column("rx pkt/s", is_number=True), Column("rx bit/s", is_number=True),
    Column("tx pkt/s", is_number=True), Column("tx bit/s", is_number=True), Column("lost/s", is_number=True),
)  # fmt: skip
_PROVIDERS = (
    Column("provider"), Column("entries", is_number=True), Column("taken/s", is_number=True),
    Column("queued", is_number=True), Column("refused so far, by reason"),
)  # fmt: skip
_PLAIN = (Column(""), Column("", is_number=True))


def short(value: float) -> str:
    """Three digits or so, with a unit."""
    unit = 0
    while value >= 9999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{value:.0f}{_UNITS[unit]}" if value >= 100 or value == int(value) else f"{value:.1f}{_UNITS[unit]}"


def sections(now: dict[str, Any]) -> list[Section]:
    """The whole screen."""
    when = datetime.fromtimestamp(now["time_ms"] / 1000, UTC)
    packets = sum(bridge["packets"] for bridge in now["bridges"])
    hits = sum(bridge["packets"] * (bridge["hit_ratio"] or 0) for bridge in now["bridges"])
    ratio = f"{100 * hits / packets:.1f} %" if packets else "-"
    rows = (
        ("connections", short(now["connections"])),
        ("new/s", short(now["new"])),
        ("ended/s", short(now["removed"])),
        ("packets/s", short(packets)),
        ("past the tables", ratio if now["offload"] else "offloading is off"),
    )
    found = [Section(f"{when:%H:%M:%S} UTC, over {now['seconds']:.1f} s", _PLAIN, rows)]
    found += [_bridge(bridge) for bridge in now["bridges"]]
    if now["providers"]:
        found.append(Section("offload", _PROVIDERS, tuple(_provider(one) for one in now["providers"])))
    lost = _reasons(now["invalid"], "invalid") + _reasons(now["refused"], "not tracked")
    if lost:
        found.append(Section("tracker", _PLAIN, lost))
    return found


def _bridge(bridge: dict[str, Any]) -> Section:
    rows = tuple(
        (
            port["name"],
            short(port["rx_packets"]),
            short(8 * port["rx_bytes"]),
            short(port["tx_packets"]),
            short(8 * port["tx_bytes"]),
            short(port["dropped"]),
        )
        for port in bridge["ports"]
    )
    drops = {name.removeprefix("drop."): n for name, n in bridge["drops"].items()}
    remarks = [
        f"{what}: {_listed(values)}"
        for what, values in (("dropped/s", drops), ("the long way/s", bridge["long_way"]))
        if values
    ]
    return Section(f"bridge {bridge['name']}, {bridge['flows']} flows", _PORTS, rows, tuple(remarks))


def _provider(one: dict[str, Any]) -> tuple[str, ...]:
    refused = dict(sorted(one["refused_so_far"].items(), key=lambda pair: -pair[1]))
    entries = one["told"] if one["entries"] is None else one["entries"]
    queued = "" if one["queued"] is None else str(one["queued"])
    return one["name"], short(entries), short(one["taken"]), queued, _listed(refused)


def _reasons(values: Mapping[str, float], what: str) -> tuple[tuple[str, ...], ...]:
    return tuple((f"{what}: {name}", f"{short(n)}/s") for name, n in list(values.items())[:_MOST_REASONS])


def _listed(values: Mapping[str, float]) -> str:
    """The most frequent ones."""
    said = [f"{name} {short(n)}" for name, n in list(values.items())[:_MOST_REASONS]]
    left = len(values) - len(said)
    return ", ".join(said) + (f", {left} more" if left > 0 else "")

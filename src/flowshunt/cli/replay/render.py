"""The summary of a run, as sections for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flowshunt.cli.layout import Column, Section
from flowshunt.cli.numbers import count, duration, moment, share, size
from flowshunt.cli.replay import offload_render, reasons
from flowshunt.cli.replay.report import Report
from flowshunt.cli.replay.run import Ending

TOP_RULES = 10
SHOWN_MACS = 3

_FACTS = (Column(""), Column(""))
_REASONS = (Column("reason"), Column("packets", True), Column("meaning"))


def sections(report: Report) -> list[Section]:
    """The summary; sections without content are left out."""
    candidates = [
        _overview(report),
        *(offload_render.sections(report.offload) if report.offload is not None else ()),
        _connections(report),
        _zones(report),
        _ct_states(report),
        _not_tracked(report),
        _by_reason("Not parsed to their end, by reason", report.verdicts, reasons.VERDICTS),
        _by_reason("Dropped, by reason", report.drops, reasons.DROPS),
        _by_reason("Fragments not put together, by reason", _lost_fragments(report), reasons.FRAGMENTS),
        _ports(report),
        _sides(report),
        _rules(report),
    ]
    return [section for section in candidates if section.rows or section.remarks]


def _overview(report: Report) -> Section:
    rows = [("packets", f"{count(report.packets)} ({size(report.bytes)})")]
    if report.first_ns is not None and report.last_ns is not None:
        rows.append(("from", moment(report.first_ns)))
        rows.append(("to", f"{moment(report.last_ns)} ({duration(report.last_ns - report.first_ns)})"))
    rows.append(("connections", f"{count(report.n_connections)} alive at the end{_created(report)}"))
    if report.loaded is not None:
        refused = f", {count(report.loaded.n_refused)} entries refused" if report.loaded.n_refused else ""
        rows.append(("loaded", f"{count(report.loaded.n_loaded)} connections from {report.loaded.path}{refused}"))
    rows.append(("forwarded", f"{count(report.n_output)} packets{_percent(report.n_output, report.packets)}"))
    dropped = sum(report.drops.values())
    rows.append(("dropped", f"{count(dropped)} packets{_percent(dropped, report.packets)}"))
    if report.n_held:
        joined = report.counters.get("joined", 0)
        rows.append(("held", f"{count(report.n_held)} fragments, from which {count(joined)} packets went on"))
    rows.append(("profile", report.profile))
    return Section("Replay", _FACTS, tuple(rows), tuple(_remarks(report)))


def _lost_fragments(report: Report) -> dict[str, int]:
    families = [reasons.split(report.counters, f"fragments.{family}.") for family in ("ipv4", "ipv6")]
    return {name: n for name in reasons.FRAGMENTS if (n := sum(family.get(name, 0) for family in families))}


def _created(report: Report) -> str:
    inserted = report.counters.get("tracker.inserted", 0)
    return f", {count(inserted)} tracked in all" if inserted else ""


def _percent(part: int, whole: int) -> str:
    return f" ({share(part, whole)})" if whole else ""


def _remarks(report: Report) -> list[str]:
    remarks = []
    if report.outcome.ending is Ending.INTERRUPTED:
        remarks.append("Interrupted: this is what was done so far.")
    elif report.outcome.damages:
        remarks.append("A capture is damaged: this is what could be read.")
    elif report.outcome.ending is Ending.LIMIT:
        remarks.append("Stopped at --limit; the capture may go on.")
    if report.loaded is not None and report.loaded.damage is not None:
        remarks.append(f"{report.loaded.path} is damaged: what comes before the damage was loaded.")
    if report.default_rules:
        remarks.append("No rules given: the default ones track and forward everything. Use --flows FILE for your own.")
    if report.n_cut:
        remarks.append(
            f"{count(report.n_cut)} packets are cut short in the capture, and the switch takes them as they are. "
            "Use tcpdump -s 0 to capture whole packets."
        )
    if report.n_skipped:
        remarks.append(f"{count(report.n_skipped)} packets have a link type that cannot be read and were left out.")
    for name, reason in reasons.REFUSED.items():
        if n := report.counters.get(f"tracker.{name}", 0):
            remarks.append(f"{count(n)} packets found no room for their connection: {reason.what}; {reason.hint}.")
    return remarks


def _connections(report: Report) -> Section:
    columns = Column("protocol"), Column("state"), Column("connections", True), Column("share", True)
    rows = tuple(
        (protocol, state, count(n), share(n, report.n_connections))
        for (protocol, state), n in report.connections.items()
    )
    return Section("Connections", columns, rows)


def _ct_states(report: Report) -> Section:
    columns = Column("ct_state"), Column("packets", True), Column("share", True)
    rows = tuple((_state_name(text), count(n), share(n, report.packets)) for text, n in report.ct_states.items())
    return Section("Packets by ct_state", columns, rows)


def _state_name(text: str) -> str:
    return "never tracked" if text == "-" else text


def _not_tracked(report: Report) -> Section:
    section = _by_reason("Not tracked or invalid, by reason", report.invalid, reasons.INVALID)
    rows = list(section.rows)
    n_untracked = report.ct_states.get("-", 0)
    if n_untracked:
        rows.append(("never tracked", count(n_untracked), reasons.UNTRACKED.what))
    if not report.invalid:
        return replace(section, rows=tuple(rows))
    columns = (*_REASONS[:2], Column("protocol"), *_REASONS[2:])
    whose = {name: _shares(protocols) for name, protocols in report.invalid_protocols.items()}
    return replace(section, columns=columns, rows=tuple((name, n, whose.get(name, ""), what) for name, n, what in rows))


def _shares(protocols: Mapping[str, int]) -> str:
    """`tcp` where there is no other, else `tcp 12, udp 3`."""
    if len(protocols) == 1:
        return next(iter(protocols))
    return ", ".join(f"{protocol} {count(n)}" for protocol, n in protocols.items())


def _zones(report: Report) -> Section:
    """Zones side by side; one alone is what the rest of the summary is about."""
    columns = (
        Column("zone", True),
        Column("connections", True),
        Column("stored", True),
        Column("expired", True),
        Column("dropped early", True),
        Column("no room", True),
        Column("invalid packets", True),
    )
    zones = report.zones if len(report.zones) > 1 else ()
    return Section("Zones", columns, tuple((str(zone.zone), *map(count, zone.figures)) for zone in zones))


def _by_reason(title: str, counts: Mapping[str, int], known: Mapping[str, reasons.Reason]) -> Section:
    explained = {name: known.get(name, reasons.Reason("")) for name in counts}
    rows = tuple((name, count(n), explained[name].what) for name, n in counts.items())
    hints = dict.fromkeys(f"{name}: {reason.hint}" for name, reason in explained.items() if reason.hint)
    return Section(title, _REASONS, rows, tuple(hints))


def _ports(report: Report) -> Section:
    columns = (
        Column("port"),
        Column("number", True),
        Column("received", True),
        Column("", True),
        Column("sent", True),
        Column("", True),
        Column("from"),
    )
    rows = tuple(
        (
            port.name,
            str(port.number),
            count(port.count.rx_packets),
            size(port.count.rx_bytes),
            count(port.count.tx_packets),
            size(port.count.tx_bytes),
            port.source or "",
        )
        for port in report.ports
    )
    return Section("Ports", columns, rows)


def _sides(report: Report) -> Section:
    columns = Column("side"), Column("MACs", True), Column("addresses", True), Column("")
    if report.sides is None or not report.packets:
        return Section("Sides", columns, ())
    rows = tuple(
        (port.name, count(side.n_macs), count(side.n_addresses), _some(side.macs))
        for port, side in zip(report.ports, (report.sides.inside, report.sides.outside), strict=True)
    )
    how = "told apart by MAC address" if report.sides.by == "mac" else "told apart by IP address"
    if report.sides.reasons:
        how += f", the inner one by {' and '.join(report.sides.reasons)}"
    remarks = [f"{how}; use --inside CIDR to say it yourself."]
    if report.sides.n_ambiguous:
        remarks.append(
            f"{count(report.sides.n_ambiguous)} packets went between hosts of the same side; "
            "if that is wrong, one capture per port (--port NAME=FILE) leaves no doubt."
        )
    return Section("Sides of the capture", columns, rows, tuple(remarks))


def _some(macs: tuple[str, ...]) -> str:
    return ", ".join(macs[:SHOWN_MACS]) + (", …" if len(macs) > SHOWN_MACS else "")


def _rules(report: Report) -> Section:
    columns = Column("packets", True), Column("bytes", True), Column("rule")
    rows = tuple((count(rule.packets), size(rule.bytes), rule.text) for rule in report.rules[:TOP_RULES])
    left = report.rules[TOP_RULES:]
    remarks = (f"and {count(len(left))} more; --json lists them all.",) if left else ()
    return Section("Rules, busiest first", columns, rows, remarks)

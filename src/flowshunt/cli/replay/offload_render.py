"""What a run with offload has to say, as sections of the summary."""

from __future__ import annotations

from flowshunt.cli.layout import Column, Section
from flowshunt.cli.numbers import count, duration, share, size
from flowshunt.cli.replay.offloading import FOR_ROOM, OffloadReport
from flowshunt.cli.replay.series import Series, Step
from flowshunt.offload import reasons as R

_SHOWN_STEPS = 12
_FACTS = (Column(""), Column(""))

MISSES = {
    "absent": "no entry: not offloaded, or not yet",
    "not-fit": "neither TCP nor UDP, a fragment, or malformed",
    "dead": "the connection is ending, or was changed",
    "epoch": "rules, ports or stations have changed since; the way is learned anew",
    "link": "other MAC addresses, VLAN or port than before",
    "tcp-flags": "SYN, FIN or RST, or no ACK",
    "ttl": "the TTL would become zero",
    "size": "too big for the output port",
    "options": "IP options or extension headers",
    "tos": "another TOS than before, which a rule asks for",
    "tags": "a second VLAN tag, or one of another type",
    "idle": "silent for so long that the tracker is asked",
    "stream": "the tracker notes that the connection is a stream",
    "no-port": "its output port is gone",
    "checked": "checksum or window not plainly right (check=true)",
    "empty": "nothing was offloaded at that moment",
}
"""Why a packet took the long way, by the names of `datapath.shunt.schema.CAUSES`, or `empty`: no entry to compare."""


def sections(report: OffloadReport) -> list[Section]:
    """The summary's part about offload."""
    return [_overview(report), _providers(report), _misses(report), _refused(report), _over_time(report.series)]


def _overview(report: OffloadReport) -> Section:
    rows = [
        ("shunted", f"{count(report.shunted_packets)} packets ({share(report.shunted_packets, report.packets)})"),
        ("", f"{size(report.shunted_bytes)} ({share(report.shunted_bytes, report.bytes)})"),
        ("connections", f"{count(report.taken)} taken, {count(report.peak_flows)} at most at a time"),
        ("", f"{count(report.peak_taken)} at most in a second"),
        ("given up", f"{count(report.handed_back)} by providers, {count(report.withdrawn)} taken back"),
    ]
    if report.peak_wanted > report.peak_flows:
        rows.append(("room for all", f"{count(report.peak_wanted)} connections at a time"))
    return Section("Offload", _FACTS, tuple(rows), tuple(_compared(report)))


def _compared(report: OffloadReport) -> list[str]:
    found = report.comparison
    if found is None:
        return []
    if found.different:
        return [
            f"Compared with a switch without offload: {count(found.different)} packets were treated differently, "
            f"the first is number {found.first_different}."
        ]
    if found.unchecked == 0:
        return ["Compared with a switch without offload: every packet and every state is the same."]
    after = f", and {count(found.after)} packets after those in the same conversations differ" if found.after else ""
    return [
        f"Compared with a switch without offload: {count(found.unchecked)} packets passed unchecked that the tracker "
        f"would have called inv{after}; all others are the same."
    ]


def _providers(report: OffloadReport) -> Section:
    columns = (
        Column("provider"),
        Column("mark"),
        Column("taken", True),
        Column("refused", True),
        Column("handed back", True),
    )
    rows = tuple(
        (
            provider.name,
            f"[{provider.mark}]" if provider.mark else "observes",
            count(provider.counters.get("installed", 0)),
            count(sum(provider.refusals.values())),
            count(provider.counters.get("handed-back", 0)),
        )
        for provider in report.providers
    )
    return Section("Offload providers", columns, rows)


def _misses(report: OffloadReport) -> Section:
    columns = Column("cause"), Column("packets", True), Column("share", True), Column("meaning")
    n_empty = report.packets - report.shunted_packets - sum(report.misses.values())
    rows = tuple(
        (name, count(n), share(n, report.packets), MISSES.get(name, ""))
        for name, n in sorted({**report.misses, "empty": n_empty}.items(), key=lambda item: -item[1])
        if n
    )
    return Section("Packets that took the long way, by cause", columns, rows)


def _refused(report: OffloadReport) -> Section:
    columns = Column("reason"), Column("connections", True), Column("meaning")
    known = {code: R.reason_of(code) for code in report.refused}
    rows = tuple((code, count(n), known[code].sentence) for code, n in report.refused.items())
    fixes = tuple(f"{code}: {known[code].fix}" for code in report.refused if code.partition(":")[0] not in FOR_ROOM)
    room = ("Other limits can be tried with flowshunt what-if.",) if FOR_ROOM & set(report.refused) else ()
    return Section("Not offloaded, by reason", columns, rows, (*fixes, *room))


def _over_time(series: Series) -> Section:
    columns = (
        Column("after"),
        Column("packets", True),
        Column("shunted", True),
        Column("bytes", True),
        Column("shunted", True),
        Column("connections", True),
        Column("taken", True),
        Column("given up", True),
    )
    width = max(1, -(-len(series.steps) // _SHOWN_STEPS))
    rows = []
    for first in range(0, len(series.steps), width):
        total = Step()
        for step in series.steps[first : first + width]:
            total.add(step)
        rows.append(
            (
                duration((first + width) * series.step_ns),
                count(total.packets),
                share(total.shunted_packets, total.packets),
                size(total.bytes),
                share(total.shunted_bytes, total.bytes),
                count(total.flows),
                count(total.taken),
                count(total.ended),
            )
        )
    return Section("Offload over time", columns, tuple(rows) if len(rows) > 1 else ())

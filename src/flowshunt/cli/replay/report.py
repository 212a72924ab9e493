"""The result of a run as one plain value: what the summary, the JSON and the tests look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowshunt.cli.replay import reasons
from flowshunt.cli.replay.connections import in_order
from flowshunt.cli.replay.run import Outcome
from flowshunt.cli.replay.tally import PortCount, Tally
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.states import ct_state_text
from flowshunt.datapath.schema import FATES
from flowshunt.packet.schema import VERDICT_OK, VERDICTS
from flowshunt.rules.openflow.format import format_flow

if TYPE_CHECKING:
    from flowshunt.app import Switch
    from flowshunt.cli.replay.loading import Loaded
    from flowshunt.cli.replay.offloading import OffloadReport
    from flowshunt.conntrack.statistics import ProtocolStatistics
    from flowshunt.ports.capture.sides import Sides
    from flowshunt.rules.openflow.flow import Flow


@dataclass(frozen=True, slots=True)
class PortReport:
    """A switch port: its OpenFlow number, the file it read from, and its counters."""

    name: str
    number: int
    source: str | None
    count: PortCount


@dataclass(frozen=True, slots=True)
class RuleReport:
    """A rule as flow text, and how often it matched."""

    table: int
    priority: int
    text: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ZoneReport:
    """A zone that packets came to: its living connections, and counters by protocol (`Tracker.zone_statistics`)."""

    zone: int
    connections: int
    protocols: Mapping[str, ProtocolStatistics]

    @property
    def figures(self) -> tuple[int, ...]:
        """Living connections; stored, expired and early dropped ones; packets without room, and invalid ones."""
        return (
            self.connections,
            self._sum("inserted"),
            self._sum("expired"),
            self._sum("early_dropped"),
            self._sum("insert_failed"),
            self._sum("invalid"),
        )

    def _sum(self, name: str) -> int:
        values = [counters[name] for counters in self.protocols.values()]
        return sum(value if isinstance(value, int) else sum(value.values()) for value in values)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about a run.

    Mappings are in the order in which they are shown: the most frequent first, then by name.
    """

    outcome: Outcome
    profile: str
    default_rules: bool
    packets: int
    bytes: int
    n_cut: int
    """Packets of which the capture holds only the beginning."""
    n_skipped: int
    """Packets left out by the reader because their link type cannot be read."""
    first_ns: int | None
    last_ns: int | None
    ct_states: Mapping[str, int]
    """Packets by ct_state; `-` for those never tracked."""
    invalid: Mapping[str, int]
    """Passes through the tracker that ended as inv, by reason."""
    invalid_protocols: Mapping[str, Mapping[str, int]]
    """The same by reason and protocol."""
    drops: Mapping[str, int]
    """Packets that left no port, by reason."""
    verdicts: Mapping[str, int]
    """Packets that could not be parsed to their end, by reason."""
    n_output: int
    """Packets that left at least one port."""
    n_held: int
    """Fragments that left no port by themselves: they became part of another packet, or still wait."""
    connections: Mapping[tuple[str, str], int]
    """Living connections by protocol and state."""
    zones: tuple[ZoneReport, ...]
    """By number."""
    listing: Sequence[Connection]
    """The living connections in the order of listings, if they were asked for."""
    counters: Mapping[str, int]
    """Of switch and tracker, as they name them."""
    ports: tuple[PortReport, ...]
    sides: Sides | None
    """How the two sides of a single capture were told apart."""
    rules: tuple[RuleReport, ...]
    """Most packets first, then by table and priority."""
    loaded: Loaded | None = None
    """The connection table that the run began with."""
    originals: Sequence[Connection] = ()
    """Those of `listing` with the tracker's own numbers."""
    offload: OffloadReport | None = None
    """What providers did, if there were any."""

    @property
    def n_connections(self) -> int:
        """Living connections."""
        return sum(self.connections.values())

    @property
    def now_ms(self) -> int:
        """The capture's clock at its last packet."""
        return (self.last_ns or 0) // 1_000_000


def connection_state(connection: Connection) -> str:
    """The state under which the summary counts a connection: TCP's own, else whether there was an answer."""
    return connection.state or ("answered" if connection.seen_reply else "unanswered")


def count_connections(census: Iterable[tuple[Connection, int]]) -> dict[tuple[str, str], int]:
    """Connections by protocol and state, largest protocol first, within it the largest state.

    `census`: examples with how many are like each (`Tracker.census`).
    """
    counts: Counter[tuple[str, str]] = Counter()
    protocols: Counter[str] = Counter()
    for example, n in census:
        counts[example.protocol_name, connection_state(example)] += n
    for (protocol, _), n in counts.items():
        protocols[protocol] += n
    return dict(sorted(counts.items(), key=lambda item: (-protocols[item[0][0]], item[0][0], -item[1], item[0][1])))


def make_report(
    switch: Switch,
    tally: Tally,
    outcome: Outcome,
    *,
    profile: str,
    default_rules: bool,
    sources: Mapping[str, str],
    sides: Sides | None = None,
    n_skipped: int = 0,
    with_listing: bool = False,
) -> Report:
    """Collect the state of `switch` and of `tally`, which is flushed; `sources` are file names by port name.

    First tracker and fragments remove what has expired by the capture's last packet. How much of that they did on the
    way depends on the size of batches, and a report must not.
    """
    tally.flush()
    now_ms = max(switch.tracker.now_ms, 0) if tally.last_ns is None else tally.last_ns // 1_000_000
    switch.tracker.sweep(now_ms)
    switch.fragments.expire(now_ms)
    switch.offload.synchronise()
    counters = {**switch.statistics(), **{f"tracker.{name}": n for name, n in switch.tracker.statistics().items()}}
    verdicts = reasons.split(counters, "verdict.")
    verdicts.pop(VERDICTS[VERDICT_OK], None)
    originals = sorted(switch.tracker.connections(now_ms), key=lambda entry: entry.sort_key) if with_listing else []
    zones = tuple(
        ZoneReport(zone, switch.tracker.zone_count(zone), protocols)
        for zone, protocols in switch.tracker.zone_statistics().items()
    )
    fates = {name: int(tally.fates[index]) for index, name in enumerate(FATES)}
    return Report(
        outcome=outcome,
        profile=profile,
        default_rules=default_rules,
        packets=tally.packets,
        bytes=tally.bytes,
        n_cut=tally.n_cut,
        n_skipped=n_skipped,
        first_ns=tally.first_ns,
        last_ns=tally.last_ns,
        ct_states=_ct_states(tally),
        invalid=reasons.split(counters, "tracker.invalid-"),
        invalid_protocols=_invalid_protocols(zones),
        drops=reasons.split(fates, "drop."),
        verdicts=verdicts,
        n_output=fates["output"],
        n_held=fates["held"],
        connections=count_connections(switch.tracker.census(now_ms)),
        zones=zones,
        listing=in_order(originals),
        originals=originals,
        counters=dict(sorted(counters.items())),
        ports=tuple(
            PortReport(name, number, sources.get(name), tally.ports.get(number, PortCount()))
            for name, number in sorted(switch.ports.items(), key=lambda item: item[1])
        ),
        sides=sides,
        rules=_rules(switch),
    )


def _invalid_protocols(zones: Iterable[ZoneReport]) -> dict[str, dict[str, int]]:
    """Invalid packets by reason and protocol, the protocol with the most first."""
    found: dict[str, Counter[str]] = {}
    for zone in zones:
        for protocol, counters in zone.protocols.items():
            invalid = counters["invalid"]
            for reason, n in invalid.items() if isinstance(invalid, dict) else ():
                found.setdefault(reason, Counter())[protocol] += n
    return {reason: dict(protocols.most_common()) for reason, protocols in sorted(found.items())}


def _ct_states(tally: Tally) -> dict[str, int]:
    values = [int(value) for value in np.flatnonzero(tally.ct_states)]
    values.sort(key=lambda value: (-int(tally.ct_states[value]), value))
    return {ct_state_text(value): int(tally.ct_states[value]) for value in values}


def _rules(switch: Switch) -> tuple[RuleReport, ...]:
    rules = [
        RuleReport(entry.flow.table, entry.flow.priority, _rule_text(entry.flow, switch), entry.packets, entry.bytes)
        for entry in switch.flows()
    ]
    return tuple(sorted(rules, key=lambda rule: (-rule.packets, rule.table, -rule.priority, rule.text)))


def _rule_text(flow: Flow, switch: Switch) -> str:
    """Flow text that names the table also when it is 0."""
    return f"{'' if flow.table else 'table=0, '}{format_flow(flow, switch.ports)}"

"""`dpctl/dump-conntrack`, `flush-conntrack`, counts and statistics of connections."""

from __future__ import annotations

from collections import Counter

import numpy as np

from flowshunt.conntrack.connection import Connection, address_text, combined_tcp_state
from flowshunt.conntrack.expectations import Expectation
from flowshunt.conntrack.listing import dpctl as listing
from flowshunt.conntrack.schema import N_ZONES
from flowshunt.conntrack.states import PEER_NAMES
from flowshunt.control.unixctl.commands import flushing
from flowshunt.control.unixctl.commands.dpctl import in_slices, split, take_number, without_datapath
from flowshunt.control.unixctl.node import Node
from flowshunt.control.unixctl.registry import command
from flowshunt.offload.attachment import MARK_ADDED, MARK_ESTABLISHED
from flowshunt.offload.framework import Offload

_GROUPS = {6: "TCP", 17: "UDP", 136: "UDPLITE", 132: "SCTP", 1: "ICMP", 58: "ICMP", 33: "DCCP", 2: "IGMP"}
_ORDER = ("TCP", "UDP", "UDPLITE", "SCTP", "ICMP", "DCCP", "IGMP", "Other")
_FRAME = "+-----------+-----------------------------------------+\n"


async def dump(node: Node, arguments: list[str]) -> str:
    """Connections, one on each line."""
    rest, options = split(arguments)
    rest, zone = take_number(rest, "zone", N_ZONES - 1)
    without_datapath(rest, 1)
    more, statistics = "more" in options, "statistics" in options
    found = await in_slices(node, lambda: node.tracker.connections(node.now_ms(), zone))
    return "".join(f"{listing.line(one, more=more, statistics=statistics)}\n" for one in found)


async def dump_expectations(node: Node, arguments: list[str]) -> str:
    """Connections that helpers await."""
    rest, zone = take_number(split(arguments).rest, "zone", N_ZONES - 1)
    without_datapath(rest, 1)
    found = await node.call(lambda: list(node.tracker.expectations(node.now_ms())))
    return "".join(f"{_expectation(one)}\n" for one in found if zone in (None, one.zone))


def _expectation(one: Expectation) -> str:
    protocol = listing.PROTOCOLS.get(one.protocol, str(one.protocol))
    anybody = "0.0.0.0" if one.destination.version == 4 else "::"
    source = anybody if one.source is None else address_text(one.source)
    destination = address_text(one.destination)
    zone = f",zone={one.zone}" if one.zone else ""
    way = f"src={source},dst={destination},sport=0,dport={one.destination_port}"
    return f"{protocol},orig=({way}){zone},parent=({listing.tuple_text(one.parent_tuple)})"


async def flush(node: Node, arguments: list[str]) -> str:
    """Forget connections: all, or those that the arguments describe."""
    wanted = flushing.read(split(arguments).rest)
    await flushing.carry_out(node, wanted)
    return ""


async def show_statistics(node: Node, arguments: list[str]) -> str:
    """How many connections there are of each protocol, with -m also of each TCP state."""
    rest, options = split(arguments)
    verbose = "more" in options or "verbose" in rest
    rest, zone = take_number([word for word in rest if word != "verbose"], "zone", N_ZONES - 1)
    without_datapath(rest, 1)
    protocols: Counter[str] = Counter()
    states: Counter[str] = Counter()
    for one, n in await _kinds(node, zone):
        protocols[_GROUPS.get(one.protocol, "Other")] += n
        if one.protocol == 6:
            states[combined_tcp_state(*listing.peer_states(one))] += n
    lines = ["Connections Stats:", f"    Total: {protocols.total()}"]
    for name in _ORDER:
        if protocols[name]:
            lines.append(f"  {name}: {protocols[name]}")
        if name == "TCP" and protocols[name] and verbose:
            lines.append("    Conn per TCP states:")
            lines += [f"\t  [{state}]={states[state]}" for state in PEER_NAMES if states[state]]
    return "\n".join(lines) + "\n"


async def _kinds(node: Node, zone: int | None) -> list[tuple[Connection, int]]:
    if zone is None:
        return await in_slices(node, lambda: node.tracker.census(node.now_ms()))
    found = await in_slices(node, lambda: node.tracker.connections(node.now_ms(), zone))
    return [(one, 1) for one in found]


async def show_buckets(node: Node, arguments: list[str]) -> str:
    """Connections in the one bucket that Open vSwitch's userspace tracker reports."""
    rest, threshold = take_number(split(arguments).rest, "gt", (1 << 16) - 1)
    without_datapath(rest, 1)
    n = await node.call(lambda: len(node.tracker))
    if n == 0:
        return "Total Buckets: 1\nCurrent Connections: 0\n\n"
    shown = f"{n:5}" if n > (threshold or 0) else f"{'.':>5}"
    return (
        f"Total Buckets: 1\nCurrent Connections: {n}\n\n{_FRAME}"
        f"|  Buckets  |         Connections per Buckets         |\n{_FRAME}   0..  7   | {shown}\n\n"
    )


async def count(node: Node, arguments: list[str]) -> str:
    """How many connections there are."""
    without_datapath(split(arguments).rest, 1)
    return f"{await node.call(lambda: len(node.tracker))}\n"


async def show_offload(node: Node, arguments: list[str]) -> str:
    """Figures of offloading, in the lines that scripts pick them from."""
    without_datapath(split(arguments).rest, 1)
    offload = node.offload
    added, established = await node.call(lambda: _offloaded(node, offload))
    rows = (
        ("Enqueued offloads:", 0),
        ("Inserted offloads:", established),
        ("CT uni-dir Connections:", added),
        ("CT bi-dir Connections:", established),
        ("Cumulative Average latency (us):", 0),
        ("Cumulative Latency stddev (us):", 0),
        ("Exponential Average latency (us):", 0),
        ("Exponential Latency stddev (us):", 0),
    )
    lines = ["HW Offload stats:"]
    for head in ("     Total", "     [  0]"):
        for name, value in rows:
            # Scripts look for the second kind with two blanks before it.
            lines.append(f"{head}  {name}{value:7}" if name.startswith("CT ") else f"{head}{name:>35}{value:7}")
    return "\n".join(lines) + "\n"


def _offloaded(node: Node, offload: Offload) -> tuple[int, int]:
    """How many connections a provider was told of, and how many one has as established."""
    rows = np.arange(int(node.tracker.arrays.state["n_fresh"][0]))
    marks = np.zeros(len(rows), np.uint8)
    for provider, _ in offload.providers():
        np.maximum(marks, offload.marks(rows, provider.name), out=marks)
    return int(np.count_nonzero(marks == MARK_ADDED)), int(np.count_nonzero(marks == MARK_ESTABLISHED))


COMMANDS = (
    command("dpctl/dump-conntrack", "[-m] [-s] [dp] [zone=N]", 0, 4, dump),
    command("dpctl/dump-conntrack-exp", "[dp] [zone=N]", 0, 2, dump_expectations),
    command(
        "dpctl/flush-conntrack",
        "[dp] [zone=N] [mark=X[/M]] [labels=Y[/N]] [ct-orig-tuple [ct-reply-tuple]]",
        0,
        6,
        flush,
    ),
    command("dpctl/ct-stats-show", "[dp] [zone=N]", 0, 3, show_statistics),
    command("dpctl/ct-bkts", "[dp] [gt=N]", 0, 2, show_buckets),
    command("dpctl/ct-get-nconns", "[dp]", 0, 1, count),
    command("dpctl/offload-stats-show", "[dp]", 0, 1, show_offload),
)

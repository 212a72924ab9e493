"""A switch that tracks everything, for fragments; and what came of a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowshunt.conntrack.table import Tracker
from flowshunt.datapath.fragments.schema import PROFILES, FragmentSettings
from flowshunt.datapath.fragments.store import Fragments
from flowshunt.datapath.schema import FATES
from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.compile import FlowCompiler
from tests.builders import Packet, batch_of
from tests.datapath.switches import Sent, flow, send_batch

TRACK = (flow(F.Ct(commit=True, table=1)), flow(F.Output(2), table=1))
NO_MINIMUM = replace(PROFILES["default"], min_size_ipv4=0, min_size_ipv6=0)
START_MS = 1_000_000


def tracking(
    *flows: F.Flow,
    settings: FragmentSettings = NO_MINIMUM,
    profile: str = "default",
    batch_size: int = 256,
    **memory: Any,
) -> Datapath:
    """A datapath of three ports with these flows, or that tracks and commits everything and sends it to port 2."""
    fragments = Fragments(settings, seed=1, **memory)
    tracker = Tracker(profile, max_connections=1000, seed=1)
    datapath = Datapath(tracker, batch_size, compiler=FlowCompiler(), fragments=fragments)
    for port in (1, 2, 3):
        datapath.ports.add(port)
    datapath.add_flows(flows or TRACK)
    return datapath


def play(datapath: Datapath, *frames: bytes | Packet, time_ms: int = START_MS, in_port: int = 1) -> list[list[Sent]]:
    """Send frames through as one batch, all at one time; per frame what left."""
    return send_batch(datapath, batch_of(frames, in_port=in_port, time_ns=time_ms * 1_000_000, step_ns=0))


def fates(datapath: Datapath, *frames: bytes | Packet, time_ms: int = START_MS) -> list[tuple[str, int]]:
    """Send frames through as one batch; per frame its fate's name and its ct_state."""
    result = datapath.process(batch_of(frames, in_port=1, time_ns=time_ms * 1_000_000, step_ns=0))
    return [(FATES[fate], int(state)) for fate, state in zip(result.fate, result.ct_state, strict=True)]


def moved(datapath: Datapath, family: str = "ipv4") -> dict[str, int]:
    """The fragment counters of one family that are not zero."""
    counters = datapath.fragments.statistics()
    return {name.split(".")[1]: n for name, n in counters.items() if n and name.startswith(family)}


def udp4(size: int = 3000, sport: int = 1000, **header: Any) -> Packet:
    """A UDP datagram over IPv4 with `size` bytes of payload that repeat nowhere near."""
    body = bytes((n * 7 + n // 251) & 0xFF for n in range(size))
    return Packet().eth().ipv4("10.0.0.1", "10.0.0.2", id=7, **header).udp(sport, 2000).payload(body)


def udp6(size: int = 3000, sport: int = 1000, extensions: bool = False) -> Packet:
    """The same over IPv6; with `extensions`: hop-by-hop and routing headers in front of where it is cut."""
    body = bytes((n * 7 + n // 251) & 0xFF for n in range(size))
    packet = Packet().eth().ipv6("2001:db8::1", "2001:db8::2")
    if extensions:
        packet = packet.hop_by_hop().routing()
    return packet.udp(sport, 2000).payload(body)

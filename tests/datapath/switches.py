"""A switch under test: flows in, packets through, frames out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flowshunt.conntrack.table import Tracker
from flowshunt.datapath.schema import FATES, SOURCE_BATCH
from flowshunt.datapath.tables import Datapath
from flowshunt.packet.schema import Batch
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.compile import FlowCompiler
from tests.builders import Packet, batch_of

IP = ("eth_type", 0x0800, 0xFFFF)
IPV6 = ("eth_type", 0x86DD, 0xFFFF)
ARP = ("eth_type", 0x0806, 0xFFFF)
TCP = ("nw_proto", 6, 0xFF)
UDP = ("nw_proto", 17, 0xFF)
NEW, EST, RPL, INV, TRK = 0x01, 0x02, 0x08, 0x10, 0x20


class Sent(NamedTuple):
    """A frame that left."""

    port: int
    frame: bytes


def switch(*flows: F.Flow, ports: Iterable[int] = (1, 2, 3), batch_size: int = 256) -> Datapath:
    datapath = Datapath(Tracker(max_connections=1000, seed=1), batch_size, compiler=FlowCompiler())
    for port in ports:
        datapath.ports.add(port)
    datapath.add_flows(flows)
    return datapath


def flow(*actions: F.Action, match: Sequence[tuple[str, int, int]] = (), table: int = 0, priority: int = 100) -> F.Flow:
    return F.Flow(tuple(match), actions, table, priority)


def ct_state(value: int, mask: int) -> tuple[str, int, int]:
    return "ct_state", value, mask


def field(name: str, start: int, width: int) -> F.Subfield:
    return F.Subfield(name, start, width)


def set_field(name: str, value: int, width: int, start: int = 0, mask: int | None = None) -> F.SetField:
    return F.SetField(field(name, start, width), value, (1 << width) - 1 if mask is None else mask)


def udp(source: str = "10.0.0.1", destination: str = "10.0.0.2", sport: int = 1000, dport: int = 2000) -> Packet:
    return Packet().eth().ipv4(source, destination).udp(sport, dport).payload(b"hello")


def send(datapath: Datapath, packet: Packet | bytes, in_port: int = 1, time_ms: int = 1_000_000) -> list[Sent]:
    """Send one packet through; the frames that leave, in order."""
    return send_batch(datapath, batch_of([packet], in_port=in_port, time_ns=time_ms * 1_000_000))[0]


def send_batch(datapath: Datapath, batch: Batch) -> list[list[Sent]]:
    """Send a batch through; per packet the frames that leave, in order."""
    result = datapath.process(batch)
    sent: list[list[Sent]] = [[] for _ in batch.packets]
    for frame in result.tx:
        source = batch.data if frame["source"] == SOURCE_BATCH else result.tx_data
        content = source[frame["data"] : frame["data"] + frame["length"]].tobytes()
        sent[frame["packet"]].append(Sent(int(frame["port"]), content))
    return sent


def fate(datapath: Datapath, packet: Packet | bytes, in_port: int = 1, time_ms: int = 1_000_000) -> str:
    """Send one packet through; the name of its fate."""
    result = datapath.process(batch_of([packet], in_port=in_port, time_ns=time_ms * 1_000_000))
    return FATES[result.fate[0]]


def ports_of(sent: Iterable[Sent]) -> list[int]:
    return [frame.port for frame in sent]

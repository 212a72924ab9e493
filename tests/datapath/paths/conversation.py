"""A switch that learns, and conversations through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flowshunt import Switch
from flowshunt.datapath.paths.records import UNFIT
from flowshunt.packet.schema import FIELDS
from tests.builders import Packet, batch_of

CLIENT_MAC, SERVER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
C1 = """
table=0,arp,action=normal
table=0,ip,ct_state=-trk,action=ct(table=1)
table=1,priority=1,ip,ct_state=+trk+new,action=ct(commit),normal
table=1,priority=1,ip,ct_state=+trk+est,action=normal
"""
STATELESS = "table=0,in_port=1,actions=2\ntable=0,in_port=2,actions=1\n"


def through(established: str, zone: str = "zone=1") -> str:
    """Rules for two ports, of which established packets meet those given, in table 1 and the ones after it."""
    return f"""
    table=0,ip,ct_state=-trk,actions=ct({zone},table=1)
    table=0,ipv6,ct_state=-trk,actions=ct({zone},table=1)
    table=1,priority=9000,ct_state=+trk+new,in_port=1,actions=ct({zone},commit),2
    table=1,priority=9000,ct_state=+trk+new,in_port=2,actions=ct({zone},commit),1
    {established}
    """


class Lab:
    """A switch with two ports; what it tells is kept in `told`."""

    def __init__(self, rules: str = C1, *, ports: tuple[str, ...] = ("p0", "p1"), **settings: Any) -> None:
        self.switch = Switch(max_connections=1000, seed=1, **settings)
        for port in ports:
            self.switch.add_port(port)
        self.switch.add_flows(rules)
        self.paths = self.switch.datapath.paths
        self.told: list[np.void] = []
        self.paths.observe(lambda records: self.told.extend(records.copy()))
        self.paths.enable(True)
        self.now_ms = 1_700_000_000_000

    def send(self, port: int, *packets: Packet | bytes) -> list[tuple[int, bytes]]:
        """Send packets in at a port, a millisecond later than the last ones; the frames that leave."""
        self.now_ms += 1
        batch = batch_of(packets, in_port=port, time_ns=self.now_ms * 1_000_000)
        result = self.switch.process(batch)
        frames = []
        for frame in result.tx:
            data = result.tx_data if frame["source"] else batch.data
            frames.append((int(frame["port"]), data[frame["data"] : frame["data"] + frame["length"]].tobytes()))
        return frames

    def take(self) -> list[np.void]:
        """What was told since the last call."""
        told, self.told[:] = list(self.told), []
        return told

    def verdicts(self) -> list[str]:
        """The verdicts of what was told since the last call, `none` for a path."""
        return [verdict(record) for record in self.take()]


def verdict(record: np.void) -> str:
    name = UNFIT[int(record["unfit"])]
    return f"{name}:{tuple(FIELDS)[int(record['parameter'])]}" if name == "varying-match" else name


@dataclass
class Talk:
    """A conversation; `client` and `server` are as the packets come in at either side."""

    lab: Lab
    client: str = CLIENT
    server: str = SERVER
    sport: int = 1000
    dport: int = 80
    protocol: str = "tcp"
    ports: tuple[int, int] = (1, 2)
    back: tuple[str, str] | None = None  # what the answers' source and destination are, if not the other way round
    back_ports: tuple[int, int] | None = None
    vlan: int | None = None
    header: dict[str, Any] = field(default_factory=dict)
    macs: tuple[str, str] = (CLIENT_MAC, SERVER_MAC)

    def packet(self, d: int, size: int = 10, header: dict[str, Any] | None = None, **flags: Any) -> Packet:
        source, destination = (self.client, self.server) if d == 0 else (self.back or (self.server, self.client))
        sport, dport = (self.sport, self.dport) if d == 0 else (self.back_ports or (self.dport, self.sport))
        packet = Packet().eth(*(self.macs if d == 0 else self.macs[::-1]))
        if self.vlan is not None:
            packet = packet.vlan(self.vlan)
        header = {**self.header, **(header or {})}
        packet = (
            packet.ipv6(source, destination, **header) if ":" in source else packet.ipv4(source, destination, **header)
        )
        if self.protocol == "udp":
            return packet.udp(sport, dport).payload(b"x" * size)
        seq = {"seq": 2 if d == 0 else 101, "ack_number": 101 if d == 0 else 2, "ack": True} | flags
        return packet.tcp(sport, dport, **seq).payload(b"" if flags.get("syn") else b"x" * size)

    def send(self, d: int, **how: Any) -> list[tuple[int, bytes]]:
        """One packet in direction d."""
        return self.lab.send(self.ports[d], self.packet(d, **how))

    def begin(self) -> Talk:
        """The handshake up to the SYN-ACK, or question and answer."""
        if self.protocol == "udp":
            self.send(0)
        else:
            self.send(0, syn=True, ack=False, seq=1, ack_number=0)
            self.send(1, syn=True, seq=100)
        return self

    def run(self) -> Talk:
        """Begin, and one packet in each direction of the established connection."""
        self.begin()
        if self.protocol == "udp":
            self.send(1)
            self.send(0)
            return self
        self.send(0)
        self.send(1)
        return self

"""A tracker with an offload framework on it, and packets of conversations; all as tests of it need them."""

from __future__ import annotations

from flowshunt.conntrack.holding import Holding
from flowshunt.conntrack.table import Tracker
from flowshunt.offload.api import Provider
from flowshunt.offload.batch import ConnectionId
from flowshunt.offload.framework import Offload
from flowshunt.offload.registry import Settings
from tests.builders import Packet, batch_of

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
START_MS = 1_700_000_000_000
SECOND = 1000
CLIENT_PORT, SERVER_PORT = 1, 2
DEVICES = {CLIENT_PORT: "p0", SERVER_PORT: "pf0hpf"}
_NAMES = {"S": "syn", "A": "ack", "F": "fin", "R": "rst", "P": "psh"}


class Bench:
    """`tracker` and `offload`; packets of a client come in on port 1, those of a server on port 2."""

    def __init__(self, *providers: Provider, enabled: bool = True, **tracker: object) -> None:
        self.tracker = Tracker(**{"max_connections": 4096, "seed": 5, **tracker})  # type: ignore[arg-type]
        self.holding = Holding(self.tracker)
        self.offload = Offload(self.holding, devices=DEVICES.get)
        for provider in providers:
            self.offload.register(provider)
        self.offload.configure(Settings(enabled=enabled))
        self.now_ms = START_MS

    def send(self, *packets: Packet, reply: bool = False, after_ms: int = 0, commit: bool = True) -> list[int]:
        """Packets of one direction in a batch; their ct_state."""
        self.now_ms += after_ms
        in_port = SERVER_PORT if reply else CLIENT_PORT
        batch = batch_of(packets, in_port=in_port, time_ns=self.now_ms * 1_000_000, step_ns=0)
        states = self.tracker.track(batch, commit=commit)
        self.offload.poll(self.now_ms)
        return [int(state) for state in states]

    def ask(self, *ports: int) -> None:
        """A datagram of a client with each of these ports."""
        self.send(*(udp(port) for port in ports))

    def answer(self, *ports: int) -> None:
        """The answers to them."""
        self.send(*(udp(port, reply=True) for port in ports), reply=True)

    def handshake(self, port: int = 1000) -> None:
        """SYN, SYN-ACK, ACK, a batch each."""
        self.send(tcp("S", 100, port=port))
        self.send(tcp("SA", 500, 101, reply=True, port=port), reply=True)
        self.send(tcp("A", 101, 501, port=port))

    def pass_time(self, ms: int) -> None:
        """Move the clock and let expire what expires; a connection that is held is asked about in between."""
        self.now_ms += ms
        for _ in range(3):
            self.tracker.sweep(self.now_ms)
            self.offload.poll(self.now_ms)

    def identities(self) -> list[ConnectionId]:
        """The connections in the table, in the order of their rows."""
        return [ConnectionId(connection.id, connection.generation) for connection in self.tracker.connections()]

    def reason(self, name: str, place: int = 0) -> str:
        """The reason code of a provider about the connection at this place of `identities`."""
        return self.offload.reason(*self.identities()[place], name).code

    def counters(self, name: str) -> dict[str, int]:
        """A provider's counters that are not 0."""
        (found,) = (counters for provider, counters in self.offload.providers() if provider.name == name)
        return {key: value for key, value in found.items() if value}


def tcp(flags: str, seq: int, ack: int = 0, *, reply: bool = False, port: int = 1000, payload: int = 0) -> Packet:
    """A segment of the conversation of the client's port; flags as letters out of SAFRP."""
    ends = (SERVER, CLIENT, 80, port) if reply else (CLIENT, SERVER, port, 80)
    bits = {_NAMES[letter]: True for letter in flags}
    return Packet().eth().ipv4(*ends[:2]).tcp(*ends[2:], seq=seq, ack_number=ack, **bits).payload(payload)


def udp(port: int = 5000, *, reply: bool = False) -> Packet:
    """A datagram of the client's port, or its answer."""
    if reply:
        return Packet().eth().ipv4(SERVER, CLIENT).udp(53, port).payload(4)
    return Packet().eth().ipv4(CLIENT, SERVER).udp(port, 53).payload(4)

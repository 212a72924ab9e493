"""A datagram in fragments is translated, helped and related as the same datagram whole is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowshunt import Switch
from flowshunt.conntrack.states import ct_state_text
from tests.builders import Host, Packet, batch_of
from tests.builders.fragments import fragments, payload_size, whole

NAT = """
table=0,in_port=1,{ip},actions=ct(commit,zone=1,nat(src={public}:1000-1999),table=1)
table=0,in_port=2,{ip},actions=ct(zone=1,nat,table=2)
table=1,actions=2
table=2,ct_state=+est,actions=1
table=2,ct_state=+rel,actions=push_vlan:0x8100,1
"""
FTP = """
table=0,ip,actions=ct(table=1,nat)
table=1,priority=20,tcp,in_port=1,tcp_dst=21,ct_state=+new,actions=ct(commit,alg=ftp,nat(src=192.168.100.200)),2
table=1,priority=10,ip,ct_state=+est,in_port=1,actions=2
table=1,priority=10,ip,ct_state=+est,in_port=2,actions=1
"""
FAMILIES = {4: ("10.0.0.5", "192.0.2.1", "198.51.100.7"), 6: ("2001:db8::5", "[2001:db8:9::1]", "2001:db8:f::7")}


class Twins:
    """Two switches with the same rules and the same luck: one gets datagrams whole, the other in fragments."""

    def __init__(self, rules: str) -> None:
        self.switches = [Switch(max_connections=1000, seed=3) for _ in range(2)]
        for switch in self.switches:
            switch.add_port("inside", 1)
            switch.add_port("outside", 2)
            switch.add_flows(rules)
            settings = switch.fragments.settings
            switch.fragments.configure(replace(settings, min_size_ipv4=0, min_size_ipv6=0))
        self.time_ms = 1_700_000_000_000

    def send(self, port: int, frame: bytes, size: int = 104) -> tuple[str, bytes]:
        """Send a frame, whole and in fragments of `size` bytes of payload; state and frame, the same for both."""
        state, sent = self.send_to_all(port, frame, size)
        (out,) = sent.values()
        return state, out

    def send_to_all(self, port: int, frame: bytes, size: int = 104) -> tuple[str, dict[int, bytes]]:
        """The same, for a frame that leaves on several ports: the frame of each."""
        self.time_ms += 10
        parts = fragments(frame, range(size, payload_size(frame), size), id=1)
        assert len(parts) > 1
        state, sent = self._through(self.switches[0], port, [frame])
        other_state, others = self._through(self.switches[1], port, parts[::-1])
        assert all(len(frames) > 1 for frames in others.values())
        assert max(len(out) for frames in others.values() for out in frames) <= max(map(len, parts)) + 4
        made_whole = {number: [whole(frames)] for number, frames in others.items()}
        assert (other_state, made_whole) == (state, sent)
        return state, {number: out for number, (out,) in sent.items()}

    def _through(self, switch: Switch, port: int, frames: list[bytes]) -> tuple[str, dict[int, list[bytes]]]:
        batch = batch_of(frames, in_port=port, time_ns=self.time_ms * 1_000_000, step_ns=0)
        result = switch.process(batch)
        sent: dict[int, list[bytes]] = {}
        for out in result.tx:
            data = result.tx_data if out["source"] else batch.data
            frame = data[out["data"] : out["data"] + out["length"]].tobytes()
            sent.setdefault(int(out["port"]), []).append(frame)
        return ct_state_text(int(result.ct_state[-1])), sent

    def connections(self) -> list[list[object]]:
        return [[(c.original, c.reply, c.packets, c.bytes) for c in s.tracker.connections()] for s in self.switches]


def over(source: str, destination: str) -> Packet:
    return Packet().eth().ipv6(source, destination) if ":" in source else Packet().eth().ipv4(source, destination)


@pytest.mark.parametrize("family", FAMILIES)
def test_addresses_and_ports_are_translated_both_ways(family: int) -> None:
    client, public, server = FAMILIES[family]
    twins = Twins(NAT.format(public=public, ip="ip" if family == 4 else "ipv6"))
    body = bytes(n & 0xFF for n in range(700))
    state, out = twins.send(1, over(client, server).udp(5000, 53).payload(body).bytes())
    assert state == "new|trk|snat"
    port = int.from_bytes(out[34:36] if family == 4 else out[54:56], "big")
    assert 1000 <= port <= 1999
    assert out == over(public.strip("[]"), server).udp(port, 53).payload(body).bytes()
    state, back = twins.send(2, over(server, public.strip("[]")).udp(53, port).payload(body).bytes())
    assert state == "est|rpl|trk|dnat"
    assert back == over(server, client).udp(53, 5000).payload(body).bytes()
    assert twins.connections()[0] == twins.connections()[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_is_related_and_what_it_quotes_is_translated(family: int) -> None:
    client, public, server = FAMILIES[family]
    twins = Twins(NAT.format(public=public, ip="ip" if family == 4 else "ipv6"))
    _, out = twins.send(1, over(client, server).udp(5000, 53).payload(bytes(700)).bytes())
    router = "203.0.113.1" if family == 4 else "2001:db8:e::1"
    error = over(router, public.strip("[]"))
    error = error.icmp(3, 3) if family == 4 else error.icmpv6(1, 4)
    state, back = twins.send(2, error.quote(out[14:600]).bytes())
    assert "rel" in state
    wanted = over(router, client)
    wanted = wanted.icmp(3, 3) if family == 4 else wanted.icmpv6(1, 4)
    quoted = over(client, server).udp(5000, 53).payload(bytes(700)).bytes()[14:600]
    frame = wanted.quote(quoted).bytes()
    assert back == frame[:12] + bytes.fromhex("81000000") + frame[12:]


def test_a_helper_rewrites_a_command_that_came_in_fragments() -> None:
    twins = Twins(FTP)
    client = Host("10.0.0.1", 40000, "10.9.0.2", 21)
    server = Host("10.9.0.2", 21, "192.168.100.200", 40000)
    options = b"\x01" * 12
    _, out = twins.send(1, client.segment(syn=True, ack=False, options=options), 16)
    server.receive(out)
    _, out = twins.send(2, server.segment(syn=True, options=options), 16)
    client.receive(out)
    for payload in (b"PORT 10,0,0,1,4,1\r\n", b"NOOP\r\n"):
        _, out = twins.send(1, client.segment(payload), 16)
        server.receive(out)
        _, out = twins.send(2, server.segment(b"200 fine\r\n"), 16)
        client.receive(out)
    assert server.received == b"PORT 192,168,100,200,4,1\r\nNOOP\r\n"
    assert twins.connections()[0] == twins.connections()[1]


def test_the_rest_of_a_list_has_the_rewritten_command_too() -> None:
    twins = Twins(FTP.replace("ct(table=1,nat)", "ct(table=1,nat),3"))
    client = Host("10.0.0.1", 40000, "10.9.0.2", 21)
    server = Host("10.9.0.2", 21, "192.168.100.200", 40000)
    for switch in twins.switches:
        switch.add_port("tap", 3)
    options = b"\x01" * 12
    server.receive(twins.send_to_all(1, client.segment(syn=True, ack=False, options=options), 16)[1][2])
    client.receive(twins.send_to_all(2, server.segment(syn=True, options=options), 16)[1][1])
    _, sent = twins.send_to_all(1, client.segment(b"PORT 10,0,0,1,4,1\r\n"), 16)
    assert sent[3] == sent[2]
    assert sent[3].endswith(b"PORT 192,168,100,200,4,1\r\n")

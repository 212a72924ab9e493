"""NAT through rules: frames translated both ways, ICMP errors inside out, checksums those of new packets."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

import pytest

from flowshunt import Switch
from flowshunt.conntrack.states import ct_state_text
from flowshunt.datapath.schema import SOURCE_TX_DATA
from tests.builders import Packet, batch_of

INSIDE, OUT = 1, 2
SERVER, SERVER6 = "198.51.100.7", "2001:db8:f::7"
ROUTER, ROUTER6 = "203.0.113.1", "2001:db8:e::1"

SNAT = """
table=0,in_port=1,ip,actions=ct(commit,zone=1,nat(src=192.0.2.1-192.0.2.2:1000-1099),table=1)
table=0,in_port=1,ipv6,actions=ct(commit,zone=1,nat(src=[2001:db8:9::1]-[2001:db8:9::2]:1000-1099),table=1)
table=0,in_port=2,ip,actions=ct(zone=1,nat,table=2)
table=0,in_port=2,ipv6,actions=ct(zone=1,nat,table=2)
table=1,actions=2
table=2,ct_state=+dnat,actions=1
"""
DNAT = """
table=0,in_port=1,ip,actions=ct(commit,zone=1,nat(dst=198.51.100.7:80),table=1)
table=0,in_port=1,ipv6,actions=ct(commit,zone=1,nat(dst=[2001:db8:f::7]:80),table=1)
table=0,in_port=2,ip,actions=ct(zone=1,nat,table=2)
table=0,in_port=2,ipv6,actions=ct(zone=1,nat,table=2)
table=1,ct_state=+dnat,actions=2
table=2,ct_state=+snat,actions=1
"""


class Outcome(NamedTuple):
    state: str
    frames: list[tuple[int, bytes]]


class Box:
    """A switch with two ports."""

    def __init__(self, rules: str, profile: str = "default", batch_size: int = 256) -> None:
        self.switch = Switch(profile, max_connections=5000, batch_size=batch_size, seed=3)
        self.switch.add_port("inside", INSIDE)
        self.switch.add_port("outside", OUT)
        self.switch.add_flows(rules)
        self.now_ms = 1_700_000_000_000

    def send(self, port: int, packet: Packet | bytes) -> Outcome:
        return self.send_all([(port, packet)])[0]

    def send_all(self, packets: list[tuple[int, Packet | bytes]]) -> list[Outcome]:
        batch = batch_of([packet for _, packet in packets], time_ns=self.now_ms * 1_000_000, step_ns=0)
        batch.packets["in_port"] = [port for port, _ in packets]
        result = self.switch.process(batch)
        outcomes = [Outcome(ct_state_text(int(state)), []) for state in result.ct_state]
        for frame in result.tx:
            data = result.tx_data if frame["source"] else batch.data
            start = int(frame["data"])
            content = data[start : start + int(frame["length"])].tobytes()
            outcomes[int(frame["packet"])].frames.append((int(frame["port"]), content))
        return outcomes

    def sent(self, port: int, packet: Packet | bytes, towards: int) -> bytes:
        """The one frame that leaves for a packet."""
        ((leaves_on, frame),) = self.send(port, packet).frames
        assert leaves_on == towards
        return frame


def ip(source: str, destination: str, eth: bool = True) -> Packet:
    packet = Packet().eth() if eth else Packet()
    return packet.ipv6(source, destination) if ":" in source else packet.ipv4(source, destination)


def ends_of(frame: bytes) -> tuple[str, str, int, int]:
    """Addresses and ports (or what is in their place) of a frame without tags, options and extension headers."""
    if frame[12:14] == b"\x08\x00":
        source, destination, at = frame[26:30], frame[30:34], 34
    else:
        source, destination, at = frame[22:38], frame[38:54], 54
    ports = int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big")
    return str(ip_address(source)), str(ip_address(destination)), *ports


Transport = Callable[[Packet, int, int], Packet]
TRANSPORTS: dict[str, Transport] = {
    "tcp": lambda packet, a, b: packet.tcp(a, b, seq=9, syn=True).payload(b""),
    "udp": lambda packet, a, b: packet.udp(a, b).payload(b"abcde"),
    "udp without checksum": lambda packet, a, b: packet.udp(a, b, checksum=0).payload(b"abc"),
    "sctp": lambda packet, a, b: packet.sctp(a, b).payload(b"\x01\x00\x00\x04"),
}
FAMILIES = {"ipv4": ("10.0.0.5", SERVER, ROUTER), "ipv6": ("2001:db8::5", SERVER6, ROUTER6)}
CASES = [(f, t) for f in FAMILIES for t in TRANSPORTS if (f, t) != ("ipv6", "udp without checksum")]


@pytest.mark.parametrize(("family", "transport"), CASES)
def test_source_nat_there_and_back(family: str, transport: str) -> None:
    client, server, _ = FAMILIES[family]
    make = TRANSPORTS[transport]
    box = Box(SNAT)
    out = box.sent(INSIDE, make(ip(client, server), 5000, 80), OUT)
    outside, destination, port, server_port = ends_of(out)
    assert (destination, server_port) == (server, 80)
    assert outside != client and 1000 <= port <= 1099
    assert out == make(ip(outside, server), port, 80).bytes()
    if transport == "tcp":
        answer = ip(server, outside).tcp(80, port, seq=1, ack_number=10, syn=True, ack=True)
        wanted = ip(server, client).tcp(80, 5000, seq=1, ack_number=10, syn=True, ack=True)
    else:
        answer, wanted = make(ip(server, outside), 80, port), make(ip(server, client), 80, 5000)
    assert box.sent(OUT, answer, INSIDE) == wanted.bytes()


@pytest.mark.parametrize(("family", "transport"), CASES)
def test_destination_nat_there_and_back(family: str, transport: str) -> None:
    client, server, _ = FAMILIES[family]
    virtual = "192.0.2.80" if family == "ipv4" else "2001:db8:9::80"
    make = TRANSPORTS[transport]
    box = Box(DNAT)
    assert box.sent(INSIDE, make(ip(client, virtual), 5000, 8080), OUT) == make(ip(client, server), 5000, 80).bytes()
    if transport == "tcp":
        answer = ip(server, client).tcp(80, 5000, seq=1, ack_number=10, syn=True, ack=True)
        wanted = ip(virtual, client).tcp(8080, 5000, seq=1, ack_number=10, syn=True, ack=True)
    else:
        answer, wanted = make(ip(server, client), 80, 5000), make(ip(virtual, client), 8080, 5000)
    assert box.sent(OUT, answer, INSIDE) == wanted.bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_echo_ids_there_and_back(family: str) -> None:
    client, server, _ = FAMILIES[family]
    box = Box(SNAT)

    def echo(source: str, destination: str, id: int, *, reply: bool = False) -> Packet:
        packet = ip(source, destination)
        if family == "ipv4":
            return packet.icmp(0 if reply else 8, id=id, seq=3).payload(b"ping")
        return packet.icmpv6(129 if reply else 128, id=id, seq=3).payload(b"ping")

    out = box.sent(INSIDE, echo(client, server, 7), OUT)
    outside = ends_of(out)[0]
    at = 38 if family == "ipv4" else 58
    id = int.from_bytes(out[at : at + 2], "big")
    assert 1000 <= id <= 1099
    assert out == echo(outside, server, id).bytes()
    assert box.sent(OUT, echo(server, outside, id, reply=True), INSIDE) == echo(server, client, 7, reply=True).bytes()


def error(source: str, destination: str, quoted: Packet, cut: int | None = None) -> Packet:
    packet = ip(source, destination)
    packet = packet.icmp(3, 1) if ":" not in source else packet.icmpv6(1, 1)
    return packet.quote(quoted.bytes()[:cut])


@pytest.mark.parametrize("cut", [None, 8, 12, 18])
@pytest.mark.parametrize(("family", "transport"), CASES)
def test_errors_about_what_left_come_back_translated_inside_out(family: str, transport: str, cut: int | None) -> None:
    """SNAT: the outer destination and the quoted source; of a quote cut short, what is there."""
    client, server, router = FAMILIES[family]
    make = TRANSPORTS[transport]
    box = Box(SNAT)
    outside, _, port, _ = ends_of(box.sent(INSIDE, make(ip(client, server), 5000, 80), OUT))
    size = None if cut is None else cut + (20 if family == "ipv4" else 40)
    back = error(router, outside, make(ip(outside, server, eth=False), port, 80), size)
    outcome = box.send(OUT, back)
    wanted = error(router, client, make(ip(client, server, eth=False), 5000, 80), size)
    assert outcome == ("rel|rpl|trk|dnat", [(INSIDE, wanted.bytes())])


@pytest.mark.parametrize(("family", "transport"), CASES)
def test_errors_about_answers_leave_translated_inside_out(family: str, transport: str) -> None:
    """SNAT, the client complains: the outer source and the quoted destination."""
    client, server, _ = FAMILIES[family]
    make = TRANSPORTS[transport]
    box = Box(SNAT)
    outside, _, port, _ = ends_of(box.sent(INSIDE, make(ip(client, server), 5000, 80), OUT))
    complaint = error(client, server, make(ip(server, client, eth=False), 80, 5000))
    wanted = error(outside, server, make(ip(server, outside, eth=False), 80, port))
    assert box.send(INSIDE, complaint) == ("rel|trk|snat", [(OUT, wanted.bytes())])


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_of_destination_nat(family: str) -> None:
    client, server, router = FAMILIES[family]
    virtual = "192.0.2.80" if family == "ipv4" else "2001:db8:9::80"
    make = TRANSPORTS["udp"]
    box = Box(DNAT)
    box.sent(INSIDE, make(ip(client, virtual), 5000, 8080), OUT)
    back = error(router, client, make(ip(client, server, eth=False), 5000, 80))
    wanted = error(virtual, client, make(ip(client, virtual, eth=False), 5000, 8080))
    assert box.send(OUT, back) == ("rel|rpl|trk|snat", [(INSIDE, wanted.bytes())]), "the server is not to be seen"


def test_an_error_about_an_echo_gets_the_id_back() -> None:
    box = Box(SNAT)
    out = box.sent(INSIDE, ip("10.0.0.5", SERVER).icmp(8, id=7), OUT)
    outside, id = ends_of(out)[0], int.from_bytes(out[38:40], "big")
    back = error(ROUTER, outside, ip(outside, SERVER, eth=False).icmp(8, id=id))
    wanted = error(ROUTER, "10.0.0.5", ip("10.0.0.5", SERVER, eth=False).icmp(8, id=7))
    assert box.sent(OUT, back, INSIDE) == wanted.bytes()


def test_wrong_checksums_in_a_quote_stay_wrong() -> None:
    box = Box(SNAT)
    outside, _, port, _ = ends_of(box.sent(INSIDE, ip("10.0.0.5", SERVER).udp(5000, 80), OUT))
    quoted = Packet().ipv4(outside, SERVER, checksum=0x1234).udp(port, 80, checksum=0x4321)
    frame = box.sent(OUT, error(ROUTER, outside, quoted), INSIDE)
    right = error(ROUTER, "10.0.0.5", Packet().ipv4("10.0.0.5", SERVER).udp(5000, 80)).bytes()
    assert frame[:24] + frame[26:36] == right[:24] + right[26:36]
    assert frame[52:54] != right[52:54] and frame[68:70] != right[68:70]
    assert frame[54:68] == right[54:68]


def test_an_error_through_two_zones() -> None:
    rules = """
    table=0,in_port=1,ip,actions=ct(commit,zone=1,nat(src=192.0.2.1:1000-1099),table=1)
    table=1,ip,actions=ct(commit,zone=2,nat(dst=198.51.100.7:80),table=2)
    table=2,actions=2
    table=0,in_port=2,ip,actions=ct(zone=2,nat,table=3)
    table=3,ip,actions=ct(zone=1,nat,table=4)
    table=4,actions=1
    """
    box = Box(rules)
    client, virtual = "10.0.0.5", "192.0.2.80"
    out = box.sent(INSIDE, ip(client, virtual).udp(5000, 8080).payload(b"x"), OUT)
    outside, server, port, server_port = ends_of(out)
    assert (outside, server, server_port) == ("192.0.2.1", SERVER, 80)
    assert out == ip(outside, server).udp(port, 80).payload(b"x").bytes()
    answer = box.sent(OUT, ip(server, outside).udp(80, port).payload(b"y"), INSIDE)
    assert answer == ip(virtual, client).udp(8080, 5000).payload(b"y").bytes()
    back = error(ROUTER, outside, ip(outside, server, eth=False).udp(port, 80).payload(b"x"))
    wanted = error(virtual, client, ip(client, virtual, eth=False).udp(5000, 8080).payload(b"x"))
    assert box.sent(OUT, back, INSIDE) == wanted.bytes()


def test_a_tag_pushed_onto_a_translated_error() -> None:
    rules = SNAT.replace("table=2,ct_state=+dnat,actions=1", "table=2,actions=mod_vlan_vid:9,1")
    box = Box(rules)
    outside, _, port, _ = ends_of(box.sent(INSIDE, ip("10.0.0.5", SERVER).udp(5000, 80), OUT))
    back = error(ROUTER, outside, ip(outside, SERVER, eth=False).udp(port, 80))
    wanted = error(ROUTER, "10.0.0.5", ip("10.0.0.5", SERVER, eth=False).udp(5000, 80)).bytes()
    assert box.sent(OUT, back, INSIDE) == wanted[:12] + b"\x81\x00\x00\x09" + wanted[12:]


def test_what_a_clone_translates_is_not_translated_behind_it() -> None:
    rules = SNAT.replace("table=0,in_port=2,ip,actions=ct(zone=1,nat,table=2)",
                         "table=0,in_port=2,ip,actions=clone(ct(zone=1,nat,table=2)),1")  # fmt: skip
    box = Box(rules)
    outside, _, port, _ = ends_of(box.sent(INSIDE, ip("10.0.0.5", SERVER).udp(5000, 80), OUT))
    back = error(ROUTER, outside, ip(outside, SERVER, eth=False).udp(port, 80))
    wanted = error(ROUTER, "10.0.0.5", ip("10.0.0.5", SERVER, eth=False).udp(5000, 80))
    assert [frame for _, frame in box.send(OUT, back).frames] == [wanted.bytes(), back.bytes()]


def test_after_ct_with_a_table_the_list_goes_on_with_what_nat_made() -> None:
    rules = "table=0,in_port=1,ip,actions=ct(commit,nat(src=192.0.2.1),table=1),2\ntable=1,actions=drop"
    frame = Box(rules).sent(INSIDE, ip("10.0.0.5", SERVER).udp(5000, 80), OUT)
    assert frame == ip("192.0.2.1", SERVER).udp(5000, 80).bytes()


def test_a_packet_is_translated_once_in_a_zone_however_often_it_comes_back() -> None:
    rules = """
    table=0,in_port=1,ip,actions=ct(zone=1,nat,table=1)
    table=1,ip,ct_state=+new,actions=ct(commit,zone=1,nat(src=192.0.2.1)),ct(zone=1,nat,table=2)
    table=1,ip,ct_state=+est,actions=ct(zone=1,nat,table=2)
    table=2,ip,actions=ct(zone=1,table=3)
    table=3,ip,ct_state=+snat,actions=2
    table=0,in_port=2,ip,actions=ct(zone=1,table=4)
    table=4,ip,ct_state=+rpl-dnat,actions=ct(zone=1,nat,table=5)
    table=5,ip,ct_state=+rpl+dnat,actions=ct(zone=1,nat),1
    """
    box = Box(rules)
    packet = ip("10.0.0.5", SERVER).udp(5000, 80)
    outgoing = ip("192.0.2.1", SERVER).udp(5000, 80).bytes()
    assert box.sent(INSIDE, packet, OUT) == outgoing
    assert box.sent(OUT, ip(SERVER, "192.0.2.1").udp(80, 5000), INSIDE) == ip(SERVER, "10.0.0.5").udp(80, 5000).bytes()
    assert box.sent(INSIDE, packet, OUT) == outgoing
    (connection,) = box.switch.tracker.connections()
    assert connection.packets == (2, 1)


def test_tracking_without_nat_does_not_translate() -> None:
    box = Box("table=0,in_port=1,ip,actions=ct(commit,nat(src=192.0.2.1)),2\ntable=0,in_port=2,ip,actions=ct(table=1)\n"
              "table=1,ct_state=+est+rpl-dnat,actions=1")  # fmt: skip
    box.sent(INSIDE, ip("10.0.0.5", SERVER).udp(5000, 80), OUT)
    answer = ip(SERVER, "192.0.2.1").udp(80, 5000)
    assert box.sent(OUT, answer, INSIDE) == answer.bytes()


@pytest.mark.parametrize(("profile", "state"), [("default", "inv|trk|snat"), ("linux", "inv|trk")])
def test_invalid_packets_of_a_connection_are_translated_but_not_by_linux(profile: str, state: str) -> None:
    box = Box("table=0,ip,actions=ct(commit,nat(src=192.0.2.1),table=1)\ntable=1,actions=2", profile)
    box.sent(INSIDE, ip("10.0.0.5", SERVER).tcp(5000, 80, seq=1, syn=True), OUT)
    box.send(OUT, ip(SERVER, "192.0.2.1").tcp(80, 5000, seq=5, ack_number=2, syn=True, ack=True))
    box.send(INSIDE, ip("10.0.0.5", SERVER).tcp(5000, 80, seq=2, ack_number=6, ack=True))
    outcome = box.send(INSIDE, ip("10.0.0.5", SERVER).tcp(5000, 80, seq=1 << 30, ack_number=6, ack=True).payload(5))
    assert outcome.state == state
    assert ends_of(outcome.frames[0][1])[0] == ("192.0.2.1" if profile == "default" else "10.0.0.5")


def test_later_rules_see_what_nat_made_and_where_the_connection_began() -> None:
    rules = """
    table=0,in_port=1,ip,actions=ct(commit,nat(src=192.0.2.1),table=1)
    table=1,ct_state=+trk+snat,ip,nw_src=192.0.2.1,ct_nw_src=10.0.0.5,actions=2
    """
    Box(rules).sent(INSIDE, ip("10.0.0.5", SERVER).udp(5000, 80), OUT)


def conversation(rng: random.Random, n: int) -> list[tuple[int, int, int]]:
    return [(rng.randrange(12), rng.randrange(2000, 2010), rng.randrange(3)) for _ in range(n)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "nat", ["src=192.0.2.1", "src=192.0.2.1-192.0.2.3:100-139", "src=192.0.2.1:1-60,random", "src"]
)
def test_every_answer_finds_the_client_that_asked(seed: int, nat: str) -> None:
    """Hosts that only know what they see: each server answers what reached it, each client gets its own answer."""
    rng = random.Random(seed)
    rules = f"""
    table=0,in_port=1,ip,actions=ct(commit,nat({nat}),table=1)
    table=0,in_port=2,ip,actions=ct(nat,table=1)
    table=1,ct_state=+inv,actions=drop
    table=1,in_port=1,actions=2
    table=1,in_port=2,ct_state=+rpl,actions=1
    """
    box = Box(rules)
    seen: dict[tuple[str, str, int, int], tuple[str, int]] = {}
    refused = 0
    for n, (host, port, server_number) in enumerate(conversation(rng, 400)):
        box.now_ms += rng.choice((0, 5, 3000, 20_000))
        client, server = f"10.0.0.{host + 1}", f"198.51.100.{server_number + 1}"
        outcome = box.send(INSIDE, ip(client, server).udp(port, 53).payload(n.to_bytes(2, "big")))
        if not outcome.frames:
            assert outcome.state == "inv|trk"
            refused += 1
            continue
        frame = outcome.frames[0][1]
        ends = ends_of(frame)
        assert frame == ip(*ends[:2]).udp(*ends[2:]).payload(n.to_bytes(2, "big")).bytes()
        assert ends[1] == server
        seen[ends] = client, port
        if rng.random() < 0.7:
            answer = ip(ends[1], ends[0]).udp(ends[3], ends[2]).payload(b"answer")
            wanted = ip(server, client).udp(53, port).payload(b"answer")
            assert box.sent(OUT, answer, INSIDE) == wanted.bytes()
    assert len(set(seen.values())) > 40
    assert refused == box.switch.tracker.statistics()["invalid-nat-exhausted"]


@pytest.mark.parametrize("rules", [SNAT, DNAT], ids=["snat", "dnat"])
def test_batch_sizes_agree(rules: str) -> None:
    """Translation, clashes, exhaustion, expiry and errors come out alike, packet by packet."""
    rng = random.Random(11)
    rules = rules.replace("192.0.2.1-192.0.2.2:1000-1099", "192.0.2.1-192.0.2.2:1000-1019")
    script: list[tuple[int, list[tuple[int, Packet | bytes]]]] = []
    for _ in range(15):
        packets: list[tuple[int, Packet | bytes]] = []
        for host, port, server_number in conversation(rng, 40):
            client, server = f"10.0.0.{host + 1}", f"198.51.100.{server_number + 1}"
            translated = f"192.0.2.{rng.randrange(1, 3)}", rng.randrange(1000, 1020)
            choice = rng.random()
            if choice < 0.6:
                packets.append((INSIDE, ip(client, server).udp(port, 53)))
            elif choice < 0.7:
                packets.append((INSIDE, ip(client, server).icmp(8, id=port)))
            elif choice < 0.8:
                packets.append((OUT, ip(SERVER, client).udp(80, port)))
            elif choice < 0.9:
                packets.append((OUT, ip(server, translated[0]).udp(53, translated[1])))
            else:
                quoted = ip(translated[0], server, eth=False).udp(translated[1], 53)
                packets.append((OUT, error(ROUTER, translated[0], quoted)))
        script.append((rng.choice((0, 100, 20_000, 61_000)), packets))
    results = []
    for batch_size in (1, 32, 256):
        box = Box(rules, batch_size=batch_size)
        outcomes = []
        for pause, packets in script:
            box.now_ms += pause
            outcomes += box.send_all(packets)
        tracker = box.switch.tracker
        tracker.sweep(tracker.now_ms)
        table = sorted(repr((c.original, c.reply, c.packets, c.timeout_ms)) for c in tracker.connections())
        results.append((outcomes, table, tracker.statistics(), tracker.nat_usage()))
    assert results[0] == results[1] == results[2]
    states = {outcome.state for outcome in results[0][0]}
    assert len(states) > 3


def test_what_a_clone_did_at_the_tracker_is_not_remembered_after_it() -> None:
    address = "192.0.2.1"
    nat = f"nat(src={address})"
    switch = Switch(max_connections=100, seed=1)
    for name in ("a", "b"):
        switch.add_port(name)
    switch.add_flows(
        f"table=0,in_port=1,ip,actions=clone(ct(commit,zone=1,{nat},table=1)),ct(commit,zone=1,{nat},table=2)\n"
        "table=1,actions=drop\ntable=2,actions=2"
    )
    packet = Packet().eth().ipv4("10.0.0.5", "198.51.100.7").udp(5000, 80).payload(4)
    batch = batch_of([packet, packet], in_port=1)
    result = switch.process(batch)
    for frame in result.tx:
        assert frame["source"] == SOURCE_TX_DATA
        content = result.tx_data[frame["data"] : frame["data"] + frame["length"]].tobytes()
        assert content[26:30] == bytes(map(int, address.split(".")))
    assert len(result.tx) == 2

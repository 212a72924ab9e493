"""NAT on real traffic: both families, ranges, hairpins, and what is quoted in ICMP errors."""

from __future__ import annotations

import re
import shutil
import socket
import sys
from typing import NamedTuple

import pytest

from tests.system.lab import TOOLS, Lab, exchange, family_of
from tests.system.network import needs, poll

pytestmark = needs(*TOOLS)
RULES = """\
in_port=1,{ip},actions=ct(commit,zone=1,nat({spec})),2
in_port=2,{ip},ct_state=-trk,actions=ct(zone=1,nat,table=1)
table=1,in_port=2,ct_state=+trk+est,{ip},actions=1
table=1,in_port=2,ct_state=+trk+rel,{ip},actions=1
"""
PORT = 5000
"""The client's."""


class Case(NamedTuple):
    spec: str
    called: str
    """Address and port that the client calls."""
    seen: str
    """A pattern of whom the server sees."""
    reply: str
    """A pattern of the reply tuple as listed."""


def rules(spec: str) -> str:
    return RULES.format(spec=spec, ip="ipv6" if "::" in spec else "ip")


def pair(address: str, port: str | int) -> str:
    return f"{address} {port}"


CASES = {
    "source": Case("src={one}240", "{one}2 80", "{one}240 5000", "dst={one}240,sport=80,dport=5000"),
    "source range": Case(
        "src={one}240-{one}243", "{one}2 80", "{one}24[0-3] 5000", "dst={one}24[0-3],sport=80,dport=5000"
    ),
    "source ports": Case(
        "src={port}:4567-4568", "{one}2 80", "{one}240 456[78]", "dst={one}240,sport=80,dport=456[78]"
    ),
    "source ports, random": Case(
        "src={port}:4567-4568,random", "{one}2 80", "{one}240 456[78]", "dst={one}240,sport=80,dport=456[78]"
    ),
    "source, persistent": Case(
        "src={one}240,persistent", "{one}2 80", "{one}240 5000", "dst={one}240,sport=80,dport=5000"
    ),
    "all-zero source": Case("src={zero}", "{one}2 80", "{one}1 5000", "dst={one}1,sport=80,dport=5000"),
    "target": Case("dst={one}2", "{one}64 80", "{one}1 5000", "dst={one}1,sport=80,dport=5000"),
    "target port": Case("dst={server}:80", "{one}64 8080", "{one}1 5000", "dst={one}1,sport=80,dport=5000"),
}
"""Of either family."""
FAMILIES = {
    4: {"one": "10.1.1.", "zero": "0.0.0.0", "port": "10.1.1.240", "server": "10.1.1.2"},
    6: {"one": "fc00::", "zero": "::", "port": "[fc00::240]", "server": "[fc00::2]"},
}
of_both_families = pytest.mark.parametrize("family", FAMILIES)


def case_of(name: str, family: int) -> Case:
    return Case(*(part.format(**FAMILIES[family]) for part in CASES[name]))


@pytest.fixture(autouse=True)
def acquaintances(lab: Lab) -> None:
    """Who is where: translated sources are host 1, translated targets host 2."""
    if not getattr(lab, "is_acquainted", False):
        for last in ("240", "241", "242", "243"):
            lab.know(2, f"10.1.1.{last}", 1)
            lab.know(2, f"fc00::{last}", 1)
        lab.know(1, "10.1.1.64", 2)
        lab.know(1, "fc00::64", 2)
        lab.is_acquainted = True  # type: ignore[attr-defined]


@of_both_families
@pytest.mark.parametrize("name", CASES)
def test_tcp_is_translated_there_and_back(lab: Lab, name: str, family: int) -> None:
    spec, called, seen, reply = case_of(name, family)
    address, port = called.split()
    lab.rules(rules(spec))
    own, there = (f"{FAMILIES[family]['one']}{n}" for n in (1, 2))
    server = lab.listen(2, 80, address=there)
    client = lab.call(1, address, int(port), PORT)
    accepted = lab.accept(server)
    exchange(client, accepted)
    assert re.fullmatch(seen, pair(*accepted.getpeername()[:2]))
    assert pair(*client.getpeername()[:2]) == called
    original = re.escape(f"tcp,orig=(src={own},dst={address},sport={PORT},dport={port})")
    (line,) = lab.connections()
    assert re.fullmatch(rf"{original},reply=\(src={there},{reply}\),zone=1,protoinfo=\(state=ESTABLISHED\)", line)


@of_both_families
@pytest.mark.parametrize("name", [name for name in CASES if "port" not in name])
def test_ping_is_translated_there_and_back(lab: Lab, name: str, family: int) -> None:
    spec, called, _, _ = case_of(name, family)
    lab.rules(rules(spec))
    lab.ping(1, called.split()[0])
    assert len(lab.connections("zone=1")) == 1


@of_both_families
@pytest.mark.parametrize("name", CASES)
def test_errors_quote_what_their_receiver_sent(lab: Lab, name: str, family: int) -> None:
    """Its kernel looks for the socket of the packet that is quoted, and finds none if it was translated wrongly."""
    spec, called, _, _ = case_of(name, family)
    address, port = called.split()
    lab.rules(rules(spec))
    caller = lab.open(1, socket.SOCK_DGRAM, family_of(address))
    caller.bind(("", PORT))
    caller.connect((address, int(port)))
    caller.send(b"anyone there?")
    with pytest.raises(ConnectionRefusedError):
        caller.recv(10)
    assert lab.packets("table=1,ct_state=+rel+trk") == 1


def test_a_range_that_is_used_up_refuses_the_next(lab: Lab) -> None:
    lab.rules(
        "in_port=1,udp,actions=ct(commit,nat(src=10.1.1.240:3000-3001),table=1)\n"
        "table=1,priority=2,ct_state=+inv,udp,actions=drop\ntable=1,priority=1,udp,actions=2"
    )
    server = lab.listen(2, 7, socket.SOCK_DGRAM)
    sources = set()
    for port in (1, 2):
        lab.listen(1, port, socket.SOCK_DGRAM).sendto(b"x", ("10.1.1.2", 7))
        sources.add(server.recvfrom(9)[1])
    assert sources == {("10.1.1.240", 3000), ("10.1.1.240", 3001)}
    lab.listen(1, 3, socket.SOCK_DGRAM).sendto(b"x", ("10.1.1.2", 7))
    lab.wait_for_packets("table=1,ct_state=+inv")
    assert len(lab.connections()) == 2
    lab.flush("ct_nw_proto=17,ct_tp_src=1")
    lab.listen(1, 4, socket.SOCK_DGRAM).sendto(b"x", ("10.1.1.2", 7))
    assert server.recvfrom(9)[1] in sources


def test_sources_that_collide_are_told_apart(lab: Lab) -> None:
    """Two clients with the same port behind one address: the second one gets another port."""
    lab.rules(
        "in_port=1,udp,actions=ct(commit,nat(src=10.1.1.240)),2\nin_port=3,udp,actions=ct(commit,nat(src=10.1.1.240)),2\n"
        "in_port=2,udp,actions=ct(nat,table=1)\n"
        "table=1,ct_state=+est+trk,udp,nw_dst=10.1.1.1,actions=1\n"
        "table=1,ct_state=+est+trk,udp,nw_dst=10.1.1.3,actions=set_field:02:00:00:00:00:03->eth_dst,3"
    )
    server = lab.listen(2, 7, socket.SOCK_DGRAM)
    clients = [lab.listen(number, PORT, socket.SOCK_DGRAM) for number in (1, 3)]
    seen = []
    for client in clients:
        client.sendto(b"x", ("10.1.1.2", 7))
        seen.append(server.recvfrom(9)[1])
    assert seen[0] == ("10.1.1.240", PORT)
    assert seen[1][0] == "10.1.1.240" and seen[1][1] != PORT
    for place, client in zip(seen, clients, strict=True):
        server.sendto(str(place).encode(), place)
        assert client.recv(100) == str(place).encode()


def test_a_host_calls_itself_by_way_of_the_switch(lab: Lab) -> None:
    """Hairpin: target and source are translated, in two zones, and the packet leaves where it came in."""
    lab.know(1, "10.1.1.65", 2)
    lab.rules(
        "in_port=1,tcp,nw_dst=10.1.1.64,actions=ct(commit,zone=1,nat(dst=10.1.1.1:8080),table=1)\n"
        "table=1,tcp,actions=ct(commit,zone=2,nat(src=10.1.1.65),table=2)\n"
        "table=2,tcp,actions=set_field:02:00:00:00:00:01->eth_dst,in_port\n"
        "in_port=1,tcp,nw_dst=10.1.1.65,actions=ct(zone=2,nat,table=3)\n"
        "table=3,ct_state=+est+rpl+trk,tcp,actions=ct(zone=1,nat,table=2)"
    )
    server = lab.listen(1, 8080)
    client = lab.call(1, "10.1.1.64", 80, PORT)
    accepted = lab.accept(server)
    exchange(client, accepted)
    assert accepted.getpeername() == ("10.1.1.65", PORT)
    lab.expect(
        "tcp,orig=(src=10.1.1.1,dst=10.1.1.64,sport=5000,dport=80),"
        "reply=(src=10.1.1.1,dst=10.1.1.1,sport=8080,dport=5000),zone=1,protoinfo=(state=ESTABLISHED)",
        "tcp,orig=(src=10.1.1.1,dst=10.1.1.1,sport=5000,dport=8080),"
        "reply=(src=10.1.1.1,dst=10.1.1.65,sport=8080,dport=5000),zone=2,protoinfo=(state=ESTABLISHED)",
    )


def test_rules_see_what_was_translated(lab: Lab) -> None:
    lab.rules(
        "in_port=1,udp,actions=ct(commit,nat(src=10.1.1.240),table=1)\n"
        "table=1,in_port=1,ct_state=+new+snat-dnat+trk,udp,nw_src=10.1.1.240,ct_nw_src=10.1.1.1,actions=2\n"
        "in_port=2,udp,actions=ct(nat,table=1)\n"
        "table=1,in_port=2,ct_state=+est+rpl+dnat-snat+trk,udp,nw_dst=10.1.1.1,ct_nw_src=10.1.1.1,actions=1"
    )
    a, b = lab.listen(1, 1, socket.SOCK_DGRAM), lab.listen(2, 2, socket.SOCK_DGRAM)
    a.sendto(b"x", ("10.1.1.2", 2))
    b.sendto(b"y", b.recvfrom(9)[1])
    assert a.recv(9) == b"y"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_a_web_page_by_way_of_a_translated_target(lab: Lab) -> None:
    lab.rules(rules("dst=10.1.1.2:80"))
    page = lab.directory / "page"
    page.write_text("hello\n" * 10_000)
    words = (sys.executable, "-m", "http.server", "80", "--bind", "10.1.1.2", "--directory", str(lab.directory))
    lab.network.start("h2", *words)
    poll(lambda: ":80" in lab.network.run("h2", "ss", "-Hltn"))
    said = lab.network.run("h1", "curl", "-sS", "--max-time", "20", "http://10.1.1.64:8080/page")
    assert said == page.read_text()

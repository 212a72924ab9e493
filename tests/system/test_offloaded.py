"""Offload on a switch that runs: what is marked, that nothing else changes, and what takes effect at once."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from tests.offload.kernel.rights import needs_bpf
from tests.system.lab import TOOLS, Lab, exchange
from tests.system.network import needs, poll

pytestmark = needs(*TOOLS)
RULES = """\
table=0,ip,ct_state=-trk,actions=ct(table=1{bare})
table=1,priority=1,in_port=1,ip,ct_state=+trk+new,actions=ct(commit{nat}),2
table=1,priority=1,in_port=1,ip,ct_state=+trk+est,actions=2
table=1,priority=1,in_port=2,ip,ct_state=+trk+est,actions=1
"""


@pytest.fixture
def offloading(lab: Lab) -> Iterator[Lab]:
    """The lab with hw-offload."""
    switch(lab, on=True)
    yield lab
    switch(lab, on=False)


def switch(lab: Lab, *, on: bool) -> None:
    lab.vsctl("set", "Open_vSwitch", ".", f"other_config:hw-offload={str(on).lower()}")


def rules(nat: str = "") -> str:
    return RULES.format(nat=nat, bare=",nat" if nat else "")


def conversation(lab: Lab, server_port: int = 80) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection from port 5000."""
    server = lab.listen(2, server_port)
    client = lab.call(1, "10.1.1.2", server_port, 5000)
    return client, lab.accept(server)


def talk(client: socket.socket, server: socket.socket, n: int = 3) -> None:
    """Packets both ways: paths are learned from them."""
    for _ in range(n):
        exchange(client, server)


def listed(lab: Lab, *options: str) -> str:
    """flowshunt conntrack -L"""
    return lab.flowshunt("conntrack", "-L", "--socket", str(lab.directory), *options)


def wait_for_offload(lab: Lab, client: socket.socket, server: socket.socket) -> None:
    poll(lambda: talk(client, server) or "[OFFLOAD]" in listed(lab, "-p", "tcp"))


def test_tcp_and_udp_are_offloaded_and_icmp_is_not(offloading: Lab) -> None:
    lab = offloading
    lab.rules(rules())
    lab.ping(1, "10.1.1.2")
    client, server = conversation(lab)
    wait_for_offload(lab, client, server)
    a, b = lab.listen(1, 1, socket.SOCK_DGRAM), lab.listen(2, 2, socket.SOCK_DGRAM)
    a.connect(("10.1.1.2", 2))
    b.connect(("10.1.1.1", 1))
    poll(lambda: exchange(a, b) or "[OFFLOAD]" in listed(lab, "-p", "udp"))
    assert re.fullmatch(
        r"tcp      6 src=10.1.1.1 dst=10.1.1.2 sport=5000 dport=80 packets=\d+ bytes=\d+ "
        r"src=10.1.1.2 dst=10.1.1.1 sport=80 dport=5000 packets=\d+ bytes=\d+ \[OFFLOAD\] mark=0 use=2\n",
        listed(lab, "-p", "tcp"),
    )
    assert "[OFFLOAD]" not in listed(lab, "-p", "icmp")


@pytest.mark.parametrize("nat", ["", ",nat(src=10.1.1.240)"])
def test_what_is_forwarded_past_the_rules_is_counted_by_them(offloading: Lab, nat: str) -> None:
    lab = offloading
    lab.know(2, "10.1.1.240", 1)
    lab.rules(rules(nat))
    client, server = conversation(lab)
    wait_for_offload(lab, client, server)
    before = lab.packets("table=1,ip")
    assert (server.getpeername()[0] == "10.1.1.240") == bool(nat)
    for n in range(50):
        client.sendall(bytes([n]) * 1000)
        received = b""
        while len(received) < 1000:
            received += server.recv(1000)
        assert received == bytes([n]) * 1000
        server.sendall(b"ok")
        assert client.recv(9) == b"ok"
    assert "[OFFLOAD]" in listed(lab, "-p", "tcp")
    lab.wait_for_packets("table=1,ip", before + 100)
    counted = listed(lab, "-p", "tcp")
    assert sum(int(n) for n in re.findall(r"packets=(\d+)", counted)) == lab.packets("table=1,ip")
    assert lab.packets("table=0,ip") == lab.packets("table=1,ip")


def test_it_is_switched_off_and_on_below_a_connection(offloading: Lab) -> None:
    lab = offloading
    lab.rules(rules())
    client, server = conversation(lab)
    for _ in range(3):
        wait_for_offload(lab, client, server)
        switch(lab, on=False)
        poll(lambda: "[OFFLOAD]" not in listed(lab, "-p", "tcp"))
        talk(client, server)
        assert " ESTABLISHED " in listed(lab, "-p", "tcp")
        switch(lab, on=True)


def test_the_end_of_a_connection_ends_its_offload(offloading: Lab) -> None:
    lab = offloading
    lab.rules(rules())
    client, server = conversation(lab)
    wait_for_offload(lab, client, server)
    client.shutdown(socket.SHUT_WR)
    assert server.recv(9) == b""
    server.close()
    poll(lambda: " TIME_WAIT " in listed(lab, "-p", "tcp"))
    assert "[OFFLOAD]" not in listed(lab, "-p", "tcp")


def test_a_new_rule_holds_for_offloaded_connections_too(offloading: Lab) -> None:
    lab = offloading
    lab.rules(rules())
    client, server = conversation(lab)
    wait_for_offload(lab, client, server)
    lab.ofctl("add-flow", "br0", "cookie=9,table=1,priority=9,in_port=1,tcp,tcp_dst=80,actions=drop")
    client.sendall(b"nobody hears this")
    lab.wait_for_packets("cookie=9/-1")
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.recv(100)
    lab.ofctl("del-flows", "br0", "cookie=9/-1")
    server.settimeout(20)
    assert server.recv(100) == b"nobody hears this"  # TCP sends it again
    wait_for_offload(lab, client, server)


def test_a_flush_takes_offloaded_connections_with_it(offloading: Lab) -> None:
    lab = offloading
    lab.rules(rules())
    client, server = conversation(lab)
    wait_for_offload(lab, client, server)
    lab.flush()
    lab.expect()
    assert listed(lab) == ""
    server.sendall(b"not from inside")
    lab.wait_for_packets("table=0,ip")
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(100)


def test_connections_with_a_helper_stay_on_the_long_way(offloading: Lab) -> None:
    lab = offloading
    lab.rules(rules().replace(",ip,", ",tcp,").replace("ct(commit)", "ct(commit,alg=ftp)"))
    client, server = conversation(lab, 21)
    talk(client, server, 20)
    assert "[OFFLOAD]" not in listed(lab, "-p", "tcp")
    assert " ESTABLISHED " in listed(lab, "-p", "tcp")


@needs_bpf
def test_a_port_that_cannot_do_without_packets_says_so_in_its_error(lab: Lab) -> None:
    lab.vsctl("set", "Open_vSwitch", ".", "other_config:hw-offload=true", "other_config:hw-offload-priority=kernel")
    lab.vsctl("set", "interface", "p2", "options:kernel-mode=xdp")
    why = "kernel-mode=xdp: its other end would not take frames: there, ethtool -K DEVICE gro on, or an XDP program"
    poll(lambda: f'"{why}; it works by tc"' in lab.vsctl("get", "interface", "p2", "error"))
    lab.rules(rules())
    client, server = conversation(lab)
    wait_for_offload(lab, client, server)
    lab.vsctl("remove", "interface", "p2", "options", "kernel-mode")
    poll(lambda: lab.vsctl("get", "interface", "p2", "error") == "[]\n")
    lab.vsctl("set", "Open_vSwitch", ".", "other_config:hw-offload=false")
    lab.vsctl("remove", "Open_vSwitch", ".", "other_config", "hw-offload-priority")
    assert [line for line in lab.complaints() if why not in line] == []

"""Devices that go, come back and change while traffic passes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flowshunt.jit import JIT
from tests.system.network import Network, Running, needs, networks, poll
from tests.system.test_run import C1, bridge, line_of, two_hosts

pytestmark = needs("ping", "ovs-ofctl")
SIZE = 2_000_000 if JIT else 100_000


@pytest.fixture
def network() -> Iterator[Network]:
    with networks() as made:
        yield made


@contextmanager
def transfers(network: Network) -> Iterator[Callable[[], int]]:
    """Files go from h2 to h1 and back, one after the other, and each arrives; how many have is what this gives."""
    ended = threading.Event()
    done: list[bool] = []

    def go_on() -> None:
        while not ended.is_set():
            done.append(network.fetch("h1", "h2", "10.1.0.2", SIZE, port=5001 + len(done))["is_right"])

    talking = threading.Thread(target=go_on)
    talking.start()
    try:
        yield lambda: len(done)
    finally:
        ended.set()
        talking.join()
    assert done
    assert all(done)


def stray_sockets(network: Network) -> int:
    """Packet sockets of devices that are gone."""
    listed = network.run("switch", "cat", "/proc/net/packet").splitlines()[1:]
    there = json.loads(network.run("switch", "ip", "-j", "link"))
    return sum(int(line.split()[4]) not in {device["ifindex"] for device in there} for line in listed)


def test_interfaces_vanish_and_return_under_load(network: Network, tmp_path: Path) -> None:
    """Others do not notice, and neither sockets nor numbers are lost."""
    two_hosts(network)
    network.host("h3", "10.1.0.3/24", port="p3")
    switch = Running(network, tmp_path, bridge(*C1, ports='"p1", "p2", "p3"'))
    number = line_of(switch, "(p3)").split("(")[0]
    network.ping("h1", "10.1.0.3")
    network.start("h1", "ping", "-n", "-q", "-i", "0.002", "-s", "1000", "10.1.0.3")
    with transfers(network) as count:
        for _ in range(3):
            network.run("switch", "ip", "link", "del", "p3")
            network.cable("p3", "h3")
            network.run("h3", "ip", "addr", "add", "10.1.0.3/24", "dev", "eth0")
            network.run("h1", "ip", "neigh", "replace", "10.1.0.3", "lladdr", address(network, "h3"), "dev", "eth0")
            poll(lambda: network.ping("h3", "10.1.0.1", count=1))
        enough = count() + 1
        poll(lambda: count() >= enough, timeout_s=60)
    assert line_of(switch, "(p3)").split("(")[0] == number
    network.ping("h1", "10.1.0.3")
    poll(lambda: not stray_sockets(network))
    said = "".join(switch.stop())
    assert "Traceback" not in said, said


def address(network: Network, host: str) -> str:
    return network.run(host, "cat", "/sys/class/net/eth0/address").strip()


def test_an_mtu_changes_under_load(network: Network, tmp_path: Path) -> None:
    """What is longer than a device takes is dropped, and passes as soon as it takes it."""
    two_hosts(network)
    switch = Running(network, tmp_path, bridge(*C1))
    large = ("ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "4000", "10.1.0.2")
    with transfers(network):
        for mtu, arrives in (("9000", True), ("1500", False), ("9000", True)):
            for host in ("h1", "h2"):
                network.run(host, "ip", "link", "set", "eth0", "mtu", "9000")
            for port in ("p1", "p2"):
                network.run("switch", "ip", "link", "set", port, "mtu", mtu)
            poll(lambda arrives=arrives: (" 0% packet loss" in network.run("h1", *large, check=False)) == arrives)  # type: ignore[misc]
    network.ping("h1", "10.1.0.2")
    said = "".join(switch.stop())
    assert "Traceback" not in said, said

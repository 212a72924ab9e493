"""What devices leave to the switch: segmentation and checksums, with real programs at both ends."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flowshunt.jit import JIT
from flowshunt.packet.parse import parse_batch
from flowshunt.packet.schema import KEY_WORDS
from flowshunt.ports.capture import open_capture
from tests.offload.kernel.rights import needs_bpf
from tests.packet.kernels import l4_ok
from tests.system.network import Network, Running, needs, networks, poll
from tests.system.test_run import C1, bridge, mean_size, turn_off, two_hosts

pytestmark = needs("ping", "ovs-ofctl", "iperf3", "curl", "nstat")
SIZE = 5_000_000 if JIT else 300_000
FEATURES = ("tso", "gso", "gro", "tx", "sg")


@pytest.fixture
def network() -> Iterator[Network]:
    with networks() as made:
        yield made


def wait_for_listener(network: Network, host: str, port: int) -> None:
    poll(lambda: f":{port} " in network.run(host, "ss", "-ltn"))


def wrong_checksums(network: Network, host: str) -> int:
    """What a host's counters say of segments and datagrams with a wrong checksum."""
    said = json.loads(network.run(host, "nstat", "-a", "-s", "-z", "-j"))["kernel"]
    return sum(count for name, count in said.items() if name.endswith("CsumErrors"))


@pytest.mark.parametrize("off", [("h1",), ("h1", "h2")], ids=["one end", "both ends"])
def test_iperf3_and_curl_work_where_peers_turned_offloads_off(
    network: Network, tmp_path: Path, off: tuple[str, ...]
) -> None:
    two_hosts(network)
    for host in off:
        for feature in FEATURES:
            turn_off(network, host, feature)
    switch = Running(network, tmp_path, bridge(*C1))
    network.start("h2", "iperf3", "-s")
    wait_for_listener(network, "h2", 5201)
    for address in ("10.1.0.2", "fd01::2"):
        for direction in ((), ("-R",)):
            said = network.run("h1", "iperf3", "-J", "-c", address, "-n", str(SIZE), *direction)
            assert json.loads(said)["end"]["sum_received"]["bytes"] >= SIZE // 10, said
    (tmp_path / "file").write_bytes(bytes(range(256)) * (SIZE // 256))
    network.start("h2", sys.executable, "-m", "http.server", "8000", "--directory", str(tmp_path))
    wait_for_listener(network, "h2", 8000)
    network.run("h1", "curl", "-sSf", "-o", str(tmp_path / "copy"), "http://10.1.0.2:8000/file")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "file").read_bytes()
    assert [wrong_checksums(network, host) for host in ("h1", "h2")] == [0, 0]
    switch.stop()


UDP_GSO = """
import socket, sys
address, role = sys.argv[1:]
opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
content = bytes(n % 251 for n in range(20_000))
if role == "serve":
    opened.bind((address, 6000))
    opened.settimeout(30)
    print("listening", flush=True)
    whole = b""
    while len(whole) < len(content):
        part = opened.recv(65536)
        assert len(part) in (1200, len(content) % 1200), len(part)
        whole += part
    assert whole == content
    print("right", flush=True)
else:
    opened.setsockopt(socket.SOL_UDP, 103, 1200)  # UDP_SEGMENT
    opened.sendto(content, (address, 6000))
"""


def send_datagrams(network: Network, client: str, server: str, address: str) -> None:
    """20 kB as one packet that is to be cut into datagrams of 1200 bytes, which must arrive as such."""
    serving = network.start(server, sys.executable, "-c", UDP_GSO, address, "serve")
    assert serving.stdout is not None
    assert serving.stdout.readline() == "listening\n"
    network.run(client, sys.executable, "-c", UDP_GSO, address, "send")
    assert serving.communicate(timeout=60)[0] == "right\n"


def test_udp_that_is_to_be_cut_into_datagrams_passes_whole(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Running(network, tmp_path, bridge(*C1))
    for address in ("10.1.0.2", "fd01::2"):
        network.ping("h1", address)
        before = switch.packets_of("table=1")
        send_datagrams(network, "h1", "h2", address)
        assert switch.packets_of("table=1") - before < 10
    assert wrong_checksums(network, "h2") == 0
    switch.stop()


def test_a_gso_packet_passes_to_a_device_with_a_smaller_mtu_as_linux_lets_it(network: Network, tmp_path: Path) -> None:
    """A plain packet does not; both is so with a bridge of the kernel's."""
    two_hosts(network)
    switch = Running(network, tmp_path, bridge(*C1))
    for host in (1, 2):
        network.host(f"k{host}", f"10.2.0.{host}/24", port=f"q{host}")
    network.run("switch", "ip", "link", "add", "kernel", "type", "bridge")
    for device in ("q1", "q2"):
        network.run("switch", "ip", "link", "set", device, "master", "kernel")
    network.run("switch", "ip", "link", "set", "kernel", "up")
    for net, (client, server, port) in enumerate((("h1", "h2", "p2"), ("k1", "k2", "q2")), start=1):
        address = f"10.{net}.0.2"
        network.ping(client, address)
        network.run("switch", "ip", "link", "set", port, "mtu", "1000")
        ping = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-s", "1200", address)
        assert "0 received" in network.run(client, *ping, check=False)
        send_datagrams(network, client, server, address)
    switch.stop()


@pytest.mark.skipif(not JIT, reason="without the JIT packets are too slow to come in large ones")
def test_copies_for_a_controller_are_packets_as_they_would_be_on_a_wire(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    copied = tuple(rule.replace("actions=normal", "actions=controller,normal") for rule in C1)
    switch = Running(network, tmp_path, bridge(*copied))
    log = tmp_path / "monitor"
    environment = os.environ | {"OVS_RUNDIR": str(tmp_path)}
    target = f"unix:{switch.rundir}/br0.mgmt"
    network.start("switch", "sh", "-c", f"exec ovs-ofctl monitor {target} 65534 >{log} 2>&1", env=environment)
    poll(lambda: network.ping("h1", "10.1.0.2") and "PACKET_IN" in log.read_text())
    assert network.fetch("h1", "h2", "10.1.0.2", 200_000)["is_right"]
    assert mean_size(switch, "table=1") > 3000
    sizes = poll(lambda: sizes_of(log.read_text(), 200_000))
    assert max(sizes) == 1514
    switch.stop()


def sizes_of(said: str, least: int) -> list[int]:
    """The lengths of packets that ovs-ofctl monitor has shown, once they are at least so many bytes together."""
    sizes = [int(size) for size in re.findall(r"total_len=(\d+)", said)]
    return sizes if sum(sizes) >= least else []


def test_a_port_is_recorded_up_to_a_size(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    recorded = '[bridge.br0.port.p1]\npcap = "p1.pcap"\npcap_mb = 1\n'
    switch = Running(network, tmp_path, bridge(*C1) + recorded)
    network.ping("h1", "10.1.0.2")
    assert network.fetch("h1", "h2", "10.1.0.2", SIZE // 2)["is_right"]
    file = tmp_path / "p1.pcap"
    assert min(SIZE, 900_000) < file.stat().st_size <= 1 << 20
    sizes, wrong = [], 0
    with open_capture(file) as reader:
        for batch in reader.batches(256):
            sizes += batch.packets["length"].tolist()
            keys = np.zeros((len(batch.packets), KEY_WORDS), np.int64)
            parse_batch(batch.data, batch.packets, keys, len(batch.packets))
            wrong += sum(not l4_ok(batch.data, batch.packets, n, keys, n) for n in range(len(batch.packets)))
    assert max(sizes) == 1514
    assert wrong == 0
    switch.stop()


def has_af_xdp() -> bool:
    try:
        socket.socket(44, socket.SOCK_RAW).close()
    except OSError:
        return False
    return True


@needs_bpf
@pytest.mark.skipif(not has_af_xdp(), reason="needs a kernel with AF_XDP")
@pytest.mark.parametrize("types", [("afxdp", "afxdp"), ("afxdp", "system")], ids=["both", "one"])
def test_ports_can_be_af_xdp_sockets(network: Network, tmp_path: Path, types: tuple[str, str]) -> None:
    two_hosts(network)
    ports = "".join(f'[bridge.br0.port.p{n}]\ntype = "{kind}"\n' for n, kind in enumerate(types, start=1))
    switch = Running(network, tmp_path, bridge(*C1, ports="") + ports)
    assert not [line for line in switch.said if "waits" in line]
    for address in ("10.1.0.2", "fd01::2"):
        network.ping("h1", address)
        assert network.fetch("h1", "h2", address, SIZE // 5)["is_right"]
    assert network.fetch("h2", "h1", "10.1.0.1", SIZE // 5)["is_right"]
    send_datagrams(network, "h2", "h1", "10.1.0.1")
    network.ping("h1", "10.1.0.2", "-s", "4000")
    assert switch.packets_of("table=1,ct_state=+trk+inv") == 0
    assert [wrong_checksums(network, host) for host in ("h1", "h2")] == [0, 0]
    network.run("switch", "ip", "link", "del", "p1")
    poll(lambda: "(p1)" not in switch.ofctl("show"))
    network.cable("p1", "h1")
    network.run("h1", "ip", "addr", "add", "10.1.0.1/24", "dev", "eth0")
    poll(lambda: "(p1)" in switch.ofctl("show"))
    network.run("h2", "ip", "neigh", "flush", "all")
    network.ping("h1", "10.1.0.2")
    switch.stop()

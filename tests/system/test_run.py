"""`flowshunt run` on real devices, with real hosts behind them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowshunt.jit import JIT
from tests.offload.kernel.rights import needs_bpf
from tests.system.network import Network, Running, needs, networks, poll

pytestmark = needs("ping", "ovs-ofctl")
SIZE = 20_000_000 if JIT else 300_000
"""Bytes of a transfer: hundreds of GSO packets."""

C1 = (
    "table=0,arp,actions=normal",
    "table=0,icmp6,icmp_type=135,actions=normal",
    "table=0,icmp6,icmp_type=136,actions=normal",
    "table=0,ip,ct_state=-trk,actions=ct(table=1)",
    "table=0,ipv6,ct_state=-trk,actions=ct(table=1)",
    "table=1,priority=1,ip,ct_state=+trk+new,actions=ct(commit),normal",
    "table=1,priority=1,ipv6,ct_state=+trk+new,actions=ct(commit),normal",
    "table=1,priority=1,ip,ct_state=+trk+est,actions=normal",
    "table=1,priority=1,ipv6,ct_state=+trk+est,actions=normal",
)
INVALID = "table=1,ct_state=+trk+inv"


@pytest.fixture
def network() -> Iterator[Network]:
    with networks() as made:
        yield made


def bridge(*flows: str, ports: str = '"p1", "p2"', local: bool = False) -> str:
    listed = ", ".join(f'"{flow}"' for flow in flows)
    return f"[bridge.br0]\nports = [{ports}]\nlocal_port = {str(local).lower()}\nflows = [{listed}]\n"


def two_hosts(network: Network) -> None:
    network.host("h1", "10.1.0.1/24", "fd01::1/64", port="p1")
    network.host("h2", "10.1.0.2/24", "fd01::2/64", port="p2")


def test_ping_and_tcp_pass_the_rules_of_the_bluefield_page(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Running(network, tmp_path, bridge(*C1))
    assert f"bridge br0 on unix:{switch.rundir}/br0.mgmt" in switch.said
    network.ping("h1", "10.1.0.2")
    network.ping("h1", "fd01::2")
    for address in ("10.1.0.2", "fd01::2"):
        said = network.fetch("h1", "h2", address, SIZE)
        assert said["is_right"] and said["size"] == SIZE
    assert switch.packets_of("table=1") > 20
    if JIT:
        assert mean_size(switch, "table=1") > 3000
    switch.stop()


def mean_size(switch: Running, match: str) -> float:
    """Bytes per packet; more than the MTU where most of them came in packets that are still to be cut."""
    counted = switch.ofctl("dump-aggregate", match)
    size, packets = (int(counted.split(f"{word}_count=")[1].split()[0]) for word in ("byte", "packet"))
    return size / packets


def test_peers_that_turned_their_offloads_off_are_served_as_well(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    for feature in ("tso", "gso", "gro", "tx", "sg"):
        turn_off(network, "h1", feature)
    switch = Running(network, tmp_path, bridge(*C1))
    for client, server, address in (("h1", "h2", "10.1.0.2"), ("h2", "h1", "10.1.0.1")):
        assert network.fetch(client, server, address, SIZE // 4)["is_right"]
    switch.stop()


def turn_off(network: Network, host: str, feature: str) -> None:
    script = str(Path(__file__).with_name("offloads.py"))
    network.run(host, sys.executable, script, "eth0", feature)


def test_source_nat_translates_whole_gso_packets(network: Network, tmp_path: Path) -> None:
    network.host("in", "1.1.1.2/24", port="pf0hpf")
    network.host("out", "2.2.2.1/24", "1.1.1.1/24", port="p0")
    network.run("in", "ip", "route", "add", "default", "via", "1.1.1.1")
    rules = (
        "table=0,arp,actions=normal",
        "table=0,ip,ct_state=-trk,actions=ct(table=1,nat)",
        "table=1,in_port=pf0hpf,ip,ct_state=+trk+new,actions=ct(commit,nat(src=1.1.1.16)),p0",
        "table=1,ip,ct_state=+trk+est,actions=normal",
    )
    switch = Running(network, tmp_path, bridge(*rules, ports='"p0", "pf0hpf"'))
    mac = network.run("in", "cat", "/sys/class/net/eth0/address").strip()
    network.run("out", "ip", "neigh", "replace", "1.1.1.16", "lladdr", mac, "dev", "eth0")
    network.ping("in", "2.2.2.1")
    said = network.fetch("in", "out", "2.2.2.1", SIZE)
    assert said["is_right"] and said["client"] == "1.1.1.16"
    switch.stop()


def test_tags_are_pushed_and_popped_around_gso_packets(network: Network, tmp_path: Path) -> None:
    """Between two bridges with a cable from one to the other, on which everything is tagged."""
    two_hosts(network)
    network.run("switch", "ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
    for name in ("x0", "x1"):
        network.run("switch", "ip", "link", "set", name, "up")
    config = "".join(
        f'[bridge.br{n}]\nports = ["p{n + 1}", "x{n}"]\nlocal_port = false\nflows = [\n'
        f'"in_port=p{n + 1},actions=push_vlan:0x8100,set_field:4101->vlan_vid,x{n}",\n'
        f'"in_port=x{n},dl_vlan=5,actions=pop_vlan,p{n + 1}"]\n'
        for n in (0, 1)
    )
    switch = Running(network, tmp_path, config)
    network.ping("h1", "10.1.0.2")
    assert network.fetch("h1", "h2", "10.1.0.2", SIZE)["is_right"]
    assert network.fetch("h2", "h1", "fd01::1", SIZE)["is_right"]
    assert switch.packets_of("in_port=2,dl_vlan=5") > 10
    if JIT:
        assert mean_size(switch, "dl_vlan=5") > 3000
    switch.stop()


def test_fragments_are_tracked_whole_and_leave_as_fragments(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Running(network, tmp_path, bridge(*C1))
    network.ping("h1", "10.1.0.2", "-s", "4000")
    network.ping("h1", "fd01::2", "-s", "4000")
    switch.stop()


def test_an_interface_that_vanishes_and_returns_is_used_again(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Running(network, tmp_path, bridge("actions=normal", ports='"p1", "p2", "late"'))
    assert any("late waits" in line and "No such device" in line for line in switch.said)
    network.ping("h1", "10.1.0.2")
    number = line_of(switch, "(p2)").split("(")[0]
    network.run("switch", "ip", "link", "del", "p2")
    poll(lambda: not line_of(switch, "(p2)"))
    network.cable("p2", "h2")
    network.run("h2", "ip", "addr", "add", "10.1.0.2/24", "dev", "eth0")
    assert poll(lambda: line_of(switch, "(p2)")).split("(")[0] == number
    network.run("h1", "ip", "neigh", "flush", "all")
    network.ping("h1", "10.1.0.2")
    network.run("switch", "ip", "link", "set", "p1", "down")
    poll(lambda: "PORT_DOWN" in switch.ofctl("show"))
    network.run("switch", "ip", "link", "set", "p1", "up")
    poll(lambda: "PORT_DOWN" not in switch.ofctl("show"))
    network.ping("h1", "10.1.0.2")
    switch.stop()


def line_of(switch: Running, word: str) -> str:
    return next((line.strip() for line in switch.ofctl("show").splitlines() if word in line), "")


def test_the_host_takes_part_through_the_bridges_own_port(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Running(network, tmp_path, bridge(*C1, local=True))
    network.run("switch", "ip", "addr", "add", "10.1.0.9/24", "dev", "br0")
    network.ping("switch", "10.1.0.1")
    network.ping("h2", "10.1.0.9")
    assert network.fetch("switch", "h1", "10.1.0.1", SIZE)["is_right"]
    assert network.fetch("h2", "switch", "10.1.0.9", SIZE)["is_right"]
    assert "LOCAL(br0)" in switch.ofctl("show")
    switch.stop()
    assert "does not exist" in network.run("switch", "ip", "link", "show", "br0", check=False)


def test_two_bridges_are_patched_together(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    flows = ", ".join(f'"{flow}"' for flow in C1)
    ports = (("br0", "p1", "to1", "to0"), ("br1", "p2", "to0", "to1"))
    config = "".join(
        f'[bridge.{name}]\nports = ["{port}"]\nlocal_port = false\nflows = [{flows}]\n'
        f'[bridge.{name}.port.{patch}]\ntype = "patch"\npeer = "{peer}"\n'
        for name, port, patch, peer in ports
    )
    switch = Running(network, tmp_path, config)
    network.ping("h1", "10.1.0.2")
    assert network.fetch("h1", "h2", "10.1.0.2", SIZE)["is_right"]
    for name in ("br0", "br1"):
        assert switch.packets_of("table=1", bridge=name) > 10
    switch.stop()


def test_flows_change_while_traffic_runs(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Running(network, tmp_path, bridge(*C1))
    pinging = network.start("h1", "ping", "-n", "-q", "-c", "100", "-i", "0.02", "-W", "5", "10.1.0.2")
    flows = tmp_path / "flows"
    flows.write_text("\n".join(f"table=9,ip,nw_dst=10.{n >> 8}.{n & 255}.1,actions=drop" for n in range(2000)))
    switch.ofctl("add-flows", str(flows))
    switch.ofctl("add-flows", str(flows), options=("--bundle",))
    assert "flow_count=2000" in switch.ofctl("dump-aggregate", "table=9")
    said = pinging.communicate(timeout=60)[0]
    # ping does not wait for its last answer longer than for the ones before.
    assert int(said.split(" received")[0].split()[-1]) >= 99, said
    assert "error" not in switch.stop()[1]


def test_the_end_is_clean_and_a_second_switch_is_refused(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    pid_file = tmp_path / "switch.pid"
    switch = Running(network, tmp_path, bridge("actions=normal"), "--pidfile", str(pid_file))
    assert int(pid_file.read_text()) > 0
    assert (switch.rundir.stat().st_mode & 0o777, (switch.rundir / "br0.mgmt").stat().st_mode & 0o777) == (0o700, 0o600)
    command = network.command(
        "switch", sys.executable, "-m", "flowshunt", "run", "--config", str(tmp_path / "switch.toml"),
        "--pidfile", str(pid_file),
    )  # fmt: skip
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert "is held by process" in second.stderr
    switch.stop()
    assert not pid_file.exists()
    assert list(switch.rundir.iterdir()) == []


def test_vlans_between_two_bridges_with_offloading(network: Network, tmp_path: Path) -> None:
    """Access ports at either end, everything tagged on the patch between; each bridge tracks in a zone of its own."""
    two_hosts(network)

    def tracked(zone: int) -> str:
        flows = (
            "arp,actions=normal",
            f"ip,ct_state=-trk,actions=ct(table=1,zone={zone})",
            f"table=1,ip,ct_state=+trk+new,actions=ct(commit,zone={zone}),normal",
            "table=1,ip,ct_state=+trk+est,actions=normal",
        )
        return ", ".join(f'"{flow}"' for flow in flows)

    config = '[offload]\nenabled = true\npriority = ["flowtable"]\n' + "".join(
        f'[bridge.br{n}]\nports = ["p{n + 1}"]\nlocal_port = false\nflows = [{tracked(n + 1)}]\n'
        f"[bridge.br{n}.port.p{n + 1}]\ntag = 10\n"
        f'[bridge.br{n}.port.to{1 - n}]\ntype = "patch"\npeer = "to{n}"\nvlan_mode = "trunk"\ntrunks = [10]\n'
        for n in (0, 1)
    )
    switch = Running(network, tmp_path, config)
    network.ping("h1", "10.1.0.2")
    assert network.fetch("h1", "h2", "10.1.0.2", SIZE)["is_right"]
    script = str(Path(__file__).with_name("echo.py"))
    echoing = network.start("h2", sys.executable, script, "serve", "10.1.0.2", "7000")
    assert echoing.stdout is not None and echoing.stdout.readline() == "listening\n"
    network.run("h1", sys.executable, script, "ask", "10.1.0.2", "7000", "20")
    listed = switch.flowshunt("conntrack", "-L", "-p", "udp", "--dport", "7000")
    lines = [line for line in listed.splitlines() if "dport=7000" in line]
    assert len(lines) == 2 and all("[OFFLOAD]" in line for line in lines), listed
    stations = switch.appctl("fdb/show", "br0").splitlines()[1:]
    assert len(stations) == 2 and all(line.split()[1] == "10" for line in stations), stations
    switch.stop()


def test_a_device_that_is_renamed_and_comes_back(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Running(network, tmp_path, bridge("actions=normal"))
    network.ping("h1", "10.1.0.2")
    network.run("switch", "ip", "link", "set", "p2", "down")
    network.run("switch", "ip", "link", "set", "p2", "name", "other")
    poll(lambda: "p2" not in switch.ofctl("show"))
    network.run("switch", "ip", "link", "set", "other", "name", "p2")
    poll(lambda: "2(p2)" in switch.ofctl("show"))
    poll(lambda: "PORT_DOWN" in switch.ofctl("show"))
    network.run("switch", "ip", "link", "set", "p2", "up")
    poll(lambda: "PORT_DOWN" not in switch.ofctl("show"))
    network.ping("h1", "10.1.0.2")
    switch.stop()


@needs_bpf
def test_the_kernel_forwards_for_every_bridge_while_the_switch_stands_still(network: Network, tmp_path: Path) -> None:
    for n in range(1, 5):
        network.host(f"h{n}", f"10.1.0.{n}/24", port=f"p{n}")

    def flows(zone: int) -> str:
        return (
            f'["arp,actions=normal", "ip,ct_state=-trk,actions=ct(table=1,zone={zone})", '
            f'"table=1,ip,ct_state=+trk+new,actions=ct(commit,zone={zone}),normal", '
            '"table=1,ip,ct_state=+trk+est,actions=normal"]'
        )

    config = '[offload]\nenabled = true\npriority = ["kernel"]\n' + "".join(
        f'[bridge.br{n}]\nports = ["p{2 * n + 1}", "p{2 * n + 2}"]\nlocal_port = false\nflows = {flows(n)}\n'
        for n in (0, 1)
    )
    switch = Running(network, tmp_path, config)
    script = str(Path(__file__).with_name("echo.py"))
    for client, server in ((1, 2), (3, 4)):
        network.ping(f"h{client}", f"10.1.0.{server}")
        echoing = network.start(f"h{server}", sys.executable, script, "serve", f"10.1.0.{server}", "7000")
        assert echoing.stdout is not None and echoing.stdout.readline() == "listening\n"
        network.run(f"h{client}", sys.executable, script, "ask", f"10.1.0.{server}", "7000", "20", "7001")
    switch.process.send_signal(signal.SIGSTOP)
    try:
        for client, server in ((1, 2), (3, 4)):
            network.run(f"h{client}", sys.executable, script, "ask", f"10.1.0.{server}", "7000", "50", "7001")
    finally:
        switch.process.send_signal(signal.SIGCONT)
    listed = switch.flowshunt("conntrack", "-L", "-p", "udp", "--dport", "7000")
    assert listed.count("packets=70 ") == 4, listed
    switch.stop()

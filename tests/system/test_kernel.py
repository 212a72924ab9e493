"""`flowshunt run` with the offload provider `kernel`: real traffic past userspace."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowshunt.jit import JIT
from flowshunt.ports.capture import open_capture
from tests.offload.kernel.rights import needs_bpf
from tests.soak.offloaded import crowd
from tests.system.endings import SIZE
from tests.system.network import Network, Running, needs, networks, poll
from tests.system.test_run import C1, bridge, two_hosts

pytestmark = [needs("ping", "ovs-ofctl", "ovs-appctl", "iperf3"), needs_bpf]


@pytest.fixture
def network() -> Iterator[Network]:
    with networks() as made:
        yield made


class Offloading(Running):
    """A switch whose first provider is `kernel`."""

    def __init__(self, network: Network, directory: Path, config: str, *options: str, log: Path | None = None) -> None:
        listed = json.dumps(list(options))
        offload = f'[offload]\nenabled = true\npriority = ["kernel"]\noptions = {listed}\n'
        super().__init__(network, directory, offload + config, log=log)

    def appctl(self, *words: str) -> str:
        """What the real ovs-appctl prints."""
        control = self.rundir / f"flowshunt.{self.process.pid}.ctl"
        return self._network.system("ovs-appctl", "-t", str(control), *words)

    def seen(self) -> int:
        """Packets that have come up to userspace."""
        return int(self.appctl("coverage/read-counter", "packets"))

    def connections(self, *words: str) -> list[str]:
        """Lines of the connections that have all these words in them."""
        lines = self.appctl("dpctl/dump-conntrack", "-m").splitlines()
        return [line for line in lines if all(word in line for word in words)]


def counter(network: Network, host: str, name: str) -> int:
    """A counter of a host's interface."""
    return int(network.run(host, "cat", f"/sys/class/net/eth0/statistics/{name}"))


def checksum_errors(network: Network, host: str) -> int:
    """Of TCP and UDP together, as the receiver counts them."""
    said = network.run(host, "cat", "/proc/net/snmp", "/proc/net/snmp6")
    total = 0
    for protocol in ("Tcp", "Udp"):
        names, values = (line.split()[1:] for line in said.splitlines() if line.startswith(f"{protocol}:"))
        total += int(values[names.index("InCsumErrors")])
    found = re.findall(r"^(?:Udp6|Ip6)InCsumErrors\s+(\d+)", said, re.MULTILINE)
    return total + sum(int(number) for number in found)


def iperf(network: Network, client: str, server: str, address: str, *options: str) -> dict[str, Any]:
    """A transfer from client to server."""
    serving = network.start(server, "iperf3", "-s", "-1", "--forceflush")
    assert serving.stdout is not None
    while "listening" not in serving.stdout.readline():
        pass
    said = network.run(client, "iperf3", "-J", "-c", address, *options, check=False, timeout=120)
    serving.communicate(timeout=30)
    answer: dict[str, Any] = json.loads(said)
    assert "error" not in answer, answer["error"]
    return dict(answer["end"])


def start_datagrams(
    network: Network, client: str, server: str, address: str, *, size: int = 64, at: str | None = None
) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """A conversation in UDP that goes on until `end_datagrams`. `at`: the server's own address if it is another one."""
    serving = start_server(network, server, at or address)
    script = str(Path(__file__).with_name("datagrams.py"))
    words = (sys.executable, script, "send", address, "6000", str(size), "0.005")
    return network.start(client, *words, stdin=subprocess.PIPE), serving


def start_server(network: Network, server: str, address: str) -> subprocess.Popen[str]:
    """The end of such a conversation that answers."""
    script = str(Path(__file__).with_name("datagrams.py"))
    serving = network.start(server, sys.executable, script, "serve", address, "6000", stdin=subprocess.PIPE)
    assert serving.stdout is not None
    assert serving.stdout.readline() == "listening\n"
    return serving


def end_datagrams(sending: subprocess.Popen[str], serving: subprocess.Popen[str]) -> list[list[float]]:
    """When each datagram was received, and when it was sent."""
    sending.communicate(timeout=30)
    got: list[list[float]] = json.loads(serving.communicate(timeout=30)[0])
    return got


# --- traffic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["10.1.0.2", "fd01::2"])
def test_tcp_passes_userspace_by(network: Network, tmp_path: Path, address: str) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1))
    network.ping("h1", address)
    before = switch.seen()
    assert iperf(network, "h1", "h2", address, "-n", "200M")["sum_sent"]["bytes"] >= 200_000_000
    packets = sum(counter(network, host, "tx_packets") for host in ("h1", "h2"))
    assert packets > 3000
    assert switch.seen() - before < packets / 4
    assert checksum_errors(network, "h1") == checksum_errors(network, "h2") == 0
    assert switch.stop() == ("", "")


def test_two_thousand_connections_at_once_are_all_offloaded(network: Network, tmp_path: Path) -> None:
    found = crowd(network, tmp_path, 2000, rounds=2)
    assert found.broken == []
    assert found.offloaded == found.connections >= 2000


def test_every_byte_is_counted_by_rules_and_ports(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    for host in ("h1", "h2"):  # so that nobody speaks unasked
        network.run(host, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
    switch = Offloading(network, tmp_path, bridge(*C1))
    network.ping("h1", "10.1.0.2")
    before = all_bytes(switch), *(counter(network, host, "tx_bytes") for host in ("h1", "h2"))
    ports_before = port_bytes(switch)
    iperf(network, "h1", "h2", "10.1.0.2", "-n", "100M")
    iperf(network, "h1", "h2", "10.1.0.2", "-n", "100M", "-R")

    def moved() -> tuple[int, int]:
        sent = sum(counter(network, host, "tx_bytes") for host in ("h1", "h2")) - before[1] - before[2]
        return all_bytes(switch) - before[0], sent

    poll(lambda: len(set(moved())) == 1)
    assert moved()[0] > 200_000_000
    received, sent = port_bytes(switch)
    assert received - ports_before[0] == sent - ports_before[1] == moved()[0]
    switch.stop()


def port_bytes(switch: Running) -> tuple[int, int]:
    """Bytes that all ports together have received, and sent."""
    counted = [int(found) for found in re.findall(r"bytes=(\d+)", switch.ofctl("dump-ports"))]
    return sum(counted[0::2]), sum(counted[1::2])


def all_bytes(switch: Running) -> int:
    """Bytes that the first table has counted."""
    return int(switch.ofctl("dump-aggregate", "table=0").split("byte_count=")[1].split()[0])


def test_udp_is_counted_as_iperf3_counts_it(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    own = "table=1,udp,in_port=p1,ct_state=+trk+est"
    switch = Offloading(network, tmp_path, bridge(*C1, f"{own},priority=2,actions=normal"))
    network.ping("h1", "10.1.0.2")
    moved = iperf(network, "h1", "h2", "10.1.0.2", "-u", "-l", "1000", "-b", "5M", "-t", "3")["sum"]
    assert moved["lost_packets"] == 0
    assert switch.connections("udp", "OFFLOAD")
    assert f"packet_count={moved['packets']} byte_count={1042 * moved['packets']} " in switch.ofctl(
        "dump-aggregate", own
    )
    assert switch.seen() < moved["packets"] / 2
    switch.stop()


@pytest.mark.parametrize("straight", [True, False])
def test_packets_may_skip_the_near_end_of_a_veth_pair(network: Network, tmp_path: Path, straight: bool) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1), f"kernel-peer={str(straight).lower()}")
    network.ping("h1", "10.1.0.2")
    iperf(network, "h1", "h2", "10.1.0.2", "-n", "100M")
    sent = int(network.run("switch", "cat", "/sys/class/net/p2/statistics/tx_bytes"))
    assert (sent < 25_000_000) is straight
    switch.stop()


ROUTED = (
    "table=0,priority=9,arp,actions=normal",
    "table=0,ip,ct_state=-trk,actions=ct(table=1,nat)",
    "table=1,in_port=p1,ip,ct_state=+trk+new,nw_dst=192.0.2.80,actions=ct(commit,nat(dst=10.2.0.2)),resubmit(,2)",
    "table=1,priority=1,in_port=p1,ip,ct_state=+trk+new,actions=ct(commit,nat(src=10.2.0.9)),resubmit(,2)",
    "table=1,ip,ct_state=+trk+est,actions=resubmit(,2)",
)


def routed(network: Network) -> tuple[str, ...]:
    """Two networks with the switch between them as their router; returns the rules."""
    network.host("h1", "10.1.0.1/24", port="p1")
    network.host("h2", "10.2.0.2/24", port="p2")
    macs = [network.run(host, "cat", "/sys/class/net/eth0/address").strip() for host in ("h1", "h2")]
    router = "02:00:00:00:00:fe"
    for host, gateway in (("h1", "10.1.0.254"), ("h2", "10.2.0.254")):
        network.run(host, "ip", "route", "add", "default", "via", gateway)
        network.run(host, "ip", "neigh", "replace", gateway, "lladdr", router, "dev", "eth0")
    network.run("h2", "ip", "neigh", "replace", "10.2.0.9", "lladdr", router, "dev", "eth0")
    towards = tuple(
        f"table=2,in_port=p{n},ip,actions=mod_dl_src:{router},mod_dl_dst:{macs[2 - n]},dec_ttl,p{3 - n}" for n in (1, 2)
    )
    return ROUTED + towards


@pytest.mark.parametrize("address", ["10.2.0.2", "192.0.2.80"])
def test_addresses_are_translated_both_ways(network: Network, tmp_path: Path, address: str) -> None:
    switch = Offloading(network, tmp_path, bridge(*routed(network)))
    before = switch.seen()
    for options in ((), ("-R",)):
        moved = iperf(network, "h1", "h2", address, "-n", "100M", *options)
        assert moved["sum_sent"]["bytes"] >= 100_000_000
    packets = sum(counter(network, host, "tx_packets") for host in ("h1", "h2"))
    assert switch.seen() - before < packets / 4
    moved = iperf(network, "h1", "h2", address, "-u", "-l", "500", "-b", "2M", "-t", "2")
    assert moved["sum"]["lost_packets"] == 0
    assert checksum_errors(network, "h1") == checksum_errors(network, "h2") == 0
    assert switch.stop() == ("", "")


def test_hosts_that_compute_checksums_themselves_are_translated_as_well(network: Network, tmp_path: Path) -> None:
    rules = routed(network)
    script = str(Path(__file__).with_name("offloads.py"))
    for host in ("h1", "h2"):
        for feature in ("tso", "gso", "gro", "tx", "sg"):
            network.run(host, sys.executable, script, "eth0", feature)
    switch = Offloading(network, tmp_path, bridge(*rules))
    assert iperf(network, "h1", "h2", "192.0.2.80", "-n", "20M")["sum_sent"]["bytes"] >= 20_000_000
    moved = iperf(network, "h1", "h2", "10.2.0.2", "-u", "-l", "500", "-b", "2M", "-t", "2")
    assert moved["sum"]["lost_packets"] == 0
    assert switch.connections("udp", "OFFLOAD")
    assert checksum_errors(network, "h1") == checksum_errors(network, "h2") == 0
    switch.stop()


def tagging(network: Network) -> str:
    """A bridge that puts tags on, on a cable to another one, which takes them off the long way; its configuration."""
    two_hosts(network)
    network.run("switch", "ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
    for name in ("x0", "x1"):
        network.run("switch", "ip", "link", "set", name, "up")
    push, pop = "push_vlan:0x8100,set_field:4101->vlan_vid", "pop_vlan"
    other = "".join(f'"table=0,priority=1,{kind},in_port={port},actions={actions}", ' for kind in ("arp", "icmp6")
                    for port, actions in (("p1", f"{push},x0"), ("x0", f"{pop},p1")))  # fmt: skip
    return (
        f'[bridge.br0]\nports = ["p1", "x0"]\nlocal_port = false\nflows = [{other}\n'
        '"priority=0,ip,actions=ct(commit,table=1)", "priority=0,ipv6,actions=ct(commit,table=1)",\n'
        f'"table=1,in_port=p1,actions={push},x0", "table=1,in_port=x0,dl_vlan=5,actions={pop},p1"]\n'
        '[bridge.br1]\nports = ["p2", "x1"]\nlocal_port = false\n'
        f'flows = ["in_port=p2,actions={push},x1", "in_port=x1,dl_vlan=5,actions={pop},p2"]\n'
    )


def test_tags_are_put_on_and_taken_off(network: Network, tmp_path: Path) -> None:
    config = tagging(network)
    switch = Offloading(network, tmp_path, config)
    network.ping("h1", "10.1.0.2")
    for address in ("10.1.0.2", "fd01::2"):
        assert network.fetch("h1", "h2", address, 2_000_000 if JIT else 200_000)["is_right"]
    before = switch.seen(), counter(network, "h1", "tx_packets") + counter(network, "h1", "rx_packets")
    for address in ("10.1.0.2", "fd01::2"):
        iperf(network, "h1", "h2", address, "-n", "20M" if JIT else "2M")
    packets = counter(network, "h1", "tx_packets") + counter(network, "h1", "rx_packets") - before[1]
    # The other bridge sees them all; half of what is seen without offload.
    assert packets < switch.seen() - before[0] < 1.25 * packets
    assert checksum_errors(network, "h1") == checksum_errors(network, "h2") == 0
    switch.stop()


def test_connections_end_as_their_ends_want(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1))
    network.ping("h1", "10.1.0.2")
    script = str(Path(__file__).with_name("endings.py"))
    serving = network.start("h2", sys.executable, script, "serve", "10.1.0.2", "7000", "2")
    assert serving.stdout is not None
    assert serving.stdout.readline() == "listening\n"
    before = switch.seen()
    said = network.run("h1", sys.executable, script, "half-close", "10.1.0.2", "7000", timeout=120)
    assert int(said) == SIZE
    assert switch.seen() - before < SIZE // 1000
    network.run("h1", sys.executable, script, "reset", "10.1.0.2", "7000", timeout=120)
    assert serving.communicate(timeout=30)[0].splitlines() == [f"closed after {SIZE}", "reset"]
    poll(lambda: not switch.connections("ESTABLISHED"))
    assert not switch.connections("OFFLOAD")
    switch.stop()


# --- changes ---------------------------------------------------------------------------------------------------------


def offloaded_datagrams(
    network: Network, switch: Offloading, **options: Any
) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    both = start_datagrams(network, "h1", "h2", "10.1.0.2", **options)
    poll(lambda: switch.connections("udp", "OFFLOAD"))
    return both


def test_the_next_packet_obeys_a_rule_that_was_changed(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1))
    network.ping("h1", "10.1.0.2")
    both = offloaded_datagrams(network, switch)
    time.sleep(0.5)
    switch.ofctl("add-flow", "table=1,priority=9,udp,in_port=p1,ct_state=+trk+est,actions=drop")
    obeyed = time.monotonic()
    time.sleep(1)
    switch.ofctl("del-flows", "table=1,udp,in_port=p1")
    returned = time.monotonic()
    poll(lambda: switch.connections("udp", "OFFLOAD"))
    time.sleep(0.5)
    sent = [at for _, at in end_datagrams(*both)]
    assert not [at for at in sent if obeyed < at < returned - 0.1], "the old rule was obeyed"
    assert [at for at in sent if at < obeyed] and [at for at in sent if at > returned + 0.1]
    switch.stop()


@pytest.mark.parametrize(("port", "word"), [("p1", "no-receive"), ("p2", "no-forward")])
def test_the_next_packet_obeys_what_controllers_say_of_a_port(
    network: Network, tmp_path: Path, port: str, word: str
) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1))
    network.ping("h1", "10.1.0.2")
    both = offloaded_datagrams(network, switch)
    switch.ofctl("mod-port", port, word)
    obeyed = time.monotonic()
    time.sleep(1)
    returned = time.monotonic()
    switch.ofctl("mod-port", port, word.removeprefix("no-"))
    before = counter(network, "h2", "rx_packets")
    poll(lambda: counter(network, "h2", "rx_packets") > before + 50)
    sent = [at for _, at in end_datagrams(*both)]
    assert not [at for at in sent if obeyed < at < returned - 0.1]
    assert [at for at in sent if at < obeyed] and [at for at in sent if at > returned]
    switch.stop()


def test_a_port_that_is_recorded_is_not_passed_by(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1) + '[bridge.br0.port.p1]\npcap = "p1.pcap"\n')
    network.ping("h1", "10.1.0.2")
    sending, serving = start_datagrams(network, "h1", "h2", "10.1.0.2")
    poll(lambda: counter(network, "h2", "rx_packets") > 100)
    received = end_datagrams(sending, serving)
    switch.stop()
    with open_capture(tmp_path / "p1.pcap") as reader:
        sizes = [size for batch in reader.batches(256) for size in batch.packets["length"].tolist()]
    assert sizes.count(14 + 20 + 8 + 64) >= len(received) > 50


def test_what_is_silent_comes_back_and_returns_with_its_next_packets_or_expires(
    network: Network, tmp_path: Path
) -> None:
    two_hosts(network)
    short = '[zone.default]\ntimeout = "short"\n[timeout.short]\nudp_multiple = 4\nudp_first = 4\nudp_single = 4\n'
    switch = Offloading(network, tmp_path, bridge(*C1) + short, "kernel-timeout=1")
    network.ping("h1", "10.1.0.2")
    sending, serving = offloaded_datagrams(network, switch)
    seen = switch.seen()
    time.sleep(5)
    assert switch.connections("udp", "OFFLOAD"), "an active one was given up, or expired"
    assert switch.seen() - seen < 100
    sending.send_signal(19)
    poll(lambda: not switch.connections("udp", "OFFLOAD"))
    sending.send_signal(18)
    poll(lambda: switch.connections("udp", "OFFLOAD"))
    sending.send_signal(19)
    poll(lambda: not switch.connections("udp"))
    sending.send_signal(18)
    poll(lambda: switch.connections("udp", "OFFLOAD"))
    end_datagrams(sending, serving)
    switch.stop()


def test_a_smaller_mtu_sends_large_packets_the_long_way(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1))
    network.ping("h1", "10.1.0.2")
    both = offloaded_datagrams(network, switch, size=1200)
    network.run("switch", "ip", "link", "set", "p2", "mtu", "1000")
    time.sleep(0.5)
    small = time.monotonic()
    time.sleep(0.5)
    before = switch.seen()
    poll(lambda: switch.seen() > before + 10)
    still = time.monotonic()
    network.run("switch", "ip", "link", "set", "p2", "mtu", "1500")
    time.sleep(0.5)
    large = time.monotonic()
    poll(lambda: switch.connections("udp", "OFFLOAD"))
    time.sleep(0.5)
    sent = [at for _, at in end_datagrams(*both)]
    assert not [at for at in sent if small < at < still]
    assert [at for at in sent if at > large]
    switch.stop()


def test_a_port_that_goes_takes_its_flows_with_it_and_the_end_is_clean(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1))
    network.ping("h1", "10.1.0.2")
    assert "fsup" in network.run("switch", "ip", "-br", "link")
    both = offloaded_datagrams(network, switch)
    network.run("switch", "ip", "link", "del", "p2")
    poll(lambda: not switch.connections("udp", "OFFLOAD"))
    end_datagrams(*both)
    network.cable("p2", "h2")
    network.run("h2", "ip", "addr", "add", "10.1.0.2/24", "dev", "eth0")
    network.run("h1", "ip", "neigh", "flush", "all")
    poll(lambda: "0% packet loss" in network.run("h1", "ping", "-c1", "-W1", "10.1.0.2", check=False))
    end_datagrams(*offloaded_datagrams(network, switch))
    switch.stop()
    assert "fsup" not in network.run("switch", "ip", "-br", "link")
    # Nothing redirects any more: the machine itself gets what comes in.
    network.run("switch", "ip", "addr", "add", "10.1.0.9/24", "dev", "p1")
    network.ping("h1", "10.1.0.9")


def test_a_station_that_moves_is_followed_by_its_next_packet(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    network.host("h3", port="p3")
    switch = Offloading(network, tmp_path, bridge(*C1, ports='"p1", "p2", "p3"'))
    network.ping("h1", "10.1.0.2")
    station = network.run("h2", "cat", "/sys/class/net/eth0/address").strip()
    for words in (f"link set eth0 address {station}", "addr add 10.1.0.2/24 dev eth0"):
        network.run("h3", "ip", *words.split())
    sending, stayed = offloaded_datagrams(network, switch)
    moved_to = start_server(network, "h3", "10.1.0.2")
    network.run("h3", "ping", "-c1", "-W5", "10.1.0.1")
    moved = time.monotonic()
    before = counter(network, "h3", "rx_packets")
    poll(lambda: counter(network, "h3", "rx_packets") > before + 100)
    poll(lambda: switch.connections("udp", "OFFLOAD"))
    sending.communicate(timeout=30)
    there, here = (json.loads(end.communicate(timeout=30)[0]) for end in (stayed, moved_to))
    assert there and not [at for _, at in there if at > moved]
    assert len([at for _, at in here if at > moved]) > 50
    switch.stop()


def test_without_the_provider_ports_receive_again(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    config = '[offload]\nenabled = true\npriority = ["kernel"]\noptions = ["kernel-mode=xdp-offload"]\n'
    switch = Running(network, tmp_path, config + bridge(*C1))
    network.ping("h1", "10.1.0.2")
    assert "mode is 'xdp-offload'" in switch.stop()[1]


def test_a_folder_without_pins_is_refused_with_the_reason(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1), "kernel-hitless=true", f"kernel-pins={tmp_path}")
    network.ping("h1", "10.1.0.2")
    assert "is not in a BPF file system" in switch.stop()[1]

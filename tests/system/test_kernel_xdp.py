"""The provider `kernel` with `kernel-mode=xdp`: real traffic from frame to frame."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowshunt.jit import JIT
from tests.offload.kernel.rights import needs_bpf
from tests.system.network import Network, needs, networks, poll
from tests.system.test_kernel import (
    Offloading,
    checksum_errors,
    counter,
    end_datagrams,
    iperf,
    offloaded_datagrams,
    port_bytes,
    routed,
    tagging,
)
from tests.system.test_restart import Unshared, pins
from tests.system.test_run import C1, bridge, two_hosts

__all__ = ("pins",)

pytestmark = [needs("ping", "ovs-ofctl", "ovs-appctl", "iperf3", "ethtool"), needs_bpf]
XDP = "kernel-mode=xdp"
FIX = "its other end would not take frames: there, ethtool -K DEVICE gro on, or an XDP program"


@pytest.fixture
def network() -> Iterator[Network]:
    with networks() as made:
        yield made


def poll_frames(network: Network, *hosts: str, on: bool = True) -> None:
    """Have the ends of hosts take frames, or not."""
    for host in hosts:
        network.run(host, "ethtool", "-K", "eth0", "gro", "on" if on else "off")


def has_program(network: Network, port: str) -> bool:
    """Whether there is an XDP program on a port."""
    (link,) = json.loads(network.run("switch", "ip", "-j", "-d", "link", "show", port))
    return "xdp" in link


def frames(network: Network, port: str) -> int:
    """Frames that left a port as such."""
    said = network.run("switch", "ethtool", "-S", port)
    return sum(int(line.split(":")[1]) for line in said.splitlines() if "tx_queue" in line and "xdp_xmit:" in line)


def shown_of(switch: Offloading) -> list[str]:
    """Lines of flowshunt offload show."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "flowshunt", "offload", "show", "--socket", str(switch.rundir)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("far_end", ["gro", "program"])
@pytest.mark.parametrize("address", ["10.2.0.2", "192.0.2.80"])
def test_tcp_and_udp_go_from_frame_to_frame_and_are_translated(
    network: Network, tmp_path: Path, address: str, far_end: str
) -> None:
    rules = routed(network)
    keeping = _programs(network, "h1", "h2") if far_end == "program" else poll_frames(network, "h1", "h2")
    switch = Offloading(network, tmp_path, bridge(*rules), XDP)
    assert has_program(network, "p1") and has_program(network, "p2")
    before = switch.seen()
    for options in ((), ("-R",)):
        moved = iperf(network, "h1", "h2", address, "-n", "20M", *options)
        assert moved["sum_sent"]["bytes"] >= 20_000_000
    packets = sum(counter(network, host, "tx_packets") for host in ("h1", "h2"))
    assert packets > 20_000
    assert switch.seen() - before < packets / 4
    assert frames(network, "p1") + frames(network, "p2") > packets / 2
    moved = iperf(network, "h1", "h2", address, "-u", "-l", "500", "-b", "2M", "-t", "1")
    assert moved["sum"]["lost_packets"] == 0
    assert checksum_errors(network, "h1") == checksum_errors(network, "h2") == 0
    assert switch.stop() == ("", "")
    assert not has_program(network, "p1") and not has_program(network, "p2")
    del keeping


def _programs(network: Network, *hosts: str) -> list[subprocess.Popen[str]]:
    """Programs at the ends of hosts that let everything pass, until these processes end."""
    script = (
        "import sys; from flowshunt.base import bpf; from flowshunt.ports.devices import look_up; i = bpf.instruction\n"
        "program = bpf.load_program(i(0xB7, value=2) + i(0x95), 'Apache-2.0', 'pass', bpf.XDP)\n"
        "link = bpf.link_xdp(program, look_up('eth0').ifindex, bpf.XDP_NATIVE); print('there', flush=True)\n"
        "sys.stdin.read()"
    )
    made = []
    for host in hosts:
        process = network.start(host, sys.executable, "-c", script, stdin=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        made.append(process)
    return made


@pytest.mark.parametrize("address", ["10.1.0.2", "fd01::2"])
def test_what_goes_by_frames_is_counted_as_iperf3_counts_it(network: Network, tmp_path: Path, address: str) -> None:
    two_hosts(network)
    poll_frames(network, "h1", "h2")
    family, size = ("udp6", 1062) if ":" in address else ("udp", 1042)
    own = f"table=1,{family},in_port=p1,ct_state=+trk+est"
    switch = Offloading(network, tmp_path, bridge(*C1, f"{own},priority=2,actions=normal"), XDP)
    network.ping("h1", address)
    before = port_bytes(switch)
    moved = iperf(network, "h1", "h2", address, "-u", "-l", "1000", "-b", "5M", "-t", "2")["sum"]
    n = moved["packets"]
    assert moved["lost_packets"] == 0
    assert frames(network, "p2") > n / 2
    assert f"packet_count={n} byte_count={size * n} " in switch.ofctl("dump-aggregate", own)
    received, sent = (after - former for after, former in zip(port_bytes(switch), before, strict=True))
    assert size * n < received < size * n + 20_000 and size * n < sent < size * n + 20_000
    switch.stop()


def test_a_far_end_that_takes_no_frames_is_refused_until_it_does(network: Network, tmp_path: Path) -> None:
    two_hosts(network)
    poll_frames(network, "h1")
    ports = "".join(f'[bridge.br0.port.{port}]\nkernel_mode = "xdp"\n' for port in ("p1", "p2"))
    switch = Offloading(network, tmp_path, bridge(*C1) + ports)
    network.ping("h1", "10.1.0.2")
    assert has_program(network, "p1") and not has_program(network, "p2")
    shown = shown_of(switch)
    assert "  p1 works by xdp" in shown
    assert f"  p2 works by tc, not xdp: {FIX}" in shown
    both = offloaded_datagrams(network, switch)
    assert frames(network, "p2") == 0
    poll_frames(network, "h2")
    poll(lambda: has_program(network, "p2") and frames(network, "p2") > 20)
    assert "  p2 works by xdp" in shown_of(switch)
    poll_frames(network, "h2", on=False)
    poll(lambda: not has_program(network, "p2"))
    before = counter(network, "h2", "rx_packets")
    poll(lambda: counter(network, "h2", "rx_packets") > before + 50)
    end_datagrams(*both)
    complaint = f"p2: kernel-mode=xdp: {FIX}; it works by tc"
    assert switch.stop()[1].count(complaint) == 2


def test_tags_in_frames_are_put_on_and_taken_off(network: Network, tmp_path: Path) -> None:
    config = tagging(network)
    poll_frames(network, "h1")
    for port in ("x0", "x1"):
        network.run("switch", "ethtool", "-K", port, "gro", "on")
    switch = Offloading(network, tmp_path, config, XDP)
    network.ping("h1", "10.1.0.2")
    for address in ("10.1.0.2", "fd01::2"):
        before = frames(network, "p1"), frames(network, "x0")
        iperf(network, "h1", "h2", address, "-n", "3M" if JIT else "500k")
        assert frames(network, "p1") > before[0] + 50 and frames(network, "x0") > before[1] + 200
    assert checksum_errors(network, "h1") == checksum_errors(network, "h2") == 0
    switch.stop()


def test_a_tag_that_the_far_end_keeps_out_of_frames_is_seen_behind_them(network: Network, tmp_path: Path) -> None:
    """The program at ingress pushes tags beside the frame, as devices for VLANs do."""
    push, pop = "push_vlan:0x8100,set_field:4101->vlan_vid", "pop_vlan"
    own = tagging(network).partition("[bridge.br1]")[0]
    rules = [f"table={table},{match},actions={actions}" for table, match, actions in (
        (0, "priority=1,arp,in_port=p2", f"{push},x1"), (0, "priority=1,arp,in_port=x1,dl_vlan=5", f"{pop},p2"),
        (0, "priority=0,ip", "ct(commit,zone=5,table=1)"),
        (1, "in_port=p2", f"{push},x1"), (1, "in_port=x1,dl_vlan=5", f"{pop},p2"),
    )]  # fmt: skip
    other = f'[bridge.br1]\nports = ["p2", "x1"]\nlocal_port = false\nflows = {json.dumps(rules)}\n'
    modes = "".join(f'[bridge.br1.port.{port}]\nkernel_mode = "xdp"\n' for port in ("p2", "x1"))
    poll_frames(network, "h2")
    network.run("switch", "ethtool", "-K", "x0", "gro", "on")
    switch = Offloading(network, tmp_path, own + other + modes)
    network.ping("h1", "10.1.0.2")
    there = counter(network, "h2", "rx_packets")
    iperf(network, "h1", "h2", "10.1.0.2", "-n", "3M" if JIT else "500k")
    there = counter(network, "h2", "rx_packets") - there
    assert frames(network, "x1") > 50, "answers should get their tags in frames"
    assert there > 200 and switch.seen() < there / 2
    assert frames(network, "p2") < 50, "all but those of the other bridge's long way have tags that are in no frame"
    assert checksum_errors(network, "h1") == checksum_errors(network, "h2") == 0
    switch.stop()


def test_frames_go_on_without_the_switch_and_the_next_one_takes_over(tmp_path: Path, pins: Path) -> None:
    network = Unshared()
    try:
        two_hosts(network)
        poll_frames(network, "h1", "h2")
        options = (XDP, "kernel-hitless=true", f"kernel-pins={pins}/switch")
        switch = Offloading(network, tmp_path, bridge(*C1), *options)
        network.ping("h1", "10.1.0.2")
        both = offloaded_datagrams(network, switch)
        poll((switch.rundir / "connections.jsonl").exists)
        switch.process.kill()
        switch.process.communicate()
        goes_on(network)
        switch = Offloading(network, tmp_path, bridge(*C1), *options)
        poll(lambda: switch.connections("udp", "OFFLOAD"))
        goes_on(network)
        assert len(list((pins / "switch").glob("xdp-*"))) == 2
        end_datagrams(*both)
        switch.stop()
        switch = Offloading(network, tmp_path, bridge(*C1), options[2])
        assert not list((pins / "switch").iterdir())
        assert not has_program(network, "p1") and not has_program(network, "p2")
        switch.stop()
    finally:
        network.close()


def goes_on(network: Network) -> None:
    before = frames(network, "p2")
    poll(lambda: frames(network, "p2") > before + 50)

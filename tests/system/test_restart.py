"""Offloaded connections go on while the switch is killed and started again, and the next process takes them over."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.offload.kernel.rights import needs_bpf
from tests.system.lab import TOOLS, Lab
from tests.system.network import Network, needs, poll
from tests.system.test_kernel import (
    Offloading,
    checksum_errors,
    counter,
    end_datagrams,
    offloaded_datagrams,
    routed,
    start_datagrams,
)
from tests.system.test_run import C1, bridge, two_hosts

pytestmark = [needs("iperf3", "nsenter", *TOOLS), needs_bpf]


class Unshared(Network):
    """Its switch keeps the mounts of everybody else: `ip netns exec` would give it others, which end with it."""

    def command(self, name: str, *words: str) -> list[str]:
        usual = super().command(name, *words)
        if name != "switch" or words[0] != sys.executable:
            return usual
        return ["nsenter", f"--net=/run/netns/{usual[3]}", *words]


@pytest.fixture
def network() -> Iterator[Network]:
    made = Unshared()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    """A folder in a BPF file system."""
    folder = tmp_path / "bpf"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "bpf", "bpf", str(folder)], check=False).returncode:
        pytest.skip("needs to mount a BPF file system")
    yield folder / "switch"
    subprocess.run(["umount", str(folder)], check=True)


def hitless(pins: Path) -> tuple[str, str]:
    return "kernel-hitless=true", f"kernel-pins={pins}"


def kill(process: subprocess.Popen[str]) -> str:
    """What it had said on standard error."""
    process.kill()
    return process.communicate()[1]


def moves_on(network: Network, size: int = 300_000) -> None:
    """Whether bytes arrive."""
    before = counter(network, "h2", "rx_bytes")
    poll(lambda: counter(network, "h2", "rx_bytes") > before + size)


def is_quiet(network: Network, switch: Offloading, size: int) -> bool:
    """Whether so many bytes arrive without coming up."""
    seen = switch.seen()
    moves_on(network, size)
    return switch.seen() - seen < 5


def load(network: Network, address: str, *options: str) -> subprocess.Popen[str]:
    """A transfer from h1 to h2 that goes on."""
    serving = network.start("h2", "iperf3", "-s", "-1", "--forceflush")
    assert serving.stdout is not None
    while "listening" not in serving.stdout.readline():
        pass
    return network.start("h1", "iperf3", "-J", "-c", address, "-t", "600", *options)


def test_no_tcp_connection_is_lost_whatever_became_of_what_was_written_down(
    network: Network, tmp_path: Path, pins: Path
) -> None:
    rules = bridge(*routed(network))
    switch = Offloading(network, tmp_path, rules, *hitless(pins))
    file = switch.rundir / "connections.jsonl"
    calling = load(network, "192.0.2.80", "-P", "3", "-b", "10M")
    poll(lambda: len(switch.connections("OFFLOAD")) == 4 and is_quiet(network, switch, 500_000), 60)
    refused = "that were written down are not put back"
    for damage, complaint in (
        (file.touch, ""),
        (file.unlink, ""),
        (partial(file.write_bytes, b"\xff" * 100), refused),
    ):
        poll(file.exists)
        kill(switch.process)
        damage()
        moves_on(network)
        switch = Offloading(network, tmp_path, rules, *hitless(pins), log=tmp_path / "log")
        said = (tmp_path / "log").read_text()
        assert complaint in said
        assert "4 connections are back, 4 of them rebuilt" in said
        assert len(switch.connections("OFFLOAD")) == 4
        poll(lambda process=switch: is_quiet(network, process, 500_000))
        assert calling.poll() is None, "a connection was lost"
    assert checksum_errors(network, "h1") == checksum_errors(network, "h2") == 0
    calling.kill()
    switch.stop()


SILENT = "02:00:00:00:77:01"
"""Speaks once, and is known to the next process all the same."""


def speak_once(network: Network, host: str) -> None:
    frame = b"\xff" * 6 + bytes.fromhex(SILENT.replace(":", "")) + b"\x08\x06" + bytes(46)
    script = f"from socket import *; s = socket(AF_PACKET, SOCK_RAW); s.bind(('eth0', 0)); s.send({frame})"
    network.run(host, sys.executable, "-c", script)


def test_not_one_datagram_is_lost_by_a_restart(network: Network, tmp_path: Path, pins: Path) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1), *hitless(pins))
    network.ping("h1", "10.1.0.2")
    speak_once(network, "h2")
    sending, serving = offloaded_datagrams(network, switch)
    poll(lambda: is_quiet(network, switch, 5_000))
    known = switch.rundir / "stations.json"
    poll(lambda: known.exists() and SILENT in known.read_text())
    for _ in range(2):
        kill(switch.process)
        switch = Offloading(network, tmp_path, bridge(*C1), *hitless(pins))
        assert SILENT in switch.appctl("fdb/show", "br0")
        poll(lambda process=switch: is_quiet(network, process, 5_000))
        assert switch.connections("udp", "OFFLOAD")
        assert switch.seen() > 0
    sent, _ = json.loads(sending.communicate(timeout=30)[0])
    assert len(json.loads(serving.communicate(timeout=30)[0])) == sent > 200
    switch.stop()


def test_rules_of_the_next_process_hold_for_what_it_takes_over(network: Network, tmp_path: Path, pins: Path) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1), *hitless(pins))
    network.ping("h1", "10.1.0.2")
    both = offloaded_datagrams(network, switch)
    kill(switch.process)
    refusing = (*C1, "table=1,priority=9,udp,in_port=p1,ct_state=+trk+est,actions=drop")
    switch = Offloading(network, tmp_path, bridge(*refusing), *hitless(pins))
    poll(lambda: not switch.connections("udp", "OFFLOAD"))
    obeyed = time.monotonic()
    poll(lambda: switch.packets_of("table=1,udp,in_port=p1,ct_state=+trk+est") > 20)
    assert not [at for _, at in end_datagrams(*both) if at > obeyed]
    switch.stop()


def test_what_is_left_ends_with_the_setting_and_what_is_foreign_is_refused(
    network: Network, tmp_path: Path, pins: Path
) -> None:
    two_hosts(network)
    switch = Offloading(network, tmp_path, bridge(*C1), *hitless(pins))
    network.ping("h1", "10.1.0.2")
    both = offloaded_datagrams(network, switch)
    switch.stop()
    assert len(list(pins.iterdir())) == 4
    (link,) = (path for path in pins.iterdir() if path.is_symlink())
    (place,) = (path for path in pins.iterdir() if path.is_dir() and not path.is_symlink())
    (flows,) = place.glob("flows-*")
    flows.rename(place / "flows-0-of-long-ago")
    file = switch.rundir / "connections.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(lines[0]) | {"version": 77}), *lines[1:]]) + "\n")
    switch = Offloading(network, tmp_path, bridge(*C1), *hitless(pins))
    poll(lambda: switch.connections("udp", "OFFLOAD"))
    end_datagrams(*both)
    said = switch.stop()[1]
    assert "flows-0-of-long-ago, of another version" in said
    assert "'version': 77" in said
    assert link.readlink() != Path(place.name)
    switch = Offloading(network, tmp_path, bridge(*C1), hitless(pins)[1])
    network.ping("h1", "10.1.0.2")
    assert not list(pins.iterdir())
    switch.stop()


RULES = "\n".join(C1)


def test_vswitchd_takes_over_when_flows_are_restored(network: Network, pins: Path) -> None:
    """As Open vSwitch's scripts do it: flows are saved, the daemon ends, another one waits for them."""
    directory = Path(tempfile.mkdtemp())
    try:
        lab = Lab(network, directory)
        lab.start()
        options = ["hw-offload=true", "hw-offload-priority=kernel", *hitless(pins)]
        lab.vsctl("set", "open", ".", *(f"other_config:{option}" for option in options))
        lab.rules(RULES)
        both = start_datagrams(network, "h1", "h2", "10.1.1.2")
        poll(lambda: is_offloaded(lab))
        saved = lab.ofctl("dump-flows", "--no-stats", "br0")
        lab.vsctl("set", "open", ".", "other_config:flow-restore-wait=true")
        assert lab.process is not None
        kill(lab.process)
        (directory / "br0.mgmt").unlink()
        lab.launch()
        before = counter(network, "h2", "rx_packets")
        poll(lambda: counter(network, "h2", "rx_packets") > before + 20)
        poll((directory / "br0.mgmt").exists)
        assert not is_offloaded(lab)
        assert lab.ofctl("dump-flows", "--no-stats", "br0") == ""
        lab.ofctl("--bundle", "add-flows", "br0", "-", text=saved)
        assert lab.packets("table=0") == 0
        lab.vsctl("remove", "open", ".", "other_config", "flow-restore-wait")
        assert is_offloaded(lab)
        poll(lambda: lab.packets("table=1,ct_state=+trk+est") > 0)
        poll(lambda: is_offloaded(lab))
        sent, _ = json.loads(both[0].communicate(timeout=30)[0])
        assert len(json.loads(both[1].communicate(timeout=30)[0])) == sent
        assert lab.packets("table=1,ct_state=+trk+new") == 0
        lab.stop()
        assert not list(pins.iterdir())
        assert not (directory / "connections.jsonl").exists() and not (directory / "stations.json").exists()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def is_offloaded(lab: Lab) -> bool:
    """Whether the conversation is."""
    lines = lab.appctl("dpctl/dump-conntrack", "-m").splitlines()
    return any("udp" in line and "OFFLOAD" in line for line in lines)

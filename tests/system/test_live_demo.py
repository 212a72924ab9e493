"""`make live-demo`: the BlueField guide's commands on a switch that runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.system.network import START_S, needs

PROGRAM = [sys.executable, "demo/live.py", "--seconds", "0.2"]
on_real_devices = needs("ping", "iperf3", "nc", "ovs-vsctl", "ovsdb-server", "ovs-ofctl", "ovs-appctl")
GUIDE = """\
ovs-vsctl set Open_vSwitch . other_config:hw-offload=true
ovs-vsctl add-br ctBr
ovs-vsctl add-port ctBr p0
ovs-vsctl add-port ctBr pf0hpf
ovs-ofctl add-flow ctBr "table=0,arp,action=normal"
ovs-ofctl add-flow ctBr "table=0,ip,ct_state=-trk,action=ct(table=1)"
ovs-ofctl add-flow ctBr "table=1,priority=1,ip,ct_state=+trk+new,action=ct(commit),normal"
ovs-ofctl add-flow ctBr "table=1,priority=1,ip,ct_state=+trk+est,action=normal"
ovs-ofctl add-flow ctBr table=0,udp,tp_dst=4791,action=normal
ovs-ofctl add-flow ctBr "table=0,ip,ct_state=-trk,action=ct(table=1,nat)"
ovs-ofctl add-flow ctBr "table=1,in_port=pf0hpf,ip,ct_state=+trk+new,action=ct(commit,nat(src=1.1.1.16)), p0"
ovs-ofctl add-flow ctBr "table=1,ip,ct_state=+trk+est,action=normal"
ovs-vsctl set Open_vSwitch . other_config:hw-offload=false
"""
TRAFFIC = r"sport=\d+ dport=5001 packets=\d+ bytes=\d+"
REPLIES = r"sport=5001 dport=\d+ packets=\d+ bytes=\d+"
LISTED = (
    rf"tcp      6 src=1.1.1.2 dst=1.1.1.3 {TRAFFIC} src=1.1.1.3 dst=1.1.1.2 {REPLIES} \[OFFLOAD\] mark=0 use=2",
    rf"tcp      6 src=1.1.1.2 dst=2.2.2.1 {TRAFFIC} src=2.2.2.1 dst=1.1.1.16 {REPLIES} \[OFFLOAD\] mark=0 use=2",
    rf"tcp      6 \d+ ESTABLISHED src=1.1.1.2 dst=2.2.2.1 {TRAFFIC} src=2.2.2.1 dst=1.1.1.16 {REPLIES} mark=0 use=1",
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "TMPDIR": str(tmp_path)}


def start(environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        PROGRAM, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check_nothing_is_left(process: subprocess.Popen[str], directory: Path) -> None:
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert f"flowshunt-{process.pid}-" not in names
    assert list(directory.iterdir()) == []
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in lines if str(directory).encode() in line]


@on_real_devices
def test_the_guides_commands_work_as_printed(environment: dict[str, str], tmp_path: Path) -> None:
    process = start(environment)
    said, complaints = process.communicate(timeout=START_S)
    assert (process.returncode, complaints) == (0, "")
    typed = [line.removeprefix("switch# ") for line in said.splitlines() if line.startswith("switch# ")]
    assert [line for line in GUIDE.splitlines() if line not in typed] == []
    for pattern in LISTED:
        assert re.search(pattern, said), pattern
    check_nothing_is_left(process, tmp_path)


@on_real_devices
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_cleans_up_when_it_is_interrupted(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    process = start(environment)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("host# iperf3"):
            break
    process.send_signal(number)
    complaints = process.communicate(timeout=60)[1]
    assert (process.returncode, complaints) == (130, "live demo: interrupted; everything is cleaned up\n")
    check_nothing_is_left(process, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, or it is the rights that are missing")
def test_what_is_missing_is_named_with_its_package(environment: dict[str, str], tmp_path: Path) -> None:
    process = start(environment | {"PATH": str(tmp_path)})
    complaints = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert complaints.startswith("live demo: ip, ping, iperf3, nc, ovsdb-tool")
    assert "Debian: apt-get install iperf3 iproute2 iputils-ping" in complaints

"""`flowshunt bench live`, in small: that it measures, says what it measured, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.offload.kernel.rights import needs_bpf
from tests.system.network import START_S, needs

pytestmark = [needs("ping", "iperf3", "nft", "sysctl", "ss"), needs_bpf]
ROWS = ("bridge", "route_ct_nat", "slow", "kernel_tc", "kernel_xdp")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowshunt", "bench", "live", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_S, env=environment)


def namespaces() -> set[str]:
    return {line.split()[0] for line in subprocess.check_output(["ip", "netns"], text=True).splitlines() if line}


def test_rows_are_measured_in_turns_and_compared() -> None:
    before = namespaces()
    only = [word for row in ROWS for word in ("--only", row)]
    done = bench(*only, "--rounds", "1", "--seconds", "0.3", "--flows", "50", "--json", "-")
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)["figures"]}
    for row in ROWS:
        for name in ("tcp", "tcp_cpu", "ping", "ping_p999", "udp64", "udp64_offered", "udp64_100k"):
            assert figures[f"live.{row}.{name}"]["median"] > 0
        is_ours = not row.startswith(("bridge", "route"))
        assert (f"live.{row}.tcp_switch_cpu" in figures) == (f"live.{row}.tcp_seen" in figures) == is_ours
    assert figures["live.slow.udp64_seen"]["median"] > figures["live.kernel_tc.udp64_seen"]["median"]
    assert figures["live.slow.to_bridge.tcp"]["unit"] == "ratio"
    assert figures["live.kernel_tc.to_route_ct_nat.udp64"]["n"] == 1
    assert not {name for name in namespaces() - before if name.startswith("fsb")}

"""What is measured of a row: one TCP stream, small frames, pings; and the CPU time that it took."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flowshunt.base.errors import UsageError
from flowshunt.cli.bench.lab import COMMAND_S, PYTHON, Lab
from flowshunt.cli.bench.rows import CLIENT_MAC, OFFLOAD_SWITCH, SERVER_MAC, Ends, Row

N_PINGS = 2000
N_ADDED = 10_000
PING_INTERVAL_S = 0.001
MAX_MISSING = 0.01
"""Share of flows that may fail to get through when they are introduced."""

_GENERATOR = "flowshunt.cli.bench.generator"
_INTRODUCTION = "flowshunt.cli.bench.introduction"
_LISTEN_S = 20.0
_TIME = re.compile(r"time=([\d.]+) ms")
_TICKS = os.sysconf("SC_CLK_TCK")

Report = Callable[[str, str, float], None]
"""`report(name, unit, value)` takes one value of a figure of the row."""


@contextmanager
def _cpu_told(report: Report, row: Row, name: str) -> Iterator[None]:
    """Report what the machine, and what the row's own process, have computed meanwhile, in CPU seconds.

    And how many packets that process has seen: what is offloaded is not among them.
    """
    before, seen = (_busy_s(), row.cpu_s()), row.seen()
    yield
    report(f"{name}_cpu", "CPU s", _busy_s() - before[0])
    if (own := row.cpu_s() - before[1]) or before[1]:
        report(f"{name}_switch_cpu", "CPU s", own)
    if seen is not None and (now := row.seen()) is not None:
        report(f"{name}_seen", "packets", now - seen)


def _busy_s() -> float:
    """CPU seconds that all processors have been busy."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS


def measure_tcp(lab: Lab, row: Row, ends: Ends, report: Report, seconds: float) -> None:
    """One stream by iperf3, as the kernel's devices send it: what arrives, and CPU time."""
    serving = lab.start(ends.server, "iperf3", "-s", "-1", "-J")
    deadline = time.monotonic() + _LISTEN_S
    while ":5201 " not in lab.run(ends.server, "ss", "-ltn"):
        if time.monotonic() > deadline:
            raise UsageError("iperf3 -s does not listen")
    with _cpu_told(report, row, "tcp"):
        words = ("iperf3", "-c", ends.address, "-t", str(math.ceil(seconds)), "-J")
        said = lab.run(ends.client, *words, timeout=seconds + COMMAND_S)
    serving.communicate(timeout=_LISTEN_S)
    report("tcp", "Gbit/s", float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9)


def measure_pings(lab: Lab, row: Row, ends: Ends, report: Report) -> None:
    """Round trips of lone pings."""
    words = ("ping", "-n", "-c", str(N_PINGS), "-i", str(PING_INTERVAL_S), "-W", "2", ends.address)
    report_pings(lab.run(ends.client, *words, check=False), report)


def report_pings(said: str, report: Report, name: str = "ping") -> None:
    """What ping has printed: median, the round trip that one in a thousand exceeds, and how many had no answer.

    Raises UsageError when nothing came back.
    """
    times = sorted(1000 * float(found) for found in _TIME.findall(said))
    if not times:
        raise UsageError("no ping was answered")
    report(name, "us", statistics.median(times))
    report(f"{name}_p999", "us", times[math.ceil(0.999 * len(times)) - 1])
    report(f"{name}_lost", "packets", N_PINGS - len(times))


def measure_flow_pings(lab: Lab, row: Row, ends: Ends, report: Report, directory: Path) -> None:
    """The same while 10,000 flows are added, of a row that has an OpenFlow socket."""
    socket = row.management()
    if socket is None or shutil.which("ovs-ofctl") is None:
        return
    flows = directory / "flows"
    flows.write_text("\n".join(f"table=9,ip,nw_dst=10.{n >> 8}.{n & 255}.1,actions=drop" for n in range(N_ADDED)))
    adding = lab.start(ends.switch, "ovs-ofctl", "add-flows", f"unix:{socket}", str(flows))
    words = ("ping", "-n", "-c", str(N_PINGS), "-i", str(PING_INTERVAL_S), "-W", "2", ends.address)
    report_pings(lab.run(ends.client, *words, check=False), report, "ping_flows")
    _, errors = adding.communicate(timeout=COMMAND_S)
    if adding.returncode:
        raise UsageError(f"ovs-ofctl add-flows: {errors.strip()}")
    lab.run(ends.switch, "ovs-ofctl", "del-flows", f"unix:{socket}", "table=9")


def measure_flood(lab: Lab, row: Row, ends: Ends, report: Report, name: str, n_flows: int, seconds: float) -> None:
    """60-byte frames of established flows that arrive per second while more are sent than can be taken.

    The generator has one processor, the row's process the others, where there are several. `…_undisturbed` is the share
    of the time in which the generator had its own to itself: where it is much less than 1, so is what was measured.
    """
    processors = os.sched_getaffinity(0)
    first, *others = sorted(processors)
    lab.run_module(ends.switch, OFFLOAD_SWITCH, ends.client_port, "on")
    try:
        _introduce(lab, ends, report, name, n_flows)
        row.pin({*others} or processors)
        words = (CLIENT_MAC, ends.to_server, ends.flood_from, ends.flood_to, str(n_flows), str(seconds), str(first))
        with _sink(lab, ends):
            before = _arrived(lab, ends.server)
            with _cpu_told(report, row, name):
                said = lab.run_module(ends.client, _GENERATOR, *words, timeout=seconds + COMMAND_S)
            arrived = _arrived(lab, ends.server) - before
        sent, took_s, cpu_s = map(float, said.split())
    finally:
        row.pin(processors)
        lab.run_module(ends.switch, OFFLOAD_SWITCH, ends.client_port, "off")
    report(name, "Mpps", arrived / took_s / 1e6)
    report(f"{name}_offered", "Mpps", sent / took_s / 1e6)
    report(f"{name}_undisturbed", "ratio", cpu_s / took_s)


@contextmanager
def _sink(lab: Lab, ends: Ends) -> Iterator[None]:
    """What the server receives of the flood stays frames meanwhile, if that is how it is to be counted."""
    if not ends.has_frames:
        yield
        return
    sink = lab.start(ends.server, *PYTHON, "flowshunt.cli.bench.sink", SERVER_MAC)
    assert sink.stdout is not None
    if sink.stdout.readline() != "there\n":
        raise UsageError(f"no XDP at the server: {sink.communicate()[1].strip()}")
    try:
        yield
    finally:
        sink.terminate()
        sink.communicate()


def _introduce(lab: Lab, ends: Ends, report: Report, name: str, n_flows: int) -> None:
    """Have each flow send, be answered, and send again, and report how many could not.

    Raises UsageError when these are too many to go on.
    """
    words = (lab.namespace(ends.server), CLIENT_MAC, SERVER_MAC, ends.to_server, ends.to_client)
    asked = (ends.flood_from, ends.flood_to, str(n_flows))
    missing = int(lab.run_module(ends.client, _INTRODUCTION, *words, *asked))
    if missing > MAX_MISSING * n_flows:
        raise UsageError(f"{missing} of {n_flows} flows did not get through {ends.switch}")
    report(f"{name}_missing", "flows", missing)


def _arrived(lab: Lab, host: str) -> int:
    said = json.loads(lab.run(host, "ip", "-j", "-s", "link", "show", "eth0"))
    return int(said[0]["stats64"]["rx"]["packets"])

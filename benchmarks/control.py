"""The control path beside a real ovs-vswitchd's, in turns: `control.<vswitchd|flowshunt>.*`, seconds. Needs Debian's
openvswitch-switch.

Both run in private directories with a database and a bridge of datapath type dummy, and get the same files of 10,000
flows from ovs-ofctl: `add` one by one, `add_bundle` and `replace_bundle` (half of them others) together; `dump` lists
them, `dump_again` once more. `dump_bare` is a listing without ovs-ofctl, which takes most of the time: from the request
to the last byte of the answer. `ports` adds 200 ports of type dummy in one transaction and waits until that is done.
`control.ratio.*`: ours by theirs, taken one right after the other.
"""

from __future__ import annotations

import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.switches import COMMANDS, Switch, missing
from flowshunt.cli.bench.figures import Record

N_FLOWS = 10_000
N_PORTS = 200
_ADD_BRIDGE = "add-br br0 -- set bridge br0 datapath_type=dummy fail-mode=secure"


def measure(record: Record, rounds: int) -> None:
    """Take each figure `rounds` times; says so when it cannot."""
    if lacking := missing():
        print(f"control: left out; {lacking} is missing (Debian: openvswitch-switch)", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as directory:
        flows = _write_flows(Path(directory))
        switches = [Switch(Path(directory), name) for name in COMMANDS]
        try:
            for switch in switches:
                switch.start("--enable-dummy")
                switch.run("ovs-vsctl", *_ADD_BRIDGE.split())
            for _ in range(rounds):
                for name, take in _FIGURES.items():
                    _take_both(record, name, lambda switch, take=take: take(switch, flows), switches)
        finally:
            for switch in switches:
                switch.stop()


def _take_both(record: Record, name: str, take: Callable[[Switch], float], switches: list[Switch]) -> None:
    taken = [take(switch) for switch in switches]
    for switch, value in zip(switches, taken, strict=True):
        record.add(f"control.{switch.name}.{name}", "s", value)
    record.add(f"control.ratio.{name}", "ratio", taken[1] / taken[0])


def _write_flows(directory: Path) -> list[Path]:
    """Two files of flows, of which every second one is the same."""
    paths = []
    for number in range(2):
        lines = []
        for n in range(N_FLOWS):
            source = f"10.{number if n % 2 else 0}.{n >> 8}.{n & 255}"
            if n % 4 < 2:
                lines.append(f"table=1,priority=100,ip,nw_dst={source},actions=drop")
            else:
                lines.append(
                    f"table=2,tcp,nw_src={source},tp_dst={n},ct_state=+trk+est,"
                    f"actions=ct(commit,zone={n % 100},exec(set_field:{n}->ct_mark)),output:{n % 200 + 1}"
                )
        path = directory / f"flows{number}"
        path.write_text("\n".join(lines))
        paths.append(path)
    return paths


def _load(switch: Switch, *words: str) -> float:
    """Seconds that a command of ovs-ofctl takes for as many flows as there are then."""
    took_s = switch.timed("ovs-ofctl", *words)
    said = switch.run("ovs-ofctl", "dump-aggregate", "br0")
    assert f"flow_count={N_FLOWS}" in said, said
    return took_s


def _add(switch: Switch, flows: list[Path]) -> float:
    switch.run("ovs-ofctl", "del-flows", "br0")
    return _load(switch, "add-flows", "br0", str(flows[0]))


def _add_bundle(switch: Switch, flows: list[Path]) -> float:
    switch.run("ovs-ofctl", "del-flows", "br0")
    return _load(switch, "--bundle", "add-flows", "br0", str(flows[0]))


def _replace_bundle(switch: Switch, flows: list[Path]) -> float:
    return _load(switch, "--bundle", "replace-flows", "br0", str(flows[1]))


def _dump(switch: Switch, flows: list[Path]) -> float:
    return switch.timed("ovs-ofctl", "dump-flows", "br0")


def _dump_bare(switch: Switch, flows: list[Path]) -> float:
    """A listing of OpenFlow 1.3 over a connection of our own."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(switch.directory / "br0.mgmt"))
        stream = connection.makefile("rb")
        connection.sendall(struct.pack("!BBHI", 4, 0, 8, 1))
        _read_message(stream)
        selection = struct.pack("!B3xII4xQQ", 0xFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0) + struct.pack("!HH4x", 1, 4)
        request = struct.pack("!HH4x", 1, 0) + selection
        started = time.perf_counter()
        connection.sendall(struct.pack("!BBHI", 4, 18, 8 + len(request), 2) + request)
        while True:
            kind, body = _read_message(stream)
            if kind == 19 and not body[3] & 1:
                return time.perf_counter() - started


def _read_message(stream: object) -> tuple[int, bytes]:
    read = stream.read  # type: ignore[attr-defined]
    _, kind, size, _ = struct.unpack("!BBHI", read(8))
    return kind, read(size - 8)


def _ports(switch: Switch, flows: list[Path]) -> float:
    names = [f"d{number}" for number in range(N_PORTS)]
    adding = " ".join(f"-- add-port br0 {name} -- set interface {name} type=dummy" for name in names)
    took_s = switch.timed("ovs-vsctl", "--timeout=60", *adding.split()[1:])
    switch.run("ovs-vsctl", "--timeout=60", *" ".join(f"-- del-port br0 {name}" for name in names).split()[1:])
    return took_s


_FIGURES = {
    "add": _add,
    "add_bundle": _add_bundle,
    "replace_bundle": _replace_bundle,
    "dump": _dump,
    "dump_again": _dump,
    "dump_bare": _dump_bare,
    "ports": _ports,
}

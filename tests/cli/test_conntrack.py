"""`flowshunt conntrack`, `show` and `flows` against a switch that runs beside them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flowshunt.cli.main import app
from flowshunt.control.unixctl.server import Server
from flowshunt.daemon import Node
from flowshunt.daemon.commands import registry
from flowshunt.daemon.ports import open_dummy
from tests.builders import Packet

RULES = "ip,actions=ct(commit,zone=5,exec(set_field:7->ct_mark),table=1)\ntable=1,actions=normal"
Flowshunt = Callable[..., Result]


async def _prepare(node: Node) -> None:
    bridge = await node.call(lambda: node.add_bridge("br0"))
    for name in ("p1", "p2"):
        await node.call(lambda name=name: bridge.add_port(name, "dummy"))
    await node.call(lambda: bridge.switch.add_flows(RULES, now_ms=node.now_ms()))
    there = Packet().eth().ipv4("10.0.0.1", "10.0.0.2")
    for frame in (there.udp(1000, 53), there.tcp(2000, 80, syn=True)):
        await node.call(lambda frame=frame: bridge.inject("p1", frame.bytes()))
    await node.settled()


@pytest.fixture
def flowshunt(tmp_path: Path) -> Iterator[Flowshunt]:
    """Runs the command line against a switch with two connections, which lives in a thread."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        node = Node(tmp_path / "run", open_port=open_dummy)
        server = Server(node, registry("flowshunt 0", stop), "flowshunt")
        await node.start()
        await server.listen(tmp_path / "run" / "x.ctl")
        await _prepare(node)
        started.set()
        await stop.wait()
        await node.stop()
        await server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(60)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--socket", str(tmp_path / "run" / "x.ctl")])

    yield run
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()


def test_connections_are_listed_as_conntrack_does(flowshunt: Flowshunt) -> None:
    done = flowshunt("conntrack", "-L")
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert (
        lines[0].startswith("udp      17 ") and "[UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=53 dport=1000" in lines[0]
    )
    assert lines[1].startswith("tcp      6 ") and " SYN_SENT src=10.0.0.1 " in lines[1]
    assert all(" mark=7 zone=5 use=1" in line for line in lines)
    assert done.stderr.endswith(": 2 flow entries have been shown.\n")
    assert flowshunt("conntrack", "-L", "conntrack", "-o", "extended,id").stdout.startswith("ipv4     2 udp      17 ")
    assert flowshunt("conntrack", "-C").stdout == "2\n"


@pytest.mark.parametrize(
    ("words", "protocols"),
    [
        (("-p", "tcp"), ["tcp"]),
        (("--dport", "53"), ["udp"]),
        (("-s", "10.0.0.0/30", "-d", "10.0.0.2"), ["udp", "tcp"]),
        (("-s", "10.0.0.2"), []),
        (("--state", "SYN_SENT"), ["tcp"]),
        (("-m", "0x3/0x3", "-p", "udp"), ["udp"]),
        (("-m", "8/8"), []),
        (("-w", "5", "-u", "UNREPLIED"), ["udp", "tcp"]),
        (("-w", "6"), []),
        (("-f", "ipv6"), []),
        (("-n",), []),
    ],
)
def test_filters_choose(flowshunt: Flowshunt, words: tuple[str, ...], protocols: list[str]) -> None:
    done = flowshunt("conntrack", "-L", "-o", "json", *words)
    assert [entry["protocol_name"] for entry in json.loads(done.stdout)] == protocols


def test_connections_are_changed_forgotten_and_made(flowshunt: Flowshunt) -> None:
    done = flowshunt("conntrack", "-U", "-p", "tcp", "-m", "0x10/0xf0", "-l", "5", "-o", "labels")
    assert " mark=23 " in done.stdout and "labels=0x5" in done.stdout
    assert done.stderr.endswith(": 1 flow entries have been updated.\n")
    assert flowshunt("conntrack", "-G", "-p", "udp", "--sport", "9").exit_code == 1
    assert flowshunt("conntrack", "-D", "-p", "udp", "--sport", "9").exit_code == 1
    done = flowshunt("conntrack", "-D", "-p", "udp", "--sport", "1000")
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    assert done.stderr.endswith(": 1 flow entries have been deleted.\n")
    new = ("-s", "10.1.0.1", "-d", "10.1.0.2", "-p", "udp", "--sport", "5", "--dport", "6", "-w", "9", "-t", "100")
    assert flowshunt("conntrack", "-I", *new, "-m", "3").exit_code == 0
    (made,) = json.loads(flowshunt("conntrack", "-L", "-w", "9", "-o", "json").stdout)
    assert (made["original"]["source"], made["mark"], made["reply"]["source_port"]) == ("10.1.0.1", 3, 6)
    again = flowshunt("conntrack", "-I", *new)
    assert again.exit_code == 2 and "a connection of this tuple" in again.stderr
    assert flowshunt("conntrack", "-F", "-w", "5").exit_code == 0
    assert flowshunt("conntrack", "-C").stdout == "1\n"
    assert flowshunt("conntrack", "-F").exit_code == 0
    assert flowshunt("conntrack", "-C").stdout == "0\n"


def test_a_tcp_connection_is_made_in_a_state(flowshunt: Flowshunt) -> None:
    new = ("-p", "tcp", "-s", "10.9.9.9", "-d", "10.8.8.8", "--sport", "1", "--dport", "2", "-t", "100")
    assert "original.state" in flowshunt("conntrack", "-I", *new).output
    assert flowshunt("conntrack", "-I", *new, "--state", "ESTABLISHED").exit_code == 0
    assert "ESTABLISHED src=10.9.9.9 dst=10.8.8.8" in flowshunt("conntrack", "-L", "-s", "10.9.9.9").output


def test_counters_are_shown(flowshunt: Flowshunt) -> None:
    line = flowshunt("conntrack", "-S").stdout
    assert line.startswith("cpu=0   \tfound=0 invalid=0 insert=2 insert_failed=0 drop=0 early_drop=0 error=0 ")
    assert json.loads(flowshunt("conntrack", "-S", "-o", "json").stdout)["5"]["udp"]["inserted"] == 1


def test_bridges_and_flows_are_shown(flowshunt: Flowshunt) -> None:
    text = flowshunt("show").stdout
    assert "    p1 1/2: (dummy)\n" in text and text.endswith("connections: 2 of 3000000\n")
    assert "n_packets=2" in flowshunt("flows", "br0").stdout
    assert flowshunt("flows").stdout.startswith("bridge br0\n")
    assert "Unknown bridge" in flowshunt("flows", "nope").stderr


@pytest.mark.parametrize(
    "words",
    [(), ("-L", "-D"), ("-L", "-p", "nope"), ("-L", "-m", "x"), ("-L", "-o", "nope"), ("-L", "-s", "x"), ("-I",)],
)
def test_wrong_usage_is_told(flowshunt: Flowshunt, words: tuple[str, ...]) -> None:
    done = flowshunt("conntrack", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr


def test_without_a_switch_it_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["conntrack", "-L", "--socket", str(tmp_path)])
    assert done.exit_code == 2 and "no switch runs in" in done.stderr
    done = CliRunner().invoke(app, ["conntrack", "-L", "--socket", str(tmp_path / "nope")])
    assert done.exit_code == 2 and "No such file" in done.stderr

"""`flowshunt conntrack`, `show` and `flows` against a switch that runs beside them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flowshunt.base.errors import UsageError
from flowshunt.cli.daemon_client import ask
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
    assert again.exit_code == 1 and "Such conntrack exists" in again.stderr
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
    assert "    p1 1/1: (dummy)\n" in text and text.endswith("connections: 2 of 3000000\n")
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


ETH = "eth(src=50:54:00:00:00:09,dst=50:54:00:00:00:0a),eth_type(0x0800),"
THERE = ETH + "ipv4(src=10.0.0.9,dst=10.0.0.2,proto=17,tos=0,ttl=64,frag=no),udp(src={},dst=53)"
BACK = ETH + "ipv4(src=10.0.0.2,dst=10.0.0.9,proto=17,tos=0,ttl=64,frag=no),udp(src=53,dst={})"


class Following:
    """`flowshunt conntrack -E` in a process of its own."""

    def __init__(self, place: Path, *words: str) -> None:
        self.place = place
        command = [sys.executable, "-m", "flowshunt", "conntrack", "-E", *words, "--socket", str(place)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Following:
        self.wait_for_watching()
        return self

    def __exit__(self, *problem: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=60)

    def wait_for_watching(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            if json.loads(ask(self.place, "conntrack/watching"))["readers"]:
                return
            time.sleep(0.02)
        pytest.fail(f"it does not watch: {self.process.communicate(timeout=5)}")

    def lines(self, n: int) -> list[str]:
        assert self.process.stdout is not None
        return [self.process.stdout.readline().rstrip("\n") for _ in range(n)]

    def stop(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def receive(place: Path, port: str, *frames: str) -> None:
    ask(place, "netdev-dummy/receive", port, *frames)


def test_events_are_told_as_conntrack_tells_them(flowshunt: Flowshunt, tmp_path: Path) -> None:
    place = tmp_path / "run" / "x.ctl"
    with Following(place) as following:
        check_following(flowshunt, place, following)


def check_following(flowshunt: Flowshunt, place: Path, following: Following) -> None:
    receive(place, "p1", THERE.format(1))
    receive(place, "p2", BACK.format(1))
    ends = "src=10.0.0.9 dst=10.0.0.2 sport=1 dport=53"
    replies = "src=10.0.0.2 dst=10.0.0.9 sport=53 dport=1"
    new, update, reply = following.lines(3)
    assert new.startswith("    [NEW] udp      17 ") and new.endswith(f" {ends} [UNREPLIED] {replies} mark=7 zone=5")
    assert update.startswith(" [UPDATE] udp      17 ")
    assert reply.startswith(" [UPDATE] ") and reply.endswith(f" {ends} {replies} mark=7 zone=5")
    assert flowshunt("conntrack", "-D", "-s", "10.0.0.9").exit_code == 0
    (gone,) = following.lines(1)
    assert gone.startswith("[DESTROY] udp      17 ") and f" {ends} packets=1 bytes=" in gone and " delta-time=" in gone
    status, out, err = following.stop()
    assert (status, out) == (0, "") and err.endswith(": 4 flow events have been shown.\n")


def test_events_are_filtered_and_formatted(flowshunt: Flowshunt, tmp_path: Path) -> None:
    place = tmp_path / "run" / "x.ctl"
    words = ("-e", "NEW,DESTROY", "-s", "10.0.0.9", "--sport", "2", "-o", "json")
    with Following(place, *words) as following:
        receive(place, "p1", *(THERE.format(n) for n in (1, 2, 3)))
        assert flowshunt("conntrack", "-F").exit_code == 0
        first, last = (json.loads(line) for line in following.lines(2))
        assert following.stop()[:2] == (0, "")
    assert (first["event"], first["cause"], first["reason"]) == ("NEW", "created", None)
    assert (last["event"], last["cause"], last["reason"]) == ("DESTROY", "destroyed", "flushed")
    assert first["connection"]["original"]["source_port"] == last["connection"]["original"]["source_port"] == 2
    with Following(place, "-p", "sctp", "-o", "timestamp,id") as quiet:
        assert quiet.stop()[0] == 1
    assert flowshunt("conntrack", "-E", "-e", "BLA").exit_code == 2
    assert flowshunt("conntrack", "-E", "-o", "bla").exit_code == 2


def test_events_that_find_the_queue_full_are_counted(flowshunt: Flowshunt, tmp_path: Path) -> None:
    place = tmp_path / "run" / "x.ctl"
    number = json.loads(ask(place, "conntrack/watch", json.dumps({"limit": 3, "events": ["NEW"]})))["id"]
    for n in range(1, 6):
        receive(place, "p1", THERE.format(n))
    answer = json.loads(ask(place, "conntrack/next", json.dumps({"id": number})))
    assert (len(answer["lines"]), answer["lost"]) == (3, 2)
    receive(place, "p1", THERE.format(9))
    answer = json.loads(ask(place, "conntrack/next", json.dumps({"id": number})))
    assert len(answer["lines"]) == 1 and "sport=9" in answer["lines"][0] and answer["lost"] == 2
    ask(place, "conntrack/unwatch", json.dumps({"id": number}))
    with pytest.raises(UsageError, match="nobody watches"):
        ask(place, "conntrack/next", json.dumps({"id": number}))


def test_what_is_listed_can_be_xml_or_options_and_counters_begin_again(flowshunt: Flowshunt) -> None:
    xml = flowshunt("conntrack", "-L", "-o", "xml", "-p", "udp")
    assert xml.stdout.startswith(
        '<?xml version="1.0" encoding="utf-8"?>\n<conntrack>\n<flow><meta direction="original">'
    )
    assert "<sport>1000</sport><dport>53</dport>" in xml.stdout and "1 flow entries" in xml.stderr
    saved = flowshunt("conntrack", "-L", "-o", "save", "-p", "tcp").stdout
    assert "-u UNSET -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p tcp --sport 2000 --dport 80" in saved
    assert "--state SYN_SENT -m 7 -w 5" in saved
    assert "packets=1" in flowshunt("conntrack", "-L", "-z", "-p", "udp").stdout
    assert "packets=0 bytes=0" in flowshunt("conntrack", "-L", "-p", "udp").stdout


def test_what_is_there_is_not_made_twice_and_nothing_updated_is_a_miss(flowshunt: Flowshunt) -> None:
    words = ("-s", "1.1.1.1", "-d", "2.2.2.2", "-p", "udp", "--sport", "1", "--dport", "2")
    assert flowshunt("conntrack", "-I", *words, "-t", "50").exit_code == 0
    again = flowshunt("conntrack", "-I", *words, "-t", "50")
    assert again.exit_code == 1 and "Operation failed: Such conntrack exists, try -U to update" in again.stderr
    assert flowshunt("conntrack", "-U", *words, "-m", "5").exit_code == 0
    missed = flowshunt("conntrack", "-U", "-s", "9.9.9.9", "-m", "5")
    assert missed.exit_code == 1 and "0 flow entries have been updated" in missed.stderr
    assert flowshunt("conntrack", "-L", "-j").stderr.endswith(": 0 flow entries have been shown.\n")


def test_the_end_of_a_translated_connection_has_its_reply_tuple(flowshunt: Flowshunt, tmp_path: Path) -> None:
    place = tmp_path / "run" / "x.ctl"
    words = ("-s", "1.1.1.1", "-d", "2.2.2.2", "-r", "2.2.2.2", "-q", "9.9.9.9", "-p", "udp", "--sport", "1", "--dport")
    ports = ("2", "--reply-port-src", "2", "--reply-port-dst", "77")
    made = flowshunt("conntrack", "-I", *words, *ports, "-t", "50")
    assert made.exit_code == 0, made.stderr
    with Following(place, "-e", "DESTROY") as following:
        assert flowshunt("conntrack", "-D", "-s", "1.1.1.1").exit_code == 0
        (line,) = following.lines(1)
    assert "src=1.1.1.1 dst=2.2.2.2 sport=1 dport=2" in line and "src=2.2.2.2 dst=9.9.9.9 sport=2 dport=77" in line

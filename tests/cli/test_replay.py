"""The command as users run it, with the real switch below it."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import flowshunt
from flowshunt.cli.main import app
from flowshunt.ports.capture.reader import open_capture
from flowshunt.ports.capture.writer import PcapngWriter
from tests.cli.fakes import make_batch
from tests.cli.test_report import check_schema
from tests.cli.test_sources import TALK, write
from tests.cli.tlines import CAPTURES, read_conntrack, read_dpctl

SRC = Path(__file__).resolve().parents[2] / "src"
DEADLINE_S = 300

needs_captures = pytest.mark.skipif(not CAPTURES.is_dir(), reason="needs the real captures in ../shared/captures")


class Run:
    """What a run of the command came to."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err


def replay(*arguments: str | Path, stdin: bytes = b"") -> Run:
    """`flowshunt replay` in this process."""
    result = CliRunner().invoke(app, ["replay", *map(str, arguments)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


def start(*arguments: str | Path, **more: Any) -> subprocess.Popen[bytes]:
    """The command as a process of its own."""
    code = "from flowshunt.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        **{"stdout": subprocess.PIPE, **more},
    )


@pytest.fixture
def talk(tmp_path: Path) -> str:
    """A capture of 100 UDP requests, each with its answer."""
    return write(tmp_path / "talk.pcap", TALK)


def test_without_rules_everything_is_tracked_and_forwarded(talk: str) -> None:
    run = replay(talk)
    assert (run.status, run.err) == (0, "")
    assert "packets      200 (8.4 kB)" in run.out
    assert "connections  100 alive at the end" in run.out
    assert "\n  udp       answered          100  100.0 %\n" in run.out
    assert "No rules given" in run.out
    assert "Sides of the capture" in run.out


def test_table_alone_goes_to_standard_output_and_the_summary_beside_it(talk: str) -> None:
    run = replay(talk, "--table", "conntrack")
    assert run.status == 0
    lines = run.out.splitlines()
    assert len(lines) == 100
    assert lines[0] == (
        "udp      17 30 src=10.0.0.1 dst=192.0.2.1 sport=1000 dport=53 packets=1 bytes=28 "
        "src=192.0.2.1 dst=10.0.0.1 sport=53 dport=1000 packets=1 bytes=28 mark=0 use=1"
    )
    assert run.err.startswith("Replay\n")


@pytest.mark.parametrize(
    ("style", "begin"),
    [
        ("conntrack-extended", "ipv4     2 udp      17 "),
        ("proc", "ipv4     2 udp      17 "),
        ("dpctl", "udp,orig=(src=10.0.0.1,dst=192.0.2.1,sport=1000,dport=53),reply=("),
        ("dpctl-more", "udp,orig=(src=10.0.0.1,dst=192.0.2.1,sport=1000,dport=53,packets=1,bytes=28),reply=("),
    ],
)
def test_table_in_other_styles(talk: str, style: str, begin: str) -> None:
    run = replay(talk, "--table", style, "--quiet")
    assert (run.status, run.err) == (0, "")
    assert run.out.splitlines()[0].startswith(begin)
    assert len(run.out.splitlines()) == 100


def test_states_of_every_packet(talk: str, tmp_path: Path) -> None:
    run = replay(talk, "--quiet", "--states", "-")
    assert run.out.splitlines() == [f"{n}: {'new|trk' if n % 2 else 'est|rpl|trk'}" for n in range(1, 201)]
    assert replay(talk, "--quiet", "--states", tmp_path / "states").status == 0
    assert (tmp_path / "states").read_text() == run.out


def test_packets_that_skip_the_tracker_have_no_state(talk: str) -> None:
    run = replay(talk, "--set-flow", "actions=normal", "--quiet", "--states", "-", "--limit", "2")
    assert run.out == "1: -\n2: -\n"


def test_json_follows_its_schema(talk: str) -> None:
    run = replay(talk, "--json", "-", "--quiet")
    assert (run.status, run.err) == (0, "")
    found = check_schema(run.out)
    assert found["summary"]["packets"] == 200
    assert len(found["connections"]) == 100
    assert [(rule["rule"], rule["packets"]) for rule in found["rules"]] == [
        ("table=0, priority=0 actions=ct(commit,table=1)", 200),
        ("table=1, priority=0 actions=NORMAL", 200),
    ]
    assert {port["name"]: port["rx_packets"] for port in found["ports"]} == {"inside": 100, "outside": 100}


def test_rules_come_from_files_and_from_the_command_line(talk: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.flows"
    rules.write_text("# requests only\ntable=0,in_port=pf0hpf,ip,actions=ct(commit),p0\n")
    run = replay(talk, "--sides", "pf0hpf,p0", "--flows", rules, "--set-flow", "priority=1,actions=drop", "--json", "-")
    found = json.loads(run.out)
    assert found["default_rules"] is False
    assert found["summary"]["forwarded_packets"] == found["summary"]["dropped_packets"] == 100
    assert found["summary"]["dropped"] == [{"reason": "action", "packets": 100}]
    assert "action" in run.err
    assert "p0" in run.err


def broken_checksums(tmp_path: Path) -> str:
    """TALK with a wrong checksum in every IPv4 header."""
    return write(tmp_path / "broken.pcap", [frame[:24] + b"\xff\xff" + frame[26:] for frame in TALK])


def test_checksums_can_be_taken_as_good(tmp_path: Path) -> None:
    path = broken_checksums(tmp_path)
    run = replay(path)
    assert "\n  checksum      200  udp       wrong checksum\n" in run.out
    assert "use --no-checksum" in run.out
    assert "connections  0 alive at the end" in run.out
    assert "connections  100 alive at the end" in replay(path, "--no-checksum").out


def test_the_size_of_the_table_can_be_limited(talk: str) -> None:
    run = replay(talk, "--max-connections", "10")
    assert "connections  10 alive at the end" in run.out
    assert "found no room for their connection: the connection table was full; raise --max-connections." in run.out


@needs_captures
def test_profiles_differ_as_the_real_trackers_do() -> None:
    capture = CAPTURES / "zeek-ftp-ipv4.pcap"
    for profile, suffix, table in (("default", "ovs", "dpctl-more"), ("linux", "kernel", "conntrack-extended")):
        run = replay(capture, "--profile", profile, "--table", table, "--quiet")
        lines = [line[2:] for line in (CAPTURES / f"zeek-ftp-ipv4.{suffix}").read_text().splitlines() if line[0] == "T"]
        assert sorted(tuple_and_state(line) for line in run.out.splitlines()) == sorted(map(tuple_and_state, lines))


def tuple_and_state(line: str) -> tuple[object, ...]:
    """What is compared of a table line: both tuples and the TCP states."""
    if line.startswith("ipv"):
        found = read_conntrack(re.sub(r" packets=\d+ bytes=\d+", "", line))
    else:
        found = read_dpctl(re.sub(r",packets=\d+,bytes=\d+|,start=[^,]+", "", line))
    return found.original.sort_key, found.reply.sort_key, found.states


@needs_captures
def test_sequence_numbers_can_be_taken_as_good() -> None:
    capture = CAPTURES / "suri-tcp-session-stream-out-of-window.pcap"
    strict = json.loads(replay(capture, "--json", "-", "--quiet").out)
    loose = json.loads(replay(capture, "--json", "-", "--quiet", "--no-sequence-check").out)
    assert tuple(run["counters"]["tracker.invalid-tcp-sequence"] for run in (strict, loose)) == (1, 0)


@needs_captures
def test_helpers_by_port_relate_data_connections_to_their_control_connection() -> None:
    capture = CAPTURES / "zeek-ftp-ipv4.pcap"
    document = json.loads(replay(capture, "--json", "-", "--quiet", "--helpers").out)
    control = next(c for c in document["connections"] if c["original"]["destination_port"] == 21)
    others = [c for c in document["connections"] if c is not control]
    assert (control["helper"], control["parent"]) == ("ftp", None)
    assert [(c["helper"], c["parent"]) for c in others] == [(None, control["id"])] * 4
    assert "est|rel|rpl|trk" in replay(capture, "--states", "-", "--helpers").out
    assert "rel" not in replay(capture, "--states", "-").out


def test_what_leaves_each_port_is_written(talk: str, tmp_path: Path) -> None:
    other = tmp_path / "in.pcapng"
    run = replay(talk, "--write", tmp_path / "out", "--write-port", f"inside={other}", "--quiet")
    assert (run.status, run.out, run.err) == (0, "", "")
    for path, frames in ((tmp_path / "out" / "outside.pcap", TALK[0::2]), (other, TALK[1::2])):
        with open_capture(path) as written:
            batch = written.receive(1000)
            assert batch is not None
            assert [bytes(batch.data[p["data"] :][: p["length"]]) for p in batch.packets] == frames
    assert not (tmp_path / "out" / "inside.pcap").exists()


def test_several_captures_are_merged_one_per_port(tmp_path: Path) -> None:
    inner = write(tmp_path / "in.pcap", TALK[0::2])
    outer = write(tmp_path / "out.pcap", TALK[1::2], first_ns=500)
    run = replay("--port", f"pf0hpf={inner}", "--port", f"p0={outer}", "--json", "-", "--quiet")
    found = check_schema(run.out)
    assert found["sides"] is None
    assert [(port["name"], port["source"], port["rx_packets"]) for port in found["ports"]] == [
        ("pf0hpf", inner, 100),
        ("p0", outer, 100),
    ]
    assert found["summary"]["connections_by_state"] == [{"protocol": "udp", "state": "answered", "connections": 100}]


def everything(capture: str, folder: Path, *arguments: str, stdin: bytes = b"") -> dict[str, bytes]:
    """All outputs of a run."""
    folder.mkdir()
    run = replay(
        capture, "--table", "dpctl-more", "--states", folder / "states", "--json", folder / "json",
        "--write", folder, *arguments, stdin=stdin,
    )  # fmt: skip
    return {"out": run.out.encode(), "err": run.err.encode()} | {
        path.name: path.read_bytes() for path in sorted(folder.iterdir())
    }


def test_the_same_capture_gives_the_same_output_whatever_the_batch(talk: str, tmp_path: Path) -> None:
    first = everything(talk, tmp_path / "a")
    assert set(first) == {"out", "err", "states", "json", "inside.pcap", "outside.pcap"}
    for batch in ("1", "3", "32", "256"):
        assert everything(talk, tmp_path / batch, "--batch", batch) == first


@needs_captures
@pytest.mark.parametrize("name", ["zeek-http-methods", "ndpi-fuzz-2006-06-26-2594", "tcpdump-vrrp"])
def test_real_captures_give_the_same_output_whatever_the_batch(name: str, tmp_path: Path) -> None:
    capture = str(CAPTURES / f"{name}.pcap")
    first = everything(capture, tmp_path / "a", "--batch", "256")
    assert everything(capture, tmp_path / "b", "--batch", "1") == first
    assert everything(capture, tmp_path / "c", "--batch", "32") == first


@needs_captures
@pytest.mark.parametrize("name", ["zeek-ftp-ipv4", "zeek-http-pipelined-requests", "zeek-communityid-icmp6"])
def test_states_are_those_of_open_vswitch(name: str) -> None:
    expected = [line for line in (CAPTURES / f"{name}.ovs").read_text().splitlines() if line[0].isdigit()]
    run = replay(
        CAPTURES / f"{name}.pcap", "--set-flow", "table=0,actions=ct(commit,table=1)", "--states", "-", "--quiet"
    )
    assert (run.status, run.err) == (0, "")
    assert run.out.splitlines() == expected


def test_a_damaged_capture_is_reported_as_far_as_it_goes(talk: str) -> None:
    size = os.path.getsize(talk)
    os.truncate(talk, size - 5)
    run = replay(talk)
    assert run.status == 1
    assert "packets      199" in run.out
    assert "A capture is damaged: this is what could be read." in run.out
    assert f"at byte {size - len(TALK[0]) - 16}" in run.err


def test_what_is_no_capture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a capture at all, but text")
    run = replay(path)
    assert (run.status, run.out) == (1, "")
    assert "expected a pcap or pcapng capture" in run.err


def test_files_that_cannot_be_opened_are_named(talk: str, tmp_path: Path) -> None:
    for arguments in (
        [tmp_path / "none.pcap"],
        [talk, "--flows", tmp_path / "none.flows"],
        [talk, "--states", tmp_path / "none" / "states"],
        [talk, "--write-port", f"inside={tmp_path / 'none' / 'a.pcap'}"],
    ):
        run = replay(*arguments)
        assert (run.status, run.out) == (2, "")
        assert str(tmp_path / "none") in run.err
        assert "No such file or directory" in run.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full (Linux)")
def test_an_output_that_fails_on_the_way_ends_with_status_1(talk: str) -> None:
    for arguments in (["--states", "/dev/full"], ["--json", "/dev/full"]):
        run = replay(talk, *arguments, "--quiet")
        assert (run.status, run.out) == (1, "")
        assert "cannot go on: No space left on device" in run.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full (Linux)")
def test_a_full_disk_behind_standard_output_ends_with_status_1(talk: str) -> None:
    with open("/dev/full", "wb") as full, start("replay", talk, "--states", "-", "--quiet", stdout=full) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (1, b"flowshunt: cannot go on: No space left on device\n")


def test_a_time_that_pcap_cannot_say_is_refused_with_a_way_out(tmp_path: Path) -> None:
    late = str(tmp_path / "late.pcapng")
    batch = make_batch(TALK[:2], first_ns=1 << 62)
    with PcapngWriter(late) as writer:
        writer.write(batch.data, batch.packets)
    run = replay(late, "--write", tmp_path, "--quiet")
    assert run.status == 2
    assert "has a time that the format can't say" in run.err
    assert "--write-port NAME=FILE.pcapng" in run.err
    assert replay(late, "--write-port", f"outside={tmp_path / 'a.pcapng'}", "--quiet").status == 0


def test_what_is_odd_about_a_rule_is_a_warning(talk: str) -> None:
    run = replay(talk, "--set-flow", "nw_src=10.0.0.1,actions=normal", "--quiet")
    assert run.status == 0
    assert "flowshunt: warning: --set-flow:1:1: " in run.err


def test_a_wrong_rule_shows_file_line_column_and_the_word(talk: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.flows"
    rules.write_text("table=0,arp,actions=normal\ntable=0,ip,ct_stat=-trk,actions=ct(table=1)\n")
    run = replay(talk, "--flows", rules)
    assert (run.status, run.out) == (2, "")
    assert f"{rules}:2:12: " in run.err
    assert "\n  table=0,ip,ct_stat=-trk,actions=ct(table=1)\n             ^^^^^^^\n" in run.err


def test_a_wrong_rule_of_the_command_line_says_which(talk: str) -> None:
    run = replay(talk, "--set-flow", "actions=normal", "--set-flow", "actions=fly")
    assert run.status == 2
    assert "--set-flow 2:1:9: " in run.err
    assert "^^^" in run.err


def test_a_rule_with_an_unknown_port_is_told_the_ports(talk: str) -> None:
    run = replay(talk, "--set-flow", "in_port=p0,actions=drop")
    assert run.status == 2
    assert "--set-flow:1:9: " in run.err
    assert "hint: the ports are inside and outside; --sides and --port name them" in run.err


def test_rules_that_are_no_text_are_refused(talk: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.flows"
    rules.write_bytes(b"actions=normal\n\xff\xfe")
    run = replay(talk, "--flows", rules)
    assert run.status == 2
    assert "byte 15 is not UTF-8 text" in run.err


def wait_until_reading(process: subprocess.Popen[bytes], pipe: int) -> None:
    """Until the process has taken everything out of the pipe and waits for more."""
    import fcntl
    import termios

    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        waiting = int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
        system_call = Path(f"/proc/{process.pid}/syscall").read_text().split()
        if waiting == 0 and system_call[:2] == ["0", "0x0"]:  # read(0, …) on x86-64
            return
        time.sleep(0.02)
    pytest.fail(f"never waited for standard input: {process.communicate(timeout=5)}")


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="watches the process through /proc on x86-64"
)
def test_an_interrupt_while_waiting_for_a_pipe_reports_what_came(talk: str) -> None:
    read_end, write_end = os.pipe()
    process = start("replay", "-", "--states", "-", stdin=read_end)
    try:
        os.write(write_end, Path(talk).read_bytes())
        wait_until_reading(process, read_end)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
        os.close(read_end)
        os.close(write_end)
    assert process.returncode == 130, err.decode()
    assert len(out.splitlines()) == 200
    assert b"Interrupted: this is what was done so far." in err
    assert b"Traceback" not in err


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    capture = write(tmp_path / "long.pcap", TALK * 500)
    with start("replay", capture, "--states", "-", "--quiet") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"1: new|trk\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=DEADLINE_S) == 141


def test_standard_input_gives_what_the_file_gives(talk: str) -> None:
    with open(talk, "rb") as file:
        process = start("replay", "-", "--json", "-", "--quiet", stdin=file)
        piped, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, b"")
    assert piped.decode().replace('"source": "-"', f'"source": "{talk}"') == replay(talk, "--json", "-", "--quiet").out


def kernels_in_the_source() -> int:
    """How many functions are marked `@kernel(example=...)`."""
    source = Path(flowshunt.__file__).parent
    nodes = [node for file in source.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    marks = [mark for node in nodes if isinstance(node, ast.FunctionDef) for mark in node.decorator_list]
    return sum(bool(isinstance(mark, ast.Call) and ast.unparse(mark).startswith("kernel(example=")) for mark in marks)


@pytest.mark.needs_jit
def test_warmup_compiles_and_then_says_that_all_is_there(tmp_path: Path) -> None:
    for _ in range(2):
        process = start("warmup")
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err.decode()
    assert out.startswith(b"0 kernels compiled, %d were there already" % kernels_in_the_source())
    assert b"They are kept in " in out


def test_progress_on_a_terminal_is_drawn_and_removed() -> None:
    from flowshunt.cli import terminal

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    before, sys.stderr = sys.stderr, Terminal()
    try:
        with terminal.reading(100, quiet=False) as progress:
            progress(50, 1234)
        with terminal.compiling(2, quiet=False) as report:
            report("conntrack.step", 0, 2)
        drawn = sys.stderr.getvalue()
    finally:
        sys.stderr = before
    assert "replaying" in drawn
    assert "compiling" in drawn


def test_networks_that_tell_nothing_apart_are_mentioned(talk: str) -> None:
    assert replay(talk, "--inside", "9.9.9.0/24").err == (
        "flowshunt: warning: --inside 9.9.9.0/24 does not tell the two sides of the capture apart\n"
    )
    assert "does not tell" in replay(talk, "--inside", "0.0.0.0/0").err


def test_an_output_never_overwrites_what_is_read(talk: str, tmp_path: Path) -> None:
    before = Path(talk).read_bytes()
    for options in (["--write-port", f"inside={talk}"], ["--json", talk], ["--states", talk]):
        run = replay(talk, *options)
        assert run.status == 2
        assert "is also read" in run.err
    assert Path(talk).read_bytes() == before
    both = str(tmp_path / "both.txt")
    run = replay(talk, "--states", both, "--json", both)
    assert run.status == 2
    assert "two outputs" in run.err


@pytest.mark.parametrize("name", ["../x", "normal", "a b", "7", ""])
def test_what_cannot_be_a_port_is_refused(talk: str, name: str) -> None:
    run = replay(talk, "--sides", f"{name},outer")
    assert run.status == 2
    assert "port" in run.err or "sides" in run.err.lower()

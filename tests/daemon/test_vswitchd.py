"""The daemon in place of ovs-vswitchd, with everything around it real: database, tools, files, signals."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowshunt.daemon.privileges import NAMES, PURPOSES

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
TOOLS = ("ovsdb-tool", "ovsdb-server", "ovs-vsctl", "ovs-ofctl", "ovs-appctl")
needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)) or not SCHEMA.is_file(),
    reason="needs Open vSwitch's tools (Debian: openvswitch-switch)",
)
pytestmark = needs_tools
FLAGS = "--disable-system --enable-dummy --detach --no-chdir --pidfile --log-file -vvconn -vofproto_dpif -vunixctl"
ETH = "in_port(1),eth(src=50:54:00:00:00:0{a},dst=50:54:00:00:00:0{b}),eth_type(0x0800),"
UDP = ETH + "ipv4(src=10.1.1.{a},dst=10.1.1.{b},proto=17,tos=0,ttl=64,frag=no),udp(src={a},dst={b})"
_ADD_BRIDGE = (
    "add-br br0 -- set bridge br0 datapath_type=dummy fail-mode=secure "
    "protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15 "
    "-- add-port br0 p1 -- set interface p1 type=dummy ofport_request=1 external-ids:iface-id=p1 "
    "-- add-port br0 p2 -- set interface p2 type=dummy ofport_request=2"
)
ADD_BRIDGE = _ADD_BRIDGE.split()
FLOWS = """\
table=0,priority=10,in_port=1,ip,actions=ct(commit,zone=5,exec(set_field:7->ct_mark)),2
table=0,priority=10,in_port=2,ip,actions=ct(zone=5,table=1)
table=1,ct_state=+est+rpl,ip,actions=1
"""


class Host:
    """A directory with a database in it, and a PATH on which ovs-vswitchd is ours."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        programs = directory / "bin"
        programs.mkdir()
        wrapper = programs / "ovs-vswitchd"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m flowshunt vswitchd "$@"\n')
        wrapper.chmod(0o755)
        places = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(directory))
        self.environment = {
            **os.environ, **places, "OVS_SYSLOG_METHOD": "null", "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }  # fmt: skip
        self.pids: list[int] = []

    def run(self, *words: str, text: str | None = None, status: int = 0) -> str:
        """What a program prints; nothing may go to standard error when it succeeds."""
        done = subprocess.run(
            words, env=self.environment, cwd=self.directory, input=text, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == status, (words, done.stdout, done.stderr)
        assert status or not done.stderr, (words, done.stderr)
        return done.stdout if not status else done.stderr

    def pid(self, program: str) -> int:
        number = int((self.directory / f"{program}.pid").read_text())
        self.pids.append(number)
        return number

    def start_database(self) -> None:
        self.run("ovsdb-tool", "create", "conf.db", str(SCHEMA))
        self.run(
            "ovsdb-server", "-vconsole:off", "conf.db", f"--remote=punix:{self.directory}/db.sock", "--pidfile",
            "--detach", "--no-chdir", "--log-file",
        )  # fmt: skip
        self.pid("ovsdb-server")
        self.run("ovs-vsctl", "--no-wait", "init")

    def wait_for_end(self, pid: int) -> None:
        deadline = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists()

    def wait_for(self, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not check():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def let_in(self, user: str) -> None:
        """Let another user in, and have what is his own here."""
        shutil.chown(self.directory, user)
        (self.directory / "db.sock").chmod(0o777)
        for parent in self.directory.parents:
            if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)

    @property
    def log(self) -> str:
        return (self.directory / "ovs-vswitchd.log").read_text()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    found.start_database()
    yield found
    for pid in found.pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_scripts_written_for_open_vswitch_run(host: Host) -> None:
    assert host.run("ovs-vswitchd", "--version").startswith("ovs-vswitchd ")
    assert host.run("ovs-vswitchd", *FLAGS.split()) == ""
    pid = host.pid("ovs-vswitchd")
    assert (host.directory / f"ovs-vswitchd.{pid}.ctl").stat().st_mode & 0o777 == 0o600
    host.run("ovs-vsctl", *ADD_BRIDGE)
    host.run("ovs-ofctl", "--bundle", "add-flows", "br0", "-", text=FLOWS)
    for port, a, b in (("p1", 1, 2), ("p2", 2, 1)):
        host.run("ovs-appctl", "netdev-dummy/receive", port, UDP.format(a=a, b=b))
    connection = (
        "udp,orig=(src=10.1.1.1,dst=10.1.1.2,sport=1,dport=2),reply=(src=10.1.1.2,dst=10.1.1.1,sport=2,dport=1),"
        "zone=5,mark=7\n"
    )
    assert host.run("ovs-appctl", "dpctl/dump-conntrack") == connection
    assert host.run("ovs-appctl", "dpctl/dump-conntrack", "zone=6") == ""
    first = host.run("ovs-ofctl", "--no-stats", "--no-names", "dump-flows", "br0", "in_port=1").splitlines()[-1]
    assert first == " priority=10,ip,in_port=1 actions=ct(commit,zone=5,exec(load:0x7->NXM_NX_CT_MARK[])),output:2"
    assert "n_packets=1" in host.run("ovs-ofctl", "dump-flows", "br0", "table=1")
    error = host.run("ovs-appctl", "dpctl/dump-conntrack", "nope", status=2)
    assert error.startswith("ovs-vswitchd: datapath not found (Invalid argument)\n")
    host.run("ovs-appctl", "time/stop")
    assert host.run("ovs-appctl", "time/warp", "31000") == "warped\n"
    assert host.run("ovs-appctl", "dpctl/dump-conntrack") == ""
    assert host.run("ovs-appctl", "coverage/read-counter", "dp_packet_batch_grow") == "0\n"
    assert host.run("ovs-appctl", "revalidator/purge") == ""
    host.run("ovs-vsctl", "del-br", "br0")
    host.run("ovs-appctl", "-t", "ovs-vswitchd", "exit", "--cleanup")
    host.wait_for_end(pid)
    assert not (host.directory / "ovs-vswitchd.pid").exists()
    assert not list(host.directory.glob("ovs-vswitchd.*.ctl"))
    assert "Datapath supports ct_clear action" in host.log
    assert not [line for line in host.log.splitlines() if "|WARN|" in line or "|ERR|" in line or "|EMER|" in line]


def test_a_second_daemon_is_refused_and_a_signal_ends_the_first(host: Host) -> None:
    host.run("ovs-vswitchd", *FLAGS.split())
    pid = host.pid("ovs-vswitchd")
    error = host.run("ovs-vswitchd", *FLAGS.split(), status=1)
    assert error == f"ovs-vswitchd: {host.directory}/ovs-vswitchd.pid: already running as pid {pid}, aborting\n"
    log = host.directory / "ovs-vswitchd.log"
    log.rename(host.directory / "old.log")
    host.run("ovs-appctl", "vlog/reopen")
    assert "|vlog|INFO|opened log file " in host.log
    os.kill(pid, signal.SIGTERM)
    host.wait_for_end(pid)


def test_flags_that_are_wrong_end_it_with_a_message(host: Host) -> None:
    assert host.run("ovs-vswitchd", "--bogus", status=1) == "ovs-vswitchd: unrecognized option '--bogus'\n"
    error = host.run("ovs-vswitchd", "--detach", "--log-file=/nonexistent/x.log", status=1)
    assert error == "ovs-vswitchd: failed to open /nonexistent/x.log for logging: No such file or directory\n"


def test_a_hang_up_opens_the_log_anew_and_ends_nothing(host: Host) -> None:
    host.run("ovs-vswitchd", *FLAGS.split())
    pid = host.pid("ovs-vswitchd")
    log = host.directory / "ovs-vswitchd.log"
    log.rename(host.directory / "old.log")
    os.kill(pid, signal.SIGHUP)
    host.wait_for(lambda: log.exists() and "|vlog|INFO|opened log file " in host.log)
    assert "|vlog|INFO|closing log file" in (host.directory / "old.log").read_text()
    host.run("ovs-vsctl", *ADD_BRIDGE)
    assert host.run("ovs-appctl", "version").startswith("ovs-vswitchd ")
    os.kill(pid, signal.SIGINT)
    host.wait_for_end(pid)
    assert not (host.directory / "ovs-vswitchd.pid").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize("user", [None, "root:daemon", "nobody"])
def test_what_root_may_is_given_up(host: Host, user: str | None) -> None:
    flags = [word for word in FLAGS.split() if "dummy" not in word]
    if user == "nobody":
        if subprocess.run(["setpriv", "--reuid=nobody", "--clear-groups", "test", "-r", sys.executable]).returncode:
            pytest.skip("nobody may not read this Python")
        host.let_in("nobody")
    host.run("ovs-vswitchd", *flags, *([f"--user={user}"] if user else []))
    pid = host.pid("ovs-vswitchd")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert int(status["CapEff"], 16) & ~(1 << 12 | 1 << 13 | 1 << 23 | 1 << 38 | 1 << 39) == 0
    assert set(status["Uid"].split()) == ({"65534"} if user == "nobody" else {"0"})
    assert set(status["Gid"].split()) == {{"nobody": "65534", "root:daemon": "1"}.get(user or "", "0")}
    is_open = user != "nobody" or os.stat("/dev/net/tun").st_mode & 0o002
    added = subprocess.run(
        ["ovs-vsctl", "--timeout=20", "add-br", "priv-br0"], env=host.environment, capture_output=True, text=True
    )
    try:
        assert (added.returncode, is_open or "/dev/net/tun: Permission denied" in added.stderr) == (0, True)
        told = host.run("ovs-vsctl", "get", "interface", "priv-br0", "ofport", "error").splitlines()
        assert told == ["65534", "[]"] if is_open else "/dev/net/tun" in told[1]
        assert (host.directory / "priv-br0.mgmt").stat().st_mode & 0o777 == 0o600
    finally:
        host.run("ovs-vsctl", "--timeout=20", "del-br", "priv-br0")
    os.kill(pid, signal.SIGTERM)
    host.wait_for_end(pid)
    assert not (host.directory / "ovs-vswitchd.pid").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_user_that_is_not_there_is_named(host: Host) -> None:
    error = host.run("ovs-vswitchd", *FLAGS.split(), "--user=no-such-user", status=1)
    assert error == "ovs-vswitchd: --user=no-such-user: user no-such-user not found\n"


def test_systemd_is_told_and_all_forms_of_v_are_taken(host: Host) -> None:
    verbosity = (
        "-vANY:syslog:off", "--verbose=console:off", "-vfile:info", "-vPATTERN:file:%N|%p|%m", "-vFACILITY:daemon",
        "-vunheard_of:dbg", "-voff:console", "--log-file",
    )  # fmt: skip
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(host.directory / "notify"))
        told.settimeout(240)
        process = subprocess.Popen(
            ["ovs-vswitchd", "--enable-dummy", "--pidfile", "--no-chdir", *verbosity],
            env=host.environment | {"NOTIFY_SOCKET": str(host.directory / "notify")},
        )
        host.pids.append(process.pid)
        assert told.recv(100).split(b"\n")[0] == b"READY=1"
        assert (host.directory / "ovs-vswitchd.pid").read_text() == f"{process.pid}\n"
        host.run("ovs-vsctl", *ADD_BRIDGE)
        process.terminate()
        assert told.recv(100) == b"STOPPING=1"
    assert process.wait(30) == 0
    assert "|INFO|bridge br0: added interface p1 on port 1" in host.log


@pytest.mark.parametrize("name", ["flowshunt.service", "flowshunt-vswitchd.service"])
def test_units_keep_what_the_switch_keeps(name: str) -> None:
    unit = (Path(__file__).resolve().parents[2] / "packaging" / name).read_text()
    (bounded,) = [line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")]
    assert set(bounded.partition("=")[2].split()) == {NAMES[number] for number in PURPOSES}
    assert "Type=notify" in unit and "NoNewPrivileges=yes" in unit


@pytest.mark.skipif(shutil.which("ovs-pcap") is None, reason="needs ovs-pcap (Debian: openvswitch-common)")
def test_dummy_ports_write_what_passes_them_to_pcap_files(host: Host) -> None:
    host.run("ovs-vswitchd", *FLAGS.split())
    host.pid("ovs-vswitchd")
    recorded = "-- set interface p1 options:pcap=p1.pcap -- set interface p2 options:tx_pcap=p2.pcap"
    host.run("ovs-vsctl", *ADD_BRIDGE, *recorded.split())
    host.run("ovs-ofctl", "add-flow", "br0", "actions=in_port,output:2")
    host.run("ovs-appctl", "netdev-dummy/receive", "p1", UDP.format(a=1, b=2))
    received, sent_back = host.run("ovs-pcap", "p1.pcap").split()
    assert host.run("ovs-pcap", "p2.pcap").split() == [received] == [sent_back]
    assert received.startswith("505400000002505400000001")
    host.run("ovs-vsctl", "set", "interface", "p2", "options:rxq_pcap=p2.pcap")
    host.run("ovs-appctl", "netdev-dummy/receive", "p2", UDP.format(a=2, b=1))
    assert host.run("ovs-pcap", "p2.pcap").split() == [received] + 2 * [host.run("ovs-pcap", "p2.pcap").split()[1]]
    host.run("ovs-vsctl", "set", "interface", "p1", "options:pcap=no/p1.pcap")
    host.run("ovs-appctl", "netdev-dummy/receive", "p1", UDP.format(a=1, b=2))
    assert "p1: failed to open pcap file for appending: no/p1.pcap cannot be written" in host.log
    host.run("ovs-appctl", "-t", "ovs-vswitchd", "exit", "--cleanup")


def test_names_of_sockets_may_be_longer_than_an_address(tmp_path: Path) -> None:
    place = tmp_path / ("long" * 30)
    place.mkdir()
    host = Host(place)
    try:
        host.start_database()
        host.run("ovs-vswitchd", *FLAGS.split())
        pid = host.pid("ovs-vswitchd")
        host.run("ovs-vsctl", *ADD_BRIDGE)
        assert "OFPT_FEATURES_REPLY" in host.run("ovs-ofctl", "show", "br0")
        said = host.run(sys.executable, "-m", "flowshunt", "conntrack", "-C", "--socket", str(place))
        assert said == "0\n"
        host.run("ovs-appctl", "exit")
        host.wait_for_end(pid)
    finally:
        for pid in host.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

"""Three hosts on `flowshunt vswitchd` with a real database: what tests of a module share, since a start takes seconds.

Host hN has eth0 at port pN (number N) of bridge br0, the addresses 10.1.1.N/24 and fc00::N/64, and a MAC that ends in
N; the hosts know each other, so that rules need not care for ARP. Sockets are made by the test itself, in the
namespaces of the hosts: the kernel's TCP and UDP, without a process for each end.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.system.network import START_S, Network, networks, poll

TOOLS = ("ping", "ovs-vsctl", "ovs-ofctl", "ovs-appctl", "ovsdb-server", "ovsdb-tool")
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
HOSTS = (1, 2, 3)
PATIENCE_S = 20.0

_NO_PORT = (socket.AF_INET, socket.AF_INET6)


def mac(number: int) -> str:
    """The address of host hN's device."""
    return f"02:00:00:00:00:{number:02x}"


def _acquaintance(address: str, number: int) -> str:
    """Arguments of ip that tell a host where an address is."""
    return f"neigh replace {address} lladdr {mac(number)} dev eth0 nud permanent"


def family_of(address: str) -> socket.AddressFamily:
    """By the look of it."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Lab:
    """The hosts and the switch. Every test begins with `rules`, which also forgets what others left in the tracker."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        self.directory = directory
        self.process: subprocess.Popen[str] | None = None
        self._server_words: tuple[str, ...] = ()
        self._log_size = 0
        self._open: list[socket.socket] = []
        places = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(directory))
        self.environment = os.environ | places | {"OVS_SYSLOG_METHOD": "null", "PYTHONPATH": os.pathsep.join(sys.path)}

    # --- the switch ---

    def start(self, *flags: str) -> None:
        """Database, daemon with these flags, bridge, hosts."""
        for number in HOSTS:
            name = f"h{number}"
            self.network.host(name, f"10.1.1.{number}/24", f"fc00::{number}/64", port=f"p{number}")
            acquaintances = [_acquaintance(f"{net}{other}", other) for net in ("10.1.1.", "fc00::") for other in HOSTS]
            lines = (f"link set eth0 address {mac(number)}", *acquaintances)
            self.network.run(name, "ip", "-batch", "-", input="\n".join(lines))
        database, remote = self.directory / "conf.db", f"punix:{self.directory}/db.sock"
        self.system("ovsdb-tool", "create", str(database), SCHEMA)
        self._server_words = ("ovsdb-server", "-vconsole:off", str(database), f"--remote={remote}", "--pidfile")
        self.start_database()
        self.system("ovs-vsctl", "--no-wait", "init")
        self.launch(*flags)
        words = ["add-br", "br0", "--", "set", "bridge", "br0", "fail-mode=secure", "datapath_type=netdev"]
        for number in HOSTS:
            words += ["--", "add-port", "br0", f"p{number}", "--", "set", "interface", f"p{number}"]
            words += [f"ofport_request={number}"]
        self.vsctl("--timeout=60", *words)

    def launch(self, *flags: str) -> None:
        """The daemon, in place of one that has ended."""
        for control in self.directory.glob("ovs-vswitchd.*.ctl"):
            control.unlink()
        self.process = process = self._launch(
            sys.executable, "-m", "flowshunt", "vswitchd", "--pidfile", "--log-file", "-vconsole:off", *flags
        )
        poll(lambda: self._has_ended() or any(self.directory.glob("ovs-vswitchd.*.ctl")), START_S)
        assert not self._has_ended(), process.communicate()

    def _has_ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def start_database(self) -> None:
        """Start ovsdb-server."""
        self._database = self._launch(*self._server_words)
        poll((self.directory / "db.sock").exists)

    def stop_database(self) -> None:
        """End ovsdb-server."""
        self._database.terminate()
        self._database.communicate(timeout=30)
        (self.directory / "db.sock").unlink(missing_ok=True)

    def _launch(self, *words: str) -> subprocess.Popen[str]:
        return self.network.start("switch", *words, env=self.environment)

    def stop(self) -> None:
        """End it as scripts do; it must have been content throughout."""
        assert self.process is not None
        assert not self._has_ended(), self.process.communicate()
        self.appctl("exit", "--cleanup")
        said = self.process.communicate(timeout=60)
        assert (self.process.returncode, *said) == (0, "", ""), said

    def complaints_but(self, word: str) -> list[str]:
        """`complaints` that have nothing to do with a word."""
        return [line for line in self.complaints() if word not in line]

    def complaints(self) -> list[str]:
        """Lines of the log at WARN and above since the last time."""
        log = (self.directory / "ovs-vswitchd.log").read_text()
        lines = log[self._log_size :].splitlines()
        self._log_size = len(log)
        return [line for line in lines if re.search(r"\|(WARN|ERR|EMER)\|", line)]

    def system(self, *words: str, text: str | None = None, status: int = 0) -> str:
        """What one of the switch's tools prints."""
        done = subprocess.run(
            words, env=self.environment, input=text, capture_output=True, text=True, timeout=START_S, check=False
        )
        assert done.returncode == status, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout + (done.stderr if status else "")

    def ofctl(self, *words: str, text: str | None = None) -> str:
        """What ovs-ofctl prints."""
        return self.system("ovs-ofctl", *words, text=text)

    def appctl(self, *words: str, status: int = 0) -> str:
        """What ovs-appctl prints."""
        return self.system("ovs-appctl", *words, status=status)

    def flowshunt(self, *words: str) -> str:
        """What flowshunt prints."""
        return self.system(sys.executable, "-m", "flowshunt", *words)

    def vsctl(self, *words: str) -> str:
        """What ovs-vsctl prints."""
        return self.system("ovs-vsctl", *words)

    def rules(self, text: str, bridge: str = "br0") -> None:
        """These rules and no others, and a tracker that knows nothing."""
        self.ofctl("del-flows", bridge)
        self.ofctl("--bundle", "add-flows", bridge, "-", text=text)
        self.flush()

    def flush(self, *what: str) -> None:
        """dpctl/flush-conntrack"""
        assert self.appctl("dpctl/flush-conntrack", *what) == ""

    def connections(self, *options: str) -> list[str]:
        """What dpctl/dump-conntrack lists, in alphabetical order, with the identifiers that ping chose as <ID>."""
        lines = self.appctl("dpctl/dump-conntrack", *options).splitlines()
        return sorted(re.sub(r",id=\d+,type", ",id=<ID>,type", line) for line in lines)

    def expect(self, *lines: str) -> None:
        """Wait until exactly these connections are listed."""
        deadline = time.monotonic() + PATIENCE_S
        while (listed := self.connections()) != sorted(lines) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert listed == sorted(lines), "\n".join(listed)

    def monitor(self, log: Path) -> None:
        """Have ovs-ofctl write what controllers are told into a file, from now on."""
        with log.open("w") as heard:
            self.network.start(
                "switch", "ovs-ofctl", "-P", "nxt_packet_in2", "monitor", "br0", "65534",
                env=self.environment, stdout=heard, stderr=subprocess.STDOUT,
            )  # fmt: skip
        poll(lambda: self._is_heard(log))

    def _is_heard(self, log: Path) -> bool:
        """Whether a packet for controllers is heard of."""
        frame = f"{mac(9).replace(':', '')}{mac(8).replace(':', '')}88b5".ljust(120, "0")
        self.ofctl("-O", "OpenFlow13", "packet-out", "br0", f"in_port=local packet={frame} actions=controller")
        return "88b5" in log.read_text()

    def packets(self, match: str, bridge: str = "br0") -> int:
        """How many packets the rules of a match have counted."""
        return int(self.ofctl("dump-aggregate", bridge, match).split("packet_count=")[1].split()[0])

    def wait_for_packets(self, match: str, n: int = 1, bridge: str = "br0") -> None:
        """Until the rules of a match have counted as many."""
        poll(lambda: self.packets(match, bridge) >= n)

    # --- the hosts ---

    def know(self, number: int, address: str, other: int) -> None:
        """Tell host `number` that `address` is at host `other`."""
        self.network.run(f"h{number}", "ip", *_acquaintance(address, other).split())

    def ping(self, number: int, address: str, *options: str) -> None:
        """Three pings of one connection, each of which must be answered."""
        for _ in range(3):  # ping waits as long as it is told to only for an only answer
            self.network.ping(f"h{number}", address, "-e", "77", "-W", "20", *options, count=1)

    def open(
        self, number: int, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET, protocol: int = 0
    ) -> socket.socket:
        """A socket of a host; it is closed when the test is over."""
        with self.inside(f"h{number}"):
            made = socket.socket(family, kind, protocol)
        made.settimeout(PATIENCE_S)
        if family in _NO_PORT and kind != socket.SOCK_RAW:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._open.append(made)
        return made

    def inside(self, name: str) -> contextlib.AbstractContextManager[None]:
        """What this thread makes meanwhile belongs to a namespace."""
        return self.network.inside(name)

    def raw(self, number: int) -> socket.socket:
        """A host's eth0 as a packet socket: frames in and out."""
        made = self.open(number, socket.SOCK_RAW, socket.AF_PACKET, socket.htons(3))
        made.bind(("eth0", 3))
        return made

    def listen(
        self, number: int, port: int, kind: int = socket.SOCK_STREAM, address: str | None = None
    ) -> socket.socket:
        """A server of a host, at its IPv4 address unless another one is given."""
        address = address or f"10.1.1.{number}"
        made = self.open(number, kind, family_of(address))
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen(16)
        return made

    def call(self, number: int, address: str, port: int, own_port: int, *, waits: bool = True) -> socket.socket:
        """A TCP connection from a host and port; without `waits` it is begun, and nothing more."""
        made = self.open(number, family=family_of(address))
        made.bind(("::" if ":" in address else "0.0.0.0", own_port))
        if waits:
            made.connect((address, port))
        else:
            made.setblocking(False)
            made.connect_ex((address, port))
        return made

    def accept(self, server: socket.socket) -> socket.socket:
        """The next one who calls; it is closed when the test is over."""
        made = server.accept()[0]
        made.settimeout(PATIENCE_S)
        self._open.append(made)
        return made

    def close(self) -> None:
        """What the test has opened."""
        while self._open:
            made = self._open.pop()
            if made.type == socket.SOCK_STREAM:  # without TIME_WAIT, which would keep the port
                with contextlib.suppress(OSError):
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            made.close()


def exchange(client: socket.socket, server: socket.socket) -> None:
    """Something there, and something back."""
    for one, other, said in ((client, server, b"request"), (server, client, b"answer")):
        one.sendall(said)
        assert other.recv(100) == said


@contextlib.contextmanager
def labs(*flags: str) -> Iterator[Lab]:
    """A lab that is cleaned up."""
    directory = Path(tempfile.mkdtemp())
    try:
        with networks() as network:
            lab = Lab(network, directory)
            lab.start(*flags)
            yield lab
            lab.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)

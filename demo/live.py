"""The connection-tracking guide of BlueField, live on any Linux machine: `sudo make live-demo`.

Two machines (network namespaces `host` and `remote`) hang on a third one (`switch`) by cables named as the ports of the
guide, p0 and pf0hpf. There a real ovsdb-server and Flowshunt's daemon run, in a private directory, and the guide's
commands are typed. Every command is shown with what it printed; what should be seen is looked for, and the exit status
is 1 when it is not. Whatever happens, nothing is left behind.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
TOOLS = {
    "ip": "iproute2",
    "ping": "iputils-ping",
    "iperf3": "iperf3",
    "nc": "netcat-openbsd",
    "ovsdb-tool": "openvswitch-switch",
    "ovsdb-server": "openvswitch-switch",
    "ovs-vsctl": "openvswitch-switch",
    "ovs-ofctl": "openvswitch-common",
    "ovs-appctl": "openvswitch-common",
}
NAMESPACES = ("host", "remote", "switch")
START_S = 1200
"""The first start may have to compile."""
PATIENCE_S = 15.0


class DemoError(Exception):
    """Something that the demonstration needs, or should show, is not there."""


class Machines:
    """The namespaces, what runs in them, and a directory for it all. A context manager: in the end everything goes."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._prefix = f"flowshunt-{os.getpid()}-"
        self.directory = Path(tempfile.mkdtemp(prefix="flowshunt-live-"))
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        places = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(self.directory))
        self.environment = os.environ | places | {"PATH": path, "OVS_SYSLOG_METHOD": "null"}

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in NAMESPACES:
            subprocess.run(["ip", "netns", "del", self._prefix + name], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _words(self, command: str, machine: str) -> list[str]:
        words = shlex.split(command)
        return ["ip", "netns", "exec", self._prefix + machine, *words] if machine else words

    def make(self) -> None:
        """The namespaces and the cables between them."""
        for name in NAMESPACES:
            self.run(f"ip netns add {self._prefix}{name}")
            self.run("ip link set lo up", name)
        for port, name in (("p0", "remote"), ("pf0hpf", "host")):
            self.run(f"ip link add {port} type veth peer eth0 netns {self._prefix}{name}", "switch")
            self.run(f"ip link set {port} up", "switch")
            self.run("ip link set eth0 up", name)

    def run(self, command: str, machine: str = "") -> str:
        """What a command prints. Raises DemoError when it fails."""
        done = subprocess.run(
            self._words(command, machine), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True, timeout=START_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise DemoError(f"{command}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def start(self, command: str, machine: str) -> subprocess.Popen[str]:
        """A command that goes on, out of reach of a Ctrl-C that is meant for the demonstration."""
        process = subprocess.Popen(
            self._words(command, machine), env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        return process


class Story:
    """Tells what is done while doing it."""

    def __init__(self, machines: Machines, seconds: float) -> None:
        self._machines = machines
        self._seconds = seconds

    def title(self, text: str) -> None:
        print(f"\n=== {text} ===", flush=True)

    def tell(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def do(self, command: str, machine: str = "", prompt: str = "") -> str:
        """Show a command, run it, and show what it prints."""
        print(f"{prompt or machine or 'switch'}# {command}", flush=True)
        said = self._machines.run(command, machine)
        print(said, end="", flush=True)
        return said

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            raise DemoError(f"this should have been seen: {what}")

    def wait(self, holds: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Until it holds."""
        deadline = time.monotonic() + patience_s
        while not holds():
            self.expect(time.monotonic() < deadline, what)
            time.sleep(0.05)

    # --- what is done more than once ---

    def start_switch(self) -> None:
        """The database and the daemon."""
        machines, directory = self._machines, self._machines.directory
        machines.run(f"ovsdb-tool create {directory}/conf.db {SCHEMA}")
        machines.start(
            f"ovsdb-server {directory}/conf.db --remote=punix:{directory}/db.sock --pidfile -vconsole:off", "switch"
        )
        self.wait((directory / "db.sock").exists, "the socket of ovsdb-server")
        machines.run("ovs-vsctl --no-wait init")
        daemon = machines.start(
            f"{shlex.quote(sys.executable)} -m flowshunt vswitchd --pidfile --log-file -vconsole:off", "switch"
        )
        self.wait(lambda: daemon.poll() is not None or self._answers(), "an answer of the daemon", START_S)
        if daemon.poll() is not None:
            raise DemoError(f"flowshunt vswitchd has ended:\n{daemon.communicate()[0]}")

    def _answers(self) -> bool:
        try:
            self._machines.run("ovs-appctl version")
        except DemoError:
            return False
        return True

    def listing(self, options: str) -> str:
        """The connections."""
        return self._machines.run(f"flowshunt conntrack -L {options}")

    def count(self, word: str, options: str) -> int:
        """How many connections are listed with a word."""
        return self.listing(options).count(word)

    def show_offloaded(self, options: str, least: int = 2) -> None:
        """List connections once so many are offloaded: iperf3 has one to control the other."""
        self.wait(lambda: self.count("[OFFLOAD]", options) >= least, "[OFFLOAD]")
        self.do(f"flowshunt conntrack -L {options}")

    def start_iperf(self, address: str) -> subprocess.Popen[str]:
        """iperf3 on both machines, until it is told to end; returns the client."""
        print("remote# iperf3 -s -p 5001 -1 &")
        self._machines.start("iperf3 -s -p 5001 -1", "remote")
        self.wait(lambda: ":5001" in self._machines.run("ss -Hltn", "remote"), "iperf3 listening")
        print(f"host# iperf3 -c {address} -p 5001 -t 600 &", flush=True)
        return self._machines.start(f"iperf3 -c {address} -p 5001 -t 600", "host")

    def end_iperf(self, client: subprocess.Popen[str]) -> None:
        """Let it run a while longer, and show what it says in the end."""
        time.sleep(self._seconds)
        self.expect(client.poll() is None, "iperf3 sending, but it has ended")
        print("host# kill -INT %1", flush=True)
        client.send_signal(signal.SIGINT)
        said = client.communicate(timeout=60)[0]
        summary = [line for line in said.splitlines() if "sender" in line]
        self.expect(bool(summary) and " 0.00 Bytes" not in summary[0], f"traffic, but iperf3 said:\n{said}")
        print(summary[0], flush=True)

    # --- the chapters ---

    def tracking(self) -> None:
        """The guide's first rules."""
        machines = self._machines
        machines.run("ip addr add 1.1.1.2/24 dev eth0", "host")
        machines.run("ip addr add 1.1.1.3/24 dev eth0", "remote")
        self.title("Connection tracking with offload")
        self.tell("The host is 1.1.1.2 behind pf0hpf, the remote machine 1.1.1.3 behind p0.")
        self.do("ovs-vsctl set Open_vSwitch . other_config:hw-offload=true")
        for command in ("add-br ctBr", "add-port ctBr p0", "add-port ctBr pf0hpf"):
            self.do(f"ovs-vsctl {command}")
        self.do('ovs-ofctl add-flow ctBr "table=0,arp,action=normal"')
        self.do('ovs-ofctl add-flow ctBr "table=0,ip,ct_state=-trk,action=ct(table=1)"')
        self.do('ovs-ofctl add-flow ctBr "table=1,priority=1,ip,ct_state=+trk+new,action=ct(commit),normal"')
        self.do('ovs-ofctl add-flow ctBr "table=1,priority=1,ip,ct_state=+trk+est,action=normal"')
        said = self.do("ping -c 3 -i 0.2 1.1.1.3", "host")
        self.expect(" 0% packet loss" in said, "every answer to ping")
        client = self.start_iperf("1.1.1.3")
        self.tell("While it runs: TCP is offloaded, ICMP is not.")
        self.show_offloaded("-p tcp")
        self.do("flowshunt conntrack -L -p icmp")
        self.end_iperf(client)
        self.tell("The rules count what was forwarded past them, too.")
        self.do("ovs-ofctl dump-flows ctBr table=1")

    def bypass(self) -> None:
        """RoCEv2 goes past the tracker."""
        self.title("RoCEv2 goes past the tracker")
        self.do("ovs-ofctl del-flows ctBr")
        self.do('ovs-ofctl add-flow ctBr "table=0,arp,action=normal"')
        self.do("ovs-ofctl add-flow ctBr table=0,udp,tp_dst=4791,action=normal")
        self.do('ovs-ofctl add-flow ctBr "table=0,ip,ct_state=-trk,action=ct(table=1)"')
        self.do('ovs-ofctl add-flow ctBr "table=1,priority=1,ip,ct_state=+trk+new,action=ct(commit),normal"')
        self.do('ovs-ofctl add-flow ctBr "table=1,priority=1,ip,ct_state=+trk+est,action=normal"')
        for port in (4791, 4792):
            self.do(f"bash -c 'echo hello | nc -u -w 1 1.1.1.3 {port}'", "host")
        said = self.do("flowshunt conntrack -L -p udp")
        self.expect("dport=4792" in said and "dport=4791" not in said, "port 4792 tracked, port 4791 not")

    def translation(self) -> None:
        """The guide's SNAT."""
        machines = self._machines
        self.title("Source NAT with offload")
        self.tell("The remote machine is 2.2.2.1, and the host, 1.1.1.2, appears to it as 1.1.1.16. Nobody has that")
        print("address, so the remote machine is told by a static ARP entry where it is.")
        machines.run("ip addr flush dev eth0", "remote")
        self.do("ip addr add 2.2.2.1/24 dev eth0", "remote")
        self.do("ip route add 1.1.1.0/24 dev eth0", "remote")
        self.do("ip route add 2.2.2.0/24 dev eth0", "host")
        address = machines.run("cat /sys/class/net/eth0/address", "host").strip()
        self.do(f"ip neigh replace 1.1.1.16 lladdr {address} dev eth0", "remote")
        self.do("ovs-ofctl del-flows ctBr")
        self.do('ovs-ofctl add-flow ctBr "table=0,arp,action=normal"')
        self.do('ovs-ofctl add-flow ctBr "table=0,ip,ct_state=-trk,action=ct(table=1,nat)"')
        self.do(
            'ovs-ofctl add-flow ctBr "table=1,in_port=pf0hpf,ip,ct_state=+trk+new,'
            'action=ct(commit,nat(src=1.1.1.16)), p0"'
        )
        self.do('ovs-ofctl add-flow ctBr "table=1,ip,ct_state=+trk+est,action=normal"')
        said = self.do("ping -c 3 -i 0.2 2.2.2.1", "host")
        self.expect(" 0% packet loss" in said, "every answer to ping")
        client = self.start_iperf("2.2.2.1")
        self.tell("While it runs: replies are for 1.1.1.16.")
        self.show_offloaded("-p tcp -d 2.2.2.1 -q 1.1.1.16")
        said = machines.run("ss -Htn state established sport = :5001", "remote")
        self.expect("1.1.1.16" in said and "1.1.1.2:" not in said, "1.1.1.16 calling the remote machine")
        self.end_iperf(client)

    def the_knob(self) -> None:
        """hw-offload, off and on below a connection."""
        self.title("hw-offload, switched off and on while a connection runs")
        self.do("flowshunt conntrack -F")
        client = self.start_iperf("2.2.2.1")
        listed = "-p tcp -d 2.2.2.1"
        self.show_offloaded(listed)
        self.do("ovs-vsctl set Open_vSwitch . other_config:hw-offload=false")
        self.wait(lambda: self.count("[OFFLOAD]", listed) == 0, "no [OFFLOAD]")
        said = self.do(f"flowshunt conntrack -L {listed}")
        self.expect(said.count("ESTABLISHED") == 2, "the same connections on the long way")
        self.do("ovs-vsctl set Open_vSwitch . other_config:hw-offload=true")
        self.show_offloaded(listed, least=1)
        print("A connection that says nothing at the moment follows with its next packets.")
        self.end_iperf(client)

    def farewell(self) -> None:
        """The daemon's end."""
        self.title("The end")
        self.do("ovs-vsctl del-br ctBr")
        self.do("ovs-appctl exit --cleanup")
        self.tell("All of it was real, and all of it is gone: namespaces, cables, database, switch.")


def check_machine() -> None:
    """Raise DemoError with what is missing, and how to get it."""
    if os.geteuid() != 0:
        raise DemoError("namespaces and network devices need root: sudo make live-demo")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not missing and not SCHEMA.is_file():
        missing = [str(SCHEMA)]
    if missing:
        packages = sorted({TOOLS.get(tool, "openvswitch-switch") for tool in missing})
        raise DemoError(f"{', '.join(missing)} not found (Debian: apt-get install {' '.join(packages)})")
    if not os.path.exists("/dev/net/tun"):
        raise DemoError("there is no /dev/net/tun, which bridges need for their own port")


def interrupt(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C."""
    raise KeyboardInterrupt


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="how much longer iperf3 runs than needed (default 2)")
    arguments = parser.parse_args()
    try:
        check_machine()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, interrupt)
        with Machines() as machines:
            story = Story(machines, arguments.seconds)
            machines.make()
            print("Starting ovsdb-server and flowshunt vswitchd; kernels are compiled if this is their first time.")
            story.start_switch()
            for chapter in (story.tracking, story.bypass, story.translation, story.the_knob, story.farewell):
                chapter()
    except DemoError as problem:
        print(f"live demo: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("live demo: interrupted; everything is cleaned up", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

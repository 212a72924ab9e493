"""The real ovs-ofctl against a switch without live ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowshunt.app import Switch
from flowshunt.base.clock import SystemClock
from flowshunt.base.errors import InputError, UsageError
from flowshunt.control.openflow import server as server_module
from flowshunt.control.openflow.controllers import Controllers, ControllerSettings
from flowshunt.control.openflow.server import Server
from flowshunt.control.openflow.service import Service
from tests.builders import Packet
from tests.control.openflow.wires import hello, message
from tests.datapath.switches import send, udp

OVS_OFCTL = shutil.which("ovs-ofctl")
needs_ofctl = pytest.mark.skipif(OVS_OFCTL is None, reason="needs ovs-ofctl (Debian: openvswitch-common)")


class Running:
    """A server in a thread of its own, with everything that belongs to it."""

    def __init__(self, directory: Path) -> None:
        self.switch = Switch(max_connections=1000)
        for name, number in (("br0", 0xFFFE), ("p0", 1), ("p1", 2)):
            self.switch.add_port(name, number)
        clock = SystemClock()
        self.service = Service(self.switch, datapath_id=0xABC, started_ns=clock.now_ns())
        self.path = directory / "br0.mgmt"
        self.server = Server(self.service, clock)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.call(self.server.listen(self.path))

    def call(self, work: object) -> object:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)  # type: ignore[arg-type]

    def do(self, work: Callable[[], None]) -> None:
        async def once() -> None:
            work()

        self.call(once())

    def close(self) -> None:
        self.call(self.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(self.path))
        return connection

    def ofctl(self, *arguments: str, check: bool = True, text: str | None = None) -> str:
        """What the tool prints; `text` is its standard input."""
        assert OVS_OFCTL is not None
        options = [argument for argument in arguments if argument.startswith("-") and argument != "-"]
        command, *rest = [argument for argument in arguments if argument not in options]
        done = subprocess.run(
            [OVS_OFCTL, *options, command, f"unix:{self.path}", *rest],
            capture_output=True, text=True, timeout=60, check=False, input=text,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stderr
            assert not done.stderr
        return done.stdout + done.stderr

    def flows(self, *options: str) -> list[str]:
        return [line.strip() for line in self.ofctl(*options, "--no-stats", "dump-flows").splitlines()]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "run")
    try:
        yield running
    finally:
        running.close()


RULES = """\
table=0,arp,action=normal
table=0,ip,ct_state=-trk,action=ct(table=1)
table=1,priority=1,ip,ct_state=+trk+new,action=ct(commit),normal
table=1,priority=1,ip,ct_state=+trk+est,action=normal
table=2,in_port=1,ip,ct_state=+trk+new,actions=ct(commit,zone=reg0[0..15],exec(set_field:0x1->ct_mark)),2
table=3,priority=7,tcp6,tp_dst=80/0xfff0,ipv6_src=fe80::/10,actions=resubmit(,4),ct_clear,output:NXM_NX_REG0[0..15]
table=4,dl_vlan=5,actions=strip_vlan,clone(output:1),LOCAL
table=6,tcp,ct_state=+trk+new,actions=ct(commit,nat(src=1.1.1.1-1.1.1.9:5000-6000,random),alg=ftp),2
table=6,ipv6,ct_state=-trk,actions=ct(table=7,nat)
table=6,ipv6,ct_state=+trk+new,actions=ct(commit,nat(dst=[fc00::1]-[fc00::9]:80,persistent,hash)),1
table=5,reg3=0x1/0xf,metadata=0x5,actions=load:0xff->NXM_NX_REG1[3..10],IN_PORT
"""
LISTED = [
    "arp actions=NORMAL",
    "ct_state=-trk,ip actions=ct(table=1)",
    "table=1, priority=1,ct_state=+new+trk,ip actions=ct(commit),NORMAL",
    "table=1, priority=1,ct_state=+est+trk,ip actions=NORMAL",
    "table=2, ct_state=+new+trk,ip,in_port=1 actions=ct(commit,zone=NXM_NX_REG0[0..15],exec(MARK)),output:2",
    "table=3, priority=7,tcp6,ipv6_src=fe80::/10,tp_dst=0x50/0xfff0 actions=resubmit(,4),ct_clear,"
    "output:NXM_NX_REG0[0..15]",
    "table=4, dl_vlan=5 actions=POP,clone(output:1),LOCAL",
    "table=5, reg3=0x1/0xf,metadata=0x5 actions=REG1,IN_PORT",
    "table=6, ct_state=+new+trk,tcp actions=ct(commit,nat(src=1.1.1.1-1.1.1.9:5000-6000,random),alg=ftp),output:2",
    "table=6, ct_state=-trk,ipv6 actions=ct(table=7,nat)",
    "table=6, ct_state=+new+trk,ipv6 actions=ct(commit,nat(dst=[fc00::1]-[fc00::9]:80,persistent,hash)),output:1",
]
"""As the tool prints the rules for a real Open vSwitch 3.1, with what depends on the version in capitals."""
WORDS = {
    "10": ("load:0x1->NXM_NX_CT_MARK[]", "strip_vlan", "load:0xff->NXM_NX_REG1[3..10]"),
    "11": ("load:0x1->NXM_NX_CT_MARK[]", "pop_vlan", "load:0xff->NXM_NX_REG1[3..10]"),
    "12": ("set_field:0x1->ct_mark", "pop_vlan", "load:0xff->NXM_NX_REG1[3..10]"),
    "13": ("set_field:0x1->ct_mark", "pop_vlan", "load:0xff->NXM_NX_REG1[3..10]"),
    "14": ("set_field:0x1->ct_mark", "pop_vlan", "load:0xff->NXM_NX_REG1[3..10]"),
    "15": ("set_field:0x1->ct_mark", "pop_vlan", "set_field:0x7f8/0x7f8->reg1"),
}


def listed(version: str) -> list[str]:
    mark, pop, reg1 = WORDS[version]
    return sorted(line.replace("MARK", mark).replace("POP", pop).replace("REG1,", reg1 + ",") for line in LISTED)


@needs_ofctl
@pytest.mark.parametrize("version", sorted(WORDS))
def test_flows_go_in_and_come_out_as_with_open_vswitch(running: Running, version: str) -> None:
    option = f"-OOpenFlow{version}"
    # The tool itself finds that OpenFlow 1.1 cannot say these rules; it reads them nevertheless.
    running.ofctl("-OOpenFlow10" if version == "11" else option, "add-flows", "-", text=RULES)
    for other in WORDS:
        found = [line.replace("reset_counts ", "") for line in running.flows(f"-OOpenFlow{other}")]
        assert sorted(found) == listed(other)
    with_counts = running.ofctl(option, "dump-flows").splitlines()[1]
    assert re.match(r" cookie=0x0, duration=\d+(\.\d+)?s, table=0, n_packets=0, n_bytes=0,", with_counts)


@needs_ofctl
@pytest.mark.parametrize("options", [("--bundle",), ("--bundle", "-OOpenFlow13"), ("--bundle", "-OOpenFlow15")])
def test_bundles_replace_all_or_nothing(running: Running, options: tuple[str, ...]) -> None:
    running.ofctl(*options, "add-flows", "-", text=RULES)
    assert sorted(line.replace("reset_counts ", "") for line in running.flows()) == listed("10")
    wrong = "delete\nadd ip,actions=1\nadd check_overlap,tcp,actions=1\n"
    said = running.ofctl(*options, "add-flows", "-", text=wrong, check=False)
    assert "OFPFMFC_OVERLAP" in said
    assert len(running.flows()) == len(LISTED)
    running.ofctl(*options, "replace-flows", "-", text="ip,actions=1\n")
    assert running.flows() == ["ip actions=output:1"]


@needs_ofctl
@pytest.mark.parametrize("options", [(), ("-OOpenFlow13",), ("-OOpenFlow15",)])
def test_timeouts_importance_and_flags_are_listed_and_flows_expire(running: Running, options: tuple[str, ...]) -> None:
    running.ofctl(*options, "add-flow", "idle_timeout=60,hard_timeout=600,send_flow_rem,tcp,actions=1")
    (line,) = running.flows(*options)
    assert line.startswith("idle_timeout=60, hard_timeout=600, " + ("send_flow_rem " if options else "tcp"))
    now_ms = running.server.clock.now_ns() // 1_000_000
    running.do(lambda: running.switch.expire_flows(now_ms + 59_000) and None)
    assert len(running.flows()) == 1
    running.do(lambda: running.switch.expire_flows(now_ms + 61_000) and None)
    assert running.flows() == []


@needs_ofctl
def test_ages_are_listed(running: Running) -> None:
    running.ofctl("add-flow", "idle_timeout=60,actions=1")
    record = running.switch.datapath.rules.arrays.rules
    record["created_ms"][0] -= 50_000
    record["used_ms"][0] -= 20_000
    assert re.search(r"duration=5\d\.\d+s, table=0, n_packets=0, n_bytes=0, idle_timeout=60, idle_age=2\d,",
                     running.ofctl("dump-flows"))  # fmt: skip
    running.ofctl("mod-flows", "actions=2")
    assert re.search(r"idle_age=2\d, hard_age=0,? actions=output:2", running.ofctl("dump-flows"))


@needs_ofctl
def test_flows_are_modified_replaced_compared_and_deleted(running: Running, tmp_path: Path) -> None:
    running.ofctl("add-flows", "-", text=RULES)
    running.ofctl("mod-flows", "table=1,ip,ct_state=+trk+est,actions=2")
    assert "table=1, priority=1,ct_state=+est+trk,ip actions=output:2" in running.flows()
    running.ofctl("-OOpenFlow13", "--strict", "mod-flows", "table=1,priority=1,ip,ct_state=+trk+est,actions=drop")
    assert "table=1, priority=1,ct_state=+est+trk,ip actions=drop" in running.flows()
    running.ofctl("--strict", "del-flows", "table=1,priority=2,ip,ct_state=+trk+est")
    assert len(running.flows()) == 11
    running.ofctl("--strict", "del-flows", "table=1,priority=1,ip,ct_state=+trk+est")
    running.ofctl("del-flows", "ip")
    assert len(running.flows()) == 6
    running.ofctl("-OOpenFlow13", "replace-flows", "-", text="arp,actions=normal\nudp,actions=1\n")
    assert running.flows() == ["arp actions=NORMAL", "udp actions=output:1"]
    other = tmp_path / "other.flows"
    other.write_text("arp,actions=normal\ntcp,actions=1\n")
    text = running.ofctl("-OOpenFlow13", "diff-flows", str(other), check=False)
    assert sorted(text.splitlines()) == ["+tcp actions=output:1", "-udp actions=output:1"]
    running.ofctl("del-flows", "out_port=1")
    assert running.flows() == ["arp actions=NORMAL"]
    running.ofctl("add-flow", "cookie=0x12,table=9,actions=1")
    running.ofctl("del-flows", "cookie=0x12/0xff")
    running.ofctl("del-flows", "cookie=0x13/0xff")
    assert running.flows() == ["arp actions=NORMAL"]
    running.ofctl("del-flows")
    assert running.flows() == []


@needs_ofctl
def test_questions_about_the_switch(running: Running) -> None:
    running.ofctl("add-flows", "-", text=RULES)
    for version in WORDS:
        option = f"-OOpenFlow{version}"
        shown = running.ofctl(option, "show")
        assert "dpid:0000000000000abc" in shown and "n_tables:254" in shown
        assert " 1(p0): addr:02:00:00:00:00:01" in shown and " LOCAL(br0): addr" in shown
        assert "port  1: rx pkts=0, bytes=0, drop=?" in running.ofctl(option, "dump-ports", "1")
        assert "table 1" in running.ofctl(option, "dump-tables")
        assert "flow_count=11" in running.ofctl(option, "dump-aggregate")
        assert "Manufacturer: Flowshunt" in running.ofctl(option, "dump-desc")
        assert "port 1 queue 0" in running.ofctl(option, "queue-stats")
        assert running.ofctl(option, "get-frags") == "normal\n"
        assert running.ofctl(option, "probe") == ""
        assert "max option space=256" in running.ofctl(option, "dump-tlv-map")
        assert running.ofctl(option, "ct-flush-zone", "5") == ""
        assert running.ofctl(option, "ct-flush", "zone=5,ct_nw_src=10.0.0.1,ct_nw_proto=6") == ""
        assert "NXST_NOT_CONFIGURED" in running.ofctl(option, "dump-ipfix-bridge", check=False)
    assert running.ofctl("ping", "10").count("10 bytes from") == 10
    assert "name=" not in running.ofctl("--names", "dump-flows")
    assert "goto_table" in running.ofctl("-OOpenFlow13", "dump-table-features")
    assert "eviction=off" in running.ofctl("-OOpenFlow14", "dump-table-desc")


LINKS = [
    "tcp actions=multipath(eth_src,50,modulo_n,1,0,NXM_NX_REG0[])",
    "udp actions=multipath(symmetric_l3l4+udp,1024,iter_hash,5,9,NXM_NX_REG1[0..7])",
    "arp actions=bundle(symmetric_l4,60,active_backup,ofport,members:2,LOCAL)",
    "rarp actions=bundle_load(nw_src,0,hrw,ofport,NXM_NX_REG0[],members:)",
    "table=1, conj_id=7,ip actions=output(port=1,max_len=100)",
    "table=1, priority=5,ip,nw_src=10.0.0.1 actions=conjunction(7,1/2),conjunction(8,64/64)",
    "table=2, actions=set_queue:5,output:1,pop_queue,TABLE",
]
"""As the tool prints them for a real Open vSwitch 3.1, in all versions."""


@needs_ofctl
@pytest.mark.parametrize("version", ["10", "12", "13", "14", "15"])
def test_what_chooses_among_links_is_listed_as_it_was_added(running: Running, version: str) -> None:
    option = f"-OOpenFlow{version}"
    running.ofctl(option, "add-flows", "-", text="\n".join(line.replace(" actions", ",actions") for line in LINKS))
    assert sorted(line.replace("reset_counts ", "") for line in running.flows(option)) == sorted(LINKS)


@needs_ofctl
@pytest.mark.parametrize("version", ["10", "13", "15"])
def test_ports_are_configured(running: Running, version: str) -> None:
    option = f"-OOpenFlow{version}"
    brought: list[tuple[str, bool]] = []
    for word in ("no-receive", "no-forward", "no-packet-in", *(("no-flood",) if version == "10" else ())):
        running.ofctl(option, "mod-port", "p0", word)
    shown = running.ofctl(option, "show")
    names = "NO_RECV NO_FLOOD NO_FWD NO_PACKET_IN" if version == "10" else "NO_RECV NO_FWD NO_PACKET_IN"
    assert re.search(rf"1\(p0\):.*\n +config: +{names}\n", shown)
    assert re.search(r"2\(p1\):.*\n +config: +0\n", shown)
    assert "OFPT_ERROR" in running.ofctl(option, "mod-port", "p0", "down", check=False)
    running.service.ports.bring_up = lambda name, up: brought.append((name, up))
    running.ofctl(option, "mod-port", "p0", "down")
    assert brought == [("p0", False)]
    running.ofctl(option, "mod-port", "p0", "receive")
    assert "NO_RECV" not in running.ofctl(option, "show")


@needs_ofctl
def test_first_fragments_have_ports_for_rules_where_that_is_asked_for(running: Running) -> None:
    first = Packet().eth().ipv4("10.0.0.1", "10.0.0.2", id=1, mf=True).udp(1000, 2000).payload(bytes(16))
    running.ofctl("add-flows", "-", text="priority=9,udp,tp_dst=2000,actions=output:2\npriority=0,actions=local\n")
    for mode, port in (("nx-match", 2), ("normal", 0xFFFE), ("nx-match", 2)):
        running.ofctl("set-frags", mode)
        assert running.ofctl("get-frags") == f"{mode}\n"
        assert [frame.port for frame in send(running.switch.datapath, first, in_port=1)] == [port]


@needs_ofctl
def test_a_timeout_at_the_end_of_tcp_needs_no_match_on_it_in_the_first_version(running: Running) -> None:
    running.ofctl("add-flow", "idle_timeout=60,actions=fin_timeout(idle_timeout=5)")
    assert running.flows() == ["idle_timeout=60, actions=fin_timeout(idle_timeout=5)"]


@needs_ofctl
def test_what_is_flooded_passes_over_ports_that_say_so(running: Running) -> None:
    running.do(lambda: running.switch.add_port("p2", 3))
    running.ofctl("add-flow", "actions=flood")
    running.ofctl("mod-port", "p1", "no-flood")
    assert [frame.port for frame in send(running.switch.datapath, udp(), in_port=1)] == [0xFFFE, 3]
    running.ofctl("mod-port", "p1", "flood")
    assert sorted(frame.port for frame in send(running.switch.datapath, udp(), in_port=1)) == [2, 3, 0xFFFE]


@needs_ofctl
def test_what_the_switch_lacks_is_refused_and_said(running: Running) -> None:
    for arguments, error in (
        (("add-flow", "actions=set_tunnel:5,output:1"), "OFPBAC_BAD_VENDOR_TYPE"),
        (("add-flow", "tun_id=5,actions=output:1"), "OFPBMC_BAD_FIELD"),
        (("-OOpenFlow15", "add-flow", "actions=set_field:1.1.1.1->tun_dst,1"), "OFPBAC_BAD_SET_TYPE"),
        (("add-flow", "actions=decap()"), "OFPBAC_BAD_VENDOR_TYPE"),
        (("add-flow", "actions=sample(probability=1)"), "OFPBAC_BAD_VENDOR_TYPE"),
        (("add-flow", "table=254,actions=output:1"), "OFPBRC_EPERM"),
        (("-OOpenFlow13", "add-flow", "actions=push_mpls:0x8847,1"), "OFPBAC_BAD_TYPE"),
        (("-OOpenFlow13", "add-flow", "actions=encap(nsh(md_type=1)),2"), "OFPBAC_BAD_VENDOR_TYPE"),
        (("-OOpenFlow13", "add-flow", "actions=group:1"), "OFPBAC_BAD_OUT_GROUP"),
        (("-OOpenFlow13", "add-flow", "actions=meter:1,output:1"), "OFPMMFC_INVALID_METER"),
    ):  # fmt: skip
        said = running.ofctl(*arguments, check=False)
        assert "OFPT_ERROR" in said and error in said
    for arguments in (
        ("dump-groups",),
        ("-OOpenFlow13", "dump-meters"),
        ("-OOpenFlow13", "del-meters"),
        ("del-groups",),
    ):
        running.ofctl(*arguments)
    assert running.flows() == []


# --- the socket -------------------------------------------------------------------------------------------------------


def test_the_socket_is_private_and_goes_with_the_server(tmp_path: Path) -> None:
    running = Running(tmp_path / "deep" / "run")
    assert stat.S_IMODE(running.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.path.parent.stat().st_mode) == 0o700
    running.close()
    assert not running.path.exists()


def test_a_directory_that_others_can_use_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o775)
    server = Server(Service(Switch(max_connections=10)), SystemClock())
    with pytest.raises(UsageError, match="open to others"):
        asyncio.run(server.listen(directory / "br0.mgmt"))
    directory.chmod(0o700)
    (directory / "file").write_text("")
    with pytest.raises(UsageError, match="no socket"):
        asyncio.run(server.listen(directory / "file"))
    with pytest.raises(InputError, match="cannot listen"):
        asyncio.run(server.listen(directory / ("x" * 200)))
    os.mkdir(directory / "sub", 0o700)
    with pytest.raises(InputError, match="cannot use"):
        asyncio.run(server.listen(directory / "file" / "br0.mgmt"))


def test_a_socket_that_was_left_over_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "run" / "br0.mgmt"))
    left.close()
    running = Running(tmp_path / "run")
    running.connect().close()
    running.close()


def receive(connection: socket.socket, n_messages: int) -> list[tuple[int, int]]:
    """Types and xids of the next messages."""
    data = b""
    found: list[tuple[int, int]] = []
    while len(found) < n_messages:
        while len(data) < 8 or len(data) < int.from_bytes(data[2:4], "big"):
            received = connection.recv(65536)
            assert received, "the connection ended"
            data += received
        _, kind, size, xid = struct.unpack_from("!BBHI", data)
        found.append((kind, xid))
        data = data[size:]
    return found


def test_a_peer_that_talks_nonsense_is_cut_off_and_others_are_not(running: Running) -> None:
    good, bad = running.connect(), running.connect()
    good.sendall(hello(4))
    with contextlib.suppress(ConnectionError):  # it may end before all is sent or read
        bad.sendall(b"GET / HTTP/1.0\r\n\r\n" + bytes(40000))
        while bad.recv(65536):
            pass
    good.sendall(message(4, 2, b"x", xid=5))
    assert receive(good, 2) == [(0, 0), (3, 5)]
    good.close()
    bad.close()


def test_a_peer_that_says_nothing_is_cut_off(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HELLO_SECONDS", 0.1)
    connection = running.connect()
    started = time.monotonic()
    while connection.recv(65536):
        pass
    assert time.monotonic() - started < 5
    connection.close()


def test_many_requests_at_once_are_answered_in_order_while_others_have_their_turn(running: Running) -> None:
    one, other = running.connect(), running.connect()
    one.sendall(hello(4))
    other.sendall(hello(4))
    n = 3000
    sender = threading.Thread(
        target=lambda: one.sendall(b"".join(message(4, 20, xid=xid) for xid in range(n)))
    )  # fmt: skip
    sender.start()
    other.sendall(message(4, 20, xid=1))
    assert receive(other, 2) == [(0, 0), (21, 1)]
    assert receive(one, n + 1) == [(0, 0), *((21, xid) for xid in range(n))]
    sender.join()
    one.close()
    other.close()


def test_a_peer_that_does_not_read_is_not_read_from_either(running: Running) -> None:
    """Its requests wait in its own socket; the memory that it takes here stays small."""
    connection = running.connect()
    connection.sendall(hello(4))
    connection.settimeout(1)
    request = message(4, 18, struct.pack("!HH4x", 12, 0))  # features of all tables: some 200 kB
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 1 << 24:
            sent += connection.send(request * 100)
    assert sent < 1 << 23

    def check() -> None:
        (peer,) = running.server.peers
        transport = peer._transport
        assert transport is not None
        assert transport.get_write_buffer_size() < 1 << 20

    running.do(check)
    other = running.connect()
    other.sendall(hello(4) + message(4, 20, xid=3))
    assert receive(other, 2) == [(0, 0), (21, 3)]
    connection.settimeout(10)
    assert len(receive(connection, 20)) == 20
    connection.close()
    other.close()


def test_a_peer_that_does_not_read_what_it_is_told_is_cut_off(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_UNREAD", 1 << 16)
    connection = running.connect()
    connection.sendall(hello(4) + message(4, 9, struct.pack("!HH", 0, 128)) + message(4, 20, xid=3))
    assert receive(connection, 2) == [(0, 0), (21, 3)]
    for _ in range(50):
        running.do(lambda: [running.service.tell_port(2, "p0", 1) for _ in range(200)] and None)
        running.do(running.server.flush_events)
    running.do(lambda: None)
    assert not running.server.peers
    connection.close()


def test_controllers_with_names_that_cannot_be_are_told_of(running: Running) -> None:
    name = "a" * 70 + ".example"
    changed = threading.Event()
    controllers = Controllers(running.server, changed.set)
    targets = f"tcp:{name}", f"ptcp:0:{name}", "ptcp:0:127.0.0.1"
    try:
        running.call(controllers.configure([ControllerSettings(target) for target in targets], may_stand_in=False))
        deadline = time.monotonic() + 20
        while controllers.statuses[targets[0]].state != "BACKOFF":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert controllers.statuses[targets[0]].last_error
        assert controllers.statuses[targets[1]].state == "VOID"
        assert controllers.statuses[targets[2]].state == "LISTENING"
    finally:
        running.call(controllers.close())


def test_who_came_counts_as_a_controller_once_it_has_said_hello(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "waiting"
    target = f"punix:{path}"
    controllers = Controllers(running.server, lambda: None)
    running.call(controllers.configure([ControllerSettings(target)], may_stand_in=False))
    try:
        with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as polite:
            for connection in (silent, polite):
                connection.settimeout(10)
                connection.connect(str(path))
            assert receive(silent, 1) == [(0, 0)]
            assert not controllers.statuses[target].is_connected and controllers.connection() is None
            polite.sendall(hello(4) + message(4, 20, xid=3))
            assert receive(polite, 2) == [(0, 0), (21, 3)]
            assert controllers.statuses[target].is_connected and controllers.connection() is not None
        deadline = time.monotonic() + 20
        while controllers.statuses[target].is_connected:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        running.call(controllers.close())

"""FTP and TFTP through a switch with helpers."""

from __future__ import annotations

import pytest

from flowshunt import Switch
from flowshunt.conntrack.states import ct_state_text
from flowshunt.datapath.schema import SOURCE_BATCH
from tests.builders import Host, Packet, batch_of

FLOWS = """
table=0,priority=10,ip,ct_state=-trk,actions=ct(table=1)
table=0,priority=10,ipv6,ct_state=-trk,actions=ct(table=1)
table=1,priority=30,ct_state=+trk+inv,actions=drop
table=1,priority=20,tcp,in_port=1,tcp_dst=21,ct_state=+trk+new,actions=ct(commit,alg=ftp,exec(set_field:7->ct_mark,set_field:0x99->ct_label)),2
table=1,priority=20,tcp6,in_port=1,tcp_dst=21,ct_state=+trk+new,actions=ct(commit,alg=ftp,exec(set_field:7->ct_mark,set_field:0x99->ct_label)),2
table=1,priority=20,udp,in_port=1,udp_dst=69,ct_state=+trk+new,actions=ct(commit,alg=tftp),2
table=1,priority=15,ct_state=+trk+new+rel,ip,in_port=1,actions=ct(commit),2
table=1,priority=15,ct_state=+trk+new+rel,ip,in_port=2,actions=ct(commit),1
table=1,priority=15,ct_state=+trk+new+rel,ipv6,in_port=1,actions=ct(commit),2
table=1,priority=15,ct_state=+trk+new+rel,ipv6,in_port=2,actions=ct(commit),1
table=1,priority=10,ct_state=+trk+est,in_port=1,actions=2
table=1,priority=10,ct_state=+trk+est,in_port=2,actions=1
table=1,priority=10,ct_state=+trk+rel-new,in_port=1,actions=2
table=1,priority=10,ct_state=+trk+rel-new,in_port=2,actions=1
"""
"""A firewall: control connections out of port 1 only, data connections only if they are related."""

CLIENT, SERVER, OTHER = "10.0.0.1", "10.9.0.2", "10.9.0.3"
CLIENT6, SERVER6 = "2001:db8::1", "2001:db8:9::2"


class Net:
    """A switch between port 1 (inside) and port 2 (outside)."""

    def __init__(self, flows: str = FLOWS, profile: str = "default", **options: object) -> None:
        self.switch = Switch(profile, max_connections=1000, **options)  # type: ignore[arg-type]
        self.switch.add_port("inside", 1)
        self.switch.add_port("outside", 2)
        self.switch.add_flows(flows)
        self.time_ms = 1_000_000
        self.state = ""
        self.log: list[tuple[bytes, int, int, str, bytes | None]] = []
        """What came in: frame, port and time; and what came of it: state, and frame."""

    def pass_on(self, frame: bytes | Packet, in_port: int) -> bytes | None:
        """Send a frame in; what comes out at the other port, or None."""
        self.time_ms += 1
        content = frame.bytes() if isinstance(frame, Packet) else frame
        self.state, out = self.process([(content, in_port, self.time_ms)])[0]
        self.log.append((content, in_port, self.time_ms, self.state, out))
        return out

    def process(self, packets: list[tuple[bytes, int, int]]) -> list[tuple[str, bytes | None]]:
        """Send frames in as one batch; the state of each, and what came out of it at the other port."""
        batch = batch_of([frame for frame, _, _ in packets])
        batch.packets["in_port"] = [in_port for _, in_port, _ in packets]
        batch.packets["time_ns"] = [time_ms * 1_000_000 for _, _, time_ms in packets]
        result = self.switch.process(batch)
        outs: list[bytes | None] = [None] * len(packets)
        for sent in result.tx:
            packet = int(sent["packet"])
            assert outs[packet] is None
            assert int(sent["port"]) == 3 - packets[packet][1]
            source = batch.data if sent["source"] == SOURCE_BATCH else result.tx_data
            outs[packet] = source[sent["data"] : sent["data"] + sent["length"]].tobytes()
        return [(ct_state_text(int(state)), out) for state, out in zip(result.ct_state, outs, strict=True)]

    def send(self, sender: Host, receiver: Host, in_port: int, payload: bytes = b"", **rest: object) -> None:
        """One segment from host to host, which must arrive."""
        frame = self.pass_on(sender.segment(payload, **rest), in_port)  # type: ignore[arg-type]
        assert frame is not None, f"{payload!r} was dropped: {self.state}"
        receiver.receive(frame)

    def handshake(self, client: Host, server: Host, client_port: int = 1) -> None:
        self.send(client, server, client_port, syn=True, ack=False)
        self.send(server, client, 3 - client_port, syn=True)
        self.send(client, server, client_port)

    def count(self, name: str) -> int:
        return (self.switch.statistics() | self.switch.tracker.statistics())[name]


class Ftp:
    """A control connection of a client inside, established."""

    def __init__(self, net: Net, client: str = CLIENT, server: str = SERVER) -> None:
        self.net = net
        self.client = Host(client, 40000, server, 21, next_seq=0xFFFFFFF0)
        self.server = Host(server, 21, client, 40000, next_seq=77)
        net.handshake(self.client, self.server)
        self.say(b"220 ready\r\n")

    def ask(self, text: bytes, **rest: object) -> None:
        self.net.send(self.client, self.server, 1, text, **rest)

    def say(self, text: bytes, **rest: object) -> None:
        self.net.send(self.server, self.client, 2, text, **rest)


def is_allowed(net: Net, source: str, destination: str, port: int, in_port: int, source_port: int = 20) -> bool:
    """Whether a data connection gets through, and on, with the states of a related one."""
    client = Host(source, source_port, destination, port)
    server = Host(destination, port, source, source_port)
    frame = net.pass_on(client.segment(syn=True, ack=False), in_port)
    if frame is None:
        assert net.state == "new|trk"
        return False
    assert net.state == "new|rel|trk"
    server.receive(frame)
    net.send(server, client, 3 - in_port, syn=True)
    assert net.state == "est|rel|rpl|trk"
    net.send(client, server, in_port, b"data")
    assert net.state == "est|rel|trk"
    assert server.received == b"data"
    return True


def announce(ftp: Ftp, how: str, port: int = 5001) -> tuple[str, str, int]:
    """Agree on a data connection; who connects, where to, and the switch port that it comes from."""
    high, low = port >> 8, port & 0xFF
    if how == "PORT":
        ftp.ask(f"PORT {ftp.client.address.replace('.', ',')},{high},{low}\r\n".encode())
    elif how == "EPRT":
        family = 2 if ":" in ftp.client.address else 1
        ftp.ask(f"EPRT |{family}|{ftp.client.address}|{port}|\r\n".encode())
    elif how == "PASV":
        ftp.ask(b"PASV\r\n")
        ftp.say(f"227 Entering Passive Mode ({ftp.server.address.replace('.', ',')},{high},{low})\r\n".encode())
    else:
        ftp.ask(b"EPSV\r\n")
        ftp.say(f"229 Entering Extended Passive Mode (|||{port}|)\r\n".encode())
    if how in ("PORT", "EPRT"):
        return ftp.server.address, ftp.client.address, 2
    return ftp.client.address, ftp.server.address, 1


HOW = [(4, "PORT"), (4, "EPRT"), (4, "PASV"), (4, "EPSV"), (6, "EPRT"), (6, "EPSV")]


@pytest.mark.parametrize(("family", "how"), HOW)
def test_a_data_connection_is_let_in_once_it_is_announced(family: int, how: str) -> None:
    net = Net()
    ftp = Ftp(net) if family == 4 else Ftp(net, CLIENT6, SERVER6)
    active = how in ("PORT", "EPRT")
    ends = (
        (ftp.server.address, ftp.client.address, 5001, 2)
        if active
        else (ftp.client.address, ftp.server.address, 5001, 1)
    )
    assert not is_allowed(net, *ends, source_port=4000)
    source, destination, in_port = announce(ftp, how)
    assert not is_allowed(net, source, destination, 5002, in_port)
    assert not is_allowed(net, destination, source, 5001, 3 - in_port)
    assert is_allowed(net, source, destination, 5001, in_port)
    ftp.say(b"226 done\r\n")
    data = next(c for c in net.switch.tracker.connections() if c.original.destination_port == 5001)
    control = next(c for c in net.switch.tracker.connections() if c.original.destination_port == 21)
    assert (control.helper, control.parent) == ("ftp", None)
    assert (data.helper, data.parent, data.parent_tuple, data.parent_protocol) == (
        None,
        control.id,
        control.original,
        6,
    )
    assert (data.mark, data.label) == (7, 0x99)
    assert net.count("expected") == net.count("expectations-made") == net.count("helper.announcements") == 1


def test_uncommitted_the_first_packet_shows_the_parents_mark_label_and_tuple() -> None:
    net = Net(
        FLOWS.replace("table=1,priority=15,", "table=1,priority=1,")
        + "table=1,priority=18,tcp,in_port=2,ct_state=+new+rel,ct_mark=7,ct_label=0x99,ct_nw_src=10.0.0.1,"
        "ct_nw_dst=10.9.0.2,ct_tp_src=40000,ct_tp_dst=21,ct_nw_proto=6,actions=ct(commit),1\n"
    )
    ftp = Ftp(net)
    announce(ftp, "PORT")
    assert is_allowed(net, SERVER, CLIENT, 5001, 2)


def test_linux_calls_it_related_until_it_is_answered_and_expects_one_at_a_time() -> None:
    flows = FLOWS.replace("+new+rel", "+rel-est").replace("+rel-new", "+rel-new-est")
    net = Net(flows, "linux")
    ftp = Ftp(net)
    announce(ftp, "PORT", 5001)
    announce(ftp, "PORT", 5002)
    assert [one.destination_port for one in net.switch.tracker.expectations()] == [5002]
    server, client = Host(SERVER, 20, CLIENT, 5002), Host(CLIENT, 5002, SERVER, 20)
    net.send(server, client, 2, syn=True, ack=False)
    assert net.state == "rel|trk"
    net.send(client, server, 1, syn=True)
    assert net.state == "est|rpl|trk"
    assert list(net.switch.tracker.expectations()) == []
    assert net.count("expectations-evicted") == net.count("expected") == 1


def test_open_vswitch_keeps_expecting_as_long_as_the_parent_lives() -> None:
    net = Net()
    ftp = Ftp(net)
    announce(ftp, "PASV")
    assert is_allowed(net, CLIENT, SERVER, 5001, 1, source_port=3000)
    assert is_allowed(net, CLIENT, SERVER, 5001, 1, source_port=3001)
    assert net.switch.tracker.flush(
        wanted=next(c for c in net.switch.tracker.connections() if c.helper).original, protocol=6
    )
    assert list(net.switch.tracker.expectations()) == []
    assert not is_allowed(net, CLIENT, SERVER, 5001, 1, source_port=3002)
    assert net.count("expectations-ended") == 1
    assert net.count("helper.sessions") == 0
    assert {c.parent for c in net.switch.tracker.connections()} == {None}


def test_what_is_not_opened_in_time_is_not_expected_any_more() -> None:
    net = Net()
    announce(Ftp(net), "PASV")
    net.time_ms += 300_000
    assert not is_allowed(net, CLIENT, SERVER, 5001, 1)
    assert list(net.switch.tracker.expectations()) == []


@pytest.mark.parametrize(
    "text",
    [
        b"PORT 10,9,0,3,19,137\r\n",
        b"PORT 10,9,0,2,19,137\r\n",
        b"EPRT |1|10.9.0.3|5001|\r\n",
        b"EPRT |2|2001:db8::1|5001|\r\n",
        b"PORT 10,0,0,1,0,0\r\n",
        b"PORT 10,0,0,1,19,999\r\n",
    ],
)
def test_commands_that_cannot_be_meant_are_invalid_and_open_nothing(text: bytes) -> None:
    net = Net()
    ftp = Ftp(net)
    assert net.pass_on(ftp.client.segment(text), 1) is None
    assert net.state == "est|inv|trk"
    assert list(net.switch.tracker.expectations()) == []
    assert net.count("helper.foreign-address") + net.count("helper.malformed") == 1


def test_the_address_of_passive_mode_means_nothing_over_ipv6() -> None:
    ftp = Ftp(Net(), CLIENT6, SERVER6)
    ftp.say(b"227 Entering Passive Mode (0,0,0,0,19,137)\r\n")
    assert ftp.net.state == "est|rpl|trk"
    assert list(ftp.net.switch.tracker.expectations()) == []


def test_each_side_says_only_what_is_its_to_say() -> None:
    net = Net()
    ftp = Ftp(net)
    ftp.ask(b"227 Entering Passive Mode (10,9,0,2,19,137)\r\n")
    ftp.say(b"PORT 10,0,0,1,19,137\r\n")
    assert list(net.switch.tracker.expectations()) == []


def test_lines_in_pieces_early_and_repeated_are_understood() -> None:
    net = Net()
    ftp = Ftp(net)
    first = ftp.client.next_seq
    pieces = [b"NO", b"OP\r\nPORT 10,0,0", b",1,19,", b"137\r", b"\nTYPE I\r\n"]
    frames = [ftp.client.segment(piece) for piece in pieces]
    for n in (0, 1, 3, 2, 4, 3):
        assert net.pass_on(frames[n], 1) is not None
    assert [one.destination_port for one in net.switch.tracker.expectations()] == [5001]
    assert net.pass_on(ftp.client.segment(b"".join(pieces), seq=first), 1) is not None
    assert [one.destination_port for one in net.switch.tracker.expectations()] == [5001]
    assert is_allowed(net, SERVER, CLIENT, 5001, 2)


def test_a_malicious_server_cannot_fill_the_table() -> None:
    net = Net()
    ftp = Ftp(net)
    for n in range(40):
        ftp.say(b"".join(b"227 (10,9,0,2,%d,%d)\r\n" % (20 + n, port) for port in range(1, 40)))
    assert len(list(net.switch.tracker.expectations())) == 8
    assert net.count("expectations") == 8
    assert net.count("expectations-made") == 40 * 39
    assert net.count("expectations-evicted") == 40 * 39 - 8


def test_another_clients_expectation_is_not_taken_away() -> None:
    net = Net()
    one, two = Ftp(net), Ftp.__new__(Ftp)
    two.net = net
    two.client, two.server = Host(CLIENT, 40001, SERVER, 21), Host(SERVER, 21, CLIENT, 40001)
    net.handshake(two.client, two.server)
    announce(one, "PASV")
    announce(two, "PASV")
    assert net.count("expectations-refused") == 1
    expected = list(net.switch.tracker.expectations())
    assert [one.parent_tuple.source_port for one in expected] == [40000]


def test_helpers_by_port_need_no_rule() -> None:
    flows = FLOWS.replace(",alg=ftp", "").replace(",alg=tftp", "")
    net = Net(flows, helpers=("ftp",))
    announce(Ftp(net), "PASV")
    assert is_allowed(net, CLIENT, SERVER, 5001, 1)
    without = Net(flows)
    announce(Ftp(without), "PASV")
    assert not is_allowed(without, CLIENT, SERVER, 5001, 1)


def udp(source: str, sport: int, destination: str, dport: int, payload: bytes) -> Packet:
    return Packet().eth().ipv4(source, destination).udp(sport, dport).payload(payload)


def test_a_tftp_server_may_answer_from_another_port() -> None:
    net = Net()
    assert net.pass_on(udp(SERVER, 3000, CLIENT, 1234, b"\0\3\0\1data"), 2) is None
    assert net.pass_on(udp(CLIENT, 1234, SERVER, 69, b"\0\1file\0octet\0"), 1) is not None
    assert net.pass_on(udp(OTHER, 3000, CLIENT, 1234, b"\0\3\0\1data"), 2) is None
    assert net.pass_on(udp(SERVER, 3000, CLIENT, 1235, b"\0\3\0\1data"), 2) is None
    assert net.pass_on(udp(SERVER, 3000, CLIENT, 1234, b"\0\3\0\1data"), 2) is not None
    assert net.state == "new|rel|trk"
    assert net.pass_on(udp(CLIENT, 1234, SERVER, 3000, b"\0\4\0\1"), 1) is not None
    assert net.state == "est|rel|rpl|trk"


def test_other_udp_on_the_port_of_tftp_opens_nothing() -> None:
    net = Net()
    assert net.pass_on(udp(CLIENT, 1234, SERVER, 69, b"\0\3\0\1file\0octet\0"), 1) is not None
    assert net.pass_on(udp(SERVER, 3000, CLIENT, 1234, b"\0\3\0\1data"), 2) is None
    assert net.count("helper.inspected") == 1


def test_an_icmp_error_about_a_control_connection_is_not_read_as_one() -> None:
    net = Net()
    ftp = Ftp(net)
    quoted = Packet().ipv4(CLIENT, SERVER).tcp(40000, 21, seq=1, ack=True).payload(b"PORT 10,0,0,1,19,137\r\n")
    net.pass_on(Packet().eth().ipv4("10.9.9.9", CLIENT).icmp(3, 1).quote(quoted), 2)
    assert net.state == "rel|rpl|trk"
    assert net.count("helper.inspected") == 1
    assert ftp.client.next_seq


def test_many_sessions_are_bounded_and_the_silent_ones_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowshunt.conntrack.helpers.inspector.MAX_SESSIONS", 2)
    net = Net()
    ftps = []
    for n in range(3):
        ftp = Ftp.__new__(Ftp)
        ftp.net = net
        ftp.client, ftp.server = Host(CLIENT, 50000 + n, SERVER, 21), Host(SERVER, 21, CLIENT, 50000 + n)
        net.handshake(ftp.client, ftp.server)
        ftp.say(b"220 ready\r\n")
        ftps.append(ftp)
    assert (net.count("helper.sessions"), net.count("helper.sessions-evicted")) == (2, 1)
    ftps[0].ask(b"PORT 10,0,0,1,19,137\r\n")  # forgotten, so it may be anything
    assert list(net.switch.tracker.expectations()) == []
    ftps[0].ask(b"PORT 10,0,0,1,19,138\r\n")
    assert [one.destination_port for one in net.switch.tracker.expectations()] == [5002]

"""FTP and TFTP through a switch that translates: payloads, sequence numbers, and the data connections."""

from __future__ import annotations

import shutil
import struct
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.datapath.schema import SOURCE_BATCH
from tests.builders import Host, Packet, batch_of, read_segment
from tests.datapath.test_helpers import Net

CASES = ["snat", "dnat", "both", "none"]
ADDRESSES = {
    # client, what the server sees of it, what the client calls the server, server
    4: ("10.0.0.1", "192.168.100.200", "172.16.0.1", "10.9.0.2"),
    6: ("2001:db8::1", "2001:db8:ffff:1111:2222:3333:4444:5555", "2001:db8:aa::1", "2001:db8:9::2"),
}


class Ends:
    """Who calls whom what."""

    def __init__(self, family: int, case: str) -> None:
        client, public, virtual, server = ADDRESSES[family]
        self.family = family
        self.client, self.server = client, server
        self.public = public if case in ("snat", "both") else client
        self.virtual = virtual if case in ("dnat", "both") else server
        self.case = case


def bracket(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def flows_of(ends: Ends) -> str:
    """Client inside (port 1), server outside; with both, source NAT is done in a second zone behind the first."""
    ip, tcp, udp = ("ip", "tcp", "udp") if ends.family == 4 else ("ipv6", "tcp6", "udp6")
    nats = {
        "none": "nat",
        "snat": f"nat(src={bracket(ends.public)})",
        "dnat": f"nat(dst={bracket(ends.server)})",
        "both": f"nat(dst={bracket(ends.server)})",
    }
    if ends.case != "both":
        return f"""
        table=0,{ip},actions=ct(table=1,nat)
        table=1,priority=30,{ip},ct_state=+inv,actions=drop
        table=1,priority=20,{tcp},in_port=1,tcp_dst=21,ct_state=+new,actions=ct(commit,alg=ftp,{nats[ends.case]}),2
        table=1,priority=20,{udp},in_port=1,udp_dst=69,ct_state=+new,actions=ct(commit,alg=tftp,{nats[ends.case]}),2
        table=1,priority=15,{ip},ct_state=+new+rel,in_port=1,actions=ct(commit,nat),2
        table=1,priority=15,{ip},ct_state=+new+rel,in_port=2,actions=ct(commit,nat),1
        table=1,priority=10,{ip},ct_state=+est,in_port=1,actions=2
        table=1,priority=10,{ip},ct_state=+est,in_port=2,actions=1
        """
    snat = f"nat(src={bracket(ends.public)})"
    return f"""
    table=0,{ip},in_port=1,actions=ct(table=1,zone=1,nat)
    table=0,{ip},in_port=2,actions=ct(table=3,zone=2,nat)
    table=1,priority=30,{ip},ct_state=+inv,actions=drop
    table=1,priority=20,{tcp},tcp_dst=21,ct_state=+new,actions=ct(commit,zone=1,alg=ftp,{nats["dnat"]},table=2)
    table=1,priority=20,{udp},udp_dst=69,ct_state=+new,actions=ct(commit,zone=1,alg=tftp,{nats["dnat"]},table=2)
    table=1,priority=15,{ip},ct_state=+new+rel,actions=ct(commit,zone=1,nat,table=2)
    table=1,priority=10,{ip},ct_state=+est,actions=resubmit(,2)
    table=2,{ip},actions=ct(table=5,zone=2,nat)
    table=5,priority=30,{ip},ct_state=+inv,actions=drop
    table=5,priority=20,{tcp},tcp_dst=21,ct_state=+new,actions=ct(commit,zone=2,alg=ftp,{snat}),2
    table=5,priority=20,{udp},udp_dst=69,ct_state=+new,actions=ct(commit,zone=2,alg=tftp,{snat}),2
    table=5,priority=15,{ip},ct_state=+new+rel,actions=ct(commit,zone=2,nat),2
    table=5,priority=10,{ip},ct_state=+est,actions=2
    table=3,priority=30,{ip},ct_state=+inv,actions=drop
    table=3,priority=15,{ip},ct_state=+new+rel,actions=ct(commit,zone=2,nat,table=4)
    table=3,priority=10,{ip},ct_state=+est,actions=resubmit(,4)
    table=4,{ip},actions=ct(table=6,zone=1,nat)
    table=6,priority=30,{ip},ct_state=+inv,actions=drop
    table=6,priority=15,{ip},ct_state=+new+rel,actions=ct(commit,zone=1,nat),1
    table=6,priority=10,{ip},ct_state=+est,actions=1
    """


class Ftp:
    """A control connection, established through NAT."""

    def __init__(self, family: int, case: str, port: int = 40000, net: Net | None = None, **options: object) -> None:
        self.ends = ends = Ends(family, case)
        self.net = net or Net(flows_of(ends), **options)  # type: ignore[arg-type]
        self.client = Host(ends.client, port, ends.virtual, 21, next_seq=0xFFFFFFD0)
        self.server = Host(ends.server, 21, ends.public, port, next_seq=0x7FFFFFF0)
        self.net.handshake(self.client, self.server)
        self.say(b"220 ready\r\n")

    def ask(self, text: bytes, **rest: object) -> None:
        self.net.send(self.client, self.server, 1, text, **rest)

    def say(self, text: bytes, **rest: object) -> None:
        self.net.send(self.server, self.client, 2, text, **rest)

    def last(self, host: Host) -> bytes:
        """The last line that a host got."""
        return host.received.split(b"\r\n")[-2] + b"\r\n"


def six(address: str, port: int) -> str:
    return f"{address.replace('.', ',')},{port >> 8},{port & 0xFF}"


def announce(ftp: Ftp, how: str, port: int = 5001) -> tuple[str, int]:
    """Agree on a data connection; address and port as the side that has to connect was told."""
    ends = ftp.ends
    kind = 1 if ends.family == 4 else 2
    if how == "PORT":
        ftp.ask(f"PORT {six(ends.client, port)}\r\n".encode())
        numbers = ftp.last(ftp.server).split()[1].decode().split(",")
        return ".".join(numbers[:4]), int(numbers[4]) << 8 | int(numbers[5])
    if how == "EPRT":
        ftp.ask(f"EPRT |{kind}|{ends.client}|{port}|\r\n".encode())
        _, family, address, told, _ = ftp.last(ftp.server).split()[1].decode().split("|")
        assert family == str(kind)
        return str(ip_address(address)), int(told)
    if how == "PASV":
        ftp.say(f"227 Entering Passive Mode ({six(ends.server, port)}).\r\n".encode())
        numbers = ftp.last(ftp.client).decode().split("(")[1].split(")")[0].split(",")
        return ".".join(numbers[:4]), int(numbers[4]) << 8 | int(numbers[5])
    ftp.say(f"229 Entering Extended Passive Mode (|||{port}|)\r\n".encode())
    return ends.virtual, int(ftp.last(ftp.client).split(b"|")[3])


def transfer(ftp: Ftp, how: str, told: tuple[str, int], port: int = 5001, source_port: int = 20) -> None:
    """Open the data connection as it was told, and send data both ways."""
    ends, net = ftp.ends, ftp.net
    if how in ("PORT", "EPRT"):
        opener = Host(ends.server, source_port, told[0], told[1], next_seq=5)
        listener = Host(ends.client, port, ends.virtual, source_port, next_seq=6)
        in_port = 2
    else:
        opener = Host(ends.client, source_port, told[0], told[1], next_seq=5)
        listener = Host(ends.server, port, ends.public, source_port, next_seq=6)
        in_port = 1
    net.handshake(opener, listener, in_port)
    for n in range(3):
        net.send(opener, listener, in_port, b"there %d" % n)
        net.send(listener, opener, 3 - in_port, b"back %d" % n)
    assert listener.received == b"there 0there 1there 2"
    assert opener.received == b"back 0back 1back 2"
    net.send(opener, listener, in_port, fin=True)
    net.send(listener, opener, 3 - in_port, fin=True)
    net.send(opener, listener, in_port)


HOW = [(4, "PORT"), (4, "EPRT"), (4, "PASV"), (4, "EPSV"), (6, "EPRT"), (6, "EPSV")]


@pytest.mark.parametrize("profile", ["default", "linux"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("family", "how"), HOW)
def test_a_data_connection_works_through_nat(family: int, how: str, case: str, profile: str) -> None:
    ends = Ends(family, case)
    flows = flows_of(ends)
    if profile == "linux":  # related in the place of new
        flows = flows.replace("+new+rel", "+rel-est")
    ftp = Ftp(family, case, net=Net(flows, profile))
    for round_ in range(3):
        port = 5001 + 7000 * round_
        told = announce(ftp, how, port)
        assert told == (ends.public if how in ("PORT", "EPRT") else ends.virtual, port)
        transfer(ftp, how, told, port, source_port=20 + round_)
        ftp.ask(b"NOOP\r\n")
        ftp.say(b"200 fine\r\n")
    ftp.net.send(ftp.client, ftp.server, 1, fin=True)
    ftp.net.send(ftp.server, ftp.client, 2, fin=True)
    ftp.net.send(ftp.client, ftp.server, 1)
    if profile == "default":
        assert "inv" not in ftp.net.state
    related = [c for c in ftp.net.switch.tracker.connections() if c.parent is not None]
    assert len(related) == 3 * (2 if case == "both" else 1)


def busy(case: str) -> Ftp:
    """A connection on which much was announced and transferred."""
    ftp = Ftp(4, case)
    for n, how in enumerate(("PORT", "EPRT", "PASV", "EPSV") * 2):
        port = 5001 + 6000 * n
        transfer(ftp, how, announce(ftp, how, port), port, 2000 + n)
        seq = ftp.client.next_seq
        ftp.ask(b"NOOP\r\n")
        ftp.ask(b"NOOP\r\n", seq=seq)
    return ftp


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", [1, 32, 256])
def test_the_batch_size_changes_nothing(case: str, batch_size: int) -> None:
    ftp = busy(case)
    again = Net(flows_of(ftp.ends), batch_size=batch_size)
    log = ftp.net.log
    assert len(log) > 120
    found = again.process([(frame, in_port, time_ms) for frame, in_port, time_ms, _, _ in log])
    assert found == [(state, out) for _, _, _, state, out in log]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark to read what leaves (Debian: tshark)")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", [1, 2])
def test_tshark_finds_nothing_wrong_with_what_each_side_sees(case: str, side: int, tmp_path: Path) -> None:
    """Checksums, and streams without gaps, retransmissions other than the ones sent, or strange acknowledgements."""
    ftp = busy(case)
    path = tmp_path / "side.pcap"
    with open(path, "wb") as capture:
        capture.write(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for frame, in_port, time_ms, _, out in ftp.net.log:
            seen = frame if in_port == side else out
            assert seen is not None
            capture.write(struct.pack("<IIII", time_ms // 1000, time_ms % 1000 * 1000, len(seen), len(seen)) + seen)
    checks = [part for name in ("ip", "tcp") for part in ("-o", f"{name}.check_checksum:TRUE")]
    wrong = (
        "ip.checksum.status==0 || tcp.checksum.status==0 || tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment"
        " || tcp.analysis.out_of_order || tcp.analysis.window_full || _ws.malformed"
    )
    command = ["tshark", "-r", str(path), *checks, "-T", "fields", "-e", "frame.number", "-Y"]
    bad = subprocess.run([*command, wrong], capture_output=True, text=True, check=True, timeout=60).stdout
    assert bad.split() == []
    again = subprocess.run(
        [*command, "tcp.analysis.retransmission || tcp.analysis.spurious_retransmission"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert len(again.split()) == 8
    data = subprocess.run([*command, "ftp-data"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert len(data.split()) >= 24, "tshark follows PORT and PASV the announcements to the data connections"


def test_listings_show_the_tuples_of_a_translated_data_connection() -> None:
    ftp = Ftp(4, "snat")
    transfer(ftp, "PORT", announce(ftp, "PORT"))
    data = next(c for c in ftp.net.switch.tracker.connections() if c.parent is not None)
    assert (str(data.original.source), str(data.original.destination)) == ("10.9.0.2", "192.168.100.200")
    assert (str(data.reply.source), str(data.reply.destination)) == ("10.0.0.1", "10.9.0.2")


def test_a_retransmitted_announcement_is_translated_alike_and_counted_once() -> None:
    ftp = Ftp(4, "snat")
    seq = ftp.client.next_seq
    text = b"PORT 10,0,0,1,19,137\r\n"
    ftp.ask(text)
    told = ftp.last(ftp.server)
    assert told == b"PORT 192,168,100,200,19,137\r\n"
    for _ in range(2):
        ftp.ask(text, seq=seq)
        assert ftp.last(ftp.server) == told
    assert ftp.server.received == told
    ftp.ask(b"LIST\r\n")
    assert ftp.server.received == told + b"LIST\r\n"
    transfer(ftp, "PORT", ("192.168.100.200", 5001))
    ftp.ask(b"NOOP\r\n")
    ftp.say(b"200 ok\r\n")
    assert ftp.client.received.endswith(b"200 ok\r\n")


def test_acknowledgements_and_sack_blocks_are_turned_back() -> None:
    ftp = Ftp(4, "snat")
    net, client, server = ftp.net, ftp.client, ftp.server
    before = client.next_seq
    ftp.ask(b"PORT 10,0,0,1,19,137\r\n")
    middle = client.next_seq
    server_middle = server.expected
    lost = client.segment(b"LIST\r\n")
    later = client.segment(b"NOOP\r\n")
    out = net.pass_on(later, 1)
    assert out is not None
    seen = read_segment(out)
    assert seen.seq == (server_middle + 6) & 0xFFFFFFFF
    for padding in (b"\1\1", b"\1"):  # at an even and at an odd place
        options = padding + bytes([5, 10]) + struct.pack(">II", seen.seq, (seen.seq + 6) & 0xFFFFFFFF)
        back = net.pass_on(server.segment(options=options), 2)
        assert back is not None
        segment = read_segment(back)
        assert segment.ack == middle
        assert segment.sacks == (((middle + 6) & 0xFFFFFFFF, (middle + 12) & 0xFFFFFFFF),)
    out = net.pass_on(lost, 1)
    assert out is not None
    server.receive(out)
    net.send(server, client, 2)
    # an acknowledgement of what came before the change
    old = Host(server.address, 21, server.peer, server.peer_port, next_seq=server.next_seq, expected=server_middle - 29)
    back = net.pass_on(old.segment(), 2)
    assert back is not None
    assert read_segment(back).ack == before


def test_a_command_in_pieces_can_not_be_translated_until_it_comes_whole() -> None:
    ftp = Ftp(4, "snat")
    seq = ftp.client.next_seq
    assert ftp.net.pass_on(ftp.client.segment(b"PORT 10,0,"), 1) is None
    assert ftp.net.state == "est|inv|trk|snat"
    assert ftp.net.pass_on(ftp.client.segment(b"0,1,19,137\r\n"), 1) is None  # sent before the loss was noticed
    assert ftp.net.pass_on(ftp.client.segment(b"PORT 10,0,", seq=seq), 1) is None
    ftp.ask(b"PORT 10,0,0,1,19,137\r\n", seq=seq)
    assert ftp.last(ftp.server) == b"PORT 192,168,100,200,19,137\r\n"
    transfer(ftp, "PORT", ("192.168.100.200", 5001))


def test_several_announcements_in_one_segment_are_all_translated() -> None:
    ftp = Ftp(4, "snat")
    ftp.ask(b"PORT 10,0,0,1,19,137\r\nNOOP\r\nEPRT |1|10.0.0.1|5002|\r\n")
    assert ftp.server.received == b"PORT 192,168,100,200,19,137\r\nNOOP\r\nEPRT |1|192.168.100.200|5002|\r\n"
    ftp.ask(b"NOOP\r\n")
    ftp.say(b"200 ok\r\n")
    transfer(ftp, "PORT", ("192.168.100.200", 5001))
    transfer(ftp, "EPRT", ("192.168.100.200", 5002), 5002)


def test_two_clients_behind_one_address_get_different_ports() -> None:
    ends = Ends(4, "snat")
    net = Net(flows_of(ends))
    one = Ftp(4, "snat", net=net)
    other = Ftp.__new__(Ftp)
    other.ends, other.net = Ends(4, "snat"), net
    other.ends.client = "10.0.0.7"
    other.client = Host("10.0.0.7", 40001, ends.server, 21)
    other.server = Host(ends.server, 21, ends.public, 40001)
    net.handshake(other.client, other.server)
    assert announce(one, "PORT") == (ends.public, 5001)
    assert announce(other, "PORT") == (ends.public, 5002)
    transfer(one, "PORT", (ends.public, 5001))
    transfer(other, "PORT", (ends.public, 5002))


def test_a_foreign_address_is_not_translated() -> None:
    ftp = Ftp(4, "snat")
    assert ftp.net.pass_on(ftp.client.segment(b"PORT 10,0,0,9,19,137\r\n"), 1) is None
    assert "inv" in ftp.net.state
    assert list(ftp.net.switch.tracker.expectations()) == []


def test_a_server_that_knows_its_public_address_may_say_so() -> None:
    ftp = Ftp(4, "dnat")
    ftp.say(b"227 Entering Passive Mode (172,16,0,1,19,137)\r\n")
    assert ftp.last(ftp.client) == b"227 Entering Passive Mode (172,16,0,1,19,137)\r\n"
    transfer(ftp, "PASV", ("172.16.0.1", 5001))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", [4, 6])
def test_tftp_answers_come_back_through_nat(family: int, case: str) -> None:
    ends = Ends(family, case)
    net = Net(flows_of(ends))

    def udp(source: str, sport: int, destination: str, dport: int, payload: bytes) -> bytes:
        over = Packet().eth().ipv6 if family == 6 else Packet().eth().ipv4
        return over(source, destination).udp(sport, dport).payload(payload).bytes()

    request = b"\0\1file\0octet\0"
    out = net.pass_on(udp(ends.client, 1234, ends.virtual, 69, request), 1)
    assert out == udp(ends.public, 1234, ends.server, 69, request)
    out = net.pass_on(udp(ends.server, 3000, ends.public, 1234, b"\0\3\0\1data"), 2)
    assert out == udp(ends.virtual, 3000, ends.client, 1234, b"\0\3\0\1data")
    out = net.pass_on(udp(ends.client, 1234, ends.virtual, 3000, b"\0\4\0\1"), 1)
    assert out == udp(ends.public, 1234, ends.server, 3000, b"\0\4\0\1")
    assert net.pass_on(udp(ends.server, 3000, ends.public, 1235, b"\0\3\0\1data"), 2) is None


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("PORT"), st.integers(1, 0xFFFF)),
            st.tuples(st.just("noise"), st.integers(0, 60)),
            st.tuples(st.just("reply"), st.integers(0, 60)),
            st.tuples(st.just("again"), st.integers(0, 9)),
        ),
        max_size=25,
    )
)
def test_both_streams_stay_whole_whatever_is_announced_and_repeated(steps: list[tuple[str, int]]) -> None:
    ftp = Ftp(4, "snat")
    said = b""
    last: tuple[int, bytes] | None = None
    replies = ftp.client.received
    for what, n in steps:
        if what == "again":
            if last is not None:
                ftp.ask(last[1], seq=last[0])
            continue
        if what == "reply":
            ftp.say(b"2" * n + b"00 x\r\n")
            replies += b"2" * n + b"00 x\r\n"
            continue
        text = f"PORT 10,0,0,1,{n >> 8},{n & 0xFF}\r\n".encode() if what == "PORT" else b"x" * n + b"\r\n"
        last = ftp.client.next_seq, text
        ftp.ask(text)
        said += text.replace(b"10,0,0,1", b"192,168,100,200")
    assert ftp.server.received == said
    assert ftp.client.received == replies


@pytest.mark.parametrize("translated", [False, True])
def test_a_command_that_a_clone_translates_is_as_it_was_behind_it(translated: bool) -> None:
    """The clone's payload is not that of the packet which goes on, nor is it kept from being translated there."""
    ends = Ends(4, "snat")
    net = Net(flows_of(ends).replace("table=0,ip,actions=ct(table=1,nat)", f"""
        table=0,in_port=1,ip,actions=clone(ct(table=1,nat)),{"ct(table=8,nat)" if translated else "3"}
        table=0,in_port=2,ip,actions=ct(table=1,nat)
        table=8,actions=3"""))  # fmt: skip
    net.switch.add_port("copy", 3)
    client = Host(ends.client, 40000, ends.virtual, 21, next_seq=100)
    server = Host(ends.server, 21, ends.public, 40000, next_seq=900)

    def sent(host: Host, port: int, payload: bytes = b"", **flags: bool) -> dict[int, bytes]:
        net.time_ms += 1
        batch = batch_of([host.segment(payload, **flags)], in_port=port, time_ns=net.time_ms * 1_000_000)
        result = net.switch.process(batch)
        frames = {}
        for frame in result.tx:
            source = batch.data if frame["source"] == SOURCE_BATCH else result.tx_data
            start = int(frame["data"])
            frames[int(frame["port"])] = source[start : start + int(frame["length"])].tobytes()
        return frames

    server.receive(sent(client, 1, syn=True, ack=False)[2])
    client.receive(sent(server, 2, syn=True)[1])
    server.receive(sent(client, 1)[2])
    client.receive(sent(server, 2, b"220 ready\r\n")[1])
    server.receive(sent(client, 1, b"NOOP\r\n")[2])
    frames = sent(client, 1, f"PORT {six(ends.client, 5001)}\r\n".encode())
    outside = f"PORT {six(ends.public, 5001)}\r\n".encode()
    assert read_segment(frames[2]).payload == outside
    copy = read_segment(frames[3])
    assert copy.payload == (outside if translated else f"PORT {six(ends.client, 5001)}\r\n".encode())
    assert copy.source == (ends.public if translated else ends.client)

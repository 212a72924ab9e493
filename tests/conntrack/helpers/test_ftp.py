"""What an FTP control connection announces."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.conntrack.helpers.api import NOTHING, Announcement, Findings
from flowshunt.conntrack.helpers.ftp import CLIENT, SERVER, Control, read_line

COMMANDS = [
    (CLIENT, b"PORT 10,0,0,1,19,136\r\n", "10.0.0.1", 5000, b"10,0,0,1,19,136"),
    (CLIENT, b"port  1,2,3,4,0,20  \r\n", "1.2.3.4", 20, b"1,2,3,4,0,20"),
    (CLIENT, b"EPRT |1|132.235.1.2|6275|\r\n", "132.235.1.2", 6275, b"|1|132.235.1.2|6275|"),
    (
        CLIENT,
        b"EPRT |2|1080::8:800:200C:417A|5282|\r\n",
        "1080::8:800:200c:417a",
        5282,
        b"|2|1080::8:800:200C:417A|5282|",
    ),
    (CLIENT, b"eprt !2!::1!65535!\r\n", "::1", 65535, b"!2!::1!65535!"),
    (
        SERVER,
        b"227 Entering Passive Mode (199,233,217,249,221,90)\r\n",
        "199.233.217.249",
        56666,
        b"199,233,217,249,221,90",
    ),
    (SERVER, b"227 =1,2,3,4,5,6\r\n", "1.2.3.4", 1286, b"1,2,3,4,5,6"),
    (SERVER, b"227 Passive (1,2,3,4,5,6). Go.\r\n", "1.2.3.4", 1286, b"1,2,3,4,5,6"),
    (SERVER, b"229 Entering Extended Passive Mode (|||37100|)\r\n", None, 37100, b"37100"),
    (SERVER, b"229 Extended Passive Mode OK (@@@1@) ok\r\n", None, 1, b"1"),
]
BAD = [
    (CLIENT, b"PORT 10,0,0,1,19\r\n"),
    (CLIENT, b"PORT 10,0,0,1,19,136\n"),
    (CLIENT, b"PORT 10,0,0,256,19,136\r\n"),
    (CLIENT, b"PORT 10,0,0,1,0,0\r\n"),
    (CLIENT, b"PORT 10,0,0,1,19,136,1\r\n"),
    (CLIENT, b"PORT 10,0,0,1,19,136 x\r\n"),
    (CLIENT, b"PORT 10,0,0,1,19,0136\r\n"),
    (CLIENT, b"EPRT |1|132.235.1.2|0|\r\n"),
    (CLIENT, b"EPRT |1|132.235.1.2|65536|\r\n"),
    (CLIENT, b"EPRT |1|::1|6275|\r\n"),
    (CLIENT, b"EPRT |2|1.2.3.4|6275|\r\n"),
    (CLIENT, b"EPRT |3|1.2.3.4|6275|\r\n"),
    (CLIENT, b"EPRT |1|1.2.3.4|6275!\r\n"),
    (CLIENT, b"EPRT 111.2.3.41627.1\r\n"),
    (SERVER, b"227 Entering Passive Mode\r\n"),
    (SERVER, b"227 (1,2,3,4,5,6,7)\r\n"),
    (SERVER, b"227 (1,2,3,4,5,600)\r\n"),
    (SERVER, b"229 Extended (|||0|)\r\n"),
    (SERVER, b"229 Extended (|||70000|)\r\n"),
    (SERVER, b"229 Extended (||1|)\r\n"),
    (SERVER, b"229 Extended (|1|1.2.3.4|80|)\r\n"),
]
OTHER = [
    (CLIENT, b"227 Entering Passive Mode (1,2,3,4,5,6)\r\n"),
    (SERVER, b"PORT 1,2,3,4,5,6\r\n"),
    (SERVER, b"227-Entering Passive Mode (1,2,3,4,5,6)\r\n"),
    (SERVER, b" 227 Entering Passive Mode (1,2,3,4,5,6)\r\n"),
    (SERVER, b"2270 Entering Passive Mode (1,2,3,4,5,6)\r\n"),
    (CLIENT, b"XPORT 1,2,3,4,5,6\r\n"),
    (CLIENT, b"USER PORT 1,2,3,4,5,6\r\n"),
    (CLIENT, b"\r\n"),
]


@pytest.mark.parametrize(("sender", "line", "address", "port", "argument"), COMMANDS)
def test_an_announcement_is_read(sender: int, line: bytes, address: str | None, port: int, argument: bytes) -> None:
    found = read_line(line, sender)
    assert found is not None
    assert found.address == (None if address is None else ip_address(address))
    assert found.port == port
    assert line[found.start : found.end] == argument


@pytest.mark.parametrize(("sender", "line", "address", "port", "argument"), COMMANDS)
def test_an_announcement_said_anew_is_read_back(
    sender: int, line: bytes, address: str | None, port: int, argument: bytes
) -> None:
    found = read_line(line, sender)
    assert found is not None and found.spell is not None
    other = ip_address("2001:db8::77" if address and ":" in address else "192.168.100.200")
    text = line[: found.start] + found.spell(other, 40001) + line[found.end :]
    again = read_line(text, sender)
    assert again is not None
    assert (again.address, again.port) == (None if address is None else other, 40001)


@pytest.mark.parametrize(("sender", "line"), BAD)
def test_what_is_no_good_announcement_is_malformed(sender: int, line: bytes) -> None:
    assert Control().inspect(sender, 1, line) == Findings((), 1, False)


@pytest.mark.parametrize(("sender", "line"), OTHER)
def test_other_lines_say_nothing(sender: int, line: bytes) -> None:
    assert Control().inspect(sender, 1, line) == NOTHING


def test_several_commands_in_one_segment_are_all_found() -> None:
    payload = b"NOOP\r\nPORT 1,2,3,4,5,6\r\nPORT 9\r\nEPRT |1|1.2.3.4|99|\r\nPOR"
    found = Control().inspect(CLIENT, 1, payload)
    assert [payload[one.start : one.end] for one in found.announcements] == [b"1,2,3,4,5,6", b"|1|1.2.3.4|99|"]
    assert found.malformed == 1
    assert found.unfinished


def test_a_command_in_two_segments_is_found_but_nowhere() -> None:
    control = Control()
    first = control.inspect(CLIENT, 100, b"PORT 1,2,3")
    assert first == Findings((), 0, True)
    second = control.inspect(CLIENT, 110, b",4,5,6\r\n")
    assert [(one.address, one.port, one.start) for one in second.announcements] == [(ip_address("1.2.3.4"), 1286, -1)]
    assert not second.unfinished


def test_a_retransmission_is_found_where_it_stands() -> None:
    control = Control()
    once = control.inspect(SERVER, 7, b"227 ok (1,2,3,4,5,6)\r\n")
    assert control.inspect(SERVER, 7, b"227 ok (1,2,3,4,5,6)\r\n") == once
    assert once.announcements[0].start == 8


def test_text_that_only_begins_a_segment_is_no_line() -> None:
    control = Control()
    control.inspect(CLIENT, 0, b"SITE ")
    assert control.inspect(CLIENT, 5, b"PORT 1,2,3,4,5,6\r\n") == NOTHING


PIECES = st.one_of(
    st.sampled_from([line for _, line, *_ in COMMANDS] + [line for _, line in BAD + OTHER]), st.binary(max_size=30)
)


def essence(found: Announcement) -> tuple[object, int]:
    return found.address, found.port


@given(st.lists(PIECES, max_size=8), st.lists(st.integers(0, 400), max_size=8), st.sampled_from([CLIENT, SERVER]))
def test_cut_anywhere_a_conversation_announces_the_same(pieces: list[bytes], places: list[int], sender: int) -> None:
    data = b"".join(pieces)
    whole = Control().inspect(sender, 5, data)
    control = Control()
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    parts = [control.inspect(sender, 5 + a, data[a:b]) for a, b in itertools.pairwise(edges)]
    assert [essence(one) for part in parts for one in part.announcements] == [
        essence(one) for one in whole.announcements
    ]
    assert sum(part.malformed for part in parts) == whole.malformed
    for part, (a, b) in zip(parts, itertools.pairwise(edges), strict=True):
        for one in part.announcements:
            assert one.start == -1 or 0 <= one.start < one.end <= b - a


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 0xFFFFFFFF), st.binary(max_size=200)), max_size=20))
def test_nothing_that_peers_send_raises(segments: list[tuple[int, int, bytes]]) -> None:
    control = Control((False, True))
    for direction, seq, payload in segments:
        control.inspect(direction, seq, payload)

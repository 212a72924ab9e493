from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest

from flowshunt.control.openflow import connection as C
from flowshunt.control.openflow.codec import BarrierRequest, EchoRequest
from flowshunt.control.openflow.connection import Closed, Commit, Connection, Negotiated, Request
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.flow_mod import FlowMod
from flowshunt.control.openflow.flow_removed import FlowRemoved
from flowshunt.control.openflow.flow_stats import FlowEntry, FlowReply
from flowshunt.control.openflow.hello import decode_hello
from flowshunt.control.openflow.packets import PacketIn
from flowshunt.control.openflow.ports import PortDescription, PortStatus
from flowshunt.control.openflow.tables import TableFeaturesRequest
from flowshunt.rules.openflow import parse_flow
from tests.control.openflow.wires import connected, flow_mod, hello, message

ONF = 0x4F4E4600


def replies(connection: Connection) -> list[tuple[int, int, int, bytes]]:
    """What is to be sent: version, type, xid, body of each message."""
    data = connection.data_to_send()
    found = []
    while data:
        version, kind, size, xid = struct.unpack_from("!BBHI", data)
        found.append((version, kind, xid, data[8:size]))
        data = data[size:]
    return found


def test_the_first_message_is_a_hello_with_all_versions() -> None:
    ((version, kind, _, body),) = replies(Connection())
    assert (version, kind, decode_hello(version, body)) == (6, 0, frozenset(range(1, 7)))


@pytest.mark.parametrize(
    ("theirs", "agreed"),
    [
        (hello(1), 1),
        (hello(1, 4), 4),
        (hello(2, 3, 5), 5),
        (message(4, 0), 4),
        (message(9, 0), 6),
        (message(9, 0, struct.pack("!HHI", 1, 8, 1 << 9 | 1 << 3)), 3),
        (message(1, 0, b"\0\7\0\4\0\1\0\x08\0\0\0\x02"), 1),
        (message(4, 0, b"\0\1\0\0junk"), 4),
    ],
)
def test_hellos_agree_on_the_highest_common_version(theirs: bytes, agreed: int) -> None:
    connection = Connection()
    connection.receive_data(theirs)
    assert connection.next_event() == Negotiated(agreed)
    assert connection.version == agreed


def test_without_a_common_version_an_error_says_so_and_the_connection_ends() -> None:
    connection = Connection({4})
    connection.data_to_send()
    connection.receive_data(hello(1, 6))
    assert connection.next_event() == Closed("no version in common")
    ((_, kind, _, body),) = replies(connection)
    assert (kind, body[:4]) == (1, bytes(4))
    connection.receive_data(message(4, 2))
    assert connection.next_event() is None


@pytest.mark.parametrize("data", [message(4, 2), b"\4\0\0\7" + bytes(8), b"GET / HTTP/1.0\r\n\r\n", message(0, 0)])
def test_what_is_no_openflow_ends_the_connection(data: bytes) -> None:
    connection = Connection()
    connection.receive_data(data)
    event = connection.next_event()
    assert isinstance(event, Closed) or event is None
    assert not connection.version


def test_messages_may_come_in_any_pieces() -> None:
    flow = parse_flow("tcp,tp_dst=80,actions=1")
    data = hello(4) + flow_mod(flow, 4) + message(4, 20, xid=9)
    for size in (1, 3, 8, 50, len(data)):
        connection = Connection()
        events = []
        for at in range(0, len(data), size):
            connection.receive_data(data[at : at + size])
            while (event := connection.next_event()) is not None:
                events.append(event)
        assert [type(event) for event in events] == [Negotiated, Request, Request]
        assert events[1].message == FlowMod("add", flow)
        assert (events[2].message, events[2].xid) == (BarrierRequest(), 9)


def test_echo_is_answered_with_its_data_and_xid() -> None:
    connection = connected(4)
    connection.receive_data(message(4, 2, b"abc", xid=77))
    assert connection.next_event() is None
    assert replies(connection) == [(4, 3, 77, b"abc")]


def test_a_malformed_message_gets_an_error_and_the_connection_goes_on() -> None:
    connection = connected(4)
    wrong = message(4, 14, b"short", xid=5)
    connection.receive_data(wrong + message(4, 99, xid=6) + message(1, 2, xid=7) + message(4, 20, xid=8))
    event = connection.next_event()
    assert isinstance(event, Request) and event.xid == 8
    answers = replies(connection)
    assert [(kind, xid) for _, kind, xid, _ in answers] == [(1, 5), (1, 6), (1, 7)]
    assert [struct.unpack("!HH", body[:4]) for *_, body in answers] == [(1, 6), (1, 1), (1, 0)]
    assert answers[0][3][4:] == wrong


def test_nothing_follows_the_end() -> None:
    connection = connected(4)
    connection.receive_data(b"")
    connection.receive_data(message(4, 20))
    assert connection.next_event() is None


def test_a_long_reply_leaves_in_several_messages_none_too_long() -> None:
    connection = connected(4)
    request = Request(4, 3, None, b"")
    flow = parse_flow("tcp,tp_dst=80,actions=1")
    connection.reply(request, FlowReply([FlowEntry(flow, 1, 2, 3, 4, 5)] * 2000))
    parts = replies(connection)
    assert len(parts) > 1
    assert all(len(body) + 8 <= 0xFFFF for *_, body in parts)
    assert [struct.unpack_from("!HH", body) for *_, body in parts] == [(1, 1)] * (len(parts) - 1) + [(1, 0)]
    entry = int.from_bytes(parts[0][3][8:10], "big")
    assert sum(len(body) - 8 for *_, body in parts) == 2000 * entry


def test_an_empty_reply_is_one_message() -> None:
    connection = connected(1)
    connection.reply(Request(1, 3, None, b""), FlowReply((), nicira=True))
    assert replies(connection) == [(1, 17, 3, struct.pack("!HHII4x", 0xFFFF, 0, 0x2320, 0))]


def test_a_request_in_parts_is_put_together() -> None:
    connection = connected(4)
    connection.receive_data(message(4, 18, struct.pack("!HH4x", 12, 1) + bytes(40)))
    assert connection.next_event() is None
    connection.receive_data(message(4, 18, struct.pack("!HH4x", 12, 0) + bytes(40)))
    event = connection.next_event()
    assert isinstance(event, Request) and event.message == TableFeaturesRequest(change=True)


def test_a_request_in_too_many_parts_gets_one_error_and_no_memory() -> None:
    connection = connected(4)
    part = message(4, 18, struct.pack("!HH4x", 12, 1) + bytes(60000))
    for _ in range(100):
        connection.receive_data(part)
        assert connection.next_event() is None
    ((_, kind, _, body),) = replies(connection)
    assert (kind, body[:4]) == (1, struct.pack("!HH", 1, 13))
    connection.receive_data(message(4, 18, struct.pack("!HH4x", 12, 0)))
    assert connection.next_event() is None
    connection.receive_data(message(4, 18, struct.pack("!HH4x", 12, 0), xid=2))
    assert isinstance(connection.next_event(), Request)


# --- bundles ----------------------------------------------------------------------------------------------------------


def control(version: int, kind: int, *, number: int = 7, flags: int = 3, xid: int = 1) -> bytes:
    body = struct.pack("!IHH", number, kind, flags)
    return message(version, 33, body, xid) if version > 4 else message(4, 4, struct.pack("!II", ONF, 2300) + body, xid)


def add(version: int, inner: bytes, *, number: int = 7, flags: int = 3, xid: int = 1) -> bytes:
    body = struct.pack("!IHH", number, 0, flags) + inner
    return message(version, 34, body, xid) if version > 4 else message(4, 4, struct.pack("!II", ONF, 2301) + body, xid)


def error_codes(connection: Connection) -> list[tuple[int, int, int]]:
    return [(xid, *struct.unpack("!HH", body[:4])) for _, kind, xid, body in replies(connection) if kind == 1]


@pytest.mark.parametrize("version", [4, 5, 6])
def test_a_bundle_comes_out_when_it_is_committed(version: int) -> None:
    connection = connected(version)
    flows = [parse_flow(f"reg0={n},actions={n}") for n in (1, 2)]
    data = control(version, 0)
    data += b"".join(add(version, flow_mod(flow, version, xid=n), xid=n) for n, flow in enumerate(flows))
    connection.receive_data(data + control(version, 4, xid=9))
    commit = connection.next_event()
    assert isinstance(commit, Commit)
    assert [request.message for request in commit.requests] == [FlowMod("add", flow) for flow in flows]
    connection.committed(commit)
    answers = [(kind, xid, body[-8:]) for _, kind, xid, body in replies(connection)]
    kind = 33 if version > 4 else 4
    assert answers == [(kind, 1, struct.pack("!IHH", 7, 1, 0)), (kind, 9, struct.pack("!IHH", 7, 5, 0))]


def test_a_bundle_may_be_closed_first_and_discarded() -> None:
    connection = connected(5)
    connection.receive_data(control(5, 0) + control(5, 2) + add(5, flow_mod(parse_flow("actions=1"), 5)))
    assert connection.next_event() is None
    assert error_codes(connection) == [(1, 17, 4)]
    connection.receive_data(control(5, 6) + control(5, 4))
    assert connection.next_event() is None
    assert error_codes(connection) == [(1, 17, 2)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (add(5, message(5, 20)), 10),
        (add(5, message(5, 14, b"short")), None),
        (add(5, message(4, 20)), None),
        (add(5, message(5, 20, xid=4)), 9),
        (add(5, message(5, 20)[:6]), 8),
        (add(5, b"\5\x14\0\xff\0\0\0\1"), 8),
        (add(5, flow_mod(parse_flow("actions=1"), 5), flags=1), 7),
        (add(5, flow_mod(parse_flow("actions=1"), 5), flags=4), 7),
    ],
)
def test_what_a_bundle_cannot_hold_is_refused_and_dooms_it(data: bytes, code: int | None) -> None:
    connection = connected(5)
    connection.receive_data(control(5, 0) + data + control(5, 4, xid=9))
    assert connection.next_event() is None
    first, *rest = error_codes(connection)
    assert first[0] == 1
    if code is not None:
        assert first == (1, 17, code)
    assert rest == [(9, 17, 13)]


def test_bundles_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connected(5)
    connection.receive_data(b"".join(control(5, 0, number=n) for n in range(C.MAX_BUNDLES + 1)))
    assert connection.next_event() is None
    assert error_codes(connection) == [(1, 17, 5)]
    monkeypatch.setattr(C, "MAX_BUNDLE_SIZE", 150 + C._DECODED_SIZE)
    inner = flow_mod(parse_flow("actions=1"), 5)
    connection.receive_data(add(5, inner, number=0) * 3)
    assert connection.next_event() is None
    assert error_codes(connection) == [(1, 17, 12)] * 2


def test_a_failed_commit_names_its_message() -> None:
    connection = connected(5)
    connection.receive_data(add(5, flow_mod(parse_flow("actions=1"), 5, xid=4), xid=4) + control(5, 4, xid=9))
    commit = connection.next_event()
    assert isinstance(commit, Commit)
    connection.commit_failed(commit, commit.requests[0], OpenFlowError("OFPFMFC_TABLE_FULL"))
    assert error_codes(connection) == [(4, 5, 1), (9, 17, 13)]


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_events_have_the_form_that_the_connection_chose(version: int) -> None:
    connection = connected(version)
    packet = PacketIn(b"x" * 60, 100, 1, 3, 5, (("in_port", 2, 0xFFFFFFFF),), b"user", b"again")
    port = PortStatus(0, PortDescription(1, "p0", bytes(6)))
    entry = FlowEntry(parse_flow("tcp,actions=1"), 1, 2, 3, 4, 5)
    for form in (b"\0\0\0\0", b"\0\0\0\1", b"\0\0\0\2"):
        connection.receive_data(message(version, 4, struct.pack("!II", 0x2320, 16) + form))
        assert connection.next_event() is None
        connection.notify(packet)
    connection.notify(port)
    connection.notify(FlowRemoved(entry, 2))
    connection.notify(EchoRequest(b""))
    kinds = [(kind, body[4:8] if kind == 4 else b"") for _, kind, _, body in replies(connection)]
    expected = [(10, b""), (4, b"\0\0\0\x11"), (4, b"\0\0\0\x1e"), (12, b""), (11, b""), (2, b"")]
    assert kinds == expected


def test_a_connection_says_what_it_wants_to_be_told() -> None:
    connection = connected(5)
    assert connection.is_told("flow_removed", 2)
    connection.receive_data(message(5, 28, struct.pack("!HHIHHI", 5, 8, 0b1, 2, 8, 0)))
    assert isinstance(connection.next_event(), Request)
    assert connection.is_told("flow_removed", 0) and not connection.is_told("flow_removed", 2)
    connection.role = "secondary"
    assert not connection.is_told("flow_removed", 0) and not connection.is_told("port_status", 0)
    connection.receive_data(message(5, 26, xid=3))
    assert connection.next_event() is None
    ((_, kind, xid, body),) = replies(connection)
    assert (kind, xid, len(body)) == (27, 3, 48)


def test_packets_whose_ttl_ran_out_are_for_those_that_ask_for_them() -> None:
    connection = connected(1)
    assert not connection.is_told("packet_in", 2)
    connection.hear_of_invalid_ttl(True)
    assert connection.is_told("packet_in", 2) and connection.is_told("packet_in", 1)
    connection.hear_of_invalid_ttl(False)
    assert not connection.is_told("packet_in", 2) and connection.is_told("packet_in", 1)


def test_a_request_in_very_many_parts_costs_what_its_bytes_cost() -> None:
    connection = connected(4)
    n = 60_000
    part = message(4, 18, struct.pack("!HH4x", 12, 1) + bytes(8))
    started = time.process_time()
    connection.receive_data(part * n)
    assert connection.next_event() is None
    assert time.process_time() - started < 5  # copied each time, the parts would be 15 GB


def test_a_long_listing_leaves_in_parts_before_it_is_written_to_its_end() -> None:
    connection = connected(4)
    made: list[int] = []

    def entries() -> Iterator[FlowEntry]:
        for number in range(2000):
            made.append(number)
            yield FlowEntry(parse_flow(f"priority={number},actions=1"), 0, 0, 0, 0, 0)

    connection.reply(Request(4, 1, None, b""), FlowReply(entries()))
    assert not made
    parts = connection.parts_to_send()
    first = next(parts)
    assert 0 < len(made) < 2000
    rest = list(parts)
    assert len(made) == 2000
    assert all(len(part) < 1 << 17 for part in (first, *rest))
    connection.reply(Request(4, 1, None, b""), FlowReply(entries()))
    assert connection.data_to_send() == first + b"".join(rest)

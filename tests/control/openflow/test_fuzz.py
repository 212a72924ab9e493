"""Nothing that comes in raises anything but OpenFlowError, and none of it takes long or stays in memory."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.control.openflow import codec
from flowshunt.control.openflow.actions import decode_actions
from flowshunt.control.openflow.connection import Commit, Connection, Request
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.match import decode_fields
from flowshunt.control.openflow.wire import MAX_MESSAGE
from flowshunt.rules.openflow import parse_flow
from tests.control.openflow.wires import VERSIONS, connected, flow_mod_body, hello, message, without_flags
from tests.rules.openflow.flow_strategies import whole_flows

versions = st.sampled_from(VERSIONS)
short = st.binary(max_size=200)


def read(version: int, kind: int, body: bytes) -> None:
    try:
        codec.decode(version, kind, body, table_ids=True)
    except OpenFlowError as error:
        assert error.number(version)


@settings(max_examples=400)
@given(versions, st.integers(0, 40), short)
def test_random_bodies(version: int, kind: int, body: bytes) -> None:
    read(version, kind, body)


@settings(max_examples=300)
@given(versions, st.sampled_from((0x2320, 0x4F4E4600)), st.sampled_from((*range(36), 1870, 2300, 2301)), short)
def test_random_experimenter_bodies(version: int, vendor: int, subtype: int, body: bytes) -> None:
    read(version, 4, struct.pack("!II", vendor, subtype) + body)


@settings(max_examples=300)
@given(versions, st.integers(0, 17), short, st.booleans())
def test_random_multipart_bodies(version: int, kind: int, body: bytes, nicira: bool) -> None:
    head = "!HH" if version == 1 else "!HH4x"
    if nicira:
        data = (
            struct.pack(head, 0xFFFF, 0) + struct.pack("!II", 0x2320, kind) + (bytes(4) if version == 1 else b"") + body
        )
    else:
        data = struct.pack(head, kind, 0) + body
    read(version, codec.multipart_type(version), data)


@settings(max_examples=300)
@given(whole_flows(), versions, st.data())
def test_flow_mods_with_some_bytes_changed(flow: object, version: int, data: st.DataObject) -> None:
    try:
        body = bytearray(flow_mod_body(without_flags(flow), version))  # type: ignore[arg-type]
    except OpenFlowError:
        return
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(body)))
    if version == 1:
        read(1, 4, struct.pack("!II", 0x2320, 13) + bytes(body))
        read(1, 4, struct.pack("!II", 0x2320, 13) + bytes(body[:end]))
    read(version, 14, bytes(body))
    read(version, 14, bytes(body[:end]))


def test_recorded_messages_with_some_bytes_changed(vectors: dict[str, list[tuple[str, bytes]]]) -> None:
    recorded = sorted({data for messages in vectors.values() for _, data in messages})
    dice = random.Random(1)
    until = time.monotonic() + 4
    n = 0
    while time.monotonic() < until:
        data = bytearray(dice.choice(recorded))
        for _ in range(dice.randint(1, 5)):
            data[dice.randrange(min(8, len(data) - 1), len(data))] = dice.choice((0, 1, 255, dice.randrange(256)))
        if dice.random() < 0.3:
            del data[max(2, dice.randrange(len(data))) :]
        version = dice.choice(VERSIONS) if dice.random() < 0.1 else data[0]
        read(version, data[1], bytes(data[8:]))
        n += 1
    assert n > 500


@settings(max_examples=200)
@given(versions, st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=80)), max_size=8), st.integers(1, 100))
def test_a_connection_survives_any_stream(version: int, messages: list[tuple[int, bytes]], size: int) -> None:
    connection = Connection()
    data = hello(version) + b"".join(message(version, kind, body) for kind, body in messages)
    for at in range(0, len(data), size):
        connection.receive_data(data[at : at + size])
        while (event := connection.next_event()) is not None:
            if isinstance(event, Request):
                connection.fail(event, OpenFlowError("OFPBRC_BAD_TYPE"))
            elif isinstance(event, Commit):
                connection.committed(event)
    assert len(connection.data_to_send()) < 20_000


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_a_connection_survives_any_bytes(data: bytes) -> None:
    connection = Connection()
    connection.receive_data(data)
    while connection.next_event() is not None:
        pass


def longest(unit: bytes) -> bytes:
    return unit * ((MAX_MESSAGE - 200) // len(unit))


NX_CLONE = 42


def nested_clones() -> bytes:
    """As many clones as a message has room for, each in the one before."""
    action = b""
    while len(action) < MAX_MESSAGE - 300:
        action = struct.pack("!HHIH6x", 0xFFFF, 16 + len(action), 0x2320, NX_CLONE) + action
    return action


@pytest.mark.parametrize(
    "actions",
    [
        longest(struct.pack("!HHIH6x", 0xFFFF, 16, 0x2320, 18)),
        longest(struct.pack("!HHHIII", 25, 16, 0x0001, 0x00040000, 0, 0)[:16]),
        longest(struct.pack("!HHI", 21, 8, 1)),
        nested_clones(),
    ],
)
def test_the_longest_lists_are_read_quickly(actions: bytes) -> None:
    started = time.process_time()
    try:
        decode_actions(actions, 4, None)
    except OpenFlowError as error:
        assert error.name
    assert time.process_time() - started < 2


def test_the_longest_match_is_read_quickly() -> None:
    started = time.process_time()
    with pytest.raises(OpenFlowError):
        decode_fields(longest(struct.pack("!IHH", 0x80000A02, 0x0800, 0)[:6]))
    assert time.process_time() - started < 1


def test_memory_stays_flat_under_endless_garbage() -> None:
    connection = connected(5)
    dice = random.Random(2)
    request = message(5, 18, struct.pack("!HH4x", 12, 1) + bytes(3000))
    junk = [message(5, 34, struct.pack("!IHH", n, 0, 3) + dice.randbytes(100)) + request for n in range(64)] + [
        message(5, 14, flow_mod_body(parse_flow("tcp,actions=1"), 5)),
        message(5, 14, dice.randbytes(200)),
    ]

    def feed(times: int) -> None:
        for _ in range(times):
            connection.receive_data(dice.choice(junk))
            while (event := connection.next_event()) is not None:
                assert isinstance(event, Request)
            connection.data_to_send()

    feed(3000)
    tracemalloc.start()
    try:
        feed(200)
        before, _ = tracemalloc.get_traced_memory()
        feed(3000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000_000

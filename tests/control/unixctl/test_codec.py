"""JSON-RPC over a stream: any cut of the bytes gives the same messages, and nothing hostile does harm."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.control.jsonrpc import Decoder, JsonRpcError, Message, Notification, Reply, Request, encode

ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
PARAMS = st.lists(ANY, max_size=3)
MESSAGES = st.one_of(
    st.builds(Request, st.text(max_size=9), PARAMS, st.integers(0, 9)),
    st.builds(Notification, st.text(max_size=9), PARAMS),
    st.builds(Reply, ANY, ANY, st.integers(0, 9)),
)


@given(st.lists(MESSAGES, max_size=4), st.lists(st.integers(0, 400), max_size=6))
def test_messages_come_out_as_they_went_in_wherever_the_stream_is_cut(messages: list[Message], cuts: list[int]) -> None:
    stream = b" \n".join(encode(message) for message in messages)
    decoder, found, places = Decoder(), [], sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, end in pairwise(places):
        found += decoder.feed(stream[start:end])
    assert found == messages


@given(st.binary(max_size=200))
def test_any_bytes_give_messages_or_an_error(data: bytes) -> None:
    decoder = Decoder()
    try:
        decoder.feed(b'{"method":' + data)
    except JsonRpcError:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"[1]",
        b'{"id":null}',
        b'{"method":1,"params":[],"id":1}',
        b'{"method":"a","params":{},"id":1}',
        b"{]",
        b'{"method":"a","params":[' + b"[" * 100,
        json.dumps({"method": "a", "params": ["x" * 300], "id": 1}).encode()[:-2],
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(JsonRpcError):
        Decoder(max_size=256).feed(data)


def test_a_string_may_hold_brackets_and_quotes() -> None:
    (found,) = Decoder().feed(b'{"method":"}\\"]\\\\","params":["{"],"id":0}')
    assert found == Request('}"]\\', ["{"], 0)

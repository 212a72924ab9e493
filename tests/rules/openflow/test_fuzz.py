"""Hostile text: a flow or a FlowSyntaxError, never anything else, and in bounded time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.rules.openflow import FlowSyntaxError, format_flow, parse_flow, parse_flows
from flowshunt.rules.openflow.fields import PROTOCOLS, USER_FIELDS
from flowshunt.rules.openflow.scanner import MAX_TEXT

CASES = Path(__file__).with_name("same_as_ovs.txt").read_text().splitlines()
PIECES = [
    *USER_FIELDS, *PROTOCOLS, "actions=", "action", "ct(", "commit", "exec(", "zone=", "clone(", "set_field:", "load:",
    "move:", "->", "[", "]", "[0..3]", "(", ")", ",", " ", "=", ":", "/", "\t", "\r", "\n", "#", '"', "0x", "-1",
    "1.2.3.4", "::1", "1:2:3:4:5:6", "0", "5", "65535", "99999999999999999999", "+trk", "-new", "|", "drop", "note:",
    "resubmit(", "table=", "cookie=", "mod_nw_src:", "output:", "conjunction(", "1/2", "multipath(", "bundle(",
    "bundle_load(", "members:", "eth_src", "hrw", "ofport", "output(port=", "max_len=",
    "²", "\0", "\ud800", "é", "\x1b[31m",
]  # fmt: skip
COMMANDS = ("add", "mod", "mod_strict", "del", "del_strict")


def read(text: str, command: str = "add") -> None:
    """Parse; what is accepted must print and read back, what is refused must have a place and a message."""
    warnings: list[object] = []
    try:
        flow = parse_flow(text, command=command, warn=warnings.append)  # type: ignore[arg-type]
    except FlowSyntaxError as error:
        assert error.line >= 1
        assert 1 <= error.column <= len(text) + 1
        assert error.message
        assert all(part.isprintable() for part in str(error).split("\n"))
        return
    assert all(str(warning) for warning in warnings)
    printed = format_flow(flow, command=command)  # type: ignore[arg-type]
    if len(printed) <= MAX_TEXT:
        assert parse_flow(printed, command=command) == flow  # type: ignore[arg-type]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.sampled_from(COMMANDS))
def test_pieces_in_any_order(text: str, command: str) -> None:
    read(text, command)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_damaged_flows(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 4))
        text = text[:at] + data.draw(st.sampled_from(["", *PIECES])) + text[at + cut :]
    read(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    read(text)
    try:
        parse_flows(text)
    except FlowSyntaxError as error:
        assert error.line <= text.count("\n") + 1


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        ")",
        "clone(",
        "ct(",
        "a(b(",
        "[",
        "note:",
        "reg0[",
        "actions",
        "actions ",
        "ip ",
        "1,",
        "+trk",
        "9",
        "\t",
        '"',
    ],
)
@pytest.mark.parametrize("prefix", ["", "actions=", "actions=ct(", "actions=note:", "ct_state=", "reg0=0x"])
def test_the_longest_texts_take_no_long_time(prefix: str, piece: str) -> None:
    text = (prefix + piece * MAX_TEXT)[:MAX_TEXT]
    start = time.process_time()
    read(text)
    assert time.process_time() - start < 2


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(FlowSyntaxError, match="characters"):
        parse_flow("actions=" + "1," * MAX_TEXT)


def test_clone_nests_to_a_limit() -> None:
    deepest = "clone(" * 16 + "1" + ")" * 16
    assert format_flow(parse_flow(f"actions={deepest}")).count("clone") == 16
    with pytest.raises(FlowSyntaxError, match="16 deep"):
        parse_flow(f"actions=clone({deepest})")

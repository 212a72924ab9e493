"""Real captures with helpers by port, against the answers of Open vSwitch's tracker and of Linux's.

Those references were made with a clock that stood still.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from flowshunt import Switch
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.listing import dpctl
from flowshunt.conntrack.states import ct_state_text
from flowshunt.ports.capture import open_capture
from tests.oracle.compare import Entry, Result, compare, compare_tables, read_reference
from tests.oracle.tables import entries_of

FLOWS = "table=0,actions=ct(commit,table=1)"
SUFFIXES = {"default": "ovs-helpers", "linux": "kernel-helpers"}
LEAST = {"default": 0.995, "linux": 0.97}
IRC = "the IRC helper, which Flowshunt does not have"
DIFFERENCES = {("linux", "zeek-irc-dcc-first-command", "rel|trk", "new|trk"): IRC}
"""(profile, capture, reference's state, ours): why."""


class Replay(NamedTuple):
    """What came out of one capture."""

    states: list[str]
    table: set[Entry]
    lines: set[str]
    expected: list[tuple[object, ...]]


def announced(connection: Connection) -> str:
    """Helper and parent as the listing shows them, without what the reference's `id` and `status` are."""
    return strip(dpctl.line(connection, more=True))


def strip(line: str) -> str:
    found = re.search(r"(\w+,orig=\([^)]*\))", line)
    assert found is not None
    extras = re.findall(r",(helper=\w+|parent=\([^)]*\))", line)
    return ",".join([found[1], *extras])


def replay(path: Path, profile: str, batch_size: int = 256) -> Replay:
    switch = Switch(profile, max_connections=10_000, batch_size=batch_size, helpers=("ftp", "tftp"))
    switch.add_flows(FLOWS)
    states: list[str] = []
    with open_capture(path) as capture:
        for batch in capture.batches(256):
            batch.packets["time_ns"] = 10**18
            states += [ct_state_text(int(state)) for state in switch.process(batch).ct_state]
    connections = list(switch.tracker.connections())
    expected = [
        (one.protocol, str(one.source), str(one.destination), one.destination_port, one.timeout_ms // 1000, one.helper)
        for one in switch.tracker.expectations()
    ]
    return Replay(states, entries_of(connections), set(map(announced, connections)), expected)


def names(captures: Path, profile: str) -> list[str]:
    return sorted(path.name.split(".")[0] for path in captures.glob(f"*.{SUFFIXES[profile]}"))


@pytest.fixture(scope="module")
def replays(captures: Path) -> dict[tuple[str, str], Replay]:
    """Every capture that has a reference with helpers, by (profile, name)."""
    return {
        (profile, name): replay(captures / f"{name}.pcap", profile)
        for profile in SUFFIXES
        for name in names(captures, profile)
    }


@pytest.mark.parametrize("profile", SUFFIXES)
def test_states_and_tables_are_the_reference(
    captures: Path, replays: dict[tuple[str, str], Replay], profile: str
) -> None:
    total = Result()
    unnamed = []
    for name in names(captures, profile):
        reference = read_reference(captures, name, SUFFIXES[profile])
        result = compare(reference, replays[profile, name].states)
        total += result
        unnamed += [(name, *kind) for kind in result.kinds() if (profile, name, *kind) not in DIFFERENCES]
        tables = compare_tables(reference, replays[profile, name].table)
        assert (tables.missing, tables.extra) == ([], []), name
    print(f"{profile}: {total.equal} of {total.total} packets equal")
    assert total.total > 400
    assert total.ratio >= LEAST[profile]
    assert unnamed == []


def test_helpers_and_parents_are_listed_as_open_vswitch_lists_them(
    captures: Path, replays: dict[tuple[str, str], Replay]
) -> None:
    n_parents = 0
    for name in names(captures, "default"):
        text = (captures / f"{name}.ovs-helpers").read_text().splitlines()
        theirs = {strip(line.removeprefix("T ")) for line in text if line.startswith("T ")}
        assert replays["default", name].lines == theirs, name
        n_parents += sum("parent=" in line for line in theirs)
    assert n_parents > 10


def test_what_is_still_expected_is_what_linux_expects(captures: Path, replays: dict[tuple[str, str], Replay]) -> None:
    n_expected = 0
    for name in names(captures, "linux"):
        theirs = []
        for line in (captures / f"{name}.kernel-helpers").read_text().splitlines():
            if line.startswith("X ") and "helper=sip" not in line:
                pairs = dict(word.split("=", 1) for word in reversed(line.split()) if "=" in word)
                port = re.findall(r" dport=(\d+)", line)[0]
                end = pairs["src"], pairs["dst"], int(port)
                theirs.append((int(pairs["proto"]), *end, int(line.split()[1]) + 1, pairs["helper"]))
        assert replays["linux", name].expected == theirs, name
        n_expected += len(theirs)
    assert n_expected > 0


@pytest.mark.parametrize("profile", SUFFIXES)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_the_batch_size_changes_nothing(
    captures: Path, replays: dict[tuple[str, str], Replay], profile: str, batch_size: int
) -> None:
    for name in names(captures, profile):
        assert replay(captures / f"{name}.pcap", profile, batch_size) == replays[profile, name], name

"""Real captures through the switch, against the answers of Open vSwitch's tracker and of Linux's.

Every kind of difference that remains is listed here with a name, and in docs/differences.md with its reason.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from flowshunt import Switch
from flowshunt.cli.replay.outputs import StatesWriter
from flowshunt.ports.capture import open_capture
from tests.oracle.compare import Entry, Result, capture_names, compare, compare_tables, read_reference
from tests.oracle.tables import entries_of

FLOWS = "table=0,actions=ct(commit,table=1)"
PROFILES = {"default": ("ovs", 0.995), "linux": ("kernel", 0.97)}
"""Which reference a profile follows, and the least share of packets on which both agree."""
LEAST_PER_CAPTURE = 0.95
LEAST_TABLES = 0.98

RUNTS = "frames shorter than an Ethernet header are dropped before the tables"
DIFFERENCES = {("default", "tcpdump-l2tp-avp-overflow", "inv|trk", "-"): RUNTS}
"""(profile, capture, reference's state, ours): why."""

ENDS = "two fragments that both say that they are the last end a datagram at different places"
WITHOUT_CHECKSUMS = {("inv|trk", "-"): RUNTS, ("held", "inv|trk"): ENDS}
"""(reference's state, ours): why, with checksums taken as good."""
CLOCK = "the reference's clock ran a little ahead of the capture's"
TABLE_DIFFERENCES = {("linux", "ndpi-fuzz-2006-06-26-2594"): CLOCK, ("linux", "ndpi-dns_fragmented"): CLOCK}


class Replay(NamedTuple):
    """What came out of one capture."""

    states: list[str]
    fates: list[int]
    table: set[Entry]


def replay(path: Path, batch_size: int = 256, time_ns: int | None = None, **options: object) -> Replay:
    """Send a capture through a switch of its own; `time_ns` stops the clock."""
    switch = Switch(max_connections=10_000, batch_size=batch_size, **options)  # type: ignore[arg-type]
    switch.add_flows(FLOWS)
    states = io.StringIO()
    fates: list[int] = []
    first_only = options.get("profile") == "linux"
    with (
        open_capture(path) as capture,
        StatesWriter(states, switch.fragments.oldest_packet, first_only=first_only) as writer,
    ):
        for batch in capture.batches(256):
            if time_ns is not None:
                batch.packets["time_ns"] = time_ns
            result = switch.process(batch)
            writer.take(batch, result)
            fates += np.asarray(result.fate).tolist()
    lines = [line.partition(": ")[2] for line in states.getvalue().splitlines()]
    return Replay(lines, fates, entries_of(switch.tracker.connections()))


@pytest.fixture(scope="module")
def replays(captures: Path) -> dict[tuple[str, str], Replay]:
    """Every capture under both profiles, by (profile, name)."""
    return {
        (profile, name): replay(captures / f"{name}.pcap", profile=profile)
        for profile in PROFILES
        for name in capture_names(captures)
    }


@pytest.mark.parametrize("profile", PROFILES)
def test_the_states_of_all_packets_are_the_reference(
    captures: Path, replays: dict[tuple[str, str], Replay], profile: str
) -> None:
    suffix, least = PROFILES[profile]
    total, unnamed = Result(), []
    for name in capture_names(captures):
        result = compare(read_reference(captures, name, suffix), replays[profile, name].states, fragments=True)
        total += result
        named = [kind for kind in result.kinds() if (profile, name, *kind) in DIFFERENCES]
        unnamed += [(name, difference) for difference in result.differences if difference[1:] not in named]
        assert result.ratio >= LEAST_PER_CAPTURE or named, f"{name}: {result.differences}"
    print(f"{profile}: {total.equal} of {total.total} packets equal")
    assert total.total > 8000
    assert total.ratio >= least, total.kinds()
    assert unnamed == [], "differences that docs/differences.md does not name"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_tables_at_the_end_are_the_reference(
    captures: Path, replays: dict[tuple[str, str], Replay], profile: str
) -> None:
    equal = total = 0
    for name in capture_names(captures):
        tables = compare_tables(read_reference(captures, name, PROFILES[profile][0]), replays[profile, name].table)
        equal, total = equal + tables.equal, total + tables.total
        if (profile, name) not in TABLE_DIFFERENCES:
            assert (tables.missing, tables.extra) == ([], []), name
    print(f"{profile}: {equal} of {total} entries equal")
    assert total > 450
    assert equal / total >= LEAST_TABLES


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_the_batch_size_changes_nothing(
    captures: Path, replays: dict[tuple[str, str], Replay], profile: str, batch_size: int
) -> None:
    for name in capture_names(captures):
        assert replay(captures / f"{name}.pcap", batch_size, profile=profile) == replays[profile, name], name


def test_without_checksums_the_states_are_those_of_the_reference_without(captures: Path) -> None:
    """Those references were made with a clock that stood still, and kept verifying ICMP."""
    total = Result()
    for name in capture_names(captures):
        if name != "ndpi-icmp-tunnel":
            states = replay(captures / f"{name}.pcap", time_ns=0, check_checksums=False).states
            total += compare(read_reference(captures, name, "ovs-nocsum"), states, fragments=True)
    assert total.total > 8000
    assert set(total.kinds()) == set(WITHOUT_CHECKSUMS)


def test_captures_in_their_original_format_give_the_same_states(
    captures: Path, replays: dict[tuple[str, str], Replay]
) -> None:
    originals = sorted((captures / "formats").glob("*.pcap*"))
    for path in originals:
        assert replay(path).states == replays["default", path.name.split(".")[0]].states, path.name
    assert len(originals) > 5

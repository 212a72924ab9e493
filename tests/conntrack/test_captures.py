"""Real captures through the switch, against the answers of Open vSwitch's tracker and of Linux's.

Every kind of difference that remains is listed here with a name, and in docs/differences.md with its reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from flowshunt import Switch
from flowshunt.conntrack.states import ct_state_text
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

FRAGMENTS = "fragments are not put together yet"
CLOCK = "the reference's clock ran a little ahead of the capture's"
TABLE_DIFFERENCES = {
    ("default", "ndpi-dns_fragmented"): FRAGMENTS,
    ("linux", "ndpi-dns_fragmented"): FRAGMENTS,
    ("linux", "suri-bug-6887-defrag-eth-vlan-ipv4-tcp-syn"): FRAGMENTS,
    ("linux", "ndpi-fuzz-2006-06-26-2594"): CLOCK,
}


class Replay(NamedTuple):
    """What came out of one capture."""

    states: list[str]
    fates: list[int]
    table: set[Entry]


def replay(path: Path, batch_size: int = 256, time_ns: int | None = None, **options: object) -> Replay:
    """Send a capture through a switch of its own; `time_ns` stops the clock."""
    switch = Switch(max_connections=10_000, batch_size=batch_size, **options)  # type: ignore[arg-type]
    switch.add_flows(FLOWS)
    states: list[str] = []
    fates: list[int] = []
    with open_capture(path) as capture:
        for batch in capture.batches(256):
            if time_ns is not None:
                batch.packets["time_ns"] = time_ns
            result = switch.process(batch)
            states += [ct_state_text(int(state)) for state in result.ct_state]
            fates += np.asarray(result.fate).tolist()
    return Replay(states, fates, entries_of(switch.tracker.connections()))


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
        result = compare(read_reference(captures, name, suffix), replays[profile, name].states)
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
            total += compare(read_reference(captures, name, "ovs-nocsum"), states)
    assert total.total > 8000
    assert set(total.kinds()) == {kind[2:] for kind, why in DIFFERENCES.items() if why == RUNTS}


def test_captures_in_their_original_format_give_the_same_states(
    captures: Path, replays: dict[tuple[str, str], Replay]
) -> None:
    originals = sorted((captures / "formats").glob("*.pcap*"))
    for path in originals:
        assert replay(path).states == replays["default", path.name.split(".")[0]].states, path.name
    assert len(originals) > 5

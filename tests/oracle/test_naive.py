"""The oracle itself against the references: a naive tracker that is wrong proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracle.compare import Result, capture_names, compare, compare_tables, read_pcap, read_reference
from tests.oracle.naive import Naive
from tests.oracle.tables import naive_entries_of


def replay(captures: Path, name: str, oracle: Naive) -> list[str]:
    return [oracle.track(frame, time_ns // 1_000_000).state for time_ns, frame in read_pcap(captures / f"{name}.pcap")]


@pytest.mark.parametrize(("profile", "suffix"), [("default", "ovs"), ("linux", "kernel")])
def test_the_naive_tracker_answers_as_the_reference_for_every_packet(captures: Path, profile: str, suffix: str) -> None:
    total, equal, every = Result(), 0, 0
    for name in capture_names(captures):
        oracle = Naive(profile)
        reference = read_reference(captures, name, suffix)
        total += compare(reference, replay(captures, name, oracle))
        tables = compare_tables(reference, naive_entries_of(oracle))
        equal, every = equal + tables.equal, every + tables.total
    assert total.total > 8000
    assert total.differences == []
    assert equal / every > 0.99


def test_sack_blocks_make_no_difference_in_any_capture(captures: Path) -> None:
    for name in capture_names(captures):
        assert replay(captures, name, Naive("linux", sack=True)) == replay(captures, name, Naive("linux", sack=False))

"""Several captures as one stream of time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowshunt.ports import MemoryPort
from flowshunt.ports.capture import merge, open_capture
from flowshunt.ports.capture.reader import CaptureReader
from tests.ports.capture.files import Read, packets_of, pcap_header, pcap_record, written

Times = list[list[int]]


def captures_of(folder: Path, times: Times, tails: dict[int, bytes] | None = None) -> list[CaptureReader]:
    """A capture for each list of times (seconds); frame contents tell file and number; in_port is 10, 11, ..."""
    readers = []
    for j, seconds in enumerate(times):
        content = pcap_header() + b"".join(
            pcap_record(bytes([j]) * 14 + n.to_bytes(2, "big") + bytes(n % 50), at) for n, at in enumerate(seconds)
        )
        readers.append(open_capture(written(folder, content + (tails or {}).get(j, b""), f"{j}.pcap"), 10 + j))
    return readers


def order_of(packets: list[Read]) -> list[tuple[int, int]]:
    for packet in packets:
        assert packet.frame[:14] == bytes([packet.in_port - 10]) * 14
        n = int.from_bytes(packet.frame[14:16], "big")
        assert packet.frame[16:] == bytes(n % 50)
    return [(packet.in_port - 10, int.from_bytes(packet.frame[14:16], "big")) for packet in packets]


def merged(readers: list[CaptureReader], limit: int) -> list[Read]:
    stream = merge(readers, limit)
    got = []
    for batch in stream:
        assert 0 < len(batch.packets) <= limit
        assert batch.packets["data"].tolist() == [0, *np.cumsum(batch.packets["length"])[:-1].tolist()]
        got += packets_of(batch)
    for reader in readers:
        reader.close()
    assert stream.errors == []
    return got


def by_heads(times: Times) -> list[tuple[int, int]]:
    """The rule, naively: always the earliest of the first packets that are left."""
    heads = [0] * len(times)
    order = []
    while left := [j for j, head in enumerate(heads) if head < len(times[j])]:
        j = min(left, key=lambda j: times[j][heads[j]])
        order.append((j, heads[j]))
        heads[j] += 1
    return order


def test_packets_are_ordered_by_time_with_their_ports(tmp_path: Path) -> None:
    got = merged(captures_of(tmp_path, [[1, 4, 5], [2, 3, 6]]), 10)
    assert [packet.time_ns // 10**9 for packet in got] == [1, 2, 3, 4, 5, 6]
    assert [packet.in_port for packet in got] == [10, 11, 11, 10, 10, 11]


def test_equal_times_keep_the_order_in_which_the_captures_are_given(tmp_path: Path) -> None:
    got = merged(captures_of(tmp_path, [[5, 5], [5, 5], [5]]), 10)
    assert order_of(got) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


def test_time_going_back_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    got = merged(captures_of(tmp_path, [[10, 3, 12], [9, 11]]), 10)
    assert order_of(got) == [(1, 0), (0, 0), (0, 1), (1, 1), (0, 2)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    times=st.lists(st.lists(st.integers(0, 20), max_size=30), min_size=1, max_size=4),
    limit=st.integers(1, 40),
)
def test_any_captures_merge_as_the_rule_says(tmp_path: Path, times: Times, limit: int) -> None:
    assert order_of(merged(captures_of(tmp_path, times), limit)) == by_heads(times)


def test_captures_larger_than_what_is_read_ahead(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    times = [np.cumsum(random.integers(0, 3, n)).tolist() for n in (40_000, 100, 20_000)]
    got = merged(captures_of(tmp_path, times), 4096)
    assert order_of(got) == by_heads(times)


def test_packets_larger_than_the_buffer_together_come_in_several_batches(tmp_path: Path) -> None:
    content = pcap_header() + pcap_record(bytes(1 << 18)) * 9
    paths = [written(tmp_path, content, name) for name in ("a", "b")]
    with open_capture(paths[0]) as a, open_capture(paths[1]) as b:
        sizes = [len(batch.packets) for batch in merge([a, b], 100)]
    assert sum(sizes) == 18
    assert max(sizes) <= 4


def test_a_damaged_capture_ends_and_the_others_go_on(tmp_path: Path) -> None:
    readers = captures_of(tmp_path, [[1, 5, 9], [2, 3], [4, 8]], {1: b"damage", 2: b"x"})
    stream = merge(readers, 2)
    got = [packet for batch in stream for packet in packets_of(batch)]
    for reader in readers:
        reader.close()
    assert order_of(got) == [(0, 0), (1, 0), (1, 1), (2, 0), (0, 1), (2, 1), (0, 2)]
    assert [(Path(error.path).name, error.problem) for error in stream.errors] == [
        ("1.pcap", "file ends after 6 bytes of a packet record"),
        ("2.pcap", "file ends after 1 bytes of a packet record"),
    ]


def test_no_capture_gives_no_batch() -> None:
    assert list(merge([], 4)) == []


def test_ports_that_end_merge_too_also_with_frames_beyond_the_buffer() -> None:
    port = MemoryPort(in_port=1, ends=True)
    port.queue(bytes(3 << 20), time_ns=2)
    other = MemoryPort(in_port=2, ends=True)
    other.queue(b"first", time_ns=1)
    got = [packet for batch in merge([port, other], 8) for packet in packets_of(batch)]
    assert [(packet.in_port, len(packet.frame)) for packet in got] == [(2, 5), (1, 3 << 20)]


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="limit is 0"):
        merge([], 0)

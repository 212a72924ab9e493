"""Lines of a stream that passes by."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from flowshunt.conntrack.helpers.lines import MAX_LINE, Line, Lines

LINES = st.lists(
    st.one_of(st.binary(max_size=40), st.just(b"x" * (MAX_LINE - 2)), st.just(b"x" * (MAX_LINE + 5))), max_size=12
).map(lambda lines: b"\r\n".join(lines))
FIRST = st.sampled_from([0, 1, (1 << 32) - 1, (1 << 32) - 20, 12345])


def cut(data: bytes, places: list[int]) -> list[tuple[int, bytes]]:
    """`data` in segments: offset and bytes."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [(a, data[a:b]) for a, b in itertools.pairwise(edges)]


def texts(lines: list[Line]) -> list[bytes]:
    return [line.text for line in lines]


def whole_lines(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data.split(b"\n")[:-1] if len(line) + 1 <= MAX_LINE]


@given(LINES, st.lists(st.integers(0, 3000), max_size=8), FIRST)
def test_however_a_stream_is_cut_its_lines_are_the_same(data: bytes, places: list[int], first: int) -> None:
    lines = Lines()
    found = []
    for offset, piece in cut(data, places):
        found += texts(lines.feed((first + offset) & 0xFFFFFFFF, piece))
    assert found == whole_lines(data)


@given(LINES, st.lists(st.integers(0, 3000), max_size=8), FIRST)
def test_a_line_is_where_it_says(data: bytes, places: list[int], first: int) -> None:
    lines = Lines()
    for offset, piece in cut(data, places):
        for text, start in lines.feed((first + offset) & 0xFFFFFFFF, piece):
            assert start == -1 or piece[start : start + len(text)] == text
            if start == -1:
                assert piece and text.endswith(piece[: len(piece.split(b"\n")[0]) + 1])


@given(st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.binary(max_size=3000)), max_size=30), st.booleans())
def test_nothing_that_arrives_raises_or_piles_up(segments: list[tuple[int, bytes]], synchronized: bool) -> None:
    lines = Lines(synchronized)
    for seq, data in segments:
        lines.feed(seq, data)
        assert len(lines.partial) < MAX_LINE
        assert sum(map(len, lines._early.values())) <= 4096
        assert len(lines._starts) <= 8


@given(LINES, st.lists(st.integers(0, 3000), max_size=6), st.randoms(use_true_random=False))
def test_what_arrives_out_of_order_is_read_in_order(data: bytes, places: list[int], random: object) -> None:
    pieces = [(offset, piece) for offset, piece in cut(data, places) if piece]
    if len(pieces) > 5 or sum(len(piece) for _, piece in pieces) > 4096:
        return
    head, rest = pieces[:1], pieces[1:]
    random.shuffle(rest)  # type: ignore[attr-defined]
    lines = Lines()
    found = []
    for offset, piece in head + rest:
        found += texts(lines.feed(offset, piece))
    assert found == whole_lines(data)


def test_a_segment_sent_again_gives_its_lines_again() -> None:
    lines = Lines()
    assert lines.feed(100, b"one\r\n") == [Line(b"one\r\n", 0)]
    assert lines.feed(105, b"two\r\nthr") == [Line(b"two\r\n", 0)]
    assert lines.feed(105, b"two\r\nthree\r\n") == [Line(b"two\r\n", 0), Line(b"three\r\n", 5)]
    assert lines.feed(100, b"one\r\n") == [Line(b"one\r\n", 0)]


def test_what_is_sent_again_from_the_middle_of_a_line_gives_only_what_is_new() -> None:
    lines = Lines()
    lines.feed(100, b"one\r\ntw")
    assert lines.feed(103, b"\r\ntwo\r\n") == [Line(b"two\r\n", -1)]
    assert lines.feed(101, b"ne\r\n") == []


def test_after_a_gap_that_stays_reading_goes_on_at_the_next_line() -> None:
    lines = Lines()
    lines.feed(0, b"one\r\n")
    found = []
    for n in range(5):
        found += lines.feed(100 + 10 * n, b"xy\r\nabcd\r\n")
    assert found[0] == Line(b"abcd\r\n", -1)
    assert found[-1] == Line(b"abcd\r\n", 4)
    assert lines.feed(150, b"after\r\n") == [Line(b"after\r\n", 0)]


def test_a_stream_seen_from_its_middle_is_read_from_the_next_line_on() -> None:
    lines = Lines(synchronized=False)
    assert lines.feed(7, b"PORT 1,2\r\nnext\r\n") == [Line(b"next\r\n", 10)]


def test_an_overlong_line_is_passed_over_in_whatever_pieces() -> None:
    lines = Lines()
    for n in range(20):
        assert lines.feed(100 * n, b"x" * 100) == []
        assert len(lines.partial) < MAX_LINE
    assert lines.feed(2000, b"\r\nshort\r\n") == [Line(b"short\r\n", 2)]

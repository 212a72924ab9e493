"""The primitives that a bucket of eight words is searched with, against their twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.jit import BOUNDSCHECK, JIT, assume, kernel, lowest_bit, match_words, primitives

WORDS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, -1, 1 << 48, 5 << 32]), min_size=8, max_size=8)


@kernel(example=lambda: (np.zeros((2, 8), np.int64), 0, 0, 0))
def matched(table, index, shift, value):
    return match_words(table, index, shift, value)


@kernel(example=lambda: (0,))
def lowest(value):
    return lowest_bit(value)


@kernel(example=lambda: (0,))
def promised(value):
    assume(value >= 0)
    return value


@given(WORDS, st.integers(0, 7), st.sampled_from([0, 16, 32, 48]))
def test_words_that_match_are_all_found(words: list[int], place: int, shift: int) -> None:
    table = np.array([[0] * 8, words], np.int64)
    value = (words[place] & (1 << 64) - 1) >> shift
    value = value - (1 << 64) if value >> 63 else value
    expected = sum(1 << j for j, word in enumerate(words) if (word & (1 << 64) - 1) >> shift == value & (1 << 64) - 1)
    assert matched(table, 1, shift, value) == expected
    assert primitives._match_words_twin(table, 1, np.int64(shift), np.int64(value)) == expected


@pytest.mark.parametrize("value", [1, 2, 0x60, -8, 1 << 62, -(1 << 63), 0])
def test_the_lowest_bit_is_counted_from_the_right(value: int) -> None:
    expected = (value & -value).bit_length() - 1 if value else 64
    assert lowest(value) == expected
    assert primitives._lowest_bit_twin(np.int64(value)) == expected


def test_a_promise_that_is_kept_changes_nothing() -> None:
    assert promised(5) == 5


@pytest.mark.skipif(JIT and not BOUNDSCHECK, reason="compiled code takes promises on trust")
def test_the_twin_checks_a_promise() -> None:
    with pytest.raises(AssertionError, match="wrong"):
        promised(-1)

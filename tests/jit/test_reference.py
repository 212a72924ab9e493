"""Arrays of a NamedTuple by reference: all that kernels do with an array works, and calls pass one word for it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from flowshunt.jit import by_reference, copy_words, kernel, load_acquire, load_be16, prefetch, store_release

RECORD = np.dtype([("count", np.int64), ("small", np.uint8), ("pair", np.int64, (2,)), ("seq", np.uint32)], align=True)


class Arrays(NamedTuple):
    words: np.ndarray
    keys: np.ndarray
    cube: np.ndarray
    records: np.ndarray
    data: np.ndarray


class Views(NamedTuple):
    data: np.ndarray
    records: np.ndarray


def arrays() -> Arrays:
    records = np.zeros(4, RECORD)
    records["count"], records["small"], records["seq"] = [10, 20, 30, 40], [1, 2, 3, 255], [7, 8, 9, 0xFFFFFFFF]
    records["pair"] = np.arange(8).reshape(4, 2)
    words, cube = np.arange(5) * 100, np.arange(24, dtype=np.uint32).reshape(2, 3, 4)
    return Arrays(words, np.arange(12).reshape(3, 4), cube, records, np.arange(16, dtype=np.uint8))


def example() -> tuple[Any, ...]:
    return arrays(), np.zeros(32, np.int64), 0, 0


@kernel(inline=False)
def apart(words: Any, records: Any, i: Any) -> Any:
    return words[i] + np.int64(records["seq"][i]) + len(records)


@kernel
def read(a: Any, out: Any, i: Any) -> Any:
    out[0] = a.words[i]
    out[1] = a.words[3]
    out[2] = a.keys[i, 2]
    out[3] = a.keys[0, 1]
    out[4] = np.int64(a.cube[1, i, 3])
    out[5] = a.records["count"][i]
    out[6] = np.int64(a.records["small"][3])
    out[7] = a.records["pair"][i, 1]
    out[8] = np.int64(a.records["seq"][3])
    out[9] = len(a.words) + len(a.keys) * 10 + len(a.cube) * 100 + len(a.records) * 1000
    out[10] = a.keys.shape[1] + a.cube.shape[0] * 10 + a.words.size * 100
    out[11] = apart(a.words, a.records, i)
    out[12] = load_be16(a.data, i)
    out[13] = load_acquire(a.words, i)
    out[14] = a.words[1:3][1]


@kernel
def write(a: Any, i: Any) -> Any:
    a.words[i] = 5
    a.words[4] = 6
    a.keys[i, 0] = 7
    a.keys[2, 3] += 8
    a.records["count"][i] += 9
    a.records["small"][0] = 200
    a.records["pair"][i, 0] = 11
    a.records[3] = a.records[2]
    store_release(a.words, 0, np.int64(12))
    copy_words(a.keys, np.int64(0), a.keys, np.int64(1), np.int64(2))
    prefetch(a.records, i, 0)


@kernel(example=example)
def run(a: Any, out: Any, i: Any, whole: Any) -> Any:
    records = a.records
    a = by_reference(a)
    part = by_reference(Views(a.data[2:4], records[1:3]))
    read(a, out, i)
    data = a.data if whole else part.data  # a reference in both cases
    out[15] = np.int64(data[1])
    rows = a.records if whole else records[2:4]  # in one of them only
    out[16] = rows["count"][0]
    out[17] = part.records["count"][1]
    write(a, i)
    return len(part.data)


def expected(whole: bool) -> list[int]:
    return [
        100, 300, 6, 1, 19, 20, 255, 3, 0xFFFFFFFF, 4235, 524, 112, 0x0102, 100, 200,
        1 if whole else 3, 10 if whole else 30, 30,
    ]  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
def test_what_kernels_do_with_arrays(whole: bool) -> None:
    a, out = arrays(), np.zeros(32, np.int64)
    assert run(a, out, 1, int(whole)) == 2
    assert out[:18].tolist() == expected(whole)
    assert a.words.tolist() == [12, 5, 200, 300, 6]
    assert a.keys.tolist() == [[7, 5, 2, 3], [7, 5, 6, 7], [8, 9, 10, 19]]
    assert a.records["count"].tolist() == [10, 29, 30, 30]
    assert a.records["small"].tolist() == [200, 2, 3, 3]
    assert a.records["pair"].tolist() == [[0, 1], [11, 3], [4, 5], [4, 5]]
    assert a.records["seq"].tolist() == [7, 8, 9, 9]


CALL = """
    from typing import NamedTuple
    import numpy as np
    from flowshunt.jit import by_reference, kernel

    class Arrays(NamedTuple):
        words: np.ndarray
        keys: np.ndarray

    @kernel(inline=False)
    def apart(words, keys, i):
        return words[i] + keys[0, i]

    @kernel(example=lambda: (Arrays(np.zeros(1, np.int64), np.zeros((1, 1), np.int64)), 0))
    def run(a, i):
        a = by_reference(a)
        return apart(a.words, a.keys, i)

    run.prepare()
    (signature,) = apart.dispatcher.signatures
    print(*[str(kind).partition("(")[0] for kind in signature])
"""


def test_a_call_takes_one_word_for_an_array(run_python: Any, tmp_path: Path) -> None:
    done = run_python("-c", textwrap.dedent(CALL), FLOWSHUNT_CACHE_DIR=str(tmp_path))
    assert done.stdout.split() == ["ArrayReference", "ArrayReference", "int64"]

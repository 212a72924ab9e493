"""The decorator: what a kernel returns, refuses, and how it behaves with the JIT off or with bounds checked."""

from __future__ import annotations

import textwrap
import weakref
from typing import NamedTuple

import numpy as np
import pytest

from flowshunt import jit
from flowshunt.jit import EntryPoint, entry_points, kernel

RECORD = np.dtype([("count", np.int64), ("port", np.uint16), ("sums", np.int64, 2)], align=True)


class Arrays(NamedTuple):
    values: np.ndarray
    records: np.ndarray


def arrays(n: int = 4) -> Arrays:
    return Arrays(np.arange(n, dtype=np.int64), np.zeros(n, RECORD))


@kernel
def add(a, b):
    return (a + b) & 0xFFFF


@kernel(inline=False)
def total(t, n):
    result = np.int64(0)
    for i in range(n):
        result = add(result, t.values[i])
    return result


@kernel(example=lambda: (arrays(), 1))
def run(t, n):
    """Sum the first n values into every record."""
    for i in range(n):
        t.records["count"][i] += total(t, n)
        t.records["port"][i] = (np.int64(t.records["port"][i]) - 1) & 0xFFFF
        t.records["sums"][i, 1] = t.values[i] << 62
    return n


@kernel(example=lambda: (np.zeros(1, np.int64), 0))
def read(values, at):
    return values[at]


@pytest.mark.skipif(not jit.JIT or jit.BOUNDSCHECK, reason="Python counts from the end, checked kernels refuse")
def test_a_negative_index_does_not_count_from_the_end():
    assert read(np.arange(10)[5:8], -1) == 4


@pytest.mark.skipif(not jit.BOUNDSCHECK, reason="bounds are not checked")
def test_a_negative_index_is_refused_where_bounds_are_checked():
    with pytest.raises(IndexError):
        read(np.arange(10)[5:8], -1)


def test_an_entry_point_changes_records_in_place_and_returns_a_number():
    t = arrays(3)
    assert run(t, 3) == 3
    assert t.records["count"].tolist() == [3, 3, 3]
    assert t.records["port"].tolist() == [0xFFFF] * 3
    assert t.records["sums"][:, 1].tolist() == [0, 1 << 62, -(1 << 63)]


def test_an_entry_point_keeps_its_name_and_docstring_and_is_listed():
    assert isinstance(run, EntryPoint)
    assert run.name.endswith("test_kernel.run")
    assert run.__doc__ == "Sum the first n values into every record."
    assert run in entry_points()


def test_an_inner_kernel_is_not_listed():
    assert not any(entry.name.endswith((".add", ".total")) for entry in entry_points())


@pytest.mark.needs_jit
def test_preparing_twice_gives_the_same_callable():
    assert run.prepare() is run.prepare()
    assert run.is_cached()


@pytest.mark.needs_jit
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((arrays(), 2.7), id="a float for an integer"),
        pytest.param((arrays(), np.uint64(2)), id="an unsigned integer"),
        pytest.param((arrays(), None), id="nothing"),
        pytest.param((arrays()._replace(values=np.zeros(4, np.int32)), 2), id="an array of narrower items"),
        pytest.param((arrays()._replace(values=np.zeros(8, np.int64)[::2]), 2), id="a strided array"),
        pytest.param((tuple(arrays()), 2), id="a plain tuple"),
        pytest.param((arrays(),), id="an argument too few"),
    ],
)
def test_other_types_are_refused_instead_of_compiled(arguments):
    run.prepare()
    compiled = len(run._dispatcher.signatures)
    with pytest.raises(TypeError, match=r"takes|missing"):
        run(*arguments)
    assert len(run._dispatcher.signatures) == compiled


@pytest.mark.needs_jit
def test_a_read_only_array_is_refused():
    t = arrays()
    t.values.flags.writeable = False
    with pytest.raises(TypeError, match="readonly"):
        run(t, 1)


OUT_OF_BOUNDS = """
    import numpy as np
    from flowshunt.jit import kernel, load_be32, store_be16

    @kernel
    def inner(data, at):
        return load_be32(data, at)

    @kernel(example=lambda: (np.zeros(8, np.uint8), 0))
    def read(data, at):
        return inner(data, at)

    @kernel(example=lambda: (np.zeros(8, np.uint8), 0))
    def plain(data, at):
        return data[at]

    @kernel(example=lambda: (np.zeros(8, np.uint8), 0))
    def write(data, at):
        store_be16(data, at, 1)
        return 0

    def outcome(kernel, at):
        try:
            return int(kernel(np.zeros(8, np.uint8), at))
        except IndexError:
            return "IndexError"

    print([outcome(k, at) for k in (read, plain, write) for at in (0, 7, 8, -1)])
"""


@pytest.mark.parametrize("jit_off", [None, "1"], ids=["compiled", "plain"])
def test_the_checked_variant_raises_where_an_access_leaves_the_array(run_python, tmp_path, jit_off):
    settings = {"FLOWSHUNT_BOUNDSCHECK": "1", "NUMBA_DISABLE_JIT": jit_off, "FLOWSHUNT_CACHE_DIR": str(tmp_path)}
    done = run_python("-c", textwrap.dedent(OUT_OF_BOUNDS), **settings)
    error = "IndexError"
    last = 0 if jit_off else error  # of Python alone -1 is the last element, of a kernel it is none
    assert done.stdout.strip() == str([0, error, error, error, 0, 0, error, last, 0, error, error, error])


SAME_RESULTS = """
    import numpy as np
    from flowshunt.jit import kernel, load_be16, mix, store_be64

    DTYPE = np.dtype([("seq", np.uint32), ("state", np.uint8), ("sum", np.int64)], align=True)

    @kernel
    def step(table, data, i):
        seq = np.int64(table["seq"][i]) + load_be16(data, i * 8)
        table["seq"][i] = seq & 0xFFFFFFFF
        table["state"][i] = (np.int64(table["state"][i]) - 1) & 0xFF
        table["sum"][i] ^= mix(seq << 33, table["sum"][i] ^ i)
        store_be64(data, i * 8, table["sum"][i])

    @kernel(example=lambda: (np.zeros(1, DTYPE), np.zeros(8, np.uint8), 0, 0))
    def run(table, data, n, rounds):
        for _ in range(rounds):
            for i in range(n):
                step(table, data, i)
        return n

    table = np.zeros(16, DTYPE)
    table["seq"] = np.random.default_rng(1).integers(0, 2**32, 16)
    data = np.random.default_rng(2).integers(0, 256, 128).astype(np.uint8)
    run(table, data, 16, 50)
    print(table.tolist(), data.tolist())
"""


def test_a_kernel_gives_the_same_results_with_the_jit_on_off_and_checked(run_python, tmp_path):
    script = ("-W", "error", "-c", textwrap.dedent(SAME_RESULTS))
    cache = {"FLOWSHUNT_CACHE_DIR": str(tmp_path)}
    compiled = run_python(*script, **cache).stdout
    assert len(compiled) > 500
    assert run_python(*script, **cache, NUMBA_DISABLE_JIT="1").stdout == compiled
    assert run_python(*script, **cache, FLOWSHUNT_BOUNDSCHECK="1").stdout == compiled


RARE = """
    import numpy as np
    from flowshunt.jit import kernel

    @kernel(inline=False)
    def seldom(values, at):
        return values[at // values[0]]

    @kernel
    def often(values, at):
        return values[at % values[0]]

    @kernel(example=lambda: (np.ones(4, np.int64), 0))
    def run(values, n):
        for i in range(n):
            values[1] += seldom(values, i) if values[i] == 7 else often(values, i)
        return values[1]

    run.prepare()
    for inner in (seldom, often):
        (compiled,) = inner.dispatcher.overloads.values()
        print(" cold " in compiled.library.get_llvm_str())
"""


def test_a_call_counts_as_rare(run_python, tmp_path):
    done = run_python("-c", textwrap.dedent(RARE), FLOWSHUNT_CACHE_DIR=str(tmp_path))
    assert done.stdout.split() == ["True", "False"]


RESERVING = """
    from llvmlite import ir
    from numba.core import cgutils
    from flowshunt.jit.kernel import _as_kernels

    def stores(zfill):
        word = ir.IntType(64)
        function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "f")
        builder = ir.IRBuilder(function.append_basic_block())
        cgutils.alloca_once(builder, word, zfill=zfill)
        return str(function).count("store")

    with _as_kernels():
        print(stores(False), stores(True))
    print(stores(False), stores(True))
"""


def test_memory_on_the_stack_is_cleared_by_who_wants_it(run_python):
    assert run_python("-c", textwrap.dedent(RESERVING)).stdout == "0 1\n1 2\n"


LOOKING = """
    import sys
    from typing import NamedTuple
    import numpy as np
    from flowshunt.jit import kernel

    class Arrays(NamedTuple):
        values: np.ndarray

    def example():
        return Arrays(np.zeros(4, np.int64)), 0

    @kernel(example=example)
    def first(a, n):
        return a.values[n]

    @kernel(example=example)
    def second(a, n):
        return a.values[n] + 1

    module = sys.modules["flowshunt.jit.kernel"]
    for entry in (first, second):
        entry.prepare()
    looks, typeof = [], module.typeof
    module.typeof = lambda value: looks.append(value) or typeof(value)
    arrays = Arrays(np.arange(4))
    print(first(arrays, 1), second(arrays, 1), first(arrays, 2), len(looks))
"""


def test_a_tuple_is_looked_at_once_for_all_kernels(run_python, tmp_path):
    done = run_python("-c", textwrap.dedent(LOOKING), FLOWSHUNT_CACHE_DIR=str(tmp_path))
    assert done.stdout == "1 2 2 1\n"


def test_the_switches_say_how_kernels_run(run_python):
    script = ("-c", "from flowshunt import jit; print(jit.JIT, jit.BOUNDSCHECK)")
    assert run_python(*script).stdout == "True False\n"
    assert run_python(*script, NUMBA_DISABLE_JIT="1").stdout == "False False\n"
    assert run_python(*script, FLOWSHUNT_BOUNDSCHECK="1").stdout == "True True\n"
    assert run_python(*script, FLOWSHUNT_BOUNDSCHECK="0").stdout == "True False\n"


@pytest.mark.parametrize("name", jit.__all__)
def test_everything_the_package_promises_is_there(name):
    assert getattr(jit, name) is not None


@pytest.mark.needs_jit
def test_a_kernel_does_not_keep_the_arrays_that_it_was_called_with():
    t = arrays()
    alive = weakref.ref(t.values)
    run(t, 1)
    run(t, 1)
    del t
    assert alive() is None

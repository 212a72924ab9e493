"""Kernels as plain Python beside the compiled ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels import step
from flowshunt.datapath import interpreter
from flowshunt.jit import PlainKernels, kernel, lowest_bit, mix, plain
from flowshunt.jit.kernel import JIT, InnerKernel


@kernel
def _inner(x: Any) -> Any:
    return mix(x, np.int64(3))


@kernel
def _outer(x: Any) -> Any:
    return _inner(x) + lowest_bit(np.int64(8))


def test_a_plain_kernel_gives_what_the_compiled_one_gives() -> None:
    for value in (0, 5, -7, 1 << 62):
        assert plain(_outer)(np.int64(value)) == _outer(np.int64(value))


def test_a_kernel_can_be_replaced() -> None:
    seen = []

    def watch(x: Any) -> Any:
        seen.append(int(x))
        return x

    assert PlainKernels({id(_inner): watch}).of(_outer)(np.int64(40)) == 43
    assert seen == [40]


def test_nothing_that_a_packet_may_reach_is_left_compiled() -> None:
    """Also through modules, which is how some kernels call others."""
    waiting, seen = [plain(interpreter.run_packet), plain(step.track)], set()
    while waiting:
        function = waiting.pop()
        seen.add(function)
        for name in function.__code__.co_names:
            value = function.__globals__.get(name)
            values = [value]
            if type(value).__name__ == "_PlainModule":
                names = [each for each in function.__code__.co_names if hasattr(value._module, each)]
                values = [getattr(value, each) for each in names]
            for each in values:
                assert not isinstance(each, InnerKernel), (function.__name__, name)
                assert not (JIT and type(each).__module__.startswith("numba")), (function.__name__, name)
                if type(each).__name__ == "function" and each not in seen and hasattr(each, "__globals__"):
                    waiting.append(each)
    assert len(seen) > 100

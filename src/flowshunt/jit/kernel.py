"""The one decorator for compiled code."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, overload

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.lowering import Lower
from numba.extending import typeof_impl
from numba.np import arrayobj

from flowshunt.jit.cache import KernelCache
from flowshunt.jit.typeof import typeof

JIT = not numba.config.DISABLE_JIT
"""Whether kernels are compiled; False with NUMBA_DISABLE_JIT=1."""

BOUNDSCHECK = os.environ.get("FLOWSHUNT_BOUNDSCHECK", "") not in ("", "0")
"""Whether kernels check array bounds; the fuzz tests set it."""

# _nrt=False: no reference counting of array arguments, which costs 4 to 12 times on inner calls.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False, "boundscheck": BOUNDSCHECK}
_KNOWN_TUPLES = 4096
_ENTRY_POINTS: list[EntryPoint] = []
_CALLED: set[Callable[..., Any]] = set()
_BEGIN_FUNCTION = Lower.pre_lower
_Function = TypeVar("_Function", bound=Callable[..., Any])


@contextmanager
def _as_kernels() -> Iterator[None]:
    """Compile in three ways that Numba has no option for. No other thread compiles meanwhile.

    Indices are taken as they stand, without Python's count from the end for negative ones. No kernel has negative
    indices: with bounds checked they are an IndexError. To tell them from others at every access was 7 % of a packet's
    instructions.

    Inner kernels that are not inlined are marked as rarely called. What leads to such a call is then moved out of the
    way of the rest, and registers are saved there, not around it.

    Memory on the stack is not cleared when its function begins. A large one with many calls in it, in whichever branch,
    spent its first fifty instructions on the places of their results, packet by packet.

    Numba's version is pinned; one that does the same in other places compiles slower kernels, no wrong ones.
    """
    with global_compiler_lock:
        counting, arrayobj.fix_integer_index = arrayobj.fix_integer_index, _plain_index
        begin, Lower.pre_lower = Lower.pre_lower, _begin_function
        clearing, cgutils.alloca_once = cgutils.alloca_once, _reserve
        try:
            yield
        finally:
            arrayobj.fix_integer_index = counting
            Lower.pre_lower = begin
            cgutils.alloca_once = clearing


def _begin_function(lower: Any) -> None:
    _BEGIN_FUNCTION(lower)
    if lower.func_ir.func_id.func in _CALLED:
        lower.builder.function.attributes.add("cold")


def _reserve(builder: Any, kind: Any, size: Any = None, name: str = "", zfill: bool = False) -> Any:
    """`cgutils.alloca_once` without what that does unasked: clear the memory in the function's first block.

    `zfill`: it is cleared where it is used.
    """
    if isinstance(size, int):
        size = ir.Constant(cgutils.intp_t, size)
    with builder.goto_entry_block():
        pointer = builder.alloca(kind, size=size, name=name)
    if zfill:
        builder.store(kind(None), pointer)
    return pointer


def _plain_index(context: Any, builder: Any, index_type: Any, index: Any, size: Any) -> Any:
    return context.cast(builder, index, index_type, numba.types.intp)


class _KnownTuples:
    """Tuples of arrays that have a Numba type. Few are passed again and again, and they cannot change.

    There are as many as there are tables or ports, and to look at one takes as long as a thousand packets. Their memory
    is not kept for that.
    """

    def __init__(self, expected: Any) -> None:
        self._expected = expected
        self._first: dict[int, weakref.ref[Any]] = {}
        self.first_of = self._first.get
        """By the id of a tuple that was found right, a reference to its first array."""

    def __call__(self, value: Any) -> bool:
        """Look at a tuple that is not known."""
        if typeof(value) != self._expected:
            return False
        if len(self._first) >= _KNOWN_TUPLES:
            self._first.clear()
        self._first[id(value)] = weakref.ref(value[0])
        return True


_known_tuples = functools.cache(_KnownTuples)
"""Those of a type: what was found right for one kernel is so for all."""


def _array_check(expected: Any) -> Callable[[Any], bool]:
    """A quick test whether a value is of a Numba type that is no number and no tuple."""
    seen: list[Any] = [None]

    def is_value(value: Any) -> bool:
        """Arrays of one dtype object, which most are, differ in their flags and dimensions only."""
        if not isinstance(value, np.ndarray):
            return bool(typeof(value) == expected)
        flags = value.flags
        key = (value.dtype, value.ndim, flags.c_contiguous, flags.f_contiguous, flags.aligned, flags.writeable)
        previous = seen[0]
        if previous is not None and previous[0] is key[0] and previous[1:] == key[1:]:
            return True
        if typeof(value) != expected:
            return False
        seen[0] = key
        return True

    return is_value


def _condition(name: str, expected: Any, scope: dict[str, Any]) -> str:
    """An expression for "argument `name` has this Numba type"; what it refers to goes into `scope`."""
    if expected == numba.types.int64:
        return f"(type({name}) is int or type({name}) is int64)"
    if isinstance(expected, numba.types.BaseTuple):
        known = scope[f"is_{name}"] = _known_tuples(expected)
        scope[f"first_{name}"] = known.first_of
        return f"((first := first_{name}(id({name}))) is not None and first() is {name}[0] or is_{name}({name}))"
    scope[f"is_{name}"] = _array_check(expected)
    return f"is_{name}({name})"


def _guarded(name: str, machine_code: Any, signature: Sequence[Any], refuse: Callable[..., None]) -> Callable[..., Any]:
    """Call machine code for arguments of these types; `refuse` raises for others.

    It stands for Numba's dispatcher, which takes 10 us for tuples of arrays. A batch of packets may be short, so it is
    written out for the signature: a loop over checks takes longer than they do.
    """
    scope: dict[str, Any] = {"machine_code": machine_code, "refuse": refuse, "int64": np.int64}
    names = [f"a{place}" for place in range(len(signature))]
    arguments = ", ".join(names)
    conditions = [_condition(each, expected, scope) for each, expected in zip(names, signature, strict=True)]
    text = f"def call({arguments}):\n if not ({' and '.join(conditions) or True}):\n  refuse({arguments})\n"
    exec(f"{text} return machine_code({arguments})\n", scope)
    call: Callable[..., Any] = scope["call"]
    call.__qualname__ = name
    return call


class EntryPoint:
    """A kernel that Python calls: one signature, compiled or loaded at the first call, then never again.

    Called with other types (a float or an int32 for an int64, a strided or a read-only array), it raises TypeError
    instead of compiling in the middle of traffic. With the JIT off it is the plain function.
    """

    def __init__(self, py_func: Callable[..., Any], example: Callable[[], Sequence[Any]]) -> None:
        self.py_func = py_func
        self.name = f"{py_func.__module__.removeprefix('flowshunt.')}.{py_func.__name__}"
        self._example = example
        self._call: Callable[..., Any] | None = None if JIT else py_func
        self.__doc__ = py_func.__doc__

    def __call__(self, *arguments: Any) -> Any:
        """Run the kernel; see `prepare` for what the first call does besides."""
        call = self._call
        if call is None:
            call = self.prepare()
        return call(*arguments)

    def signature(self) -> tuple[Any, ...]:
        """The Numba types of the example arguments."""
        return self._types

    @functools.cached_property
    def _types(self) -> tuple[Any, ...]:
        return tuple(typeof(value) for value in self._example())

    def is_cached(self) -> bool:
        """Whether `prepare` would load instead of compile."""
        if self._call is not None:
            return True
        cache: KernelCache = self._dispatcher._cache
        return cache.holds(self.signature(), self._dispatcher.targetctx)

    def prepare(self) -> Callable[..., Any]:
        """Load from the cache or compile; does nothing when that is done. Returns the callable."""
        if self._call is None:
            dispatcher = self._dispatcher
            with _as_kernels():
                dispatcher.compile(self.signature())
            (compiled,) = dispatcher.overloads.values()
            self._call = _guarded(self.name, compiled.entry_point, self.signature(), self._refuse)
        return self._call

    def _refuse(self, *arguments: Any) -> None:
        expected = ", ".join(map(str, self.signature()))
        found = ", ".join(str(typeof(value)) for value in arguments)
        raise TypeError(f"kernel {self.name} takes ({expected}), not ({found})")

    @functools.cached_property
    def _dispatcher(self) -> Any:
        dispatcher = numba.njit(self.py_func, **_OPTIONS)
        dispatcher._cache = KernelCache(self.py_func, "checked" if BOUNDSCHECK else "")
        return dispatcher


class InnerKernel:
    """A kernel that other kernels call. Numba gets to see it when one of those compiles, which a warm start never does.

    Called from Python, as tests do, it compiles for the types of the arguments.
    """

    def __init__(self, py_func: Callable[..., Any], inline: bool) -> None:
        self.py_func = py_func
        self.targetoptions = {"forceinline": inline, **_OPTIONS}
        functools.update_wrapper(self, py_func)
        if not inline:
            _CALLED.add(py_func)

    def __call__(self, *arguments: Any) -> Any:
        """Run it."""
        return self.dispatcher(*arguments)

    @functools.cached_property
    def dispatcher(self) -> Any:
        """What Numba compiles."""
        return numba.njit(self.py_func, **self.targetoptions)


@typeof_impl.register(InnerKernel)  # type: ignore[untyped-decorator]
def _type_of_inner(inner: InnerKernel, context: Any) -> Any:
    return typeof_impl(inner.dispatcher, context)


@overload
def kernel(function: _Function) -> _Function: ...
@overload
def kernel(*, inline: bool = True) -> Callable[[_Function], _Function]: ...
@overload
def kernel(*, example: Callable[[], Sequence[Any]]) -> Callable[[Callable[..., Any]], EntryPoint]: ...
def kernel(
    function: Callable[..., Any] | None = None,
    *,
    inline: bool = True,
    example: Callable[[], Sequence[Any]] | None = None,
) -> Any:
    """Mark compiled code.

    `@kernel`: an inner function, inlined into its callers; `@kernel(inline=False)`: one that stays a call, for large
    bodies reached from several places. Such calls count as rare: the way to one is kept apart from the rest of its
    caller. `@kernel(example=...)`: an entry point; `example` returns arguments of the types that it will be called with
    (small arrays do), and is called only when the kernel is first needed.
    """

    def decorate(py_func: Callable[..., Any]) -> Any:
        if example is not None:
            entry = EntryPoint(py_func, example)
            _ENTRY_POINTS.append(entry)
            return entry
        if not JIT:
            return py_func
        return InnerKernel(py_func, inline)

    return decorate if function is None else decorate(function)


def entry_points() -> list[EntryPoint]:
    """All entry points of the modules imported so far."""
    return list(_ENTRY_POINTS)

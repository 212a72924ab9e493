"""Kernels as plain Python, with the JIT on: what explains a packet runs the very code that packets run.

`plain(kernel)` makes a function of the same bytecode whose kernels are plain too, down to the primitives;
`PlainKernels` makes several, and replaces some by functions that watch. The compiled kernel knows nothing of it.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

from flowshunt.jit import primitives, reference
from flowshunt.jit.kernel import EntryPoint, InnerKernel

_PACKAGE = "flowshunt."
_NOTHING: Mapping[int, Any] = MappingProxyType({})
_TWINS = {**primitives.TWINS, id(reference.by_reference): reference.itself}


@functools.cache
def plain(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The plain form of a kernel, made once. Nothing that is compiled is touched."""
    return PlainKernels(_NOTHING).of(kernel)


class PlainKernels:
    """Kernels made anew whose globals are plain. Each is made once: several share those that they call.

    One kernel may be made plain and be replaced for others at once; its own plain form calls the replacements of the
    others. Nothing that is compiled is touched.
    """

    def __init__(self, instead: Mapping[int, Any]) -> None:
        """`instead`: by id() of a kernel, the function that the others call in its place."""
        self._instead = instead
        self._made: dict[int, FunctionType] = {}

    def of(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """The plain form of a kernel."""
        return self._function(_python_of(kernel))

    def _function(self, python: FunctionType) -> FunctionType:
        made = self._made.get(id(python))
        if made is not None:
            return made
        scope: dict[str, Any] = {"__builtins__": builtins, "__name__": python.__module__}
        made = FunctionType(python.__code__, scope, python.__name__, python.__defaults__, python.__closure__)
        made.__kwdefaults__ = python.__kwdefaults__
        self._made[id(python)] = made  # before its globals, which may lead back to it
        for name in python.__code__.co_names:
            if name in python.__globals__:
                scope[name] = self._value(python.__globals__[name])
        return made

    def _value(self, value: Any) -> Any:
        if id(value) in self._instead:
            return self._instead[id(value)]
        twin = _TWINS.get(id(value))
        if twin is not None:
            return self._function(_python_of(twin))
        if isinstance(value, InnerKernel | EntryPoint):
            return self._function(_python_of(value))
        if isinstance(value, FunctionType) and value.__module__.startswith(_PACKAGE):
            return self._function(value)
        if isinstance(value, ModuleType) and value.__name__.startswith(_PACKAGE):
            return _PlainModule(value, self._value)
        return value


def _python_of(kernel: Any) -> FunctionType:
    python = kernel.py_func if isinstance(kernel, InnerKernel | EntryPoint) else kernel
    assert isinstance(python, FunctionType)
    return python


class _PlainModule:
    """A module whose kernels are plain; kernels reach constants and other kernels through it."""

    def __init__(self, module: ModuleType, make: Callable[[Any], Any]) -> None:
        self._module = module
        self._make = make

    def __getattr__(self, name: str) -> Any:
        value = self._make(getattr(self._module, name))
        setattr(self, name, value)
        return value

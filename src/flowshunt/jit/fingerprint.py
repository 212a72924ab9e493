"""What a compiled kernel depends on, as one hash.

Numba's own cache looks at the file of the entry point only, so a changed callee or constant in another module would
go unnoticed. The fingerprint follows the code instead: from the entry point's bytecode through every global name it
uses, into called kernels, intrinsics, constants, dtypes and arrays, wherever they are defined.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def fingerprint(function: Callable[..., Any]) -> str:
    """Hex digest over `function` and all that it refers to, transitively.

    Two processes agree on it when the code, constants and dtypes agree; comments and line numbers do not matter.
    """
    digest = hashlib.blake2b(digest_size=16)
    seen: set[int] = set()
    work: list[tuple[str, Any]] = [("", function)]
    while work:
        name, value = work.pop()
        digest.update(name.encode())
        code = _function_of(value)
        if code is None:
            digest.update(_describe(value).encode())
            continue
        if id(code) in seen:
            continue
        seen.add(id(code))
        digest.update(_code_bytes(code.__code__))
        work.extend(sorted(_references(code), key=lambda item: item[0]))
    return digest.hexdigest()


def _function_of(value: Any) -> types.FunctionType | None:
    """The Python function behind a function, dispatcher, entry point or intrinsic; None for other values."""
    for attribute in ("py_func", "_defn"):
        inner = getattr(value, attribute, None)
        if isinstance(inner, types.FunctionType):
            return inner
    return value if isinstance(value, types.FunctionType) else None


def _code_bytes(code: types.CodeType) -> bytes:
    parts = [code.co_code, repr(code.co_names).encode(), repr(code.co_varnames).encode()]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            parts.append(_code_bytes(constant))
        else:
            parts.append(repr(constant).encode())
    return b"\0".join(parts)


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _references(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Globals and closure cells by name; for a module, those of its attributes that the code names."""
    names = _names(function.__code__)
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            if value.__name__.startswith("flowshunt"):
                yield from ((f"{name}.{a}", getattr(value, a)) for a in names if hasattr(value, a))
        else:
            yield name, value
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, cell.cell_contents


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.descr}{value.shape}{hashlib.blake2b(value.tobytes()).hexdigest()}"
    if isinstance(value, np.dtype):
        return f"{value.descr}{value.itemsize}"
    if isinstance(value, (int, float, str, bytes, bool, tuple, frozenset, np.generic)):
        return repr(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}{getattr(value, '_fields', '')}"
    return type(value).__qualname__

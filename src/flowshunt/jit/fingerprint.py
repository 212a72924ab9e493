"""What a compiled kernel depends on, as one hash.

A look at the file of the entry point is not enough: a changed callee or constant in another module would go unnoticed.
The fingerprint follows the code instead: from the entry point's bytecode through every global name it uses, into
called kernels, intrinsics, constants, dtypes and arrays, wherever they are defined. Libraries are not followed; their
versions are part of the hash, and so are the sources of decorator and intrinsics, which decide how all is compiled.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np

_LIBRARIES = frozenset({"numba", "numpy", "llvmlite"}) | sys.stdlib_module_names


class _Part(NamedTuple):
    """One function's own share of a fingerprint, and the globals and closure cells that it names."""

    own: bytes
    references: tuple[tuple[str, Any], ...]


def fingerprint(function: Callable[..., Any]) -> str:
    """Hex digest over `function` and all that it refers to, transitively.

    Two processes agree on it when the code, constants, dtypes and libraries agree; comments and line numbers of kernels
    do not matter.
    """
    digest = hashlib.blake2b(_toolchain(), digest_size=16)
    seen: set[int] = set()
    work: list[tuple[str, Any]] = [("", function)]
    while work:
        name, value = work.pop()
        digest.update(f"{name}{_options(value)}".encode())
        code = _function_of(value)
        if code is None or _is_library(code.__module__):
            digest.update(_describe(value).encode())
            continue
        if id(code) not in seen:
            seen.add(id(code))
            part = _part(code)
            digest.update(part.own)
            work.extend(part.references)
    return digest.hexdigest()


@functools.cache
def _toolchain() -> bytes:
    digest = hashlib.blake2b(
        f"{sys.version} {sysconfig.get_platform()} {numba.__version__} {llvmlite.__version__} {np.__version__}".encode()
    )
    for source in ("kernel.py", "primitives.py", "reference.py"):
        digest.update(Path(__file__).with_name(source).read_bytes())
    return digest.digest()


def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES


def _function_of(value: Any) -> types.FunctionType | None:
    """The Python function behind a function, dispatcher, entry point or intrinsic; None for other values."""
    for attribute in ("py_func", "_defn"):
        inner = getattr(value, attribute, None)
        if isinstance(inner, types.FunctionType):
            return inner
    return value if isinstance(value, types.FunctionType) else None


def _options(value: Any) -> str:
    """How a dispatcher compiles: inlined or not, checked or not."""
    options = getattr(value, "targetoptions", None)
    return repr(sorted(options.items())) if isinstance(options, dict) else ""


@functools.cache
def _part(function: types.FunctionType) -> _Part:
    references = dict(_references(function))
    for i, default in enumerate(function.__defaults__ or ()):
        references[f"default {i}"] = default
    return _Part(_code_bytes(function.__code__), tuple(sorted(references.items())))


def _code_bytes(code: types.CodeType) -> bytes:
    parts = [code.co_code, repr(code.co_names).encode(), repr(code.co_varnames).encode()]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            parts.append(_code_bytes(constant))
        else:
            parts.append(_describe(constant).encode())
    return b"\0".join(parts)


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _references(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Globals and closure cells by name; for a module, those of its attributes that the code names."""
    names = sorted(_names(function.__code__))
    work = [(name, function.__globals__[name]) for name in names if name in function.__globals__]
    seen: set[int] = set()
    while work:
        name, value = work.pop()
        if not isinstance(value, types.ModuleType):
            yield name, value
        elif not _is_library(value.__name__) and id(value) not in seen:
            seen.add(id(value))
            work.extend((f"{name}.{a}", getattr(value, a)) for a in names if hasattr(value, a))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield f"cell {name}", cell.cell_contents


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{_describe(value.dtype)}{value.shape}{hashlib.blake2b(value.tobytes()).hexdigest()}"
    if isinstance(value, np.dtype):
        return f"{value.descr if value.fields else value.str}{value.itemsize}"
    if isinstance(value, tuple):
        return f"{type(value).__qualname__}({','.join(_describe(item) for item in value)})"
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted(_describe(item) for item in value))}}}"
    if isinstance(value, enum.EnumType):
        members: dict[str, Any] = dict(value.__members__)
        return f"{value.__qualname__}{[(name, member.value) for name, member in members.items()]}"
    if isinstance(value, (int, float, complex, str, bytes, np.generic)) or value is None:
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}{getattr(value, '_fields', '')}"
    return type(value).__qualname__

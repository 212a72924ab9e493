"""System calls from kernels: the C library's functions by name, and `errno`.

Addresses are int64. With the JIT off the same names are ctypes functions. A call that fails returns -1 and leaves its
reason for `errno()`, which has to be asked at once.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from flowshunt.jit.kernel import JIT

_LIBC = ctypes.CDLL(None, use_errno=True)
_INT, _LONG = types.int32, types.int64


def _function(name: str, result: Any, n_arguments: int) -> Any:
    """A function whose arguments are integers: all are passed as 64-bit ones, of which it takes what it needs."""
    if JIT:
        return types.ExternalFunction(name, result(*[_LONG] * n_arguments))
    function = getattr(_LIBC, name)
    function.restype = ctypes.c_int if result == _INT else ctypes.c_int64
    function.argtypes = [ctypes.c_int64] * n_arguments
    return function


@intrinsic  # type: ignore[untyped-decorator]
def _errno(typing_context: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        kind = ir.FunctionType(word.as_pointer(), [])
        function = builder.module.globals.get("__errno_location") or ir.Function(
            builder.module, kind, "__errno_location"
        )
        return builder.sext(builder.load(builder.call(function, [])), ir.IntType(64))

    return types.int64(), codegen


recvmsg = _function("recvmsg", _LONG, 3)
"""`recvmsg(fd, message, flags)`: bytes received."""
sendmmsg = _function("sendmmsg", _INT, 4)
"""`sendmmsg(fd, messages, n, flags)`: messages sent, the first ones."""
readv = _function("readv", _LONG, 3)
"""`readv(fd, vector, n)`: bytes read."""
writev = _function("writev", _LONG, 3)
"""`writev(fd, vector, n)`: bytes written."""
errno = _errno if JIT else ctypes.get_errno
"""`errno()`: why the last call failed."""

_PROTECTION = 0x1 | 0x2  # PROT_READ | PROT_WRITE
_PRIVATE_ANONYMOUS = 0x02 | 0x20 | 0x4000  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
_SHARED_FIXED = 0x01 | 0x10  # MAP_SHARED | MAP_FIXED
_MMAP = _LIBC.mmap
_MMAP.restype = ctypes.c_void_p
_MMAP.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def map_memory(size: int, address: int | None = None, fd: int = -1) -> int:
    """Map `size` bytes; returns where. Without `fd` fresh memory, used as it is written to; with it the first bytes of
    that file, at `address`, in place of what was mapped there. Raises OSError.
    """
    flags = _PRIVATE_ANONYMOUS if fd < 0 else _SHARED_FIXED
    found = _MMAP(address, size, _PROTECTION, flags, fd, 0)
    if found in (None, _FAILED):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(found)


def unmap_memory(address: int, size: int) -> None:
    """Give mapped memory back; nothing may refer to it any more."""
    _LIBC.munmap(address, size)

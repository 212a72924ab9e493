"""Kernels: Python that Numba compiles, and the rules that keep it as fast as C.

This package is the only importer of numba. Everything that runs per packet or per connection is a *kernel*:

- `kernel` is the one decorator. Bare, it marks an inner function, inlined into its callers. With `example=` it
  marks an *entry point*: compiled once, for exactly the types of the example arguments, and cached on disk.
- `primitives` are what Python cannot say: prefetch, acquire/release, big-endian loads, a 128-bit product, a search of
  eight words, a copy of several. Each has a plain-Python twin that runs when the JIT is off or when bounds are checked.
- `system` has system calls for kernels that move packets.
- `plain` is a kernel as plain Python beside the compiled one, `PlainKernels` are several, with some of the kernels that
  they call replaced by what watches.
- `warm_up` compiles (or loads) entry points ahead of the first packet; `pending` says which would have to compile.

Kernels follow six rules. Arithmetic is int64 with explicit masks (`np.int64(...)` around a narrower field that
enters arithmetic, so that JIT on and off agree); structured arrays are indexed field first, `table["field"][row]`;
no index is negative; arrays travel in NamedTuples; nothing allocates, reads a clock or raises; nothing recurses.

May import: numba, numpy, `flowshunt.base`. Switches (environment): `NUMBA_DISABLE_JIT=1` runs kernels as plain
Python, `FLOWSHUNT_BOUNDSCHECK=1` compiles them with bounds checks and with the twins in place of the primitives,
`FLOWSHUNT_CACHE_DIR` moves the compile cache.
"""

from flowshunt.jit.kernel import BOUNDSCHECK, JIT, EntryPoint, entry_points, kernel
from flowshunt.jit.plain import PlainKernels, plain
from flowshunt.jit.primitives import (
    assume,
    copy_words,
    load_acquire,
    load_be16,
    load_be32,
    load_be64,
    lowest_bit,
    match_words,
    mix,
    prefetch,
    store_be16,
    store_be32,
    store_be64,
    store_release,
)
from flowshunt.jit.reference import by_reference
from flowshunt.jit.system import errno, map_memory, readv, recvmsg, sendmmsg, unmap_memory, writev
from flowshunt.jit.warmup import pending, warm_up

__all__ = [
    "BOUNDSCHECK",
    "JIT",
    "EntryPoint",
    "PlainKernels",
    "assume",
    "by_reference",
    "copy_words",
    "entry_points",
    "errno",
    "kernel",
    "load_acquire",
    "load_be16",
    "load_be32",
    "load_be64",
    "lowest_bit",
    "map_memory",
    "match_words",
    "mix",
    "pending",
    "plain",
    "prefetch",
    "readv",
    "recvmsg",
    "sendmmsg",
    "store_be16",
    "store_be32",
    "store_be64",
    "store_release",
    "unmap_memory",
    "warm_up",
    "writev",
]

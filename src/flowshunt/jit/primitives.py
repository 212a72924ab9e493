"""What kernels need and Python cannot say, each with a plain twin.

The intrinsics borrow pointers into arrays, so Numba's bounds checks don't see them: callers check first, and with
`FLOWSHUNT_BOUNDSCHECK=1` the twins are compiled instead, whose accesses are checked. All integers are int64; loads
are zero-extended except 64-bit ones, which keep their bit pattern. A twin raises IndexError where the intrinsic would
leave the array, in front of it too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from flowshunt.jit.kernel import BOUNDSCHECK, JIT, kernel
from flowshunt.jit.reference import array_of, load_array

_MASK64 = (1 << 64) - 1


def _signed(value: int) -> np.int64:
    value &= _MASK64
    return np.int64(value - (1 << 64) if value >> 63 else value)


@kernel
def _refuse_negative(at: Any) -> None:
    # A negative index would count from the end here, and lie before the array for the intrinsic.
    if at < 0:
        raise IndexError("negative index")


def _mix_twin(a: Any, b: Any) -> np.int64:
    product = (int(a) & _MASK64) * (int(b) & _MASK64)
    return _signed(product ^ (product >> 64))


def _assume_twin(condition: Any) -> None:
    if not condition:
        raise AssertionError("an assumption is wrong")


def _match_words_twin(array: Any, index: Any, shift: Any, value: Any) -> np.int64:
    _refuse_negative(index)
    mask = np.int64(0)
    for j in range(8):
        if ((array[index, j] >> shift) ^ value) << shift == 0:
            mask |= np.int64(1) << j
    return mask


def _lowest_bit_twin(value: Any) -> np.int64:
    place = np.int64(0)
    while place < 64 and (value >> place) & 1 == 0:
        place += 1
    return place


def _copy_words_twin(target: Any, row: Any, source: Any, other: Any, n: Any) -> None:
    _refuse_negative(row)
    _refuse_negative(other)
    for word in range(n):
        target[row, word] = source[other, word]


def _prefetch_twin(array: Any, index: Any, byte: Any) -> None:
    return


def _load_acquire_twin(array: Any, index: Any) -> Any:
    _refuse_negative(index)
    return array[index]


def _store_release_twin(array: Any, index: Any, value: Any) -> None:
    _refuse_negative(index)
    array[index] = value


def _load_be16_twin(data: Any, at: Any) -> Any:
    _refuse_negative(at)
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


def _load_be32_twin(data: Any, at: Any) -> Any:
    _refuse_negative(at)
    return (
        (np.int64(data[at]) << 24)
        | (np.int64(data[at + 1]) << 16)
        | (np.int64(data[at + 2]) << 8)
        | np.int64(data[at + 3])
    )


def _load_be64_twin(data: Any, at: Any) -> Any:
    _refuse_negative(at)
    word = np.int64(0)
    for i in range(8):
        word = (word << 8) | np.int64(data[at + i])
    return word


def _store_be16_twin(data: Any, at: Any, value: Any) -> None:
    _refuse_negative(at)
    data[at] = (value >> 8) & 0xFF
    data[at + 1] = value & 0xFF


def _store_be32_twin(data: Any, at: Any, value: Any) -> None:
    _refuse_negative(at)
    for i in range(4):
        data[at + i] = (value >> (24 - 8 * i)) & 0xFF


def _store_be64_twin(data: Any, at: Any, value: Any) -> None:
    _refuse_negative(at)
    for i in range(8):
        data[at + i] = (value >> (56 - 8 * i)) & 0xFF


def _element(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Where item `index` of an array, or of one that is referred to, lies: of more than one dimension, its first."""
    array_type = array_of(kind)
    indices = [index] + [context.get_constant(types.intp, 0)] * (array_type.ndim - 1)
    struct = load_array(context, builder, kind, array)
    return cgutils.get_item_pointer(context, builder, array_type, struct, indices, wraparound=False, boundscheck=False)


def _big_endian(bits: int, store: bool) -> Any:
    """An intrinsic for an unaligned big-endian access of `bits` bits in a 1-D uint8 array."""
    word = ir.IntType(bits)

    def load_codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element(context, builder, signature.args[0], *arguments)
        value = builder.load(builder.bitcast(pointer, word.as_pointer()), align=1)
        swapped = builder.bswap(value)
        return swapped if bits == 64 else builder.zext(swapped, ir.IntType(64))

    def store_codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element(context, builder, signature.args[0], arguments[0], arguments[1])
        value = arguments[2] if bits == 64 else builder.trunc(arguments[2], word)
        builder.store(builder.bswap(value), builder.bitcast(pointer, word.as_pointer()), align=1)
        return context.get_dummy_value()

    def load(typing_context: Any, data: Any, at: Any) -> Any:
        return types.int64(data, types.int64), load_codegen

    def put(typing_context: Any, data: Any, at: Any, value: Any) -> Any:
        return types.void(data, types.int64, types.int64), store_codegen

    return intrinsic(put if store else load)


@intrinsic  # type: ignore[untyped-decorator]
def _mix(typing_context: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, narrow = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(value, wide) for value in arguments))
        high = builder.lshr(product, ir.Constant(wide, 64))
        return builder.trunc(builder.xor(product, high), narrow)

    return types.int64(types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _assume(typing_context: Any, condition: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.assume(arguments[0])
        return context.get_dummy_value()

    return types.void(types.boolean), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _match_words(typing_context: Any, array: Any, index: Any, shift: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element(context, builder, signature.args[0], arguments[0], arguments[1])
        eight = ir.VectorType(ir.IntType(64), 8)
        words = builder.load(builder.bitcast(pointer, eight.as_pointer()), align=8)
        shifts, values = (_splat(builder, eight, argument) for argument in arguments[2:])
        matches = builder.icmp_unsigned("==", builder.lshr(words, shifts), values)
        return builder.zext(builder.bitcast(matches, ir.IntType(8)), ir.IntType(64))

    return types.int64(array, types.int64, types.int64, types.int64), codegen


def _splat(builder: Any, vector: Any, value: Any) -> Any:
    result = ir.Constant(vector, ir.Undefined)
    for lane in range(vector.count):
        result = builder.insert_element(result, value, ir.IntType(32)(lane))
    return result


@intrinsic  # type: ignore[untyped-decorator]
def _lowest_bit(typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _copy_words(typing_context: Any, target: Any, row: Any, source: Any, other: Any, n: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte_pointer, word = ir.IntType(8).as_pointer(), ir.IntType(64)
        pointers = []
        for at in (0, 2):
            pointer = _element(context, builder, signature.args[at], arguments[at], arguments[at + 1])
            pointers.append(builder.bitcast(pointer, byte_pointer))
        kind = ir.FunctionType(ir.VoidType(), [byte_pointer, byte_pointer, word, ir.IntType(1)])
        copy = cgutils.get_or_insert_function(builder.module, kind, "llvm.memmove.p0.p0.i64")
        builder.call(copy, [*pointers, builder.mul(arguments[4], word(8)), ir.IntType(1)(0)])
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing_context: Any, array: Any, index: Any, byte: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte_pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        pointer = _element(context, builder, signature.args[0], arguments[0], arguments[1])
        address = builder.gep(builder.bitcast(pointer, byte_pointer), [arguments[2]])
        signature_type = ir.FunctionType(ir.VoidType(), [byte_pointer, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, signature_type, "llvm.prefetch.p0")
        builder.call(function, [address, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _load_acquire(typing_context: Any, array: Any, index: Any) -> Any:
    item = array_of(array).dtype

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(pointer, ordering="acquire", align=item.bitwidth // 8)

    return item(array, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _store_release(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    item = array_of(array).dtype

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element(context, builder, signature.args[0], arguments[0], arguments[1])
        builder.store_atomic(arguments[2], pointer, ordering="release", align=item.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, item), codegen


TWINS: dict[int, Any] = {}
"""The plain twins of what this module hands out, by its id(), for `jit.plain`."""


def _choose(real: Any, twin: Any, pointer: bool = True) -> Any:
    if not JIT:
        return twin
    TWINS[id(real)] = twin
    return kernel(twin) if BOUNDSCHECK and pointer else real


mix = _choose(_mix, _mix_twin, pointer=False)
"""`mix(a, b)`: the two halves of the unsigned 128-bit product of two int64 bit patterns, xored (wyhash's step)."""
lowest_bit = _choose(_lowest_bit, _lowest_bit_twin, pointer=False)
"""`lowest_bit(value)`: the place of the lowest bit that is set, 64 when none is."""
match_words = _choose(_match_words, _match_words_twin)
"""`match_words(array, index, shift, value)`: which words w of row `index` of an int64 (n, 8) have w >> shift == value.

The shift is unsigned, and `value` has no more bits than it leaves. Bit j of the result stands for word j; all are
compared at once.
"""
copy_words = _choose(_copy_words, _copy_words_twin)
"""`copy_words(target, row, source, other, n)`: the first n words of a row of an int64 (m, k) array to a row of another.

All are read before one is written, which word by word the compiler could not do: the rows might overlap.
"""
assume = _choose(_assume, _assume_twin)
"""`assume(condition)`: a promise to the compiler, which may build on it; checked by the twin."""
prefetch = _choose(_prefetch, _prefetch_twin)
"""`prefetch(array, index, byte)`: ask for the cache line that holds byte `byte` of `array[index]`. Never faults."""
load_acquire = _choose(_load_acquire, _load_acquire_twin)
"""`load_acquire(array, index)`: atomic load; later reads are not moved before it."""
store_release = _choose(_store_release, _store_release_twin)
"""`store_release(array, index, value)`: atomic store; earlier writes are not moved behind it."""
load_be16 = _choose(_big_endian(16, store=False), _load_be16_twin)
"""`load_be16(data, at)`: network-order uint16 at byte `at` of a uint8 array, as int64; load_be32, load_be64 alike."""
load_be32 = _choose(_big_endian(32, store=False), _load_be32_twin)
load_be64 = _choose(_big_endian(64, store=False), _load_be64_twin)
store_be16 = _choose(_big_endian(16, store=True), _store_be16_twin)
"""`store_be16(data, at, value)`: the low 16 bits of `value`, network order. `store_be32`, `store_be64` alike."""
store_be32 = _choose(_big_endian(32, store=True), _store_be32_twin)
store_be64 = _choose(_big_endian(64, store=True), _store_be64_twin)

"""Every primitive says what Python's own arithmetic says, and so does its twin."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.jit import (
    copy_words,
    kernel,
    load_acquire,
    load_be16,
    load_be32,
    load_be64,
    mix,
    prefetch,
    primitives,
    store_be16,
    store_be32,
    store_be64,
    store_release,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
BUFFER = st.binary(min_size=16, max_size=64)
LOADS = {16: primitives._load_be16_twin, 32: primitives._load_be32_twin, 64: primitives._load_be64_twin}
STORES = {16: primitives._store_be16_twin, 32: primitives._store_be32_twin, 64: primitives._store_be64_twin}


@kernel(example=lambda: (np.zeros(16, np.uint8), 0, 16))
def load(data, at, bits):
    if bits == 16:
        return load_be16(data, at)
    if bits == 32:
        return load_be32(data, at)
    return load_be64(data, at)


@kernel(example=lambda: (np.zeros(16, np.uint8), 0, 16, 0))
def store(data, at, bits, value):
    if bits == 16:
        store_be16(data, at, value)
    elif bits == 32:
        store_be32(data, at, value)
    else:
        store_be64(data, at, value)


@kernel(example=lambda: (0, 0))
def mixed(a, b):
    return mix(a, b)


@kernel(example=lambda: (np.zeros((2, 8), np.int64), np.zeros(2, RECORD), 0))
def fetch(table, records, index):
    prefetch(table, index, 0)
    prefetch(records, index, 64)
    prefetch(records["number"], index, 0)
    return index


@kernel(example=lambda: (np.zeros(2, np.int64), np.zeros(1, np.int64), 0))
def publish(flag, value, n):
    value[0] = n
    store_release(flag, 0, n)


@kernel(example=lambda: (np.zeros(2, np.int64), np.zeros(1, np.int64)))
def observe(flag, value):
    seen = load_acquire(flag, 0)
    return value[0] - seen


RECORD = np.dtype([("number", np.int64), ("rest", np.uint8, 120)], align=True)


@pytest.mark.parametrize("bits", [16, 32, 64])
@given(buffer=BUFFER, data=st.data())
def test_loading_reads_network_order_at_any_byte(bits, buffer, data):
    at = data.draw(st.integers(0, len(buffer) - bits // 8))
    array = np.frombuffer(bytearray(buffer), np.uint8)
    expected = int.from_bytes(buffer[at : at + bits // 8], "big", signed=bits == 64)
    assert load(array, at, bits) == expected
    assert LOADS[bits](array, at) == expected


@pytest.mark.parametrize("bits", [16, 32, 64])
@given(buffer=BUFFER, value=INT64, data=st.data())
def test_storing_writes_network_order_and_nothing_else(bits, buffer, value, data):
    at = data.draw(st.integers(0, len(buffer) - bits // 8))
    low = (value & ((1 << bits) - 1)).to_bytes(bits // 8, "big")
    expected = buffer[:at] + low + buffer[at + bits // 8 :]
    array, twin = (np.frombuffer(bytearray(buffer), np.uint8) for _ in range(2))
    store(array, at, bits, value)
    STORES[bits](twin, at, np.int64(value))
    assert array.tobytes() == expected
    assert twin.tobytes() == expected


@given(a=INT64, b=INT64)
def test_mix_folds_the_unsigned_128_bit_product(a, b):
    product = (a % 2**64) * (b % 2**64)
    expected = (product ^ product >> 64) % 2**64
    assert int(mixed(a, b)) % 2**64 == expected
    assert int(primitives._mix_twin(np.int64(a), np.int64(b))) % 2**64 == expected


def test_prefetch_changes_nothing_and_never_faults():
    table, records = np.arange(16).reshape(2, 8), np.zeros(2, RECORD)
    for index in (0, 1, 1 << 40, -1):
        assert fetch(table, records, index) == index
    assert table.tolist() == np.arange(16).reshape(2, 8).tolist()
    assert not records["number"].any()


def test_what_was_written_before_a_release_is_seen_after_the_acquire():
    flag, value = np.zeros(2, np.int64), np.zeros(1, np.int64)
    rounds = 20_000
    behind = []

    def writer() -> None:
        for n in range(1, rounds + 1):
            publish(flag, value, n)

    publish(flag, value, 0)
    observe(flag, value)  # compiled before the threads start
    thread = threading.Thread(target=writer)
    thread.start()
    while flag[0] < rounds:
        behind.append(observe(flag, value))
    thread.join()
    assert min(behind, default=0) >= 0
    assert (flag[0], value[0]) == (rounds, rounds)


@pytest.mark.parametrize("at", [-1, 15, 1 << 40])
def test_a_twin_refuses_what_leaves_the_array(at):
    data = np.zeros(16, np.uint8)
    for bits in (16, 32, 64):
        with pytest.raises(IndexError):
            LOADS[bits](data, at)
        with pytest.raises(IndexError):
            STORES[bits](data, at, np.int64(0))
    if at != 15:
        with pytest.raises(IndexError):
            primitives._load_acquire_twin(data, at)
        with pytest.raises(IndexError):
            primitives._store_release_twin(data, at, 1)
    assert not data[:15].any()


@kernel(example=lambda: (np.zeros((1, 1), np.int64), 0, np.zeros((1, 1), np.int64), 0, 1))
def copy(target, row, source, other, n):
    copy_words(target, row, source, other, n)


@pytest.mark.parametrize("call", [copy, primitives._copy_words_twin])
def test_words_of_a_row_are_copied_and_no_others(call):
    source = np.arange(20, dtype=np.int64).reshape(4, 5)
    target = np.full((3, 8), -1, np.int64)
    call(target, 1, source, 2, 4)
    assert target[1].tolist() == [10, 11, 12, 13, -1, -1, -1, -1]
    assert (target[[0, 2]] == -1).all()
    call(source, 0, source, 0, 5)
    assert source[0].tolist() == [0, 1, 2, 3, 4]

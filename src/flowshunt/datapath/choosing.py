"""Instructions that few programs have: groups, meters, the stack, and the packet's length."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.fields import read_place
from flowshunt.datapath.program import (
    BAND_BYTES,
    BAND_MOST,
    BAND_PACKETS,
    BAND_RATE,
    BAND_TOKENS,
    BAND_WORDS,
    METER_BANDS,
    METER_BYTES,
    METER_LAST_MS,
    METER_PACKET_UNITS,
    METER_PACKETS,
    METER_WORDS,
    OP_LARGER,
    OP_PUSH,
)
from flowshunt.jit import kernel, mix

_ODD = np.int64(0x1E3779B97F4A7C15)


@kernel(inline=False)
def choose(pool: Any, pc: Any, keys: Any) -> Any:
    """Where the select instruction at `pc` leads keys[0]: to the bucket of the highest score, an END for none.

    A bucket's score is its weight times a hash of the fields and its id (rendezvous hashing, as Open vSwitch's
    ofproto-dpif does it): when a bucket goes, only its own packets are spread over the others.
    """
    instruction = pool[pc]
    h = pool[pc + 1]
    at = pc + 2
    for _ in range((instruction >> 8) & 0xFF):
        h = mix(h ^ keys[0, pool[at]] & pool[at + 1] ^ _ODD, _ODD)
        at += 2
    best = np.int64(-1)
    found = np.int64(0)
    for _ in range(instruction >> 16):
        score = ((mix(h ^ (pool[at] >> 16) + 1, _ODD) >> 20) & 0xFFFF) * (pool[at] & 0xFFFF)
        if score > best:
            best = score
            found = pc + pool[at + 1]
        at += 2
    return found


@kernel(inline=False)
def pass_meter(pool: Any, meter: Any, size: Any, now_ms: Any) -> Any:
    """Count a packet of `size` bytes in a meter; whether it passes all bands. Time that goes back is none."""
    elapsed = max(now_ms - pool[meter + METER_LAST_MS], np.int64(0))
    pool[meter + METER_LAST_MS] += elapsed
    pool[meter + METER_PACKETS] += 1
    pool[meter + METER_BYTES] += size
    cost = pool[meter + METER_PACKET_UNITS]
    if cost == 0:
        cost = 8 * size
    worst = np.int64(-1)
    first = meter + METER_WORDS
    for band in range(first, first + BAND_WORDS * pool[meter + METER_BANDS], BAND_WORDS):
        most = pool[band + BAND_MOST]
        rate = pool[band + BAND_RATE]
        # After so long, the band is full in any case, and the product would be too large.
        tokens = most if rate > 0 and elapsed > most // rate else min(most, pool[band + BAND_TOKENS] + elapsed * rate)
        if tokens >= cost:
            tokens -= cost
        elif worst < 0 or rate > pool[worst + BAND_RATE]:
            worst = np.int64(band)
        pool[band + BAND_TOKENS] = tokens
    if worst < 0:
        return True
    pool[worst + BAND_PACKETS] += 1
    pool[worst + BAND_BYTES] += size
    return False


@kernel(inline=False)
def copy_stack(w: Any) -> Any:
    """Give what runs next a copy of the stack, behind the present one; an empty one when there is no room."""
    base = w.machine["base"][0]
    top = w.machine["top"][0]
    w.machine["base"][0] = top
    if 2 * top - base <= len(w.stack):
        for at in range(base, top):
            w.stack[at + top - base] = w.stack[at]
        w.machine["top"][0] = 2 * top - base


@kernel
def _write_place(keys: Any, place: Any, value: Any) -> Any:
    width = (place >> 16) & 0xFF
    shift = (place >> 8) & 0xFF
    mask = np.int64(-1) if width == 64 else ((np.int64(1) << width) - 1) << shift
    word = place & 0xFF
    keys[0, word] = keys[0, word] & ~mask | (value << shift) & mask


@kernel
def _largest_frame(w: Any, packets: Any, i: Any) -> Any:
    """Bytes of packet i, or of the first of the segments that it will be cut into, as Linux's datapath counts it."""
    size = w.machine["size"][0]
    segment = np.int64(packets["gso_size"][i])
    headers = np.int64(packets["payload"][i])
    return min(size, headers + segment) if segment != 0 and headers != 0 else size


@kernel(inline=False)
def apply_odd(w: Any, b: Any, i: Any, instruction: Any) -> Any:
    """Run OP_LARGER, OP_PUSH or OP_POP for packet i of `b` on keys[0]; False when the stack is full.

    An empty one gives nothing.
    """
    op = instruction & 0xFF
    if op == OP_LARGER:
        larger = _largest_frame(w, b.packets, i) > instruction >> 32
        _write_place(w.keys, (instruction >> 8) & 0xFFFF | 1 << 16, np.int64(1 if larger else 0))
        return True
    low = (instruction >> 8) & 0xFFFFFF
    high = instruction >> 32
    top = w.machine["top"][0]
    if op == OP_PUSH:
        if top + 2 > len(w.stack):
            return False
        w.stack[top] = read_place(w.keys, np.int64(0), high)
        w.stack[top + 1] = read_place(w.keys, np.int64(0), low)
        w.machine["top"][0] = top + 2
        return True
    if top > w.machine["base"][0]:
        w.machine["top"][0] = top - 2
        w.machine["dirty"][0] = 1
        _write_place(w.keys, low, w.stack[top - 1])
        if high != 0:
            _write_place(w.keys, high, w.stack[top - 2])
    return True

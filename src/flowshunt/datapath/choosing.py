"""Instructions of groups and meters: which bucket a packet goes to, and whether it passes."""

from __future__ import annotations

from typing import Any

import numpy as np

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

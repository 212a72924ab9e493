"""Everything that the packet layer makes of mutated packets, as one hash; run in several modes, the hashes agree.

    python digest.py SEED N

Each packet lies at the very end of its buffer, so with bounds checks on, a read beyond it raises.
"""

from __future__ import annotations

import hashlib
import random
import sys

import numpy as np

from flowshunt.packet.emit import rewrite_one
from flowshunt.packet.parse import parse_batch
from flowshunt.packet.schema import HEADER_WORDS
from tests.builders import batch_of
from tests.packet.kernels import Parsed, checksums_ok, keys_of, quoted
from tests.packet.samples import mutants


def digest(seed: int, n: int) -> str:
    """The hash over `n` mutants."""
    chance = random.Random(seed)
    sink = hashlib.blake2b(digest_size=16)
    for frame in mutants(seed, n):
        data, packets = batch_of([chance.randbytes(chance.randrange(12)), frame])
        data, packets = data.copy(), packets[1:].copy()
        keys, inner = keys_of(1), keys_of(1)
        parse_batch(data, packets, keys, 1)
        found = bool(quoted(data, packets.copy(), 0, inner, 0, 0))
        ok = checksums_ok(Parsed(data, packets, keys))
        sink.update(repr((keys[0].tolist(), packets.tolist(), found, inner[0].tolist() if found else (), ok)).encode())
        changed = keys.copy()
        for _ in range(chance.choice((0, 1, 4))):
            changed[0, chance.randrange(HEADER_WORDS)] ^= chance.randrange(-(2**63), 2**63)
        out = np.full(len(frame) + chance.choice((-1, 0, 4, 8)), 0xEE, np.uint8) if frame else np.zeros(8, np.uint8)
        length = int(rewrite_one(data, packets, 0, changed, 0, keys, out, 0))
        sink.update(repr((length, out.tobytes())).encode())
    return sink.hexdigest()


if __name__ == "__main__":
    print(digest(int(sys.argv[1]), int(sys.argv[2])))

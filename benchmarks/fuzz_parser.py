"""Fuzz the packet kernels with mutated packets of captures, bounds checking on.

    python benchmarks/fuzz_parser.py [CAPTURE ...] [-n 10000000] [--seed 1]

Every packet is mutated inside a kernel (bits flipped, bytes set, cut, extended, lengths and protocols changed,
spliced with another packet) and then parsed, its quoted packet parsed, its checksums verified, and rewritten with
random changes of its key; the result is parsed again. The packet lies at the very end of its buffer, and the output
buffer ends where the output may end, so that with bounds checks every access beyond them raises. Besides, the kernel
checks what the parser and `rewrite` promise: offsets, unchanged frames, keys that come back. Captures: classic pcap,
Ethernet; by default all of ../shared/captures. Exit status 1 when a promise was broken, or with a traceback on an
access out of bounds.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("FLOWSHUNT_BOUNDSCHECK", "1")
ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "src").is_dir():
    sys.path.insert(0, str(ROOT / "src"))

import numpy as np  # noqa: E402

from flowshunt.jit import BOUNDSCHECK, JIT, kernel, mix  # noqa: E402
from flowshunt.packet.checksum import checksum, ip_checksum_ok, l4_checksum_ok  # noqa: E402
from flowshunt.packet.emit import is_changed, rewrite  # noqa: E402
from flowshunt.packet.parse import parse  # noqa: E402
from flowshunt.packet.quoted import parse_quoted  # noqa: E402
from flowshunt.packet.schema import (  # noqa: E402
    HEADER_WORDS,
    KEY_WORDS,
    PACKET,
    PROTO_TCP,
    PROTO_UDP,
    VERDICT_OK,
    VERDICTS,
    W_ETH_DST,
    W_ETH_SRC,
    W_L4,
    W_NW_DST,
    W_NW_SRC,
)

ROOM = 2048
"""Bytes of the packet buffer; longer packets are cut."""
CHUNK = 100_000
_ORDERS = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">"}

STATE = np.dtype(
    [
        ("random", np.int64),
        ("bytes", np.int64),
        ("quoted", np.int64),
        ("rewritten", np.int64),
        ("refused", np.int64),
        ("checksum_ok", np.int64),
        ("broken", np.int64),  # promises not kept
        ("broken_kind", np.int64),  # which one, last
        ("broken_packet", np.int64),
        ("verdict", np.int64, len(VERDICTS)),
    ]
)
_STEP = 0x1E3779B97F4A7C15
_MULTIPLIER = 0x3F58476D1CE4E5B9
_LOW62 = 0x3FFFFFFFFFFFFFFF


@kernel(inline=False)
def draw(state: Any, below: Any) -> Any:
    """A random number in [0, below)."""
    seed = ((state["random"][0] & _LOW62) + _STEP) & _LOW62
    state["random"][0] = seed
    return (mix(seed ^ _STEP, _MULTIPLIER ^ (seed << 1)) & 0x7FFFFFFFFFFF) % below


@kernel(inline=False)
def draw_word(state: Any) -> Any:
    """64 random bits."""
    return (draw(state, 1 << 32) << 32) ^ draw(state, 1 << 32)


@kernel(inline=False)
def interesting(state: Any) -> Any:
    """A byte that headers take seriously, or any other."""
    kind = draw(state, 6)
    if kind == 0:
        return np.int64(0)
    if kind == 1:
        return np.int64(0xFF)
    if kind == 2:
        return np.int64(1) << draw(state, 8)
    if kind == 3:
        protocols = (0, 1, 6, 17, 43, 44, 51, 58, 60, 132)
        return np.int64(protocols[draw(state, 10)])
    return draw(state, 256)


@kernel(inline=False)
def pick(corpus: Any, starts: Any, state: Any, frame: Any) -> Any:
    """Copy a random packet of the corpus to the front of `frame`; returns its length."""
    n = draw(state, starts.shape[0] - 1)
    length = min(starts[n + 1] - starts[n], np.int64(ROOM))
    for at in range(length):
        frame[at] = corpus[starts[n] + at]
    return length


@kernel(inline=False)
def mutate(corpus: Any, starts: Any, state: Any, frame: Any, length: Any) -> Any:
    """One mutation of frame[:length]; returns the new length."""
    kind = draw(state, 8)
    if length == 0:
        kind = np.int64(3)
    if kind == 0:
        at = draw(state, length)
        frame[at] = frame[at] ^ (1 << draw(state, 8))
    elif kind == 1:
        frame[draw(state, length)] = interesting(state)
    elif kind == 2:
        return draw(state, length)
    elif kind == 3:
        more = min(draw(state, 64), ROOM - length)
        for at in range(length, length + more):
            frame[at] = draw(state, 256)
        return length + more
    elif kind == 4:
        other = draw(state, starts.shape[0] - 1)
        size = min(starts[other + 1] - starts[other], np.int64(ROOM))
        for at in range(draw(state, length), size):
            frame[at] = corpus[starts[other] + at]
        return max(size, length)
    elif kind == 5:
        # Where the lengths of IPv4, UDP, IPv6, TCP and extension headers usually are.
        places = (14, 16, 17, 18, 19, 20, 38, 39, 46, 54, 55, 58, 66, 67)
        at = np.int64(places[draw(state, 14)])
        if at < length:
            frame[at] = interesting(state)
    elif kind == 6:
        frame[min(np.int64(draw(state, 80)), length - 1)] = interesting(state)
    else:
        at = draw(state, length)
        source = draw(state, length)
        size = min(draw(state, 40), length - max(at, source))
        for n in range(size):
            frame[at + n] = frame[source + n]
    return length


@kernel(inline=False)
def change_key(state: Any, keys: Any) -> Any:
    """Change row 1 of keys, a copy of row 0, in up to four random words."""
    for word in range(HEADER_WORDS):
        keys[1, word] = keys[0, word]
    for _ in range(draw(state, 5)):
        word = draw(state, HEADER_WORDS)
        keys[1, word] = draw_word(state) if draw(state, 2) == 0 else keys[1, word] ^ (np.int64(1) << draw(state, 63))


@kernel(inline=False)
def translate_key(state: Any, packets: Any, keys: Any) -> Any:
    """Row 1 of keys: row 0 with other addresses, ports, TTL and MACs, where the packet has them."""
    for word in range(HEADER_WORDS):
        keys[1, word] = keys[0, word]
    keys[1, W_ETH_DST] = (draw_word(state) & ~0xFFFF) | (keys[0, W_ETH_DST] & 0xFFFF)
    keys[1, W_ETH_SRC] = (draw_word(state) & ~0xFFFF) | (keys[0, W_ETH_SRC] & 0xFFFF)
    if packets["family"][0] == 4:
        keys[1, W_NW_SRC + 1] = draw(state, 1 << 32)
        keys[1, W_NW_DST + 1] = draw(state, 1 << 32)
    elif packets["family"][0] == 6:
        for word in range(4):
            keys[1, W_NW_SRC + word] = draw_word(state)
    else:
        return
    protocol = (keys[0, W_L4] >> 24) & 0xFF
    keys[1, W_L4] = (keys[1, W_L4] & ~0xFFFF00) | (draw(state, 0x10000) << 8)
    if packets["l4"][0] != 0 and (protocol == PROTO_TCP or protocol == PROTO_UDP):
        keys[1, W_L4] = (keys[1, W_L4] & 0xFFFFFFFF) | (draw(state, 1 << 32) << 32)


@kernel(inline=False)
def read(data: Any, packets: Any, i: Any, keys: Any, k: Any) -> Any:
    """`parse` as a call, which keeps the time to compile low."""
    parse(data, packets, i, keys, k)


@kernel(inline=False)
def sums(data: Any, packets: Any, i: Any, keys: Any, k: Any) -> Any:
    """Whether the checksums of packet i are right: 1 the IP header's, 2 the transport's, 3 both."""
    ip = np.int64(1) if ip_checksum_ok(data, packets, i) else np.int64(0)
    return ip + 2 if l4_checksum_ok(data, packets, i, keys, k) else ip


@kernel(inline=False)
def check_offsets(packets: Any) -> Any:
    """0, or the number of a promise of the parser that packet 0 breaks."""
    length = np.int64(packets["length"][0])
    l3 = np.int64(packets["l3"][0])
    l4 = np.int64(packets["l4"][0])
    l3_end = np.int64(packets["l3_end"][0])
    payload = np.int64(packets["payload"][0])
    family = packets["family"][0]
    if l3 > length or l4 > l3_end or l3_end > length or payload > l3_end:
        return 1
    if (family == 4 and l3 + 20 > length) or (family == 6 and l3 + 40 > length):
        return 2
    if l4 != 0 and (family == 0 or l4 < l3 + 20):
        return 3
    if packets["verdict"][0] == VERDICT_OK and payload != 0 and l4 == 0:
        return 4
    return 0


@kernel(inline=False)
def note(state: Any, kind: Any, packet: Any) -> Any:
    if kind != 0:
        state["broken"][0] += 1
        state["broken_kind"][0] = kind
        state["broken_packet"][0] = packet


@kernel(inline=False)
def check_any_key(state: Any, data: Any, packets: Any, keys: Any, out: Any) -> Any:
    """Rewrite packet 0 with a key changed anywhere, near the end of `out`, where it may or may not fit."""
    change_key(state, keys)
    start = out.shape[0] - np.int64(packets["length"][0]) - draw(state, 12) + 3
    length = rewrite(data, packets, 0, keys, 1, keys, out, max(start, np.int64(0)))
    if length < 0:
        state["refused"][0] += 1
    elif is_changed(keys, 1, keys, 0):
        state["rewritten"][0] += 1


@kernel(inline=False)
def check_own_key(data: Any, packets: Any, keys: Any, out: Any, start: Any) -> Any:
    """Rewrite packet 0 with its own key: 0 when its bytes come out, else the number of a broken promise."""
    length = np.int64(packets["length"][0])
    if rewrite(data, packets, 0, keys, 0, keys, out, start) != length:
        return 5
    for n in range(length):
        if out[start + n] != data[packets["data"][0] + n]:
            return 6
    return 0


@kernel(inline=False)
def check_translated(state: Any, data: Any, packets: Any, keys: Any, out: Any, start: Any) -> Any:
    """Rewrite packet 0 with other addresses and parse the result: 0, or the number of a broken promise."""
    translate_key(state, packets, keys)
    packets["data"][1] = start
    packets["length"][1] = rewrite(data, packets, 0, keys, 1, keys, out, start)
    packets["checksum"][1] = 0
    read(out, packets, 1, keys, 2)
    for word in range(HEADER_WORDS):
        if keys[1, word] != keys[2, word]:
            return 7
    if packets["verdict"][0] != packets["verdict"][1]:
        return 8
    if packets["checksum"][0] != 0:
        return 0
    changed = sums(data, packets, 0, keys, 0) ^ sums(out, packets, 1, keys, 2)
    if changed & 1 != 0:
        return 9
    # A checksum of zero in UDP over IPv6 and a routed destination are left out: there, wrong may turn right.
    is_udp6 = (keys[0, W_L4] >> 24) & 0xFF == PROTO_UDP and packets["family"][0] == 6
    return 10 if changed != 0 and packets["options"][0] == 0 and not is_udp6 else 0


@kernel(inline=False)
def check_rewrite(state: Any, data: Any, packets: Any, keys: Any, out: Any) -> Any:
    """What `rewrite` makes of packet 0: 0, or the number of a broken promise."""
    check_any_key(state, data, packets, keys, out)
    start = out.shape[0] - np.int64(packets["length"][0])
    kind = check_own_key(data, packets, keys, out, start)
    if kind != 0 or np.int64(packets["length"][0]) < 14:
        return kind
    return check_translated(state, data, packets, keys, out, start)


def _example() -> tuple[Any, ...]:
    byte, word = np.zeros(8, np.uint8), np.zeros(2, np.int64)
    return (
        byte,
        word,
        np.zeros(1, STATE),
        byte,
        byte,
        byte,
        np.zeros(2, PACKET),
        np.zeros((4, KEY_WORDS), np.int64),
        0,
        0,
    )


@kernel(example=_example)
def fuzz(
    corpus: Any, starts: Any, state: Any, frame: Any, data: Any, out: Any, packets: Any, keys: Any, first: Any, n: Any
) -> None:
    """Packets [first, first + n) of the run. keys rows: parsed, wanted, parsed again, quoted."""
    for packet in range(first, first + n):
        length = pick(corpus, starts, state, frame)
        for _ in range(draw(state, 6)):
            length = mutate(corpus, starts, state, frame, length)
        start = data.shape[0] - length
        for at in range(length):
            data[start + at] = frame[at]
        packets["data"][0] = start
        packets["length"][0] = length
        packets["wire_length"][0] = length
        packets["checksum"][0] = 0
        read(data, packets, 0, keys, 0)
        state["bytes"][0] += length
        state["verdict"][0, np.int64(packets["verdict"][0])] += 1
        note(state, check_offsets(packets), packet)
        state["quoted"][0] += np.int64(parse_quoted(data, packets, 0, keys, 3, 1))
        if sums(data, packets, 0, keys, 0) == 3:
            state["checksum_ok"][0] += 1
        edge = draw(state, length + 1)
        state["random"][0] ^= checksum(data, start + edge, start + length, 0)
        if draw(state, 16) == 0:
            packets["checksum"][0] = 2
        note(state, check_rewrite(state, data, packets, keys, out), packet)


def read_corpus(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The packets of classic pcap files: bytes (uint8), and starts with the end as the last (int64)."""
    frames: list[bytes] = []
    for path in paths:
        content = path.read_bytes()
        order = _ORDERS.get(content[:4])
        if order is None:
            raise SystemExit(f"{path}: not a classic pcap file")
        at = 24
        while at + 16 <= len(content):
            (captured,) = struct.unpack_from(f"{order}I", content, at + 8)
            frames.append(content[at + 16 : at + 16 + captured])
            at += 16 + captured
    starts = np.zeros(len(frames) + 1, np.int64)
    starts[1:] = np.cumsum([len(frame) for frame in frames])
    return np.frombuffer(b"".join(frames), np.uint8).copy(), starts


def run(corpus: np.ndarray, starts: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Fuzz with n packets; returns the state record."""
    state = np.zeros(1, STATE)
    state["random"] = seed
    buffers = [np.zeros(ROOM, np.uint8) for _ in range(3)]
    packets, keys = np.zeros(2, PACKET), np.zeros((4, KEY_WORDS), np.int64)
    began = time.monotonic()
    for first in range(0, n, CHUNK):
        fuzz(corpus, starts, state, *buffers, packets, keys, first, min(CHUNK, n - first))
        done = min(first + CHUNK, n)
        rate = done / max(time.monotonic() - began, 1e-9)
        print(f"\r{done:,} of {n:,} packets, {rate / 1e6:.2f} million a second", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return state


def main() -> int:
    """Run and print one line of summary; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description="Fuzz the packet kernels with mutated packets, bounds checking on.")
    parser.add_argument("captures", nargs="*", type=Path, metavar="CAPTURE", help="classic pcap files")
    parser.add_argument("-n", type=int, default=10_000_000, help="packets (default 10 million)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    captures = arguments.captures or sorted((ROOT.parent / "shared" / "captures").glob("*.pcap"))
    if not captures:
        parser.error("no captures given, and none in ../shared/captures")
    corpus, starts = read_corpus(captures)
    if len(starts) < 2:
        parser.error("no packets in the captures")
    state = run(corpus, starts, arguments.n, arguments.seed)
    verdicts = " ".join(f"{name}={count}" for name, count in zip(VERDICTS, state["verdict"][0], strict=True))
    mode = "bounds checked" if BOUNDSCHECK or not JIT else "bounds NOT checked"
    counters = " ".join(f"{name}={state[name][0]}" for name in STATE.names[1:7])
    print(
        f"{arguments.n} packets from {len(starts) - 1} of {len(captures)} captures, seed {arguments.seed}, {mode}: "
        f"{counters} {verdicts}"
    )
    if state["broken"][0]:
        where = f"promise {state['broken_kind'][0]} broken by packet {state['broken_packet'][0]}"
        print(f"{where}, {state['broken'][0]} in all", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

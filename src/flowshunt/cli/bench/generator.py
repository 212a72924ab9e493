"""Floods eth0 with 60-byte UDP frames; a program that starts quickly, so it stays clear of numpy.

    generator SOURCE_MAC TARGET_MAC SOURCE TARGET N_FLOWS SECONDS PROCESSOR

It sends frames of flows at random as fast as the kernel makes them, on one processor: a BPF program of its own is run
on copies of a frame and redirects them to eth0 (BPF_F_TEST_XDP_LIVE_FRAMES), which takes a fraction of the time of a
system call. The other end of eth0 must have generic receive offload on, to take frames in that form. It prints how many
frames it sent, in how many seconds, and how many of those it had the processor.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

from flowshunt.base.bpf import XDP, instruction, load_program, run_live
from flowshunt.cli.bench.frames import FIRST_PORT, PORTS, SECOND_PORT, SIZE, frame, ports_of

_HEADERS_SIZE = 44
"""Whole words that hold all headers."""
_FEW = 1 << 17
"""Frames of the first call. Each call ends in a wait of some 20 ms for all readers of RCU, so the next are larger."""
_LARGE_S = 0.25

_HELPER_RANDOM, _HELPER_REDIRECT = 7, 23


def _program(ifindex: int, n_flows: int, headers: bytes) -> bytes:
    """Give the frame its headers, with the ports of a random flow, and send it on a device.

    All of them: it is one that was sent before, and who forwarded it may have changed it in place.
    """
    fill = [
        instruction(0x62, 2, offset=at, value=struct.unpack_from("<i", headers, at)[0])
        for at in range(0, len(headers), 4)
    ]
    choose = [
        instruction(0xBF, 6, 1),  # r6 = context
        instruction(0x85, value=_HELPER_RANDOM),
        instruction(0x97, 0, value=n_flows),  # r0 %= flows
        instruction(0xBF, 7, 0),
        instruction(0x37, 7, value=PORTS),  # r7 = SECOND_PORT + r0 / PORTS
        instruction(0x07, 7, value=SECOND_PORT),
        instruction(0x97, 0, value=PORTS),  # r0 = FIRST_PORT + r0 % PORTS
        instruction(0x07, 0, value=FIRST_PORT),
        instruction(0xDC, 0, value=16),  # in network byte order
        instruction(0xDC, 7, value=16),
        instruction(0x61, 2, 6, 0),  # r2 = data, r3 = its end
        instruction(0x61, 3, 6, 4),
        instruction(0xBF, 4, 2),
        instruction(0x07, 4, value=SIZE),
        instruction(0x2D, 4, 3, len(fill) + 2),  # too short: leave it as it is
        *fill,
        instruction(0x6B, 2, 0, 34),
        instruction(0x6B, 2, 7, 36),
    ]
    leave = [
        instruction(0xB7, 1, value=ifindex),
        instruction(0xB7, 2),
        instruction(0x85, value=_HELPER_REDIRECT),
        instruction(0x95),
    ]
    return b"".join(choose + leave)


def flood(
    source_mac: str, target_mac: str, source: str, target: str, n_flows: str, seconds: str, processor: str
) -> None:
    """As many frames as the kernel makes in the time."""
    os.sched_setaffinity(0, {int(processor)})
    content = frame(source_mac, target_mac, source, target, ports_of(0))
    code = _program(socket.if_nametoindex("eth0"), int(n_flows), content[:_HEADERS_SIZE])
    program = load_program(code, "GPL", "flood", XDP)
    n, times = 0, _FEW
    start, start_cpu = time.monotonic(), time.process_time()
    while (began := time.monotonic()) - start < float(seconds):
        run_live(program, content, times)
        n += times
        if time.monotonic() - began < _LARGE_S:
            times *= 2
    print(n, time.monotonic() - start, time.process_time() - start_cpu)


if __name__ == "__main__":
    flood(*sys.argv[1:])

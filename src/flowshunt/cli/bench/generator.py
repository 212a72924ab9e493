"""Sends 60-byte UDP frames; a program that starts quickly, so it stays clear of numpy.

    generator introduce SOURCE_MAC TARGET_MAC SOURCE TARGET SIDE N_FLOWS
    generator flood     SOURCE_MAC TARGET_MAC SOURCE TARGET N_FLOWS SECONDS PROCESSOR

`introduce` sends one frame of each flow on eth0, slowly enough that a switch can take all of them; side 1 answers side
0. `flood` sends frames of flows at random as fast as the kernel makes them, on one processor: a BPF program of its own
is run on copies of a frame and redirects them to eth0 (BPF_F_TEST_XDP_LIVE_FRAMES), which takes a fraction of the time
of a system call. The other end of eth0 must have generic receive offload on, to take frames in that form. It prints
how many frames it sent, and in how many seconds.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from ipaddress import IPv4Address

from flowshunt.base.bpf import XDP, instruction, load_program, run_live

SIZE = 60
FIRST_PORT, SECOND_PORT = 1000, 2000
PORTS = 50_000
"""Flows that differ in the first port alone; each further round has another second port."""
_HEADERS_SIZE = 44
"""Whole words that hold all headers."""
_BURST = 128
_BURST_S = 0.0008
_REPEAT = 1 << 14

_HELPER_RANDOM, _HELPER_REDIRECT = 7, 23


def frame(source_mac: str, target_mac: str, source: str, target: str, ports: tuple[int, int]) -> bytes:
    """An Ethernet frame of SIZE bytes with a UDP datagram without a checksum."""
    macs = bytes.fromhex((target_mac + source_mac).replace(":", ""))
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    header = struct.pack(">BBHHHBBH", 0x45, 0, SIZE - 14, 0, 0x4000, 64, 17, 0) + addresses
    total = sum(struct.unpack(">10H", header)) % 0xFFFF
    header = header[:10] + struct.pack(">H", 0xFFFF - total) + header[12:]
    return macs + b"\x08\x00" + header + struct.pack(">HHHH", *ports, SIZE - 34, 0) + bytes(SIZE - 42)


def ports_of(flow: int) -> tuple[int, int]:
    """Source and destination port of a flow, as side 0 sends it."""
    return FIRST_PORT + flow % PORTS, SECOND_PORT + flow // PORTS


def introduce(source_mac: str, target_mac: str, source: str, target: str, side: str, n_flows: str) -> None:
    """One frame of each flow."""
    base = bytearray(frame(source_mac, target_mac, source, target, (0, 0)))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("eth0", 0))
        due = time.monotonic()
        for flow in range(int(n_flows)):
            if flow % _BURST == 0:
                due += _BURST_S
                time.sleep(max(due - time.monotonic(), 0))
            ports = ports_of(flow)
            struct.pack_into(">HH", base, 34, *(ports if side == "0" else ports[::-1]))
            link.send(base)


# --- the flood -------------------------------------------------------------------------------------------------------


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
    n = 0
    start = time.monotonic()
    while time.monotonic() - start < float(seconds):
        run_live(program, content, _REPEAT)
        n += _REPEAT
    print(n, time.monotonic() - start)


if __name__ == "__main__":
    if sys.argv[1] == "introduce":
        introduce(*sys.argv[2:])
    else:
        flood(*sys.argv[2:])
